"""Virtual time and chance: a heap of events in integer microseconds, and one stream of random numbers per subject.

Nothing sleeps. Two runs of one seed make the same calls in the same order, and `Scheduler.digest` of everything that
happened proves it. A draw added to one stream shifts no other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from math import ceil, inf
from random import Random

START_SECONDS = 1_000_000.0  # what clocks show at virtual time 0
SECOND = 1_000_000
TAIL = 400  # newest lines of the trace that a failure shows


class Scheduler:
    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now = 0  # microseconds
        self.events = 0
        self.hits: Counter[str] = Counter()  # how often each fault really happened
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._pushed = 0
        self._hash = blake2b(digest_size=16)
        self._trace = trace

    @property
    def seconds(self) -> float:
        """What a clock that runs true shows."""
        return START_SECONDS + self.now / SECOND

    def random(self, subject: str) -> Random:
        return Random(blake2b(f"{self.seed} {subject}".encode(), digest_size=8).digest())

    def after(self, microseconds: int, action: Callable[[], None]) -> None:
        self.at(self.now + microseconds, action)

    def at(self, moment: int, action: Callable[[], None]) -> None:
        self._pushed += 1
        heappush(self._heap, (max(moment, self.now), self._pushed, action))

    def note(self, text: str) -> None:
        """One line of what happened. Part of the digest."""
        line = f"{self.now / SECOND:12.6f}  {text}"
        self._hash.update(line.encode())
        self.tail.append(line)
        if self._trace is not None:
            self._trace(line)

    def run(self, until: int, done: Callable[[], bool] | None = None) -> bool:
        """Until that moment, or until `done` (asked ten times a virtual second). True if it was done, or none was given."""
        heap, look = self._heap, self.now
        while heap and heap[0][0] <= until:
            self.now, _, action = heappop(heap)
            self.events += 1
            action()
            if done is not None and self.now >= look:
                look = self.now + SECOND // 10
                if done():
                    return True
        self.now = until
        return done is None or done()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class Clock:
    """A process's own: it may run a little fast or slow, and never jumps."""

    def __init__(self, scheduler: Scheduler, drift: float = 0.0) -> None:
        self._scheduler, self._rate = scheduler, 1.0 + drift

    def now(self) -> float:
        return START_SECONDS + self._scheduler.now * self._rate / SECOND

    def moment(self, seconds: float) -> int | None:
        """The virtual time at which this clock shows `seconds`; None: never."""
        if seconds == -inf:
            return 0
        return None if seconds == inf else ceil((seconds - START_SECONDS) / self._rate * SECOND)
