"""Messages in the hands of a task. Settling acts at once, as for threads; `ack(wait=True)` is what waits.

What settles returns something that may be awaited and need not be: `d.ack()` and `await d.ack()` are the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from types import TracebackType
from typing import Any, TypeVar

from zmqkit.aio.bell import Bell
from zmqkit.handles import delivery
from zmqkit.handles.durations import Duration, patience

T = TypeVar("T")


class Done:
    """Awaiting it waits for nothing."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


DONE = Done()


class Settling(delivery.Settling):
    """What Delivery and Batch have in common here: settling acts at once, and may be awaited."""

    __slots__ = ()

    def nack(self, delay: Duration | None = None, reason: str = "") -> Awaitable[None]:  # type: ignore[override]
        super().nack(delay, reason)
        return DONE

    def reject(self, reason: str = "rejected") -> Awaitable[None]:  # type: ignore[override]
        super().reject(reason)
        return DONE

    def snooze(self, delay: Duration) -> Awaitable[None]:  # type: ignore[override]
        super().snooze(delay)
        return DONE


class Delivery(Settling, delivery.Delivery[T]):
    """One message, yours until settled. `async with d:` acks on success and nacks on an exception, which goes on up."""

    __slots__ = ()

    def ack(self, wait: bool = False, timeout: Duration | None = 5.0) -> Awaitable[None]:  # type: ignore[override]
        """Settle it: done, at once. With `wait`, await it: it ends when the node has it durably, or raises Timeout.
        Raises StaleLease if the lease is known to have ended."""
        if wait:
            return Bell.of(self._hand.inbox.nodes).drive(self.acking(patience(timeout)))
        super().ack()
        return DONE

    def extend(self, lease: Duration) -> Awaitable[None]:  # type: ignore[override]
        super().extend(lease)
        return DONE

    def save(self, value: Any) -> Awaitable[None]:  # type: ignore[override]
        super().save(value)
        return DONE

    async def __aenter__(self) -> Delivery[T]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        return self.__exit__(kind, error, trace)


class Got(Delivery[T]):
    __slots__ = ()
    by_get = True


class Batch(Settling, delivery.Batch[T]):
    """Some deliveries, settled together unless you settle them singly. `async with b:` acks all on success; if it raises, they
    come again one by one."""

    __slots__ = ()
    kind = Delivery

    def ack(self, wait: bool = False, timeout: Duration | None = 5.0) -> Awaitable[None]:  # type: ignore[override]
        """Settle all that you have not settled singly, at once; with `wait`, await it."""
        if wait and self._parts:
            return Bell.of(self._parts[0][0].inbox.nodes).drive(self.acking(patience(timeout)))
        super().ack()
        return DONE

    async def __aenter__(self) -> Batch[T]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        return self.__exit__(kind, error, trace)


class GotBatch(Batch[T]):
    __slots__ = ()
    by_get = True
    kind = Got
