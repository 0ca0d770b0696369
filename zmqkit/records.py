"""Records: what a node remembers, as values and as bytes.

A machine emits records; the log stores them; replayed in order they give the machine's state. They hold decisions
(numbers given, due times, attempts), so replay reads no clock and asks nobody. A checkpoint is a list of the same values
(plus some kinds that only checkpoints use), so replay and checkpoint are one path. docs/wire.md, part "records", is the
specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from zmqkit.parcel import PARCEL_MESSAGES_MAX, Buffer, Parcel, refuse_ext
from zmqkit.wire import Slice

Ranges = list[tuple[int, int]]  # (first, count)…; of a token: (offset, count)…


class Queue(NamedTuple):
    """A queue came into being, or its policy or state changed."""

    number: int
    name: str
    policy: dict[str, Any]
    paused: bool
    deleted: bool
    owner: str = ""  # the user by whom it came into being


class Put(NamedTuple):
    queue: int
    client: bytes
    first: int  # stream number of the first message
    count: int  # type: ignore[assignment]
    base: int
    qseq: int
    at: float  # when it was accepted: the message's age counts from here
    parcel: Parcel


class Copy(NamedTuple):
    """The messages qseq… (position and offset `source`) now stand here. Moves messages, never adds one."""

    queue: int
    qseq: int
    source: int  # position of the record they stood in
    count: int  # type: ignore[assignment]
    parcel: Parcel | Slice


class Lease(NamedTuple):
    queue: int
    token: int
    client: bytes
    qseq: int
    count: int  # type: ignore[assignment]


class Done(NamedTuple):
    queue: int
    token: int
    ranges: Ranges


class Back(NamedTuple):
    """A lease, or a part of it, ended otherwise than by DONE."""

    queue: int
    token: int
    ranges: Ranges
    cause: str
    counted: bool  # one attempt more
    suspect: bool  # leased singly from now on
    due: float  # 0: at once
    error: str


class Save(NamedTuple):
    queue: int
    token: int
    offset: int
    blob: bytes


class Dead(NamedTuple):
    """Dead-lettered, in one record: out of the lease and into the dead letters. The body stays where it is."""

    queue: int
    token: int
    ranges: Ranges
    reason: str
    at: float
    counted: bool
    error: str


class Redrive(NamedTuple):
    queue: int
    ranges: Ranges  # of qseq


class Drop(NamedTuple):
    """Settled without a lease: purged, dropped for room, or dead letters thrown away."""

    queue: int
    ranges: Ranges  # of qseq


class Epoch(NamedTuple):
    """A topic's first update of an epoch comes next; `seq` is its last one before."""

    queue: int
    epoch: int
    seq: int


class Mark(NamedTuple):
    """A subscriber's position under its name, where all before is taken."""

    queue: int
    name: str
    epoch: int
    seq: int


class Bind(NamedTuple):
    """Updates of a topic under this prefix are from now on messages of the queue `name`, too; or, not `bound`, no more."""

    queue: int
    prefix: str
    name: str
    bound: bool


class Values(NamedTuple):
    """A piece of a topic's state as it was behind update `seq`; the parcel is one message, of pairs."""

    queue: int
    seq: int
    at: float
    count: int  # type: ignore[assignment]  # 1
    parcel: Parcel


class Swept(NamedTuple):
    """Every key that a topic had behind update `seq` stands in a piece or an update that came later."""

    queue: int
    seq: int


class Kept(NamedTuple):
    """Checkpoint: bodies below a topic's history that its state needs, in columns of u64, u64, u32, f64 and u8, little endian."""

    queue: int
    seqs: bytes
    positions: bytes
    counts: bytes
    times: bytes
    kinds: bytes


class Held(NamedTuple):
    """Checkpoint: a lease, with what of it is open and what was revoked, as little-endian masks."""

    queue: int
    token: int
    client: bytes
    qseq: int
    count: int  # type: ignore[assignment]
    open: bytes
    revoked: bytes


class Granted(NamedTuple):
    """Checkpoint: the log before it knows no token above this one."""

    token: int


class Stream(NamedTuple):
    """Checkpoint: how far a producer's stream is."""

    queue: int
    client: bytes
    last: int
    answers: list[tuple[int, int, int]]  # first, count, qseq
    seen: float


class Backlog(NamedTuple):
    """Checkpoint: whole parcels in order, never leased, in columns of u64, u32, u32 and f64, little endian."""

    queue: int
    qseq: int
    next_qseq: int
    positions: bytes
    counts: bytes
    sizes: bytes
    times: bytes


class Batch(NamedTuple):
    """Checkpoint: a parcel that is partly leased, settled or returned. Masks are little-endian bytes, bit i = message i."""

    queue: int
    qseq: int
    count: int  # type: ignore[assignment]
    position: int
    size: int
    at: float
    fresh: bytes
    back: bytes
    delayed: bytes
    dead: bytes
    suspect: bytes


class Marks(NamedTuple):
    """Checkpoint: what single messages have collected, by qseq."""

    queue: int
    failed: dict[int, int]
    due: dict[int, float]
    errors: dict[int, list[str]]
    saved: dict[int, bytes]
    dead: dict[int, list[Any]]  # reason, at, history


Record = (
    Queue | Put | Copy | Lease | Done | Back | Save | Dead | Redrive | Drop | Held | Granted | Stream | Backlog | Batch | Marks
    | Epoch | Mark | Values | Swept | Kept | Bind
)  # fmt: skip

_KINDS: dict[type, int] = {
    Queue: 1, Put: 2, Lease: 3, Done: 4, Back: 5, Save: 6, Dead: 7, Redrive: 8, Drop: 9, Copy: 11,
    Epoch: 12, Mark: 13, Values: 14, Swept: 15, Bind: 16,
    Stream: 20, Backlog: 21, Batch: 22, Marks: 23, Held: 24, Granted: 25, Kept: 26,
}  # fmt: skip
_TYPES = {kind: record for record, kind in _KINDS.items()}
NAMES = {kind: record.__name__.lower() for kind, record in _TYPES.items()}
_INT, _TEXT, _BYTES, _FLAG, _REAL, _MAP = (int,), (str,), (bytes,), (bool,), (float, int), (dict,)
_RANGES, _LIST = (list, tuple), (list,)  # of pairs; of anything
# The types of each record's fields; a parcel stands here as the size of its body.
_FIELDS: dict[int, tuple[tuple[type, ...], ...]] = {
    1: (_INT, _TEXT, _MAP, _FLAG, _FLAG, _TEXT),
    2: (_INT, _BYTES, _INT, _INT, _INT, _INT, _REAL, _INT),
    3: (_INT, _INT, _BYTES, _INT, _INT),
    4: (_INT, _INT, _RANGES),
    5: (_INT, _INT, _RANGES, _TEXT, _FLAG, _FLAG, _REAL, _TEXT),
    6: (_INT, _INT, _INT, _BYTES),
    7: (_INT, _INT, _RANGES, _TEXT, _REAL, _FLAG, _TEXT),
    8: (_INT, _RANGES),
    9: (_INT, _RANGES),
    11: (_INT, _INT, _INT, _INT, _INT),
    12: (_INT, _INT, _INT),
    13: (_INT, _TEXT, _INT, _INT),
    14: (_INT, _INT, _REAL, _INT, _INT),
    15: (_INT, _INT),
    16: (_INT, _TEXT, _TEXT, _FLAG),
    20: (_INT, _BYTES, _INT, _LIST, _REAL),
    21: (_INT, _INT, _INT, _BYTES, _BYTES, _BYTES, _BYTES),
    22: (_INT, _INT, _INT, _INT, _INT, _REAL, _BYTES, _BYTES, _BYTES, _BYTES, _BYTES),
    23: (_INT, _MAP, _MAP, _MAP, _MAP, _MAP),
    24: (_INT, _INT, _BYTES, _INT, _INT, _BYTES, _BYTES),
    25: (_INT,),
    26: (_INT, _BYTES, _BYTES, _BYTES, _BYTES, _BYTES),
}
_ADDED = {1: 1}  # so many fields at the end came later, and may be missing
_BODIES = frozenset((2, 11, 14))
_COUNT_FIELD = 3  # of all records that hold a parcel
_LENGTH = Struct("<I")

_pack = msgpack.Packer(use_bin_type=True).pack


def encode(record: Record) -> tuple[int, list[Buffer], bool]:
    """(kind, payload in chunks, holds a body): u32 header length · header (msgpack array) · sizes · body · columns."""
    kind = _KINDS[type(record)]
    if kind not in _BODIES:
        return kind, [_pack(list(record))], False
    parcel = record[-1]
    assert isinstance(parcel, Parcel), "a Slice must be read before it is stored"
    header = _pack([*record[:-1], len(parcel.body)])
    return kind, [_LENGTH.pack(len(header)) + header, *parcel.frames()], True


def decode(kind: int, payload: Buffer) -> Record | None:
    """The record, or None for a kind this version does not know. Raises ValueError for bytes that are none."""
    record = _TYPES.get(kind)
    if record is None:
        return None
    fields, parcel = _split(payload) if kind in _BODIES else (_unpack(payload), None)
    _check(kind, fields)
    return record(*fields) if parcel is None else record(*fields[:-1], parcel)  # type: ignore[no-any-return]


def parcel_of(payload: Buffer) -> Parcel:
    """The parcel in the payload of a record that holds one. Raises ValueError."""
    return _split(payload)[1]


def _split(payload: Buffer) -> tuple[list[Any], Parcel]:
    view = memoryview(payload)
    if len(view) < _LENGTH.size:
        raise ValueError("a record without a header")
    start = _LENGTH.size + _LENGTH.unpack_from(view)[0]
    fields = _unpack(view[_LENGTH.size : start])
    if type(fields) is not list or len(fields) <= _COUNT_FIELD or not type(fields[_COUNT_FIELD]) is type(fields[-1]) is int:
        raise ValueError("a record without the sizes of its body")
    count, body_bytes = fields[_COUNT_FIELD], fields[-1]
    body = start + 4 * count
    if not 1 <= count <= PARCEL_MESSAGES_MAX or not 0 <= body_bytes <= len(view) - body:
        raise ValueError(f"a record of {count} messages and {body_bytes} bytes in {len(view)}")
    columns = view[body + body_bytes :]
    return fields, Parcel(count, view[start:body], view[body : body + body_bytes], columns if len(columns) else None)


def _check(kind: int, fields: Any) -> None:
    """The log's checksum vouches for the bytes; this tells a record of ours from one that a bug or a later version wrote."""
    expected = _FIELDS[kind]
    if type(fields) is not list or not len(expected) - _ADDED.get(kind, 0) <= len(fields) <= len(expected):
        raise ValueError(f"a {NAMES[kind]} record with {len(fields) if isinstance(fields, list) else 'no'} fields, not {len(expected)}")
    for value, types in zip(fields, expected, strict=False):
        if type(value) not in types:
            raise ValueError(f"a {NAMES[kind]} record with a {type(value).__name__} where {types[0].__name__} belongs")
        if type(value) is int and value < 0:
            raise ValueError(f"a {NAMES[kind]} record with {value}")
    if _RANGES in expected:
        for entry in fields[expected.index(_RANGES)]:
            if type(entry) is not list or [*map(type, entry)] != [int, int] or not (entry[0] >= 0 < entry[1]):
                raise ValueError(f"a {NAMES[kind]} record with a range that is none")


def _unpack(data: Buffer) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False, ext_hook=refuse_ext, max_ext_len=0)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:  # TypeError: a map key that no map can have
        raise ValueError(f"no record: {error}") from None


def ranges_of(mask: int, start: int = 0) -> Ranges:
    """The runs of ones in a bitmask, lowest first, as (start + index, length)."""
    found: Ranges = []
    offset = 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        ones = (~mask & (mask + 1)).bit_length() - 1
        found.append((start + offset + zeros, ones))
        mask >>= ones
        offset += zeros + ones
    return found


def mask_of(ranges: Sequence[tuple[int, int]]) -> int:
    """The bitmask with these (offset, count) runs set."""
    mask = 0
    for offset, count in ranges:
        mask |= ((1 << count) - 1) << offset
    return mask
