"""The file `meta`: whose journal this is and how often it was opened. Text, so that a person can read it too.

`first` is the lsn with which the last start's own segment began. That segment, or a later one, must still exist: without
this line a lost last file would look like a shorter journal.
"""

from __future__ import annotations

import os
from typing import NamedTuple
from zlib import crc32

from ..errors import JournalCorrupt, JournalFormat
from .directory import Directory, publish

META = "meta"
FORMAT = 1
EPOCH_MAX = 2**24 - 1  # lease tokens carry the epoch in 24 bits
_TITLE = "zmqkit journal"


class Meta(NamedTuple):
    node: bytes
    epoch: int
    first: int


def read_meta(directory: Directory) -> Meta | None:
    """None: there is none. Raises JournalFormat, JournalCorrupt."""
    path = os.path.join(directory.path, META)
    try:
        fd = directory.open(META)
    except FileNotFoundError:
        return None
    try:
        text = directory.read(fd, 4096, 0).decode("ascii", "replace")
    finally:
        directory.close(fd)
    body, _, checksum = text.rstrip("\n").rpartition("\ncrc ")
    fields = dict(line.split(" ", 1) for line in body.splitlines()[1:] if " " in line)
    if checksum != _checksum(body + "\n"):
        raise JournalCorrupt(path, 0, 0, "the journal's meta file does not match its checksum")
    if not body.startswith(_TITLE):
        raise JournalFormat(path, "not the meta file of a journal: choose another directory")
    if int(fields["format"]) > FORMAT:
        raise JournalFormat(path, f"format {fields['format']} of a newer zmqkit, this one reads up to {FORMAT}: upgrade zmqkit")
    return Meta(bytes.fromhex(fields["node"]), int(fields["epoch"]), int(fields["first"]))


def write_meta(directory: Directory, meta: Meta) -> None:
    body = f"{_TITLE}\nformat {FORMAT}\nnode {meta.node.hex()}\nepoch {meta.epoch}\nfirst {meta.first}\n"
    publish(directory, META, f"{body}crc {_checksum(body)}\n".encode())


def _checksum(text: str) -> str:
    return f"{crc32(text.encode('ascii', 'replace')):08x}"
