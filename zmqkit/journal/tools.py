"""Looking at a journal from outside, for the command line: `stat`, `verify` and `dump` only read, and take no lock; `salvage`
writes a new journal from what can still be read of a damaged one.

On a journal that a process has open, the last records may be missing or look torn: ask that process, or a copy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import JournalCorrupt, JournalFormat
from . import checkpoint
from .directory import Directory, readable
from .meta import Meta, read_meta
from .record import OWN_KINDS
from .recovery import History, examine, read_segment
from .salvage import Salvaged, salvage
from .segment import parse_name

__all__ = ["CLEAN", "CORRUPT", "TORN", "Dumped", "Salvaged", "Stat", "Verdict", "dump", "salvage", "stat", "verify"]

CLEAN, TORN, CORRUPT = 0, 1, 2


@dataclass(frozen=True)
class Stat:
    path: str
    node: str
    epoch: int
    segments: int
    bytes: int
    bodies: int  # records whose payload can be read back by position
    first: int  # lsn of the oldest record in a file
    last: int
    checkpoints: list[int]  # the lsn each describes, oldest first
    locked_by: tuple[int, str] | None  # pid, host


@dataclass(frozen=True)
class Verdict:
    """code: CLEAN, TORN (a crash left an end that nobody was promised: the next start drops it) or CORRUPT, with the place."""

    code: int
    text: str
    file: str = ""
    offset: int = 0
    lsn: int = 0


class Dumped(NamedTuple):
    lsn: int
    epoch: int
    kind: int
    payload: memoryview
    file: str
    offset: int



def stat(path: str) -> Stat:
    """Raises JournalError: there is no journal; JournalCorrupt: what there is cannot be opened."""
    with readable(path), Directory(path, make=False) as directory:
        meta = _meta(directory)
        history = examine(directory, meta)
        segments = history.segments
        return Stat(
            path=path,
            node=meta.node.hex(),
            epoch=meta.epoch,
            segments=len(segments),
            bytes=sum(segment.size for segment in segments),
            bodies=sum(segment.live_count for segment in segments),
            first=segments[0].first if segments else 0,
            last=history.last,
            checkpoints=[lsn for lsn, _ in history.checkpoints],
            locked_by=directory.owner(),
        )


def verify(path: str) -> Verdict:
    """Read every byte. Raises JournalError: there is no journal; JournalFormat: a newer zmqkit wrote it."""
    with readable(path), Directory(path, make=False) as directory:
        try:
            meta = _meta(directory)
            history = examine(directory, meta)
            for segment in history.segments:
                for _ in read_segment(directory, meta.node, segment):
                    pass
            _verify_checkpoints(directory, history)
        except JournalCorrupt as error:
            return Verdict(CORRUPT, str(error), error.file, error.offset, error.lsn)
        if history.torn:
            tail = history.segments[-1]
            text = f"torn tail after record {tail.last}: nothing confirmed was in it, the next start drops it"
            return Verdict(TORN, text, os.path.join(path, tail.name), tail.records_end, tail.last + 1)
        return Verdict(CLEAN, f"{len(history.segments)} segments, records up to {history.last}")


def dump(path: str) -> Iterator[Dumped]:
    """Every record of the log's callers in every file, in order, checkpoints left out. Raises JournalCorrupt at one that does
    not match."""
    with readable(path), Directory(path, make=False) as directory:
        meta = _meta(directory)
        for segment in examine(directory, meta).segments:
            for record in read_segment(directory, meta.node, segment):
                if record.kind < OWN_KINDS:
                    yield Dumped(record.lsn, record.epoch, record.kind, record.payload, segment.name, record.offset)


# -- reading -----------------------------------------------------------------------------------------------------------


def _meta(directory: Directory) -> Meta:
    meta = read_meta(directory)
    if meta is None:
        raise JournalFormat(directory.path, "not a journal: there is no meta file")
    return meta


def _verify_checkpoints(directory: Directory, history: History) -> None:
    for name in [*(name for _, name in history.checkpoints), *history.damaged]:
        if not checkpoint.is_whole(directory, name):
            lsn, _ = parse_name(name, checkpoint.SUFFIX) or (0, 0)
            raise JournalCorrupt(os.path.join(directory.path, name), 0, lsn, "the checkpoint does not match its checksums")
