"""The oracle of calls: it knows each call, its starts and its ends, and says at once when one of these promises is broken.

outcome     -> one for each call, by its deadline; none for a cancelled one
answer      -> that of a worker which executed this call, or this key; never one whose worker was told STALE
definite    -> "not sent", "no worker", "not dispatched", "refused": nobody has begun with it, nor will
started     -> inside the deadline; without a key once; with one again only if the node wrote down how the lease before
               ended, or has restarted; never once the key was answered
REPLYs      -> numbered 1, 2, 3… for each caller; one that comes again is the same
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zmqkit import wire
from zmqkit.machines.events import Outcome
from zmqkit.simulator.clock import SECOND, Scheduler
from zmqkit.simulator.invariants import require
from zmqkit.wire import Status

DEFINITE = {Outcome.NOT_SENT, Outcome.NO_WORKER, Outcome.UNDISPATCHED, Outcome.QUOTA, Outcome.STOPPING, Outcome.FORBIDDEN}
DEFINITE_STATUS = {Status.NO_WORKER, Status.UNDISPATCHED}
SLACK_US = 300_000  # for an outcome: the node's verdict, and a turn
DRIFT_US = 100_000  # for a start, where clocks drift
ANSWERED = b"re "


class CallKey(NamedTuple):
    """A call as its caller knows it."""

    client: bytes
    number: int


class Start(NamedTuple):
    at: int
    token: int
    number: int


@dataclass(slots=True)
class CallState:
    title: bytes  # what it is about: its body. Calls of one key are about the same
    keyed: bool
    deadline: int  # true microseconds
    outcome: Any = None
    cancelled: int | None = None  # when
    arrived: int | None = None  # at the node, first
    denied: int | None = None  # the node said first that nobody has begun with it


@dataclass(slots=True)
class Subject:
    """What may be executed: one call, or all calls of a key."""

    keyed: bool
    starts: list[Start] = field(default_factory=list)
    until: int = 0  # the latest deadline that the node knows
    answered_in: int = 0  # epoch in which the node told an answer


class CallOracle:
    def __init__(self, scheduler: Scheduler, logged: set[tuple[int, int]], counts: Counter[str]) -> None:
        self.scheduler, self.counts = scheduler, counts
        self.drift = False
        self.epoch = 0
        self.calls: dict[CallKey, CallState] = {}
        self._logged = logged  # (token, number) of ends that the node wrote down
        self._subjects: dict[bytes, Subject] = {}
        self._denied: set[bytes] = set()  # titles of calls without a key that nobody may begin with any more
        self._tokens: dict[int, tuple[bytes, wire.Lease]] = {}  # to whom
        self._handed_back: set[tuple[int, int]] = set()
        self._answered_by: set[tuple[int, int]] = set()  # token, number: the answer that a caller got
        self._stale: set[tuple[int, int]] = set()
        self._replies: dict[tuple[int, bytes], list[wire.Reply]] = {}

    # -- the caller -----------------------------------------------------------------------------------------------------

    def made(self, key: CallKey, title: bytes, keyed: bool, deadline: int) -> None:
        self.calls[key] = CallState(title, keyed, deadline)
        self._subjects.setdefault(title, Subject(keyed))
        self.counts["calls"] += 1

    def cancelled(self, key: CallKey) -> None:
        call = self.calls[key]
        if call.outcome is None:
            call.cancelled = self.scheduler.now
            self.counts["calls cancelled"] += 1

    def abandoned(self, client: bytes) -> None:
        """The process of this caller has ended."""
        for key, call in self.calls.items():
            if key.client == client and call.outcome is None:
                call.cancelled = self.scheduler.now

    def ended(self, key: CallKey, outcome: Status | Outcome, body: bytes, awake_since: int) -> None:
        """The caller heard this. It could hear nothing before `awake_since`."""
        call, now = self.calls[key], self.scheduler.now
        if call.cancelled == now:
            return  # it has ended in the very turn in which it was cancelled
        require(call.outcome is None, f"call {key.number} ends as {outcome.name}, and ended as {call.outcome} before")
        require(call.cancelled is None, f"call {key.number} was cancelled, and ends as {outcome.name}")
        late = now - max(call.deadline, awake_since)
        require(late <= SLACK_US, f"call {key.number} ends {late / SECOND:.3f} s after its deadline")
        call.outcome = outcome
        self.counts[f"call ended {outcome.name}"] += 1
        if isinstance(outcome, Status):
            self._answered(key, call, body)
        elif outcome in DEFINITE:
            self._is_definite(key, call, outcome)

    def _answered(self, key: CallKey, call: CallState, body: bytes) -> None:
        head, _, rest = body.rpartition(b" ")
        place, _, number = rest.partition(b":")
        require(head == ANSWERED + call.title, f"call {key.number} about {call.title!r} gets the answer {body!r}")
        said = int(place), int(number)
        require(said not in self._stale, f"call {key.number} gets the answer of {said}, which was told STALE")
        self._answered_by.add(said)

    def _is_definite(self, key: CallKey, call: CallState, outcome: Outcome) -> None:
        until = self.scheduler.now if call.denied is None else call.denied
        arrived = call.arrived if call.arrived is not None else until
        begun = [start.token for start in self._subjects[call.title].starts if arrived <= start.at < until]
        require(not begun, f"call {key.number} is said to be {outcome.name}, and was started under {begun}")
        require(outcome is not Outcome.NOT_SENT or call.arrived is None, f"call {key.number} is NOT_SENT, and the node has it")
        if not call.keyed:
            self._denied.add(call.title)

    # -- the node -------------------------------------------------------------------------------------------------------

    def arrived(self, client: bytes, command: wire.Call) -> None:
        """The node reads a CALL, and counts its deadline from now on."""
        for index in range(command.count):
            call = self.calls[CallKey(client, command.first + index)]
            subject, until = self._subjects[call.title], self.scheduler.now + int(command.seconds * SECOND) + 1
            first = call.arrived is None
            call.arrived = self.scheduler.now if call.arrived is None else call.arrived
            subject.until = max(subject.until, until) if call.keyed or first else min(subject.until, until + SECOND // 50)

    def said(self, client: bytes, command: wire.Reply) -> None:
        """A REPLY leaves for its caller."""
        kept = self._replies.setdefault((self.epoch, client), [])
        require(command.serial <= len(kept) + 1, f"REPLY {command.serial} to a caller that had {len(kept)}")
        if command.serial <= len(kept):
            same = kept[command.serial - 1]
            require(same.ranges == command.ranges and same.parcel == command.parcel, f"REPLY {command.serial} is not what it was")
            return
        kept.append(command)
        for number, _, count, status in command.ranges:
            for key in (CallKey(client, number + index) for index in range(count)):
                call = self.calls[key]
                if status in DEFINITE_STATUS:
                    call.denied = self.scheduler.now if call.denied is None else call.denied
                elif status <= Status.END:
                    self._subjects[call.title].answered_in = self.epoch

    def refused(self, client: bytes, command: wire.Refused) -> None:
        if command.code != wire.Code.MAYBE_EXECUTED:
            for number in range(command.first, command.first + command.count):
                call = self.calls[CallKey(client, number)]
                call.denied = self.scheduler.now if call.denied is None else call.denied

    def leased(self, client: bytes, command: wire.Lease) -> None:
        self._tokens[command.token] = client, command
        self.counts["leases of calls"] += 1

    def knows(self, token: int) -> bool:
        return token in self._tokens

    def judged(self, token: int, offset: int, count: int, verdict: wire.Verdict) -> None:
        """The node answers a worker's REPLY."""
        first = self._tokens[token][1].qseq + offset
        self.counts[f"reply {verdict.name}"] += count
        if verdict is wire.Verdict.STALE:
            denied = [(token, number) for number in range(first, first + count)]
            require(not self._answered_by & set(denied), f"{denied} are told STALE, and a caller has that answer")
            self._stale.update(denied)

    # -- the worker -----------------------------------------------------------------------------------------------------

    def start(self, client: bytes, token: int, number: int, title: bytes) -> None:
        """A handler begins."""
        self.counts["calls started"] += 1
        owner, _ = self._tokens[token]
        require(owner == client, f"token {token} is used by another client")
        subject, now = self._subjects[title], self.scheduler.now
        require(title not in self._denied, f"call {number} is started, and was said to be over without a start")
        late = now - subject.until - (DRIFT_US if self.drift else 0)
        require(late <= 0, f"call {number} is started {late / SECOND:.6f} s after its deadline")
        for before in subject.starts:
            require(subject.keyed, f"call {number} is started under {token}, and was under {before.token}, without a key")
            place = before.token, before.number
            explained = place in self._logged or place in self._handed_back or before.token >> 40 != token >> 40
            require(explained, f"key {title!r} is executed again under {token}, and nothing says how {before.token} ended")
            self.counts["keys executed again"] += 1
        require(subject.answered_in != token >> 40, f"key {title!r} is executed under {token}, and was answered")
        subject.starts.append(Start(now, token, number))

    def handed_back(self, token: int, number: int) -> None:
        """Its worker says that it failed, and is not to be blamed for nothing."""
        self._handed_back.add((token, number))

    # -- the end --------------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[CallKey]:
        return [key for key, call in self.calls.items() if call.outcome is None and call.cancelled is None]
