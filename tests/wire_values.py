"""Commands and records for the tests of the formats: one example of each for the golden files, and strategies for all."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from zmqkit import records, wire
from zmqkit.parcel import Parcel
from zmqkit.updates import message, packed

CLIENT, NODE = bytes(range(16)), bytes(range(0xF0, 0x100))
TOKEN = 3 << 40 | 7  # epoch 3, the seventh lease in it
PLAIN = Parcel.of([b"one", b"", b"three"])
TITLED = Parcel.of([b"one", b"two"], {"headers": [{"trace": "a1"}, None]})
RETURNED = Parcel.of([b"one"], {"headers": [{"trace": "a1"}], "error": ["boom"], "saved": [b"\x81\xa1n\x05"]})

UPDATES = Parcel.of([message("a", b"\x01"), message("b", b"\x02", 1.5), message("c", None)])

COMMANDS: dict[str, wire.Command] = {
    "hello": wire.Hello([1], CLIENT, 2, b"", 0),
    "hello, a known node": wire.Hello([1], CLIENT, 3, NODE, 3),
    "welcome": wire.Welcome(1, NODE, 3, 1.0, 3.0, {"message_bytes": 1048576, "window_batches": 64, "durability": "disk"}),
    "nosession": wire.NoSession(),
    "put": wire.Put("jobs", 5, 3, 2, PLAIN),
    "put, with headers": wire.Put("jobs", 8, 2, 8, TITLED),
    "put, larger than 4 KiB": wire.Put("jobs", 10, 1, 10, Parcel.of([b"x" * 5000])),
    "confirm": wire.Confirm("jobs", 5, 3, 41, "disk"),
    "refused": wire.Refused(wire.Kind.PUT, "jobs", 5, 3, wire.Code.FULL, 0.5, "queue jobs is full"),
    "ready": wire.Ready(12, TOKEN, [wire.Window("jobs", 100, 0.0), wire.Window("mail", 1, 60.0)], 0, [wire.Held(TOKEN, 2, 0.0)]),
    "echo": wire.Echo(12, False, [TOKEN]),
    "lease": wire.Lease("jobs", TOKEN, 41, 3, 1, 30.0, 2.0, 12, None, PLAIN),
    "lease, a returned message": wire.Lease("jobs", TOKEN, 41, 1, 2, 30.0, 2.0, 12, None, RETURNED),
    "done": wire.Done(True, [(TOKEN, 0, 2), (TOKEN, 2, 1)]),
    "answer": wire.Answer([(TOKEN, 0, 2, wire.Verdict.OK), (TOKEN, 2, 1, wire.Verdict.STALE)]),
    "back": wire.Back(TOKEN, 1, 1, wire.BackKind.NACK, -1.0, "boom"),
    "save": wire.Save(TOKEN, 1, b"\x81\xa1n\x05"),
    "ask": wire.Ask(4, 3, "declare", {"queue": "jobs", "policy": {"max_attempts": 3}}),
    "told": wire.Told(4, {"error": 10, "text": "no such verb"}),
    "bye": wire.Bye(),
    "call": wire.Call("price", 7, 3, 1.5, 4, 0, "", 0, 2, PLAIN),
    "call, a keyed one": wire.Call("price", 10, 1, 1.5, 4, 3, "order-42", 0, 2, Parcel.of([b"one"], {"headers": [{"trace": "a1"}]})),
    "call, a stream": wire.Call("tail", 11, 1, 60.0, 1, 0, "", 16, 2, Parcel.of([b"one"])),
    "lease, of calls": wire.Lease("\0price", TOKEN, 7, 3, 1, 30.0, 2.0, 12, wire.Terms(1.5, "", 0), PLAIN),
    "lease, of a user's call": wire.Lease("\0price", TOKEN, 7, 3, 1, 30.0, 2.0, 12, wire.Terms(1.5, "order-42", 0, "ada"), PLAIN),
    "reply, of a worker": wire.Reply(0, [(TOKEN, 0, 2, wire.Status.OK), (TOKEN, 2, 1, wire.Status.ERROR)], 3, PLAIN),
    "reply, to the caller": wire.Reply(3, [(7, 0, 2, wire.Status.OK), (9, 0, 1, wire.Status.ERROR)], 3, PLAIN),
    "cancel": wire.Cancel(8, 0, 2),
    "part": wire.Part(TOKEN, 0, 5, 3, PLAIN),
    "more": wire.More(11, 0, 32, 16),
    "put, of updates": wire.Put("\1quotes", 5, 3, 2, UPDATES),
    "sub": wire.Sub(7, "quotes", ["EUR.", "USD."], ["USD."], wire.Start.POSITION, 3, 41, 0.0, "ui-1", 8_388_608),
    "sub, of all since then": wire.Sub(8, "quotes", [""], [], wire.Start.TIME, 0, 0, 1700000000.5, "", 8_388_608),
    "unsub": wire.Unsub(7),
    "seen": wire.Seen(8, 70_000),
    "pos": wire.Pos(7, 3, 44),
    "reset": wire.Reset(8, 3, 44, 20, 44, wire.Scope.ALL),
    "chunk": wire.Chunk(8, 44, 1, packed(["a", "b"], [b"\x01", [b"\x02", 1.5]])),
    "live": wire.Live(8, 44, 45, 3, b"", 3, UPDATES),
    "live, two of three": wire.Live(7, 44, 45, 3, b"\x05", 2, UPDATES.split(0, 2)),
    "at": wire.At(8, 3, 47),
}

RECORDS: dict[str, records.Record] = {
    "queue": records.Queue(1, "jobs", {"max_attempts": 8, "lease": 30.0}, False, False),
    "queue, of a user": records.Queue(2, "mail", {}, False, False, "ada's key"),
    "put": records.Put(1, CLIENT, 5, 3, 2, 41, 1700000000.5, PLAIN),
    "put, with headers": records.Put(1, CLIENT, 8, 2, 8, 44, 1700000000.5, TITLED),
    "copy": records.Copy(1, 41, 17, 3, PLAIN),
    "lease": records.Lease(1, TOKEN, CLIENT, 41, 3),
    "done": records.Done(1, TOKEN, [(0, 2)]),
    "back": records.Back(1, TOKEN, [(2, 1)], "nack", True, False, 1700000001.5, "boom"),
    "save": records.Save(1, TOKEN, 2, b"\x81\xa1n\x05"),
    "dead": records.Dead(1, TOKEN, [(2, 1)], "failed 8 times, the last time: boom", 1700000002.5, True, "boom"),
    "redrive": records.Redrive(1, [(43, 1)]),
    "drop": records.Drop(1, [(41, 2), (50, 7)]),
    "held": records.Held(1, TOKEN, CLIENT, 41, 3, b"\x04", b"\x03"),
    "granted": records.Granted(TOKEN),
    "put, of updates": records.Put(2, CLIENT, 5, 3, 2, 41, 1700000000.5, UPDATES),
    "epoch": records.Epoch(2, 3, 40),
    "mark": records.Mark(2, "ui-1", 3, 41),
    "values": records.Values(2, 43, 1700000000.5, 1, packed(["a", "b"], [b"\x01", [b"\x02", 1.5]])),
    "swept": records.Swept(2, 43),
    "bind": records.Bind(2, "paid.", "invoices", True),
    "kept": records.Kept(
        2, struct.pack("<Q", 43), struct.pack("<Q", 17), struct.pack("<I", 1), struct.pack("<d", 0.5), struct.pack("<B", 1)
    ),
    "stream": records.Stream(1, CLIENT, 9, [(5, 3, 41)], 1700000000.5),
    "backlog": records.Backlog(1, 41, 51, struct.pack("<Q", 17), struct.pack("<I", 10), struct.pack("<I", 900), struct.pack("<d", 0.5)),
    "batch": records.Batch(1, 41, 3, 17, 900, 1700000000.5, b"\x01", b"\x02", b"\x00", b"\x04", b"\x02"),
    "marks": records.Marks(1, {42: 1}, {42: 1700000001.5}, {42: ["boom"]}, {42: b"\x05"}, {43: ["poison", 1700000002.5]}),
}

# -- strategies --------------------------------------------------------------------------------------------------------

u16, u32, u64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
sequences = st.integers(1, 2**63)
counts = st.integers(1, 4096)
epochs = st.integers(0, 2**24 - 1)
durations = st.floats(0, 1e10) | st.integers(0, 10**10)
singles = st.floats(0, 1e9, width=32)
ids = st.binary(min_size=16, max_size=16)
texts = st.text(st.characters(codec="utf-8"), max_size=50)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=63).filter(lambda name: name[0] != wire.SERVICE_MARK)
keys = st.just("") | names
offsets = st.integers(0, 4095)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts | st.binary(max_size=30)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=10)
maps = st.dictionaries(texts, values, max_size=4)
KNOWN_LIMITS = {"message_bytes", "window_batches", "window_bytes", "tokens"}  # they are numbers
bodies = st.lists(st.binary(max_size=40), min_size=1, max_size=30)


@st.composite
def parcels(draw: st.DrawFn, columns: tuple[str, ...] = ("headers",)) -> Parcel:
    messages = draw(bodies | st.just([b"x" * 5000]))
    kinds: dict[str, st.SearchStrategy[Any]] = {"headers": maps, "error": texts, "saved": st.binary(max_size=20)}
    used = draw(st.sets(st.sampled_from(columns)))
    column = {name: draw(st.lists(st.none() | kinds[name], min_size=len(messages), max_size=len(messages))) for name in sorted(used)}
    return Parcel.of(messages, column)


@st.composite
def puts(draw: st.DrawFn) -> wire.Put:
    parcel, first = draw(parcels()), draw(sequences)
    return wire.Put(draw(names), first, parcel.count, draw(st.integers(1, first)), parcel)


@st.composite
def leases(draw: st.DrawFn) -> wire.Lease:
    parcel = draw(parcels(("headers", "error", "saved")))
    numbers = draw(u64), draw(sequences), parcel.count, draw(u32), draw(durations), draw(durations), draw(u32)
    terms = draw(st.none() | st.builds(wire.Terms, durations, keys, u32, keys))
    return wire.Lease(draw(names | names.map("\0{}".format)), *numbers, terms, parcel)


@st.composite
def calls(draw: st.DrawFn) -> wire.Call:
    parcel = draw(parcels())
    key, parts = (draw(keys), draw(u32)) if parcel.count == 1 else ("", 0)
    numbers = draw(durations), draw(st.integers(1, wire.ATTEMPTS_MAX)), draw(epochs), key, parts, draw(u64)
    return wire.Call(draw(names), draw(sequences), parcel.count, *numbers, parcel)


@st.composite
def replies(draw: st.DrawFn) -> wire.Reply:
    parcel = draw(parcels())
    ranges, left = [], parcel.count
    while left:
        count = draw(st.integers(1, left))
        ranges.append((draw(u64), draw(offsets), count, draw(st.sampled_from(wire.Status))))
        left -= count
    return wire.Reply(draw(u64), ranges, parcel.count, parcel)


@st.composite
def asks(draw: st.DrawFn) -> wire.Ask:
    number = draw(sequences)
    return wire.Ask(number, draw(st.integers(1, number)), draw(st.text(max_size=40)), draw(maps))


@st.composite
def lives(draw: st.DrawFn) -> wire.Live:
    parcel = Parcel.of(draw(st.lists(st.binary(max_size=9), min_size=1, max_size=9)))
    span = draw(st.integers(parcel.count, parcel.count + 20))
    chosen = draw(st.permutations(range(span)))[: parcel.count]
    mask = sum(1 << index for index in chosen).to_bytes((span + 7) // 8, "little") if span > parcel.count else b""
    return wire.Live(draw(u32), draw(u64), draw(sequences), span, mask, parcel.count, parcel)


_windows = st.lists(st.builds(wire.Window, names, u32, durations), max_size=5)
_held = st.lists(st.builds(wire.Held, u64, u32, singles), max_size=20)
commands: st.SearchStrategy[wire.Command] = st.one_of(
    st.builds(wire.Hello, st.lists(u32, max_size=16), ids, u32, ids | st.just(b""), epochs),
    st.builds(wire.Welcome, u32, ids, epochs, durations, durations, maps.filter(lambda limits: not KNOWN_LIMITS & limits.keys())),
    st.just(wire.NoSession()), puts(),
    st.builds(wire.Confirm, names, sequences, sequences, sequences, st.text(max_size=20)),
    st.builds(wire.Refused, u32, st.just("") | names, u64, u64, u32, durations, texts),
    st.builds(wire.Ready, u32, u64, _windows, u64, _held),
    st.builds(wire.Echo, u32, st.booleans(), st.lists(u64, max_size=20)), leases(),
    st.builds(wire.Done, st.booleans(), st.lists(st.tuples(u64, u32, u32), max_size=20)),
    st.builds(wire.Answer, st.lists(st.tuples(u64, u32, u32, st.integers(0, 2)), max_size=20)),
    st.builds(wire.Back, u64, u32, counts, st.integers(0, 4), st.floats(-1, 1e10), texts),
    st.builds(wire.Save, u64, u32, st.binary(max_size=100)), asks(),
    st.builds(wire.Told, sequences, values),
    st.just(wire.Bye()),
    calls(), replies(),
    st.builds(wire.Cancel, u64, offsets, counts), st.builds(wire.More, u64, offsets, u32, u32),
    st.builds(
        wire.Sub, u32, names, st.lists(keys, max_size=5), st.lists(keys, max_size=5), st.integers(0, 5), epochs, u64, durations, keys, u32
    ),
    st.builds(wire.Unsub, u32), st.builds(wire.Seen, u32, u64), st.builds(wire.Pos, u32, epochs, u64),
    st.builds(wire.Reset, u32, epochs, u64, u64, u64, st.integers(0, 2)), st.builds(wire.At, u32, epochs, u64),
    st.builds(wire.Chunk, u32, u64, st.just(1), st.binary(max_size=50).map(lambda body: Parcel.of([body]))), lives(),
    parcels().flatmap(lambda p: st.builds(wire.Part, u64, offsets, sequences, st.just(p.count), st.just(p))),
)  # fmt: skip

_ranges = st.lists(st.tuples(u64, st.integers(1, 2**32)), max_size=5)
_times = st.floats(0, 1e12)
_marks = st.integers(1, 2**63)
stored: st.SearchStrategy[records.Record] = st.one_of(
    st.builds(records.Queue, u32, names, maps, st.booleans(), st.booleans(), texts),
    parcels().flatmap(lambda p: st.builds(records.Put, u32, ids, sequences, st.just(p.count), sequences, u64, _times, st.just(p))),
    parcels().flatmap(lambda p: st.builds(records.Copy, u32, u64, u64, st.just(p.count), st.just(p))),
    st.builds(records.Lease, u32, u64, ids, u64, counts),
    st.builds(records.Done, u32, u64, _ranges),
    st.builds(records.Back, u32, u64, _ranges, texts, st.booleans(), st.booleans(), _times, texts),
    st.builds(records.Save, u32, u64, u32, st.binary(max_size=20)),
    st.builds(records.Dead, u32, u64, _ranges, texts, _times, st.booleans(), texts),
    st.builds(records.Redrive, u32, _ranges), st.builds(records.Drop, u32, _ranges),
    st.builds(records.Held, u32, u64, ids, u64, counts, st.binary(max_size=5), st.binary(max_size=5)),
    st.builds(records.Granted, u64),
    st.builds(records.Epoch, u32, u32, u64), st.builds(records.Mark, u32, texts, u32, u64), st.builds(records.Swept, u32, u64),
    st.builds(records.Bind, u32, texts, texts, st.booleans()),
    st.binary(max_size=50).flatmap(lambda body: st.builds(records.Values, u32, u64, _times, st.just(1), st.just(Parcel.of([body])))),
    st.builds(records.Kept, u32, *[st.binary(max_size=16)] * 5),
    st.builds(records.Stream, u32, ids, u64, st.lists(st.tuples(u64, u32, u64), max_size=3), _times),
    st.builds(records.Backlog, u32, u64, u64, *[st.binary(max_size=16)] * 4),
    st.builds(records.Batch, u32, u64, u32, u64, u32, _times, *[st.binary(max_size=5)] * 5),
    st.builds(
        records.Marks, u32, st.dictionaries(_marks, u32, max_size=3), st.dictionaries(_marks, _times, max_size=3),
        st.dictionaries(_marks, st.lists(texts, max_size=2), max_size=3), st.dictionaries(_marks, st.binary(max_size=9), max_size=3),
        st.dictionaries(_marks, st.tuples(texts, _times).map(list), max_size=3),
    ),
)  # fmt: skip


def as_bytes(frames: list[Any]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


def lists(value: Any) -> Any:
    """Tuples inside records come back from msgpack as lists; they mean the same."""
    if isinstance(value, list | tuple):
        return [lists(item) for item in value]
    return {key: lists(item) for key, item in value.items()} if isinstance(value, dict) else value
