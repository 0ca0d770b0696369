"""ZMK1, the link protocol: commands as values, frames as bytes, and nothing else.

    frame 0    "Z1" · kind u8 · header length u16 LE · header (one msgpack array, <= 8 KiB) · rest
    rest       a batch of up to 4 KiB (sizes, body), or a list of fixed-size entries (READY, DONE, ANSWER)
    frames 1…  a larger batch, or one with columns: sizes · body · columns

`encode` and `decode` are inverse. Header fields a reader does not know stand at the end and are ignored, so a field can
be added without a new version. What does not decode raises `Malformed`: the peer's fault, never ours.
docs/wire.md is the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct, error as StructError
from typing import Any, NamedTuple

import msgpack

from zmqkit.fields import SECONDS_MAX, Check, anything, blob, blob_up_to, flag, integer, list_of, map_of_anything, name, seconds, text
from zmqkit.parcel import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX, Buffer, Parcel, unpack_checked

VERSION = 1
MAGIC = b"Z1"
HEADER_BYTES_MAX = 8 * 1024
INLINE_BYTES_MAX = 4 * 1024  # one frame costs less than three below this (call −30 %, put −11 %)
ENTRIES_MAX = 512
NAME_BYTES_MAX = 255
TEXT_CHARS_MAX = 2000
BLOB_BYTES_MAX = 64 * 1024
ARGUMENTS_BYTES_MAX = 64 * 1024  # of an ASK: room for 4,096 numbers and every policy there is
FRAME_BYTES_MAX = PARCEL_BYTES_MAX + 64 * 1024  # both sides' sockets refuse larger ones, so no encoder may make one
VERSIONS_MAX = 16


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
    WAIT = 12  # full, and the queue's policy is that its producers wait: offer again under the same numbers


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

_NAME = name(NAME_BYTES_MAX)
_U32 = integer(0, 2**32 - 1)
_U64 = integer(0, 2**64 - 1)
_SEQ = integer(1, 2**63)
_COUNT = integer(1, PARCEL_MESSAGES_MAX)
_EPOCH = integer(0, 2**24 - 1)
_DURATION = seconds()


def _window(value: Any) -> bool:
    return type(value) is list and len(value) >= 3 and _NAME(value[0]) and _U32(value[1]) and _DURATION(value[2])


def _limits(value: Any) -> bool:
    """Limits that a client counts with are numbers; those it does not know may be anything."""
    known = ("message_bytes", "window_batches", "window_bytes", "tokens")
    return type(value) is dict and all(_U32(value[name]) and value[name] for name in known if name in value)


# What the header of each kind must hold, in order.
_HEADERS: dict[Kind, tuple[Check, ...]] = {
    Kind.HELLO: (list_of(_U32, VERSIONS_MAX), blob(16), _U32, blob(0, 16), _EPOCH),
    Kind.WELCOME: (_U32, blob(16), _EPOCH, _DURATION, _DURATION, _limits),
    Kind.NOSESSION: (),
    Kind.PUT: (_NAME, _SEQ, _COUNT, _SEQ),
    Kind.CONFIRM: (_NAME, _SEQ, _SEQ, _SEQ, text(20)),
    Kind.REFUSED: (_U32, text(NAME_BYTES_MAX), _U64, _U64, _U32, _DURATION, text(TEXT_CHARS_MAX)),
    Kind.READY: (_U32, _U64, list_of(_window, HEADER_BYTES_MAX)),
    Kind.ECHO: (_U32, flag, list_of(_U64, ENTRIES_MAX)),
    Kind.LEASE: (_NAME, _U64, _SEQ, _COUNT, _U32, _DURATION, _DURATION, _U32),
    Kind.DONE: (flag,),
    Kind.ANSWER: (),
    Kind.BACK: (_U64, _U32, _COUNT, integer(0, 4), seconds(-1.0), text(TEXT_CHARS_MAX)),
    Kind.SAVE: (_U64, _U32, blob_up_to(BLOB_BYTES_MAX)),
    Kind.ASK: (_SEQ, _SEQ, text(40), map_of_anything),
    Kind.TOLD: (_SEQ, anything),
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
# Their last field may be larger than a header: it stands in a frame of its own, of at most so many bytes.
_LARGE = {Kind.ASK: ARGUMENTS_BYTES_MAX, Kind.TOLD: FRAME_BYTES_MAX, Kind.SAVE: BLOB_BYTES_MAX + 5}
_HEAD = Struct("<2sBH")

# A reason may hold what an exception said, and that a file name that is no UTF-8: half a letter must not end a link.
_pack = msgpack.Packer(use_bin_type=True, unicode_errors="replace").pack


def encode(command: Command) -> list[Buffer]:
    """The frames of one command. A `Slice` must have become a Parcel before. Raises ValueError for what is over a limit."""
    kind, fields = _KINDS[type(command)], list[Any](command)
    if kind in _BATCHES:
        return _encode_batch(kind, fields[:-1], fields[-1])
    if kind in _LARGE:
        last = _pack(fields[-1])
        if len(last) > _LARGE[kind]:
            raise ValueError(f"{kind.name} of {len(last):,} bytes, the limit is {_LARGE[kind]:,}")
        return [_frame(kind, fields[:-1]), last]
    entry = _ENTRIES.get(kind)
    if entry is None:
        return [_frame(kind, fields)]
    return [b"".join([_frame(kind, fields[:-1]), *[entry.pack(*values) for values in fields[-1]]])]


def packed_bytes(value: Any) -> int:
    """How much this value takes inside a frame."""
    return len(_pack(value))


def _frame(kind: Kind, fields: list[Any]) -> bytes:
    header = _pack(fields)
    if len(header) > HEADER_BYTES_MAX:
        raise ValueError(f"a header of {len(header)} bytes in {kind.name}")
    return _HEAD.pack(MAGIC, kind, len(header)) + header  # type: ignore[no-any-return]


def _encode_batch(kind: Kind, fields: list[Any], parcel: Parcel) -> list[Buffer]:
    frame = _frame(kind, fields)
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
    fields = unpack_checked(frame[_HEAD.size : _HEAD.size + length])
    if type(fields) is not list:
        raise Malformed(f"{kind.name} with a header that is no array")
    if kind in _LARGE:
        fields[len(_HEADERS[kind]) - 1 :] = [_last_field(kind, frames)]
    _check(kind, fields)
    if kind in _BATCHES:
        fields.append(_batch(kind, fields, rest, frames))
    elif kind in _ENTRIES:
        fields.append(_entries(kind, rest))
        if kind is Kind.READY:
            fields[2] = [Window(*window[:3]) for window in fields[2]]
            fields[3] = [Held(*held) for held in fields[3]]
    elif len(rest):
        raise Malformed(f"{kind.name} with {len(rest)} bytes behind its header")
    if len(frames) != 1 and kind not in _LARGE and kind not in _BATCHES:
        raise Malformed(f"{kind.name} in {len(frames)} frames")
    return command(*fields)  # type: ignore[no-any-return]


def _check(kind: Kind, fields: list[Any]) -> None:
    """Every field that this version knows is there and right; those behind them are of a later one, and go."""
    checks = _HEADERS[kind]
    if len(fields) < len(checks):
        raise Malformed(f"{kind.name} with fields missing")
    del fields[len(checks) :]
    for index, (check, value) in enumerate(zip(checks, fields, strict=True)):
        if not check(value):
            raise Malformed(f"{kind.name} with a wrong field {index}: a {type(value).__name__}")
    if kind is Kind.PUT and fields[3] > fields[1]:
        raise Malformed("PUT of numbers below its own base")
    if kind is Kind.ASK and fields[1] > fields[0]:
        raise Malformed("ASK of a number below its own base")


def _last_field(kind: Kind, frames: Sequence[Buffer]) -> Any:
    if len(frames) != 2:
        raise Malformed(f"{kind.name} in {len(frames)} frames")
    if len(frames[1]) > _LARGE[kind]:
        raise Malformed(f"{kind.name} of {len(frames[1])} bytes")
    return unpack_checked(frames[1])


def _batch(kind: Kind, fields: list[Any], rest: memoryview, frames: Sequence[Buffer]) -> Parcel:
    count = fields[3 if kind is Kind.LEASE else 2]
    if len(frames) > 1 and len(rest):
        raise Malformed(f"{kind.name} with a batch both inside and behind its first frame")
    parcel = Parcel.from_joined(count, rest) if len(frames) == 1 else Parcel.from_frames(count, frames[1:])
    parcel.check(offered=kind is Kind.PUT)
    return parcel


def _entries(kind: Kind, rest: memoryview) -> list[Any]:
    entry = _ENTRIES[kind]
    if len(rest) > ENTRIES_MAX * entry.size:
        raise Malformed(f"{kind.name} with more than {ENTRIES_MAX} entries")
    entries = list(entry.iter_unpack(rest))
    if kind is Kind.READY and not all(0.0 <= seconds <= SECONDS_MAX for _, _, seconds in entries):
        raise Malformed("READY that asks for a lease of no length there is")
    if kind is Kind.ANSWER and any(verdict > max(Verdict) for _, _, _, verdict in entries):
        raise Malformed("ANSWER with an unknown verdict")
    return entries
