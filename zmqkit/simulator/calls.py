"""What simulated clients do with calls: make them, and answer them. Each tells the oracle what it sees."""

from __future__ import annotations

from math import inf
from typing import Any

from zmqkit.machines import events as ev
from zmqkit.machines.holdings import HeldLease
from zmqkit.parcel import Parcel
from zmqkit.simulator.applications import Paced
from zmqkit.simulator.call_checks import ANSWERED, CallKey
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.config import Config
from zmqkit.simulator.invariants import require
from zmqkit.wire import SERVICE_MARK, BackKind, Status

PARTS_WINDOW = 4
PARTS_MAX = 12  # of one stream


class Batch:
    """Calls that were made together: the ticket."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count
        self.open = set(range(count))
        self.parts = 0  # of a stream, so many came


class Caller(Paced):
    """Calls services; changes its mind now and then."""

    def __init__(self, process: ClientProcess, services: list[str], config: Config) -> None:
        super().__init__(process, f"caller {process.name}", config.calls_max, config.call_every)
        self.services, self.config = services, config
        self.next = 1
        self.batches: list[Batch] = []
        self._cancels: list[tuple[float, Batch, int]] = []

    @property
    def deadline(self) -> float:
        return min([super().deadline, *(at for at, _, _ in self._cancels)])

    def pump(self, now: float) -> None:
        for cancel in [cancel for cancel in self._cancels if cancel[0] <= now]:
            self._cancels.remove(cancel)
            self.cancel(*cancel[1:])
        if self.is_due(now):
            self._call_something(now)

    def _call_something(self, now: float) -> None:
        random, config = self._random, self.config
        key = f"key {random.randrange(1 + config.calls_max // 3)}" if random.random() < config.keyed else ""
        parts = PARTS_WINDOW if not key and random.random() < config.streams else 0
        count = 1 if key or parts else random.randint(1, config.call_batch)
        seconds = random.choice((0.2, 1.0, 3.0, 8.0, 30.0))
        batch = self.call(count, seconds, random.choice((1, 2, 4)), key, parts, random.choice(self.services))
        if random.random() < config.cancelled:
            self._cancels.append((now + random.uniform(0.0, seconds), batch, random.randrange(count)))

    def call(self, count: int, seconds: float, attempts: int = 4, key: str = "", parts: int = 0, service: str = "s0") -> Batch:
        process = self.process
        now = process.clock.now()
        batch = Batch(self.next, count)
        self.next, self.left = self.next + count, self.left - count
        titles = [key.encode() + service.encode() if key else b"call %s %d" % (process.client[:4].hex().encode(), batch.first + index)
                  for index in range(count)]  # fmt: skip
        moment = process.clock.moment(now + seconds)
        assert moment is not None
        for index, title in enumerate(titles):
            process.oracle.calls.made(CallKey(process.client, batch.first + index), title, bool(key), moment)
        process.machine.call(service, Parcel.of(titles), batch, now + seconds, attempts, key, parts)
        self.batches.append(batch)
        return batch

    def cancel(self, batch: Batch, index: int) -> None:
        if index in batch.open:
            batch.open.discard(index)
            self.process.oracle.calls.cancelled(CallKey(self.process.client, batch.first + index))
            self.process.machine.cancel(batch, index)

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, ev.Answered) and event.ticket in self.batches:
            for index, body in enumerate(event.parcel.messages(), event.offset):
                self._ended(event.ticket, index, event.status, bytes(body))
        elif isinstance(event, ev.Failed) and event.ticket in self.batches:
            for index in range(event.offset, event.offset + event.count):
                self._ended(event.ticket, index, event.outcome, b"")
        elif isinstance(event, ev.Parts) and event.ticket in self.batches:
            batch, count = event.ticket, event.parcel.count
            require(event.first == batch.parts + 1, f"part {event.first} of a stream after {batch.parts}")
            batch.parts += count
            self.process.machine.more(batch, batch.parts + PARTS_WINDOW, batch.parts)

    def _ended(self, batch: Batch, index: int, outcome: Any, body: bytes) -> None:
        batch.open.discard(index)
        if outcome is Status.END:
            body, _, parts = body.rpartition(b" parts ")
            require(int(parts) == batch.parts, f"a stream of {parts!r} parts ends after {batch.parts}")
        self.process.oracle.calls.ended(CallKey(self.process.client, batch.first + index), outcome, body, self.process.awake_since)


class Serving:
    """A handler at work on one call."""

    def __init__(self, lease: HeldLease, index: int, title: bytes, ends: float, parts: int) -> None:
        self.lease, self.index, self.title, self.ends = lease, index, title, ends
        self.parts, self.made = parts, 0  # of a stream: to make, and made


class Server:
    """Answers calls of one service: well, badly, slowly, or not at all."""

    def __init__(self, process: ClientProcess, service: str, config: Config) -> None:
        self.process, self.queue, self.config = process, SERVICE_MARK + service, config
        self.calm = False
        self.runs: list[Serving] = []
        self.waiting: list[tuple[HeldLease, int]] = []
        self._allowed: dict[int, int] = {}  # parts, by token
        self._started = 0
        self._random = process.scheduler.random(f"server {process.name} {service}")

    @property
    def deadline(self) -> float:
        return min([*(run.ends for run in self.runs), *(lease.ends_at for lease, _ in self.waiting)], default=inf)

    def quiet(self) -> None:
        self.calm = True

    def handle(self, event: Any, now: float) -> None:
        if not isinstance(event, ev.Granted | ev.Cancelled | ev.Revoked | ev.Allowed) or event.lease.queue != self.queue:
            return
        machine, lease = self.process.machine, event.lease
        match event:
            case ev.Granted():
                assert lease.terms is not None
                self.waiting += [(lease, index) for index in range(lease.count)]
                self._allowed[lease.token] = lease.terms.parts
            case ev.Cancelled():
                for hand in [h for h in self.waiting if h[0] is lease and event.offset <= h[1] < event.offset + event.count]:
                    self._give_back(*hand)
                for run in self.runs:
                    if run.lease is lease and event.offset <= run.index < event.offset + event.count:
                        run.ends, run.parts = now, run.made
            case ev.Revoked():
                for hand in [hand for hand in self.waiting if hand[0] is lease]:
                    self.waiting.remove(hand)
                    machine.drop(*hand, 1)
            case ev.Allowed():
                self._allowed[lease.token] = max(self._allowed.get(lease.token, 0), event.parts)

    def _give_back(self, lease: HeldLease, index: int) -> None:
        self.waiting.remove((lease, index))
        self.process.machine.back(lease, index, 1, BackKind.UNSTARTED)

    def pump(self, now: float) -> None:
        machine, config = self.process.machine, self.config
        for run in [run for run in self.runs if run.ends <= now]:
            self._finish(run, now)
        for hand in [hand for hand in self.waiting if now >= hand[0].ends_at]:
            self._give_back(*hand)
        self._start(now)
        if not self.process.alive:
            return
        state = machine.consumers.of(self.queue)
        if not machine.stopping:
            state.fixed, state.autos = config.credit, int(not config.credit)
        state.report(self._started, len(self.waiting), now)
        excess = state.excess if not machine.stopping else len(self.waiting)
        for hand in self.waiting[len(self.waiting) - excess :]:
            self._give_back(*hand)
        state.buffered = len(self.waiting)

    def _start(self, now: float) -> None:
        process, config = self.process, self.config
        while len(self.runs) < config.handlers and self.waiting and now < self.waiting[0][0].starts_until:
            lease, index = self.waiting.pop(0)
            title = bytes(lease.parcel.messages()[index])  # type: ignore[union-attr]
            process.oracle.calls.start(process.client, lease.token, lease.qseq + index, title)
            self._started += 1
            process.scheduler.note(f"{process.name} starts call {lease.qseq + index}")
            if config.poison > 0 and process.scheduler.random(f"poison {title!r}").random() < config.poison:
                process.scheduler.hits["poison"] += 1
                process.kill()
                return
            parts = self._random.randint(0, PARTS_MAX) if lease.terms is not None and lease.terms.parts else 0
            self.runs.append(Serving(lease, index, title, now + self._seconds(lease), parts))

    def _seconds(self, lease: HeldLease) -> float:
        if self.calm:
            return 0.001
        if self._random.random() < self.config.slow_handlers:
            return 3 * lease.seconds
        return self._random.expovariate(1 / self.config.handler_seconds)

    def _finish(self, run: Serving, now: float) -> None:
        machine, lease, chance = self.process.machine, run.lease, self._random
        if lease.revoked:
            self.runs.remove(run)
            machine.drop(lease, run.index, 1)
            return
        if run.made < run.parts:
            self._make_parts(run, now)
            return
        self.runs.remove(run)
        answer = ANSWERED + run.title + b" %d:%d" % (lease.token, lease.qseq + run.index)
        if not self.calm and chance.random() < self.config.failing:
            if chance.random() < 0.3:
                self.process.oracle.calls.handed_back(lease.token, lease.qseq + run.index)
                machine.back(lease, run.index, 1, chance.choice((BackKind.NACK, BackKind.REJECT)), -1.0, "simulated failure")
                return
            machine.reply(lease, run.index, 1, Status.ERROR, Parcel.of([answer]))
        elif lease.terms is not None and lease.terms.parts:
            machine.reply(lease, run.index, 1, Status.END, Parcel.of([answer + b" parts %d" % run.parts]))
        else:
            machine.reply(lease, run.index, 1, Status.OK, Parcel.of([answer]))

    def _make_parts(self, run: Serving, now: float) -> None:
        count = min(self._random.randint(1, 3), run.parts - run.made, self._allowed[run.lease.token] - run.made)
        if count > 0:
            self.process.machine.part(run.lease, run.index, Parcel.of([b"part %d" % (run.made + i) for i in range(count)]))
            run.made += count
        run.ends = now + 0.02
