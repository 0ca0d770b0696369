"""ZMK1 as bytes: `encode` and `decode`, which are inverse.

    frame 0    "Z1" · kind u8 · header length u16 LE · header (one msgpack array, <= 8 KiB) · rest
    rest       a batch of up to 4 KiB (sizes, body), or a list of fixed-size entries (READY, DONE, ANSWER)
    frames 1…  a larger batch, or one with columns: sizes · body · columns

Header fields a reader does not know stand at the end and are ignored, so a field can be added without a new version.
What does not decode raises `Malformed`: the peer's fault, never ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from struct import Struct, error as StructError
from typing import Any

import msgpack

from zmqkit import wire
from zmqkit.fields import (
    SECONDS_MAX,
    Check,
    Integer,
    Number,
    Seconds,
    anything,
    blob,
    blob_up_to,
    flag,
    list_of,
    map_of_anything,
    name,
    text,
    text_up_to,
    unmarked,
)  # fmt: skip
from zmqkit.parcel import PARCEL_MESSAGES_MAX, Buffer, Parcel, unpack_checked
from zmqkit.wire import ENTRIES_MAX, FRAME_BYTES_MAX, HEADER_BYTES_MAX, NAME_BYTES_MAX, TEXT_CHARS_MAX, BackKind, Command, Kind, Status


class Malformed(Exception):
    """These frames are no ZMK1 command."""


_NAME = name(NAME_BYTES_MAX)  # of a queue, or the marked one of a service or topic
_SERVICE = unmarked(NAME_BYTES_MAX - 1)
_U32 = Integer(0, 2**32 - 1)
_U64 = Integer(0, 2**64 - 1)
_SEQ = Integer(1, 2**63)
_COUNT = Integer(1, PARCEL_MESSAGES_MAX)
_OFFSET = Integer(0, PARCEL_MESSAGES_MAX - 1)
_KEY = text_up_to(NAME_BYTES_MAX)
_TOPIC = unmarked(NAME_BYTES_MAX - 1)
_PREFIXES = list_of(text_up_to(NAME_BYTES_MAX), wire.PREFIXES_MAX)
_EPOCH = Integer(0, 2**24 - 1)
_DURATION = Seconds()
_COUNT_OF, _VERDICT_OF = itemgetter(2), itemgetter(3)  # in a range of a REPLY, of an ANSWER
PREFIXES_CHARS_MAX = 1500  # of a SUB: up to four bytes each, they fit a header


def _window(value: Any) -> bool:
    return type(value) is list and len(value) >= 3 and _NAME(value[0]) and _U32(value[1]) and _DURATION(value[2])


def _limits(value: Any) -> bool:
    """Limits that a client counts with are numbers; those it does not know may be anything."""
    known = ("message_bytes", "window_batches", "window_bytes", "tokens")
    return type(value) is dict and all(_U32(value[name]) and value[name] for name in known if name in value)


def _terms(value: Any) -> bool:
    if value is None or type(value) is not list or len(value) < 3:
        return value is None
    return _DURATION(value[0]) and _KEY(value[1]) and _U32(value[2]) and (len(value) == 3 or _KEY(value[3]))


def _ranges(value: Any) -> bool:
    if type(value) is not list or len(value) > wire.REPLY_RANGES_MAX:
        return False
    most = PARCEL_MESSAGES_MAX
    for one in value:  # an answer is most often one range: asked here, it costs no further call
        if type(one) is not list or len(one) != 4 or {*map(type, one)} != {int}:
            return False
        number, offset, count, status = one
        if not (0 <= number < 2**64 and 0 <= offset < most and 1 <= count <= most and 0 <= status <= STATUS_MAX):
            return False
    return True


Fields = list[Any]

_HEAD = Struct("<2sBH")
HEAD_BYTES = _HEAD.size
VERDICT_MAX, STATUS_MAX = int(max(wire.Verdict)), int(max(Status))
_make: Callable[[type, Fields], Any] = tuple.__new__
# A reason may hold what an exception said, and that a file name that is no UTF-8: half a letter must not end a link.
_pack = msgpack.Packer(use_bin_type=True, unicode_errors="replace").pack


class Shape:
    """How the commands of one kind are read and written. This one: a header and nothing behind it."""

    def __init__(self, command: type, *checks: Check, refine: Callable[[Fields], None] | None = None) -> None:
        self.kind, self.command = Kind[command.__name__.upper()], command
        self.number = int(self.kind)
        self.checks = checks  # what the header must hold, in order
        self._bounds: list[tuple[Check, Any, float, float]] = [
            (check, check.kind, check.low, check.high) if isinstance(check, Number) else (check, None, 0, 0) for check in checks
        ]
        self.refine = refine  # what one field says about another, and lists that become tuples

    def header(self, fields: Fields) -> bytes:
        header = _pack(fields)
        if len(header) > HEADER_BYTES_MAX:
            raise ValueError(f"a header of {len(header)} bytes in {self.kind.name}")
        return _HEAD.pack(wire.MAGIC, self.number, len(header)) + header  # type: ignore[no-any-return]

    def write(self, command: Any) -> list[Buffer]:
        return [self.header(list(command))]

    def read(self, fields: Fields, rest: memoryview, frames: Sequence[Buffer]) -> None:
        """Check the header, and add what stands behind it."""
        self.check(fields)
        if len(rest) or len(frames) != 1:
            raise Malformed(f"{self.kind.name} with {len(rest)} bytes behind its header, in {len(frames)} frames")

    def check(self, fields: Fields) -> None:
        """Every field that this version knows is there and right; those behind them are of a later one, and go."""
        checks = self.checks
        if len(fields) != len(checks):
            if len(fields) < len(checks):
                raise Malformed(f"{self.kind.name} with fields missing")
            del fields[len(checks) :]
        for (check, kind, low, high), value in zip(self._bounds, fields):  # noqa: B905 — their lengths are equal
            # Most fields are numbers; this asks without a call.
            if not (type(value) is kind and low <= value <= high) and not check(value):
                raise Malformed(f"{self.kind.name} with a wrong field: a {type(value).__name__}")


class Batch(Shape):
    """Behind the header: a batch. `count` is the field that says of how many."""

    def __init__(self, command: type, *checks: Check, count: int, offered: bool = False, **more: Any) -> None:
        super().__init__(command, *checks, **more)
        self.count, self.offered = count, offered

    def write(self, command: Any) -> list[Buffer]:
        *fields, parcel = command
        frame = self.header(fields)
        if parcel.columns is None and len(parcel.sizes) + len(parcel.body) <= wire.INLINE_BYTES_MAX:
            return [b"".join((frame, parcel.sizes, parcel.body))]
        return [frame, *parcel.frames()]

    def read(self, fields: Fields, rest: memoryview, frames: Sequence[Buffer]) -> None:
        self.check(fields)
        if len(frames) == 1:
            parcel = Parcel.from_joined(fields[self.count], rest)
        elif len(rest):
            raise Malformed(f"{self.kind.name} with a batch both inside and behind its first frame")
        else:
            parcel = Parcel.from_frames(fields[self.count], frames[1:])
        parcel.check(self.offered)
        fields.append(parcel)


class Entries(Shape):
    """Behind the header: a row of entries of a fixed size."""

    def __init__(self, command: type, *checks: Check, entry: str, **more: Any) -> None:
        super().__init__(command, *checks, **more)
        self.entry = Struct(entry)

    def write(self, command: Any) -> list[Buffer]:
        *fields, entries = command
        return [b"".join([self.header(fields), *[self.entry.pack(*values) for values in entries]])]

    def read(self, fields: Fields, rest: memoryview, frames: Sequence[Buffer]) -> None:
        if len(rest) > ENTRIES_MAX * self.entry.size or len(frames) != 1:
            raise Malformed(f"{self.kind.name} with more than {ENTRIES_MAX} entries, or in {len(frames)} frames")
        self.check(fields)
        fields.append(list(self.entry.iter_unpack(rest)))


class Large(Shape):
    """Behind the header: one field that may be larger than a header, in a frame of its own, of at most `most` bytes."""

    def __init__(self, command: type, *checks: Check, most: int, **more: Any) -> None:
        super().__init__(command, *checks, **more)
        self.most = most

    def write(self, command: Any) -> list[Buffer]:
        *fields, last = command
        packed = _pack(last)
        if len(packed) > self.most:
            raise ValueError(f"{self.kind.name} of {len(packed):,} bytes, the limit is {self.most:,}")
        return [self.header(fields), packed]

    def read(self, fields: Fields, rest: memoryview, frames: Sequence[Buffer]) -> None:
        if len(rest) or len(frames) != 2 or len(frames[1]) > self.most:
            raise Malformed(f"{self.kind.name} in {len(frames)} frames, or larger than {self.most:,} bytes")
        fields[len(self.checks) - 1 :] = [unpack_checked(frames[1])]
        self.check(fields)


def _put(fields: Fields) -> None:
    if fields[0].startswith(wire.SERVICE_MARK):
        raise Malformed("PUT to a service")
    if fields[3] > fields[1]:
        raise Malformed("PUT of numbers below its own base")


def _ready(fields: Fields) -> None:
    fields[2] = [wire.Window(*window[:3]) for window in fields[2]]
    fields[4] = [wire.Held(*held) for held in fields[4]]
    if not all(0.0 <= held.seconds <= SECONDS_MAX for held in fields[4]):
        raise Malformed("READY that asks for a lease of no length there is")


def _lease(fields: Fields) -> None:
    if fields[8] is not None:
        fields[8] = wire.Terms(*fields[8][:4])


def _answer(fields: Fields) -> None:
    if max(map(_VERDICT_OF, fields[0]), default=0) > VERDICT_MAX:
        raise Malformed("ANSWER with an unknown verdict")


def _ask(fields: Fields) -> None:
    if fields[1] > fields[0]:
        raise Malformed("ASK of a number below its own base")


def _call(fields: Fields) -> None:
    if fields[2] != 1 and (fields[6] or fields[7]):
        raise Malformed("CALL of several with a key or as a stream")


def _reply(fields: Fields) -> None:
    ranges = fields[1] = list(map(tuple, fields[1]))
    if sum(map(_COUNT_OF, ranges)) != fields[2]:
        raise Malformed("REPLY whose ranges are not its count")


def _sub(fields: Fields) -> None:
    if sum(map(len, fields[2])) + sum(map(len, fields[3])) > PREFIXES_CHARS_MAX:
        raise Malformed("SUB with prefixes that do not fit a header")


def _live(fields: Fields) -> None:
    _, _, _, span, mask, count, _ = fields
    if (int.from_bytes(mask, "little").bit_count() if mask else span) != count or len(mask) > (span + 7) // 8:
        raise Malformed("LIVE whose mask is not its count")


_SHAPES: tuple[Shape, ...] = (
    Shape(wire.Hello, list_of(_U32, wire.VERSIONS_MAX), blob(16), _U32, blob(0, 16), _EPOCH),
    Shape(wire.Welcome, _U32, blob(16), _EPOCH, _DURATION, _DURATION, _limits),
    Shape(wire.NoSession),
    Batch(wire.Put, _NAME, _SEQ, _COUNT, _SEQ, count=2, offered=True, refine=_put),
    Shape(wire.Confirm, _NAME, _SEQ, _SEQ, _SEQ, text(20)),
    Shape(wire.Refused, _U32, text(NAME_BYTES_MAX), _U64, _U64, _U32, _DURATION, text(TEXT_CHARS_MAX)),
    Entries(wire.Ready, _U32, _U64, list_of(_window, HEADER_BYTES_MAX), _U64, entry="<QIf", refine=_ready),
    Shape(wire.Echo, _U32, flag, list_of(_U64, ENTRIES_MAX)),
    Batch(wire.Lease, _NAME, _U64, _SEQ, _COUNT, _U32, _DURATION, _DURATION, _U32, _terms, count=3, refine=_lease),
    Entries(wire.Done, flag, entry="<QII"),
    Entries(wire.Answer, entry="<QIIB", refine=_answer),
    Shape(wire.Back, _U64, _U32, _COUNT, Integer(0, max(BackKind)), Seconds(-1.0), text(TEXT_CHARS_MAX)),
    Large(wire.Save, _U64, _U32, blob_up_to(wire.BLOB_BYTES_MAX), most=wire.BLOB_BYTES_MAX + 5),
    Large(wire.Ask, _SEQ, _SEQ, text(40), map_of_anything, most=wire.ARGUMENTS_BYTES_MAX, refine=_ask),
    Large(wire.Told, _SEQ, anything, most=FRAME_BYTES_MAX),
    Shape(wire.Bye),
    Batch(wire.Call, _SERVICE, _SEQ, _COUNT, _DURATION, Integer(1, wire.ATTEMPTS_MAX), _EPOCH, _KEY, _U32, _U64,
          count=2, offered=True, refine=_call),
    Shape(wire.Cancel, _U64, _OFFSET, _COUNT),
    Batch(wire.Part, _U64, _OFFSET, _SEQ, _COUNT, count=3),
    Batch(wire.Reply, _U64, _ranges, _COUNT, count=2, refine=_reply),
    Shape(wire.More, _U64, _OFFSET, _U32, _U32),
    Shape(wire.Sub, _U32, _TOPIC, _PREFIXES, _PREFIXES, Integer(0, max(wire.Start)), _EPOCH, _U64, _DURATION, _KEY, _U32, refine=_sub),
    Shape(wire.Unsub, _U32),
    Shape(wire.Seen, _U32, _U64),
    Shape(wire.Pos, _U32, _EPOCH, _U64),
    Shape(wire.Reset, _U32, _EPOCH, _U64, _U64, _U64, Integer(0, max(wire.Scope))),
    Batch(wire.Chunk, _U32, _U64, Integer(1, 1), count=2),
    Batch(wire.Live, _U32, _U64, _SEQ, _COUNT, blob_up_to(PARCEL_MESSAGES_MAX // 8), _COUNT, count=5, refine=_live),
    Shape(wire.At, _U32, _EPOCH, _U64),
)  # fmt: skip
_BY_COMMAND = {shape.command: shape for shape in _SHAPES}
_BY_NUMBER = {shape.number: shape for shape in _SHAPES}


def encode(command: Command) -> list[Buffer]:
    """The frames of one command. A `Slice` must have become a Parcel before. Raises ValueError for what is over a limit."""
    return _BY_COMMAND[type(command)].write(command)


def packed_bytes(value: Any) -> int:
    """How much this value takes inside a frame."""
    return len(_pack(value))


def decode(frames: Sequence[Buffer]) -> Command:
    """The command in these frames, every field checked. Raises Malformed."""
    try:
        frame = memoryview(frames[0])
        magic, number, length = _HEAD.unpack_from(frame)
        shape = _BY_NUMBER.get(number)
        if magic != wire.MAGIC or shape is None:
            raise Malformed(f"not a ZMK1 frame: {bytes(frame[:8])!r}")
        end = HEAD_BYTES + length
        if length > HEADER_BYTES_MAX or len(frame) < end:
            raise Malformed(f"{shape.kind.name} with a header of {length} bytes")
        fields = unpack_checked(frame[HEAD_BYTES:end])
        if type(fields) is not list:
            raise Malformed(f"{shape.kind.name} with a header that is no array")
        shape.read(fields, frame[end:], frames)
        if shape.refine is not None:
            shape.refine(fields)
        return _make(shape.command, fields)  # type: ignore[no-any-return]  # as shape.command(*fields), without a call in Python
    except Malformed:
        raise
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError, StructError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None
