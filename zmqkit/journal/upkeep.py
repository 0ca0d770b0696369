"""Upkeep: what may take its time and must not hold up a confirmation, in a thread of its own: the next segment's room, the
checkpoints, the removal of files.

A full disk is met here, while the present segment still has room, and never in the middle of a record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic

from .checkpoint import KEPT, publish_checkpoint, withdraw
from .directory import NO_ROOM, TEMPORARY, Directory
from .failstop import FailStop
from .log import Item
from .segment import Start

RETRY_SECONDS = 1.0


class Upkeep:
    def __init__(self, directory: Directory, failstop: FailStop, segment_bytes: int, checkpoints: list[tuple[int, str]]) -> None:
        self.directory = directory
        self._failstop = failstop
        self.segment_bytes = segment_bytes
        self._checkpoints = checkpoints  # (lsn, name), oldest first
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._spare: tuple[int, str] | None = None  # descriptor, temporary name
        self._spares = 0
        self._spare_lock = Lock()  # the writer makes its own when none is ready
        self._thread = Thread(target=self._run, name="zmqkit-journal-upkeep", daemon=True)
        self._asked = False
        self._retry_at = 0.0
        self.starved = False  # there was no room for the next segment, the last time we asked

    # -- from the caller's thread --------------------------------------------------------------------------------------

    @property
    def has_spare(self) -> bool:
        return self._spare is not None

    @property
    def floor(self) -> int:
        """The lsn of the older kept checkpoint: no recovery replays what is before it."""
        kept = self._checkpoints
        return kept[-KEPT][0] if len(kept) >= KEPT else 0

    def start(self) -> None:
        self._thread.start()

    def prepare_spare(self) -> None:
        """Ask for the next segment's room, ahead of need; on a full disk the thread asks again by itself."""
        if not self._asked and not self.starved:
            self._asked = True
            self._jobs.put(self._make_spare)

    def discard(self, names: list[str]) -> None:
        self._jobs.put(partial(self._remove, names))

    def stop(self) -> None:
        """Finish what was asked for."""
        self._jobs.put(None)
        self._thread.join()
        if self._spare is not None:
            with suppress(OSError):
                self.directory.unlink(self._spare[1])
            self.close_spare()

    def close_spare(self) -> None:
        if self._spare is not None:
            self.directory.close(self._spare[0])
            self._spare = None

    # -- from the writer's ---------------------------------------------------------------------------------------------

    def take_spare(self) -> tuple[int, str] | None:
        """Descriptor and temporary name of a preallocated file; None: no room for one."""
        self._make_spare()
        with self._spare_lock:
            spare, self._spare = self._spare, None
        return spare

    def publish(self, start: Start, items: Sequence[Item]) -> None:
        self._jobs.put(partial(self._publish, start, items))

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                if self._failstop.error is None:
                    job()
        except BaseException as cause:
            self._failstop.fail(cause)

    def _next(self) -> Callable[[], None] | None:
        patience = max(0.0, self._retry_at - monotonic()) if self.starved else None
        try:
            return self._jobs.get(timeout=patience)
        except Empty:
            return self._make_spare

    def _make_spare(self) -> None:
        with self._spare_lock:
            self._asked = False
            if self._spare is not None:
                return
            # A name of its own: the one before may be taken, and not have its final name yet.
            self._spares += 1
            name = f"spare-{self._spares}{TEMPORARY}"
            try:
                fd = self.directory.create(name)
            except OSError as error:
                self._no_room(error)
                return
            try:
                self.directory.allocate(fd, self.segment_bytes)
            except OSError as error:
                self.directory.close(fd)
                self.directory.unlink(name)
                self._no_room(error)
                return
            self.directory.sync(fd)
            self._spare = fd, name
            self.starved = False

    def _no_room(self, error: OSError) -> None:
        if error.errno not in NO_ROOM:
            raise error
        self.starved = True
        self._retry_at = monotonic() + RETRY_SECONDS

    def _publish(self, start: Start, items: Sequence[Item]) -> None:
        if self._checkpoints and self._checkpoints[-1][0] >= start.first:
            return
        try:
            name = publish_checkpoint(self.directory, start, items)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            withdraw(self.directory, start)  # the next start replays more
            return
        old, self._checkpoints = self._checkpoints[: 1 - KEPT], [*self._checkpoints[1 - KEPT :], (start.first, name)]
        self._remove([name for _, name in old])

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                self.directory.unlink(name)
                self._retry_at = 0.0  # there may be room now
