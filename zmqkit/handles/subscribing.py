"""What subscriptions for threads and for asyncio have in common: all but the waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from threading import Lock
from typing import Any, Generic, TypeVar

from zmqkit.errors import Error
from zmqkit.fields import SECONDS_MAX
from zmqkit.framing import PREFIXES_CHARS_MAX
from zmqkit.handles.feed import Event, Feed, Position, Source
from zmqkit.handles.names import topic_key
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Steps
from zmqkit.machines.following import Subscription as Followed
from zmqkit.reactor import now
from zmqkit.updates import ALL
from zmqkit.wire import PREFIXES_MAX, Start

T = TypeVar("T")
CHARS_MAX = PREFIXES_CHARS_MAX // 2  # of all prefixes: a SUB may have to name them twice
EPOCH_MAX, SEQ_MAX = 2**24 - 1, 2**64 - 1


class Subscribing(Generic[T]):
    """The base of `Subscription`, here and in `zmqkit.aio`."""

    def __init__(self, nodes: Nodes, make: Callable[[], Followed], load: Callable[[Any], Any] | None) -> None:
        self._nodes, self._make = nodes, make
        first = make()
        self._followed: dict[Session, Followed] = {nodes.sessions[0]: first} if nodes.single else {}  # of several the I/O thread's
        self._lock = Lock()
        self._prefixes = first.prefixes  # as they will be when the I/O thread has heard of them
        self._known = first.prefixes  # as it knows them
        self._feed = Feed(first.state, load, nodes.reactor.wake)
        self.state: State[T] = State(self._feed)
        nodes.admit()
        nodes.reactor.call(lambda moment: nodes.follow(self._follow_at))

    def _follow_at(self, session: Session) -> bool:
        """What follows there, and adds to the one state. False: it is over."""
        if self._feed.ended:
            return False
        followed = self._followed.get(session)
        if followed is None:
            followed = self._make()
            followed.states.append(self._feed.state)
            followed.change(self._known)
            self._followed = {**self._followed, session: followed}
        self._feed.sources[followed] = Source(followed, lambda: session.node)
        session.feeds[followed] = self._feed
        session.machine.following.add(followed)
        return True

    @property
    def seq(self) -> int:
        """The newest update that `state` has. Raises Error where several nodes are followed."""
        return self.position[1]

    @property
    def position(self) -> Position:
        """(epoch, seq) of the newest update that `state` has. Raises Error where several nodes are followed."""
        if not self._nodes.single:
            raise Error("each of several nodes counts for itself: see `positions`")
        return next(iter(self.positions.values()))

    @property
    def positions(self) -> dict[str, Position]:
        """Of each node that is followed, by its endpoint (of a node in this process "")."""
        return {session.endpoint or "": (followed.epoch, followed.seq) for session, followed in self._followed.items()}

    def _readying(self, timeout: float | None) -> Steps[bool]:
        self._nodes.admit()
        yield self._feed.ready, timeout
        if not self._feed.loaded:
            self._feed.check()
        return self._feed.loaded

    def _getting(self, timeout: float | None) -> Steps[Event | None]:
        """The next event; None: there is none in time, or there will be none."""
        feed, deadline = self._feed, None if timeout is None else now() + timeout
        while (event := feed.take()) is None:
            if feed.ended:
                return None
            feed.check()
            if not (yield feed, None if deadline is None else max(0.0, deadline - now())):
                return None
        return event

    def add(self, *prefixes: str) -> None:
        """Follow these keys, too: what they hold comes as a snapshot beside what goes on. `wait_ready` waits for it."""
        found = checked(prefixes)
        self._change(lambda held: tuple(dict.fromkeys([*held, *found])))

    def remove(self, *prefixes: str) -> None:
        """Follow these no more: their keys leave the state, without events. Raises ValueError if nothing would be left."""
        self._change(lambda held: tuple(prefix for prefix in held if prefix not in prefixes))

    def _change(self, changed: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        with self._lock:
            prefixes = changed(self._prefixes)
            if prefixes == self._prefixes:
                return
            if not prefixes:
                raise ValueError("a subscription without any prefix follows nothing: close it")
            checked(prefixes)
            self._feed.changing()
            self._nodes.reactor.call(lambda moment: self._change_followed(prefixes))
            self._prefixes = prefixes

    def _change_followed(self, prefixes: tuple[str, ...]) -> None:
        """On the I/O thread."""
        self._known = prefixes
        for session, followed in self._followed.items():
            session.machine.following.change(followed, prefixes)
        self._feed.settled()

    def stop(self) -> None:
        """Whoever waits for events is told that none will come; the node is told, too. May be called in a signal handler."""
        self._feed.stop()


class State(Mapping[str, T]):
    """What the keys of a subscription hold, live: it follows by itself, and any thread may read it. `copy()` is one moment's truth."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._values = feed, feed.state

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


def following(nodes: Nodes, topic: str, prefixes: Iterable[str], start: Any, name: str) -> Callable[[], Followed]:
    """What is asked of each node. Raises ValueError for what is no prefix, start or name."""
    kind, epoch, seq, time = _start(start)
    if kind in (Start.POSITION, Start.SEQ) and not nodes.single:
        raise ValueError(f"start={start!r}: each of several nodes counts for itself; a `name` keeps the position at each of them")
    wanted, name = checked(prefixes) or ALL, name and topic_key(name)
    return lambda: Followed(topic, wanted, kind, epoch, seq, time, name)


def checked(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Each once."""
    found = tuple(dict.fromkeys(prefixes))
    for prefix in found:
        if prefix != "":
            topic_key(prefix)
    if len(found) > PREFIXES_MAX or sum(map(len, found)) > CHARS_MAX:
        raise Error(f"a subscription has up to {PREFIXES_MAX} prefixes of {CHARS_MAX} letters in all: make another one")
    return found


def _start(start: Any) -> tuple[Start, int, int, float]:
    """Kind, epoch, seq, Unix time."""
    named = {"snapshot": Start.SNAPSHOT, "now": Start.NOW, "beginning": Start.BEGINNING}
    if isinstance(start, str) and start in named:
        return named[start], 0, 0, 0.0
    if isinstance(start, datetime):
        return Start.TIME, 0, 0, min(max(0.0, start.timestamp()), SECONDS_MAX)
    if _whole(start, SEQ_MAX):
        return Start.SEQ, 0, start, 0.0
    if isinstance(start, tuple | list) and len(start) == 2 and _whole(start[0], EPOCH_MAX) and _whole(start[1], SEQ_MAX):
        return Start.POSITION, start[0], start[1], 0.0
    raise ValueError(f'start={start!r}: give "snapshot", "now", "beginning", an event\'s position, a seq or a datetime')


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
