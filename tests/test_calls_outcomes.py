"""Node and client machines wired to each other, links cut and processes killed at random: every call has one outcome, and a true one.

Bodies say which call they belong to, so an answer to another one is seen. All clocks are the same here, so a start after the
deadline is seen too: after the one that the node counts with, for how long a CALL was on its way it cannot know.
"""

from __future__ import annotations

from collections import Counter, deque
from math import inf
from typing import Any

from calls_bench import MARKED, CallBench
from hypothesis import HealthCheck, given, settings, strategies as st

from zmqkit import framing, wire
from zmqkit.machines import events as ev
from zmqkit.machines.events import Outcome
from zmqkit.machines.holdings import HeldLease
from zmqkit.machines.link import ClientMachine
from zmqkit.parcel import Parcel
from zmqkit.wire import BackKind, Status

DEFINITE = {Outcome.NOT_SENT, Outcome.NO_WORKER, Outcome.UNDISPATCHED, Outcome.STOPPING, Outcome.QUOTA}
SLACK = 0.2


class Call:
    def __init__(self, number: int, key: str, deadline: float) -> None:
        self.title, self.key, self.deadline = key or str(number), key, deadline
        self.outcome: Any = None
        self.cancelled = False


class Process:
    """A client: it calls, and it works. What it starts it ends when it is told."""

    def __init__(self, wires: Wires, letter: str) -> None:
        self.wires, self.letter, self.client = wires, letter, letter.encode() * 16
        self.machine = ClientMachine(self.client, lambda: 0.5)
        self.peer = b""
        self.up: deque[list[bytes]] = deque()
        self.lost = False  # its link is cut, and it does not know yet
        self.running: list[tuple[HeldLease, int]] = []
        self.waiting: list[tuple[HeldLease, int]] = []
        self.machine.start(wires.bench.now)

    def pump(self) -> None:
        now = self.wires.bench.now
        for hand in [hand for hand in self.waiting if now < hand[0].starts_until]:
            self.waiting.remove(hand)
            self.running.append(hand)
            self.wires.started(bytes(hand[0].parcel.messages()[hand[1]]))  # type: ignore[union-attr]
        for hand in [hand for hand in self.waiting if now >= hand[0].ends_at]:
            self.waiting.remove(hand)
            self.machine.back(*hand, 1, BackKind.UNSTARTED)
        state = self.machine.consumers.of(MARKED)
        state.fixed = 3 if self.letter in self.wires.serving and not self.machine.stopping else 0
        state.report(0, len(self.waiting), now)
        output = self.machine.take()
        if output.connect is not None:
            self.wires.unplug(self)
            self.peer, self.lost = f"{self.letter}{output.connect}".encode(), False
        self.up.extend([bytes(frame) for frame in framing.encode(command)] for command in output.sends)
        for event in output.events:
            self.handle(event)

    def handle(self, event: Any) -> None:
        match event:
            case ev.Granted():
                self.waiting += [(event.lease, index) for index in range(event.lease.count)]
            case ev.Cancelled():
                for hand in [h for h in self.waiting if h[0] is event.lease and event.offset <= h[1] < event.offset + event.count]:
                    self.waiting.remove(hand)
                    self.machine.back(*hand, 1, BackKind.UNSTARTED)
            case ev.Revoked():
                for hand in [h for h in [*self.waiting, *self.running] if h[0] is event.lease]:
                    self.machine.drop(*hand, 1)
                self.waiting = [hand for hand in self.waiting if hand[0] is not event.lease]
                self.running = [hand for hand in self.running if hand[0] is not event.lease]
            case ev.Answered():
                for index, body in enumerate(event.parcel.messages(), event.offset):
                    self.wires.ended(event.ticket, index, event.status, bytes(body))
            case ev.Failed():
                for index in range(event.offset, event.offset + event.count):
                    self.wires.ended(event.ticket, index, event.outcome, b"")

    def finish(self, index: int, how: int) -> None:
        lease, offset = self.running.pop(index % len(self.running))
        body = bytes(lease.parcel.messages()[offset])  # type: ignore[union-attr]
        if how % 4 == 3:
            self.machine.back(lease, offset, 1, BackKind.NACK, 0.0, "no")
        else:
            self.machine.reply(lease, offset, 1, Status(how % 2), Parcel.of([b"re " + body]))

    def call(self, count: int, key: str, seconds: float, attempts: int) -> None:
        wires = self.wires
        first, deadline = len(wires.calls), wires.bench.now + seconds
        made = [Call(first + index, key, deadline) for index in range(1 if key else count)]
        wires.calls += made
        parcel = Parcel.of([call.title.encode() for call in made])
        self.machine.call("s", parcel, (self.letter, first), deadline, attempts, key)
        wires.owners[self.letter, first] = made


class Wires:
    def __init__(self) -> None:
        self.bench = CallBench()
        self.calls: list[Call] = []
        self.starts = Counter[str]()
        self.until: dict[str, float] = {}  # by title: the latest deadline that the node was told
        self.owners: dict[tuple[str, int], list[Call]] = {}
        self.serving = {"v", "w"}
        self.old: list[tuple[bytes, list[bytes]]] = []  # what is still on its way on links that were given up
        self.processes = {letter: Process(self, letter) for letter in "cdvw"}
        self.settle()

    # -- what is seen ---------------------------------------------------------------------------------------------------

    def started(self, body: bytes) -> None:
        title = body.decode()
        self.starts[title] += 1
        assert self.bench.now <= self.until[title], "started after its deadline, as the node counts it"
        assert title[0] == "k" or self.starts[title] == 1, "started twice without a key"

    def ended(self, ticket: tuple[str, int], index: int, outcome: Any, body: bytes) -> None:
        call = self.owners[ticket][index]
        assert call.outcome is None and not call.cancelled, "two outcomes"
        assert self.bench.now <= call.deadline + SLACK, "an outcome long after the deadline"
        call.outcome = outcome
        if isinstance(outcome, Status):
            assert body.decode() == f"re {call.title}" and self.starts[call.title], "the answer of another call"
        elif outcome in DEFINITE:
            assert call.key or not self.starts[call.title], "said not to be executed, and was started"

    # -- what happens ---------------------------------------------------------------------------------------------------

    def unplug(self, process: Process, arrives: int = 0) -> None:
        """Its link is over. What it has sent may still arrive in part; what it was sent does not."""
        if process.peer:
            self.old += [(process.peer, frames) for frames in list(process.up)[:arrives]]
            self.bench.gone.add(process.peer)
            self.bench.sent.pop(process.peer, None)
        process.up.clear()

    def cut(self, process: Process, arrives: int, silent: bool) -> None:
        self.unplug(process, arrives)
        process.peer = b""
        process.lost = True
        if not silent:
            process.machine.lost(self.bench.now, "cut")

    def deliver(self, process: Process, up: int, down: int) -> None:
        for _ in range(min(up, len(process.up))):
            frames = process.up.popleft()
            if process.peer:
                self.arrive(process.peer, frames)
        self.bench.turn()
        words = self.bench.sent.get(process.peer, []) if process.peer else []
        for command in words[:down]:
            process.machine.hear(command, self.bench.now)
        del words[:down]
        self.pump()

    def arrive(self, peer: bytes, frames: list[bytes]) -> None:
        command = framing.decode(frames)
        if isinstance(command, wire.Call) and peer in self.bench.machine._peers:
            for body in command.parcel.messages():
                title, deadline = bytes(body).decode(), self.bench.now + command.seconds
                known = self.until.get(title)
                self.until[title] = max(known or 0.0, deadline) if command.key else min(known or inf, deadline + 0.02)
        self.bench.machine.receive(peer, frames, self.bench.now)

    def pump(self) -> None:
        for process in self.processes.values():
            process.pump()

    def settle(self) -> None:
        """All that is on its way arrives, and what that brings about."""
        while True:
            for peer, frames in self.old:
                self.arrive(peer, frames)
            self.old.clear()
            for process in self.processes.values():
                self.deliver(process, 1000, 1000)
            if not any(process.up or self.bench.sent.get(process.peer) for process in self.processes.values()):
                return

    def wait(self, seconds: float, delivers: bool = True) -> None:
        end = self.bench.now + seconds
        while self.bench.now < end:
            due = min(self.bench.machine.deadline, *(process.machine.deadline for process in self.processes.values()))
            self.bench.now = min(end, max(self.bench.now + 0.01, due))
            self.bench.turn()
            for process in self.processes.values():
                if process.machine.deadline <= self.bench.now:
                    process.machine.tick(self.bench.now)
            self.pump()
            if delivers:
                self.settle()

    def kill(self, letter: str) -> None:
        process = self.processes[letter]
        self.unplug(process)
        for ticket, calls in self.owners.items():
            if ticket[0] == letter:
                for call in calls:
                    call.cancelled |= call.outcome is None
        del self.processes[letter]
        other = letter.swapcase()
        if letter in self.serving:
            self.serving = self.serving - {letter} | {other}
        self.processes[other] = Process(self, other)  # once each, so that no client id comes twice
        self.pump()

    def crash(self) -> None:
        """The node dies and starts again; every link is cut."""
        for process in self.processes.values():
            self.cut(process, 0, silent=False)
        self.bench = CallBench(self.bench.crash(down=0.0).log, self.bench.now)
        self.old.clear()
        self.pump()

    @property
    def last_deadline(self) -> float:
        return max([call.deadline for call in self.calls], default=0.0)

    def heal(self) -> None:
        for process in self.processes.values():
            if process.lost:
                process.machine.lost(self.bench.now, "cut")
        while self.bench.now < self.last_deadline + 1.0:
            self.work_off()
        for _ in range(10):  # heartbeats, so that the node learns what has come
            self.work_off()

    def work_off(self) -> None:
        self.wait(0.5)
        self.settle()
        for process in self.processes.values():
            while process.running:
                process.finish(0, 0)
        self.settle()

    def step(self, op: int, who: int, a: int, b: int) -> None:
        process = list(self.processes.values())[who % len(self.processes)]
        match op:
            case 0:
                process.call(1 + a % 4, "", (0.3, 2.0, 6.0, 10.0)[b % 4], (1, 4)[a % 2])
                self.pump()
            case 1:
                process.call(1, f"k{a % 3}", (0.3, 2.0, 6.0, 10.0)[b % 4], (1, 2, 4)[a % 3])
                self.pump()
            case 2:
                self.deliver(process, 1 + a, b)
            case 3:
                self.settle()
            case 4 if process.running:
                process.finish(a, b)
                self.pump()
            case 5:
                self.wait((0.01, 0.3, 1.5, 4.0)[a % 4], delivers=b > 1)
            case 6:
                self.cut(process, a, silent=bool(b % 2))
                self.pump()
            case 7 if a == 0:
                self.crash()
            case 7 if a == 1 and process.letter.islower():
                self.kill(process.letter)
            case 8:
                mine = [(ticket, calls) for ticket, calls in self.owners.items() if ticket[0] == process.letter]
                if mine:
                    ticket, calls = mine[a % len(mine)]
                    call = calls[b % len(calls)]
                    process.machine.cancel(ticket, b % len(calls))
                    call.cancelled |= call.outcome is None
                    self.pump()
            case 9:
                self.serving = {"v", "w", "V", "W"} if a % 2 else {"c", "w", "W"}
                self.pump()


WEIGHTS = {0: 5, 1: 2, 2: 3, 3: 5, 4: 3, 5: 3, 6: 2, 7: 1, 8: 1, 9: 1}
kinds = st.sampled_from([kind for kind, weight in WEIGHTS.items() for _ in range(weight)])
steps = st.lists(st.tuples(kinds, st.integers(0, 3), st.integers(0, 5), st.integers(0, 5)), min_size=20, max_size=80)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(steps)
def test_every_call_has_one_outcome_and_a_true_one(ops: list[tuple[int, int, int, int]]) -> None:
    wires = Wires()
    for op in ops:
        wires.step(*op)
    wires.heal()
    assert not [call.title for call in wires.calls if call.outcome is None and not call.cancelled], "no outcome"
    assert not any(process.machine.calling.flights for process in wires.processes.values())
    alive = {process.client for process in wires.processes.values()}
    assert not alive & wires.bench.machine.calls.callers.keys(), "a caller has all outcomes, and the node keeps some"
    assert not any(lease.open for lease in wires.bench.machine.core.leases.values())
