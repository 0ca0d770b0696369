"""Topics that are deleted, and topics whose updates are messages of a queue, too: over crashes at any record."""

from __future__ import annotations

import msgpack
import pytest
from node_bench import ManualLog, name
from test_machine_topics import MARKED, TopicNode

from zmqkit import records, wire
from zmqkit.machines import binding
from zmqkit.parcel import Parcel


def bound(bench: TopicNode, peer: bytes, *bindings: tuple[str, str], verb: str = "topic_bind") -> None:
    for prefix, queue in bindings:
        bench.asked += 1
        assert bench.ask(peer, bench.asked, verb, topic="t", prefix=prefix, queue=queue) == {}


def deleted(bench: TopicNode, peer: bytes) -> int:
    bench.asked += 1
    count: int = bench.ask(peer, bench.asked, "topic_delete", topic="t")["count"]
    return count


def messages(bench: TopicNode, queue: str) -> list[tuple[bytes, dict[str, object]]]:
    """Every message of a queue, in order: body and headers."""
    reader = bench.connect("z", link=bench.asked)
    bench.asked += 1
    result = bench.ask(reader, bench.asked, "peek", queue=queue, state="ready", count=1000)
    found: list[tuple[bytes, dict[str, object]]] = []
    for count, frames in result["parcels"]:
        parcel = Parcel.from_frames(count, frames)
        found += zip(map(bytes, parcel.messages()), parcel.unpack_columns()["headers"], strict=True)
    return found


# -- deleted ---------------------------------------------------------------------------------------------------------------------------


def test_a_deleted_topic_is_gone_for_good_with_all_its_bodies() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bench.publish(producer, 1, ("a", b"1"), ("b", b"2"))
    bound(bench, producer, ("", "q"))
    assert deleted(bench, producer) == 2 and deleted(bench, producer) == 0
    assert not bench.topics.hosted and bench.log.released == {3}
    for again in (bench.again(), bench.again(snapshot=True)):
        assert not again.topics.hosted and again.log.released == {3}


def test_who_follows_a_deleted_topic_is_told_a_gap_and_goes_on_with_the_next_one() -> None:
    bench = TopicNode()
    producer, reader = bench.connect("p"), bench.connect("r")
    bench.publish(producer, 1, ("a", b"1"))
    bench.sub(reader)
    bench.sent[reader].clear()
    deleted(bench, producer)
    (reset,) = bench.hear(reader, wire.Reset)
    assert (reset.first, reset.last, reset.scope, reset.seq) == (2, 2, wire.Scope.ALL, 2)
    assert bench.hear(reader, wire.Chunk) == [] and len(bench.hear(reader, wire.At)) == 1
    bench.publish(producer, 2, ("b", b"2"))
    (live,) = bench.hear(reader, wire.Live)
    assert (live.prev, live.first) == (2, 3) and bench.state() == {"b": b"2"}
    assert bench.hear(producer, wire.Confirm)[-1].first == 2  # the producer's numbers go on
    bench.say(reader, wire.Unsub(1))
    assert bench.again().state() == {"b": b"2"}


@pytest.mark.parametrize("behind", [0, 1])
def test_a_position_in_a_topic_that_was_deleted_is_never_taken_for_one_in_the_next(behind: int) -> None:
    bench = TopicNode()
    producer, reader = bench.connect("p"), bench.connect("r")
    bench.publish(producer, 1, ("a", b"1"), ("b", b"2"))
    deleted(bench, producer)
    bench.publish(producer, 3, ("c", b"3"))
    bench.sub(reader, start=wire.Start.POSITION, epoch=1, seq=2 - behind)
    (reset,) = bench.hear(reader, wire.Reset)
    assert reset.scope == wire.Scope.ALL and (reset.first, reset.last) == (3 - behind, 4)
    again = bench.again()
    reader = again.connect("r", link=2)
    again.sub(reader, start=wire.Start.POSITION, epoch=1, seq=2)
    assert again.hear(reader, wire.Reset)[0].scope == wire.Scope.ALL


def test_updates_on_their_way_to_the_disk_go_with_their_topic() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bench.auto_sync = False
    bench.publish(producer, 1, ("a", b"1"))
    bench.say(producer, wire.Ask(1, 1, "topic_delete", {"topic": "t"}))
    bench.sync()
    assert len(bench.hear(producer, wire.Told)) == 1
    assert not bench.topics.hosted and len(bench.log.released) == 1


# -- bound -----------------------------------------------------------------------------------------------------------------------------


def test_updates_under_a_prefix_are_messages_too() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bound(bench, producer, ("paid.", "invoices"), ("late.", "invoices"), ("", "all"), ("", "all"))
    bench.publish(producer, 1, ("paid.1", msgpack.packb("one")), ("open.2", msgpack.packb("two")), ("late.3", None))
    assert messages(bench, "invoices") == [
        (msgpack.packb("one"), {"topic": "t", "key": "paid.1", "seq": 1}),
        (b"\xc0", {"topic": "t", "key": "late.3", "seq": 3, "deleted": True}),
    ]
    assert [headers["seq"] for _, headers in messages(bench, "all")] == [1, 2, 3]
    assert bench.topics.info(MARKED)["bindings"] == {"invoices": ("paid.", "late."), "all": ("",)}
    bound(bench, producer, ("late.", "invoices"), ("", "all"), verb="topic_unbind")
    bench.publish(producer, 4, ("late.4", b"\xc0"), ("paid.5", b"\xc0"), ttl=5.0)
    assert [headers["seq"] for _, headers in messages(bench, "invoices")] == [1, 3, 5] and len(messages(bench, "all")) == 3
    bench.wait(6.0)  # what the node deletes is an update as well
    assert [headers.get("deleted") for _, headers in messages(bench, "invoices")] == [None, True, None, True]


def test_the_confirm_waits_for_the_messages_and_a_repeat_makes_none() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bound(bench, producer, ("", "q"))
    bench.auto_sync = False
    bench.publish(producer, 1, ("a", b"\x01"))
    bench.sync(bench.log.last - 1)  # the updates, and not the messages
    assert bench.hear(producer, wire.Confirm) == []
    bench.sync()
    assert len(bench.hear(producer, wire.Confirm)) == 1
    bench.publish(producer, 1, ("a", b"\x01"))
    bench.sync()
    assert len(bench.hear(producer, wire.Confirm)) == 1 and len(messages(bench, "q")) == 1


@pytest.mark.parametrize("on_full", ["reject", "block", "drop_oldest"])
def test_a_full_queue_refuses_both_or_makes_room(on_full: str) -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bound(bench, producer, ("", "q"))
    bench.declare(producer, max_messages=2, on_full=on_full)
    bench.publish(producer, 1, ("a", b"\x01"), ("b", b"\x02"))
    bench.publish(producer, 3, ("c", b"\x03"))
    refused = bench.hear(producer, wire.Refused)
    seqs = [headers["seq"] for _, headers in messages(bench, "q")]
    if on_full == "drop_oldest":
        assert not refused and seqs == [2, 3] and len(bench.state()) == 3
    else:
        assert [word.code for word in refused] == [wire.Code.WAIT if on_full == "block" else wire.Code.FULL]
        assert seqs == [1, 2] and len(bench.state()) == 2


def test_a_crash_between_updates_and_messages_leaves_never_one_without_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "PART", 2)
    bench = TopicNode()
    producer = bench.connect("p")
    bound(bench, producer, ("", "one"), ("b", "two"))
    for first in (1, 4):
        bench.publish(producer, first, *[(key, msgpack.packb(first)) for key in ("a", "b1", "b2")])
    for kept in range(bench.log.last + 1):
        again = bench.again(kept)
        seqs = range(1, again.topic.head + 1) if again.topics.hosted else ()
        if again.topics.hosted and again.topic.bindings.keys() == {"one", "two"}:
            assert [headers["seq"] for _, headers in messages(again, "one")] == list(seqs)
            assert [headers["seq"] for _, headers in messages(again, "two")] == [seq for seq in seqs if seq % 3 != 1]
        third = again.again()
        for queue in again.machine.core.queues:
            assert messages(third, queue) == messages(again, queue)


def test_a_restart_after_a_bound_queue_was_deleted_makes_it_not_again() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bound(bench, producer, ("", "q"))
    bench.publish(producer, 1, ("a", b"\x01"))
    bench.ask(producer, bench.asked + 1, "delete", queue="q")
    assert "q" not in bench.again().machine.core.queues
    bench = bench.again(snapshot=True)
    producer = bench.connect("p", link=2)
    bench.publish(producer, 2, ("b", b"\x01"))
    assert len(messages(bench, "q")) == 1  # the binding holds


def test_bindings_are_limited_and_checked() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bound(bench, producer, *[(f"{n}", "q") for n in range(binding.BINDINGS_MAX)])
    assert "up to 64 bindings" in bench.ask(producer, 7000, "topic_bind", topic="t", prefix="x", queue="q")["text"]
    for wrong in ({"prefix": "x" * 256}, {"prefix": 1}, {"queue": "\1t"}, {"queue": ""}):
        arguments = {"topic": "t", "prefix": "x", "queue": "q", **wrong}
        bench.asked += 1
        assert bench.ask(producer, bench.asked, "topic_bind", **arguments)["error"] == wire.Code.MALFORMED


def test_the_messages_of_a_large_batch_fit_their_records() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bound(bench, producer, ("k", "q"))
    bench.publish(producer, 1, *[("k" * 240 + str(n), b"\x01") for n in range(2000)])
    puts = [record for record in ManualLog(bench.log.items).records() if isinstance(record, records.Put) and not record.client]
    assert sum(put.count for put in puts) == 2000
    for put in puts:
        put.parcel.check()
    assert bench.machine.core.queues["q"].ready == 2000 and name("p") in bench.machine.core.clients
