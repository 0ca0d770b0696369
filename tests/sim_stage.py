"""A stage for stories: one node, clients by name, links of 1 ms, syncs of 5 ms, and a transcript of what was said.

Workers start what they may start at once, and finish only when the story says so.
"""

from __future__ import annotations

from math import inf
from typing import Any, Protocol, TypeVar

from zmqkit import wire
from zmqkit.machines import events as ev
from zmqkit.machines.holdings import HeldLease
from zmqkit.simulator.applications import Asker, Producer
from zmqkit.simulator.checks import Oracle
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.clock import SECOND, Scheduler
from zmqkit.simulator.config import Config
from zmqkit.simulator.disk import Disk, DiskConfig
from zmqkit.simulator.model import Model
from zmqkit.simulator.net import Net, NetConfig
from zmqkit.simulator.nodes import NodeProcess


class InProcess(Protocol):
    """An application of a simulated client."""

    process: ClientProcess


A = TypeVar("A", bound=InProcess)


class Hands:
    """A worker's application."""

    deadline = inf

    def __init__(self, process: ClientProcess, credit: int, handlers: int) -> None:
        self.process, self.credit, self.handlers = process, credit, handlers
        self.running: dict[int, tuple[HeldLease, int]] = {}  # by qseq
        self.started: list[int] = []
        self.verdicts: list[str] = []
        self.revoked: list[int] = []
        self._waiting: list[tuple[HeldLease, int]] = []

    def pump(self, now: float) -> None:
        while self._waiting and len(self.running) < self.handlers and now < self._waiting[0][0].starts_until:
            lease, index = self._waiting.pop(0)
            qseq = lease.qseq + index
            body = bytes(lease.parcel.messages()[index])  # type: ignore[union-attr]
            self.process.oracle.start(self.process.client, lease.token, qseq, body)
            self.process.scheduler.note(f"{self.process.name} starts {qseq}")
            self.started.append(qseq)
            self.running[qseq] = lease, index
        state = self.process.machine.consumers.of("q")
        state.fixed = 0 if self.process.machine.stopping else self.credit
        state.report(len(self.started), len(self._waiting), now)

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, ev.Granted):
            self._waiting += [(event.lease, index) for index in range(event.lease.count)]
        elif isinstance(event, ev.Revoked):
            self.revoked.append(event.lease.qseq)
            for lease, index in self._waiting:
                if lease is event.lease:
                    self.process.machine.drop(lease, index, 1)
            self._waiting = [(lease, index) for lease, index in self._waiting if lease is not event.lease]
        elif isinstance(event, ev.Judged):
            self.verdicts.append(event.verdict.name)

    def ack(self, qseq: int) -> None:
        lease, index = self.running.pop(qseq)
        lease.watched = True
        self.process.machine.done(lease, index, 1, wait=True)
        self.process.turn_by(self.process.scheduler.now)

    def back(self, qseq: int, kind: wire.BackKind, delay: float = 0.0) -> None:
        lease, index = self.running.pop(qseq)
        self.process.machine.back(lease, index, 1, kind, delay, "failed")
        self.process.turn_by(self.process.scheduler.now)


class Stage:
    def __init__(self, segment_records: int = 1000) -> None:
        self.lines: list[str] = []
        self.scheduler = Scheduler(1, self.lines.append)
        self.oracle = Oracle(self.scheduler)
        self.net = Net(self.scheduler, NetConfig((1000, 1000)))
        self.disk = Disk(self.scheduler, DiskConfig((5_000, 5_000), (10, 10), segment_records), self.oracle)
        self.node = NodeProcess(self.scheduler, self.net, self.disk, self.oracle, 256)
        self.node.start()

    def run(self, seconds: float) -> None:
        self.scheduler.run(self.scheduler.now + int(seconds * SECOND))

    def _client(self, name: str) -> ClientProcess:
        return ClientProcess(self.scheduler, self.net, self.oracle, name, 0.0, lambda: None)

    def join(self, application: A, run: float = 0.1) -> A:
        """It, and its process, begin."""
        application.process.applications.append(application)
        application.process.start()
        self.run(run)
        return application

    def producer(self, name: str = "producer", policy: dict[str, Any] | None = None) -> Producer:
        process = self._client(name)
        producer = Producer(process, "q", Config(messages_max=0))
        asker = Asker(process)
        process.applications += [producer, asker]
        process.start()
        if policy:
            asker.ask("declare", queue="q", policy=policy)
        self.run(0.1)
        return producer

    def put(self, producer: Producer, count: int = 1, run: float = 0.1) -> None:
        producer.put(count)
        producer.process.turn_by(self.scheduler.now)
        self.run(run)

    def worker(self, name: str = "worker", credit: int = 1, handlers: int = 1, run: float = 0.1) -> Hands:
        return self.join(Hands(self._client(name), credit, handlers), run)

    def cut(self, what: Producer | Hands, silent: bool = False) -> None:
        assert what.process.link is not None
        self.net.kill(what.process.link, silent)

    def restart(self, down: float = 0.5, power: bool = False) -> None:
        self.node.crash(power)
        self.run(down)
        self.node.start()

    def another_node(self) -> None:
        """Starts at the same place, with an empty log."""
        self.disk.node, self.disk.epoch = b"another node 16b", 0
        self.disk.records.clear()
        self.disk.written = self.disk.durable = 0
        self.oracle.history.clear()
        self.oracle.confirmed.clear()
        self.oracle.model = Model()
        self.node.start()

    @property
    def ends(self) -> dict[str, int]:
        return {kind.removeprefix("ended "): count for kind, count in self.oracle.counts.items() if kind.startswith("ended ")}

    def told(self, *words: str) -> list[str]:
        """Lines of the transcript, without times, that hold any of these words."""
        return [line[14:] for line in self.lines if any(word in line for word in words)]

    def settled(self) -> list[int]:
        return [m.qseq for queue in self.oracle.model.queues.values() for m in queue.messages.values() if m.state == "settled"]
