"""12/CHP, the Clustered Hashmap Protocol of the Guide's Clone pattern, as frames.

    P      ICANHAZ?  ['ICANHAZ?' · subtree]               client to server; the subtree may be left out
           KVSYNC    [key · seq · uuid · props · value]   server to client, one for each key
           KTHXBAI   ['KTHXBAI' · seq · '' · '' · subtree]
    P + 1  KVPUB     [key · seq · uuid · props · value]   an empty value deletes the key
           HUGZ      ['HUGZ' · seq · '' · '' · '']
    P + 2  KVSET     [key · seq · uuid · props · value]   client to server; seq says nothing

A seq is 8 bytes, big-endian. Properties are lines `name=value`; `ttl` is how many seconds a value holds, and in a snapshot the moment of
its end, in seconds of Unix time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zmqkit.fields import SECONDS_MAX

ICANHAZ, KTHXBAI, HUGZ = b"ICANHAZ?", b"KTHXBAI", b"HUGZ"
RESERVED = (KTHXBAI, HUGZ)  # as keys they would be taken for these commands
BEAT_SECONDS = 1.0  # between HUGZ
SEQ_BYTES, UUID_BYTES = 8, 16
KEY_BYTES_MAX, PROPS_BYTES_MAX = 255, 4096


class Malformed(ValueError):
    """Why these frames are no message of the protocol, as a word to count by."""


class Pair(NamedTuple):
    """A key and what it holds, or a command in the same five frames. `value` empty: deleted."""

    key: bytes
    seq: int
    uuid: bytes = b""
    props: bytes = b""
    value: bytes = b""

    @property
    def frames(self) -> list[bytes]:
        return [self.key, self.seq.to_bytes(SEQ_BYTES, "big"), self.uuid, self.props, self.value]


def read(frames: Sequence[bytes]) -> Pair:
    """Raises Malformed."""
    if len(frames) != 5:
        raise Malformed("bad-frames")
    key, seq, uuid, props, value = frames
    if len(seq) != SEQ_BYTES:
        raise Malformed("bad-seq")
    if len(uuid) not in (0, UUID_BYTES):
        raise Malformed("bad-uuid")
    if len(props) > PROPS_BYTES_MAX or (props and not props.endswith(b"\n")):
        raise Malformed("bad-props")
    return Pair(key, int.from_bytes(seq, "big"), uuid, props, value)


def key_of(pair: Pair) -> str:
    """Raises Malformed for what cannot be a key here."""
    if pair.key in RESERVED:
        raise Malformed("reserved-key")
    try:
        key = pair.key.decode()
    except UnicodeDecodeError:
        raise Malformed("bad-key") from None
    if not 1 <= len(pair.key) <= KEY_BYTES_MAX:
        raise Malformed("bad-key")
    return key


def ttl_of(props: bytes) -> float | None:
    """Seconds, or as it stands in a snapshot; None: it holds until the next. Raises Malformed."""
    ttl = 0.0
    for line in props.splitlines():
        name, _, text = line.partition(b"=")
        if name == b"ttl":
            try:
                ttl = float(text)
            except ValueError:
                raise Malformed("bad-ttl") from None
    if not 0 <= ttl <= SECONDS_MAX:
        raise Malformed("bad-ttl")
    return ttl or None


def with_ttl(props: bytes, ttl: float) -> bytes:
    """The same properties, and this ttl for the one that may be there."""
    lines = [line for line in props.splitlines(keepends=True) if not line.startswith(b"ttl=")]
    return b"".join((*lines, f"ttl={ttl:.6f}\n".encode()))


def note(uuid: bytes, props: bytes) -> bytes:
    """What a value's node has to remember of it besides."""
    return bytes((len(uuid),)) + uuid + props if uuid or props else b""


def noted(data: bytes) -> tuple[bytes, bytes]:
    """Uuid and properties. A note of somebody else is neither."""
    size = data[0] if data else 0
    uuid, props = data[1 : 1 + size], data[1 + size :]
    good = size in (0, UUID_BYTES) and len(uuid) == size and (not props or props.endswith(b"\n"))
    return (uuid, props) if good else (b"", b"")
