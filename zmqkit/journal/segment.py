"""Segments: the files of the log.

    header:   magic | format version u16 | 0 u16 | epoch u32 | first lsn u64 | journal id 16 bytes | crc32
    records
    END or CLOSE record, its payload the index: count u32, then per body  lsn - first u32 | offset u32 | length u32 (three arrays)
    trailer:  offset of that record u64 | magic | crc32

A segment that is being written has no END yet and is preallocated: zeros follow its last record. `first lsn-epoch.log` is its
name, so that names sort; at equal lsn the higher epoch is the one that counts, being a copy made by a later start.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from struct import Struct, error
from typing import NamedTuple
from zlib import crc32

from ..errors import JournalFormat
from .directory import NO_ROOM, Directory, write_all
from .log import Buffer
from .record import CLOSE, END, OVERHEAD_BYTES, SEALS, Record, Source, Stamp, decode, encode, join_small, salt_of

FORMAT = 1
SEGMENT = b"zmqJ"
CHECKPOINT = b"zmqC"
SUFFIX = ".log"

_START = Struct("<4sHHIQ16s")
_START_CRC = Struct("<I")
START_BYTES = _START.size + _START_CRC.size
_TRAILER = Struct("<Q4sI")
_COUNT = Struct("<I")


class Start(NamedTuple):
    """What a segment or a checkpoint says of itself in its first bytes."""

    epoch: int
    first: int  # a segment: its first lsn; a checkpoint: the lsn it describes
    node: bytes

    @property
    def stamp(self) -> Stamp:
        return Stamp(salt_of(self.node), self.epoch)

    def encode(self, magic: bytes) -> bytes:
        fields = _START.pack(magic, FORMAT, 0, self.epoch, self.first, self.node)
        return fields + _START_CRC.pack(crc32(fields))


def decode_start(data: bytes, magic: bytes, path: str) -> Start | None:
    """None: the bytes do not match. Raises JournalFormat: they do, but a newer zmqkit wrote them."""
    if len(data) < START_BYTES or crc32(data[: _START.size]) != _START_CRC.unpack_from(data, _START.size)[0]:
        return None
    found, version, _, epoch, first, node = _START.unpack_from(data)
    if found != magic:
        return None
    if version > FORMAT:
        raise JournalFormat(path, f"format {version} of a newer zmqkit, this one reads up to {FORMAT}: upgrade zmqkit")
    return Start(epoch, first, node)


def name_of(first: int, epoch: int, suffix: str = SUFFIX) -> str:
    return f"{first:020d}-{epoch:08d}{suffix}"


def parse_name(name: str, suffix: str = SUFFIX) -> tuple[int, int] | None:
    """(first lsn, epoch)"""
    first, _, epoch = name.removesuffix(suffix).partition("-")
    if name.endswith(suffix) and len(first) == 20 and len(epoch) == 8 and first.isdecimal() and epoch.isdecimal():
        return int(first), int(epoch)
    return None


class Segment:
    """What is known of one file: its range, and where its bodies stand.

    Twelve bytes a body, in arrays, since there may be millions. The writer thread appends to them, the caller's thread reads:
    `_lsns` grows last, so what it holds is complete. Each counter has one thread that changes it.
    """

    def __init__(self, first: int, epoch: int) -> None:
        self.name = name_of(first, epoch)
        self.first, self.epoch = first, epoch
        self.last = first - 1
        self.records_end = START_BYTES  # where the next record, or END, begins
        self.size = START_BYTES  # of the file on disk
        self.sealed_by = 0  # END, CLOSE, or 0: still open, or left so by a crash
        self._lsns, self._offsets, self._lengths = array("I"), array("I"), array("I")
        self._released = bytearray()
        self._body_bytes = self._released_bytes = self._released_count = 0

    def add(self, lsn: int, offset: int, length: int) -> None:
        self._offsets.append(offset)
        self._lengths.append(length)
        self._released.append(0)
        self._body_bytes += length
        self._lsns.append(lsn - self.first)

    def note(self, record: Record) -> None:
        """Take a record that was read from the file."""
        if record.kind in SEALS:
            self.sealed_by = record.kind if record.kind in (END, CLOSE) else 0
        else:
            self.last = record.lsn
            if record.body:
                self.add(record.lsn, record.offset, len(record.payload))
        if not self.sealed_by:
            self.records_end = record.end

    def locate(self, lsn: int) -> tuple[int, int] | None:
        """(offset, length) of a body."""
        at = self._find(lsn)
        return None if at is None else (self._offsets[at], self._lengths[at])

    # -- which bodies are still needed ---------------------------------------------------------------------------------

    @property
    def live_count(self) -> int:
        return len(self._lsns) - self._released_count

    @property
    def live_bytes(self) -> int:
        return self._body_bytes - self._released_bytes

    def release(self, lsn: int) -> None:
        """Once or more often."""
        at = self._find(lsn)
        if at is not None and not self._released[at]:
            self._released[at] = 1
            self._released_count += 1
            self._released_bytes += self._lengths[at]

    def release_all(self) -> None:
        self._released = bytearray(b"\1" * len(self._lsns))
        self._released_count, self._released_bytes = len(self._lsns), self._body_bytes

    def retain(self, lsns: array[int], index: int) -> int:
        """Take the release of `lsns[index]` back, and of those behind it as long as they are this segment's bodies in a row,
        as in a backlog of millions they are. Returns how many; 0: there is no such body."""
        at = self._find(lsns[index])
        if at is None:
            return 0
        count = len(self._lsns) - at
        if not self._are_the_last(lsns, index, index + count):
            count = 1
        self._take_back(at, at + count)
        return count

    def _are_the_last(self, lsns: array[int], start: int, end: int) -> bool:
        """Whether these are the last bodies here: rising, as many as there are from the first of them to the end."""
        if end > len(lsns) or lsns[end - 1] - self.first != self._lsns[-1]:
            return False
        run = lsns[start:end]
        return run == array("Q", sorted(set(run)))

    def _take_back(self, start: int, end: int) -> None:
        released = [at for at in range(start, end) if self._released[at]]
        for at in released:
            self._released[at] = 0
        self._released_count -= len(released)
        self._released_bytes -= sum(self._lengths[at] for at in released)

    def _find(self, lsn: int) -> int | None:
        at = bisect_left(self._lsns, lsn - self.first)
        return at if at < len(self._lsns) and self._lsns[at] == lsn - self.first else None

    # -- the index as bytes --------------------------------------------------------------------------------------------

    def encode_index(self) -> bytes:
        return _COUNT.pack(len(self._lsns)) + b"".join(_little_endian(part) for part in (self._lsns, self._offsets, self._lengths))

    def decode_index(self, payload: memoryview) -> bool:
        """Fill an empty segment. False: not an index."""
        try:
            (count,) = _COUNT.unpack_from(payload)
        except error:
            return False
        if len(payload) != _COUNT.size + 12 * count:
            return False
        at, parts = _COUNT.size, (self._lsns, self._offsets, self._lengths)
        for part in parts:
            part.frombytes(payload[at : at + 4 * count])
            if sys.byteorder == "big":
                part.byteswap()
            at += 4 * count
        self._released = bytearray(count)
        self._body_bytes = sum(self._lengths)
        return True


class SegmentFile:
    """A segment that is being written: by the writer thread, by a start that moves a tail, by `salvage`."""

    def __init__(self, directory: Directory, fd: int, start: Start, allocated: int) -> None:
        self.segment = Segment(start.first, start.epoch)
        self.stamp = start.stamp
        self._directory, self._fd = directory, fd
        self._allocated = allocated
        self.segment.size = allocated
        write_all(directory, fd, [start.encode(SEGMENT)], 0)
        directory.sync(fd)

    def name_it(self, temporary: str) -> None:
        """Give the file, so far `temporary`, its name for good."""
        self._directory.rename(temporary, self.segment.name)
        self._directory.sync_names()

    def encode(self, kind: int, body: bool, lsn: int, durable: int, chunks: Sequence[Buffer], size: int, ahead: int) -> list[Buffer]:
        """The parts of a record that will stand `ahead` bytes behind the present end; its body is found from now on."""
        if body:
            self.segment.add(lsn, self.segment.records_end + ahead, size)
        return encode(self.stamp, kind, body, lsn, durable, chunks, size)

    def append(self, parts: Sequence[Buffer], size: int, last: int) -> bool:
        """Write whole records, the last of them `last`. False: no room; the file is as it was. Raises OSError: it may not be."""
        end = self.segment.records_end
        if end + size > self._allocated and not self._allocate(end + size):
            return False
        try:
            write_all(self._directory, self._fd, join_small(parts, size), end)
        except OSError as failure:
            if failure.errno not in NO_ROOM:
                raise
            # Half a record must not stay: what is written later would stand behind it.
            self._directory.truncate(self._fd, end)
            self._allocated = self.segment.size = end
            return False
        self.segment.records_end = end + size
        self.segment.last = last
        return True

    def sync(self) -> None:
        self._directory.sync(self._fd)

    def seal(self, kind: int) -> None:
        """End the segment for good. Of a file that has its name, everything is synced already: END says so, and a power cut
        might leave END alone.

        Without room for END it is left out: the records, or the next segment's first lsn, show the end as well.
        """
        segment = self.segment
        end, index = segment.records_end, segment.encode_index()
        parts = encode(self.stamp, kind, False, segment.last, segment.last, [index], len(index))
        trailer = _TRAILER.pack(end, SEGMENT, crc32(_TRAILER.pack(end, SEGMENT, 0)))
        try:
            write_all(self._directory, self._fd, [*parts, trailer], end)
            segment.size, segment.sealed_by = end + OVERHEAD_BYTES + len(index) + len(trailer), kind
        except OSError as failure:
            if failure.errno not in NO_ROOM:
                raise
            segment.size = end
        self._directory.truncate(self._fd, segment.size)
        self._directory.sync(self._fd)

    def is_in_place(self) -> bool:
        return self._directory.holds(self.segment.name, self._fd)

    def close(self) -> None:
        self._directory.close(self._fd)

    def _allocate(self, size: int) -> bool:
        try:
            self._directory.allocate(self._fd, size)
        except OSError as failure:
            if failure.errno not in NO_ROOM:
                raise
            return False
        self._allocated = self.segment.size = size
        return True


def load_sealed(source: Source, start: Start) -> Segment | None:
    """A sealed segment from its index, without reading its records; None if it has no whole trailer and index."""
    at = source.size - _TRAILER.size
    if at < START_BYTES:
        return None
    offset, magic, checksum = _TRAILER.unpack(source.read(_TRAILER.size, at))
    if magic != SEGMENT or checksum != crc32(_TRAILER.pack(offset, SEGMENT, 0)) or not START_BYTES <= offset < at:
        return None
    record = decode(source.read(at - offset, offset), 0, offset, start.stamp.salt)
    if record is None or record.kind not in (END, CLOSE) or record.epoch != start.epoch or record.end != at:
        return None
    segment = Segment(start.first, start.epoch)
    if not segment.decode_index(record.payload):
        return None
    segment.last, segment.records_end, segment.size, segment.sealed_by = record.lsn, offset, source.size, record.kind
    return segment


def scan(source: Source, start: Start) -> Segment:
    """A segment from its records, up to the first bytes that are none: `records_end`, if it is not sealed."""
    segment = Segment(start.first, start.epoch)
    segment.size = source.size
    for record in source.records(START_BYTES, start.stamp, start.first - 1):
        segment.note(record)
        if segment.sealed_by:
            break
    return segment


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "little":
        return numbers.tobytes()
    swapped = array(numbers.typecode, numbers)
    swapped.byteswap()
    return swapped.tobytes()
