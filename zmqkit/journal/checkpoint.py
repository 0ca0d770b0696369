"""Checkpoints: files that hold the state at exactly the end of a sealed segment, so that a start need not replay all of the log.

The same records as in a segment: BLOCKs numbered 1, 2, 3…, then a CLOSE that says that none is missing. The payload of a block
is a run of items: kind u8 | length u32 | payload. One checksum for a megabyte of small items, not one for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from struct import Struct

from .directory import TEMPORARY, Directory, size_of, write_all
from .log import Buffer, Entry, Item
from .record import BLOCK, CLOSE, OVERHEAD_BYTES, Source, encode, join_small
from .segment import CHECKPOINT, START_BYTES, Start, decode_start, name_of

SUFFIX = ".checkpoint"
KEPT = 2  # with one, a single flipped bit would end the service
BLOCK_BYTES = 1 << 20
SYNC_BYTES = 4 << 20  # a big file synced at once would hold up the log's own syncs for as long

_ITEM = Struct("<BI")


class Unverified(OSError):
    """The disk gave back other bytes than were written and synced."""


def publish_checkpoint(directory: Directory, start: Start, items: Sequence[Item]) -> str:
    """Write, sync, read back, rename, sync the name: a checkpoint with its final name is whole. Returns the name.

    The caller has sealed and synced the segment that ends at `start.first`. Raises OSError.
    """
    name = name_of(start.first, start.epoch, SUFFIX)
    fd = directory.create(name + TEMPORARY)
    try:
        _write(directory, fd, start, items)
        directory.forget(fd)
    finally:
        directory.close(fd)
    if not is_whole(directory, name + TEMPORARY):
        raise Unverified(0, "a checkpoint read back other bytes than were written and synced")
    directory.rename(name + TEMPORARY, name)
    directory.sync_names()
    return name


def withdraw(directory: Directory, start: Start) -> None:
    """Remove what `publish_checkpoint` left when there was no room."""
    with suppress(FileNotFoundError):
        directory.unlink(name_of(start.first, start.epoch, SUFFIX) + TEMPORARY)


def is_whole(directory: Directory, name: str) -> bool:
    """Whether every byte of the checkpoint is as it was written. Raises JournalFormat: a newer zmqkit wrote it."""
    with Source(directory, name) as source:
        start = decode_start(source.read(START_BYTES, 0), CHECKPOINT, f"{directory.path}/{name}")
        if start is None or not name.startswith(name_of(start.first, start.epoch, SUFFIX)):
            return False
        end, closed = START_BYTES, False
        for record in source.records(START_BYTES, start.stamp, 0):
            closed = record.kind == CLOSE
            end = record.end
            if record.durable != start.first:
                return False
        return closed and end == source.size


def read_checkpoint(directory: Directory, name: str) -> Iterator[Entry]:
    """The items of a checkpoint that is whole."""
    with Source(directory, name) as source:
        start = decode_start(source.read(START_BYTES, 0), CHECKPOINT, f"{directory.path}/{name}")
        assert start is not None
        for record in source.records(START_BYTES, start.stamp, 0):
            if record.kind != BLOCK:
                continue
            at = 0
            while at < len(record.payload):
                kind, length = _ITEM.unpack_from(record.payload, at)
                at += _ITEM.size
                yield Entry(0, kind, record.payload[at : at + length])
                at += length


def _write(directory: Directory, fd: int, start: Start, items: Sequence[Item]) -> None:
    write_all(directory, fd, [start.encode(CHECKPOINT)], 0)
    end, synced, number = START_BYTES, 0, 0
    for parts, size in _blocks(items):
        number += 1
        block, size = encode(start.stamp, BLOCK, False, number, start.first, parts, size), size + OVERHEAD_BYTES
        write_all(directory, fd, join_small(block, size), end)
        end += size
        if end - synced >= SYNC_BYTES:
            directory.sync(fd)
            synced = end
    write_all(directory, fd, encode(start.stamp, CLOSE, False, number, start.first, [], 0), end)
    directory.sync(fd)


def _blocks(items: Sequence[Item]) -> Iterator[tuple[list[Buffer], int]]:
    """Items put one behind the other until a block is full; one larger than a block has its own."""
    parts: list[Buffer] = []
    size = 0
    for item in items:
        length = size_of(item.chunks)
        if parts and size + length > BLOCK_BYTES:
            yield parts, size
            parts, size = [], 0
        parts.append(_ITEM.pack(item.kind, length))
        parts.extend(item.chunks)
        size += _ITEM.size + length
    if parts:
        yield parts, size
