"""A queue by name, as its users see it: put, get, consume, and look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zmqkit.codec import Schema
from zmqkit.handles.admin import DeadLetters, Peeked, QueueInfo, informing, peeking, purging, telling
from zmqkit.handles.consumer import BatchConsumer, Consumer, OnStale, Work
from zmqkit.handles.delivery import Batch, Delivery, Got, GotBatch
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.getting import get, get_many
from zmqkit.handles.hand import Credit
from zmqkit.handles.inbox import Inbox
from zmqkit.handles.inboxes import Inboxes
from zmqkit.handles.intake import Intake
from zmqkit.handles.names import queue_name
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.outcome import BatchReceipt, PutFuture, Receipt
from zmqkit.handles.producer import Headers, Producer
from zmqkit.handles.waiting import run

if TYPE_CHECKING:
    from zmqkit.aio.queue import Queue as AsyncQueue

T = TypeVar("T")
ASK_SECONDS = 5.0  # for questions to the node; the link is mended meanwhile, if it has to be


class Queue(Generic[T]):
    """Made by `Client.queue(name)`; comes into being at the node with its first use. Threads may share it."""

    aio: AsyncQueue[T]  # its twin for asyncio, on the same link; set by zmqkit.aio

    def __init__(self, nodes: Nodes, name: str, type: Any = None) -> None:
        self._nodes, self.name = nodes, queue_name(name)
        schema = None if type is None or type is Any else Schema(type)
        self._dump: Callable[[Any], Any] | None = schema.dump if schema else None
        self._load: Callable[[Any], Any] | None = schema.load if schema else None
        self._producer = nodes.producer(name, lambda: Producer(nodes, name))
        self.dead = DeadLetters(nodes, name, self._load)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    # -- putting --------------------------------------------------------------------------------------------------------

    def put(self, body: T, headers: Headers | None = None, timeout: Duration | None = 5.0) -> Receipt:
        """Store one message; returns when the node has it as durably as the receipt says.

        Raises Timeout (`maybe_executed` tells whether it may still be stored), QueueFull, DiskFull, MessageTooLarge, Unencodable.
        """
        limit = patience(timeout)
        future = self.put_soon(body, headers, limit)
        return future.wait_or_withdraw(limit, self._nodes.why)

    def put_soon(self, body: T, headers: Headers | None = None, timeout: Duration | None = None) -> PutFuture:
        """Store one message in the background. Waits only for room, at most `timeout` seconds (then NotSent). `flush` waits for all."""
        return self._producer.put_soon(self._dump(body) if self._dump else body, headers, patience(timeout))

    def put_many(self, bodies: Iterable[T], timeout: Duration | None = 5.0) -> BatchReceipt:
        """Store all, in order, under one receipt. Takes any iterable, lazily; many are under way at a time.

        `timeout` is for any progress, not for all. An error has `confirmed`: so many of the first messages are stored; some
        behind them may be.
        """
        return run(self._producer.put_many(bodies, self._dump, patience(timeout)))

    # -- getting --------------------------------------------------------------------------------------------------------

    def get(self, timeout: Duration | None = 1.0) -> Delivery[T] | None:
        """The next message, or None if there is none within `timeout` seconds (0: now)."""
        return run(get(self._inbox, Got, patience(timeout), self._load))

    def get_many(self, n: int, timeout: Duration | None = 1.0) -> Batch[T]:
        """Up to `n` messages: what is there, or what comes first within `timeout`. An empty batch if nothing is."""
        if type(n) is not int or n < 1:
            raise ValueError(f"n={n!r}: give a whole number of at least 1")
        return GotBatch(*run(get_many(self._inbox, n, patience(timeout), self._load)))

    def consume(self, credit: Credit = "auto", lease: Duration | None = None, idle: Duration | None = None,
                on_stale: OnStale | None = None) -> Consumer[T]:  # fmt: skip
        """Messages one by one, until stopped, or until nothing came for `idle` seconds.

        credit    so many may be held unsettled, here and in your hands; "auto": what you took, and about 100 ms of work ahead
        lease     seconds a message stays yours if this process falls silent (None: as the queue's policy says); renewed meanwhile
        on_stale  called with a StaleLease that arrives after its ack; without it the next call raises it
        """
        return Consumer(self._inbox, self._load, credit, lease, idle, on_stale)

    def consume_many(self, n: int = 512, credit: Credit = "auto", lease: Duration | None = None, idle: Duration | None = None,
                     on_stale: OnStale | None = None) -> BatchConsumer[T]:  # fmt: skip
        """Batches of up to `n` messages, of what has arrived."""
        return BatchConsumer(n, self._inbox, self._load, credit, lease, idle, on_stale)

    def work(self, handler: Callable[[Delivery[T]], Any], threads: int = 8, credit: Credit = "auto", lease: Duration | None = None,
             idle: Duration | None = None, block: bool = True) -> Work[T]:  # fmt: skip
        """Call `handler(d)` for each message, in `threads` threads. Success acks; a failure is logged and nacked.

        Ends by SIGTERM or SIGINT (in the main thread), `idle`, or the `stop()` of the returned handle (`block=False`): what runs
        is finished, the rest goes back.
        """
        work = Work(self.consume(credit, lease, idle), handler, threads)
        if block:
            work.run_until_stopped()
        else:
            work.start()
        return work

    @property
    def _inbox(self) -> Intake:
        nodes, name = self._nodes, self.name
        if nodes.single:
            session = nodes.sessions[0]
            return nodes.intake(name, lambda: session.inbox(name, lambda: Inbox(session, name)))
        return nodes.intake(name, lambda: Inboxes(nodes, name))

    # -- looking --------------------------------------------------------------------------------------------------------

    def info(self, timeout: Duration | None = ASK_SECONDS) -> QueueInfo:
        """Of several nodes: the sum of those that are up, and the oldest message of any; `consumers` counts one of two nodes twice."""
        return run(informing(self._nodes, "info", {"queue": self.name}, QueueInfo, timeout))

    def peek(self, n: int = 10, state: str = "ready", seqs: Sequence[int] | None = None, after: int = 0,
             timeout: Duration | None = ASK_SECONDS) -> list[Peeked]:  # fmt: skip
        """Up to `n` messages that are "ready", "leased" or "delayed", lowest number first, without taking them.

        Of all, or only of `seqs`; and only such with a number above `after`: the last one's `seq` gives the next page. Of several
        nodes one after the other, without `seqs` and `after`, for each counts for itself.
        """
        return run(peeking(self._nodes, self.name, self._load, n, state, seqs, after, timeout))

    def purge(self, seqs: Sequence[int] | None = None, timeout: Duration | None = ASK_SECONDS) -> int:
        """Throw away all messages that wait, or those of `seqs`; what is leased or dead stays. Returns how many."""
        return run(purging(self._nodes, self.name, seqs, timeout))

    def pause(self, timeout: Duration | None = ASK_SECONDS) -> None:
        """Give out nothing more, to nobody, until `resume`; puts go on. Survives a restart of the node."""
        self._ask("pause", timeout)

    def resume(self, timeout: Duration | None = ASK_SECONDS) -> None:
        self._ask("resume", timeout)

    def delete(self, timeout: Duration | None = ASK_SECONDS) -> None:
        """Remove the queue with its messages, dead letters and policy. The next use makes a new one."""
        self._ask("delete", timeout)

    def _ask(self, verb: str, timeout: Duration | None) -> None:
        run(telling(self._nodes, verb, {"queue": self.name}, timeout))
