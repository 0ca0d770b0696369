"""Records: what a node wrote is what it reads, and bytes that are no record raise ValueError, nothing else."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings, strategies as st
from wire_values import RECORDS, TITLED, TOKEN, as_bytes, lists, stored

from zmqkit import records
from zmqkit.parcel import Parcel


def payload(record: records.Record) -> tuple[int, bytes]:
    kind, chunks, _ = records.encode(record)
    return kind, b"".join(as_bytes(chunks))


@settings(max_examples=400, deadline=None)
@given(stored)
def test_every_record_comes_back_as_it_was(record: records.Record) -> None:
    kind, data = payload(record)
    again = records.decode(kind, data)
    assert type(again) is type(record) and lists(again) == lists(record)
    assert payload(again) == (kind, data)  # type: ignore[arg-type]
    assert lists(records.decode(kind, memoryview(data))) == lists(record)


def test_only_puts_copies_and_pieces_hold_a_body_and_it_can_be_had_alone() -> None:
    for title, record in RECORDS.items():
        _, chunks, body = records.encode(record)
        assert body == title.startswith(("put", "copy", "values"))
        if body:
            assert records.parcel_of(b"".join(as_bytes(chunks))) == record[-1]


def test_a_kind_of_a_later_version_is_passed_over() -> None:
    assert records.decode(10, b"whatever") is None and records.decode(199, b"") is None


BAD: dict[str, tuple[int, bytes]] = {
    "nothing": (3, b""),
    "no array": (3, b"\x05"),
    "fields missing": (3, msgpack.packb([1, TOKEN])),
    "fields too many": (3, msgpack.packb([1, TOKEN, b"x" * 16, 1, 1, 1])),
    "a text for a number": (3, msgpack.packb(["1", TOKEN, b"x" * 16, 1, 1])),
    "a float for a number": (3, msgpack.packb([1, TOKEN, b"x" * 16, 1.0, 1])),
    "a bool for a number": (3, msgpack.packb([True, TOKEN, b"x" * 16, 1, 1])),
    "a negative number": (3, msgpack.packb([1, TOKEN, b"x" * 16, -1, 1])),
    "no ranges": (4, msgpack.packb([1, TOKEN, 7])),
    "a range of three": (4, msgpack.packb([1, TOKEN, [[1, 2, 3]]])),
    "a range of none": (4, msgpack.packb([1, TOKEN, [[1, 0]]])),
    "a range of floats": (8, msgpack.packb([1, [[1.0, 1]]])),
    "a map key that no map can have": (23, b"\x96\x01\x81\x90\x01\x80\x80\x80\x80"),
    "an extension type": (4, b"\x93\x01\x02\xd4\x05\x00"),
    "a text that is not UTF-8": (1, b"\x95\x01\xa2\xff\xfe\x80\xc2\xc2"),
    "arrays without end": (4, b"\x91" * 5000),
    "a body without a header": (2, b"\xff"),
    "a header of 4 GiB": (2, b"\xff\xff\xff\xff\x90"),
    "a header that is a number": (2, b"\x01\0\0\0\x05"),
    "a body of 4 GiB": (2, b"\x0d\0\0\0" + msgpack.packb([1, b"", 1, 1, 1, 1, 1.5, 2**32])),
    "a body of less than nothing": (2, b"\x0a\0\0\0" + msgpack.packb([1, 1, 1, 1, 1, 1, 1, -1])),
    "4 thousand million messages": (2, b"\x0e\0\0\0" + msgpack.packb([1, b"", 1, 2**32 - 1, 1, 1, 1, 1])),
    "a copy where a put belongs": (2, payload(records.Copy(1, 1, 1, 2, TITLED))[1]),
    "a put where a copy belongs": (11, payload(records.Put(1, b"x" * 16, 1, 2, 1, 1, 0.5, TITLED))[1]),
}


@pytest.mark.parametrize("title", BAD)
def test_bytes_that_are_no_record_are_a_value_error(title: str) -> None:
    kind, data = BAD[title]
    with pytest.raises(ValueError):
        records.decode(kind, data)


@pytest.mark.parametrize("title", RECORDS)
def test_a_record_cut_short_is_a_value_error(title: str) -> None:
    kind, data = payload(RECORDS[title])
    end = len(data)
    if title == "put, with headers":
        end -= len(TITLED.columns or b"")  # whether the columns are whole is known when they are unpacked
    for length in range(end):
        with pytest.raises(ValueError):
            records.decode(kind, data[:length])


def mutated(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place : place + rng.randint(1, 8)]
            case 2:
                data[place:place] = rng.randbytes(rng.randint(1, 8))
            case _:
                data[place : place + 1] = rng.choice([b"\xff", b"\0", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x81", b"\xcb" + b"\xff" * 8])
    return bytes(data)


def test_mutated_records_are_records_or_value_errors() -> None:
    rng = random.Random(20)
    originals = [payload(record) for record in RECORDS.values()]
    wrong = 0
    for _ in range(20_000):
        kind, data = rng.choice(originals)
        try:
            again: Any = records.decode(kind, mutated(rng, bytearray(data)))
        except ValueError:
            wrong += 1
            continue
        assert type(again) is records._TYPES[kind]
    assert wrong > 5_000, "the mutations hardly do any harm: the test proves nothing"


@given(st.integers(0, 2**200))
def test_a_mask_is_its_ranges(mask: int) -> None:
    ranges = records.ranges_of(mask)
    assert records.mask_of(ranges) == mask
    assert all(a + n < b for (a, n), (b, _) in zip(ranges, ranges[1:], strict=False)), "neighbours are one range"  # noqa: RUF007
    assert records.ranges_of(mask, 1000) == [(first + 1000, count) for first, count in ranges]


def test_a_put_shares_its_bytes_with_what_was_read() -> None:
    kind, data = payload(records.Put(1, b"x" * 16, 1, 1, 1, 1, 0.5, Parcel.of([b"a" * 1000])))
    record = records.decode(kind, data)
    assert isinstance(record, records.Put) and isinstance(record.parcel.body, memoryview)
