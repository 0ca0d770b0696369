"""The durability seam: all that the rest of zmqkit knows of storage.

A log is a sequence of records with rising positions (log sequence numbers, 1, 2, 3…). Whoever appends decides what a
record means; the log only keeps bytes, says how far they are durable, and gives bodies back. The file journal is the
embedded default, `MemoryLog` the one of a node that keeps nothing. Nothing above this seam may assume a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview


class Item(NamedTuple):
    """One record to append."""

    kind: int  # 0..199, the caller's; 200..255 are the log's own
    chunks: Sequence[Buffer]  # the payload in parts, stored one behind the other; nobody may change their bytes any more
    body: bool = False  # True: `read` will be asked for this payload until its position is released


class Entry(NamedTuple):
    """One record given back by `replay`. Items of a checkpoint have position 0.

    `payload` shares memory with its neighbours, up to megabytes: copy what is kept.
    """

    position: int
    kind: int
    payload: memoryview


class Log(Protocol):
    """What a node needs of its storage. All calls come from one thread and none waits for the disk, except `replay`,
    `close`, and `read` of a body that is no longer in memory. After a fork the child may not use it: errors.Closed."""

    @property
    def node(self) -> bytes:
        """16 bytes that name this log for ever."""

    @property
    def epoch(self) -> int:
        """+1 at each opening, durable before the constructor returns."""

    @property
    def durability(self) -> str:
        """"disk", "os" or "memory": what `durable` promises."""

    @property
    def last(self) -> int:
        """Position of the last record appended."""

    @property
    def durable(self) -> int:
        """Every record up to here survives."""

    @property
    def full(self) -> bool:
        """No room for new bodies: refuse puts; other records are still taken."""

    @property
    def wants_checkpoint(self) -> bool:
        """After an append: call `checkpoint` before the next one."""

    def start(self, on_durable: Callable[[], None], on_failed: Callable[[Exception], None]) -> None:
        """Begin to write. Both callbacks run on a thread of the log's own and must only wake somebody."""

    def replay(self) -> Iterator[Entry]:
        """The newest checkpoint's items, then every record after it, in order. Once, before `start`."""

    def retain(self, positions: Iterable[int]) -> None:
        """After `replay`: the positions whose bodies are still needed. All others are released."""

    def append(self, items: Sequence[Item], waited: bool) -> int:
        """Store records in order; `waited` starts a sync as soon as none runs, else they ride with the next (≤ 100 ms).
        Returns the position of the last. Raises JournalFailed once the log has failed."""

    def checkpoint(self, items: Sequence[Item]) -> None:
        """`items`, replayed in order, give the state at exactly the last record appended."""

    def read(self, position: int) -> memoryview:
        """The payload of a record appended with `body=True` and not yet released."""

    def release(self, positions: Iterable[int]) -> None:
        """These bodies are needed no more, and the records that say so are durable."""

    def stragglers(self) -> tuple[int, int] | None:
        """A range of positions (first, last) whose few unreleased bodies hold back old space: append them again and
        release the old positions; or None."""

    def close(self) -> None:
        """Write and sync what was appended, seal, give the lock back."""
