"""The wire: what is encoded is decoded alike, and what no peer of ours would send is Malformed, soon and in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from time import thread_time
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from wire_values import CLIENT, COMMANDS, PLAIN, TITLED, TOKEN, as_bytes, commands

from zmqkit import framing, wire
from zmqkit.framing import Malformed
from zmqkit.parcel import Parcel
from zmqkit.wire import Kind

SECONDS_MAX, BYTES_MAX = 0.5, 64 * 1024 * 1024


def frame(kind: int, header: Any, rest: bytes = b"", raw: bool = False) -> bytes:
    packed = header if raw else msgpack.packb(header)
    return b"Z1" + bytes([kind]) + len(packed).to_bytes(2, "little") + packed + rest


def refused(*frames: Any) -> str:
    """The frames are Malformed: quickly, and without much memory. Returns what is said about them."""
    tracemalloc.start()
    started = thread_time()
    try:
        with pytest.raises(Malformed) as caught:
            framing.decode(frames)
        assert thread_time() - started < SECONDS_MAX
        assert tracemalloc.get_traced_memory()[1] < BYTES_MAX
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300
    return str(caught.value)


# -- what is ours ------------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(commands)
def test_every_command_comes_back_as_it_was(command: wire.Command) -> None:
    frames = framing.encode(command)
    assert framing.decode(frames) == command
    assert framing.decode([memoryview(bytes(part)) for part in frames]) == command
    assert as_bytes(framing.encode(framing.decode(frames))) == as_bytes(frames)
    assert max(map(len, frames)) <= wire.FRAME_BYTES_MAX


@pytest.mark.parametrize("title", COMMANDS)
def test_fields_of_a_later_version_are_ignored(title: str) -> None:
    first, *others = as_bytes(framing.encode(COMMANDS[title]))
    length = int.from_bytes(first[3:5], "little")
    later = frame(first[2], [*msgpack.unpackb(first[5 : 5 + length]), "new", {"a": 1}], first[5 + length :])
    assert framing.decode([later, *others]) == COMMANDS[title]


@pytest.mark.parametrize("terms", [[1.5, "k", 0], [1.5, "k", 0, "ada"], [1.5, "k", 0, "ada", "later"]])
def test_the_terms_of_a_call_may_have_fewer_fields_or_more(terms: list[Any]) -> None:
    lease = COMMANDS["lease, of calls"]
    frames = as_bytes(framing.encode(lease._replace(terms=terms)))  # type: ignore[call-arg]
    assert framing.decode(frames) == lease._replace(terms=wire.Terms(*terms[:4]))  # type: ignore[call-arg]


def test_a_small_batch_travels_in_one_frame_and_a_large_one_is_not_copied() -> None:
    small, large = Parcel.of([b"x" * 4092]), Parcel.of([b"x" * 4093])
    assert len(framing.encode(wire.Put("q", 1, 1, 1, small))) == 1
    assert framing.encode(wire.Put("q", 1, 1, 1, large))[2] is large.body


# -- what no sender may make -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        wire.Hello([1] * 9000, CLIENT, 1, b"", 0),
        wire.Ask(1, 1, "drop", {"seqs": list(range(2**33, 2**33 + 8000))}),
        wire.Save(TOKEN, 0, b"x" * (wire.BLOB_BYTES_MAX + 1)),
        wire.Told(1, b"x" * wire.FRAME_BYTES_MAX),
    ],
    ids=lambda command: type(command).__name__,
)
def test_what_is_over_a_limit_is_refused_by_its_sender(command: wire.Command) -> None:
    with pytest.raises(ValueError, match="bytes"):
        framing.encode(command)


# -- what is no command ------------------------------------------------------------------------------------------------

HELLO = [[1], CLIENT, 1, b"", 0]
READY = [1, 0, [["q", 1, 0.0]]]
HEADERS: dict[str, tuple[int, Any]] = {
    "no array": (Kind.BYE, {}),
    "a number for a header, in a command of two frames": (Kind.ASK, 5),
    "a map for a header, in a command of two frames": (Kind.SAVE, {}),
    "fields missing": (Kind.HELLO, HELLO[:4]),
    "no versions but a text": (Kind.HELLO, ["1", *HELLO[1:]]),
    "more versions than anybody speaks": (Kind.HELLO, [[1] * 17, *HELLO[1:]]),
    "a short client id": (Kind.HELLO, [[1], b"x", 1, b"", 0]),
    "a text for a client id": (Kind.HELLO, [[1], "x" * 16, 1, b"", 0]),
    "a bool for a number": (Kind.HELLO, [[1], CLIENT, True, b"", 0]),
    "a float for a number": (Kind.HELLO, [[1], CLIENT, 1.0, b"", 0]),
    "a negative number": (Kind.HELLO, [[1], CLIENT, -1, b"", 0]),
    "a link number of more than 32 bits": (Kind.HELLO, [[1], CLIENT, 2**32, b"", 0]),
    "an epoch of more than 24 bits": (Kind.HELLO, [[1], CLIENT, 1, b"", 2**24]),
    "a wait that is no number": (Kind.BACK, [TOKEN, 0, 1, 0, float("nan"), ""]),
    "a wait for ever": (Kind.BACK, [TOKEN, 0, 1, 0, float("inf"), ""]),
    "a wait until the end of the sun": (Kind.BACK, [TOKEN, 0, 1, 0, 1e11, ""]),
    "a way to hand back that there is none": (Kind.BACK, [TOKEN, 0, 1, 5, 0.0, ""]),
    "a novel for a reason": (Kind.BACK, [TOKEN, 0, 1, 0, 0.0, "x" * 2001]),
    "no messages handed back": (Kind.BACK, [TOKEN, 0, 0, 0, 0.0, ""]),
    "a queue without a name": (Kind.CONFIRM, ["", 1, 1, 1, "disk"]),
    "a name of 256 bytes in 128 letters": (Kind.CONFIRM, ["ä" * 128, 1, 1, 1, "disk"]),
    "number 0 of a stream": (Kind.CONFIRM, ["q", 0, 1, 1, "disk"]),
    "a number for a flag": (Kind.DONE, [1]),
    "a window that is a map": (Kind.READY, [1, 0, [{}]]),
    "a window of a negative size": (Kind.READY, [1, 0, [["q", -1, 0.0]]]),
    "more tokens revoked than can be held": (Kind.ECHO, [1, False, [1] * 513]),
    "a limit of none": (Kind.WELCOME, [1, CLIENT, 1, 1.0, 3.0, {"window_batches": 0}]),
    "a limit in words": (Kind.WELCOME, [1, CLIENT, 1, 1.0, 3.0, {"window_bytes": "many"}]),
}


@pytest.mark.parametrize("title", HEADERS)
def test_a_header_that_is_wrong_is_malformed(title: str) -> None:
    kind, header = HEADERS[title]
    refused(*[frame(kind, header), b"\x80"][: 2 if kind in (Kind.ASK, Kind.SAVE) else 1])


RAW: dict[str, bytes] = {
    "arrays in arrays, each announced full": b"\xdc\x1f\xff" * 2700,
    "arrays in arrays, each of one": b"\x91" * 8000,
    "maps in maps": b"\x81\xa1a" * 2500,
    "a map announced with four thousand million entries": b"\xdf\xff\xff\xff\xff",
    "a text announced with 4 GiB": b"\xdb\xff\xff\xff\xffabc",
    "a blob announced with 4 GiB": b"\xc6\xff\xff\xff\xffabc",
    "an extension type": b"\x95\xd4\x05\x00",
    "a time stamp": b"\x91\xd6\xff\x00\x00\x00\x00",
    "a long extension": b"\xc7\xff\x01" + b"x" * 255,
    "a text that is not UTF-8": b"\x91\xa2\xff\xfe",
    "half a surrogate pair": b"\x91\xa3\xed\xa0\x80",
    "a byte that msgpack never uses": b"\x91\xc1",
    "a value behind the value": b"\x90\x90",
    "nothing at all": b"",
    "the same key twice": b"\x91\x82\xa1a\x01\xa1a\x02",
    "a key that is no text": b"\x91\x81\x01\x01",
    "a key of bytes": b"\x91\x81\xc4\x01a\x01",
    "a key that is an array": b"\x91\x81\x90\x01",
    "a key that is NaN": b"\x91\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01",
}


@pytest.mark.parametrize("title", RAW)
@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.ASK, Kind.READY])
def test_msgpack_that_is_meant_to_hurt_is_malformed_at_once(kind: Kind, title: str) -> None:
    refused(*[frame(kind, RAW[title], raw=True), b"\x80"][: 1 + (kind is Kind.ASK)])


@pytest.mark.parametrize("title", RAW)
def test_so_it_is_as_the_argument_of_an_ask_and_as_a_column(title: str) -> None:
    refused(frame(Kind.ASK, [1, 1, "info"]), RAW[title])
    refused(frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", b"\x81\xa7headers" + RAW[title])


def test_an_announced_length_takes_no_memory() -> None:
    refused(frame(Kind.ASK, [1, 1, "info"]), b"\xdc\xf0\x00" * 21_000)  # 1,024 lists within one another, 60 Ki places each


def test_a_large_bomb_is_not_even_unpacked() -> None:
    empties = b"\xdd\x00\x0f\xff\xff" + b"\x80" * 0xFFFFF
    assert "bytes" in refused(frame(Kind.ASK, [1, 1, "info"]), empties)
    assert "bytes" in refused(frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", empties)
    assert "bytes" in refused(frame(Kind.SAVE, [TOKEN, 0]), b"\xc6\x00\x0f\xff\xf0" + bytes(0xFFFF0))


FRAMES: dict[str, list[Any]] = {
    "no frame": [],
    "an empty frame": [b""],
    "four bytes": [b"Z1\x01\x00"],
    "another protocol": [b"MDPC01"],
    "a kind that is reserved": [frame(17, [])],
    "kind 0": [frame(0, [])],
    "a text instead of bytes": ["Z1"],
    "nothing instead of bytes": [None],
    "a header cut short": [b"Z1\x10\x05\x00\x90"],
    "a header over 8 KiB": [frame(Kind.BYE, ["x" * 8200])],
    "bytes behind the header": [frame(Kind.BYE, [], b"x")],
    "a frame too many": [frame(Kind.BYE, []), b""],
    "an ASK without arguments": [frame(Kind.ASK, [1, 1, "info"])],
    "an ASK in three frames": [frame(Kind.ASK, [1, 1, "info"]), b"\x80", b"\x80"],
    "an ASK with arguments that are no map": [frame(Kind.ASK, [1, 1, "info"]), b"\x90"],
    "an ASK below its own base": [frame(Kind.ASK, [1, 2, "info"]), b"\x80"],
    "half an entry": [frame(Kind.DONE, [False], bytes(15))],
    "513 entries": [frame(Kind.DONE, [False], bytes(16 * 513))],
    "a lease wanted for a time that is no number": [frame(Kind.READY, READY, bytes(12) + b"\x00\x00\xc0\x7f")],
    "a lease wanted for ever": [frame(Kind.READY, READY, bytes(12) + b"\x00\x00\x80\x7f")],
    "a lease wanted for less than nothing": [frame(Kind.READY, READY, bytes(12) + b"\x00\x00\x80\xbf")],
    "a verdict that is none": [frame(Kind.ANSWER, [], bytes(16) + b"\x03")],
    "a batch without messages": [frame(Kind.PUT, ["q", 1, 0, 1])],
    "a batch of 4,097": [frame(Kind.PUT, ["q", 1, 4097, 1]), bytes(4 * 4097), b""],
    "sizes cut short": [frame(Kind.PUT, ["q", 1, 2, 1], b"\1\0\0\0x")],
    "sizes of more than the body": [frame(Kind.PUT, ["q", 1, 1, 1], b"\2\0\0\0x")],
    "sizes of less than the body": [frame(Kind.PUT, ["q", 1, 1, 1], b"\1\0\0\0xx")],
    "sizes whose sum is right in 32 bits": [frame(Kind.PUT, ["q", 1, 2, 1], b"\xff\xff\xff\xff\x02\0\0\0x")],
    "a body over 1 MiB": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\x01\0\x10\0", bytes(2**20 + 1)],
    "a batch in one frame and more behind it": [frame(Kind.PUT, ["q", 1, 1, 1], b"\1\0\0\0x"), b"\1\0\0\0", b"x"],
    "a batch in five frames": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", b"\x80", b""],
    "a thousand frames": [frame(Kind.PUT, ["q", 1, 1, 1])] + [b"x"] * 999,
    "a PUT below its own base": [frame(Kind.PUT, ["q", 1, 1, 2], b"\1\0\0\0x")],
    "columns that are no map": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", b"\x90"],
    "an unknown column": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", msgpack.packb({"key": ["a"]})],
    "a column one value short": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", msgpack.packb({"headers": []})],
    "headers that are no map": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", msgpack.packb({"headers": ["a"]})],
    "an error from a producer": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", msgpack.packb({"error": ["a"]})],
    "a saved state from a producer": [frame(Kind.PUT, ["q", 1, 1, 1]), b"\1\0\0\0", b"x", msgpack.packb({"saved": [b"a"]})],
}  # fmt: skip


@pytest.mark.parametrize("title", FRAMES)
def test_frames_that_are_no_command_are_malformed(title: str) -> None:
    refused(*FRAMES[title])


@pytest.mark.parametrize("title", COMMANDS)
def test_a_command_cut_anywhere_is_malformed(title: str) -> None:
    first, *others = as_bytes(framing.encode(COMMANDS[title]))
    entries: dict[int, int] = {Kind.READY: 16, Kind.DONE: 16, Kind.ANSWER: 17}
    header = 5 + int.from_bytes(first[3:5], "little")
    for length in range(len(first)):
        if length >= header and (length - header) % entries.get(first[2], length + 1) == 0:
            continue  # a shorter list is a list
        with pytest.raises(Malformed):
            framing.decode([first[:length], *others])


@pytest.mark.parametrize("parcel", [PLAIN, TITLED])
def test_a_lease_and_a_put_share_one_form_of_batch(parcel: Parcel) -> None:
    put = as_bytes(framing.encode(wire.Put("q", 1, parcel.count, 1, parcel)))
    lease = as_bytes(framing.encode(wire.Lease("q", TOKEN, 1, parcel.count, 1, 30.0, 2.0, 1, None, parcel)))
    behind: Callable[[bytes], bytes] = lambda first: first[5 + int.from_bytes(first[3:5], "little") :]  # noqa: E731
    assert (behind(put[0]), put[1:]) == (behind(lease[0]), lease[1:])
