"""Salvage: a new journal from what can still be read of a damaged one.

Records keep their lsn, since checkpoints and later records name them by it. Where one is lost a FILLER with its lsn stands:
replay skips it, and it reads back as an empty body, which no real one is. What a loss means is for the caller to say: a lost
batch of messages is lost, a lost acknowledgement is a second delivery.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from ..errors import JournalCorrupt, JournalError, JournalFormat
from . import checkpoint
from .directory import Directory, publish, readable
from .log import Buffer
from .meta import Meta, read_meta, write_meta
from .record import BLOCK, CLOSE, END, FILLER, MAGIC, OVERHEAD_BYTES, SEALS, Record, Source, decode
from .segment import SEGMENT, START_BYTES, SegmentFile, Start, decode_start, name_of, parse_name

SEGMENT_BYTES = 64 << 20
_TEMPORARY = "salvage.tmp"


@dataclass
class Salvaged:
    """What was saved."""

    records: int = 0
    last: int = 0
    checkpoint: int = 0  # lsn of the checkpoint that was taken over; 0: none
    lost: list[tuple[int, int]] = field(default_factory=list)  # first and last lsn of each gap; before the checkpoint, some
    # may be segments that were removed because nobody needed them


def salvage(path: str, out_path: str) -> Salvaged:
    """Write a new journal with the same id at `out_path`; the old one is only read, and should not be in use.

    Raises JournalError: `out_path` is not empty, or nothing in `path` tells which journal it was.
    """
    with readable(path), Directory(path, make=False) as old, readable(out_path), Directory(out_path) as new:
        if new.names():
            raise JournalError(out_path, "salvage writes a new journal: choose an empty or missing directory")
        return _Salvage(old, new).run()


class _Salvage:
    def __init__(self, old: Directory, new: Directory) -> None:
        self._old, self._new = old, new
        self._segments = sorted(parsed for name in old.names() if (parsed := parse_name(name)))
        self._checkpoints = sorted(parsed for name in old.names() if (parsed := parse_name(name, checkpoint.SUFFIX)))
        self._node = self._find_node()
        self._epoch = 1 + max(epoch for _, epoch in [*self._segments, *self._checkpoints])
        self._report = Salvaged()
        self._file: SegmentFile | None = None

    def run(self) -> Salvaged:
        self._take_checkpoint()
        report = self._report
        # What was before the first file was not needed, unless no checkpoint stands for it.
        report.last = min(self._segments[0][0] - 1, report.checkpoint) if self._segments else report.checkpoint
        for record in self._records():
            self._fill(record.lsn - 1)
            self._append(record.kind, record.body, record.lsn, record.payload)
            report.records += 1
        self._fill(report.checkpoint)
        self._finish()
        return report

    # -- what can be read ----------------------------------------------------------------------------------------------

    def _find_node(self) -> bytes:
        """The journal's id: without it no record can be told from chance."""
        with suppress(JournalCorrupt):
            meta = read_meta(self._old)
            if meta is not None:
                return meta.node
        for first, epoch in self._segments:
            with Source(self._old, name_of(first, epoch)) as source:
                start = decode_start(source.read(START_BYTES, 0), SEGMENT, self._old.path)
                if start is not None:
                    return start.node
        raise JournalFormat(self._old.path, "not a journal, or neither meta nor any segment can be read")

    def _take_checkpoint(self) -> None:
        """The newest that is whole."""
        for lsn, epoch in reversed(self._checkpoints):
            name = name_of(lsn, epoch, checkpoint.SUFFIX)
            if checkpoint.is_whole(self._old, name):
                with Source(self._old, name) as source:
                    publish(self._new, name, source.read(source.size, 0))
                self._report.checkpoint = lsn
                return

    def _records(self) -> Iterator[Record]:
        """Every record that matches its checksums, each lsn once, in order. Of files that begin with the same lsn, the one with
        the highest epoch wins."""
        last = 0
        for _, files in groupby(self._segments, key=lambda parsed: parsed[0]):
            found: dict[int, Record] = {}
            for first, epoch in files:
                found.update({record.lsn: record for record in self._read(first, epoch)})
            for lsn in sorted(found):
                if lsn > last:
                    last = lsn
                    yield found[lsn]

    def _read(self, first: int, epoch: int) -> Iterator[Record]:
        """The readable records of one file, wherever they stand."""
        stamp = Start(epoch, first, self._node).stamp
        with Source(self._old, name_of(first, epoch)) as source:
            data = source.read(source.size, 0)
        at = data.find(MAGIC)
        while at >= 0:
            record = decode(data, at, at, stamp.salt)
            if record is None or record.epoch != epoch:
                at = data.find(MAGIC, at + 1)
                continue
            if record.kind not in SEALS and record.kind != BLOCK and record.lsn >= first:
                yield record
            at = data.find(MAGIC, record.end)

    # -- the new journal -----------------------------------------------------------------------------------------------

    def _append(self, kind: int, body: bool, lsn: int, payload: Buffer) -> None:
        """A checkpoint is the end of a segment, so one ends there."""
        if self._file is None or self._file.segment.records_end >= SEGMENT_BYTES or lsn == self._report.checkpoint + 1:
            self._begin(lsn)
        assert self._file is not None
        size = len(payload)
        parts = self._file.encode(kind, body, lsn, lsn - 1, [payload], size, 0)
        if not self._file.append(parts, size + OVERHEAD_BYTES, lsn):
            raise JournalError(self._new.path, "no room for the salvaged records")
        self._report.last = lsn

    def _fill(self, last: int) -> None:
        """Say what is lost up to `last`, and put FILLERs in its place."""
        if self._report.last < last:
            self._report.lost.append((self._report.last + 1, last))
        for lsn in range(self._report.last + 1, last + 1):
            self._append(FILLER, True, lsn, b"")

    def _begin(self, first: int) -> None:
        successor = SegmentFile(self._new, self._new.create(_TEMPORARY), Start(self._epoch, first, self._node), 0)
        successor.name_it(_TEMPORARY)
        self._end(END)
        self._file = successor

    def _end(self, kind: int) -> None:
        if self._file is not None:
            self._file.seal(kind)
            self._file.close()

    def _finish(self) -> None:
        if self._file is None or self._file.segment.last == self._report.checkpoint:
            self._begin(self._report.last + 1)
        assert self._file is not None
        first = self._file.segment.first
        self._end(CLOSE)
        write_meta(self._new, Meta(self._node, self._epoch, first))
