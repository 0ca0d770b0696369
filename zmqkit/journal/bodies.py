"""Bodies: which segment holds the payload of a position, which payloads are still needed, and when a file may go.

Belongs to the caller's thread; only `add` is the writer's. A file may go when it ends before the older of the two kept
checkpoints, so that no recovery replays it, and none of its bodies is needed.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from operator import attrgetter

from ..errors import JournalCorrupt
from .directory import Directory
from .log import Buffer
from .record import OVERHEAD_BYTES, decode
from .segment import Segment

OPEN_FILES_MAX = 32  # for reading; the oldest is closed first
STRAGGLER_SEGMENTS = 4  # below this much disk nobody need move
STRAGGLER_SHARE = 0.25
_FIRST = attrgetter("first")


class Bodies:
    def __init__(self, directory: Directory, segments: list[Segment], salt: int) -> None:
        self._directory = directory
        self._salt = salt
        self._segments = segments
        self._files: OrderedDict[str, int] = OrderedDict()

    def add(self, segment: Segment) -> None:
        self._segments.append(segment)

    def read(self, position: int) -> memoryview:
        """From the disk. Raises KeyError: no such body; JournalCorrupt: its bytes do not match."""
        segment = self._find(position)
        place = segment.locate(position) if segment else None
        if segment is None or place is None:
            raise KeyError(position)
        offset, length = place
        record = decode(self._directory.read(self._file(segment), OVERHEAD_BYTES + length, offset), 0, offset, self._salt)
        if record is None or record.lsn != position or record.epoch != segment.epoch:
            raise JournalCorrupt(os.path.join(self._directory.path, segment.name), offset, position)
        return record.payload

    def retain(self, positions: Iterable[int]) -> None:
        """Only these are needed. Raises JournalCorrupt: one of them is in no file."""
        for each in self._segments:
            each.release_all()
        column = positions if isinstance(positions, array) else array("Q", positions)
        index = 0
        while index < len(column):
            segment = self._find(column[index])
            taken = segment.retain(column, index) if segment else 0
            if not taken:
                raise JournalCorrupt(self._directory.path, 0, column[index], "the segment with this message is missing")
            index += taken

    def release(self, positions: Iterable[int], floor: int) -> bool:
        """Whether a segment that ends before `floor` lost its last needed body."""
        found: Segment | None = None
        emptied = False
        for position in positions:
            if found is None or not found.first <= position <= found.last:
                found = self._find(position)
            if found is not None:
                found.release(position)
                emptied = emptied or (not found.live_count and found.last <= floor)
        return emptied

    def take_unneeded(self, floor: int) -> list[str]:
        """Names of the files that may go, given the lsn of the older checkpoint; they are forgotten here."""
        gone = [segment for segment in self._before(floor) if not segment.live_count]
        for segment in gone:
            self._segments.remove(segment)
            fd = self._files.pop(segment.name, None)
            if fd is not None:
                self._directory.close(fd)
        return [segment.name for segment in gone]

    def stragglers(self, floor: int, segment_bytes: int) -> tuple[int, int] | None:
        """The range of the oldest segment that little more than a few bodies keeps on the disk, if the disk use matters."""
        if sum(segment.size for segment in list(self._segments)) <= STRAGGLER_SEGMENTS * segment_bytes:
            return None
        for segment in self._before(floor):
            if segment.live_bytes < STRAGGLER_SHARE * segment.size:
                return segment.first, segment.last
        return None

    def close(self) -> None:
        for fd in self._files.values():
            self._directory.close(fd)
        self._files.clear()

    def _before(self, floor: int) -> Sequence[Segment]:
        """Sealed segments that no recovery replays. The last one is being written and is never among them."""
        return [segment for segment in self._segments[:-1] if segment.last <= floor]

    def _find(self, position: int) -> Segment | None:
        at = bisect_right(self._segments, position, key=_FIRST) - 1
        return self._segments[at] if at >= 0 else None

    def _file(self, segment: Segment) -> int:
        fd = self._files.get(segment.name)
        if fd is not None:
            self._files.move_to_end(segment.name)
            return fd
        if len(self._files) >= OPEN_FILES_MAX:
            self._directory.close(self._files.popitem(last=False)[1])
        fd = self._files[segment.name] = self._directory.open(segment.name)
        return fd


SMALL_BYTES = 4096
ENTRY_BYTES = 300  # what Python needs for an entry beside its bytes


class Cache:
    """The newest bodies, in memory, up to a number of bytes; the oldest go first, but none that the disk has not yet got."""

    def __init__(self, size: int) -> None:
        self._room = size
        self._bodies: OrderedDict[int, tuple[Sequence[Buffer], int]] = OrderedDict()

    def put(self, position: int, chunks: Sequence[Buffer], size: int, written: int) -> None:
        if size <= SMALL_BYTES:
            chunks = (b"".join(chunks),)  # views and the frames they keep alive would outweigh what they hold
        size += ENTRY_BYTES
        self._bodies[position] = chunks, size
        self._room -= size
        while self._room < 0 and self._bodies:
            oldest = next(iter(self._bodies))
            if oldest > written:
                break
            self._room += self._bodies.pop(oldest)[1]

    def get(self, position: int) -> memoryview | None:
        found = self._bodies.get(position)
        if found is None:
            return None
        chunks, size = found
        if len(chunks) != 1:
            chunks = [b"".join(chunks)]
            self._bodies[position] = chunks, size
        return memoryview(chunks[0])

    def drop(self, positions: Iterable[int]) -> None:
        for position in positions:
            found = self._bodies.pop(position, None)
            if found is not None:
                self._room += found[1]
