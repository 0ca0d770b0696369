"""The bridge: a gateway's translator on its sockets, and the desk behind which our own machines stand.

A gateway is one more client of the node in this process, on a link of deques: what its foreign clients ask is called under
its name, and what its foreign workers offer are services of its own. Bodies: one frame is `bytes`, several are a list of
`bytes`; a text goes out as UTF-8, anything else as JSON.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, NamedTuple

import msgpack

from zmqkit import codec
from zmqkit.gateways import desk
from zmqkit.gateways.desk import Frames, Translator
from zmqkit.gateways.outward import OutwardLink
from zmqkit.machines import events as ev
from zmqkit.machines.consumer import WINDOW_MAX, WINDOWS_BYTES_MAX, ConsumerState, window_bytes
from zmqkit.machines.holdings import HeldLease
from zmqkit.machines.link import ClientMachine
from zmqkit.parcel import PARCEL_BYTES_MAX, Parcel
from zmqkit.ports import Drops
from zmqkit.sockets import FOREIGN_FRAMES_MAX
from zmqkit.wire import SERVICE_MARK, BackKind, Status

ATTEMPTS = 4
PARTS_AHEAD = 16  # of a streamed answer
PARTS_WAITING_MAX, PARTS_BYTES_MAX = 1000, 4 * 1024 * 1024  # of one that its caller does not read

log = getLogger("zmqkit.gateway")

Deliver = Callable[[int, bytes, Sequence[bytes]], str | None]  # door, peer, frames; the reason if it did not leave


class Job(NamedTuple):
    """A call that a foreign worker has, or is about to get."""

    lease: HeldLease
    index: int  # type: ignore[assignment]  # not tuple.index


class Stream:
    """A streamed answer on its way to a foreign client: the newest part waits, for the last one is the reply."""

    def __init__(self) -> None:
        self.newest: Frames | None = None
        self.got = 0


class Offer(ConsumerState):
    """A service of foreign workers. `fixed` is how many are ready: what is in hand counts beside it, for workers are mute about that."""

    @property
    def window(self) -> int:
        return min(WINDOW_MAX, self.open + self.fixed)


class Bridge:
    """An application of the reactor. `translator` and `deliver` are set before it runs; `serves` asks the node in this process."""

    translator: Translator
    deliver: Deliver

    def __init__(self, name: str, wake: Callable[[], None], serves: Callable[[str], bool]) -> None:
        self.machine = ClientMachine(os.urandom(16), random.random)
        self._wake, self._serves = wake, serves
        self._drops = Drops(name, lambda: self.translator.dropped)
        self.drop = self._drops.add
        self._room = WINDOWS_BYTES_MAX  # for the names of more services
        self._parting: dict[str, Offer] = {}  # offers of nothing, which go once the node knows
        self._unfit: dict[str, int] = {}  # offers for which there was no room
        self._gated: deque[Job] = deque()  # may not be started yet
        self._streams: dict[Any, Stream] = {}  # by ticket
        self._parts: dict[Job, list[bytes]] = {}  # of foreign workers, for callers who want one answer, or no more for now
        self._allowed: dict[Job, int] = {}  # of streams: parts in all
        self._complete: set[Job] = set()  # streams whose last part waits
        self._heard: list[desk.Event] = []
        self._now = 0.0

    # -- the desk -------------------------------------------------------------------------------------------------------

    def call(
        self, service: str, frames: Frames, ticket: Any, seconds: float, *, wait: bool = True, key: str = "", stream: bool = False
    ) -> None:
        body = _packed(frames)
        if len(body) > PARCEL_BYTES_MAX:
            self._heard.append(desk.Reply(ticket, None, f"a body of {len(body):,} bytes, the limit is {PARCEL_BYTES_MAX:,}"))
            return
        if stream:
            self._streams[ticket] = Stream()
        attempts = ATTEMPTS if wait else 1
        self.machine.call(service, Parcel.of([body]), ticket, self._now + seconds, attempts, key, PARTS_AHEAD if stream else 0)

    def cancel(self, ticket: Any) -> None:
        self._streams.pop(ticket, None)
        self.machine.cancel(ticket, 0)

    def served(self, service: str) -> bool:
        return self._serves(service)

    def offer(self, service: str, free: int) -> None:
        name = SERVICE_MARK + service
        state = self.machine.consumers.get(name)
        if not isinstance(state, Offer):
            self._unfit.pop(service, None)
            if not free:
                return
            if window_bytes(name) > self._room:
                self._unfit[service] = free
                self.drop("too-many-services")
                return
            self._room -= window_bytes(name)
            crossed = state.open if state is not None else 0  # leases that met the end of an earlier offer
            state = self.machine.consumers[name] = Offer(name)
            state.open = crossed
        state.fixed = free
        if not free:
            self._parting[service] = state

    def reply(self, job: Job, frames: Frames) -> None:
        body = _packed(frames)
        if job in self._allowed:
            self._parts.setdefault(job, []).append(body)
            self._complete.add(job)
            self._send_parts(job)
            return
        parts = self._parts.pop(job, None)
        if parts:
            body = msgpack.packb([*map(codec.unpack, parts), codec.unpack(body)])
        if len(body) > PARCEL_BYTES_MAX:
            self.lost(job, f"an answer of {len(body):,} bytes, the limit is {PARCEL_BYTES_MAX:,}")
        else:
            self.machine.reply(job.lease, job.index, 1, Status.OK, Parcel.of([body]))

    def part(self, job: Job, frames: Frames) -> None:
        waiting = self._parts.setdefault(job, [])
        if len(waiting) >= PARTS_WAITING_MAX or sum(map(len, waiting)) > PARTS_BYTES_MAX:
            self._heard.append(desk.Withdrawn(job))
            self.lost(job, f"more than {PARTS_WAITING_MAX} parts, or {PARTS_BYTES_MAX:,} bytes of them, that nobody reads")
            return
        waiting.append(_packed(frames))
        self._send_parts(job)

    def _send_parts(self, job: Job) -> None:
        waiting = self._parts.get(job, [])
        while waiting and job.lease.parts_made < self._allowed.get(job, 0):
            self.machine.part(job.lease, job.index, Parcel.of([waiting.pop(0)]))
        if job in self._complete and not waiting:
            self.machine.reply(job.lease, job.index, 1, Status.END, Parcel.of([msgpack.packb(job.lease.parts_made)]))
            self._forget(job)

    def _forget(self, job: Job) -> None:
        self._parts.pop(job, None)
        self._allowed.pop(job, None)
        self._complete.discard(job)

    def back(self, job: Job) -> None:
        self._end(job, BackKind.UNSTARTED, "")

    def lost(self, job: Job, reason: str) -> None:
        self._end(job, BackKind.NACK, reason)

    def _end(self, job: Job, kind: BackKind, reason: str) -> None:
        self._forget(job)
        if job.lease.revoked:
            self.machine.drop(job.lease, job.index, 1)
        else:
            self.machine.back(job.lease, job.index, 1, kind, -1.0, reason)

    # -- the reactor ----------------------------------------------------------------------------------------------------

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        """A foreign peer said this."""
        self._now = now
        if len(frames) > FOREIGN_FRAMES_MAX:
            self.drop("too-many-frames")
        else:
            self.translator.receive(door, peer, frames, now)

    def gone(self, door: int, peer: bytes, now: float) -> None:
        self.translator.gone(door, peer, now)

    def cut(self, was_up: bool, now: float) -> None:
        """There is no connection that could be cut: peers come to our doors."""

    def pump(self, now: float) -> None:
        self._now = now
        self.machine.tick(now)
        self._step(now)

    def handle(self, events: list[Any], now: float) -> None:
        self._now = now
        for event in events:
            hear = _HEARS.get(type(event))
            if hear is not None:
                hear(self, event)
        self._step(now)
        self._wake()  # what was said at the desk leaves in the next turn

    def closed(self, error: Exception | None) -> None:
        """Foreign peers notice by themselves: their protocols have heartbeats, or they ask again."""

    def _sends(self) -> list[desk.Send]:
        return self.translator.take()

    def _step(self, now: float) -> None:
        while self._gated and now < self._gated[0].lease.starts_until:
            job = self._gated.popleft()
            if job.lease.open >> job.index & 1:
                self._hand_out(job)
        translator = self.translator
        while True:
            if self._heard:
                heard, self._heard = self._heard, []
                translator.hear(heard, now)
            if translator.deadline <= now:
                translator.tick(now)
            gone: dict[tuple[int, bytes], None] = {}
            for send in self._sends():
                place = send.door, send.peer
                if place not in gone and (reason := self.deliver(*place, send.frames)) is not None:
                    gone[place] = None  # what follows would make no sense without it
                    self.drop(reason)
            for door, peer in gone:
                translator.gone(door, peer, now)
            if not (self._heard or gone):
                break
        if self._parting:
            self._part()
        self._drops.report()
        self.machine.remind(translator.deadline)

    def _part(self) -> None:
        """Forget services that nobody offers any more."""
        for service, state in list(self._parting.items()):
            if state.fixed or state.idle:
                del self._parting[service]
            if state.idle:
                del self.machine.consumers[state.queue]
                self._room += window_bytes(state.queue)
        unfit, self._unfit = self._unfit, {}
        for service, free in unfit.items():
            self.offer(service, free)

    @property
    def dropped(self) -> dict[str, int]:
        """What foreign peers said in vain, counted by reason."""
        return self._drops.all

    # -- events -----------------------------------------------------------------------------------------------------------

    def _on_answered(self, event: ev.Answered) -> None:
        stream = self._streams.pop(event.ticket, None)
        body = bytes(event.parcel.messages()[0])
        try:
            if event.status == Status.OK:
                self._heard.append(desk.Reply(event.ticket, _frames(body)))
            elif event.status == Status.END:
                self._heard.append(desk.Reply(event.ticket, stream.newest or [b""] if stream else [b""]))
            else:
                self._unanswered(event.ticket, f"the service failed: {codec.unpack(body)}")
        except codec.Undecodable as error:
            self._unanswered(event.ticket, str(error))

    def _on_failed(self, event: ev.Failed) -> None:
        self._streams.pop(event.ticket, None)
        self._unanswered(event.ticket, f"{event.outcome.value}: {event.text}")

    def _unanswered(self, ticket: Any, reason: str) -> None:
        log.info("a call of a foreign client has no answer: %s", reason)
        self._heard.append(desk.Reply(ticket, None, reason))

    def _on_parts(self, event: ev.Parts) -> None:
        stream = self._streams.get(event.ticket)
        if stream is None:
            return
        for message in event.parcel.messages():
            if stream.newest is not None:
                self._heard.append(desk.Part(event.ticket, stream.newest))
            try:
                stream.newest = _frames(bytes(message))
            except codec.Undecodable:
                stream.newest = [b""]
        stream.got = event.first + event.parcel.count - 1
        self.machine.more(event.ticket, stream.got + PARTS_AHEAD, stream.got)

    def _on_granted(self, event: ev.Granted) -> None:
        lease = event.lease
        assert lease.terms is not None, "a gateway takes calls only"
        state = self.machine.consumers[lease.queue]
        if not isinstance(state, Offer):
            self.machine.back(lease, 0, lease.count, BackKind.UNSTARTED)
            if not state.open:
                del self.machine.consumers[lease.queue]
            return
        jobs = [Job(lease, index) for index in range(lease.count)]
        if lease.terms.parts:
            self._allowed.update(dict.fromkeys(jobs, lease.terms.parts))
        self._gated.extend(jobs)

    def _hand_out(self, job: Job) -> None:
        parcel = job.lease.parcel
        assert isinstance(parcel, Parcel)
        service = job.lease.queue.removeprefix(SERVICE_MARK)
        try:
            frames = _frames(bytes(parcel.messages()[job.index]))
        except codec.Undecodable as error:
            self.lost(job, str(error))
        else:
            self._heard.append(desk.Request(service, job, frames))

    def _on_cancelled(self, event: ev.Cancelled) -> None:
        self._withdraw(event.lease, range(event.offset, event.offset + event.count))

    def _on_revoked(self, event: ev.Revoked) -> None:
        self._withdraw(event.lease, range(event.lease.count))

    def _withdraw(self, lease: HeldLease, indexes: range) -> None:
        for index in indexes:
            job = Job(lease, index)
            if not lease.open >> index & 1:
                continue
            if job in self._gated:
                self._gated.remove(job)
            else:
                self._heard.append(desk.Withdrawn(job))
            self.lost(job, "nobody waits for it any more")

    def _on_allowed(self, event: ev.Allowed) -> None:
        job = Job(event.lease, event.offset)
        if job in self._allowed:
            self._allowed[job] = event.parts
            self._send_parts(job)


class OutwardBridge(Bridge):
    """Of a link to a foreign broker. `reopen` gives it a new connection, under the routing id that it wants."""

    link: OutwardLink
    reopen: Callable[[bytes], None]
    leave: Callable[[], None]
    trouble = ""  # why the broker cannot be reached, as far as is known

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        self.trouble = ""
        super().receive(door, peer, frames, now)

    def cut(self, was_up: bool, now: float) -> None:
        self._now = now
        self.trouble = "the connection was lost" if was_up else "nobody listens there"
        self.link.cut(now, was_up)

    def _sends(self) -> list[desk.Send]:
        if self.link.wants_new_socket():
            self.reopen(self.link.routing_id)
        return self.link.take()


_HEARS: dict[type, Callable[[Bridge, Any], None]] = {
    ev.Answered: Bridge._on_answered, ev.Failed: Bridge._on_failed, ev.Parts: Bridge._on_parts, ev.Granted: Bridge._on_granted,
    ev.Cancelled: Bridge._on_cancelled, ev.Revoked: Bridge._on_revoked, ev.Allowed: Bridge._on_allowed,
}  # fmt: skip


def _packed(frames: Frames) -> bytes:
    return msgpack.packb(frames[0] if len(frames) == 1 else frames)  # type: ignore[no-any-return]


def _frames(body: bytes) -> Frames:
    """A body as a peer that knows bytes only may read it. Raises Undecodable."""
    value = codec.unpack(body)
    if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
        return value
    return [codec.plain(value)]
