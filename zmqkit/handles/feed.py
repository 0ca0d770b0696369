"""Where a subscription's events wait for the application: batches from the I/O thread, events one by one for whoever takes them.

Nobody has to take them. Then the state follows all the same, and events are kept up to half a window; behind that they are given up,
and whoever begins to take later is told so, and gets the state as it is by then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from zmqkit import codec
from zmqkit.errors import fresh
from zmqkit.handles.outcome import error_of
from zmqkit.handles.waiting import Listeners, Signal
from zmqkit.machines.following import WINDOW_BYTES, Changes, Following, Gap, Loaded, Subscription
from zmqkit.reactor import now
from zmqkit.updates import Value
from zmqkit.wire import Refused

UNTAKEN_BYTES = WINDOW_BYTES // 2
UNKNOWN = Gap(1, 0)
Position = tuple[int, int]  # epoch, seq


class Event(NamedTuple):
    """One update of a topic.

    value          what the key holds from now on; None if it was deleted
    seq            its number in the topic; of what came from a snapshot, the number of the state that it is part of
    position       where to go on behind it, for who has all of the snapshot: `subscribe(start=event.position)`
    from_snapshot  it says what holds, not what changed
    gap            what was missed before it, if anything was
    node           that told it, as a receipt names it; `seq`, `position` and `gap` are about the topic there
    """

    key: str
    value: Any
    seq: int
    position: Position
    deleted: bool
    from_snapshot: bool
    gap: Gap | None
    node: str = ""


class Source:
    """A topic at one node, and how far the application is with it."""

    def __init__(self, subscription: Subscription, node: Callable[[], str]) -> None:
        self.subscription, self.node = subscription, node
        self.gap: Gap | None = None  # to be told with its next event
        self.done = 0  # bytes that the application has taken, and the machine does not know of
        self.given: Position | None = None  # of the event that was taken last
        self.at: Position | None = None  # the application has all up to here
        self.kept: Position | None = None

    def miss(self, gap: Gap) -> None:
        self.gap = gap if self.gap is None else _both(self.gap, gap)


class Feed(Listeners):
    """`state` is what the updates of all `sources` add up to; `load` makes a decoded value what the application wants."""

    def __init__(self, state: dict[str, Value], load: Callable[[Any], Any] | None, wake: Callable[[], None]) -> None:
        super().__init__()
        self.state = state
        self.error: Exception | None = None
        self.sources: dict[Subscription, Source] = {}  # the I/O thread's
        self.ready = Signal()  # the state is complete, or never will be
        self.loaded = False
        self.ended = False
        self._load, self._wake = load, wake
        self._takers = threading.Lock()  # events are taken by one at a time; what decodes them is the user's, and not quick
        self._changed = threading.Condition()
        self._changing = 0  # other prefixes that the I/O thread does not know of yet
        self._waiting: deque[tuple[Source, Changes | Gap]] = deque()
        self._bytes = 0
        self._begun = False  # somebody takes events
        self._missed = False  # events were given up before anybody took one
        # The batch that is being taken.
        self._source = Source(Subscription(""), str)  # none yet
        self._events: Iterator[Event] = iter(())
        self._open = self._whole = False
        self._size = 0

    # -- the application's threads --------------------------------------------------------------------------------------

    @property
    def happened(self) -> bool:
        """Looking for an event is worth while."""
        return bool(self._waiting) or self._open or self.ended or self.error is not None or self._missed

    def wait(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.happened, timeout)

    def check(self) -> None:
        if self.error is not None:
            raise fresh(self.error)

    def take(self) -> Event | None:
        """The next one, if it is there. Raises Undecodable; then it is passed over."""
        with self._takers:
            while True:
                source = self._source
                if source.given is not None:
                    source.at, source.given = source.given, None  # it came back for the next one
                for event in self._events:
                    if source.gap is not None:
                        event, source.gap = event._replace(gap=source.gap), None
                    if self._whole:
                        source.given = event.position
                    return event
                if not self._next_batch():
                    return None

    def _next_batch(self) -> bool:
        """False: there is none."""
        with self._changed:
            taken, self._size = self._size, 0
            self._source.done += taken
            self._begun, self._open = True, False
            batch = self._state() if self._missed else None
            self._missed = False
            while self._waiting and batch is None:
                self._source, news = self._waiting.popleft()
                if isinstance(news, Gap):
                    self._source.miss(news)
                else:
                    self._bytes -= news.size
                    batch = news
            self._open = batch is not None
        if batch is not None:
            self._size, self._whole, self._events = batch.size, batch.whole, self._events_of(batch)
        if taken:
            self._wake()
        return batch is not None

    def _state(self) -> Changes:
        """As a batch: an update that is in it, and not yet with us, comes once more, but a fold of the events ends the same."""
        held: dict[str, Any] = self.state.copy()
        subscription = self._source.subscription
        return Changes([*held], [*held.values()], subscription.seq, subscription.epoch, 0, False, True, False)

    def _events_of(self, batch: Changes) -> Iterator[Event]:
        """An error about one of them ends no `map`."""
        node = self._source.node()
        numbers = [batch.numbers] * len(batch.keys) if isinstance(batch.numbers, int) else batch.numbers
        if batch.plain and self._load is None:
            with suppress(codec.Undecodable):  # then one by one, so that only those that are wrong are missed
                values = codec.unpack_all(len(batch.values), b"".join(batch.values))  # type: ignore[arg-type]
                positions = zip(repeat(batch.epoch), numbers)
                fields = zip(batch.keys, values, numbers, positions, repeat(False), repeat(batch.snapshot), repeat(None), repeat(node))
                return map(partial(tuple.__new__, Event), fields)  # four times as fast as `map(Event, …)`

        def event(key: str, held: Any, seq: int) -> Event:
            value = None if held is None else self.decoded(held)
            return Event(key, value, seq, (batch.epoch, seq), held is None, batch.snapshot, None, node)

        return map(event, batch.keys, batch.values, numbers)

    def decoded(self, value: Any) -> Any:
        """Of a value as a batch or a state holds it: with an end or without."""
        body = codec.unpack(value if type(value) is bytes else value[0])
        return self._load(body) if self._load else body

    def live(self, value: Any) -> bool:
        return type(value) is bytes or value[1] > now()

    def changing(self) -> None:
        """Other prefixes are on their way to the I/O thread."""
        with self._changed:
            self._changing += 1
            self.loaded = False
            self.ready.clear()

    def stop(self) -> None:
        """No more events. Takes no lock: a signal handler may call it."""
        self.ended = True
        self._wake()

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    def came(self, subscription: Subscription) -> None:
        news, source = subscription.news, self.sources[subscription]
        with self._changed:
            for item in news:
                if isinstance(item, Loaded):
                    self._look()
                elif isinstance(item, Refused):
                    self.error = error_of(item.code, item.text, item.retry_after)
                    self.ready.set()
                else:
                    self._waiting.append((source, item))
                    self._bytes += item.size if isinstance(item, Changes) else 0
            given_up = not self._begun and self._bytes > UNTAKEN_BYTES
            if given_up:
                self._give_up()
            self._changed.notify_all()
        if given_up:
            self._wake()  # the node is told that there is room before it has to stop
        news.clear()
        self._tell()

    def _look(self) -> None:
        """With the lock held."""
        if not self._changing and all(subscription.loaded for subscription in self.sources):
            self.loaded = True
            self.ready.set()

    def _give_up(self) -> None:
        """With the lock held."""
        for source, item in self._waiting:
            if isinstance(item, Gap):
                source.miss(item)
            else:
                source.done += item.size
                if not isinstance(item.numbers, int):  # else it will get the state
                    source.miss(Gap(item.numbers[0], item.numbers[-1]))
        source.gap = source.gap or UNKNOWN
        self._source, self._missed = source, True  # the state is told as the last one's
        self._bytes = 0
        self._waiting.clear()

    def settled(self) -> None:
        """The prefixes are those that are wanted."""
        with self._changed:
            self._changing -= 1
            self._look()

    def pump(self, subscription: Subscription, following: Following) -> bool:
        """True: it is over."""
        ended, source = self.ended, self.sources[subscription]
        with self._changed:
            done, source.done = source.done, 0
        if done:
            following.take(subscription, done)
        at = source.at
        if subscription.name and at is not None and at != source.kept:
            source.kept = at
            following.keep(subscription, *at)
        if ended:
            following.unsubscribe(subscription)
            self._end()
        return ended

    def fail(self, error: Exception) -> None:
        self.error = error
        self._end()

    def forget(self, subscription: Subscription) -> None:
        """Its node has left: the state stays as it is, and nobody waits for that one any more."""
        with self._changed:
            del self.sources[subscription]
            if self.sources:
                self._look()

    def _end(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self.ready.set()
        self._tell()


def _both(one: Gap, other: Gap) -> Gap:
    """Two gaps with nothing told between."""
    if one.first > one.last or other.first > other.last:
        return UNKNOWN
    return Gap(min(one.first, other.first), max(one.last, other.last))
