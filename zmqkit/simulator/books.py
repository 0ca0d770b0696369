"""What one who follows a topic must hold, told twice: by its machine's state, and by the events that its application takes.

state     -> whenever it is loaded: the fold of the log up to its seq, under its prefixes
events    -> a plain fold of them gives the same; behind each that ends a position, exactly what the log says there
numbers   -> those of the log under its prefixes, none left out, or a gap was told
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from zmqkit import wire
from zmqkit.machines.following import Gap, Subscription
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.invariants import require
from zmqkit.simulator.topic_checks import TopicLog
from zmqkit.wire import Scope


class Reading:
    """What one who follows must hold: of each prefix the updates above a number. 0: its whole state; inf: from where it will begin."""

    def __init__(self, prefixes: tuple[str, ...], since: float = inf) -> None:
        self.since = dict.fromkeys(prefixes, since)

    def begin(self, seq: int) -> None:
        self.since = {prefix: seq if number == inf else number for prefix, number in self.since.items()}

    def check(self, found: dict[str, bytes | None], log: TopicLog, seq: int, now: float, who: str) -> None:
        """A value that has ended may be there or not: a piece of a snapshot leaves it out, and its deletion is on the way."""
        since, wanted = tuple(self.since.items()), {}
        for key, update in log.states[seq].items():
            for prefix, above in since:
                if update.seq > above and key.startswith(prefix) and (update.end is None or update.end > now or key in found):
                    wanted[key] = update.value
        require(found == wanted, f"{who} at {seq} of {log.name} holds {found}, the log says {wanted}")

    def change(self, prefixes: tuple[str, ...], above: float) -> None:
        """Of new prefixes there is a snapshot; `above`: what that holds. One under an old one goes on with it."""
        old = self.since
        self.since = {prefix: number for prefix, number in old.items() if prefix.startswith(prefixes)}
        for prefix in prefixes:
            self.since[prefix] = min([number for wider, number in old.items() if prefix.startswith(wider)], default=above)


class Begun(NamedTuple):
    """News beside the machine's own: a RESET said that all begins, or begins anew, behind `seq`, with this gap before it."""

    seq: int
    whole: bool  # with a snapshot: nothing from before it counts any more
    gap: Gap | None


class Followed(Subscription):
    """A subscription that is checked with every command."""

    def __init__(self, process: ClientProcess, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._process = process
        self.reading = Reading(self.prefixes)
        self.log = TopicLog(self.topic)  # of the life of the node that it is about

    def _look_up(self) -> None:
        self.log = self._process.oracle.topics.log(self._process.machine.node, self.epoch, self.topic)

    def check(self) -> None:
        who, log = self._process.name, self.log
        require(self.seq <= len(log.updates), f"{who} is at {self.seq} of {self.topic}, its log ends with {len(log.updates)}")
        if self.loaded:
            found = {key: held if isinstance(held, bytes) else held[0] for key, held in self.state.items()}
            self.reading.check(found, log, self.seq, self._process.scheduler.seconds, who)  # type: ignore[arg-type]

    def above(self, seq: float) -> float:
        """What a snapshot behind that number holds: the updates above this one."""
        return 0 if self.log.policy.keep_values else seq

    def reset(self, reset: wire.Reset) -> None:
        first, whole, place = not self.based, reset.scope == Scope.ALL, len(self.news)
        super().reset(reset)
        self._look_up()
        if first or whole:
            gap = next((item for item in self.news[place:] if isinstance(item, Gap)), None)
            self.news.insert(place, Begun(reset.seq, whole, gap))  # type: ignore[arg-type]
        if whole:
            self.reading = Reading(self.prefixes, self.above(reset.seq))
        self.reading.begin(reset.seq)
        self.check()

    def chunk(self, chunk: wire.Chunk, now: float) -> None:
        super().chunk(chunk, now)
        self.check()

    def live(self, live: wire.Live, now: float) -> bool:
        follows = super().live(live, now)
        require(follows, f"{self._process.name} is told {live.first} of {self.topic} behind {live.prev}, and is at {self.seq}")
        self.check()
        return follows

    def at(self, at: wire.At, now: float) -> None:
        super().at(at, now)
        self._look_up()
        self.check()


class Book:
    """What an application has made of the events, and where it could go on: both change with each event, together."""

    def __init__(self, topic: str, prefixes: tuple[str, ...]) -> None:
        self.topic, self.prefixes = topic, prefixes
        self.fold: dict[str, bytes | None] = {}
        self.reading = Reading(prefixes)
        self.upto: int | None = None  # it was told all up to here, or of the gap
        self.loaded = False  # once
        self.position: tuple[int, int] | None = None  # None: there is none, or something is half told
        self.carried = False  # it is older than the subscription, which does not know what it holds

    def begin(self, begun: Begun, above: float, log: TopicLog, who: str) -> None:
        if begun.whole:
            self._begin_anew(begun, log, who)
            self.position, self.upto = None, begun.seq
            self.reading = Reading(self.prefixes, above)
        else:
            require(self.upto in (None, begun.seq), f"{who} asked to go on behind {self.upto}, and goes on behind {begun.seq}")
            self.upto = begun.seq
            self.reading.begin(begun.seq)

    def _begin_anew(self, begun: Begun, log: TopicLog, who: str) -> None:
        require(not self.loaded or begun.gap is not None, f"{who} begins anew at {begun.seq}, and is told of no gap")
        if begun.gap is not None and begun.gap.first <= begun.gap.last:
            require(begun.gap.last == begun.seq, f"{who} begins anew at {begun.seq} behind {begun.gap}")
            if self.upto is not None:
                self.skip(begun.gap.first - 1, log, who)
        if self.carried:
            self.fold.clear()  # what it held from before nobody can delete for it
            self.carried = False

    def skip(self, seq: int, log: TopicLog, who: str) -> None:
        """Up to there nothing comes any more."""
        self.misses_none(seq, log, who)
        assert self.upto is not None
        self.upto = max(self.upto, seq)

    def misses_none(self, seq: int, log: TopicLog, who: str) -> None:
        assert self.upto is not None
        missed = [update.seq for update in log.matching(self.prefixes, self.upto, seq)]
        require(not missed, f"{who} was told all up to {self.upto}, and now of {seq}: {missed} are missing")

    def apply(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.fold.pop(key, None)
        else:
            self.fold[key] = value

    def change(self, prefixes: tuple[str, ...], above: float) -> None:
        self.prefixes, self.position = prefixes, None
        self.reading.change(prefixes, above)
        self.fold = {key: value for key, value in self.fold.items() if key.startswith(prefixes)}
