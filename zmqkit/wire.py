"""ZMK1, the link protocol: commands as values, frames as bytes, and nothing else.

    frame 0    "Z1" · kind u8 · header length u16 LE · header (one msgpack array, <= 8 KiB) · rest
    rest       a batch of up to 4 KiB (sizes, body), or a list of fixed-size entries (READY, DONE, ANSWER)
    frames 1…  a larger batch, or one with columns: sizes · body · columns

`encode` and `decode` are inverse. Header fields a reader does not know stand at the end and are ignored, so a field can
be added without a new version. What does not decode raises `Malformed`: the peer's fault, never ours.
docs/wire.md is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from math import isfinite
from struct import Struct, error as StructError
from typing import Any, NamedTuple

import msgpack

from zmqkit.parcel import PARCEL_MESSAGES_MAX, Buffer, Parcel, refuse_ext

VERSION = 1
MAGIC = b"Z1"
HEADER_BYTES_MAX = 8 * 1024
INLINE_BYTES_MAX = 4 * 1024  # one frame costs less than three below this (call −30 %, put −11 %)
ENTRIES_MAX = 512
NAME_BYTES_MAX = 255
TEXT_CHARS_MAX = 2000
BLOB_BYTES_MAX = 64 * 1024


class Kind(IntEnum):
    HELLO = 1
    WELCOME = 2
    NOSESSION = 3
    PUT = 4
    CONFIRM = 5
    REFUSED = 6
    READY = 7
    ECHO = 8
    LEASE = 9
    DONE = 10
    ANSWER = 11
    BACK = 12
    SAVE = 13
    ASK = 14
    TOLD = 15
    BYE = 16
    # Reserved for transactions (17, 18), calls (19 to 22) and topics (23 to 30).


class Code(IntEnum):
    """Why something was refused."""

    FULL = 1
    DISK_FULL = 2
    TOO_LARGE = 3
    STOPPING = 4
    DELETED = 5
    STALE = 6
    QUOTA = 7
    FORBIDDEN = 8
    MAYBE_EXECUTED = 9
    MALFORMED = 10
    VERSION = 11


class Verdict(IntEnum):
    """What became of a message that a DONE named."""

    OK = 0
    STALE = 1  # definite: not settled by this DONE
    SETTLED = 2  # settled, perhaps by this DONE: the node cannot tell


class BackKind(IntEnum):
    NACK = 0  # failed: counts an attempt, waits for the backoff or `delay`
    SPLIT = 1  # a failed batch comes again one by one: counts nothing, each message alone
    REJECT = 2  # dead at once
    SNOOZE = 3  # later, counts nothing
    UNSTARTED = 4  # nobody began: counts nothing


class Malformed(Exception):
    """These frames are no ZMK1 command."""


class Hello(NamedTuple):
    versions: list[int]
    client: bytes
    link: int
    node: bytes  # the last one known, b"" if none
    epoch: int


class Welcome(NamedTuple):
    version: int
    node: bytes
    epoch: int
    beat: float
    patience: float
    limits: dict[str, Any]


class NoSession(NamedTuple):
    """"I do not know this link": say HELLO on a new one."""


class Put(NamedTuple):
    queue: str
    first: int  # number in the stream (client, queue) of the first message
    count: int  # type: ignore[assignment]
    base: int  # lowest number neither confirmed nor refused
    parcel: Parcel


class Confirm(NamedTuple):
    queue: str
    first: int
    count: int  # type: ignore[assignment]
    qseq: int  # the first message's number in its queue
    durability: str


class Refused(NamedTuple):
    command: int
    queue: str
    first: int
    count: int  # type: ignore[assignment]
    code: int
    retry_after: float
    text: str


class Window(NamedTuple):
    queue: str
    messages: int  # absolute: how many may be open at once
    lease: float


class Held(NamedTuple):
    token: int
    open: int  # running, waiting or unanswered messages
    seconds: float  # lease length wanted; 0: the queue's


class Ready(NamedTuple):
    beat: int
    seen: int  # highest token received on any link
    windows: list[Window]
    held: list[Held]


class Echo(NamedTuple):
    beat: int
    stopping: bool
    revoked: list[int]


class Slice(NamedTuple):
    """A parcel that the driver reads from the log at the moment of sending."""

    position: int
    offset: int
    count: int  # type: ignore[assignment]
    columns: dict[str, list[Any]] | None = None  # what the queue adds: error, saved


class Lease(NamedTuple):
    queue: str
    token: int
    qseq: int
    count: int  # type: ignore[assignment]
    attempt: int
    lease: float
    grace: float
    beat: int  # the newest beat of that client the node had seen: when the lease began, in the client's own time
    parcel: Parcel | Slice


class Done(NamedTuple):
    wait: bool  # somebody waits for the answer: sync now
    ranges: list[tuple[int, int, int]]  # token, offset, count


class Answer(NamedTuple):
    ranges: list[tuple[int, int, int, int]]  # token, offset, count, verdict


class Back(NamedTuple):
    token: int
    offset: int
    count: int  # type: ignore[assignment]
    kind: int
    delay: float  # < 0: the queue's backoff decides
    reason: str


class Save(NamedTuple):
    token: int
    offset: int
    blob: bytes


class Ask(NamedTuple):
    number: int
    base: int
    verb: str
    arguments: dict[str, Any]


class Told(NamedTuple):
    number: int
    result: Any


class Bye(NamedTuple):
    """The last word on a link."""


Command = (
    Hello | Welcome | NoSession | Put | Confirm | Refused | Ready | Echo | Lease | Done | Answer | Back | Save | Ask | Told | Bye
)

Check = Callable[[Any], bool]


def _integer(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _seconds(low: float = 0.0) -> Check:
    return lambda value: type(value) in (int, float) and isfinite(value) and low <= value <= 1e10


def _text(limit: int) -> Check:
    return lambda value: type(value) is str and len(value) <= limit


def _name(value: Any) -> bool:
    return type(value) is str and 1 <= len(value.encode()) <= NAME_BYTES_MAX


def _blob(*lengths: int) -> Check:
    return lambda value: type(value) is bytes and len(value) in lengths


def _list_of(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _flag(value: Any) -> bool:
    return type(value) is bool


def _map(value: Any) -> bool:
    return type(value) is dict


def _anything(value: Any) -> bool:
    return True


def _window(value: Any) -> bool:
    return type(value) is list and len(value) >= 3 and _name(value[0]) and _U32(value[1]) and _seconds()(value[2])


_U32 = _integer(0, 2**32 - 1)
_U64 = _integer(0, 2**64 - 1)
_SEQ = _integer(1, 2**63)
_COUNT = _integer(1, PARCEL_MESSAGES_MAX)
_EPOCH = _integer(0, 2**24 - 1)
_DURATION = _seconds()

# What the header of each kind must hold, in order.
_HEADERS: dict[Kind, tuple[Check, ...]] = {
    Kind.HELLO: (_list_of(_U32), _blob(16), _U32, _blob(0, 16), _EPOCH),
    Kind.WELCOME: (_U32, _blob(16), _EPOCH, _DURATION, _DURATION, _map),
    Kind.NOSESSION: (),
    Kind.PUT: (_name, _SEQ, _COUNT, _SEQ),
    Kind.CONFIRM: (_name, _SEQ, _SEQ, _SEQ, _text(20)),
    Kind.REFUSED: (_U32, _text(255), _U64, _U64, _U32, _DURATION, _text(TEXT_CHARS_MAX)),
    Kind.READY: (_U32, _U64, _list_of(_window)),
    Kind.ECHO: (_U32, _flag, _list_of(_U64)),
    Kind.LEASE: (_name, _U64, _SEQ, _COUNT, _U32, _DURATION, _DURATION, _U32),
    Kind.DONE: (_flag,),
    Kind.ANSWER: (),
    Kind.BACK: (_U64, _U32, _COUNT, _integer(0, 4), _seconds(-1.0), _text(TEXT_CHARS_MAX)),
    Kind.SAVE: (_U64, _U32, lambda value: type(value) is bytes and len(value) <= BLOB_BYTES_MAX),
    Kind.ASK: (_SEQ, _SEQ, _text(40), _map),
    Kind.TOLD: (_SEQ, _anything),
    Kind.BYE: (),
}
_KINDS: dict[type, Kind] = {
    Hello: Kind.HELLO, Welcome: Kind.WELCOME, NoSession: Kind.NOSESSION, Put: Kind.PUT, Confirm: Kind.CONFIRM,
    Refused: Kind.REFUSED, Ready: Kind.READY, Echo: Kind.ECHO, Lease: Kind.LEASE, Done: Kind.DONE, Answer: Kind.ANSWER,
    Back: Kind.BACK, Save: Kind.SAVE, Ask: Kind.ASK, Told: Kind.TOLD, Bye: Kind.BYE,
}  # fmt: skip
_TYPES: dict[int, type] = {int(kind): command for command, kind in _KINDS.items()}
_ENTRIES = {Kind.READY: Struct("<QIf"), Kind.DONE: Struct("<QII"), Kind.ANSWER: Struct("<QIIB")}
_BATCHES = frozenset((Kind.PUT, Kind.LEASE))
_LARGE = frozenset((Kind.ASK, Kind.TOLD, Kind.SAVE))  # their one argument may be larger than a header: it stands in a frame of its own
_HEAD = Struct("<2sBH")

_pack = msgpack.Packer(use_bin_type=True).pack


def encode(command: Command) -> list[Buffer]:
    """The frames of one command. A `Slice` must have become a Parcel before."""
    kind = _KINDS[type(command)]
    if kind in _BATCHES:
        return _encode_batch(kind, command[:-1], command[-1])  # type: ignore[arg-type]
    if kind in _LARGE:
        header = _pack(list(command[:-1]))
        return [_HEAD.pack(MAGIC, kind, len(header)) + header, _pack(command[-1])]
    entries = _ENTRIES.get(kind)
    header = _pack(list(command if entries is None else command[:-1]))
    if len(header) > HEADER_BYTES_MAX:
        raise ValueError(f"a header of {len(header)} bytes in {kind.name}")
    frame = _HEAD.pack(MAGIC, kind, len(header)) + header
    if entries is not None:
        frame += b"".join([entries.pack(*entry) for entry in command[-1]])
    return [frame]


def _encode_batch(kind: Kind, fields: tuple[Any, ...], parcel: Parcel) -> list[Buffer]:
    header = _pack(list(fields))
    frame = _HEAD.pack(MAGIC, kind, len(header)) + header
    if parcel.columns is None and len(parcel.sizes) + len(parcel.body) <= INLINE_BYTES_MAX:
        return [b"".join((frame, parcel.sizes, parcel.body))]
    return [frame, *parcel.frames()]


def decode(frames: Sequence[Buffer]) -> Command:
    """The command in these frames, every field checked. Raises Malformed."""
    try:
        return _decode(frames)
    except Malformed:
        raise
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError, StructError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None


def _decode(frames: Sequence[Buffer]) -> Command:
    frame = memoryview(frames[0])
    magic, number, length = _HEAD.unpack_from(frame)
    command = _TYPES.get(number)
    if magic != MAGIC or command is None:
        raise Malformed(f"not a ZMK1 frame: {bytes(frame[:8])!r}")
    kind, rest = Kind(number), frame[_HEAD.size + length :]
    if length > HEADER_BYTES_MAX or len(frame) < _HEAD.size + length:
        raise Malformed(f"{kind.name} with a header of {length} bytes")
    fields = _unpack(frame[_HEAD.size : _HEAD.size + length])
    if kind in _LARGE:
        if len(frames) != 2:
            raise Malformed(f"{kind.name} in {len(frames)} frames")
        fields.insert(len(_HEADERS[kind]) - 1, _unpack(frames[1]))
    checks = _HEADERS[kind]
    if type(fields) is not list or len(fields) < len(checks):
        raise Malformed(f"{kind.name} with fields missing")
    for check, value in zip(checks, fields, strict=False):
        if not check(value):
            raise Malformed(f"{kind.name} with a wrong field: {repr(value)[:60]}")
    del fields[len(checks) :]
    if kind in _BATCHES:
        fields.append(_batch(fields[3] if kind is Kind.LEASE else fields[2], rest, frames))
    elif len(frames) != 1 and kind not in _LARGE:
        raise Malformed(f"{kind.name} in {len(frames)} frames")
    elif kind in _ENTRIES:
        fields.append(_entries(kind, rest))
        if kind is Kind.READY:
            fields[2] = [Window(*window[:3]) for window in fields[2]]
            fields[3] = [Held(*held) for held in fields[3]]
    return command(*fields)  # type: ignore[no-any-return]


def _unpack(data: Buffer) -> Any:
    return msgpack.unpackb(data, strict_map_key=True, ext_hook=refuse_ext, max_ext_len=0)


def _batch(count: int, rest: memoryview, frames: Sequence[Buffer]) -> Parcel:
    parcel = Parcel.from_joined(count, rest) if len(frames) == 1 else Parcel.from_frames(count, frames[1:])
    parcel.check()
    return parcel


def _entries(kind: Kind, rest: memoryview) -> list[Any]:
    entry = _ENTRIES[kind]
    if len(rest) > ENTRIES_MAX * entry.size:
        raise Malformed(f"{kind.name} with more than {ENTRIES_MAX} entries")
    return list(entry.iter_unpack(rest))
