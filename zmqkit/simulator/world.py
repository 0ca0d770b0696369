"""One seed: a node, its clients, their faults; chaos first, then everything heals and all work must come to its end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, NamedTuple

from zmqkit.simulator.applications import Asker, Producer, Worker
from zmqkit.simulator.books import Book
from zmqkit.simulator.calls import Caller, Server
from zmqkit.simulator.checks import Oracle
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.clock import SECOND, Scheduler
from zmqkit.simulator.config import FAULTS, TOPIC_FAULTS, Config
from zmqkit.simulator.disk import Disk
from zmqkit.simulator.invariants import Violation, require
from zmqkit.simulator.net import Net
from zmqkit.simulator.nodes import NodeProcess, short
from zmqkit.simulator.readers import Publisher, Reader
from zmqkit.simulator.sizes import small

HEAL_SECONDS = 240


class Fault(NamedTuple):
    at: int  # microseconds
    kind: str
    seed: float  # decides whom it hits and for how long


class World:
    def __init__(self, seed: int, config: Config | None = None, trace: Callable[[str], None] | None = None) -> None:
        self.scheduler = Scheduler(seed, trace)
        self.config = config or Config.draw(self.scheduler)
        self.oracle = Oracle(self.scheduler)
        self.oracle.calls.drift = self.config.drift > 0
        self.net = Net(self.scheduler, self.config.net)
        self.disk = Disk(self.scheduler, self.config.disk, self.oracle)
        self.node = NodeProcess(self.scheduler, self.net, self.disk, self.oracle, self.config.drain_max)
        self.clients: dict[str, ClientProcess] = {}  # by role: "producer 1", "worker 2", "admin"
        self.producers: list[Producer | Publisher] = []
        self.books: dict[str, Book] = {}  # by role: what readers made of their topics
        self.healing = False
        self.faults: list[Fault] | None = None  # instead of the planned ones
        self._random = self.scheduler.random("world")
        self._born = 0

    # -- a run ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        with small(self.config.topic_sizes):
            self._run()

    def _run(self) -> None:
        self.node.start()
        for role in self._roles():
            self._spawn(role)
        self._declare()
        if self._topic_roles():
            self._begin_topics()
        for fault in self.plan() if self.faults is None else self.faults:
            self.scheduler.at(fault.at, partial(self._strike, fault))
        self.scheduler.run(int(self.config.chaos_seconds * SECOND))
        self._heal()
        if not self.scheduler.run(self.scheduler.now + HEAL_SECONDS * SECOND, self._finished):
            self._complain()
        self.oracle.check_promises()

    def plan(self) -> list[Fault]:
        """All faults of this seed, in order: a list, so that a failure can be run again with fewer of them."""
        random, faults = self.scheduler.random("faults"), []
        for kind, every in (FAULTS | TOPIC_FAULTS).items():
            own = Random(random.random())
            moment = own.expovariate(1 / every)
            while kind in self.config.faults and moment < self.config.chaos_seconds:
                faults.append(Fault(int(moment * SECOND), kind, own.random()))
                moment += own.expovariate(1 / every)
        return sorted(faults)

    def _roles(self) -> list[str]:
        producers = [f"producer {i}" for i in range(self.config.producers)]
        callers = [f"caller {i}" for i in range(self.config.callers)]
        return ["admin", *producers, *(f"worker {i}" for i in range(self.config.workers)), *callers]

    def _topic_roles(self) -> list[str]:
        publishers = [f"publisher {i}" for i in range(self.config.publishers)]
        return [*publishers, *(f"reader {i}" for i in range(self.config.readers))]

    @property
    def queues(self) -> list[str]:
        return [f"q{index}" for index in range(self.config.queues)]

    @property
    def topics(self) -> list[str]:
        return [f"t{index}" for index in range(self.config.topics)]

    @property
    def services(self) -> list[str]:
        return [f"s{index}" for index in range(self.config.services)]

    def _spawn(self, role: str) -> None:
        self._born += 1
        random = self._random
        drift = random.uniform(-self.config.drift, self.config.drift)
        name = f"{role.replace(' ', '')}#{self._born}"
        process = ClientProcess(self.scheduler, self.net, self.oracle, name, drift, partial(self._died, role))
        self.clients[role] = process
        kind = role.partition(" ")[0]
        if kind == "admin":
            process.applications.append(Asker(process))
        if kind == "worker":
            process.applications += [Worker(process, queue, self.config) for queue in self.queues]
        if kind == "worker" and self.config.serving:
            process.applications += [Server(process, service, self.config) for service in self.services]
        if kind == "caller":
            process.applications.append(Caller(process, self.services, self.config))
        if kind == "publisher":
            publisher = Publisher(process, self.topics, self.config)
            self.producers.append(publisher)
            process.applications.append(publisher)
        if kind == "reader":
            process.applications.append(Reader(process, role, self.topics, self.books, self.config))
        if kind == "producer" or (kind == "worker" and self.config.both):
            queue = self.queues[-1] if kind == "worker" else random.choice(self.queues)
            producer = Producer(process, queue, self.config)
            self.producers.append(producer)
            process.applications.append(producer)
        if self.healing:
            self._calm(process)
        process.start()

    def _died(self, role: str) -> None:
        self.scheduler.after(self._random.randint(50_000, 1_000_000), partial(self._spawn, role))

    def _declare(self) -> None:
        config = self.config
        policy = {
            "lease": config.lease, "grace": config.grace, "max_attempts": config.max_attempts, "backoff": [0.2, 2.0],
            "max_messages": config.max_messages or None, "on_full": config.on_full,
        }  # fmt: skip
        for queue in self.queues:
            self.asker.ask("declare", queue=queue, policy=policy)

    def _declare_topics(self, policy: dict[str, Any] | None = None) -> None:
        config = self.config
        given = {"durability": config.durability, "keep_values": config.keep_values, "max_messages": config.history}
        for topic in self.topics:
            self.asker.ask("topic_declare", topic=topic, policy={**given, **(policy or {})})

    def _begin_topics(self) -> None:
        """Once all are declared; whoever was to say so may have gone."""
        told = [result for result in self.asker.told if "keep_values" in result.get("policy", {})]
        if len(told) < len(self.topics):
            if not self.asker.process.machine.asks.open:
                self._declare_topics()
            self.scheduler.after(50_000, self._begin_topics)
            return
        for role in self._topic_roles():
            self._spawn(role)

    @property
    def asker(self) -> Asker:
        asker = self.clients["admin"].applications[0]
        assert isinstance(asker, Asker)
        return asker

    # -- chaos ----------------------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        self.scheduler.hits[fault.kind] += 1
        random = Random(fault.seed)
        lasts = int(random.choice((0.1, 1.0, 3.0, 6.0)) * random.uniform(0.5, 1.5) * SECOND)
        client = self.clients[random.choice(list(self.clients))]
        node, disk, after = self.node, self.disk, self.scheduler.after
        match fault.kind:
            case "kill node" | "cut power":
                node.crash(power=fault.kind == "cut power")
                after(lasts // 2, node.start)
            case "stop node":
                node.pause()
                after(lasts, node.resume)
            case "slow disk":
                disk.stalled_until = self.scheduler.now + lasts
            case "full disk":
                disk.full = True
                after(lasts, partial(setattr, disk, "full", False))
            case "sync error":
                disk.break_next_sync = True
            case "damaged checkpoint":
                disk.damage_newest_checkpoint = True
            case "unreachable":
                self.scheduler.note(f"{client.name} is unreachable")
                self.net.unreachable[client.name] = self.scheduler.now + lasts
                if client.link is not None:
                    self.net.kill(client.link, silent=True)
            case kind if kind in TOPIC_FAULTS:
                self._strike_topics(kind, random, lasts)
            case _:
                self._strike_client(fault.kind, client, random, lasts)

    def _strike_client(self, kind: str, client: ClientProcess, random: Random, lasts: int) -> None:
        after, queue = self.scheduler.after, random.choice(self.queues)
        match kind:
            case "kill client":
                client.kill()
            case "stop client":
                client.pause()
                after(lasts, client.resume)
            case "leave" | "hasty leave":
                client.stop(hasty=kind == "hasty leave")
            case "cut link" | "half-open link":
                if client.link is not None:
                    self.scheduler.note(f"{kind} of {client.name}")
                    self.net.kill(client.link, silent=kind == "half-open link")
            case "pause queue":
                self.asker.ask("pause", queue=queue)
                after(lasts, lambda: self.asker.ask("resume", queue=queue))
            case "look":
                self.asker.ask(random.choice(("info", "list")), queue=queue)
                self.asker.ask("peek", queue=queue, state=random.choice(("ready", "leased", "delayed", "dead")), count=5)
                self.asker.ask("dead_list", queue=queue, count=5)
            case _:
                self.asker.ask(kind, queue=queue)

    def _strike_topics(self, kind: str, random: Random, lasts: int) -> None:
        readers = [reader for client in self.clients.values() for reader in client.applications if isinstance(reader, Reader)]
        if kind == "declare topic":
            changes = {"max_messages": random.choice((5, 20, 60)), "durability": random.choice((None, "memory", self.config.durability))}
            self._declare_topics(changes)
        elif kind == "look at topics":
            self.asker.ask("topic_info", topic=random.choice(self.topics))
            self.asker.ask("topic_list")
        elif readers:
            reader = random.choice(readers)
            now = reader.process.clock.now()
            if kind == "change prefixes":
                reader.change(random)
            elif kind == "stop taking":
                reader.hold_until = now + lasts / SECOND
            else:
                reader.leave(now)
            reader.process.turn_by(self.scheduler.now)

    # -- healing --------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.scheduler.note("all heals")
        self.healing = True
        self.disk.full = self.disk.break_next_sync = False
        self.disk.stalled_until = 0
        self.net.unreachable.clear()
        self.node.resume()
        self.node.start()
        for client in list(self.clients.values()):
            client.resume()
            self._calm(client)
        self._resume_queues()

    def _resume_queues(self) -> None:
        """Again and again: the one who asks may be about to leave."""
        for queue in self.queues:
            self.asker.ask("resume", queue=queue)
        self.scheduler.after(5 * SECOND, self._resume_queues)

    def _calm(self, client: ClientProcess) -> None:
        for application in client.applications:
            if isinstance(application, Producer | Worker | Caller | Server | Publisher | Reader):
                application.quiet()

    def _waiting_producers(self) -> list[Producer | Publisher]:
        return [producer for producer in self.producers if producer.process.alive and producer.unanswered]

    def _finished(self) -> bool:
        return not (
            self._waiting_producers() or self.oracle.unfinished() or self.oracle.calls.unfinished() or self._kept_calls() or self._behind()
        )

    def _kept_calls(self) -> list[str]:
        """Whose calls, or answers, the node keeps, of those who are there; and which of its services have calls that wait or run."""
        machine = self.node.machine
        if machine is None:
            return ["the node is down"]
        alive = {process.client: process.name for process in self.clients.values() if process.alive}
        running = [f"lease {short(lease.token)}" for lease in machine.core.leases.values() if lease.queue < 0 and lease.open]
        return [alive[client] for client in machine.calls.callers if client in alive] + running

    def _behind(self) -> list[str]:
        """Readers who are not at the head of their topic, and topics whose values are to end yet."""
        machine = self.node.machine
        if machine is None:
            return ["the node is down"]
        found = []
        for name, log in self.oracle.topics.logs.items():
            ends = [key for key, update in log.states[-1].items() if update.end is not None and log.policy.keep_values]
            found += [f"{ends} of {name} are to end" for _ in ends[:1]]
        for client in self.clients.values():
            for reader in client.applications:
                if isinstance(reader, Reader) and client.alive:
                    found += reader.behind(machine.topics)
        return found

    def _complain(self) -> None:
        unfinished = self.oracle.unfinished()
        where = {self.oracle.model.keys[key].state for key in unfinished}
        require(not unfinished, f"{len(unfinished)} confirmed messages come to no end after all has healed: {where} {unfinished[:3]}")
        waiting = [f"{producer.process.name} {producer.unanswered}" for producer in self._waiting_producers()]
        require(not waiting, f"puts without an answer after all has healed: {waiting}")
        calls = self.oracle.calls.unfinished()
        require(not calls, f"{len(calls)} calls have no outcome after all has healed: {[key.number for key in calls[:5]]}")
        kept = self._kept_calls()
        require(not kept, f"the node still keeps calls after all has healed: {kept}")
        behind = self._behind()
        require(not behind, f"after all has healed: {behind}")


class Outcome(NamedTuple):
    seed: int
    failure: Exception | None
    world: World


def run_seed(seed: int, config: Config | None = None, trace: Callable[[str], None] | None = None) -> Outcome:
    """Any exception in a machine, and every broken promise, is a failure."""
    world = World(seed, config, trace)
    try:
        world.run()
    except Exception as failure:
        return Outcome(seed, failure, world)
    return Outcome(seed, None, world)


__all__ = ["Fault", "Outcome", "Violation", "World", "run_seed"]
