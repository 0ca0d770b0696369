"""Answering calls in tasks of one loop.

A task answers one call after the other as long as there are any: a handler that waits for nothing costs no switch of tasks. As
soon as one waits, another task goes on; there are as many as were ever needed at once, at most `threads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from inspect import isawaitable
from types import CoroutineType
from typing import Any

from zmqkit.aio.bell import Bell
from zmqkit.aio.consumer import HOG_SECONDS, OF_TASKS, Pool
from zmqkit.codec import packer
from zmqkit.errors import MessageTooLarge
from zmqkit.handles.consumer import checked_credit, checked_threads
from zmqkit.handles.crew import Crew
from zmqkit.handles.current import CURRENT, Current
from zmqkit.handles.hand import Credit, Demand
from zmqkit.handles.requests import CallHand, Flow
from zmqkit.handles.serving import answer_end, answer_error, answer_part, body_of, cancelled, packed
from zmqkit.reactor import now
from zmqkit.wire import Status


class Worker:
    """One task, and the call in its hands."""

    __slots__ = ("call", "task", "withdrawn")

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.call: Current | None = None
        self.withdrawn = False  # it was cancelled because nobody waits for this answer


class Serving(Pool):
    """Tasks that answer calls until `stop`."""

    def __init__(self, crew: Crew, threads: int, credit: Credit) -> None:
        self.count, self.credit = checked_threads(threads, OF_TASKS), checked_credit(credit)
        self.demands: dict[str, Demand] = {}
        self._crew, self._bell, self._pack = crew, Bell.of(crew.nodes), packer()
        self._over: asyncio.Future[None] = self._bell.loop.create_future()
        self._workers: list[Worker] = []
        self._idle: list[asyncio.Future[None]] = []
        self._busy = self._coming = 0  # tasks inside of a handler; called, and not come yet
        self._rung = self._ended = False
        self._tasks = [asyncio.create_task(self._keep(), name="zmqkit-serve")]
        crew.join(self)
        crew.watchers.append(self.gone)

    @property
    def ended(self) -> bool:
        return self._ended

    def stop(self) -> None:
        """Finish what runs, take nothing new: the rest goes to other workers. May be called in a signal handler."""
        self._ended = True
        self._crew.leave(self)
        self._bell.tell(self._look)

    # -- news -----------------------------------------------------------------------------------------------------------

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.tell(self._look)

    def gone(self, hand: CallHand) -> None:
        """Nobody waits for some of these calls any more. On the I/O thread."""
        self._bell.tell(self._withdraw, hand)

    def _withdraw(self, hand: CallHand) -> None:
        for worker in self._workers:
            call = worker.call
            if call is not None and call.hand is hand and call.cancelled and not worker.withdrawn:
                worker.withdrawn = True
                worker.task.cancel()

    def _look(self) -> None:
        self._rung = False
        if not self._ended:
            self._call_help()
            return
        while self._wake_idle():
            pass
        if not self._over.done():
            self._over.set_result(None)

    def _call_help(self) -> None:
        """A task more, and one for each that waits inside of its handler: twice as many at each round, and none for nothing."""
        for _ in range(min(self._crew.waits, 1 + self._busy - self._coming)):
            if self._wake_idle():
                continue
            if len(self._workers) == self.count:
                return
            worker = Worker()
            worker.task = asyncio.create_task(self._work(worker), name="zmqkit-serve")
            self._workers.append(worker)
            self._coming += 1

    def _wake_idle(self) -> bool:
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():  # else its task was cancelled
                idle.set_result(None)
                self._coming += 1
                return True
        return False

    # -- tasks ----------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """From the beginning to the end of the last handler."""
        try:
            await self._over
            await asyncio.gather(*[worker.task for worker in self._workers])
        except BaseException:
            self.stop()
            for worker in self._workers:
                worker.task.cancel()
            await asyncio.gather(*[worker.task for worker in self._workers], return_exceptions=True)
            raise
        finally:
            self._crew.watchers.remove(self.gone)

    async def _work(self, worker: Worker) -> None:
        """The plain path stays in this function: each step aside would be paid for by every call."""
        crew, pack, wake = self._crew, self._pack, self._bell.reactor.wake
        limit, rested = crew.nodes.message_bytes, now()
        hand: CallHand | None = None
        self._coming -= 1
        while not self._ended:
            moment = now()
            if moment > rested + HOG_SECONDS:
                self._coming += 1  # nobody else need be called meanwhile
                await asyncio.sleep(0)
                self._coming -= 1
                rested = moment = now()
            # Neighbours of one lease one after the other; then it is the next service's turn.
            if hand is None or moment >= hand.lease.starts_until or (index := next(hand.cursor, -1)) < 0:
                hand = None  # while we wait a lease must not look as if somebody still had it
                call = crew.take()
                if call is None:
                    CURRENT.set(None)
                    await self._rest()
                    rested = now()
                    continue
                hand, index = call.hand, call.index
            else:
                call = Current(hand, index)
            if self._coming <= self._busy:
                self._call_help()
            inbox, service = hand.inbox, hand.inbox.service
            if service is None:  # it was closed at this moment
                inbox.hand_back(hand.lease, [index])
                continue
            CURRENT.set(call)
            worker.call = call
            self._busy += 1
            try:
                value = service.function(body_of(call, service.load) if hand.bad or service.load else hand.bodies[index])
                if value.__class__ is CoroutineType:
                    value = await value
                if hand.flow is None:
                    try:
                        message = pack(value)
                    except Exception:
                        message = packed(call, await value if isawaitable(value) else value, pack)
                    if len(message) > limit:
                        raise MessageTooLarge(len(message), limit)
                    inbox.answers.append((hand, index, Status.OK, message))
                    wake()
                else:
                    await self._answer_in_parts(call, hand.flow, await value if isawaitable(value) else value)
            except asyncio.CancelledError:
                answer_error(call, cancelled())
                if not worker.withdrawn:
                    raise
            except BaseException as error:
                answer_error(call, error)
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
            finally:
                self._busy -= 1
                worker.call = call = value = None
                if worker.withdrawn:
                    worker.withdrawn = False
                    worker.task.uncancel()

    async def _rest(self) -> None:
        idle = self._bell.loop.create_future()
        self._idle.append(idle)
        await idle
        self._coming -= 1

    async def _answer_in_parts(self, call: Current, flow: Flow, value: Any) -> None:
        try:
            if isinstance(value, AsyncIterator):
                async for part in value:
                    await self._answer_part(call, flow, part)
            else:
                for part in value if isinstance(value, Iterator) else [value]:
                    await self._answer_part(call, flow, part)
            answer_end(call, flow)
        finally:
            if hasattr(value, "aclose"):
                await value.aclose()
            elif isinstance(value, Iterator) and hasattr(value, "close"):
                value.close()

    async def _answer_part(self, call: Current, flow: Flow, part: Any) -> None:
        if not flow.happened:
            await self._bell.wait(flow, None)
        if flow.over:
            raise cancelled()
        answer_part(call, flow, part, self._pack)
