"""A node's process: the real machine and the real host on a simulated disk and simulated links."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from zmqkit import framing, wire
from zmqkit.errors import JournalFailed
from zmqkit.host import Host
from zmqkit.machines.node import NodeMachine
from zmqkit.machines.output import Output
from zmqkit.simulator.checks import Oracle
from zmqkit.simulator.clock import Clock, Scheduler
from zmqkit.simulator.disk import Disk, SimLog
from zmqkit.simulator.net import HEARTBEAT, Link, Net

COUNT_EVERY = 3  # turns; recounting all containers costs as much as a turn
COMPARE_EVERY = 12  # and so does comparing every message


class WatchedMachine(NodeMachine):
    """Shows the oracle what it gives to its host."""

    def __init__(self, log: SimLog, jitter: Callable[[], float]) -> None:
        super().__init__(log.node, log.epoch, name="sim", durability="disk", jitter=jitter)
        self.outputs: list[Output] = []

    def take(self) -> Output:
        output = super().take()
        if output.records or output.events:
            self.outputs.append(output)
        return output


class NodeProcess:
    def __init__(self, scheduler: Scheduler, net: Net, disk: Disk, oracle: Oracle, drain_max: int) -> None:
        self.scheduler, self.net, self.disk, self.oracle = scheduler, net, disk, oracle
        self.clock = Clock(scheduler)
        self.listening = self.paused = False
        self.machine: WatchedMachine | None = None
        self.host: Host | None = None
        self.log: SimLog | None = None
        self.turns = 0
        self._drain_max = drain_max
        self._random = scheduler.random("node")
        self._inbox: list[tuple[bytes, list[bytes]]] = []
        self._life = 0
        self._turn_at: int | None = None
        net.listener = self

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.listening:
            return
        self._life += 1
        self.log = self.disk.open()
        self.scheduler.note(f"node starts, epoch {self.log.epoch}")
        self.machine = WatchedMachine(self.log, self._random.random)
        self.host = Host(self.machine, self.log, self._deliver, self._wake)
        self.host.recover(self.clock.now())
        self.oracle.recovered(self.machine, self.disk.last, self.log.epoch)
        self.listening, self.paused = True, False
        self._inbox.clear()
        self._turn_at = None
        self._turn_by(self.scheduler.now)

    def crash(self, power: bool) -> None:
        if not self.listening or self.log is None:
            return
        self.scheduler.note("node loses power" if power else "node is killed")
        self._life += 1
        self.listening = False
        self.log.kill()
        self.net.kill_all(silent=power)
        self.disk.lose(power)
        if self.disk.config.volatile:
            self.oracle.wiped()
        self.machine = self.host = self.log = None

    def pause(self) -> None:
        """SIGSTOP. Its kernel goes on to take packets; nobody answers ZMTP heartbeats."""
        if self.listening and not self.paused:
            self.scheduler.note("node is stopped")
            self.paused = True
            for link in list(self.net.links.values()):
                self.scheduler.after(self._random.randint(*HEARTBEAT), partial(self._missed, link, self._life))

    def _missed(self, link: Link, life: int) -> None:
        if self.paused and life == self._life:
            self.net.kill(link)

    def resume(self) -> None:
        if self.paused:
            self.scheduler.note("node goes on")
            self.paused = False
            self._turn_by(self.scheduler.now)

    # -- turns ----------------------------------------------------------------------------------------------------------

    def arrived(self, peer: bytes, frames: list[bytes]) -> None:
        self._inbox.append((peer, frames))
        self._turn_by(self.scheduler.now + self._random.randint(1, 200))

    def _wake(self) -> None:
        self._turn_by(self.scheduler.now + 1)

    def _turn_by(self, moment: int | None) -> None:
        if moment is None or (self._turn_at is not None and self._turn_at <= moment):
            return
        self._turn_at, life = max(moment, self.scheduler.now), self._life
        at = self._turn_at
        self.scheduler.at(at, lambda: self._turn(life, at))

    def _turn(self, life: int, at: int) -> None:
        if life != self._life or self._turn_at != at:
            return
        self._turn_at = None
        if self.paused or self.machine is None or self.host is None:
            return
        if self.host.failed is not None:
            self._fail_stop()
            return
        now = self.clock.now()
        batch, self._inbox = self._inbox[: self._drain_max], self._inbox[self._drain_max :]
        for peer, frames in batch:
            self._look(peer, frames)
            self.machine.receive(peer, frames, now)
        try:
            self.host.turn(now, drained=not self._inbox)
        except JournalFailed:
            self._fail_stop()
            return
        for output in self.machine.outputs:
            self.oracle.took(output)
        self.machine.outputs.clear()
        self.turns += 1
        if self.turns % COUNT_EVERY == 0:
            self.oracle.turned(self.machine, full=self.turns % COMPARE_EVERY == 0)
        self._turn_by(self.clock.moment(self.machine.deadline))
        if self._inbox:
            self._turn_by(self.scheduler.now + 20)

    def _look(self, peer: bytes, frames: list[bytes]) -> None:
        """The oracles want to know what is asked."""
        link = self.net.known.get(peer)
        if link is None or self.machine is None or frames[0][2] not in (wire.Kind.CALL, wire.Kind.SUB):
            return
        command = framing.decode(frames)
        if isinstance(command, wire.Call):
            self.oracle.calls.arrived(link.dialer.client, command)
        elif isinstance(command, wire.Sub):
            self.oracle.topics.arrived(link.dialer.client, command, self.machine)

    def _fail_stop(self) -> None:
        """A sync failed: nothing is confirmed after it; the process ends, and what was not durable may be lost."""
        self.crash(power=True)
        self.scheduler.after(300_000, self.start)

    # -- sends ----------------------------------------------------------------------------------------------------------

    def _deliver(self, peer: bytes, command: wire.Command) -> str | None:
        assert self.log is not None
        link = self.net.links.get(peer)
        frames = framing.encode(command)
        reason = self.net.send_down(peer, frames)
        if link is not None and reason is None:
            command = framing.decode(frames)
            self.oracle.said(link.dialer.client, command, self.log.durable)
            self.scheduler.note(f"node -> {link.dialer.name} {brief(command)}")
        return reason


def brief(command: wire.Command) -> str:
    """A command in a line of the trace."""
    name = type(command).__name__.upper()
    match command:
        case wire.Put() | wire.Confirm() | wire.Refused():
            return f"{name} {_name(command.queue)} {command.first}+{command.count}"
        case wire.Sub():
            prefixes, fresh = " ".join(map(repr, command.prefixes)), " ".join(map(repr, command.fresh))
            start = f"{wire.Start(command.start).name} {command.epoch}.{command.seq}"
            return f"{name} {command.number} {command.topic} [{prefixes}] [{fresh}] {start} {command.name}".rstrip()
        case wire.Reset():
            scope = wire.Scope(command.scope).name
            return f"{name} {command.number} at {command.epoch}.{command.seq} gap {command.first}-{command.last} {scope}"
        case wire.Live():
            return f"{name} {command.number} {command.first}+{command.span} behind {command.prev}"
        case wire.Chunk() | wire.At():
            return f"{name} {command.number} at {command.seq}"
        case wire.Seen():
            return f"{name} {command.number} {command.taken}"
        case wire.Pos():
            return f"{name} {command.number} {command.epoch}.{command.seq}"
        case wire.Lease():
            return f"{name} {_name(command.queue)} {short(command.token)} {command.qseq}+{command.count} attempt {command.attempt}"
        case wire.Ready():
            held = " ".join(f"{short(entry.token)}({entry.open})" for entry in command.held)
            windows = " ".join(f"{_name(window.queue)}:{window.messages}" for window in command.windows)
            return f"{name} {command.beat} seen {short(command.seen)} [{windows}] {held}"
        case wire.Echo():
            return f"{name} {command.beat} {' '.join(map(short, command.revoked))}"
        case wire.Done():
            return f"{name} {' '.join(f'{short(t)}:{o}+{c}' for t, o, c in command.ranges)}"
        case wire.Answer():
            return f"{name} {' '.join(f'{short(t)}:{o}+{c}={wire.Verdict(v).name}' for t, o, c, v in command.ranges)}"
        case wire.Back():
            return f"{name} {short(command.token)}:{command.offset}+{command.count} {wire.BackKind(command.kind).name}"
        case wire.Call():
            return f"{name} {command.service} {command.first}+{command.count} for {command.seconds:.3f} s {command.key}".rstrip()
        case wire.Reply():
            return f"{name} {command.serial} {' '.join(f'{_where(n, o)}+{c}={wire.Status(s).name}' for n, o, c, s in command.ranges)}"
        case wire.Cancel():
            return f"{name} {_where(command.number, command.offset)}+{command.count}"
        case wire.Part():
            return f"{name} {_where(command.number, command.offset)} {command.first}+{command.count}"
        case wire.More():
            return f"{name} {_where(command.number, command.offset)} {command.parts} got {command.got}"
        case wire.Hello():
            return f"{name} link {command.link}"
        case wire.Ask():
            return f"{name} {command.number} {command.verb}"
        case _:
            return name


def _name(queue: str) -> str:
    return queue.replace(wire.SERVICE_MARK, "service ").replace(wire.TOPIC_MARK, "topic ")


def _where(number: int, offset: int) -> str:
    """A call, as its caller or its worker names it."""
    return f"{short(number)}:{offset}" if number >> 40 else f"{number}"


def short(token: int) -> str:
    return f"{token >> 40}.{token & (1 << 40) - 1}"
