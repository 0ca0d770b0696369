"""What simulated clients do with topics: update them, and follow them, with a `Book` of what they were told."""

from __future__ import annotations

from collections import deque
from math import inf
from random import Random
from typing import Any

from zmqkit import wire
from zmqkit.machines import events as ev
from zmqkit.machines.following import Changes, Following, Loaded
from zmqkit.machines.topics import Topics
from zmqkit.parcel import Parcel
from zmqkit.simulator.applications import Paced
from zmqkit.simulator.books import Begun, Book, Followed
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.config import Config
from zmqkit.simulator.invariants import require
from zmqkit.simulator.model import Key
from zmqkit.simulator.topic_checks import TopicLog
from zmqkit.updates import message
from zmqkit.wire import TOPIC_MARK, Start

LETTERS, NUMBERS = "abc", 12  # of keys: a.0, a.1, …
PREFIXES = (("",), ("a.",), ("b.",), ("a.", "b."), ("a.1", "c."), ("a.", "a.1"), ("b.1", "b.", "c.2"), ("x",), ("", "c."))
TTLS = (0.2, 1.0, 4.0)


class Publisher(Paced):
    """Updates topics."""

    def __init__(self, process: ClientProcess, topics: list[str], config: Config) -> None:
        super().__init__(process, f"publisher {process.name}", config.updates_max, config.update_every)
        self.topics, self.config = topics, config
        self.unanswered: dict[tuple[str, int], int] = {}  # topic and first number -> count
        self._next = dict.fromkeys(topics, 1)

    def pump(self, now: float) -> None:
        if not self.is_due(now):
            return
        random, config = self._random, self.config
        topic = random.choice(self.topics)
        if self.process.machine.has_room(TOPIC_MARK + topic, full=True):
            self.publish(topic, [self._update() for _ in range(random.randint(1, config.updates_batch))])

    def _update(self) -> tuple[str, bool, float | None]:
        """Key, whether it is deleted, ttl."""
        random, config = self._random, self.config
        key = f"{random.choice(LETTERS)}.{random.randrange(NUMBERS)}"
        return key, random.random() < config.deletions, random.choice(TTLS) if random.random() < config.ttls else None

    def publish(self, topic: str, updates: list[tuple[str, bool, float | None]]) -> None:
        """A value says where it belongs, and no other update has the same."""
        first, client = self._next[topic], self.process.client
        bodies = [
            message(key, None if gone else b"%s %d" % (client[:4].hex().encode(), first + index), None if gone else ttl)
            for index, (key, gone, ttl) in enumerate(updates)
        ]
        self.process.machine.put(TOPIC_MARK + topic, Parcel.of(bodies), (self, topic, first))
        self.unanswered[topic, first] = len(updates)
        self._next[topic] += len(updates)
        self.left -= len(updates)

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, ev.Stored | ev.Rejected) and event.ticket[0] is self:
            _, topic, first = event.ticket
            count, key = self.unanswered.pop((topic, first)), Key(self.process.client, topic, first)
            if isinstance(event, ev.Stored):
                self.process.oracle.topics.stored(key, count, event.qseq)
            else:
                self.process.oracle.topics.rejected(key, count)


class Reader:
    """Follows a topic, takes events when it likes, and keeps what it makes of them in `books`, under its role."""

    def __init__(self, process: ClientProcess, role: str, topics: list[str], books: dict[str, Book], config: Config) -> None:
        self.process, self.role, self.topics, self.books, self.config = process, role, topics, books, config
        self.subscription: Followed | None = None
        self.calm = False
        self.hold_until = 0.0  # takes nothing before
        self._random = process.scheduler.random(f"reader {process.name}")
        self._take_at = process.clock.now()
        self._news: deque[tuple[Any, TopicLog, float]] = deque()  # with the log that it is about, and what a snapshot in it is above
        self._batch: Changes | None = None  # that is being taken
        self._open: deque[tuple[str, bytes | None, int]] = deque()  # of it
        self._log = TopicLog("")
        self._given: tuple[int, int] | None = None  # position of the event that was taken last
        self._at: tuple[int, int] | None = None  # the application has come back for the one behind it
        self._kept: tuple[int, int] | None = None
        process.machine.following = Following(self._random.choice(config.windows))

    @property
    def book(self) -> Book:
        return self.books[self.role]

    @property
    def waits(self) -> bool:
        """There is something to take."""
        return bool(self._news or self._open or self._batch is not None)

    @property
    def deadline(self) -> float:
        if self.process.machine.stopping or (self.subscription is not None and not self.waits):
            return inf
        return max(self._take_at, self.hold_until)

    def quiet(self) -> None:
        self.calm, self.hold_until, self._take_at = True, 0.0, 0.0
        self.process.turn_by(self.process.scheduler.now)

    def pump(self, now: float) -> None:
        self._absorb()
        if self.process.machine.stopping or now < max(self._take_at, self.hold_until):
            return
        if self.subscription is None:
            self._join(now)
        elif self.waits:
            every = 0.0 if self.calm else self.config.take_every
            count = self._random.randint(1, 20) if every else 1_000_000
            while count and self.take():
                count -= 1
            self._take_at = now + (self._random.expovariate(1 / every) if every else 0.0)
        self._keep()

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, ev.News):
            self._absorb()

    def behind(self, topics: Topics) -> list[str]:
        """What it has not got yet."""
        subscription, name = self.subscription, self.process.name
        if subscription is None or self.waits or not subscription.loaded:
            return [f"{name} follows nothing, or has not taken all, or is not loaded"]
        hosted = topics.hosted.get(TOPIC_MARK + subscription.topic)
        head = hosted.topic.head if hosted is not None else 0
        return [] if subscription.seq == head else [f"{name} is at {subscription.seq} of {subscription.topic}, the head is {head}"]

    # -- coming and going -------------------------------------------------------------------------------------------------

    def _join(self, now: float) -> None:
        random, book = self._random, self.books.get(self.role)
        if book is not None and book.position is not None and random.random() < 0.7:
            self.process.oracle.counts["came back with a position"] += 1
            self.follow(book, Start.POSITION, *book.position)
            return
        start = random.choice((Start.SNAPSHOT, Start.SNAPSHOT, Start.SNAPSHOT, Start.NOW, Start.BEGINNING, Start.SEQ, Start.TIME))
        name = random.choice((self.role, self.role, "shared")) if random.random() < self.config.named else ""
        time = now - random.uniform(0.0, self.config.chaos_seconds) if start == Start.TIME else 0.0
        self.follow(Book(random.choice(self.topics), random.choice(PREFIXES)), start, seq=random.randrange(60), time=time, name=name)

    def follow(self, book: Book, start: Start, epoch: int = 0, seq: int = 0, time: float = 0.0, name: str = "") -> Followed:
        self.books[self.role], book.carried = book, book.upto is not None
        book.upto = seq if book.carried else None
        self._given = self._at = self._kept = None
        self.subscription = Followed(self.process, book.topic, book.prefixes, start, epoch, seq, time, name)
        self.process.scheduler.note(f"{self.process.name} follows {book.topic} {book.prefixes} {start.name} {epoch} {seq} {name}".rstrip())
        self.process.machine.following.add(self.subscription)
        return self.subscription

    def leave(self, now: float) -> None:
        """It will come back."""
        if self.subscription is not None and not self.process.machine.stopping:
            self.process.scheduler.note(f"{self.process.name} unsubscribes")
            self._keep()
            self.process.machine.following.unsubscribe(self.subscription)
            self.subscription, self._batch, self._take_at = None, None, now + self._random.uniform(0.0, 0.5)
            self._news.clear()
            self._open.clear()

    def change(self, random: Random) -> None:
        if self.subscription is not None and not self.process.machine.stopping:
            held, other = self.subscription.prefixes, random.choice(PREFIXES)
            mixed = tuple(dict.fromkeys((random.choice(held), *other)))
            self.change_to(random.choice((other, mixed, held[:1])))

    def change_to(self, prefixes: tuple[str, ...]) -> None:
        """What waits is taken first: it is about the old ones."""
        subscription = self.subscription
        assert subscription is not None
        self._absorb()
        while self.take():
            pass
        self.process.scheduler.note(f"{self.process.name} follows {prefixes} from now on")
        above = subscription.above(subscription.seq) if subscription.based else 0 if self.config.keep_values else inf
        if subscription.based:
            self.book.skip(subscription.seq, subscription.log, self._who)
        subscription.reading.change(prefixes, above)
        self.book.change(prefixes, above)
        self.process.machine.following.change(subscription, prefixes)

    # -- events -----------------------------------------------------------------------------------------------------------

    @property
    def _who(self) -> str:
        return f"{self.process.name} at {self.book.topic}"

    def _absorb(self) -> None:
        subscription = self.subscription
        if subscription is None:
            return
        for item in subscription.news:
            require(not isinstance(item, wire.Refused), f"{self._who} is refused: {item}")
            self._news.append((item, subscription.log, subscription.above(item.seq) if isinstance(item, Begun) else 0))
        subscription.news.clear()

    def take(self) -> bool:
        """One event more, if there is one. As handles do it: whoever comes for the next has taken the one before."""
        subscription = self.subscription
        if subscription is None:
            return False
        if self._given is not None:
            self._at, self._given = self._given, None
        if self._batch is not None and not self._open:
            self.process.machine.following.take(subscription, self._batch.size)
            self._batch = None
        while not self._open and self._news:
            self._next()
        if not self._open:
            if subscription.loaded:
                self.book.skip(subscription.seq, subscription.log, self._who)
                self._check(subscription.seq, subscription.log)
            return False
        self._apply(*self._open.popleft())
        return True

    def _next(self) -> None:
        item, self._log, above = self._news.popleft()
        book, log = self.book, self._log
        if isinstance(item, Begun):
            book.begin(item, above, log, self._who)
        elif isinstance(item, Loaded):
            book.loaded = True
        elif isinstance(item, Changes):
            self._batch = item
            values = [held[0] if isinstance(held, list) else held for held in item.values]
            if isinstance(item.numbers, int):
                book.misses_none(item.numbers, log, self._who)  # but it is no place to go on from: LIVE and AT say that
                numbers: list[int] = [item.numbers] * len(item.keys)
            else:
                numbers = list(item.numbers)
                assert book.upto is not None
                wanted = log.matching(book.prefixes, book.upto, numbers[-1])
                told = list(zip(numbers, item.keys, values, strict=True))
                right = told == [(update.seq, update.key, update.value) for update in wanted]
                require(right, f"{self._who} was told all up to {book.upto}, and now {told}; the log has {wanted}")
            self._open.extend(zip(item.keys, values, numbers, strict=True))

    def _apply(self, key: str, value: bytes | None, seq: int) -> None:
        book, batch = self.book, self._batch
        assert batch is not None and book.upto is not None
        book.apply(key, value)
        book.upto = book.upto if batch.snapshot else max(book.upto, seq)
        book.position = None
        if batch.whole:
            book.position = self._given = batch.epoch, seq
            self._check(seq, self._log)

    def _check(self, seq: int, log: TopicLog) -> None:
        """What it made of the events up to there."""
        self.book.reading.check(self.book.fold, log, seq, self.process.scheduler.seconds, f"the book of {self.process.name}")

    def _keep(self) -> None:
        """R-T5."""
        subscription = self.subscription
        if subscription is not None and subscription.name and self._at is not None and self._at != self._kept:
            self._kept = self._at
            self.process.oracle.topics.taken.add((subscription.topic, subscription.name, *self._at))
            self.process.machine.following.keep(subscription, *self._at)
