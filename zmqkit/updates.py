"""Updates: a parcel of a topic's keyed updates.

Each message is a msgpack text, the key, and behind it

    bin              the encoded value
    nil              the key is deleted
    [bin, seconds]   the value, and how long it holds
    [bin, seconds or nil, bin]
                     the same with a note: what a gateway has to remember of the value, and nobody else looks into

So a node learns the keys of a whole batch in one call, and never decodes a value. Messages stand one behind the other, so
batches are joined by joining their bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from operator import add
from struct import Struct
from typing import Any

import msgpack

from zmqkit.fields import SECONDS_MAX
from zmqkit.parcel import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX, Buffer, Parcel, refuse_ext
from zmqkit.wire import NAME_BYTES_MAX

KEY_CHARS_MAX = 255
UPDATES_BYTES_MAX = PARCEL_BYTES_MAX - 64  # so that one may come in a snapshot, where its ttl takes more
NOTE_BYTES_MAX = 8 * 1024
PIECE_KEYS, PIECE_BYTES = 1000, 256 * 1024  # of a state that is told in pieces
ALL = ("",)  # the prefixes of every key
Held = bytes | None | list[Any]  # a value as it stands in a batch
Kept = tuple[bytes, float] | tuple[bytes, float, bytes]  # one with an end or a note as a state keeps it: with the moment of its end, or inf
Value = bytes | Kept

_ARRAY = Struct(">BI")  # msgpack's header of an array with up to 2^32 items
_PLAIN, _KINDS = {bytes}, {bytes, type(None), list}
_pack = msgpack.Packer(use_bin_type=True).pack


class Updates(Parcel):
    """A parcel whose keys and values are known. `plain`: every value is one, without an end."""

    __slots__ = ("keys", "plain", "values")

    keys: list[str]
    values: list[Held]
    plain: bool

    @classmethod
    def read(cls, parcel: Parcel) -> Updates:
        """Raises ValueError for what are no updates."""
        if isinstance(parcel, Updates):
            return parcel
        if parcel.columns is not None:
            raise ValueError("updates have no headers")
        if len(parcel.body) > UPDATES_BYTES_MAX:
            raise ValueError(f"updates of {len(parcel.body):,} bytes, the limit is {UPDATES_BYTES_MAX:,}")
        updates = cls(parcel.count, parcel.sizes, parcel.body)
        updates.keys, updates.values, updates.plain = _checked(_unpack(b"".join((_ARRAY.pack(0xDD, 2 * parcel.count), parcel.body))))
        if len(updates.keys) != parcel.count:
            raise ValueError(f"{len(updates.keys)} updates instead of {parcel.count}")
        return updates

    @classmethod
    def make(cls, keys: list[str], values: list[Held]) -> Updates:
        """Of pairs that were read before."""
        messages = [_pack(key) + _pack(value) for key, value in zip(keys, values, strict=True)]
        parcel = Parcel.of(messages)
        updates = cls(parcel.count, parcel.sizes, parcel.body)
        updates.keys, updates.values = keys, values
        updates.plain = set(map(type, values)) == _PLAIN
        return updates

    def matching(self, prefixes: tuple[str, ...], skip: int = 0) -> tuple[bytes, Parcel | None]:
        """Those under these prefixes, but for the first `skip`: a mask (b"": all of them), and their parcel (None: there are none)."""
        if prefixes == ALL and not skip:
            return b"", self
        chosen = [index for index, key in enumerate(self.keys) if key.startswith(prefixes) and index >= skip]
        if len(chosen) == self.count:
            return b"", self
        if not chosen:
            return b"", None
        mask = bytearray((self.count + 7) // 8)
        for index in chosen:
            mask[index >> 3] |= 1 << (index & 7)
        keys, values = self.keys, self.values
        return bytes(mask), Updates.make([keys[index] for index in chosen], [values[index] for index in chosen])


def message(key: str, value: bytes | None, ttl: float | None = None, note: bytes = b"") -> bytes:
    """One update, encoded. `value` None: the key is deleted."""
    held = [value, ttl, note] if note else value if ttl is None else [value, ttl]
    return _pack(key) + _pack(held)  # type: ignore[no-any-return]


def plain_value(value: bytes) -> bytes:
    """A value that is nothing but bytes, encoded."""
    return _pack(value)  # type: ignore[no-any-return]


def kept(held: list[Any], at: float) -> Kept:
    """What a state keeps of a value with an end or a note that came at that time."""
    end = inf if held[1] is None else at + held[1]
    return (held[0], end) if len(held) == 2 else (held[0], end, held[2])


def told(value: Kept, now: float) -> list[Any] | None:
    """The inverse. None: it has ended."""
    left = None if value[1] == inf else value[1] - now
    return [value[0], left, *value[2:]] if left is None or left > 0 else None


def messages(keys: Sequence[str], values: Iterable[Any], pack: Callable[[Any], bytes]) -> list[bytes]:
    """Many updates, encoded, with no ttl (bytes) or with one (value, seconds). Raises ValueError for a key that is none."""
    heads = list(map(pack, keys))
    sizes = set(map(len, heads))
    if set(map(type, keys)) != {str} or min(sizes) < 2 or max(sizes) > NAME_BYTES_MAX + 2:
        raise ValueError(f"a key is a text of 1 to {NAME_BYTES_MAX} bytes")
    return list(map(add, heads, map(pack, values)))


def packed(keys: list[str], values: list[Held]) -> Parcel:
    """A piece of a state: its pairs as one message, one msgpack array. Made in one call, where an update each would take a thousand."""
    pairs: list[Any] = [None] * (2 * len(keys))
    pairs[::2], pairs[1::2] = keys, values
    return Parcel.of([_pack(pairs)])


def pieces(keys: list[str], values: list[Held]) -> list[Parcel]:
    """A part of a state, `packed` into as many parcels as fit frames; for most it is one."""
    if not keys:
        return []
    whole = packed(keys, values)
    if len(whole.body) <= PIECE_BYTES or len(keys) == 1:
        return [whole]
    half = len(keys) // 2
    return pieces(keys[:half], values[:half]) + pieces(keys[half:], values[half:])


def unpacked(parcel: Parcel) -> tuple[list[str], list[Held], bool]:
    """The inverse of `packed`, and whether every value is one without an end. Raises ValueError."""
    return _checked(_unpack(parcel.body))


def _checked(items: list[Any]) -> tuple[list[str], list[Held], bool]:
    keys, values = items[::2], items[1::2]
    if len(keys) != len(values) or set(map(type, keys)) != {str} or 0 in (lengths := set(map(len, keys))) or max(lengths) > KEY_CHARS_MAX:
        raise ValueError(f"a key is a text of 1 to {KEY_CHARS_MAX} letters")
    kinds = set(map(type, values))
    if not kinds <= _KINDS or (list in kinds and not all(_holds(value) for value in values if type(value) is list)):
        raise ValueError("a value that is none")
    return keys, values, kinds == _PLAIN


def _unpack(data: Buffer) -> list[Any]:
    try:
        items = msgpack.unpackb(data, ext_hook=refuse_ext, max_ext_len=0, max_array_len=2 * PARCEL_MESSAGES_MAX, max_map_len=0)
    except Exception as error:  # msgpack raises whatever a hostile byte leads it to
        raise ValueError(f"no updates: {type(error).__name__}: {error}") from None
    if type(items) is not list:
        raise ValueError("no updates: not a list of keys and values")
    return items


def _holds(value: list[Any]) -> bool:
    if len(value) == 3 and (type(value[2]) is not bytes or not 0 < len(value[2]) <= NOTE_BYTES_MAX):
        return False
    if not 2 <= len(value) <= 3 or type(value[0]) is not bytes:
        return False
    seconds = value[1]
    return len(value) == 3 if seconds is None else type(seconds) in (int, float) and 0 < seconds <= SECONDS_MAX
