"""Loops over a queue in asyncio: one delivery at a time, batches, or a pool of tasks that calls a handler."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from types import TracebackType
from typing import Any, Generic, TypeVar

from zmqkit.aio.bell import Bell
from zmqkit.aio.delivery import Batch, Delivery
from zmqkit.errors import Closed, Error, StaleLease, fresh
from zmqkit.handles.consumer import Loop, batch_size, checked_threads, log
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.intake import News
from zmqkit.reactor import now

T = TypeVar("T")
R = TypeVar("R")

OF_TASKS = " (of tasks)"  # what `threads` counts here
HOG_SECONDS = 0.01  # after so long without a wait the event loop gets its turn, though more messages are there


class AsyncLoop(Loop):
    """What consumers have in common. Tasks, also of several event loops, may share one."""

    _rested = 0.0  # when the event loop last had its turn

    async def _next(self, take: Callable[[], R | None]) -> R:
        """What `take` finds, as soon as it finds something. Cancelled, it has taken nothing."""
        inbox, since = self._inbox, now()
        if since > self._rested + HOG_SECONDS:
            await asyncio.sleep(0)
            self._rested = now()
        while not self.ended:
            inbox.nodes.admit()
            self._raise_stale()
            seen = inbox.news
            found = take()
            if found is not None:
                return found
            left = self._left(since)
            if left == 0:
                self.stop()
                break
            try:
                await Bell.of(inbox.nodes).wait(News(inbox, seen), left)
            except asyncio.CancelledError:
                inbox.tell(1)  # the news may have been ours alone: let another one look
                raise
            self._rested = now()
        self._raise_error()
        raise StopAsyncIteration

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class Consumer(AsyncLoop, Generic[T]):
    """`async for d in q.consume():`"""

    def __aiter__(self) -> Consumer[T]:
        return self

    async def __aenter__(self) -> Consumer[T]:
        return self

    async def __anext__(self) -> Delivery[T]:
        return await self._next(lambda: self._inbox.take(Delivery, self._convert))


class BatchConsumer(AsyncLoop, Generic[T]):
    """`async for b in q.consume_many(512):` batches of at most so many messages, of what has arrived."""

    def __init__(self, most: int, *arguments: Any) -> None:
        self._most = batch_size(most)
        super().__init__(*arguments)

    def __aiter__(self) -> BatchConsumer[T]:
        return self

    async def __aenter__(self) -> BatchConsumer[T]:
        return self

    async def __anext__(self) -> Batch[T]:
        return await self._next(self._take)

    def _take(self) -> Batch[T] | None:
        parts, bodies = self._inbox.take_many(self._most, self._convert)
        return Batch(parts, bodies) if parts else None


class Pool:
    """Tasks that do one thing until they are stopped; SIGTERM and SIGINT may do that."""

    _tasks: list[asyncio.Task[None]]
    error: Error | None = None  # why the node ended it

    @property
    def ended(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        """Finish what runs, take nothing new. May be called in a signal handler."""
        raise NotImplementedError

    async def wait(self, timeout: Duration | None = None) -> bool:
        """Have all handlers ended within `timeout` seconds? Raises Forbidden or QuotaExceeded, if the node ended them."""
        _, running = await asyncio.wait(self._tasks, timeout=patience(timeout))
        if self.error is not None and not running:
            raise fresh(self.error)
        return not running

    async def run_until_stopped(self) -> None:
        """Wait for the end. In the main thread SIGTERM and SIGINT stop it; a second one cancels what runs and raises
        KeyboardInterrupt. Cancelled, it cancels what runs."""
        at_once = False

        def on_signal() -> None:
            nonlocal at_once
            if self.ended:
                at_once = True
                self._cancel()
                return
            log.info("stopping: what runs is finished, a second signal ends at once")
            self.stop()

        loop, before = asyncio.get_running_loop(), {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.getsignal(number)
                loop.add_signal_handler(number, on_signal)
        try:
            await self.wait()
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)
            self._cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if at_once:
            raise KeyboardInterrupt

    def _cancel(self) -> None:
        self.stop()
        for task in self._tasks:
            task.cancel()


class Work(Pool, Generic[T]):
    """A pool of tasks that awaits `handler(d)` for each delivery; a failure is logged and nacked. Cancelled, what runs goes back
    uncounted."""

    def __init__(self, consumer: Consumer[T], handler: Callable[[Delivery[T]], Awaitable[Any]], threads: int) -> None:
        numbers = range(checked_threads(threads, OF_TASKS))
        self._consumer, self._handler = consumer, handler
        consumer.tells = False  # `wait` does
        self._tasks = [asyncio.create_task(self._run(), name=f"zmqkit-work-{n}") for n in numbers]

    @property
    def error(self) -> Error | None:  # type: ignore[override]
        return self._consumer.error

    @property
    def ended(self) -> bool:
        return self._consumer.ended

    def stop(self) -> None:
        """Finish what runs, take nothing new. May be called in a signal handler."""
        self._consumer.stop()

    async def _run(self) -> None:
        while True:
            try:
                async for d in self._consumer:
                    async with d:
                        result = self._handler(d)
                        if isawaitable(result):  # a plain function is fine, as long as it is quick
                            await result
                return
            except Closed:
                return
            except StaleLease as error:
                log.warning("%s", error)
            except Exception:
                log.exception("a handler failed; the message comes again")
