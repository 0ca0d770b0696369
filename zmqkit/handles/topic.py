"""A topic by name, as its users see it: publish, subscribe, follow its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zmqkit.codec import Schema, packer
from zmqkit.errors import Closed, Error
from zmqkit.handles.admin import TopicInfo, informing, telling
from zmqkit.handles.durations import Duration, patience, seconds
from zmqkit.handles.feed import Event, Position
from zmqkit.handles.names import queue_name, topic_key, topic_name
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.outcome import BatchReceipt, PutFuture, Receipt
from zmqkit.handles.producer import Producer
from zmqkit.handles.subscribing import State as State, Subscribing, following
from zmqkit.handles.waiting import run
from zmqkit.updates import UPDATES_BYTES_MAX, message, messages
from zmqkit.wire import TOPIC_MARK

if TYPE_CHECKING:
    from zmqkit.aio.topic import Topic as AsyncTopic

T = TypeVar("T")
Start = str | Position | int | datetime
ASK_SECONDS = 5.0  # for questions to the node; the link is mended meanwhile, if it has to be
Update = tuple[str, Any, float | None]  # key, value (DELETED: none), seconds that it holds
DELETED = object()


def update_packer() -> Callable[[Update], bytes]:
    """Encodes one update. Not for two threads at once."""
    pack = packer()

    def encode(update: Update) -> bytes:
        key, value, ttl = update
        return message(key, None if value is DELETED else pack(value), ttl)

    return encode


class Pairs:
    """Updates from (key, value) pairs: one by one, or many at once in a third of the time."""

    def __init__(self, dump: Callable[[Any], Any] | None, ttl: Duration | None) -> None:
        self._dump, self._ttl = dump, _ttl(ttl)

    def __call__(self, pair: tuple[str, Any]) -> Update:
        key, value = pair
        return topic_key(key), self._dump(value) if self._dump else value, self._ttl

    def encoded(self, pairs: list[tuple[str, Any]], pack: Callable[[Any], bytes]) -> list[bytes]:
        """Raises whatever is wrong with any of them."""
        keys, values = zip(*pairs, strict=True)
        packed: Iterable[Any] = map(pack, map(self._dump, values) if self._dump else values)
        if self._ttl is not None:
            packed = [(value, self._ttl) for value in packed]
        return messages(keys, packed, pack)


class UpdateProducer(Producer):
    """Of a topic."""

    def __init__(self, nodes: Nodes, marked: str) -> None:
        super().__init__(nodes, marked, update_packer, UPDATES_BYTES_MAX)

    def _encoded(self, raw: list[Any], dump: Any, pack: Callable[[Any], bytes]) -> list[bytes]:
        try:
            return dump.encoded(raw, packer())  # type: ignore[no-any-return]
        except Exception:
            return super()._encoded(raw, dump, pack)  # which tells the first that is wrong


class Topic(Generic[T]):
    """Made by `Client.topic(name)`; comes into being at the node with its first use. Threads may share it."""

    aio: AsyncTopic[T]  # its twin for asyncio, on the same link; set by zmqkit.aio

    def __init__(self, nodes: Nodes, name: str, type: Any = None) -> None:
        self._nodes, self.name = nodes, topic_name(name)
        schema = None if type is None or type is Any else Schema(type)
        self._dump: Callable[[Any], Any] | None = schema.dump if schema else None
        self._load: Callable[[Any], Any] | None = schema.load if schema else None
        self._marked = TOPIC_MARK + self.name

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}>"

    @cached_property
    def _producer(self) -> Producer:
        """Raises Error where the values of one key would go round several nodes, each of which would hold another one."""
        nodes, marked = self._nodes, self._marked
        if nodes.spread:
            raise Error("with spread=True a key's values would be strewn over all nodes: publish on your own Node, or connect to one")
        return nodes.producer(marked, lambda: UpdateProducer(nodes, marked))

    # -- publishing -----------------------------------------------------------------------------------------------------

    def publish(self, key: str, value: T, ttl: Duration | None = None, timeout: Duration | None = 5.0) -> Receipt:
        """The key holds this value from now on (for `ttl` seconds); returns when the node has it as durably as the receipt says.

        Raises Timeout (`maybe_executed` tells whether it may still count), DiskFull, MessageTooLarge, Unencodable.
        """
        return self._wait(self.publish_soon(key, value, ttl, timeout), timeout)

    def publish_soon(self, key: str, value: T, ttl: Duration | None = None, timeout: Duration | None = None) -> PutFuture:
        """The same in the background. Waits only for room, at most `timeout` seconds (then NotSent). `flush` waits for all."""
        return self._put(self._update(key, value, ttl), timeout)

    def publish_many(self, pairs: Iterable[tuple[str, T]], ttl: Duration | None = None, timeout: Duration | None = 5.0) -> BatchReceipt:
        """All, in order, under one receipt. Takes any iterable of (key, value), lazily. `timeout` is for any progress, not for all.

        An error has `confirmed`: so many of the first count; some behind them may.
        """
        return run(self._producer.put_many(pairs, Pairs(self._dump, ttl), patience(timeout)))

    def delete(self, key: str, timeout: Duration | None = 5.0) -> Receipt:
        """The key holds nothing from now on."""
        return self._wait(self.delete_soon(key, timeout), timeout)

    def delete_soon(self, key: str, timeout: Duration | None = None) -> PutFuture:
        """The same in the background."""
        return self._put(deletion(key), timeout)

    def _update(self, key: str, value: T, ttl: Duration | None) -> Update:
        """Raises ValueError or Unencodable."""
        return topic_key(key), self._dump(value) if self._dump else value, _ttl(ttl)

    def _put(self, update: Update, timeout: Duration | None) -> PutFuture:
        return self._producer.put_soon(update, None, patience(timeout))

    def _wait(self, future: PutFuture, timeout: Duration | None) -> Receipt:
        return future.wait_or_withdraw(patience(timeout), self._nodes.why)

    # -- the topic itself -----------------------------------------------------------------------------------------------

    def info(self, timeout: Duration | None = ASK_SECONDS) -> TopicInfo:
        """Of several nodes: sums; `seq`, `floor` and `epoch`, which each counts for itself, are 0 then."""
        return run(informing(self._nodes, "topic_info", {"topic": self.name}, TopicInfo, timeout))

    def bind(self, prefix: str, queue: str, timeout: Duration | None = ASK_SECONDS) -> None:
        """From now on each update under this prefix is also a message of that queue: both are there, or neither.

        Its body is the value (None: the key was deleted), its headers are `topic`, `key`, `seq` and perhaps `deleted`. A full queue
        refuses the update. Prefixes bound to one queue give one message an update.
        """
        self._ask("topic_bind", timeout, prefix=prefix, queue=queue_name(queue))

    def unbind(self, prefix: str, queue: str, timeout: Duration | None = ASK_SECONDS) -> None:
        """No more. Messages that are there stay."""
        self._ask("topic_unbind", timeout, prefix=prefix, queue=queue_name(queue))

    def remove(self, timeout: Duration | None = ASK_SECONDS) -> None:
        """Remove the topic with its state, history, names, bindings and policy. Who follows it sees every key deleted, behind a gap.
        The next use makes a new one."""
        self._ask("topic_delete", timeout)

    def _ask(self, verb: str, timeout: Duration | None, **arguments: Any) -> None:
        run(telling(self._nodes, verb, {"topic": self.name, **arguments}, timeout))

    # -- subscribing ----------------------------------------------------------------------------------------------------

    def subscribe(self, *prefixes: str, start: Start = "snapshot", name: str = "") -> Subscription[T]:
        """Follow the keys under these prefixes; none: all keys. A client of several nodes follows the topic at each of them, as one.

        start  "snapshot": with what holds now, then what changes; "now"; "beginning": with the oldest update that is kept; an
               event's `position`; a seq; a datetime
        name   the node keeps the position under it, once the application has taken what is before: whoever subscribes under
               that name next goes on there. It belongs to the newest who does
        """
        return Subscription(self._nodes, following(self._nodes, self.name, prefixes, start, name), self._load)


class Subscription(Subscribing[T], Generic[T]):
    """Events to iterate over, and the state that they add up to. `close` it, or leave its `with`.

    Nobody has to take events; but who has begun to should go on: the node sends no more than a window of what is not taken, so
    that nothing is lost, and the state follows no further.
    """

    def wait_ready(self, timeout: Duration | None = 5.0) -> bool:
        """Is the state complete, within `timeout` seconds?"""
        return run(self._readying(patience(timeout)))

    def get(self, timeout: Duration | None = 1.0) -> Event | None:
        """The next event, or None if there is none within `timeout` seconds (0: now), or it is closed.

        Raises ValueError for a value that is not of the topic's type; the next call goes on behind it.
        """
        self._nodes.admit()
        return run(self._getting(patience(timeout)))

    def __iter__(self) -> Iterator[Event]:
        """Until `stop` or `close`."""
        while not self._feed.ended:
            try:
                event = self._feed.take() or self.get(None)
            except Closed:
                if not self._feed.ended:
                    raise
                return  # its client was closed just now
            if event is None:
                return
            yield event

    def close(self) -> None:
        """Follow no more; a loop over it ends. The state stays as it is."""
        self.stop()

    def __enter__(self) -> Subscription[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def deletion(key: str) -> Update:
    return topic_key(key), DELETED, None


def _ttl(ttl: Duration | None) -> float | None:
    if ttl is None:
        return None
    held = seconds(ttl)
    if held == 0:
        raise ValueError("ttl=0: what holds for no time is not published; `delete` the key")
    return held
