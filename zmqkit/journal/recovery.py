"""What a start does before it serves: find out what the files hold (`examine`, which changes nothing), then make them fit to be
continued (`repair`).

The one question that matters: are bytes that do not match a *torn tail*, which a crash left and nobody was promised, or
*damage* to records that were durable? Then fewer records would be served in silence, so `examine` raises JournalCorrupt.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import JournalCorrupt
from . import checkpoint
from .directory import TEMPORARY, Directory
from .log import Buffer, Entry
from .meta import Meta
from .record import CLOSE, END, OVERHEAD_BYTES, OWN_KINDS, SEALS, Record, Source
from .segment import SEGMENT, START_BYTES, Segment, SegmentFile, Start, decode_start, load_sealed, name_of, parse_name, scan

TORN = ".torn"
DAMAGED = ".damaged"
COPY_BYTES = 1 << 20  # written in one go when a tail is copied
EVIDENCE_KEPT = 4  # files set aside for a person to look at; older ones go


@dataclass
class History:
    """What the files hold."""

    last: int = 0
    highest_epoch: int = 0
    segments: list[Segment] = field(default_factory=list)  # in order; the last may be unsealed
    torn: bool = False  # the last one ends in bytes that are no record
    checkpoints: list[tuple[int, str]] = field(default_factory=list)  # (lsn, name), oldest first; the last one is whole
    damaged: list[str] = field(default_factory=list)  # checkpoints that are not
    leftovers: list[str] = field(default_factory=list)  # segments that a copy with a higher epoch replaces
    notes: list[str] = field(default_factory=list)  # what a person might want to know

    @property
    def checkpoint_lsn(self) -> int:
        return self.checkpoints[-1][0] if self.checkpoints else 0


def examine(directory: Directory, meta: Meta) -> History:
    """Raises JournalCorrupt, JournalFormat; changes nothing."""
    history = History()
    names = directory.names()
    proven = _choose_checkpoint(directory, names, history)
    starts = _choose_segments(directory, names, meta, history)
    if (starts and starts[-1].first < meta.first) or (not starts and (meta.first or proven)):
        raise JournalCorrupt(directory.path, 0, meta.first, "the journal's last segment is missing")
    for start in starts:
        history.segments.append(_load(directory, start))
    _check_chain(directory, history)
    if history.segments:
        _check_tail(directory, starts[-1].node, history)
        history.last = max(history.checkpoint_lsn, history.segments[-1].last)
    if history.last < proven:
        raise JournalCorrupt(directory.path, 0, history.last + 1, f"records up to {proven} were durable and are missing")
    return history


def replay(directory: Directory, node: bytes, history: History) -> Iterator[Entry]:
    """The newest whole checkpoint, then every record after it. Raises JournalCorrupt where a record does not match."""
    if history.checkpoints:
        yield from checkpoint.read_checkpoint(directory, history.checkpoints[-1][1])
    for segment in history.segments:
        if segment.last > history.checkpoint_lsn:
            for record in read_segment(directory, node, segment):
                if record.kind < OWN_KINDS and record.lsn > history.checkpoint_lsn:
                    yield Entry(record.lsn, record.kind, record.payload)


def read_segment(directory: Directory, node: bytes, segment: Segment) -> Iterator[Record]:
    """Every record that `examine` counted. Raises JournalCorrupt at the first that does not match."""
    last, end = segment.first - 1, START_BYTES
    with Source(directory, segment.name) as source:
        for record in source.records(START_BYTES, Start(segment.epoch, segment.first, node).stamp, last):
            if record.offset >= segment.records_end:
                break
            last, end = record.lsn, record.end
            yield record
    if last != segment.last or end != segment.records_end:
        raise JournalCorrupt(os.path.join(directory.path, segment.name), end, last + 1)


def repair(directory: Directory, meta: Meta, history: History, epoch: int, active: SegmentFile, temporary: str) -> None:
    """Put the tail that an earlier process left into a sealed copy, then `active` behind it, then take the old one away.

    In this order a crash between any two steps leaves either all of the old files or all of the new, and the higher epoch wins.
    """
    tail_name = ""
    if history.segments and not history.segments[-1].sealed_by:
        tail = history.segments.pop()
        tail_name = tail.name
        if tail.last >= tail.first:
            history.segments.append(_copy(directory, meta.node, tail, epoch))
        history.leftovers.append(tail.name)
    active.name_it(temporary)
    for name in history.leftovers:
        if name == tail_name and not history.torn:
            directory.unlink(name)
        else:
            _set_aside(directory, meta.node, name)
    for name in history.damaged:
        directory.rename(name, name + DAMAGED)
    directory.sync_names()
    history.leftovers.clear()
    history.damaged.clear()
    for suffix in (TORN, DAMAGED):
        for name in [name for name in directory.names() if name.endswith(suffix)][:-EVIDENCE_KEPT]:
            directory.unlink(name)


def remove_temporaries(directory: Directory) -> None:
    for name in directory.names():
        if name.endswith(TEMPORARY):
            directory.unlink(name)


# -- examine -----------------------------------------------------------------------------------------------------------


def _choose_checkpoint(directory: Directory, names: list[str], history: History) -> int:
    """Fill `checkpoints`. Returns the newest lsn that any of them, whole or not, shows to have been durable: it was published
    after its segment's seal was synced."""
    found = {parsed: name for name in names if (parsed := parse_name(name, checkpoint.SUFFIX))}
    for (lsn, epoch), name in sorted(found.items(), reverse=True):
        history.highest_epoch = max(history.highest_epoch, epoch)
        if not history.checkpoints and not checkpoint.is_whole(directory, name):
            history.damaged.append(name)
            history.notes.append(f"checkpoint {name} is damaged: the one before it and a longer log are used")
        else:
            history.checkpoints.insert(0, (lsn, name))
    return max((lsn for lsn, _ in found), default=0)


def _choose_segments(directory: Directory, names: list[str], meta: Meta, history: History) -> list[Start]:
    """The segments that count, in order: of those that begin with the same lsn, the one with the highest epoch."""
    best: dict[int, int] = {}
    for name in names:
        parsed = parse_name(name)
        if parsed is None:
            continue
        first, epoch = parsed
        history.highest_epoch = max(history.highest_epoch, epoch)
        if first in best:
            history.leftovers.append(name_of(first, min(epoch, best[first])))
        best[first] = max(epoch, best.get(first, 0))
    return [_read_start(directory, name_of(first, epoch), meta.node) for first, epoch in sorted(best.items())]


def _read_start(directory: Directory, name: str, node: bytes) -> Start:
    path = os.path.join(directory.path, name)
    with Source(directory, name) as source:
        start = decode_start(source.read(START_BYTES, 0), SEGMENT, path)
    if start is None or name != name_of(start.first, start.epoch):
        raise JournalCorrupt(path, 0, (parse_name(name) or (0, 0))[0], "the segment's header does not match its checksum or name")
    if start.node != node:
        raise JournalCorrupt(path, 0, start.first, "this segment belongs to another journal")
    return start


def _load(directory: Directory, start: Start) -> Segment:
    with Source(directory, name_of(start.first, start.epoch)) as source:
        return load_sealed(source, start) or scan(source, start)


def _check_chain(directory: Directory, history: History) -> None:
    """No record after the checkpoint may be missing. Before it, segments are only there for bodies, and any may be gone."""
    expected = history.checkpoint_lsn + 1
    before: Segment | None = None
    for segment in history.segments:
        if segment.first > expected:
            file, end = (before.name, before.records_end) if before else (segment.name, 0)
            text = f"records {expected} to {segment.first - 1} are missing or damaged"
            raise JournalCorrupt(os.path.join(directory.path, file), end, expected, text)
        if before is not None and segment.first <= before.last:
            raise JournalCorrupt(os.path.join(directory.path, segment.name), 0, segment.first, "two segments hold the same record")
        expected = max(expected, segment.last + 1)
        before = segment


def _check_tail(directory: Directory, node: bytes, history: History) -> None:
    """The last segment's end: whole, torn, or damaged."""
    tail = history.segments[-1]
    path = os.path.join(directory.path, tail.name)
    if tail.sealed_by == END:
        raise JournalCorrupt(path, tail.records_end, tail.last + 1, "the segment after this one is missing")
    if tail.sealed_by == CLOSE:
        return
    with Source(directory, tail.name) as source:
        if source.is_zero(tail.records_end):
            return
        if source.proves(tail.records_end, Start(tail.epoch, tail.first, node).stamp, tail.last + 1):
            raise JournalCorrupt(path, tail.records_end, tail.last + 1)
    history.torn = True
    history.notes.append(f"{tail.name} ended in a torn write at offset {tail.records_end}: nothing confirmed was in it")


# -- repair ------------------------------------------------------------------------------------------------------------


def _copy(directory: Directory, node: bytes, tail: Segment, epoch: int) -> Segment:
    """A sealed copy of the tail: same lsns, new epoch. Never appended to, as nobody knows what the disk kept of the original."""
    start = Start(epoch, tail.first, node)
    temporary = name_of(tail.first, epoch) + TEMPORARY
    file = SegmentFile(directory, directory.create(temporary), start, 0)
    try:
        parts: list[Buffer] = []
        size, last = 0, tail.first - 1
        for record in read_segment(directory, node, tail):
            if record.kind in SEALS:
                continue
            length, last = len(record.payload), record.lsn
            parts += file.encode(record.kind, record.body, last, record.durable, [record.payload], length, size)
            size += length + OVERHEAD_BYTES
            if size >= COPY_BYTES:
                _append(file, parts, size, last)
                parts, size = [], 0
        _append(file, parts, size, last)
        file.seal(CLOSE)
        file.name_it(temporary)
    finally:
        file.close()
    return file.segment


def _append(file: SegmentFile, parts: list[Buffer], size: int, last: int) -> None:
    if parts and not file.append(parts, size, last):
        raise OSError(errno.ENOSPC, "no room to copy the last segment")


def _set_aside(directory: Directory, node: bytes, name: str) -> None:
    """Remove a segment that was replaced; keep it, without its zeros, if its end was torn."""
    start = _read_start(directory, name, node)
    with Source(directory, name) as source:
        segment = load_sealed(source, start) or scan(source, start)
        torn = not segment.sealed_by and not source.is_zero(segment.records_end)
        data_end = source.data_end()
    if not torn:
        directory.unlink(name)
        return
    fd = directory.open(name, write=True)
    try:
        directory.truncate(fd, data_end)
    finally:
        directory.close(fd)
    directory.rename(name, name + TORN)
