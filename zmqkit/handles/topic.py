"""A topic by name, as its users see it: publish, subscribe, follow its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, TypeVar

from zmqkit.codec import Schema, packer
from zmqkit.errors import Error, MessageTooLarge, fresh
from zmqkit.handles.durations import Duration, patience, seconds
from zmqkit.handles.feed import Event, Feed
from zmqkit.handles.names import topic_key, topic_name
from zmqkit.handles.outcome import BatchReceipt, PutFuture, Receipt
from zmqkit.handles.producer import Producer
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import run
from zmqkit.machines.following import Subscription as Followed
from zmqkit.reactor import now
from zmqkit.updates import UPDATES_BYTES_MAX, message
from zmqkit.wire import PREFIXES_MAX, TOPIC_MARK, Start

T = TypeVar("T")
Position = tuple[int, int]
Update = tuple[str, Any, float | None]  # key, value (DELETED: none), seconds that it holds
DELETED = object()


def update_packer() -> Callable[[Update], bytes]:
    """Encodes one update. Not for two threads at once."""
    pack = packer()

    def encode(update: Update) -> bytes:
        key, value, ttl = update
        encoded = message(key, None if value is DELETED else pack(value), ttl)
        if len(encoded) > UPDATES_BYTES_MAX:
            raise MessageTooLarge(len(encoded), UPDATES_BYTES_MAX)
        return encoded

    return encode


class Topic(Generic[T]):
    """Made by `Client.topic(name)`; comes into being at the node with its first use. Threads may share it."""

    def __init__(self, session: Session, name: str, type: Any = None) -> None:
        self._session, self.name = session, topic_name(name)
        schema = None if type is None or type is Any else Schema(type)
        self._dump: Callable[[Any], Any] | None = schema.dump if schema else None
        self._load: Callable[[Any], Any] | None = schema.load if schema else None
        marked = TOPIC_MARK + name
        self._producer = session.producer(marked, lambda: Producer(session, marked, update_packer))

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}>"

    # -- publishing -----------------------------------------------------------------------------------------------------

    def publish(self, key: str, value: T, ttl: Duration | None = None, timeout: Duration | None = 5.0) -> Receipt:
        """The key holds this value from now on (for `ttl` seconds); returns when the node has it as durably as the receipt says.

        Raises Timeout (`maybe_executed` tells whether it may still count), DiskFull, MessageTooLarge, Unencodable.
        """
        return self._wait(self.publish_soon(key, value, ttl, timeout), timeout)

    def publish_soon(self, key: str, value: T, ttl: Duration | None = None, timeout: Duration | None = None) -> PutFuture:
        """The same in the background. Waits only for room, at most `timeout` seconds (then NotSent). `flush` waits for all."""
        return self._put((topic_key(key), self._dump(value) if self._dump else value, _ttl(ttl)), timeout)

    def publish_many(self, pairs: Iterable[tuple[str, T]], ttl: Duration | None = None, timeout: Duration | None = 5.0) -> BatchReceipt:
        """All, in order, under one receipt. Takes any iterable of (key, value), lazily. `timeout` is for any progress, not for all."""
        dump, held = self._dump, _ttl(ttl)
        updates = ((topic_key(key), dump(value) if dump else value, held) for key, value in pairs)
        return run(self._producer.put_many(updates, None, patience(timeout)))

    def delete(self, key: str, timeout: Duration | None = 5.0) -> Receipt:
        """The key holds nothing from now on."""
        return self._wait(self._put((topic_key(key), DELETED, None), timeout), timeout)

    def _put(self, update: Update, timeout: Duration | None) -> PutFuture:
        return self._producer.put_soon(update, None, patience(timeout))

    def _wait(self, future: PutFuture, timeout: Duration | None) -> Receipt:
        return future.wait_or_withdraw(patience(timeout), self._session.why)

    # -- subscribing ----------------------------------------------------------------------------------------------------

    def subscribe(self, *prefixes: str, start: str | Position | int | datetime = "snapshot", name: str = "") -> Subscription[T]:
        """Follow the keys under these prefixes; none: all keys.

        start  "snapshot": with what holds now, then what changes; "now"; "beginning": with the oldest update that is kept; an
               event's `position`; a seq; a datetime
        name   the node keeps the position under it, once the application has taken what is before: whoever subscribes under
               that name next goes on there. It belongs to the newest who does
        """
        kind, epoch, seq, time = _start(start)
        followed = Followed(self.name, _prefixes(prefixes), kind, epoch, seq, time, name and topic_key(name))
        return Subscription(self._session, followed, self._load)


class Subscription(Generic[T]):
    """Events to iterate over, and the state that they add up to. `close` it, or leave its `with`."""

    def __init__(self, session: Session, followed: Followed, load: Callable[[Any], Any] | None) -> None:
        self._session, self._followed = session, followed
        self._feed = Feed(followed, load, session.reactor.wake)
        self.state: State[T] = State(self._feed)
        session.admit()
        session.reactor.call(self._begin)

    def _begin(self, moment: float) -> None:
        self._session.feeds[self._followed] = self._feed
        self._session.machine.following.add(self._followed)

    @property
    def seq(self) -> int:
        """The newest update that `state` has."""
        return self._followed.seq

    @property
    def position(self) -> Position:
        return self._followed.epoch, self._followed.seq

    def wait_ready(self, timeout: Duration | None = 5.0) -> bool:
        """Is the state complete, within `timeout` seconds?"""
        return self._feed.ready.wait(patience(timeout))

    def get(self, timeout: Duration | None = 1.0) -> Event | None:
        """The next event, or None if there is none within `timeout` seconds (0: now)."""
        limit = patience(timeout)
        deadline = None if limit is None else now() + limit
        while True:
            event = self._feed.take()
            if event is not None:
                return event
            self._check()
            if self._feed.ended or not self._feed.wait(None if deadline is None else max(0.0, deadline - now())):
                return None

    def __iter__(self) -> Iterator[Event]:
        """Until `stop` or `close`."""
        while not self._feed.ended:
            event = self.get(None)
            if event is None:
                return
            yield event

    def _check(self) -> None:
        if self._feed.error is not None:
            raise fresh(self._feed.error)

    def add(self, *prefixes: str) -> None:
        """Follow these keys, too: what they hold comes as a snapshot beside what goes on."""
        self._change(tuple(dict.fromkeys([*self._followed.prefixes, *_prefixes(prefixes)])))

    def remove(self, *prefixes: str) -> None:
        """Follow these no more; their keys leave the state. Raises ValueError if nothing would be left."""
        left = tuple(prefix for prefix in self._followed.prefixes if prefix not in prefixes)
        if not left:
            raise ValueError("a subscription without any prefix follows nothing: close it")
        self._change(left)

    def _change(self, prefixes: tuple[str, ...]) -> None:
        if len(prefixes) > PREFIXES_MAX:
            raise Error(f"a subscription has up to {PREFIXES_MAX} prefixes: make another one")
        self._session.reactor.call(lambda moment: self._session.machine.following.change(self._followed, prefixes))

    def stop(self) -> None:
        """The loop over it ends. May be called in a signal handler."""
        self._feed.ended = True
        self.close()

    def close(self) -> None:
        self._feed.end()
        if not self._session.reactor.closed:
            self._session.reactor.call(self._end)

    def _end(self, moment: float) -> None:
        self._feed.pump(self._session.machine.following)
        self._session.feeds.pop(self._followed, None)
        self._session.machine.following.unsubscribe(self._followed)

    def __enter__(self) -> Subscription[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class State(Mapping[str, T]):
    """What the keys of a subscription hold, live: it follows by itself, and any thread may read it. `copy()` is one moment's truth."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._values = feed, feed.subscription.state

    def __getitem__(self, key: str) -> T:
        value = self._values[key]
        if not self._feed.live(value):
            raise KeyError(key)
        return self._feed.decoded(value)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter([key for key, value in self._values.copy().items() if self._feed.live(value)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def copy(self) -> dict[str, T]:
        """A plain dict."""
        live, decoded = self._feed.live, self._feed.decoded
        return {key: decoded(value) for key, value in self._values.copy().items() if live(value)}

    def __repr__(self) -> str:
        return f"<State of {len(self._values)} keys>"


def _ttl(ttl: Duration | None) -> float | None:
    return None if ttl is None else seconds(ttl)


def _prefixes(prefixes: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(prefixes)) or ("",)
    if len(found) > PREFIXES_MAX:
        raise Error(f"a subscription has up to {PREFIXES_MAX} prefixes: make another one")
    for prefix in found:
        if prefix:
            topic_key(prefix)
    return found


def _start(start: Any) -> tuple[Start, int, int, float]:
    """Kind, epoch, seq, Unix time."""
    named = {"snapshot": Start.SNAPSHOT, "now": Start.NOW, "beginning": Start.BEGINNING}
    if isinstance(start, str) and start in named:
        return named[start], 0, 0, 0.0
    if isinstance(start, datetime):
        return Start.TIME, 0, 0, start.timestamp()
    if type(start) is int and start >= 0:
        return Start.SEQ, 0, start, 0.0
    if isinstance(start, tuple | list) and len(start) == 2 and all(type(number) is int and number >= 0 for number in start):
        return Start.POSITION, start[0], start[1], 0.0
    raise ValueError(f'start={start!r}: give "snapshot", "now", "beginning", an event\'s position, a seq or a datetime')
