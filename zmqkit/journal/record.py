"""Records: how bytes stand in a segment and in a checkpoint. Pure, but for `Source`, which reads a file in big steps.

    magic u16 | version and flags u8 | kind u8 | length u32 | lsn u64 | durable lsn u64 | epoch u32 | crc32 of these u32
    payload
    crc32 of the payload u32

Little-endian, no padding. The header has a checksum of its own, because a damaged *length* would hide everything after
it; the durable lsn says which earlier records had been synced when this one was written, and so tells bytes that rotted
from bytes that a crash never finished. Header checksums start from one of the journal's id, so a payload that happens to
hold another journal's records is never taken for records. Payload checksums start from the lsn, so a right block at a wrong
place does not match.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from .directory import Directory
from .log import Buffer

MAGIC = b"zk"
VERSION = 1
BODY = 0x80  # flag beside the version: this payload can be read back by its position

# The log's own kinds. Only FILLER and BLOCK have an lsn of their own: the others repeat the last one.
SEAL = 200  # nothing follows for a while: proves the last batch
END = 201  # the segment is full and synced; another follows. Payload: its index
CLOSE = 202  # the same after a clean stop, or of a moved tail: nothing need follow
FILLER = 203  # stands in a salvaged journal for a record that was lost; replay skips it
BLOCK = 204  # a piece of a checkpoint
OWN_KINDS = 200
SEALS = frozenset({SEAL, END, CLOSE})

_FIELDS = struct.Struct("<2sBBIQQI")
_HEADER = struct.Struct("<2sBBIQQII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
OVERHEAD_BYTES = HEADER_BYTES + _CRC.size
STEP_BYTES = 4 << 20  # sequential reads: hopping from header to header is 40 times slower on a cold disk
JOIN_ALL_BYTES = 16384  # a group below this is joined before writing, and of a larger one the parts below
JOIN_BYTES = 4096  # this: an iovec costs more than the copy


class Record(NamedTuple):
    offset: int
    kind: int
    body: bool
    lsn: int
    durable: int
    epoch: int
    payload: memoryview

    @property
    def end(self) -> int:
        return self.offset + OVERHEAD_BYTES + len(self.payload)


class Stamp(NamedTuple):
    """What all records that one process writes have in common."""

    salt: int  # where header checksums start: `salt_of` the journal's id
    epoch: int


def salt_of(node: bytes) -> int:
    return crc32(node)


def encode(stamp: Stamp, kind: int, body: bool, lsn: int, durable: int, chunks: Sequence[Buffer], size: int) -> list[Buffer]:
    """The parts of one record; `size` is `size_of(chunks)`."""
    fields = _FIELDS.pack(MAGIC, VERSION | BODY if body else VERSION, kind, size, lsn, durable, stamp.epoch)
    checksum = lsn & 0xFFFFFFFF
    for chunk in chunks:
        checksum = crc32(chunk, checksum)
    return [fields + _CRC.pack(crc32(fields, stamp.salt)), *chunks, _CRC.pack(checksum)]


def join_small(parts: Sequence[Buffer], size: int) -> Sequence[Buffer]:
    """The same bytes, `size` in all, in fewer parts."""
    if size < JOIN_ALL_BYTES:
        return (b"".join(parts),)
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < JOIN_BYTES:
            small.append(part)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(part)
    if small:
        joined.append(b"".join(small))
    return joined


class Header(NamedTuple):
    kind: int
    body: bool
    length: int
    lsn: int
    durable: int
    epoch: int


def decode_header(data: Buffer, at: int, salt: int) -> Header | None:
    """The header at `data[at]`, whatever became of its payload; None if it does not match its checksum."""
    if len(data) - at < HEADER_BYTES:
        return None
    magic, version, kind, length, lsn, durable, epoch, checksum = _HEADER.unpack_from(data, at)
    if magic != MAGIC or version & ~BODY != VERSION or crc32(memoryview(data)[at : at + _FIELDS.size], salt) != checksum:
        return None
    return Header(kind, version & BODY != 0, length, lsn, durable, epoch)


def decode(data: Buffer, at: int, offset: int, salt: int) -> Record | None:
    """The record at `data[at]`, which is at `offset` in its file; None if it is not whole or does not match."""
    found = decode_header(data, at, salt)
    if found is None:
        return None
    start, end = at + HEADER_BYTES, at + HEADER_BYTES + found.length
    if len(data) < end + _CRC.size:
        return None
    payload = memoryview(data)[start:end]
    if crc32(payload, found.lsn & 0xFFFFFFFF) != _CRC.unpack_from(data, end)[0]:
        return None
    return Record(offset, found.kind, found.body, found.lsn, found.durable, found.epoch, payload)


class Source:
    """One open file, read from front to back."""

    def __init__(self, directory: Directory, name: str) -> None:
        self._directory = directory
        self.name = name
        self._fd = directory.open(name)
        self.size = directory.size(self._fd)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.close(self._fd)

    def read(self, size: int, offset: int) -> bytes:
        return self._directory.read(self._fd, size, offset)

    def records(self, start: int, stamp: Stamp, last: int) -> Iterator[Record]:
        """Every record from `start` to the first bytes that are none. A record counts only where it belongs: with the
        segment's epoch, and the lsn that follows `last`. Payloads share memory with their neighbours."""
        data, base = b"", start
        offset = start
        while True:
            record = decode(data, offset - base, offset, stamp.salt)
            if record is None:  # perhaps only because the piece in memory ends here
                data, base = self._piece(offset, stamp.salt), offset
                record = decode(data, 0, offset, stamp.salt)
            if record is None or record.epoch != stamp.epoch or record.lsn != last + (record.kind not in SEALS):
                return
            last = record.lsn
            yield record
            offset = record.end

    def _piece(self, offset: int, salt: int) -> bytes:
        """The bytes from `offset` on: many records, or one that is longer than a step."""
        data = self.read(STEP_BYTES, offset)
        found = decode_header(data, 0, salt)
        if found and len(data) < OVERHEAD_BYTES + found.length <= self.size - offset:
            return self.read(OVERHEAD_BYTES + found.length, offset)
        return data

    def is_zero(self, start: int) -> bool:
        """Whether only zeros follow: the preallocated rest of a segment."""
        for offset in range(start, self.size, STEP_BYTES):
            data = self.read(STEP_BYTES, offset)
            if data.count(0) != len(data):
                return False
        return True

    def data_end(self) -> int:
        """Where the zeros begin that run to the end of the file."""
        end = self.size
        while end > 0:
            step = min(end, STEP_BYTES)
            kept = len(self.read(step, end - step).rstrip(b"\0"))
            if kept:
                return end - step + kept
            end -= step
        return 0

    def proves(self, start: int, stamp: Stamp, lsn: int) -> bool:
        """Whether anything behind `start` shows that record `lsn`, which should stand there, had been durable.

        A later header says so if it was written when `lsn` was already synced; or if it has that lsn itself: then a SEAL
        stood at `start`, and a SEAL is synced before the next record is written.
        """
        for offset in range(start + 1, self.size, STEP_BYTES):
            data = self.read(STEP_BYTES + HEADER_BYTES - 1, offset)
            at = data.find(MAGIC)
            while at >= 0:
                found = decode_header(data, at, stamp.salt)
                if found and found.epoch == stamp.epoch and (found.durable >= lsn or (found.lsn == lsn and found.kind not in SEALS)):
                    return True
                at = data.find(MAGIC, at + 1)
        return False
