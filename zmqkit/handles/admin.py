"""Looking into queues: counts, messages in place, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from zmqkit import codec
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Steps, run
from zmqkit.machines.policy import QueuePolicy, TopicPolicy
from zmqkit.parcel import ITEMS_MAX, Parcel

Load = Callable[[Any], Any] | None
List = list  # where a method is called so


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue at one moment: messages by state, live consumers, bytes stored, seconds that the oldest message has waited."""

    name: str
    ready: int
    leased: int
    delayed: int
    dead: int
    consumers: int
    bytes: int
    oldest_age: float
    paused: bool
    policy: QueuePolicy

    @classmethod
    def from_wire(cls, result: dict[str, Any]) -> QueueInfo:
        given = {name: result[name] for name in cls.__slots__}
        return cls(**{**given, "policy": QueuePolicy.from_wire(result["policy"])})


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic at one moment: its newest update, the oldest that is kept, updates and bytes of that history, keys that hold a value,
    live subscribers, positions kept under names, the epoch of its positions, and by queue the prefixes that are bound to it."""

    name: str
    seq: int
    floor: int
    messages: int
    bytes: int
    keys: int
    subscribers: int
    names: int
    epoch: int
    bindings: dict[str, list[str]]
    policy: TopicPolicy

    @classmethod
    def from_wire(cls, result: dict[str, Any]) -> TopicInfo:
        given = {name: result[name] for name in cls.__slots__}
        return cls(**{**given, "policy": TopicPolicy.from_wire(result["policy"])})


Policy = TypeVar("Policy", QueuePolicy, TopicPolicy)
Info = TypeVar("Info", QueueInfo, TopicInfo)


def listing(session: Session, verb: str, what: str, kind: type[Info], timeout: Duration | None) -> Steps[list[Info]]:
    """All queues or topics of the node, by name."""
    found: list[Info] = []
    more = True
    while more:  # a node tells so many at a time as fit one answer
        after = {"after": found[-1].name} if found else {}
        told = yield from session.asking(verb, after, patience(timeout))
        found += [kind.from_wire(info) for info in told[what]]
        more = told["more"]
    return found


def declaring(session: Session, name: str, policy: Policy, timeout: Duration | None) -> Steps[Policy]:
    """Make the queue or topic, or change its policy. Returns what holds from now on."""
    verb, what = ("topic_declare", "topic") if isinstance(policy, TopicPolicy) else ("declare", "queue")
    told = yield from session.asking(verb, {what: name, "policy": policy.to_wire()}, patience(timeout))
    return type(policy).from_wire(told["policy"])


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message that nobody took for this. `body` is an `Undecodable` where the bytes are no body of the queue's type."""

    seq: int
    attempt: int
    headers: dict[str, Any]
    body: Any


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up. `at`: Unix time. `history`: how its attempts ended, as far as it is known."""

    seq: int
    reason: str
    attempts: int
    at: float
    history: list[str]
    headers: dict[str, Any]
    body: Any


class DeadLetters:
    """The dead letters of one queue: `q.dead`."""

    def __init__(self, session: Session, queue: str, load: Load) -> None:
        self._session, self._queue, self._load = session, queue, load

    def list(self, n: int = 1000, seqs: Sequence[int] | None = None, timeout: Duration | None = 5.0) -> list[DeadLetter]:
        """The first `n`, or those of `seqs` that are there."""
        return run(self.listing(n, seqs, timeout))

    def listing(self, n: int, seqs: Sequence[int] | None, timeout: Duration | None) -> Steps[List[DeadLetter]]:
        found: list[DeadLetter] = []
        for part in _parts(seqs):
            arguments = {"queue": self._queue, "count": n, "seqs": part}
            result = yield from self._session.asking("dead_list", arguments, patience(timeout))
            rows = zip(result["rows"], _messages(result, self._load), strict=False)
            found += [
                DeadLetter(seq, reason, attempts, at, [history] if isinstance(history, str) else [*history], headers, body)
                for (seq, reason, attempts, at, history), (headers, body) in rows
            ]
        return found[:n]

    def redrive(self, seqs: Sequence[int] | None = None, timeout: Duration | None = 5.0) -> int:
        """Give all, or those, another life with all their attempts. Returns how many."""
        return run(self.changing("redrive", seqs, timeout))

    def drop(self, seqs: Sequence[int] | None = None, timeout: Duration | None = 5.0) -> int:
        """Throw away all, or those. Returns how many."""
        return run(self.changing("drop", seqs, timeout))

    def changing(self, verb: str, seqs: Sequence[int] | None, timeout: Duration | None) -> Steps[int]:
        changed = 0
        for part in _parts(seqs):
            result = yield from self._session.asking(verb, {"queue": self._queue, "seqs": part}, patience(timeout))
            changed += result["count"]
        return changed


def _parts(seqs: Sequence[int] | None) -> list[list[int] | None]:
    """As many as one question takes; None, for all of them, stands alone."""
    if seqs is None:
        return [None]
    every = [*seqs]
    return [every[start : start + ITEMS_MAX] for start in range(0, len(every), ITEMS_MAX)]


def peeking(session: Session, queue: str, load: Load, n: int, state: str, seqs: Sequence[int] | None, after: int,
            timeout: Duration | None) -> Steps[list[Peeked]]:  # fmt: skip
    """The first `n` above `after`, or those of `seqs` among them; a node tells so many at a time as fit one answer."""
    found: list[Peeked] = []
    for part in _parts(None if seqs is None else _ordered(seqs)):
        more, last = True, after
        while more and len(found) < n:
            arguments = {"queue": queue, "state": state, "count": n - len(found), "seqs": part, "after": last}
            result = yield from session.asking("peek", arguments, patience(timeout))
            rows = zip(result["rows"], _messages(result, load), strict=False)
            found += [Peeked(seq, attempt, headers, body) for (seq, attempt), (headers, body) in rows]
            more = bool(result["more"] and result["rows"])
            last = result["rows"][-1][0] if more else last
    return found


def _ordered(seqs: Sequence[int]) -> Sequence[int]:
    try:
        return sorted({*seqs})
    except TypeError:
        return seqs  # no numbers: whoever is asked will say so


def purging(session: Session, queue: str, seqs: Sequence[int] | None, timeout: Duration | None) -> Steps[int]:
    purged = 0
    for part in _parts(seqs):
        result = yield from session.asking("purge", {"queue": queue, "seqs": part}, patience(timeout))
        purged += result["count"]
    return purged


def _messages(result: dict[str, Any], load: Load) -> Iterator[tuple[dict[str, Any], Any]]:
    """Headers and body of each message in an answer. A body that is none is given as the error it raises."""
    for count, frames in result["parcels"]:
        parcel = Parcel.from_frames(count, frames)
        parcel.check()
        headers = parcel.unpack_columns().get("headers") or [None] * count
        for place, message in enumerate(parcel.messages()):
            try:
                body = codec.unpack(message)
                yield headers[place] or {}, load(body) if load else body
            except codec.Undecodable as error:
                yield headers[place] or {}, error
