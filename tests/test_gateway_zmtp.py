"""ZMTP by hand at the two ports of a Clone server: handshakes, frames, and what strangers do there."""

from __future__ import annotations

import pytest
from clone_world import UUID, Bench, Set, Update, ready, seq
from hypothesis import given, strategies as st

from zmqkit.gateways import clone, zmtp
from zmqkit.gateways.zmtp import COMMAND, GREETING, LONG, MORE, Broken, Connection

KVSET = [b"k", seq(0), UUID, b"", b"v"]
WANTED = Set("k", b"v", None, bytes([16]) + UUID)


@pytest.mark.parametrize(("kind", "server"), [("PUSH", "PULL"), ("PUB", "SUB"), ("SUB", "XPUB")])
def test_we_are_what_goes_together_with_the_peer(kind: str, server: str) -> None:
    bench = Bench()
    wire = bench.wire(b"p", kind)
    assert wire.server == server and not wire.closed
    assert wire.take() == ([[b"\x01"]] if kind == "PUB" else []), "a publisher sends what somebody wants"


@pytest.mark.parametrize("kind", ["PUSH", "SUB"])
@pytest.mark.parametrize("other", ["REQ", "PULL", "", "push"])
def test_any_other_socket_is_sent_away(kind: str, other: str) -> None:
    bench = Bench()
    wire = bench.wire(b"p", kind, shakes=False)
    wire.say(GREETING + ready(other))
    assert wire.closed and bench.dropped == {"another-socket-type": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not-zmtp-3"),
        (b"\x01\x00", "not-zmtp-3"),
        (GREETING[:10] + b"\x01\x01", "not-zmtp-3"),
        (GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32), "another-mechanism"),
        (GREETING + b"\xff\x00", "not-zmtp-3"),
        (GREETING + zmtp.message([b"before READY"]), "no-handshake"),
        (GREETING + bytes([COMMAND | LONG]) + (1 << 62).to_bytes(8, "big"), "message-too-large"),
        (GREETING + zmtp.command(b"READY", b"\x0bSocket-Type\0\0\1\0PUSH"), "not-zmtp-3"),
        (GREETING + ready("PUSH") + bytes([LONG]) + (1 << 62).to_bytes(8, "big"), "message-too-large"),
        (GREETING + ready("PUSH") + 3 * (bytes([LONG | MORE]) + (400_000).to_bytes(8, "big") + bytes(400_000)), "message-too-large"),
        (GREETING + ready("PUSH") + zmtp.command(b"ERROR", b"\0"), "peer-error"),
    ],
)
def test_who_breaks_the_transport_is_cut_off_and_counted(data: bytes, reason: str) -> None:
    bench = Bench()
    other = bench.wire(b"other", "PUSH")
    wire = bench.wire(b"p", "PUSH", shakes=False)
    for byte in range(0, len(data), 100_000):
        if not wire.closed:
            wire.say(data[byte : byte + 100_000])
    assert wire.closed and bench.dropped == {reason: 1}
    other.send(*KVSET)
    assert bench.sets == [WANTED]


def test_bytes_may_come_one_by_one_or_all_at_once() -> None:
    data = GREETING + ready("PUSH") + zmtp.message(KVSET) + zmtp.command(b"PING", b"\0\1ctx") + zmtp.message([*KVSET[:4], b"x" * 70_000])
    bench = Bench()
    slow = bench.wire(b"slow", "PUSH", shakes=False)
    for byte in data[: 64 + 300]:
        slow.say(bytes([byte]))
    slow.say(data[64 + 300 :])
    bench.wire(b"quick", "PUSH", shakes=False).say(data)
    assert [len(wanted.value or b"") for wanted in bench.sets] == [1, 70_000, 1, 70_000]


def test_a_ping_is_answered_with_its_context() -> None:
    connection = Connection({"PUSH": "PULL"}, 0.0, 5, 1000)
    assert list(connection.receive(GREETING + ready("PUSH") + zmtp.command(b"PING", b"\0\1" + b"c" * 16 + b"more"))) == []
    assert connection.take().endswith(zmtp.command(b"PONG", b"c" * 16))


def test_who_does_not_shake_hands_is_cut_off_after_a_while_and_who_waits_for_us_hears_what_we_are() -> None:
    """A probe says nothing before it knows what stands here; a silent stranger must not keep a descriptor."""
    bench = Bench()
    silent, waiting = bench.wire(b"silent", "PUSH", shakes=False), bench.wire(b"waiting", "PUSH", shakes=False)
    waiting.say(GREETING)
    bench.wait(zmtp.READY_SECONDS - 0.01)
    assert waiting.server == ""
    bench.wait(0.02)
    assert waiting.server == "PULL" and not silent.closed
    bench.wait(zmtp.SHAKE_SECONDS)
    assert silent.closed and waiting.closed and bench.dropped == {"no-handshake": 2}
    late = bench.wire(b"late", "PUSH", shakes=False)
    late.say(GREETING)
    bench.wait(zmtp.READY_SECONDS + 0.01)
    late.say(ready("PUSH"))
    late.send(*KVSET)
    assert bench.sets == [WANTED] and bench.clone.deadline > 1e9
    other = bench.wire(b"other", "PUSH", shakes=False)
    other.say(GREETING)
    bench.wait(zmtp.READY_SECONDS + 0.01)
    other.say(ready("PUB"))
    assert other.closed, "we have said that we are a PULL"


def test_a_message_without_an_end_is_bounded_and_so_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "KEPT_BYTES_MAX", 500_000)
    bench = Bench()
    endless = bench.wire(b"e", "PUSH")
    for _ in range(10_000):
        endless.say(bytes([MORE, 0]))
    assert bench.clone._connections[clone.COLLECTOR][b"e"].kept == 0
    head = bytes([LONG]) + (300_000).to_bytes(8, "big") + bytes(200_000)
    wires = [bench.wire(b"%d" % number, "PUSH") for number in range(3)]
    for wire in wires:
        wire.say(head)
    assert [wire.closed for wire in wires] == [False, False, True] and bench.dropped == {"too-much-unfinished": 1}


def test_so_many_connections_and_prefixes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "CONNECTIONS_MAX", 2)
    monkeypatch.setattr(clone, "PREFIXES_MAX", 2)
    bench = Bench()
    first, _, third = (bench.wire(b"%d" % number, "SUB", shakes=number < 2) for number in range(3))
    assert third.closed and bench.dropped == {"too-many-connections": 1}
    for prefix in (b"a", b"b", b"b", b"a"):
        first.subscribe(prefix)
    assert not first.closed
    first.subscribe(b"c")
    assert first.closed and bench.dropped["too-many-prefixes"] == 1
    assert not bench.wire(b"3", "SUB").closed, "there is room again"


@pytest.mark.parametrize("frames", [[b"\x02x"], [b""], [b"\x01a", b"b"]])
def test_what_is_no_subscription_is_counted(frames: list[bytes]) -> None:
    bench = Bench()
    subscriber = bench.wire(b"s", "SUB")
    subscriber.send(*frames)
    assert bench.dropped == {"bad-subscription": 1} and not subscriber.closed
    bench.update(Update(b"x", 1, b"v"), Update(b"a", 2, b"v"))
    assert subscriber.take() == []


def test_a_subscriber_that_does_not_read_is_cut_off_and_others_hear_everything() -> None:
    bench = Bench()
    slow, quick = bench.subscriber(b"slow", b""), bench.subscriber(b"quick", b"")
    bench.gone[b"slow"] = None  # the driver has given it up
    bench.update(*(Update(b"k", number, b"x" * 100_000) for number in range(1, 4)))
    assert slow.closed and slow.take() == [] and len(quick.take()) == 3
    bench.clone.receive(clone.UPDATES, b"slow", [b"\x01what was still under way"], bench.now)


def test_what_is_told_is_cut_into_chunks() -> None:
    bench = Bench()
    subscriber = bench.subscriber(b"s", b"")
    bench.clone.update(Update(b"k", 1, b"x" * 200_000), bench.now)
    bench.clone.update(Update(b"k", 2, b"y"), bench.now)
    sends = bench.clone.take(bench.now)
    assert len(sends) == 4 and max(len(send.frames[0]) for send in sends) == clone.CHUNK_BYTES
    for send in sends:
        subscriber.hear(send.frames[0])
    assert [frames[4][:1] for frames in subscriber.take()] == [b"x", b"y"]


@given(
    st.lists(st.one_of(st.binary(max_size=50), st.sampled_from([GREETING, ready("PUSH"), ready("SUB"), zmtp.message(KVSET), b"\x01\0"])))
)
def test_no_bytes_end_a_connection_but_by_its_rules(chunks: list[bytes]) -> None:
    connection = Connection({"PUSH": "PULL"}, 0.0, 5, 1000)
    try:
        for chunk in chunks:
            for frames in connection.receive(chunk):
                assert 1 <= len(frames) <= 6 and sum(map(len, frames)) <= 1000
            assert connection.kept <= sum(map(len, chunks))
    except Broken as broken:
        assert str(broken)
