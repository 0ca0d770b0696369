"""A node with gateways, and what the tests of gateways on real sockets share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from handle_world import eventually, in_thread

import zmqkit
from zmqkit.gateways.mdp import Mdp
from zmqkit.gateways.ppp import Ppp
from zmqkit.handles import gateways

ANY = "tcp://127.0.0.1:0"
QUICK = 0.1  # seconds between heartbeats, where a test waits for missing ones


class GatewayNode(zmqkit.Node):
    def __init__(self, *endpoints: str, mdp: str = ANY, ppp: tuple[str, str] = (ANY, ANY), **options: Any) -> None:
        super().__init__(*(endpoints or (ANY,)), mdp=mdp, ppp=ppp, **options)
        (self.mdp,), (self.front, self.back) = self.gateways["mdp"], self.gateways["ppp"]

    def again(self) -> GatewayNode:
        """Another one at the same places, once this one is closed."""
        return GatewayNode(*self.endpoints, mdp=self.mdp, ppp=(self.front, self.back))


@contextmanager
def serving(peer: Any, threads: int = 4, **services: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """These native services, until the end."""
    with ExitStack() as stack:
        handles = [stack.enter_context(peer.service(name, function)) for name, function in services.items()]
        stack.callback(peer.serve(threads=threads, block=False).stop)
        yield handles


def quick(monkeypatch: pytest.MonkeyPatch, request_seconds: float = 10.0) -> None:
    """Nodes made from now on notice a silent worker within three QUICK."""
    options = {"beat_seconds": QUICK, "expiry_seconds": 3 * QUICK, "request_seconds": request_seconds}
    monkeypatch.setattr(gateways, "Mdp", partial(Mdp, **options))
    monkeypatch.setattr(gateways, "Ppp", partial(Ppp, **options))


def serves(node: zmqkit.Node, service: str) -> bool:
    """Does anybody offer it now?"""
    assert node._reactor._host is not None
    return node._reactor._host.machine.serves(service)


def until_served(node: zmqkit.Node, service: str) -> None:
    eventually(lambda: serves(node, service))


__all__ = ["ANY", "QUICK", "GatewayNode", "eventually", "in_thread", "quick", "serves", "serving", "until_served"]
