"""Looking into queues: counts, messages in place, dead letters.

Of several nodes all that are up are asked, one after the other, and their answers become one. Numbers are each node's own, so what is about
certain numbers needs one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, TypeVar

from zmqkit import codec
from zmqkit.errors import Error
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.nodes import Nodes
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

    def __add__(self, other: QueueInfo) -> QueueInfo:
        """Of both nodes; the policy is the first one's."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("ready", "leased", "delayed", "dead", "consumers", "bytes")}
        return replace(self, **sums, oldest_age=max(self.oldest_age, other.oldest_age), paused=self.paused or other.paused)


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

    def __add__(self, other: TopicInfo) -> TopicInfo:
        """Of both nodes: what each numbers for itself is 0; the policy is the first one's."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("messages", "bytes", "keys", "subscribers", "names")}
        bindings = {
            queue: list(dict.fromkeys([*self.bindings.get(queue, []), *other.bindings.get(queue, [])]))
            for queue in {**self.bindings, **other.bindings}
        }
        return replace(self, **sums, bindings=bindings, seq=0, floor=0, epoch=0)


Policy = TypeVar("Policy", QueuePolicy, TopicPolicy)
Info = TypeVar("Info", QueueInfo, TopicInfo)


def listing(nodes: Nodes, verb: str, what: str, kind: type[Info], timeout: Duration | None) -> Steps[list[Info]]:
    """All queues or topics, by name."""

    def of(session: Session, timeout: float | None) -> Steps[list[Info]]:
        found: list[Info] = []
        more = True
        while more:  # a node tells so many at a time as fit one answer
            after = {"after": found[-1].name} if found else {}
            told = yield from session.asking(verb, after, timeout)
            found += [kind.from_wire(info) for info in told[what]]
            more = told["more"]
        return found

    answers = yield from nodes.asks.each(of, patience(timeout))
    if len(answers) == 1:
        return answers[0][1]
    by_name: dict[str, list[Info]] = {}
    for _, found in answers:
        for info in found:
            by_name.setdefault(info.name, []).append(info)
    return [_added(by_name[name]) for name in sorted(by_name)]


def informing(nodes: Nodes, verb: str, arguments: dict[str, Any], kind: type[Info], timeout: Duration | None) -> Steps[Info]:
    answers = yield from nodes.asks.told(verb, arguments, patience(timeout))
    return _added([kind.from_wire(told) for _, told in answers])


def _added(infos: Sequence[Info]) -> Info:
    return reduce(add, infos)


def telling(nodes: Nodes, verb: str, arguments: dict[str, Any], timeout: Duration | None) -> Steps[None]:
    yield from nodes.asks.told(verb, arguments, patience(timeout))


def declaring(nodes: Nodes, name: str, policy: Policy, timeout: Duration | None) -> Steps[Policy]:
    """Make the queue or topic, or change its policy. Returns what holds from now on."""
    verb, what = ("topic_declare", "topic") if isinstance(policy, TopicPolicy) else ("declare", "queue")
    told = yield from nodes.asks.declaring(verb, {what: name, "policy": policy.to_wire()}, patience(timeout))
    return type(policy).from_wire(told["policy"])


def one_node(nodes: Nodes, what: str) -> None:
    """Raises Error for a client of several: it cannot know which of them is meant."""
    if not nodes.single:
        raise Error(f"{what} are about one node's numbers, and this client has several: connect to that node alone")


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message that nobody took for this. `body` is an `Undecodable` where the bytes are no body of the queue's type."""

    seq: int
    attempt: int
    headers: dict[str, Any]
    body: Any
    node: str = ""


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
    node: str = ""


class DeadLetters:
    """The dead letters of one queue: `q.dead`."""

    def __init__(self, nodes: Nodes, queue: str, load: Load) -> None:
        self._nodes, self._queue, self._load = nodes, queue, load

    def list(self, n: int = 1000, seqs: Sequence[int] | None = None, timeout: Duration | None = 5.0) -> list[DeadLetter]:
        """The first `n`, or those of `seqs` that are there."""
        return run(self.listing(n, seqs, timeout))

    def listing(self, n: int, seqs: Sequence[int] | None, timeout: Duration | None) -> Steps[List[DeadLetter]]:
        found: list[DeadLetter] = []
        for part in self._parts(seqs):
            arguments = {"queue": self._queue, "count": n, "seqs": part}
            for session, result in (yield from self._nodes.asks.told("dead_list", arguments, patience(timeout))):
                rows = zip(result["rows"], _messages(result, self._load), strict=False)
                for (seq, reason, attempts, at, history), (headers, body) in rows:
                    ends = [history] if isinstance(history, str) else [*history]
                    found.append(DeadLetter(seq, reason, attempts, at, ends, headers, body, session.node))
        return found[:n]

    def redrive(self, seqs: Sequence[int] | None = None, timeout: Duration | None = 5.0) -> int:
        """Give all, or those, another life with all their attempts. Returns how many."""
        return run(self.changing("redrive", seqs, timeout))

    def drop(self, seqs: Sequence[int] | None = None, timeout: Duration | None = 5.0) -> int:
        """Throw away all, or those. Returns how many."""
        return run(self.changing("drop", seqs, timeout))

    def changing(self, verb: str, seqs: Sequence[int] | None, timeout: Duration | None) -> Steps[int]:
        changed = 0
        for part in self._parts(seqs):
            answers = yield from self._nodes.asks.told(verb, {"queue": self._queue, "seqs": part}, patience(timeout))
            changed += sum(result["count"] for _, result in answers)
        return changed

    def _parts(self, seqs: Sequence[int] | None) -> List[List[int] | None]:
        if seqs is not None:
            one_node(self._nodes, "seqs")
        return _parts(seqs)


def _parts(seqs: Sequence[int] | None) -> list[list[int] | None]:
    """As many as one question takes; None, for all of them, stands alone."""
    if seqs is None:
        return [None]
    every = [*seqs]
    return [every[start : start + ITEMS_MAX] for start in range(0, len(every), ITEMS_MAX)]


def peeking(nodes: Nodes, queue: str, load: Load, n: int, state: str, seqs: Sequence[int] | None, after: int,
            timeout: Duration | None) -> Steps[list[Peeked]]:  # fmt: skip
    """The first `n` above `after`, or those of `seqs` among them; a node tells so many at a time as fit one answer."""
    if seqs is not None or after:
        one_node(nodes, "seqs and after")

    def of(session: Session, timeout: float | None) -> Steps[list[Peeked]]:
        found: list[Peeked] = []
        for part in _parts(None if seqs is None else _ordered(seqs)):
            more, last = True, after
            while more and len(found) < n:
                arguments = {"queue": queue, "state": state, "count": n - len(found), "seqs": part, "after": last}
                result = yield from session.asking("peek", arguments, timeout)
                rows = zip(result["rows"], _messages(result, load), strict=False)
                found += [Peeked(seq, attempt, headers, body, session.node) for (seq, attempt), (headers, body) in rows]
                more = bool(result["more"] and result["rows"])
                last = result["rows"][-1][0] if more else last
        return found

    answers = yield from nodes.asks.each(of, patience(timeout))
    return [peeked for _, found in answers for peeked in found][:n]


def _ordered(seqs: Sequence[int]) -> Sequence[int]:
    try:
        return sorted({*seqs})
    except TypeError:
        return seqs  # no numbers: whoever is asked will say so


def purging(nodes: Nodes, queue: str, seqs: Sequence[int] | None, timeout: Duration | None) -> Steps[int]:
    if seqs is not None:
        one_node(nodes, "seqs")
    purged = 0
    for part in _parts(seqs):
        answers = yield from nodes.asks.told("purge", {"queue": queue, "seqs": part}, patience(timeout))
        purged += sum(result["count"] for _, result in answers)
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
