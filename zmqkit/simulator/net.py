"""Links with the failures of ZeroMQ over TCP, and no others.

On a link: first in, first out, whole multiparts, no loss but of a suffix when it ends. Each link is a new routing id. How a
link ends decides who notices when: a killed process closes its sockets, so the other end sees it soon; a cut cable or a
stopped process is seen only when ZMTP heartbeats stay away; and until the node has noticed, what it sends vanishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from zmqkit.parcel import Buffer
from zmqkit.simulator.clock import Scheduler

SOON = (50, 20_000)  # microseconds until a closed connection is seen
HEARTBEAT = (1_500_000, 2_300_000)  # until a silent one is


class NetConfig(NamedTuple):
    delay_us: tuple[int, int] = (30, 2_000)


class Listener(Protocol):
    """The node's side."""

    listening: bool
    paused: bool

    def arrived(self, peer: bytes, frames: list[bytes]) -> None: ...


class Dialer(Protocol):
    """The client's side."""

    name: str
    client: bytes

    def heard(self, link: Link, frames: list[bytes]) -> None: ...

    def link_lost(self, link: Link, reason: str) -> None: ...


class Pipe:
    """One direction. Frames arrive in order; when it is closed, a random part of what is on its way still arrives."""

    def __init__(self) -> None:
        self.sent = self.arrived = 0
        self.last_arrival = 0
        self.allowed: int | None = None  # so many arrive in all; None: no end yet


class Link:
    def __init__(self, peer: bytes, dialer: Dialer) -> None:
        self.peer, self.dialer = peer, dialer
        self.up, self.down = Pipe(), Pipe()
        self.open = False  # the connection stands
        self.given_up = False  # the client has closed it
        self.ended = False  # it will end, or has ended: only the noticing is left
        self.gone_for_node = False  # a send of the node fails
        self.waiting: list[list[bytes]] = []  # sent before the connection stood


class Net:
    def __init__(self, scheduler: Scheduler, config: NetConfig) -> None:
        self.scheduler, self.config = scheduler, config
        self.random = scheduler.random("net")
        self.listener: Listener | None = None
        self.links: dict[bytes, Link] = {}
        self.known: dict[bytes, Link] = {}  # all that ever stood
        self.unreachable: dict[str, int] = {}  # by client's name: until then nothing of it gets through
        self._made = 0

    # -- the client's calls ---------------------------------------------------------------------------------------------

    def connect(self, dialer: Dialer) -> Link:
        self._made += 1
        link = Link(b"\0" + self._made.to_bytes(4, "big"), dialer)
        self._establish_later(link)
        return link

    def _establish_later(self, link: Link) -> None:
        self.scheduler.after(self._delay(), lambda: self._establish(link))

    def _establish(self, link: Link) -> None:
        if link.given_up or link.ended:
            return
        if self.blocked(link.dialer.name):
            return  # the first packet is lost; the client's patience decides
        if self.listener is None or not self.listener.listening:
            self._tell_client(link, "connection refused", SOON)
            return
        if self.listener.paused:
            self.scheduler.after(10_000, lambda: self._establish(link))
            return
        link.open = True
        self.links[link.peer] = self.known[link.peer] = link
        for frames in link.waiting:
            self._travel(link, link.up, frames)
        link.waiting.clear()

    def send_up(self, link: Link, frames: Sequence[Buffer]) -> None:
        copied = [bytes(frame) for frame in frames]
        if not link.open:
            link.waiting.append(copied)
        else:
            self._travel(link, link.up, copied)

    def close(self, link: Link, linger: bool) -> None:
        """By the client. Without linger, what has not left yet is thrown away."""
        link.given_up = True
        link.waiting.clear()
        if link.open and not link.ended:
            link.ended = True
            self._end(link.up, everything=linger)
            self._end(link.down, nothing=True)
            self._tell_node(link, HEARTBEAT if self.blocked(link.dialer.name) else SOON)

    # -- the node's -----------------------------------------------------------------------------------------------------

    def send_down(self, peer: bytes, frames: Sequence[Buffer]) -> str | None:
        link = self.links.get(peer)
        if link is None or link.gone_for_node:
            return "the peer is gone"
        self._travel(link, link.down, [bytes(frame) for frame in frames])
        return None

    # -- on the way -----------------------------------------------------------------------------------------------------

    def blocked(self, name: str) -> bool:
        return self.unreachable.get(name, 0) > self.scheduler.now

    def _delay(self) -> int:
        return self.random.randint(*self.config.delay_us)

    def _travel(self, link: Link, pipe: Pipe, frames: list[bytes]) -> None:
        index = pipe.sent
        pipe.sent += 1
        if pipe.allowed is not None and index >= pipe.allowed:
            return
        pipe.last_arrival = max(pipe.last_arrival, self.scheduler.now + self._delay())
        self.scheduler.at(pipe.last_arrival, lambda: self._arrive(link, pipe, index, frames))

    def _arrive(self, link: Link, pipe: Pipe, index: int, frames: list[bytes]) -> None:
        if pipe.allowed is not None and index >= pipe.allowed:
            return
        pipe.arrived = index + 1
        if pipe is link.down:
            link.dialer.heard(link, frames)
        elif self.listener is not None and self.listener.listening:
            self.listener.arrived(link.peer, frames)

    def _end(self, pipe: Pipe, everything: bool = False, nothing: bool = False) -> None:
        if pipe.allowed is None:
            low = pipe.sent if everything else pipe.arrived
            pipe.allowed = self.random.randint(low, pipe.arrived if nothing else pipe.sent)

    def _tell_client(self, link: Link, reason: str, within: tuple[int, int]) -> None:
        moment = max(link.down.last_arrival, self.scheduler.now + self.random.randint(*within))
        self.scheduler.at(moment, lambda: link.dialer.link_lost(link, reason))

    def _tell_node(self, link: Link, within: tuple[int, int]) -> None:
        def notice() -> None:
            link.gone_for_node = True
            self.links.pop(link.peer, None)

        self.scheduler.at(max(link.up.last_arrival, self.scheduler.now + self.random.randint(*within)), notice)

    # -- faults ---------------------------------------------------------------------------------------------------------

    def kill(self, link: Link, silent: bool = False) -> None:
        """The connection ends: reset, so that both sides see it soon, or silently (half-open) until heartbeats tell."""
        if link.ended or not link.open:
            return
        link.ended = True
        self._end(link.up)
        self._end(link.down)
        within = HEARTBEAT if silent else SOON
        self._tell_client(link, "heartbeat timeout" if silent else "disconnected", within)
        self._tell_node(link, within)

    def kill_all(self, silent: bool) -> None:
        """The node is gone."""
        for link in list(self.links.values()):
            self._end(link.up, nothing=True)
            self.kill(link, silent)
            link.gone_for_node = True
        self.links.clear()

    def client_died(self, link: Link) -> None:
        """Its process is gone: the system closes its sockets."""
        link.given_up = True
        if link.open and not link.ended:
            link.ended = True
            self._end(link.up)
            self._end(link.down, nothing=True)
            self._tell_node(link, HEARTBEAT if self.blocked(link.dialer.name) else SOON)
