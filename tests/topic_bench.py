"""One topic, its subscribers and their client machines, with links that a test cuts. No node, no disk: pure machines in a loop."""

from __future__ import annotations

from collections import deque
from typing import Any

from zmqkit import framing, wire
from zmqkit.machines.account import Account
from zmqkit.machines.fanout import Fanout
from zmqkit.machines.following import Changes, Following, Gap, Loaded, Subscription
from zmqkit.machines.parts import Row
from zmqkit.machines.policy import TopicPolicy
from zmqkit.machines.session import Client
from zmqkit.machines.topic import Landing, Topic
from zmqkit.records import Drop
from zmqkit.updates import Held, Updates, message

EPOCH = 3


class Follower:
    """A client: its machine, its half of the link, and what its application made of the events."""

    def __init__(self, bench: TopicBench, number: int, window: int) -> None:
        self.bench, self.machine = bench, Following(window)
        self.client = Client(bytes([number]) * 16, Account("", None))
        self.inbox: deque[wire.Command] = deque()
        self.fold: dict[str, Any] = {}
        self.gaps: list[Gap] = []
        self.seen: list[tuple[str, Any, int, bool]] = []  # key, value, seq, of a snapshot
        self.loaded = 0
        self.hold = False  # takes nothing
        self.untaken: list[tuple[Subscription, int]] = []

    def subscribe(self, *arguments: Any, **more: Any) -> Subscription:
        subscription = Subscription(*arguments, **more)
        self.machine.add(subscription)
        return subscription

    def up(self, changed: bool = False) -> None:
        self.client.peer = b"up"
        self.machine.resume(changed)
        self.say()

    def cut(self) -> None:
        """What is under way is lost, both ways."""
        self.client.peer = b""
        self.inbox.clear()
        for _, number in [case for case in self.bench.fanout.subscribers if case[0] == self.client.id]:
            self.bench.fanout.remove(self.client, number)

    def say(self) -> None:
        if not self.client.peer:
            return
        fanout = self.bench.fanout
        for command in self.machine.sends():
            command = framing.decode(framing.encode(command))
            if isinstance(command, wire.Sub):
                fanout.add(self.client, command)
            elif isinstance(command, wire.Unsub):
                fanout.remove(self.client, command.number)
            elif isinstance(command, wire.Seen):
                fanout.take_up(self.client, command.number, command.taken)
            elif isinstance(command, wire.Pos):
                name = fanout.keeps(self.client, command.number, command.epoch, command.seq)
                if name:
                    self.bench.topic.names[name] = command.epoch, command.seq

    def listen(self, most: int = 1_000_000) -> None:
        """Hear up to so many commands; the application follows."""
        while self.inbox and most:
            most -= 1
            dropped = self.machine.hear(framing.decode(framing.encode(self.inbox.popleft())), self.bench.now)  # type: ignore[arg-type]
            assert dropped in ("", "old-subscription", "update-out-of-order"), dropped
        for subscription in self.machine.take_changed():
            for news in subscription.news:
                self._follow(subscription, news)
            subscription.news.clear()
        if not self.hold:
            for subscription, size in self.untaken:
                self.machine.take(subscription, size)
            self.untaken.clear()
        self.say()

    def _follow(self, subscription: Subscription, news: Changes | Gap | Loaded) -> None:
        if isinstance(news, Gap):
            self.gaps.append(news)
        elif isinstance(news, Loaded):
            self.loaded += 1
        else:
            numbers = [news.numbers] * len(news.keys) if isinstance(news.numbers, int) else list(news.numbers)
            for key, value, seq in zip(news.keys, news.values, numbers, strict=True):
                self.seen.append((key, value, seq, news.snapshot))
                if value is None:
                    self.fold.pop(key, None)
                else:
                    self.fold[key] = value
            if news.size:
                self.untaken.append((subscription, news.size))


class TopicBench:
    def __init__(self, **policy: Any) -> None:
        self.now = 1000.0
        self.bodies: dict[int, Updates] = {}
        self.reads = self.position = 0
        self.topic = Topic(1, "\1t", TopicPolicy(**policy), self._read)
        self.fanout = Fanout(self.topic, EPOCH, self._send)
        self.followers: list[Follower] = []
        self.log: list[tuple[str, Held]] = []  # update n is entry n - 1

    def _read(self, position: int) -> Updates:
        self.reads += 1
        return self.bodies[position]

    def _send(self, client: Client, command: wire.Command) -> None:
        follower = next(follower for follower in self.followers if follower.client is client)
        if client.peer:
            follower.inbox.append(command)

    def follower(self, window: int = 1 << 20) -> Follower:
        self.followers.append(Follower(self, len(self.followers) + 1, window))
        self.followers[-1].up()
        return self.followers[-1]

    def publish(self, *pairs: tuple[str, bytes | None], ttl: float | None = None) -> None:
        if not self.topic.epochs:
            self.topic.begin_epoch(EPOCH, 0)
        parcel = Updates.read(wire.Parcel.of([message(key, value, ttl) for key, value in pairs]))
        self.position += 1
        position = self.position
        self.bodies[position] = parcel
        row = Row(self.topic.number_messages(parcel.count), parcel.count, position, len(parcel.body), self.now)
        self.log += zip(parcel.keys, parcel.values, strict=True)
        self.topic.land(Landing(row, parcel))
        ranges = self.topic.surplus(self.now)
        if ranges:
            for gone in self.topic.trim(Drop(1, ranges)):
                del self.bodies[gone.position]

    def serve(self) -> None:
        self.fanout.serve(self.now)

    def settle(self) -> None:
        """Everybody hears everything."""
        for follower in self.followers:
            follower.listen()
        for _ in range(10_000):
            self.serve()
            if not any(follower.inbox for follower in self.followers):
                for follower in self.followers:
                    for client, number in list(self.fanout.subscribers):
                        if client == follower.client.id:
                            self.fanout.beat(follower.client, number)
                if not any(follower.inbox for follower in self.followers):
                    return
            for follower in self.followers:
                follower.listen()
        raise AssertionError("it never ends")

    def truth(self, seq: int, prefixes: tuple[str, ...] = ("",)) -> dict[str, Held]:
        """The fold of the log up to there."""
        state: dict[str, Held] = {}
        for key, value in self.log[:seq]:
            if key.startswith(prefixes):
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = value
        return state
