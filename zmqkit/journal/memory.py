"""The log of a node that keeps nothing: bodies stay in memory until they are released, a restart starts empty."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..errors import Closed
from .log import Buffer, Entry, Item


class MemoryLog:
    """`durable` promises nothing here, so it is always `last`."""

    durability = "memory"
    full = False
    wants_checkpoint = False

    def __init__(self) -> None:
        self.node = os.urandom(16)
        self.epoch = 1
        self.last = 0
        self._bodies: dict[int, Sequence[Buffer]] = {}
        self._on_durable: Callable[[], None] = lambda: None
        self._closed = False

    @property
    def durable(self) -> int:
        return self.last

    def start(self, on_durable: Callable[[], None], on_failed: Callable[[Exception], None]) -> None:
        self._on_durable = on_durable

    def replay(self) -> Iterator[Entry]:
        return iter(())

    def retain(self, positions: Iterable[int]) -> None:
        pass

    def append(self, items: Sequence[Item], waited: bool) -> int:
        if self._closed:
            raise Closed("this log is closed: make a new one")
        for item in items:
            self.last += 1
            if item.body:
                self._bodies[self.last] = item.chunks
        self._on_durable()
        return self.last

    def checkpoint(self, items: Sequence[Item]) -> None:
        pass

    def read(self, position: int) -> memoryview:
        chunks = self._bodies[position]
        if len(chunks) != 1:
            chunks = self._bodies[position] = [b"".join(chunks)]
        return memoryview(chunks[0])

    def release(self, positions: Iterable[int]) -> None:
        for position in positions:
            self._bodies.pop(position, None)

    def stragglers(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        self._closed = True
