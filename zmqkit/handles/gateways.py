"""Gateways beside a node: doors for the ZeroMQ Guide's clients and workers, and links of ours to the Guide's brokers."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from zmqkit.bridge import Bridge, OutwardBridge
from zmqkit.errors import Unreachable
from zmqkit.gateways.mdp import Mdp
from zmqkit.gateways.mdp_link import MdpClientLink, MdpWorkerLink
from zmqkit.gateways.outward import OutwardLink
from zmqkit.gateways.ppp import Ppp
from zmqkit.gateways.ppp_link import PppClientLink, PppWorkerLink
from zmqkit.sockets import check_address

if TYPE_CHECKING:
    from zmqkit.machines.node import NodeMachine
    from zmqkit.ports import GatewayPort
    from zmqkit.reactor import Reactor

SCHEMES = ("mdp", "ppp")


def open_mdp(reactor: Reactor, machine: NodeMachine, endpoint: str) -> list[str]:
    """7/MDP and 18/MDP at one endpoint; returns the real one."""
    bridge = Bridge(reactor.wake, machine.serves)
    bridge.translator = Mdp(bridge, salt=os.urandom(16))
    return _open(reactor, bridge, [endpoint])


def open_ppp(reactor: Reactor, machine: NodeMachine, frontend: str, backend: str) -> list[str]:
    """6/PPP: clients at `frontend`, workers at `backend`; returns the real ones."""
    bridge = Bridge(reactor.wake, machine.serves)
    bridge.translator = Ppp(bridge, salt=os.urandom(16))
    return _open(reactor, bridge, [frontend, backend])


def _open(reactor: Reactor, bridge: Bridge, endpoints: list[str]) -> list[str]:
    port, bound = reactor.attach_gateway(bridge, endpoints)
    bridge.deliver = port.doors.deliver
    return bound


def is_foreign(endpoint: str) -> bool:
    """mdp://HOST:PORT or ppp://HOST:PORT?"""
    return endpoint.partition("://")[0] in SCHEMES


def link_worker(reactor: Reactor, endpoint: str, service: str) -> None:
    """Serve at the foreign broker what this process serves under that name."""
    _link(reactor, endpoint, lambda bridge: (MdpWorkerLink if _scheme(endpoint) == "mdp" else _ppp_worker)(bridge, service))


def link_client(reactor: Reactor, endpoint: str, service: str) -> None:
    """Offer in this process what the foreign broker serves under that name."""
    _link(reactor, endpoint, lambda bridge: (MdpClientLink if _scheme(endpoint) == "mdp" else PppClientLink)(bridge, service))


def _ppp_worker(bridge: Bridge, service: str) -> PppWorkerLink:
    return PppWorkerLink(bridge, service, lambda: b"zmqkit-" + os.urandom(8).hex().encode())


def _scheme(endpoint: str) -> str:
    return endpoint.partition("://")[0]


def _link(reactor: Reactor, endpoint: str, make: Callable[[Bridge], OutwardLink]) -> None:
    address = "tcp://" + endpoint.partition("://")[2]
    try:
        check_address(address)
    except Unreachable as error:
        raise Unreachable(endpoint, error.reason, "give one like mdp://127.0.0.1:5555") from None
    bridge = OutwardBridge(reactor.wake, lambda service: False)
    bridge.translator = bridge.link = make(bridge)
    port: GatewayPort = reactor.attach_outward(bridge)
    bridge.deliver = port.doors.deliver
    bridge.reopen = partial(reactor.reopen, port, address)
