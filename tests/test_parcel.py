"""Parcels: splitting and joining lose nothing, and a table that does not fit its body is refused."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, strategies as st
from wire_values import bodies, parcels

from zmqkit.parcel import COLUMNS_BYTES_MAX, HEADERS_BYTES_MAX, PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX, Parcel

every_column = parcels(("headers", "error", "saved"))


def contents(parcel: Parcel) -> list[tuple[Any, ...]]:
    """Each message with what stands beside it."""
    columns = parcel.unpack_columns()
    names = ("headers", "error", "saved")
    return [(bytes(body), *(columns[n][i] if n in columns else None for n in names)) for i, body in enumerate(parcel.messages())]


@given(bodies)
def test_messages_come_out_as_they_went_in(messages: list[bytes]) -> None:
    parcel = Parcel.of(messages)
    parcel.check()
    assert [bytes(message) for message in parcel.messages()] == messages and parcel.count == len(messages)


@given(every_column, st.data())
def test_a_part_holds_the_same_messages_with_the_same_columns(parcel: Parcel, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, parcel.count - 1))
    count = data.draw(st.integers(1, parcel.count - offset))
    part = parcel.split(offset, count)
    part.check()
    assert contents(part) == contents(parcel)[offset : offset + count]


@given(every_column, st.data())
def test_a_part_of_a_part_is_a_part(parcel: Parcel, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, parcel.count - 1))
    count = data.draw(st.integers(1, parcel.count - offset))
    inner = data.draw(st.integers(0, count - 1))
    assert parcel.split(offset, count).split(inner, count - inner) == parcel.split(offset + inner, count - inner)


@given(st.lists(bodies.map(Parcel.of), min_size=1, max_size=5))
def test_what_is_joined_can_be_split_into_the_same_parcels(parts: list[Parcel]) -> None:
    whole, offset = Parcel.merge(parts), 0
    whole.check()
    for part in parts:
        assert whole.split(offset, part.count) == part
        offset += part.count
    assert offset == whole.count


@given(bodies.map(Parcel.of), st.data())
def test_what_is_split_can_be_joined_into_the_same_parcel(whole: Parcel, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, whole.count - 1)))) if whole.count > 1 else []
    edges = [0, *cuts, whole.count]
    parts = [whole.split(a, b - a) for a, b in zip(edges, edges[1:], strict=False)]  # noqa: RUF007
    assert Parcel.merge(parts) == whole


@given(every_column)
def test_frames_are_the_whole_of_it(parcel: Parcel) -> None:
    assert Parcel.from_frames(parcel.count, parcel.frames()) == parcel
    if parcel.columns is None:
        joined = memoryview(bytes(parcel.sizes) + bytes(parcel.body))
        assert Parcel.from_joined(parcel.count, joined) == parcel


@given(every_column, st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=1))
def test_a_column_is_added_without_touching_the_others(parcel: Parcel, error: list[str | None]) -> None:
    more = parcel.with_columns({"error": error * parcel.count})
    more.check()
    assert [c[:2] + c[3:] for c in contents(more)] == [c[:2] + c[3:] for c in contents(parcel)]
    assert [c[2] for c in contents(more)] == error * parcel.count


def test_splitting_copies_no_message() -> None:
    body = b"a" * 100_000
    part = Parcel.of([body, body]).split(1, 1)
    assert isinstance(part.body, memoryview) and len(part.body) == 100_000


@given(bodies, st.data())
def test_every_table_that_does_not_fit_is_refused(messages: list[bytes], data: st.DataObject) -> None:
    good = Parcel.of(messages)
    sizes = list(map(len, messages))
    index = data.draw(st.integers(0, len(sizes) - 1))
    other = data.draw(st.integers(0, 2**32 - 1).filter(lambda size: size != sizes[index]))
    wrong = struct.pack(f"<{len(sizes)}I", *sizes[:index], other, *sizes[index + 1 :])
    count = data.draw(st.integers(-1, 2 * PARCEL_MESSAGES_MAX).filter(lambda number: number != good.count))
    for bad in (
        Parcel(good.count, wrong, good.body), Parcel(count, good.sizes, good.body), Parcel(good.count, good.sizes, bytes(good.body) + b"x"),
        Parcel(good.count, bytes(good.sizes)[:-1], good.body), Parcel(good.count, bytes(good.sizes) + b"\0", good.body),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            bad.check()


def columns(**values: Any) -> Parcel:
    return Parcel.of([b"a", b"b"]).with_columns(values)


@pytest.mark.parametrize(
    "bad",
    [
        columns(key=["a", "b"]), columns(headers=[None]), columns(headers=[None] * 3), columns(headers="ab"), columns(headers=[1, 2]),
        columns(error=[b"x", None]), columns(saved=["x", None]), Parcel(1, b"\1\0\0\0", b"a", b"\x90"),
        Parcel(1, b"\1\0\0\0", b"a", b"\xc1"),
        Parcel(1, b"\1\0\0\0", b"a", b""), Parcel(1, b"\1\0\0\0", b"a", msgpack.packb({"headers": [{1: 2}]})),
        Parcel.of([b"x" * (PARCEL_BYTES_MAX + 1)]), Parcel.of([b""] * (PARCEL_MESSAGES_MAX + 1)), Parcel.of([]),
        columns(saved=[b"x" * COLUMNS_BYTES_MAX, None]),
    ],
    ids=range(15),
)  # fmt: skip
def test_columns_that_do_not_fit_and_batches_over_the_limits_are_refused(bad: Parcel) -> None:
    with pytest.raises((ValueError, msgpack.UnpackException)):
        bad.check()


def test_a_producer_gives_headers_only_and_not_too_many() -> None:
    columns(headers=[{"a": 1}, None], error=["x", None], saved=[None, b"x"]).check()
    columns(headers=[{"a": 1}, None]).check(offered=True)
    large = columns(headers=[{"a": "x" * HEADERS_BYTES_MAX}, None])
    large.check()
    for bad in (large, columns(error=["x", None]), columns(saved=[None, b"x"])):
        with pytest.raises(ValueError):
            bad.check(offered=True)


def test_the_limits_themselves_are_allowed() -> None:
    Parcel.of([b"x" * PARCEL_BYTES_MAX]).check()
    Parcel.of([b""] * PARCEL_MESSAGES_MAX).check()
