"""A desk that writes down what a gateway asks of it, and insists on its rules; and a bench that plays the gateway's driver.

Nothing is routed: a test says what the desk would tell, and looks at what the gateway sends.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from zmqkit.gateways.desk import Desk, Event, Frames, Part, Reply, Request, Translator, Withdrawn


class Asked(NamedTuple):
    service: str
    frames: Frames
    ticket: Any
    seconds: float
    wait: bool
    key: str
    stream: bool


class Settled(NamedTuple):
    """How a job ended."""

    how: str  # "reply", "back", "lost"
    frames: Frames
    reason: str


class FakeDesk(Desk):
    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.open: dict[Any, Asked] = {}  # calls without an outcome, by ticket
        self.cancelled: list[Any] = []
        self.services: dict[str, bool | None] = {}  # what others offer
        self.offers: dict[str, int] = {}
        self.handed: dict[Any, Request] = {}  # jobs that the gateway owes an answer
        self.settled: dict[Any, Settled] = {}
        self.parts: dict[Any, list[Frames]] = {}

    # -- what the gateway calls ---------------------------------------------------------------------------------------

    def call(
        self, service: str, frames: Frames, ticket: Any, seconds: float, *, wait: bool = True, key: str = "", stream: bool = False
    ) -> None:
        assert ticket not in self.open, "one call for one ticket"
        assert 1 <= len(service.encode()) <= 255 and seconds > 0
        assert type(frames) is list and all(type(frame) is bytes for frame in frames)
        self.open[ticket] = asked = Asked(service, frames, ticket, seconds, wait, key, stream)
        self.asked.append(asked)

    def cancel(self, ticket: Any) -> None:
        del self.open[ticket]
        self.cancelled.append(ticket)

    def served(self, service: str) -> bool | None:
        assert service
        return self.services.get(service, False)

    def offer(self, service: str, free: int) -> None:
        assert free >= 0
        self.offers[service] = free

    def reply(self, job: Any, frames: Frames) -> None:
        self._settle(job, Settled("reply", frames, ""))

    def part(self, job: Any, frames: Frames) -> None:
        assert job in self.handed, "parts of a job that is in hand"
        self.parts.setdefault(job, []).append(frames)

    def back(self, job: Any) -> None:
        self._settle(job, Settled("back", [], ""))

    def lost(self, job: Any, reason: str) -> None:
        assert reason
        self._settle(job, Settled("lost", [], reason))

    def _settle(self, job: Any, settled: Settled) -> None:
        del self.handed[job]  # a job is answered once, and not after it was withdrawn
        assert job not in self.settled
        self.settled[job] = settled

    # -- what a test has it tell; pass it to `Bench.tell` -------------------------------------------------------------

    def request(self, service: str, job: Any, *frames: bytes) -> Request:
        request = self.handed[job] = Request(service, job, list(frames))
        self.offers[service] = self.offers.get(service, 0) - 1
        return request

    def withdraw(self, job: Any) -> Withdrawn:
        del self.handed[job]
        return Withdrawn(job)

    def answer(self, ticket: Any, *frames: bytes) -> Reply:
        del self.open[ticket]
        return Reply(ticket, list(frames))

    def refuse(self, ticket: Any, reason: str = "no") -> Reply:
        del self.open[ticket]
        return Reply(ticket, None, reason)

    def more(self, ticket: Any, *frames: bytes) -> Part:
        assert ticket in self.open
        return Part(ticket, list(frames))


class Bench:
    """A gateway, its desk, and a clock that is moved by hand. What it sends is kept by (door, peer) until it is looked at."""

    def __init__(self, gateway: Translator, desk: FakeDesk, now: float = 1000.0) -> None:
        self.gateway, self.desk, self.now = gateway, desk, now
        self.gone: dict[tuple[int, bytes], None] = {}  # sends to these do not leave
        self._sent: dict[tuple[int, bytes], list[Frames]] = {}

    def say(self, door: int, peer: bytes, *frames: bytes) -> None:
        self.gateway.receive(door, peer, frames, self.now)
        self.turn()

    def tell(self, *events: Event) -> None:
        self.gateway.hear(events, self.now)
        self.turn()

    def turn(self) -> None:
        """What the driver does last: send; and tell what did not leave."""
        while sends := self.gateway.take():
            silent: dict[tuple[int, bytes], None] = {}
            for send in sends:
                to = send.door, send.peer
                if to in self.gone:
                    if to not in silent:
                        silent[to] = None
                        self.gateway.gone(send.door, send.peer, self.now)
                else:
                    self._sent.setdefault(to, []).append(list(send.frames))

    def wait(self, seconds: float) -> None:
        """Time passes, and the driver ticks when it is due."""
        until = self.now + seconds
        while (at := self.gateway.deadline) <= until:
            assert at < inf
            self.now = max(self.now, at)
            self.gateway.tick(self.now)
            self.turn()
        self.now = until

    def sent(self, door: int, peer: bytes) -> list[Frames]:
        """What went to that peer since it was asked last."""
        return self._sent.pop((door, peer), [])

    def nothing_sent(self) -> bool:
        return not self._sent
