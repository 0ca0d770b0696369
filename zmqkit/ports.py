"""What hangs on a reactor: applications on their links, and gateways with doors for foreign peers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

from zmqkit.machines.link import ClientMachine
from zmqkit.sockets import FOREIGN_FRAMES_MAX, NEVER_UP, Socket, close_dealer, deliver, doubt, readable, receive
from zmqkit.wire import Command

TURN_MESSAGES_MAX = 256  # read from one socket in one turn; then the others, the clock and the log have theirs


class Application(Protocol):
    """What lives on a client's machine. All is called on the I/O thread; an exception ends this application, and nobody else."""

    machine: ClientMachine

    def pump(self, now: float) -> None:
        """Let the machine tick, and feed it, before its output is taken."""

    def handle(self, events: list[Any], now: float) -> None: ...

    def closed(self, error: Exception | None) -> None:
        """It ends, with the reactor or by an exception of its own: fail all that waits."""


class Gateway(Application, Protocol):
    """A gateway: an application that also speaks with foreign peers."""

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None: ...

    def cut(self, was_up: bool, now: float) -> None:
        """The connection to its broker is gone, or never was."""


class Doors:
    """The foreign sockets of a gateway: ROUTERs that are bound; or one DEALER on a connection, whose only peer is b""."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.sockets: list[Socket] = []
        self.monitor: Socket | None = None  # of the DEALER
        self.connected = False  # it was heard, and not cut since

    def drain(self, heard: dict[Any, int], moment: float) -> bool:
        """Hand on what is there, up to a bound. Was there anything?"""
        spoke = False
        for door, socket in enumerate(self.sockets):
            if socket not in heard:
                continue
            spoke = self.connected = True
            for _ in range(TURN_MESSAGES_MAX):
                frames = receive(socket, FOREIGN_FRAMES_MAX + 2)  # with a routing id, and one more, so that it is known for too long
                peer = frames.pop(0) if self.monitor is None else b""
                self.gateway.receive(door, peer, frames, moment)
                if not readable(socket):
                    break
        if self.monitor is not None and self.monitor in heard:
            spoke, reason = True, doubt(self.monitor)
            if reason is not None:
                self.connected = False
                self.gateway.cut(reason != NEVER_UP, moment)
        return spoke

    def close(self, forget: Callable[[Socket], None], linger_ms: int = 0) -> None:
        """`forget` each socket first. What was said last may still go out for so long, if there is a connection to go by."""
        for socket in [*self.sockets, *([self.monitor] if self.monitor is not None else [])]:
            forget(socket)
        for socket in self.sockets:
            if self.monitor is not None:
                close_dealer(socket, self.monitor, linger_ms if self.connected else 0)
            else:
                socket.close()
        self.sockets, self.monitor, self.connected = [], None, False

    def deliver(self, door: int, peer: bytes, frames: Sequence[bytes]) -> str | None:
        return deliver(self.sockets[door], [peer, *frames] if self.monitor is None else frames)


class Port:
    """One application's link: a DEALER to an endpoint, or (endpoint None) a pair of deques to the host in this reactor."""

    def __init__(self, application: Application, endpoint: str | None) -> None:
        self.application = application
        self.endpoint = endpoint
        self.socket: Socket | None = None
        self.monitor: Socket | None = None
        self.peer = b""  # of a local link: its routing id at the host
        self.inbox: deque[Command] = deque()  # of a local link
        self.deadline = -inf  # of its machine, when it was last asked


class GatewayPort(Port):
    """A gateway's link to the host in this reactor, and its doors."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, None)
        self.doors = Doors(gateway)
