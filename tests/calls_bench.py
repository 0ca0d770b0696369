"""A node of which callers and workers ask things: the bench, with words for calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from node_bench import Bench

from zmqkit import wire
from zmqkit.parcel import Parcel
from zmqkit.wire import Status

MARKED = wire.SERVICE_MARK + "s"


class Told(NamedTuple):
    """One call's outcome, as its caller hears it."""

    number: int
    status: str
    body: bytes


class CallBench(Bench):
    def call(
        self, peer: bytes, first: int, count: int = 1, *, service: str = "s", seconds: float = 10.0, attempts: int = 4, epoch: int = 0,
        key: str = "", parts: int = 0, replied: int = 0, size: int = 1, **more: Any,
    ) -> None:  # fmt: skip
        parcel = Parcel.of([str(first + i).encode().ljust(size, b".") for i in range(count)])
        self.say(peer, wire.Call(service, first, count, seconds, attempts, epoch, key, parts, replied, parcel), **more)

    def serve(
        self, letter: str, window: int = 1, link: int = 1, beat: int = 1, seen: int = 0, held: Sequence[tuple[int, int]] = (), **more: Any
    ) -> bytes:
        """A worker with a window into the service (its routing id is returned)."""
        peer = f"{letter}{link}".encode()
        if peer not in self.machine._peers:
            self.connect(letter, link=link)
        self.ready(peer, window, beat, seen, held, queue=MARKED, **more)
        return peer

    def answer(
        self, peer: bytes, token: int, offset: int = 0, count: int = 1, status: Status = Status.OK, body: bytes = b"", **more: Any
    ) -> None:
        bodies = [body or b"a%d" % (offset + index) for index in range(count)]
        self.say(peer, wire.Reply(0, [(token, offset, count, status)], count, Parcel.of(bodies)), **more)

    def cancel(self, peer: bytes, number: int, count: int = 1, **more: Any) -> None:
        self.say(peer, wire.Cancel(number, 0, count), **more)

    def beat(self, peer: bytes, number: int, replied: int = 0, **more: Any) -> None:
        """A caller's READY."""
        self.say(peer, wire.Ready(number, 0, [], replied, []), **more)

    def replies(self, peer: bytes) -> list[wire.Reply]:
        return self.hear(peer, wire.Reply)

    def told(self, peer: bytes) -> list[Told]:
        """Outcomes that came since the last time, in order."""
        found = []
        for reply in self.replies(peer):
            numbers = [(number + i, Status(status).name) for number, _, count, status in reply.ranges for i in range(count)]
            found += [Told(*who, bytes(body)) for who, body in zip(numbers, reply.parcel.messages(), strict=True)]
        return found

    def ends(self, peer: bytes) -> list[tuple[int, str]]:
        """The same, without the bodies."""
        return [(number, status) for number, status, _ in self.told(peer)]

    def refusals(self, peer: bytes) -> list[tuple[int, int, str]]:
        return [(refused.first, refused.count, wire.Code(refused.code).name) for refused in self.hear(peer, wire.Refused)]

    def leases(self, peer: bytes) -> list[tuple[int, int]]:
        """(number, count) of the calls that this worker got since the last time."""
        return [(lease.qseq, lease.count) for lease in self.hear(peer, wire.Lease)]

    def empty(self) -> bool:
        """Nothing is left of any call."""
        calls = self.machine.calls
        return not (calls.callers or calls.budget.used or calls.keys.entries or any(s.ready for s in self.machine.core.services.values()))
