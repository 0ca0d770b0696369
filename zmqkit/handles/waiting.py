"""How threads and tasks wait for the I/O thread, and how it keeps users' callbacks off itself.

A wait of several steps is written once, as a generator of what it waits for (`Steps`), and has two drivers: `run` blocks a
thread, `zmqkit.aio` suspends a task. Closing the generator is giving up: it cleans up behind itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from zmqkit.machines.holdings import HeldLease

if TYPE_CHECKING:
    from zmqkit.handles.outcome import Ticket

log = logging.getLogger("zmqkit.client")

R = TypeVar("R")
Listener = Callable[[Any], None]


class Waitable(Protocol):
    """Something that happens."""

    def wait(self, timeout: float | None) -> bool:
        """For a thread: has it happened within `timeout` seconds?"""

    def listen(self, listener: Listener) -> None:
        """For a loop: call it when that happens, on the I/O thread, or here and now if it has happened. Perhaps more than once."""

    def ignore(self, listener: Listener) -> None: ...


Steps = Generator[tuple[Waitable, float | None], bool, R]  # yields what to wait for and how long, is sent whether it happened


def run(steps: Steps[R]) -> R:
    """Take the steps on this thread."""
    try:
        awaited, timeout = next(steps)
        while True:
            awaited, timeout = steps.send(awaited.wait(timeout))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


class Listeners:
    """Loops that are to be told; each until it ignores."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    @property
    def happened(self) -> bool:
        raise NotImplementedError

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)
        if self.happened:  # looked at after appending: whoever made it happen has told us, or we see it
            listener(self)

    def ignore(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener(self)


class Signal(Listeners):
    """An Event for threads and loops."""

    def __init__(self) -> None:
        super().__init__()
        self._event = threading.Event()
        self.wait, self.clear = self._event.wait, self._event.clear

    @property
    def happened(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()
        self._tell()


class Callbacks:
    """One thread, started at first use, for everything of the user's that must not hold up the I/O thread."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, callback: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="zmqkit-callbacks", daemon=True)
            self._thread.start()
        self._waiting.put(callback)

    def _work(self) -> None:
        while (callback := self._waiting.get()) is not None:
            try:
                callback()
            except Exception:
                log.exception("a callback failed")

    def close(self) -> None:
        self._waiting.put(None)


class Reply(Listeners):
    """Somebody waits for something the I/O thread will say: set once, read once."""

    def __init__(self) -> None:
        super().__init__()
        self.value: Any = None
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def happened(self) -> bool:
        return not self._gate.locked()

    def set(self, value: Any) -> None:
        if self._gate.locked():
            self.value = value
            self._gate.release()
            self._tell()

    def wait(self, timeout: float | None) -> bool:
        if not self._gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        self._gate.release()
        return True


class Flush:
    """Waits until these acks and puts are answered."""

    def __init__(self, reply: Reply, marks: list[tuple[HeldLease, int]], tickets: list[Ticket]) -> None:
        self.reply, self.marks, self.tickets = reply, marks, tickets

    def check(self) -> bool:
        self.marks = [(lease, mask) for lease, mask in self.marks if lease.unanswered & mask]
        self.tickets = [ticket for ticket in self.tickets if not ticket.done]
        if done := not (self.marks or self.tickets):
            self.reply.set(None)
        return done
