"""Parcel: many messages that travel and are stored as one.

    sizes    u32 little endian per message
    body     the encoded messages, one behind the other
    columns  only when used: one msgpack map, name -> list with one value (or nil) per message

A node counts and splits parcels by arithmetic on `sizes`; it never decodes a message. What all messages share stands in
the header of the command that carries the parcel, so the plain path pays nothing for headers it does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from struct import Struct, pack, unpack, unpack_from
from typing import Any

import msgpack

Buffer = bytes | memoryview

PARCEL_MESSAGES_MAX = 4096
PARCEL_BYTES_MAX = 1024 * 1024  # of body; one message may fill it
FULL_BYTES = 64 * 1024  # a batch of this size gains nothing from growing
MESSAGE_HEADERS_BYTES_MAX = 128 * 1024  # of one message: with those of a batch that it ends, they stay below the next limit
HEADERS_BYTES_MAX = 256 * 1024  # of columns, from a producer; a node has to unpack them, at up to 1 µs a byte if they are meant to hurt
COLUMNS_BYTES_MAX = 1024 * 1024  # of columns in all: what the producer gave, and what the node adds for the consumer
ITEMS_MAX = PARCEL_MESSAGES_MAX  # in one msgpack array or map: an array's announced length is memory taken before it is filled

# Name -> the type of a message's value, if it has one. The producer gives the first, the queue adds the others.
COLUMNS: dict[str, type] = {"headers": dict, "error": str, "saved": bytes}

_U32 = Struct("<I")


class Parcel:
    """`count` messages in one body. Immutable; `split` and `frames` copy no message."""

    __slots__ = ("body", "columns", "count", "sizes")

    def __init__(self, count: int, sizes: Buffer, body: Buffer, columns: Buffer | None = None) -> None:
        self.count = count
        self.sizes = sizes
        self.body = body
        self.columns = columns

    @classmethod
    def of(cls, messages: Sequence[bytes], columns: Mapping[str, Sequence[Any]] | None = None) -> Parcel:
        """A parcel of already encoded messages."""
        count = len(messages)
        sizes = pack(f"<{count}I", *map(len, messages))
        return cls(count, sizes, b"".join(messages), msgpack.packb(dict(columns)) if columns else None)

    @classmethod
    def merge(cls, parcels: Sequence[Parcel]) -> Parcel:
        """One parcel of all, in order. None of them may have columns."""
        if len(parcels) == 1:  # bytes of its own: a slice would keep the batch that it is a part of
            return cls(parcels[0].count, bytes(parcels[0].sizes), bytes(parcels[0].body))
        assert all(parcel.columns is None for parcel in parcels)
        count = sum(parcel.count for parcel in parcels)
        return cls(count, b"".join([p.sizes for p in parcels]), b"".join([p.body for p in parcels]))

    def check(self, offered: bool = False) -> None:
        """Raises ValueError unless sizes, body and columns fit each other and the limits. `offered`: by a producer."""
        if not 1 <= self.count <= PARCEL_MESSAGES_MAX or len(self.sizes) != 4 * self.count:
            raise ValueError(f"a batch of {self.count} messages with {len(self.sizes)} bytes of sizes")
        if len(self.body) > PARCEL_BYTES_MAX:
            raise ValueError(f"a batch of {len(self.body)} bytes")
        if sum(unpack(f"<{self.count}I", self.sizes)) != len(self.body):
            raise ValueError("sizes do not add up to the body")
        if self.columns is not None:
            self._check_columns(self.columns, offered)

    def _check_columns(self, columns: Buffer, offered: bool) -> None:
        if len(columns) > (HEADERS_BYTES_MAX if offered else COLUMNS_BYTES_MAX):
            raise ValueError(f"columns of {len(columns)} bytes")
        for name, values in self.unpack_columns().items():
            kind = COLUMNS.get(name)
            if kind is None or (offered and name != "headers"):
                raise ValueError(f"a column {name[:20]!r} from {'a producer' if offered else 'a node'}")
            if type(values) is not list or len(values) != self.count:
                raise ValueError(f"the {name} do not fit {self.count} messages")
            if not all(value is None or type(value) is kind for value in values):
                raise ValueError(f"{name} of a wrong type")

    def unpack_columns(self) -> dict[str, list[Any]]:
        if self.columns is None:
            return {}
        columns = unpack_checked(self.columns)
        if not isinstance(columns, dict):
            raise ValueError("columns are not a map")
        return columns

    def split(self, offset: int, count: int) -> Parcel:
        """Messages offset..offset+count as a parcel of their own."""
        assert offset >= 0 and 1 <= count <= self.count - offset, "the messages to split off are in the parcel"
        if offset == 0 and count == self.count:
            return self
        sizes = memoryview(self.sizes)[4 * offset : 4 * (offset + count)]
        start = sum(unpack_from(f"<{offset}I", self.sizes))
        body = memoryview(self.body)[start : start + sum(unpack(f"<{count}I", sizes))]
        columns = None
        if self.columns is not None:
            parts = {name: values[offset : offset + count] for name, values in self.unpack_columns().items()}
            parts = {name: values for name, values in parts.items() if any(value is not None for value in values)}
            columns = msgpack.packb(parts) if parts else None
        return Parcel(count, sizes, body, columns)

    def with_columns(self, extra: Mapping[str, Sequence[Any]]) -> Parcel:
        return Parcel(self.count, self.sizes, self.body, msgpack.packb({**self.unpack_columns(), **extra}))

    def messages(self) -> list[memoryview]:
        """Each message's bytes. For the edges only: a machine never looks inside."""
        body, start, found = memoryview(self.body), 0, []
        for size in unpack(f"<{self.count}I", self.sizes):
            found.append(body[start : start + size])
            start += size
        return found

    def frames(self) -> list[Buffer]:
        """Two or three frames; `from_frames` is the inverse."""
        return [self.sizes, self.body] if self.columns is None else [self.sizes, self.body, self.columns]

    @classmethod
    def from_frames(cls, count: int, frames: Sequence[Buffer]) -> Parcel:
        """Raises ValueError for a wrong number of frames; `check` tells the rest."""
        if not 2 <= len(frames) <= 3:
            raise ValueError(f"a batch in {len(frames)} frames")
        return cls(count, frames[0], frames[1], frames[2] if len(frames) == 3 else None)

    @classmethod
    def from_joined(cls, count: int, joined: memoryview) -> Parcel:
        """Sizes and body stand in one buffer."""
        return cls(count, joined[: 4 * count], joined[4 * count :])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parcel) and [bytes(f) for f in self.frames()] == [bytes(f) for f in other.frames()]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Parcel({self.count} messages, {len(self.body)} B{', columns' if self.columns else ''})"


def refuse_ext(code: int, data: bytes) -> Any:
    """msgpack's hook for extension types: none is ours, so none is accepted."""
    raise ValueError(f"msgpack extension type {code}")


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a map with the same key twice")
    if found and set(map(type, found)) != {str}:
        raise ValueError("a map whose keys are not all texts")
    return found


# What a peer packed: no extension types, map keys are texts and each stands once, no array over ITEMS_MAX.
# Raises what msgpack raises: ValueError, or its UnpackException.
unpack_checked: Callable[[Buffer], Any] = partial(
    msgpack.unpackb, object_pairs_hook=_map, ext_hook=refuse_ext, max_ext_len=0, max_array_len=ITEMS_MAX, max_map_len=ITEMS_MAX
)
