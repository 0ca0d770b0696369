"""Nodes in this process, each behind a proxy so that it can be cut off, and a client of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from handle_world import SOON, eventually
from proxy import Proxy, proxy_to

import zmqkit
from zmqkit.handles.session import Session


class Site:
    """A node that can be cut off, and joined again."""

    def __init__(self, node: zmqkit.Node, proxy: Proxy) -> None:
        self.node, self.proxy, self.endpoint = node, proxy, proxy.endpoint
        self._target = proxy._target
        self.id = node._nodes.sessions[0].node

    def cut_off(self) -> None:
        self.proxy._target = ("127.0.0.1", 9)  # nobody listens there
        self.proxy.cut()

    def join(self) -> None:
        self.proxy._target = self._target

    def put(self, queue: str, *bodies: Any) -> None:
        self.node.queue(queue).put_many(bodies)

    def bodies(self, queue: str) -> list[Any]:
        return [peeked.body for peeked in self.node.queue(queue).peek(10_000)]


@contextmanager
def several(count: int = 2) -> Iterator[list[Site]]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(zmqkit.Node("tcp://127.0.0.1:0")) for _ in range(count)]
        yield [Site(node, stack.enter_context(proxy_to(node.endpoint))) for node in nodes]


@contextmanager
def client_of(sites: Sequence[Site], spread: bool = False) -> Iterator[zmqkit.Client]:
    with zmqkit.connect(*[site.endpoint for site in sites], spread=spread) as mq:
        all_up(mq)
        yield mq


@contextmanager
def client_of_none(spread: bool = True) -> Iterator[zmqkit.Client]:
    """One whose nodes are still to be found."""
    with zmqkit.Client([], None, True, spread) as mq:
        mq._nodes.begin()
        yield mq


def on_io_thread(mq: zmqkit.Client, function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    mq._nodes.reactor.call(lambda moment: found.append(function()))
    eventually(lambda: found)
    return found[0]


def add(mq: zmqkit.Client, site: Site, name: str = "") -> Session:
    return on_io_thread(mq, lambda: mq._nodes.add(site.endpoint, name, site.id))  # type: ignore[no-any-return]


def all_up(mq: zmqkit.Client) -> None:
    eventually(lambda: mq._nodes.sessions and all(session.is_up for session in mq._nodes.sessions))


def up(mq: zmqkit.Client, site: Site, wanted: bool = True) -> None:
    eventually(lambda: any(session.is_up is wanted for session in mq._nodes.sessions if session.endpoint == site.endpoint))


__all__ = ["SOON", "Site", "add", "all_up", "client_of", "client_of_none", "eventually", "on_io_thread", "several", "up"]
