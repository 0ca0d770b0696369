"""ZMK1 as bytes: `encode` and `decode`, which are inverse.

    frame 0    "Z1" · kind u8 · header length u16 LE · header (one msgpack array, <= 8 KiB) · rest
    rest       a batch of up to 4 KiB (sizes, body), or a list of fixed-size entries (READY, DONE, ANSWER)
    frames 1…  a larger batch, or one with columns: sizes · body · columns

Header fields a reader does not know stand at the end and are ignored, so a field can be added without a new version.
What does not decode raises `Malformed`: the peer's fault, never ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, error as StructError
from typing import Any

import msgpack

from zmqkit.fields import (
    SECONDS_MAX,
    Check,
    anything,
    blob,
    blob_up_to,
    flag,
    integer,
    list_of,
    map_of_anything,
    name,
    seconds,
    text,
    text_up_to,
    unmarked,
)  # fmt: skip
from zmqkit.parcel import PARCEL_MESSAGES_MAX, Buffer, Parcel, unpack_checked
from zmqkit.wire import (
    ARGUMENTS_BYTES_MAX,
    ATTEMPTS_MAX,
    BLOB_BYTES_MAX,
    ENTRIES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    INLINE_BYTES_MAX,
    MAGIC,
    NAME_BYTES_MAX,
    REPLY_RANGES_MAX,
    TEXT_CHARS_MAX,
    VERSIONS_MAX,
    Answer,
    Ask,
    Back,
    Bye,
    Call,
    Cancel,
    Command,
    Confirm,
    Done,
    Echo,
    Held,
    Hello,
    Kind,
    Lease,
    More,
    NoSession,
    Part,
    Put,
    Ready,
    Refused,
    Reply,
    Save,
    Status,
    Terms,
    Told,
    Verdict,
    Welcome,
    Window,
)  # fmt: skip


class Malformed(Exception):
    """These frames are no ZMK1 command."""


_QUEUE = unmarked(NAME_BYTES_MAX)
_NAME = name(NAME_BYTES_MAX)  # of a queue, or the marked one of a service
_SERVICE = unmarked(NAME_BYTES_MAX - 1)
_U32 = integer(0, 2**32 - 1)
_U64 = integer(0, 2**64 - 1)
_SEQ = integer(1, 2**63)
_COUNT = integer(1, PARCEL_MESSAGES_MAX)
_OFFSET = integer(0, PARCEL_MESSAGES_MAX - 1)
_STATUS = integer(0, max(Status))
_KEY = text_up_to(NAME_BYTES_MAX)
_EPOCH = integer(0, 2**24 - 1)
_DURATION = seconds()


def _window(value: Any) -> bool:
    return type(value) is list and len(value) >= 3 and _NAME(value[0]) and _U32(value[1]) and _DURATION(value[2])


def _limits(value: Any) -> bool:
    """Limits that a client counts with are numbers; those it does not know may be anything."""
    known = ("message_bytes", "window_batches", "window_bytes", "tokens")
    return type(value) is dict and all(_U32(value[name]) and value[name] for name in known if name in value)


def _terms(value: Any) -> bool:
    return value is None or (type(value) is list and len(value) >= 3 and _DURATION(value[0]) and _KEY(value[1]) and _U32(value[2]))


def _range(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and _U64(value[0]) and _OFFSET(value[1]) and _COUNT(value[2]) and _STATUS(value[3])


# What the header of each kind must hold, in order.
_HEADERS: dict[Kind, tuple[Check, ...]] = {
    Kind.HELLO: (list_of(_U32, VERSIONS_MAX), blob(16), _U32, blob(0, 16), _EPOCH),
    Kind.WELCOME: (_U32, blob(16), _EPOCH, _DURATION, _DURATION, _limits),
    Kind.NOSESSION: (),
    Kind.PUT: (_QUEUE, _SEQ, _COUNT, _SEQ),
    Kind.CONFIRM: (_NAME, _SEQ, _SEQ, _SEQ, text(20)),
    Kind.REFUSED: (_U32, text(NAME_BYTES_MAX), _U64, _U64, _U32, _DURATION, text(TEXT_CHARS_MAX)),
    Kind.READY: (_U32, _U64, list_of(_window, HEADER_BYTES_MAX), _U64),
    Kind.ECHO: (_U32, flag, list_of(_U64, ENTRIES_MAX)),
    Kind.LEASE: (_NAME, _U64, _SEQ, _COUNT, _U32, _DURATION, _DURATION, _U32, _terms),
    Kind.DONE: (flag,),
    Kind.ANSWER: (),
    Kind.BACK: (_U64, _U32, _COUNT, integer(0, 4), seconds(-1.0), text(TEXT_CHARS_MAX)),
    Kind.SAVE: (_U64, _U32, blob_up_to(BLOB_BYTES_MAX)),
    Kind.ASK: (_SEQ, _SEQ, text(40), map_of_anything),
    Kind.TOLD: (_SEQ, anything),
    Kind.BYE: (),
    Kind.CALL: (_SERVICE, _SEQ, _COUNT, _DURATION, integer(1, ATTEMPTS_MAX), _EPOCH, _KEY, _U32, _U64),
    Kind.CANCEL: (_U64, _OFFSET, _COUNT),
    Kind.PART: (_U64, _OFFSET, _SEQ, _COUNT),
    Kind.REPLY: (_U64, list_of(_range, REPLY_RANGES_MAX), _COUNT),
    Kind.MORE: (_U64, _OFFSET, _U32, _U32),
}
_KINDS: dict[type, Kind] = {
    Hello: Kind.HELLO, Welcome: Kind.WELCOME, NoSession: Kind.NOSESSION, Put: Kind.PUT, Confirm: Kind.CONFIRM,
    Refused: Kind.REFUSED, Ready: Kind.READY, Echo: Kind.ECHO, Lease: Kind.LEASE, Done: Kind.DONE, Answer: Kind.ANSWER,
    Back: Kind.BACK, Save: Kind.SAVE, Ask: Kind.ASK, Told: Kind.TOLD, Bye: Kind.BYE,
    Call: Kind.CALL, Cancel: Kind.CANCEL, Part: Kind.PART, Reply: Kind.REPLY, More: Kind.MORE,
}  # fmt: skip
_TYPES: dict[int, type] = {int(kind): command for command, kind in _KINDS.items()}
_ENTRIES = {Kind.READY: Struct("<QIf"), Kind.DONE: Struct("<QII"), Kind.ANSWER: Struct("<QIIB")}
_BATCHES = {Kind.PUT: 2, Kind.LEASE: 3, Kind.CALL: 2, Kind.PART: 3, Kind.REPLY: 2}  # -> which field is the count
_OFFERED = (Kind.PUT, Kind.CALL)  # batches from a producer
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
            fields[4] = [Held(*held) for held in fields[4]]
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
    if kind is Kind.CALL and fields[2] != 1 and (fields[6] or fields[7]):
        raise Malformed("CALL of several with a key or as a stream")
    if kind is Kind.REPLY:
        fields[1] = [tuple(entry) for entry in fields[1]]
        if sum(count for _, _, count, _ in fields[1]) != fields[2]:
            raise Malformed("REPLY whose ranges are not its count")
    if kind is Kind.LEASE and fields[8] is not None:
        fields[8] = Terms(*fields[8][:3])
    if kind is Kind.ASK and fields[1] > fields[0]:
        raise Malformed("ASK of a number below its own base")


def _last_field(kind: Kind, frames: Sequence[Buffer]) -> Any:
    if len(frames) != 2:
        raise Malformed(f"{kind.name} in {len(frames)} frames")
    if len(frames[1]) > _LARGE[kind]:
        raise Malformed(f"{kind.name} of {len(frames[1])} bytes")
    return unpack_checked(frames[1])


def _batch(kind: Kind, fields: list[Any], rest: memoryview, frames: Sequence[Buffer]) -> Parcel:
    count = fields[_BATCHES[kind]]
    if len(frames) > 1 and len(rest):
        raise Malformed(f"{kind.name} with a batch both inside and behind its first frame")
    parcel = Parcel.from_joined(count, rest) if len(frames) == 1 else Parcel.from_frames(count, frames[1:])
    parcel.check(offered=kind in _OFFERED)
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
