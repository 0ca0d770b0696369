"""What a node says of itself in mDNS, written and read: the instance's name, and the text beside it. Pure.

Rule 1  Nothing in it is secret, and nothing names a queue.
Rule 2  Whoever reads believes no length, no letter and no number before it was looked at.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from zmqkit.wire import VERSION

SERVICE = "_zmqkit._tcp.local."
NAME_BYTES_MAX = 200  # of a node's name in a record; a longer one is cut
_LABEL_CHARS_MAX = 50  # of the name in an instance's label of 63 bytes: behind it stand "-", eight digits, and "-2" if it was taken
_ID = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(r"[0-9]{1,9}")


class Found(NamedTuple):
    """A node that mDNS knows."""

    name: str
    endpoint: str  # the likeliest: tcp://ADDRESS:PORT
    fingerprint: str  # of its key, by its own words; "" without keys
    node: str  # its id, 32 hex digits: the same after a restart on the same journal
    version: int  # of the protocol
    endpoints: tuple[str, ...]  # all of them, the likeliest first


class Text(NamedTuple):
    name: str
    fingerprint: str
    node: str
    version: int = VERSION

    def properties(self) -> dict[str, str]:
        return {"v": str(self.version), "id": self.node, "name": announced_name(self.name), "fp": self.fingerprint}


class Refused(Exception):
    """This record is not believed; the reason in a word or two."""


def announced_name(name: str) -> str:
    """A node's name as its record has it: printable, and not too long."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name.encode(errors="replace").decode())
    return name.encode()[:NAME_BYTES_MAX].decode(errors="ignore")


def label(name: str, node: str) -> str:
    """The instance's own part of its name: letters, digits and dashes, no two nodes alike, at most 59 bytes."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name)[:_LABEL_CHARS_MAX].strip("-")
    return f"{plain or 'node'}-{short(node)}"


def short(node: str) -> str:
    return node[:8]


def read_text(raw: bytes) -> Text:
    """Of a TXT record: strings, each behind a byte with its length, so none is over 255 bytes. Raises Refused."""
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(raw):
        size, at = raw[at], at + 1
        if at + size > len(raw):
            raise Refused("malformed text")
        key, equals, value = raw[at : at + size].partition(b"=")
        if equals:
            fields.setdefault(key.lower(), value)  # the first one counts (RFC 6763, 6.4)
        at += size
    name, fingerprint, node, version = (_read(fields, key) for key in (b"name", b"fp", b"id", b"v"))
    if not _VERSION.fullmatch(version) or not _ID.fullmatch(node):
        raise Refused("malformed text")
    if int(version) != VERSION:
        raise Refused("another version")
    return Text(name, fingerprint, node, int(version))


def _read(fields: dict[bytes, bytes], key: bytes) -> str:
    try:
        value = fields[key].decode()
    except (KeyError, UnicodeDecodeError):
        raise Refused("malformed text") from None
    if not value.isprintable():
        raise Refused("unprintable text")
    return value
