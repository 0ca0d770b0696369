"""Gateways beside a node: doors for the ZeroMQ Guide's clients and workers, and links of ours to the Guide's brokers and servers."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from zmqkit.bridge import Bridge, OutwardBridge
from zmqkit.clone_bridge import CloneBridge
from zmqkit.clone_outward import Follower, Setter
from zmqkit.errors import Unreachable
from zmqkit.gateways.chp import HUGZ
from zmqkit.gateways.desk import Translator
from zmqkit.gateways.mdp import Mdp
from zmqkit.gateways.mdp_link import MdpClientLink, MdpWorkerLink
from zmqkit.gateways.outward import OutwardLink
from zmqkit.gateways.ppp import Ppp
from zmqkit.gateways.ppp_link import PppClientLink, PppWorkerLink
from zmqkit.handles.names import topic_name
from zmqkit.sockets import (
    FOREIGN_FRAMES_MAX,
    Context,
    Socket,
    check_address,
    open_clone_doors,
    open_clone_follower,
    open_clone_setter,
    open_foreign_link,
    open_foreign_routers,
)  # fmt: skip
from zmqkit.wire import TOPIC_MARK

if TYPE_CHECKING:
    from zmqkit.machines.node import NodeMachine
    from zmqkit.ports import GatewayPort
    from zmqkit.reactor import Reactor

SCHEMES = ("mdp", "ppp", "clone")
PATIENT_SECONDS = 86400.0
PORT_MAX = 65535
BODY_FRAMES_MAX = FOREIGN_FRAMES_MAX - 10  # what 7/MDP puts before a body is less


class Gateways:
    """Those of one node. They are opened before its reactor starts."""

    def __init__(self, reactor: Reactor, machine: NodeMachine) -> None:
        self._reactor, self._machine = reactor, machine
        self._bridges: dict[str, Bridge | CloneBridge] = {}
        self.endpoints: dict[str, list[str]] = {}  # the real ones

    def open(self, mdp: str | None, ppp: tuple[str, str] | None, clone: str | None, clone_topic: str) -> None:
        """7/MDP and 18/MDP at one endpoint, 6/PPP at one for clients and one for workers, 12/CHP at one and the next two ports.

        Raises AddressInUse, Error.
        """
        if mdp is not None:
            self._open("mdp", lambda bridge: Mdp(bridge, salt=os.urandom(16)), [mdp])
        if ppp is not None:
            self._open("ppp", lambda bridge: Ppp(bridge, salt=os.urandom(16)), list(ppp))
        if clone is not None:
            self._open_clone(clone, clone_topic)

    def _open(self, name: str, make: Callable[[Bridge], Translator], endpoints: list[str]) -> None:
        bridge = self._bridges[name] = Bridge(name, self._reactor.wake, self._machine.serves)
        bridge.translator = make(bridge)
        port, self.endpoints[name] = self._reactor.attach_gateway(bridge, lambda context: open_foreign_routers(context, endpoints))
        bridge.deliver = port.doors.deliver

    def _open_clone(self, endpoint: str, topic: str) -> None:
        info = self._machine.topics.info(TOPIC_MARK + topic)
        bridge = self._bridges["clone"] = CloneBridge(topic, self._reactor.wake, info["seq"], info["floor"])
        port, bound = self._reactor.attach_gateway(bridge, lambda context: open_clone_doors(context, endpoint))
        bridge.doors, self.endpoints["clone"] = port.doors, bound[:1]

    @property
    def dropped(self) -> dict[str, int]:
        """What foreign peers said in vain, by protocol and reason."""
        return {f"{name}:{reason}": count for name, bridge in self._bridges.items() for reason, count in bridge.dropped.items()}


def check_clone(clone: object, topic: object) -> tuple[str | None, str]:
    """What a Node may be asked for. Raises ValueError."""
    if clone is None:
        return None, topic_name(topic)
    head, _, port = clone.rpartition(":") if isinstance(clone, str) else ("", "", "")
    if not head.startswith("tcp://") or not port.isdecimal() or int(port) > PORT_MAX - 2:
        raise ValueError(f"clone={clone!r}: give one endpoint, such as tcp://127.0.0.1:5570; the next two ports belong to it")
    return f"{head}:{port}", topic_name(topic)


def check(mdp: object, ppp: object) -> tuple[str | None, tuple[str, str] | None]:
    """The same. Raises ValueError."""
    if not (mdp is None or isinstance(mdp, str)):
        raise ValueError(f"mdp={mdp!r}: give one endpoint, such as tcp://127.0.0.1:5556")
    if ppp is None:
        return mdp, None
    if isinstance(ppp, tuple | list) and len(ppp) == 2 and all(isinstance(endpoint, str) for endpoint in ppp):
        return mdp, (ppp[0], ppp[1])
    raise ValueError(f"ppp={ppp!r}: give two endpoints, the one for clients and the one for workers")


def is_foreign(endpoint: str) -> bool:
    """mdp://HOST:PORT, ppp://HOST:PORT or clone://HOST:PORT?"""
    return endpoint.partition("://")[0] in SCHEMES


def foreign_address(endpoint: str) -> str:
    """Of mdp://HOST:PORT, for a socket. Raises Unreachable for what is none."""
    address = "tcp://" + endpoint.partition("://")[2]
    try:
        check_address(address)
    except Unreachable as error:
        raise Unreachable(endpoint, error.reason, f"give one like {_scheme(endpoint)}://127.0.0.1:5555") from None
    if _scheme(endpoint) == "clone" and int(address.rpartition(":")[2]) > PORT_MAX - 2:
        raise Unreachable(endpoint, "a Clone server has the next two ports, too", "give that of its snapshots")
    return address


def link_follower(reactor: Reactor, endpoint: str, follower: Follower) -> None:
    """Follow the foreign Clone server there. On the I/O thread."""
    address, prefixes = foreign_address(endpoint), [*map(str.encode, follower.link.prefixes), HUGZ]
    _attach(reactor, follower, lambda context: open_clone_follower(context, address, prefixes))


def link_setter(reactor: Reactor, endpoint: str, setter: Setter) -> None:
    """Set keys at the foreign Clone server there. On the I/O thread."""
    address = foreign_address(endpoint)
    _attach(reactor, setter, lambda context: open_clone_setter(context, address, setter.publishes))


def _attach(reactor: Reactor, outward: Follower | Setter, opened: Callable[[Context], tuple[list[Socket], Socket]]) -> None:
    port = reactor.attach_outward(outward)
    outward.doors = port.doors
    outward.reopen = partial(reactor.reopen, port, opened)
    outward.leave = partial(reactor.detach, port)
    reactor.wake()


def link_worker(reactor: Reactor, endpoint: str, service: str) -> OutwardBridge:
    """Serve at the foreign broker what this process serves under that name."""

    def make(bridge: Bridge) -> OutwardLink:
        # How long an answer may take is for the broker's clients to say.
        if _scheme(endpoint) == "mdp":
            return MdpWorkerLink(bridge, service, call_seconds=PATIENT_SECONDS, body_frames_max=BODY_FRAMES_MAX)
        return PppWorkerLink(bridge, service, lambda: b"zmqkit-" + os.urandom(8).hex().encode(), call_seconds=PATIENT_SECONDS)

    return _link(reactor, endpoint, make)


def link_client(reactor: Reactor, endpoint: str, service: str, foreign: str) -> OutwardBridge:
    """Offer in this process, as `service`, what the foreign broker serves as `foreign`; 6/PPP knows no names."""

    def make(bridge: Bridge) -> OutwardLink:
        # The call's own deadline ends it.
        if _scheme(endpoint) == "mdp":
            return MdpClientLink(bridge, service, foreign=foreign, try_seconds=PATIENT_SECONDS, body_frames_max=BODY_FRAMES_MAX)
        return PppClientLink(bridge, service, try_seconds=PATIENT_SECONDS)

    return _link(reactor, endpoint, make)


def _scheme(endpoint: str) -> str:
    return endpoint.partition("://")[0]


def _link(reactor: Reactor, endpoint: str, make: Callable[[Bridge], OutwardLink]) -> OutwardBridge:
    address = foreign_address(endpoint)
    bridge = OutwardBridge(endpoint, reactor.wake, lambda service: False)
    bridge.translator = bridge.link = make(bridge)
    port: GatewayPort = reactor.attach_outward(bridge)
    bridge.deliver = port.doors.deliver
    bridge.reopen = lambda routing_id: reactor.reopen(port, lambda context: open_foreign_link(context, address, routing_id))
    bridge.leave = partial(reactor.detach, port)
    return bridge
