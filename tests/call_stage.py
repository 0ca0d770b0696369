"""A stage for stories of calls: callers and workers by name, and workers that finish only when the story says so."""

from __future__ import annotations

from math import inf
from typing import Any

from sim_stage import Stage

from zmqkit.machines import events as ev
from zmqkit.machines.holdings import HeldLease
from zmqkit.parcel import Parcel
from zmqkit.simulator.call_checks import ANSWERED, CallKey
from zmqkit.simulator.calls import Caller
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.config import Config
from zmqkit.wire import SERVICE_MARK, BackKind, Status

MARKED = SERVICE_MARK + "s0"


class CallHands:
    """A worker's application."""

    deadline = inf

    def __init__(self, process: ClientProcess, credit: int, handlers: int) -> None:
        self.process, self.credit, self.handlers = process, credit, handlers
        self.running: dict[int, tuple[HeldLease, int]] = {}  # by number
        self.waiting: list[tuple[HeldLease, int]] = []
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.verdicts: list[str] = []

    def pump(self, now: float) -> None:
        while self.waiting and len(self.running) < self.handlers and now < self.waiting[0][0].starts_until:
            lease, index = self.waiting.pop(0)
            number, title = lease.qseq + index, bytes(lease.parcel.messages()[index])  # type: ignore[union-attr]
            self.process.oracle.calls.start(self.process.client, lease.token, number, title)
            self.process.scheduler.note(f"{self.process.name} starts call {number}")
            self.started.append(number)
            self.running[number] = lease, index
        state = self.process.machine.consumers.of(MARKED)
        state.fixed = 0 if self.process.machine.stopping else self.credit
        state.report(len(self.started), len(self.waiting), now)

    def handle(self, event: Any, now: float) -> None:
        match event:
            case ev.Granted():
                self.waiting += [(event.lease, index) for index in range(event.lease.count)]
            case ev.Cancelled():
                self.cancelled += [event.lease.qseq + index for index in range(event.offset, event.offset + event.count)]
                for lease, index in [hand for hand in self.waiting if hand[0] is event.lease]:
                    self.waiting.remove((lease, index))
                    self.process.machine.back(lease, index, 1, BackKind.UNSTARTED)
            case ev.Revoked():
                self.waiting = [hand for hand in self.waiting if hand[0] is not event.lease]
            case ev.Judged():
                self.verdicts.append(event.verdict.name)

    def answer(self, number: int, status: Status = Status.OK) -> None:
        lease, index = self.running.pop(number)
        lease.watched = True
        body = ANSWERED + bytes(lease.parcel.messages()[index]) + b" %d:%d" % (lease.token, number)  # type: ignore[union-attr]
        self.process.machine.reply(lease, index, 1, status, Parcel.of([body]))
        self.process.turn_by(self.process.scheduler.now)


class CallStage(Stage):
    def caller(self, name: str = "caller") -> Caller:
        return self.join(Caller(self._client(name), ["s0"], Config(calls_max=0)))

    def server(self, name: str = "worker", credit: int = 1, handlers: int = 1, run: float = 0.1) -> CallHands:
        return self.join(CallHands(self._client(name), credit, handlers), run)

    def call(self, caller: Caller, count: int = 1, seconds: float = 20.0, run: float = 0.1, **given: Any) -> None:
        caller.call(count, seconds, **given)
        caller.process.turn_by(self.scheduler.now)
        self.run(run)

    def cut_link(self, process: ClientProcess, silent: bool = False) -> None:
        assert process.link is not None
        self.net.kill(process.link, silent)

    def outcomes(self, caller: Caller) -> list[str]:
        """By number."""
        calls = {key: call for key, call in self.oracle.calls.calls.items() if key.client == caller.process.client}
        return [calls[key].outcome.name if calls[key].outcome is not None else "-" for key in sorted(calls)]

    def took(self, caller: Caller, number: int) -> float:
        """Seconds until the transcript's end of that call; the oracle has checked it against the deadline."""
        assert self.oracle.calls.calls[CallKey(caller.process.client, number)].outcome is not None
        return self.scheduler.now / 1e6
