"""How threads wait for the I/O thread, and how it keeps users' callbacks off itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from zmqkit.machines.holdings import HeldLease

log = logging.getLogger("zmqkit.client")


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


class Reply:
    """Somebody waits for something the I/O thread will say: set once, read once."""

    def __init__(self) -> None:
        self.value: Any = None
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def given(self) -> bool:
        return not self._gate.locked()

    def set(self, value: Any) -> None:
        if self._gate.locked():
            self.value = value
            self._gate.release()

    def wait(self, timeout: float | None) -> bool:
        if not self._gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        self._gate.release()
        return True


class Flush:
    """Waits until these acks are answered."""

    def __init__(self, reply: Reply, marks: list[tuple[HeldLease, int]]) -> None:
        self.reply, self.marks = reply, marks

    def check(self) -> bool:
        self.marks = [(lease, mask) for lease, mask in self.marks if lease.unanswered & mask]
        if not self.marks:
            self.reply.set(None)
        return not self.marks
