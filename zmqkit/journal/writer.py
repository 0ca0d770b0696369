"""The writer: one thread that turns what was appended into records on the disk, and says how far they are durable.

While it waits for a sync, the caller appends on; what has gathered by then is the next group. So a busy log syncs big
groups and an idle one single records, without a timer. Checksums are made here: zlib and the writes let other threads run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import ENOENT, ENOSPC
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import NamedTuple

from .bodies import Bodies
from .failstop import FailStop
from .log import Buffer, Item
from .record import CLOSE, END, OVERHEAD_BYTES, SEAL
from .segment import SegmentFile, Start
from .upkeep import RETRY_SECONDS, Upkeep

GROUP_BYTES = 4 << 20  # written and synced at once at most: about 10 ms on a usual disk
SYNC_AFTER_SECONDS = 0.1  # what nobody waits for is synced this much later at most
SEAL_AFTER_SECONDS = 1.0  # of quiet, before a SEAL proves the last group


class Batch(NamedTuple):
    """Items of one `append`."""

    first: int
    items: Sequence[Item]
    sizes: Sequence[int]
    waited: bool


class Turnover(NamedTuple):
    """The segment ends with record `last`; `checkpoint`, if any, describes exactly that point."""

    last: int
    checkpoint: Sequence[Item] | None


class Stop:
    """Seal and end."""


Work = Batch | Turnover | Stop


class Writer:
    """`durable` is what was promised to the caller, `synced` what a power cut leaves: in mode "os" they differ, and only the
    second may stand in records, since a start takes it for proof."""

    def __init__(self, file: SegmentFile, start: Start, bodies: Bodies, upkeep: Upkeep, failstop: FailStop, syncs: bool) -> None:
        self._file = file
        self._start = start
        self._bodies = bodies
        self._upkeep = upkeep
        self._failstop = failstop
        self._syncs = syncs
        self._work: SimpleQueue[Work] = SimpleQueue()
        self._thread = Thread(target=self._run, name="zmqkit-journal-writer", daemon=True)
        self._stopping = Event()
        self._on_durable: Callable[[], None] = lambda: None
        self.written = self.durable = self.synced = self._proven = start.first - 1
        self._unsynced_since: float | None = None
        self.stalled = False  # there is no room for records that were accepted; they wait in memory

    def start(self, on_durable: Callable[[], None]) -> None:
        self._on_durable = on_durable
        self._thread.start()

    def put(self, work: Work) -> None:
        self._work.put(work)

    def stop(self) -> None:
        """Write and sync what was put, seal, and end; at once after a failure."""
        self._stopping.set()
        self._work.put(Stop())
        self._thread.join()

    def close_file(self) -> None:
        self._file.close()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._failstop.error is None and self._turn():
                pass
        except BaseException as cause:
            self._failstop.fail(cause)

    def _turn(self) -> bool:
        """Take one group, write it, sync if somebody waits. False: this was the last."""
        work = self._wait()
        if self._failstop.error is not None:
            return False
        if work is None:
            self._quiet()
            return True
        parts: list[Buffer] = []
        size, waited, last = 0, False, self.written
        while isinstance(work, Batch):
            size += self._encode(work, parts, size)
            last = work.first + len(work.items) - 1
            waited = waited or work.waited
            work = self._more() if size < GROUP_BYTES else None
        self._write(parts, size, last)
        self._failstop.check()  # upkeep may have met an error meanwhile: then nothing is synced or sealed any more
        if self._syncs and (waited or self._is_overdue()):
            self._sync()
        if isinstance(work, Turnover):
            self._turn_over(work)
        if isinstance(work, Stop):
            self._close()
        return not isinstance(work, Stop)

    def _wait(self) -> Work | None:
        """None: the time for something that is due has come first."""
        try:
            return self._work.get(timeout=self._patience())
        except Empty:
            return None

    def _more(self) -> Work | None:
        try:
            return self._work.get_nowait()
        except Empty:
            return None

    def _encode(self, batch: Batch, parts: list[Buffer], ahead: int) -> int:
        """Add the records of a batch to `parts`; returns their size."""
        size, lsn, encode, durable = 0, batch.first, self._file.encode, self.synced
        for (kind, chunks, body), length in zip(batch.items, batch.sizes, strict=True):
            parts += encode(kind, body, lsn, durable, chunks, length, ahead + size)
            size += OVERHEAD_BYTES + length
            lsn += 1
        return size

    def _write(self, parts: Sequence[Buffer], size: int, last: int) -> None:
        """Write whole records, however long the disk is full."""
        if not parts:
            return
        while not self._file.append(parts, size, last):
            if self._stopping.is_set():
                raise OSError(ENOSPC, "the disk is full and the journal is closing")
            self.stalled = True
            self._stopping.wait(RETRY_SECONDS)
        self.stalled = False
        self.written = last
        if self._unsynced_since is None:
            self._unsynced_since = monotonic()
        if not self._syncs:
            self._promise(last)

    def _sync(self) -> None:
        self._file.sync()
        self._unsynced_since = None
        self.synced = self.written
        self._promise(self.synced)

    def _promise(self, lsn: int) -> None:
        if lsn > self.durable:
            self.durable = lsn
            self._on_durable()

    # -- quiet times ---------------------------------------------------------------------------------------------------

    def _is_overdue(self) -> bool:
        return self._unsynced_since is not None and monotonic() - self._unsynced_since >= SYNC_AFTER_SECONDS

    def _patience(self) -> float | None:
        """How long to wait for work; None: there is nothing else to do."""
        if not self._syncs:
            return None
        if self._unsynced_since is not None:
            return max(0.0, self._unsynced_since + SYNC_AFTER_SECONDS - monotonic())
        return SEAL_AFTER_SECONDS if self._proven < self.synced else None

    def _quiet(self) -> None:
        if self._unsynced_since is not None:
            self._sync()
        elif self._proven < self.synced:
            parts = self._file.encode(SEAL, False, self.synced, self.synced, [], 0, 0)
            if self._file.append(parts, OVERHEAD_BYTES, self.synced):
                self._file.sync()  # before any record follows: a start relies on it
            self._proven = self.synced

    # -- the end of a segment ------------------------------------------------------------------------------------------

    def _turn_over(self, work: Turnover) -> None:
        """Sync, put the next segment in place, seal the old one. The next one's name is there first: a sealed segment
        without the one that follows is then known to have lost it."""
        if self._file.segment.last >= self._file.segment.first:
            if self._unsynced_since is not None:
                self._sync()
            successor = self._make_successor(work.last + 1)
            self._file.seal(END)
            self._file.close()
            self._file = successor
            self._bodies.add(successor.segment)
            self._proven = self.synced
        if work.checkpoint is not None and work.last:
            self._upkeep.publish(self._start._replace(first=work.last), work.checkpoint)

    def _make_successor(self, first: int) -> SegmentFile:
        if not self._file.is_in_place():
            raise OSError(ENOENT, "the journal's directory or segment was moved, replaced or deleted while in use")
        while (spare := self._upkeep.take_spare()) is None:
            if self._stopping.is_set():
                raise OSError(ENOSPC, "the disk is full and the journal is closing")
            self.stalled = True
            self._stopping.wait(RETRY_SECONDS)
        self.stalled = False
        fd, temporary = spare
        successor = SegmentFile(self._upkeep.directory, fd, self._start._replace(first=first), self._upkeep.segment_bytes)
        successor.name_it(temporary)
        return successor

    def _close(self) -> None:
        if self._unsynced_since is not None:
            self._sync()
        self._file.seal(CLOSE)
