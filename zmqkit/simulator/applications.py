"""What simulated clients do: put messages, work on messages, ask things. Each tells the oracle what it sees."""

from __future__ import annotations

from math import inf
from typing import Any

from zmqkit.machines import events as ev
from zmqkit.machines.holdings import HeldLease
from zmqkit.parcel import Parcel
from zmqkit.simulator.checks import body_of
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.config import Config
from zmqkit.simulator.model import Key
from zmqkit.wire import BackKind, Verdict


class Paced:
    """Acts at random moments, `every` so many seconds on average, until nothing is `left`, or it is told to be quiet."""

    def __init__(self, process: ClientProcess, name: str, left: int, every: float) -> None:
        self.process, self.left, self._every = process, left, every
        self._random = process.scheduler.random(name)
        self._at = process.clock.now()

    @property
    def deadline(self) -> float:
        return self._at if self.left > 0 else inf

    def quiet(self) -> None:
        self.left = 0

    def is_due(self, now: float) -> bool:
        """Then the next moment is drawn, too."""
        due = self.left > 0 and now >= self._at
        if due:
            self._at = now + self._random.expovariate(1 / self._every)
        return due


class Producer(Paced):
    """Puts batches into one queue."""

    def __init__(self, process: ClientProcess, queue: str, config: Config) -> None:
        super().__init__(process, f"producer {process.name} {queue}", config.messages_max, config.put_every)
        self.queue, self.config = queue, config
        self.unanswered: dict[int, int] = {}  # first number -> count
        self.next = 1

    def pump(self, now: float) -> None:
        if self.is_due(now) and self.process.machine.has_room(self.queue, full=True):
            self.put(self._random.randint(1, self.config.put_messages))

    def put(self, count: int) -> None:
        first, client = self.next, self.process.client
        parcel = Parcel.of([body_of(client, self.queue, number) for number in range(first, first + count)])
        self.process.machine.put(self.queue, parcel, (self, first))
        self.unanswered[first] = count
        self.next += count
        self.left -= count

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, ev.Stored | ev.Rejected) and event.ticket[0] is self:
            first = event.ticket[1]
            count = self.unanswered.pop(first)
            key = Key(self.process.client, self.queue, first)
            if isinstance(event, ev.Stored):
                self.process.oracle.stored(key, count, event.qseq)
            else:
                self.process.oracle.rejected(key, count)


class Run:
    """A handler at work on messages first… of a lease."""

    def __init__(self, lease: HeldLease, first: int, count: int, ends: float) -> None:
        self.lease, self.first, self.count, self.ends = lease, first, count, ends


class Worker:
    """Handles messages of one queue, some of them badly, some slowly, some not at all."""

    def __init__(self, process: ClientProcess, queue: str, config: Config) -> None:
        self.process, self.queue, self.config = process, queue, config
        self.calm = False  # from now on all goes well and fast
        self.runs: list[Run] = []
        self._hands: list[tuple[HeldLease, list[int]]] = []  # leases, and which of their messages wait
        self._started = 0
        self._random = process.scheduler.random(f"worker {process.name} {queue}")

    @property
    def deadline(self) -> float:
        return min((run.ends for run in self.runs), default=inf)

    @property
    def waiting(self) -> int:
        return sum(len(indexes) for _, indexes in self._hands)

    def quiet(self) -> None:
        self.calm = True

    # -- the machine's events -------------------------------------------------------------------------------------------

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, ev.Granted) and event.lease.queue == self.queue:
            self._hands.append((event.lease, list(range(event.lease.count))))
        elif isinstance(event, ev.Revoked) and event.lease.queue == self.queue:
            self._drop_waiting(event.lease)
        elif isinstance(event, ev.Judged) and event.lease.queue == self.queue:
            self.process.oracle.counts[f"heard {Verdict(event.verdict).name}"] += event.count

    def _drop_waiting(self, lease: HeldLease) -> None:
        for held, indexes in self._hands:
            if held is lease:
                for index in indexes:
                    self.process.machine.drop(lease, index, 1)
        self._hands = [(held, indexes) for held, indexes in self._hands if held is not lease]

    # -- turns ----------------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        machine, config = self.process.machine, self.config
        for run in [run for run in self.runs if run.ends <= now]:
            self.runs.remove(run)
            self._finish(run)
        self._start(now)
        if not self.process.alive:
            return
        state = machine.consumers.of(self.queue)
        if not machine.stopping:
            state.fixed, state.autos = config.credit, int(not config.credit)
        state.report(self._started, self.waiting, now)
        if state.excess:
            self._give_back(state.excess)

    def _give_back(self, count: int) -> None:
        while count and self._hands:
            lease, indexes = self._hands[-1]
            index = indexes.pop()
            self.process.machine.back(lease, index, 1, BackKind.UNSTARTED)
            self.process.machine.consumers.of(self.queue).buffered -= 1
            count -= 1
            if not indexes:
                self._hands.pop()

    def _start(self, now: float) -> None:
        while len(self.runs) < self.config.handlers and self._hands:
            lease, indexes = self._hands[0]
            if now >= lease.starts_until:
                return
            count = len(indexes) if self.config.batched and indexes == list(range(indexes[0], indexes[0] + len(indexes))) else 1
            first = indexes[0]
            del indexes[:count]
            if not indexes:
                self._hands.pop(0)
            bodies = [bytes(body) for body in lease.parcel.messages()[first : first + count]]  # type: ignore[union-attr]
            for offset, body in enumerate(bodies):
                self.process.oracle.start(self.process.client, lease.token, lease.qseq + first + offset, body)
            self._started += count
            self.process.scheduler.note(f"{self.process.name} starts {lease.qseq + first}+{count} of {self.queue}")
            if any(self._kills(body) for body in bodies):
                self.process.scheduler.hits["poison"] += 1
                self.process.kill()
                return
            self.runs.append(Run(lease, first, count, now + self._seconds(lease)))

    def _kills(self, body: bytes) -> bool:
        return self.config.poison > 0 and self.process.scheduler.random(f"poison {body!r}").random() < self.config.poison

    def _seconds(self, lease: HeldLease) -> float:
        if self.calm:
            return 0.001
        if self._random.random() < self.config.slow_handlers:
            return 3 * lease.seconds
        return self._random.expovariate(1 / self.config.handler_seconds)

    def _finish(self, run: Run) -> None:
        machine, lease, chance = self.process.machine, run.lease, self._random
        if lease.revoked:
            machine.drop(lease, run.first, run.count)
            return
        if not self.calm and chance.random() < 0.05:
            machine.holdings.save(lease, run.first, b"half way")
        if self.calm or chance.random() >= self.config.failing:
            wait = chance.random() < self.config.watched
            lease.watched |= wait
            machine.done(lease, run.first, run.count, wait)
            return
        kinds = [BackKind.NACK, BackKind.NACK, BackKind.SNOOZE, BackKind.REJECT, BackKind.UNSTARTED] + [BackKind.SPLIT] * (run.count > 1)
        machine.back(lease, run.first, run.count, chance.choice(kinds), chance.choice((-1.0, 0.0, 0.3, 2.0)), "simulated failure")


class Asker:
    """Asks, and takes whatever answer."""

    deadline = inf

    def __init__(self, process: ClientProcess) -> None:
        self.process = process
        self.told: list[Any] = []

    def ask(self, verb: str, **arguments: Any) -> None:
        self.process.machine.asks.add(verb, arguments, (self, verb))
        self.process.turn_by(self.process.scheduler.now)

    def pump(self, now: float) -> None:
        pass

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, ev.Replied) and event.ticket[0] is self:
            self.told.append(event.result)
