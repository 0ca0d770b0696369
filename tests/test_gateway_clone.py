"""CHP (RFC 12) at a Clone server without a socket: what clients set, what they are told, and what comes to whom joins late."""

from __future__ import annotations

import pytest
from clone_world import HUGZ, ICANHAZ, KTHXBAI, UUID, Bench, Frames, Set, Update, seq
from test_wire_golden import written

from zmqkit.gateways import chp, clone, clone_state

A = Update(b"/a/1", 1, b"one")


def pub(key: bytes, number: int, value: bytes, uuid: bytes = b"", props: bytes = b"") -> Frames:
    return [key, seq(number), uuid, props, value]


# -- frames -----------------------------------------------------------------------------------------------------------------


def conversation() -> dict[str, Frames]:
    """Every message there is, in both directions, without routing ids."""
    told: dict[str, Frames] = {}
    bench = Bench()
    push, subscriber = bench.wire(b"push", "PUSH"), bench.wire(b"sub", "SUB")
    subscriber.subscribe(b"/client/")

    def put(title: str, *frames: bytes) -> None:
        told[title] = list(frames)
        push.send(*frames)

    def come(title: str, number: int, key: bytes, value: bytes | None, ttl: float | None = None, note: bytes = b"") -> None:
        """Out of the topic."""
        bench.update(Update(key, number, value, ttl, note))
        [told[title]] = subscriber.take()

    put("client to server: KVSET", b"/client/a", seq(0), UUID, b"color=red\nttl=3\n", b"v1")
    [wanted] = bench.sets
    assert wanted == Set("/client/a", b"v1", 3.0, bytes([16]) + UUID + b"color=red\nttl=3\n")
    come("server to client: KVPUB", 1, b"/client/a", wanted.value, wanted.ttl, wanted.note)
    come("server to client: KVPUB of a native value", 2, b"/client/b", b"native")
    come("server to client: KVPUB of a native value with a ttl", 3, b"/client/c", b"native", 2.5)
    put("client to server: KVSET that deletes", b"/client/b", seq(0), UUID, b"", b"")
    assert bench.sets[1] == Set("/client/b", None, None, b"")
    come("server to client: KVPUB that deletes", 4, b"/client/b", None)
    subscriber.subscribe(HUGZ)
    [told["server to client: HUGZ"]] = subscriber.take()
    told["client to server: ICANHAZ?"] = [ICANHAZ, b"/client/a"]
    told["server to client: KVSYNC"], told["server to client: KTHXBAI"] = bench.ask(b"c", ICANHAZ, b"/client/a")
    told["client to server: ICANHAZ? for all"] = [ICANHAZ]
    entries = bench.ask(b"c", ICANHAZ)
    told["server to client: KVSYNC of a native value with a ttl"] = entries[1]
    told["server to client: KTHXBAI for all"] = entries[2]
    assert not bench.dropped and len(entries) == 3
    return told


def test_every_message_in_both_directions_has_these_bytes() -> None:
    assert conversation() == written("chp", conversation())


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"k"], "bad-frames"),
        ([b"k", b"\0\0\0\1", b"v"], "bad-frames"),  # what the Guide's first examples say
        ([b"k", seq(0), UUID, b"", b"v", b"more"], "bad-frames"),
        ([b"k"] * 1000, "bad-frames"),
        ([b"k", b"\0\0\0\1", UUID, b"", b"v"], "bad-seq"),
        ([b"k", seq(0) + b"\0", UUID, b"", b"v"], "bad-seq"),
        ([b"k", seq(0), b"U", b"", b"v"], "bad-uuid"),
        ([b"k", seq(0), UUID, b"ttl=3", b"v"], "bad-props"),
        ([b"k", seq(0), UUID, b"x" * 4096 + b"\n", b"v"], "bad-props"),
        ([b"k", seq(0), UUID, b"ttl=soon\n", b"v"], "bad-ttl"),
        ([b"k", seq(0), UUID, b"ttl=-1\n", b"v"], "bad-ttl"),
        ([b"k", seq(0), UUID, b"ttl=nan\n", b"v"], "bad-ttl"),
        ([b"k", seq(0), UUID, b"ttl=1e99\n", b"v"], "bad-ttl"),
        ([b"\xff", seq(0), UUID, b"", b"v"], "bad-key"),
        ([b"", seq(0), UUID, b"", b"v"], "bad-key"),
        ([b"k" * 256, seq(0), UUID, b"", b"v"], "bad-key"),
        ([HUGZ, seq(0), UUID, b"", b"v"], "reserved-key"),
        ([KTHXBAI, seq(0), UUID, b"", b"v"], "reserved-key"),
    ],
)
def test_what_is_no_kvset_is_counted_and_the_next_one_counts(frames: Frames, reason: str) -> None:
    bench = Bench()
    push = bench.wire(b"p", "PUSH")
    push.send(*frames)
    assert bench.dropped == {reason: 1} and not bench.sets and not push.closed
    push.send(b"k" * 255, seq(-1 & 0xFF), b"", b"ttl=0\nother\n", b"v")
    assert bench.sets == [Set("k" * 255, b"v", None, b"\0ttl=0\nother\n")]


@pytest.mark.parametrize("frames", [[b""], [b"ICANHAZ"], [ICANHAZ, b"", b""], [ICANHAZ, b"x" * 256], [b"HUGZ", ICANHAZ]])
def test_what_is_no_request_is_counted_and_not_answered(frames: Frames) -> None:
    bench = Bench()
    assert bench.ask(b"c", *frames) == [] and bench.dropped == {"bad-request": 1}
    assert bench.ask(b"c", ICANHAZ, b"x" * 255) == [[KTHXBAI, seq(0), b"", b"", b"x" * 255]]


def test_a_deletion_has_no_ttl_and_no_note() -> None:
    bench = Bench()
    bench.wire(b"p", "PUSH").send(b"k", seq(0), UUID, b"ttl=3\ncolor=red\n", b"")
    assert bench.sets == [Set("k", None, None, b"")]


# -- what is told ------------------------------------------------------------------------------------------------------------


def test_what_a_client_sets_is_told_when_it_comes_out_of_the_topic_and_not_before() -> None:
    bench = Bench()
    subscriber = bench.subscriber(b"s", b"")
    bench.wire(b"p", "PUB").send(b"/a/1", seq(0), b"", b"", b"one")
    assert bench.sets == [Set("/a/1", b"one", None, b"")] and subscriber.take() == []
    assert bench.ask(b"c", ICANHAZ) == [[KTHXBAI, seq(0), b"", b"", b""]]
    bench.update(A)
    assert subscriber.take() == [pub(b"/a/1", 1, b"one")]


def test_a_subscriber_hears_its_prefixes_and_hears_nothing_twice() -> None:
    bench = Bench()
    subscriber = bench.subscriber(b"s", b"/a/", b"/a/1", b"/b/", b"/b/")
    bench.update(A, Update(b"/b/1", 2, b"two"), Update(b"/c/1", 3, b"three"))
    assert [frames[0] for frames in subscriber.take()] == [b"/a/1", b"/b/1"]
    subscriber.send(b"\0/b/")
    bench.update(Update(b"/b/1", 4, b"four"))
    assert [frames[1] for frames in subscriber.take()] == [seq(4)], "it had asked for that one twice"
    subscriber.send(b"\0/b/")
    subscriber.send(b"\0/nobody asked for that")
    bench.update(Update(b"/b/1", 5, b"five"), Update(b"/a/1", 6, b"six"))
    assert [frames[1] for frames in subscriber.take()] == [seq(6)]


def test_a_new_subscription_is_told_the_newest_updates_again() -> None:
    """So it does not matter which comes first, the subscription or the snapshot."""
    bench = Bench()
    bench.update(A, Update(b"/b/1", 2, b"two"), Update(b"/a/1", 3, None))
    late = bench.subscriber(b"s")
    late.subscribe(b"/a/")
    assert late.take() == [pub(b"/a/1", 1, b"one"), pub(b"/a/1", 3, b"")]
    late.subscribe(b"/a/1")
    assert late.take() == [], "what it was told already"
    late.subscribe(b"/")
    assert late.take() == [pub(b"/b/1", 2, b"two")]


def test_only_so_many_are_told_again_and_only_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone_state, "RECENT_MESSAGES", 3)
    bench = Bench()
    bench.update(*(Update(b"k", number, b"v") for number in range(1, 6)))
    late = bench.subscriber(b"s")
    late.subscribe(b"k")
    assert [frames[1] for frames in late.take()] == [seq(3), seq(4), seq(5)]
    bench.wait(clone_state.RECENT_SECONDS + 2)
    later = bench.subscriber(b"t")
    later.subscribe(b"k")
    assert later.take() == []
    monkeypatch.setattr(clone_state, "RECENT_BYTES", 100)
    bench.update(Update(b"k", 6, b"x" * 60), Update(b"k", 7, b"x" * 60))
    latest = bench.subscriber(b"u")
    latest.subscribe(b"k")
    assert [frames[1] for frames in latest.take()] == [seq(7)]


def test_hugz_proves_a_subscription_at_once_and_comes_each_second_to_whom_nothing_else_came() -> None:
    bench = Bench()
    idle, busy, other = bench.wire(b"i", "SUB"), bench.wire(b"b", "SUB"), bench.wire(b"o", "SUB")
    for subscriber, subtree in ((idle, b"/idle/"), (busy, b"/a/")):
        subscriber.subscribe(subtree)
        subscriber.subscribe(HUGZ)
        assert subscriber.take() == [pub(HUGZ, 0, b"")]
    other.subscribe(b"/idle/")
    for number in range(1, 6):
        bench.update(Update(b"/a/1", number, b"v"))
        bench.wait(1.0)
    assert idle.take() == [pub(HUGZ, number, b"") for number in range(1, 6)]
    assert [frames[0] for frames in busy.take()] == [b"/a/1"] * 5 and other.take() == []
    bench.wait(3.0)
    assert len(busy.take()) == 3 and bench.clone.deadline < bench.now + 1.1
    for subscriber in (idle, busy, other):
        subscriber.say(b"")
    assert bench.clone.deadline > 1e9, "nobody listens, so there is nothing to do"


def test_keys_that_would_be_taken_for_commands_are_told_to_nobody() -> None:
    bench = Bench(Update(KTHXBAI, 1, b"x"), seq=1)
    subscriber = bench.subscriber(b"s", b"")
    bench.update(Update(HUGZ, 2, b"x"), Update(b"HUGZ too", 3, b"x"))
    assert subscriber.take() == [pub(b"HUGZ too", 3, b"x")] and bench.dropped == {"reserved-key": 2}
    assert [frames[0] for frames in bench.ask(b"c", ICANHAZ)] == [b"HUGZ too", KTHXBAI]


def test_a_note_of_somebody_else_is_not_taken_for_properties() -> None:
    bench = Bench()
    subscriber = bench.subscriber(b"s", b"")
    for number, note in enumerate([b"\x10short", b"\x05other", b"\0no line", b"\xff"], 1):
        bench.update(Update(b"k", number, b"v", None, note))
    assert [frames[2:4] for frames in subscriber.take()] == [[b"", b""]] * 4


# -- snapshots ---------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_of_one_moment_whatever_comes_while_it_is_told() -> None:
    count = 3 * clone.PIECE_KEYS
    bench = Bench(*(Update(b"%d" % number, count, b"old") for number in range(count)), seq=count)
    bench.clone.receive(0, b"c", [ICANHAZ], bench.now)
    bench.turn(most=1)
    bench.update(*(Update(b"%d" % number, count + 1 + number, b"new") for number in range(count)))
    *entries, end = bench.told.pop(b"c")
    assert len(entries) == count and {frames[4] for frames in entries} == {b"old"} and end[1] == seq(count)
    assert {frames[4] for frames in bench.ask(b"c", ICANHAZ)} == {b"new", b""}


def test_what_was_told_before_a_snapshot_is_in_it() -> None:
    bench = Bench()
    subscriber = bench.subscriber(b"s", b"")
    for number in range(1, 20):
        bench.clone.update(Update(b"k%d" % (number % 3), number, b"%d" % number), bench.now)
        *entries, end = bench.ask(b"c", ICANHAZ)
        assert end[1] == seq(number) and max(frames[1] for frames in entries) == seq(number)
    assert len(subscriber.take()) == 19


def test_who_asks_in_a_loop_and_does_not_read_has_one_snapshot_under_way() -> None:
    bench = Bench(*(Update(b"%d" % number, 1, b"v") for number in range(10 * clone.PIECE_KEYS)), seq=1)
    bench.deaf[b"c"] = 0
    bench.clone.receive(0, b"c", [ICANHAZ], bench.now)
    bench.turn(most=1)
    bench.deaf[b"c"] = 1000
    for _ in range(100):
        bench.ask(b"c", ICANHAZ)
    first = bench.told.pop(b"c", [])
    assert first == [] and bench.dropped == {"asked-again": 100}
    assert len(bench.ask(b"d", ICANHAZ)) == 10 * clone.PIECE_KEYS + 1, "others are answered"
    assert not bench.clone.has_more
    bench.wait(clone.STALL_SECONDS + 1)
    assert bench.dropped == {"asked-again": 100, "snapshot-not-read": 1}
    bench.deaf.clear()
    assert len(bench.ask(b"c", ICANHAZ)) == 10 * clone.PIECE_KEYS + 1


def test_so_many_snapshots_run_at_once_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "RUNNING_MAX", 2)
    monkeypatch.setattr(clone, "SNAPSHOTS_MAX", 3)
    bench = Bench(*(Update(b"%d" % number, 1, b"v") for number in range(2 * clone.PIECE_KEYS)), seq=1)
    bench.deaf = dict.fromkeys([b"1", b"2"], 1)
    for peer in b"1", b"2", b"3", b"4", b"5", b"6":
        assert bench.ask(peer, ICANHAZ) == []
    assert bench.dropped == {"too-many-snapshots": 1}
    bench.deaf.clear()
    bench.turn()
    assert sorted(bench.told) == [b"1", b"2", b"3", b"4", b"5"]


def test_a_client_that_leaves_takes_its_snapshot_with_it() -> None:
    bench = Bench(*(Update(b"%d" % number, 1, b"v") for number in range(2 * clone.PIECE_KEYS)), seq=1)
    bench.deaf[b"c"] = 1
    bench.ask(b"c", ICANHAZ)
    bench.clone.gone(0, b"c", bench.now)
    bench.deaf.clear()
    bench.turn()
    assert bench.told == {} and bench.clone.deadline > 1e9


def test_a_snapshot_waits_until_the_topic_is_there() -> None:
    bench = Bench(A, seq=1)
    bench.clone.lost()
    assert bench.ask(b"c", ICANHAZ) == [] and not bench.clone.has_more
    bench.clone.load(A, bench.now)
    bench.clone.complete(5, bench.now)
    bench.turn()
    assert bench.told[b"c"] == [pub(b"/a/1", 1, b"one"), [KTHXBAI, seq(5), b"", b"", b""]]


def test_what_a_gap_hid_is_told_under_its_numbers() -> None:
    bench = Bench()
    subscriber = bench.subscriber(b"s", b"")
    bench.update(A, Update(b"same", 2, b"v", None, b""), Update(b"gone", 3, b"v"))
    subscriber.take()
    bench.clone.lost()  # 4 to 9 are in no history any more
    for update in (Update(b"same", 9, b"v"), Update(b"/a/1", 9, b"changed", 2.0), Update(b"new", 9, b"v", None, b"\0x=y\n")):
        bench.clone.load(update, bench.now)
    bench.update(Update(b"live", 10, b"v"))
    assert subscriber.take() == [], "nothing is told ahead of the gap"
    bench.clone.complete(10, bench.now)
    bench.turn()
    told = subscriber.take()
    assert [frames[0] for frames in told] == [b"/a/1", b"gone", b"new", b"live"]
    assert [frames[4] for frames in told] == [b"changed", b"", b"v", b"v"]
    numbers = [int.from_bytes(frames[1], "big") for frames in told]
    assert numbers == [4, 5, 6, 7] and told[0][3] == b"ttl=2.000000\n" and told[2][3] == b"x=y\n"
    bench.update(Update(b"live", 11, b"w"))
    assert [frames[1] for frames in subscriber.take()] == [seq(11)]
    assert bench.ask(b"c", ICANHAZ, b"live")[0] == pub(b"live", 11, b"w")


def test_a_node_that_begins_tells_its_newest_updates_and_knows_their_numbers() -> None:
    bench = Bench(complete=False)
    subscriber = bench.subscriber(b"s", b"")
    bench.update(Update(b"k", 3, b"v", 30.0))
    bench.now += 10.0
    for update in (Update(b"k", 3, b"v", 20.0), Update(b"old", 3, b"v")):
        bench.clone.load(update, bench.now)
    bench.clone.complete(3, bench.now)
    assert subscriber.take() == [pub(b"k", 3, b"v", props=b"ttl=30\n")]
    entries = bench.ask(b"c", ICANHAZ)
    assert entries == [pub(b"k", 3, b"v", props=b"ttl=1030.000000\n"), pub(b"old", 3, b"v"), [KTHXBAI, seq(3), b"", b"", b""]]
    bench.clone.load(Update(b"k", 9, b"v"), bench.now)
    assert bench.ask(b"c", ICANHAZ, b"k")[0][1] == seq(3)


def test_a_ttl_is_relative_when_it_is_told_and_a_moment_in_a_snapshot() -> None:
    bench = Bench(Update(b"k", 1, b"v", 30.0, chp.note(b"", b"a=b\nttl=60\nc=d\n")), seq=1)
    [entry, _] = bench.ask(b"c", ICANHAZ)
    assert entry == pub(b"k", 1, b"v", b"", b"a=b\nc=d\nttl=1030.000000\n")
    assert chp.ttl_of(entry[3]) == 1030.0
