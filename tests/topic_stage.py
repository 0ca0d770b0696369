"""A stage for stories of topics: publishers and readers by name, and readers that take only when the story says so."""

from __future__ import annotations

from math import inf
from typing import Any

from sim_stage import Stage

from zmqkit.machines.following import Following, Gap
from zmqkit.simulator.books import Book, Followed
from zmqkit.simulator.clients import ClientProcess
from zmqkit.simulator.config import Config
from zmqkit.simulator.readers import Publisher, Reader
from zmqkit.wire import Start


class Follower(Reader):
    """Takes all at once, or nothing while it `holds`."""

    def __init__(self, process: ClientProcess, window: int) -> None:
        super().__init__(process, process.name, ["t"], {}, Config())
        process.machine.following = Following(window)
        self.gaps: list[Gap] = []
        self.seen: list[tuple[int, str]] = []

    def _next(self) -> None:
        item = self._news[0][0]
        if isinstance(item, Gap):
            self.gaps.append(item)
        super()._next()

    def _apply(self, key: str, value: bytes | None, seq: int) -> None:
        super()._apply(key, value, seq)
        self.seen.append((seq, key if value is not None else f"-{key}"))

    @property
    def state(self) -> dict[str, bytes | None]:
        """Checked by the oracle: what the machine holds, and what the events add up to, is what the log says."""
        followed = self.followed
        held = {key: value if isinstance(value, bytes) else value[0] for key, value in followed.state.items()}
        assert followed.loaded and not self.waits and held == self.book.fold
        return self.book.fold

    @property
    def followed(self) -> Followed:
        assert self.subscription is not None
        return self.subscription


class TopicStage(Stage):
    def __init__(self, segment_records: int = 1000, **policy: Any) -> None:
        super().__init__(segment_records)
        self.publisher = self.join_publisher()
        if policy:
            self.declare(**policy)

    def join_publisher(self, name: str = "publisher") -> Publisher:
        return self.join(Publisher(self._client(name), ["t"], Config(updates_max=0)))

    def declare(self, **policy: Any) -> None:
        self.ask("topic_declare", topic="t", policy=policy)

    def ask(self, verb: str, **arguments: Any) -> None:
        self.publisher.process.machine.asks.add(verb, arguments, None)
        self.publisher.process.turn_by(self.scheduler.now)
        self.run(0.1)

    def publish(self, *keys: str, ttl: float | None = None, run: float = 0.1) -> None:
        """One batch; "-key" deletes."""
        self.publisher.publish("t", [(key.removeprefix("-"), key.startswith("-"), None if key.startswith("-") else ttl) for key in keys])
        self.publisher.process.turn_by(self.scheduler.now)
        self.run(run)

    def reader(
        self, who: str = "reader", prefixes: tuple[str, ...] = ("",), start: Start = Start.SNAPSHOT, window: int = 1 << 20,
        run: float = 0.1, book: Book | None = None, **more: Any,
    ) -> Follower:  # fmt: skip
        reader = Follower(self._client(who), window)
        if book is not None and book.position is not None:
            reader.follow(book, Start.POSITION, *book.position, **more)
        else:
            reader.follow(Book("t", prefixes), start, **more)
        return self.join(reader, run)

    def hold(self, reader: Follower) -> None:
        reader.hold_until = inf

    def take(self, reader: Follower, run: float = 0.1) -> None:
        reader.hold_until = 0.0
        reader.process.turn_by(self.scheduler.now)
        self.run(run)

    def change(self, reader: Follower, *prefixes: str, run: float = 0.1) -> None:
        reader.change_to(prefixes)
        reader.process.turn_by(self.scheduler.now)
        self.run(run)

    def lose_tail(self) -> None:
        """The power fails, and of what was not synced nothing is left."""
        self.disk.written = self.disk.durable
        self.node.crash(power=True)

    def cut_link(self, process: ClientProcess, silent: bool = False) -> None:
        assert process.link is not None
        self.net.kill(process.link, silent)
