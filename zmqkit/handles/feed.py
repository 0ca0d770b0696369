"""Where a subscription's events wait for the application: batches from the I/O thread, events one by one for whoever takes them.

Nobody has to take them. Then the state follows all the same, and events are kept up to half a window; behind that they are given up,
and whoever begins to take later is told so, and gets the state as it is by then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from zmqkit import codec
from zmqkit.handles.waiting import Listeners
from zmqkit.machines.following import WINDOW_BYTES, Changes, Following, Gap, Loaded, Subscription
from zmqkit.reactor import now

UNTAKEN_BYTES = WINDOW_BYTES // 2


class Event(NamedTuple):
    """One update of a topic.

    value          what the key holds from now on; None if it was deleted
    seq            its number in the topic; of what came from a snapshot, the number of the state that it is part of
    position       where to go on behind it: `subscribe(start=event.position)`
    from_snapshot  it says what holds, not what changed
    gap            what was missed before it, if anything was
    """

    key: str
    value: Any
    seq: int
    position: tuple[int, int]
    deleted: bool
    from_snapshot: bool
    gap: Gap | None


class Feed(Listeners):
    """`load` makes a decoded value what the application wants."""

    def __init__(self, subscription: Subscription, load: Callable[[Any], Any] | None, wake: Callable[[], None]) -> None:
        super().__init__()
        self.subscription, self.error = subscription, None
        self.ready = threading.Event()
        self.ended = False
        self._load, self._wake = load, wake
        self._changed = threading.Condition()
        self._waiting: deque[Changes | Gap] = deque()
        self._bytes = 0
        self._taking = False  # somebody takes events
        self._missed: Gap | None = None  # events that were given up before anybody took one
        self._events: Iterator[Event] = iter(())  # of the batch that is being taken
        self._gap: Gap | None = None  # to be told with the next event
        self._done = 0  # bytes that the application has taken, and the machine does not know of
        self._size = 0  # of the batch that is being taken
        self._at: tuple[int, int] | None = None  # the application has all up to here
        self._kept: tuple[int, int] | None = None

    error: Exception | None

    # -- the application's threads --------------------------------------------------------------------------------------

    @property
    def happened(self) -> bool:
        return bool(self._waiting) or self.ended or self.error is not None or self._missed is not None

    def wait(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.happened, timeout)

    def take(self) -> Event | None:
        """The next one, if it is there. One thread at a time."""
        while True:
            for event in self._events:
                return event
            if self._size:
                self._done += self._size
                self._size = 0
                self._wake()
            with self._changed:
                self._taking = True
                if self._missed is not None:
                    self._gap, self._missed = self._missed, None
                    self._events = self._of_state()
                elif self._waiting:
                    news = self._waiting.popleft()
                    if isinstance(news, Gap):
                        self._gap = news
                        continue
                    self._bytes -= news.size
                    self._size, self._events = news.size, self._of(news)
                else:
                    return None

    def _of(self, changes: Changes) -> Iterator[Event]:
        single = changes.numbers if isinstance(changes.numbers, int) else 0
        numbers = [single] * len(changes.keys) if isinstance(changes.numbers, int) else changes.numbers
        for key, held, seq in zip(changes.keys, changes.values, numbers, strict=True):
            gap, self._gap = self._gap, None
            value = None if held is None else self.decoded(held)
            position = changes.epoch, seq
            yield Event(key, value, seq, position, held is None, changes.snapshot, gap)
            if not changes.snapshot:
                self._at = position  # it came back for the next one

    def _of_state(self) -> Iterator[Event]:
        subscription = self.subscription
        position = subscription.epoch, subscription.seq
        for key, value in dict(subscription.state).items():
            gap, self._gap = self._gap, None
            yield Event(key, self.decoded(value), position[1], position, False, True, gap)

    def decoded(self, value: Any) -> Any:
        """Of a value as a batch or a state holds it: with an end or without."""
        body = codec.unpack(value if type(value) is bytes else value[0])
        return self._load(body) if self._load else body

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    def came(self) -> None:
        news = self.subscription.news
        with self._changed:
            for item in news:
                if isinstance(item, Loaded):
                    self.ready.set()
                else:
                    self._waiting.append(item)
                    self._bytes += item.size if isinstance(item, Changes) else 0
            if not self._taking and self._bytes > UNTAKEN_BYTES:
                self._give_up()
            self._changed.notify_all()
        news.clear()
        self._tell()

    def _give_up(self) -> None:
        batches = [item.numbers for item in self._waiting if isinstance(item, Changes)]
        numbers = [batch for batch in batches if not isinstance(batch, int)]
        first = self._missed.first if self._missed is not None else numbers[0][0] if numbers else 1
        self._missed = Gap(first, self.subscription.seq if numbers or first > 1 else 0)
        self._done += self._bytes
        self._bytes = 0
        self._waiting.clear()

    def pump(self, following: Following) -> None:
        done, self._done = self._done, 0
        if done:
            following.take(self.subscription, done)
        at = self._at
        if self.subscription.name and at is not None and at != self._kept:
            self._kept = at
            following.keep(self.subscription, *at)

    def fail(self, error: Exception) -> None:
        self.error = error
        self.end()

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()
        self._tell()

    def live(self, value: Any) -> bool:
        return type(value) is bytes or value[1] > now()
