"""Topics in threads, over real sockets: publishing, following, positions and names, bindings, and the end."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from handle_world import SOON, cut, eventually, freeze, in_thread
from topic_world import Fold, Pair, mq as mq, pair as pair, taken

import zmqkit
from zmqkit.codec import Undecodable
from zmqkit.machines import followers
from zmqkit.machines.following import Gap
from zmqkit.parcel import PARCEL_BYTES_MAX
from zmqkit.updates import UPDATES_BYTES_MAX


@dataclass
class Quote:
    bid: float
    ask: float


# -- publishing ------------------------------------------------------------------------------------------------------------------


def test_what_is_published_is_told_and_held_and_deleted(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    with t.subscribe() as sub:
        assert sub.wait_ready() and sub.state == {} and sub.get(timeout=0) is None
        receipt = t.publish("a", {"n": 1})
        assert (receipt.seq, receipt.duplicate, receipt.durability) == (1, False, "memory")
        event = taken(sub)
        assert event == ("a", {"n": 1}, 1, sub.position, False, False, None, receipt.node) and sub.state == {"a": {"n": 1}} and sub.seq == 1
        assert t.publish_soon("b", None).result(SOON).seq == 2
        batch = t.publish_many((f"k{n}", n) for n in range(3000))
        assert (batch.count, batch.first_seq, batch.last_seq) == (3000, 3, 3002)
        assert t.delete("b").seq == 3003
        fold = Fold(sub)
        fold.add(event)
        fold.until({"a": {"n": 1}, **{f"k{n}": n for n in range(3000)}}, 3003)
        assert [event.seq for event in fold.events] == list(range(1, 3004)) and not fold.gaps
        assert fold.events[1].value is None and not fold.events[1].deleted and fold.events[-1].deleted


def test_typed_values_are_checked_at_both_ends(mq: zmqkit.Client) -> None:
    typed, plain = mq.topic("t", Quote), mq.topic("t")
    with typed.subscribe() as sub:
        typed.publish("a", Quote(1.0, 2.0))
        assert taken(sub).value == Quote(1.0, 2.0) and sub.state["a"] == Quote(1.0, 2.0)
        with pytest.raises(zmqkit.Unencodable, match="not a Quote"):
            typed.publish("a", {"bid": 1.0})
        with pytest.raises(zmqkit.Unencodable, match=r"message 1: .*not a Quote") as raised:
            typed.publish_many([("a", Quote(3.0, 4.0)), ("b", 7)])  # type: ignore[list-item]
        assert raised.value.confirmed == 0  # type: ignore[attr-defined]
        plain.publish_many([("a", Quote(3.0, 4.0).__dict__), ("b", "none of them"), ("c", Quote(5.0, 6.0).__dict__)])
        assert taken(sub).value == Quote(3.0, 4.0)
        with pytest.raises(Undecodable, match="not a Quote"):
            sub.get(timeout=SOON)
        assert taken(sub)[:7] == ("c", Quote(5.0, 6.0), 4, sub.position, False, False, None)  # it went on behind the other
        with pytest.raises(Undecodable, match="not a Quote"):
            sub.state["b"]


@pytest.mark.parametrize("key", ["", "k" * 256, "é" * 128, "\ud800", 7, None, b"k"])
def test_a_key_that_is_none_is_refused_before_anything_is_sent(mq: zmqkit.Client, key: Any) -> None:
    t = mq.topic("t")
    for publish in (lambda: t.publish(key, 1), lambda: t.publish_soon(key, 1), lambda: t.delete(key)):
        with pytest.raises(ValueError, match="a key is a text of 1 to 255 bytes"):
            publish()
    with pytest.raises(zmqkit.Unencodable, match=r"message 0: .*a key is a text of 1 to 255 bytes"):
        t.publish_many([(key, 1)])
    assert t.publish("k" * 255, 1).seq == 1


def test_what_is_no_update_is_refused_before_anything_is_sent(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    for value in (object(), {1, 2}, 2**64, [[object()]]):
        with pytest.raises(zmqkit.Unencodable, match="cannot send"):
            t.publish("a", value)
    with pytest.raises(zmqkit.Unencodable, match="message 0: "):
        t.publish_many(["no pair"])  # type: ignore[list-item]
    for ttl in (0, -1, float("nan"), float("inf")):
        for publish in (lambda: t.publish("a", 1, ttl=ttl), lambda: t.publish_many([("a", 1)], ttl=ttl)):  # noqa: B023
            with pytest.raises(ValueError, match=r"ttl|duration"):
                publish()
    for name in ("", "\0t", "\1t", "t" * 255, 7):
        with pytest.raises(ValueError, match="a topic's name"):
            mq.topic(name)  # type: ignore[arg-type]
    assert t.publish("a", 1).seq == 1


def test_updates_of_any_size_up_to_the_limit_and_none_above(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    most = UPDATES_BYTES_MAX - len("a") - 1 - 10  # msgpack's headers of key and value
    for value in (bytes(most + 11), bytes(PARCEL_BYTES_MAX)):
        with pytest.raises(zmqkit.MessageTooLarge):
            t.publish("a", value)
        with pytest.raises(zmqkit.MessageTooLarge):
            t.publish_many([("a", value)])
    with t.subscribe() as sub:
        assert sub.wait_ready()
        let_go = freeze(mq)  # so that they stand in line together
        small, large = t.publish_soon("b", bytes(20)), t.publish_soon("a", bytes(most))
        let_go()
        assert (small.result(SOON).seq, large.result(SOON).seq) == (1, 2)
        assert t.publish_many([("b", bytes(20)), ("a", bytes(most))]).count == 2
        assert [len(taken(sub).value) for _ in range(4)] == [20, most, 20, most]
        assert len(sub.state["a"]) == most
    with t.subscribe() as late:  # as a piece of a snapshot, too
        assert late.wait_ready() and len(late.state["a"]) == most


def test_a_ttl_ends_by_a_deletion_that_all_see(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    with t.subscribe() as sub:
        t.publish("a", 1, ttl=timedelta(milliseconds=300))
        t.publish("b", 2, ttl=100)
        t.publish_many([("c", 3), ("d", 4)], ttl=0.3)
        with t.subscribe("a") as late:
            assert late.wait_ready() and late.state == {"a": 1}
            fold = Fold(sub)
            fold.until({"b": 2}, 7)
            assert sorted((e.key, e.deleted, e.seq > 4) for e in fold.events if e.key != "b") == [
                (key, gone, gone) for key in "acd" for gone in (False, True)
            ]
            assert taken(late).value == 1 and taken(late).deleted and late.state == {}


def test_a_value_with_a_ttl_hides_by_the_own_clock_of_who_is_cut_off(pair: Pair) -> None:
    node, mq = pair
    t = node.topic("t")
    with mq.topic("t").subscribe() as sub:
        t.publish("a", 1, ttl=0.4)
        t.publish("b", 2)
        eventually(lambda: sub.state == {"a": 1, "b": 2})
        let_go = freeze(node)
        eventually(lambda: sub.state == {"b": 2})
        assert "a" not in sub.state and len(sub.state) == 1 and sub.state.copy() == {"b": 2} and sub.seq == 2
        let_go()


# -- prefixes and beginnings -----------------------------------------------------------------------------------------------------


def test_several_prefixes_that_come_and_go(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    t.publish_many([(f"{letter}.{n}", n) for letter in "abcd" for n in range(3)])
    with t.subscribe("a.", "b.") as sub:
        assert sub.wait_ready() and set(sub.state) == {f"{letter}.{n}" for letter in "ab" for n in range(3)}
        t.publish("c.0", 7)
        t.publish("a.0", 8)
        events = [taken(sub) for _ in range(7)]
        assert events[-1][:3] == ("a.0", 8, 14) and {event.key[0] for event in events} == {"a", "b"}
        sub.add("c.")
        sub.add("d.0")  # at once: both count
        assert sub.wait_ready()
        assert sub.state.copy() == {"a.0": 8, "a.1": 1, "a.2": 2, "b.0": 0, "b.1": 1, "b.2": 2, "c.0": 7, "c.1": 1, "c.2": 2, "d.0": 0}
        news = [taken(sub) for _ in range(4)]
        assert all(event.from_snapshot and event.key[0] in "cd" for event in news)
        sub.remove("a.", "no such")
        sub.remove("b.")
        assert sub.wait_ready() and set(sub.state) == {"c.0", "c.1", "c.2", "d.0"}
        t.publish_many([("a.1", 9), ("b.1", 9), ("d.1", 9), ("d.0", 9)])
        assert taken(sub)[:3] == ("d.0", 9, 18)
        with pytest.raises(ValueError, match="close it"):
            sub.remove("c.", "d.0")
        sub.remove()
        sub.add()
        assert sub.get(timeout=0.05) is None and set(sub.state) == {"c.0", "c.1", "c.2", "d.0"}


def test_add_waits_for_what_is_added(pair: Pair) -> None:
    node, mq = pair
    node.topic("t").publish_many([("a", 1), ("b", 2)])
    with mq.topic("t").subscribe("a") as sub:
        assert sub.wait_ready()
        let_go = freeze(node)
        sub.add("b")
        assert not sub.wait_ready(0.1)
        let_go()
        assert sub.wait_ready() and sub.state == {"a": 1, "b": 2}


def test_prefixes_that_are_none_or_too_many_are_refused_before_anything_is_sent(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    for prefix in (7, None, "k" * 256, "\ud800"):
        with pytest.raises(ValueError, match="a key is a text"):
            t.subscribe(prefix)  # type: ignore[arg-type]
    for prefixes in ([f"k{n}" for n in range(65)], [f"{n}".zfill(250) for n in range(4)]):
        with pytest.raises(zmqkit.Error, match="up to 64 prefixes of 750 letters"):
            t.subscribe(*prefixes)
    with t.subscribe(*[f"{n}".zfill(11) for n in range(64)]) as sub:  # as much as may be
        assert sub.wait_ready()
        with pytest.raises(zmqkit.Error, match="up to 64 prefixes"):
            sub.add("one more")
        sub.remove(*[f"{n}".zfill(11) for n in range(32)])
        sub.add(*[f"{n}".zfill(11) for n in range(100, 132)])
        t.publish("x", 0)
        t.publish("131".zfill(11), 1)
        assert taken(sub).value == 1 and sub.wait_ready()
    for start in ("later", -1, 1.5, True, (1,), (1, -1), (2**24, 1), (1, 2**64), 2**64, None):
        with pytest.raises(ValueError, match="start="):
            t.subscribe(start=start)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a key is a text"):
        t.subscribe(name="n" * 256)
    assert mq._session.is_up


def test_a_subscription_begins_where_it_is_asked_to(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    t.publish_many([("a", 1), ("b", 2)])
    time.sleep(0.05)
    between = datetime.now()
    time.sleep(0.05)
    receipt = t.publish_many([("a", 3), ("c", 4)])
    with t.subscribe(start="beginning") as sub:
        positions = [taken(sub).position for _ in range(4)]
    starts: list[tuple[Any, list[Any]]] = [
        ("snapshot", [2, 3, 4]), ("now", []), ("beginning", [1, 2, 3, 4]), (positions[1], [3, 4]), (list(positions[3]), []),
        (0, [1, 2, 3, 4]), (3, [4]), (2**64 - 1, []), (between, [3, 4]), (datetime(1900, 1, 1), [1, 2, 3, 4]), (datetime(9999, 1, 1), []),
    ]  # fmt: skip
    subs = [(t.subscribe(start=start), values) for start, values in starts]
    assert all(sub.wait_ready() for sub, _ in subs)
    t.publish("d", 5)
    for (start, _), (sub, values) in zip(starts, subs, strict=True):
        events = [taken(sub) for _ in range(len(values) + 1)]
        assert sorted(event.value for event in events) == [*values, 5], start
        assert all(event.from_snapshot == (start == "snapshot") for event in events[:-1]) and not any(event.gap for event in events)
        assert sub.seq == receipt.last_seq + 1 and set(sub.state) >= {"d"}
        sub.close()


# -- positions and names ---------------------------------------------------------------------------------------------------------


def test_a_position_goes_on_in_another_client_and_over_a_restart_of_the_node(tmp_path: Path) -> None:
    journal, port = str(tmp_path), "tcp://127.0.0.1:0"
    with zmqkit.Node(port, journal=journal) as node, zmqkit.connect(node.endpoint) as mq:
        t = mq.topic("t")
        t.publish_many([("a", 1), ("b", 2), ("c", 3)])
        with t.subscribe(start="beginning") as sub:
            position = [taken(sub) for _ in range(2)][-1].position
    with zmqkit.Node(port, journal=journal) as node, zmqkit.connect(node.endpoint) as mq:
        mq.topic("t").publish("d", 4)
        with mq.topic("t").subscribe(start=position) as sub:
            assert [(event := taken(sub)).key for _ in range(2)] == ["c", "d"] and event.gap is None
            now = sub.position
        for nowhere in ((position[0], 4), (now[0], 5), (now[0] + 1, 5)):  # nobody has been there
            with mq.topic("t").subscribe(start=nowhere) as sub:
                assert taken(sub).gap == Gap(1, 0) and sub.wait_ready() and len(sub.state) == 4


def test_a_name_keeps_the_position_over_restarts_of_client_and_node(tmp_path: Path) -> None:
    journal, port = str(tmp_path), "tcp://127.0.0.1:0"
    with zmqkit.Node(port, journal=journal) as node:
        with zmqkit.connect(node.endpoint) as mq:
            mq.topic("t").publish_many([(f"k{n}", n) for n in range(10)])
            with mq.topic("t").subscribe(start="beginning", name="ui") as sub:
                assert [taken(sub).value for _ in range(4)] == [0, 1, 2, 3]
        with zmqkit.connect(node.endpoint) as mq:  # three were taken for good: the application came back for the fourth
            sub = mq.topic("t").subscribe(name="ui")  # nobody closes it but the client
            assert [taken(sub).value for _ in range(4)] == [3, 4, 5, 6]
    with zmqkit.Node(port, journal=journal) as node, zmqkit.connect(node.endpoint) as mq:
        with mq.topic("t").subscribe(name="ui") as sub:
            assert [taken(sub).value for _ in range(4)] == [6, 7, 8, 9] and sub.get(timeout=0.05) is None
        with mq.topic("t").subscribe(name="ui") as sub:  # the last one was taken, too
            assert sub.wait_ready() and sub.get(timeout=0.05) is None and sub.seq == 10


def test_a_name_keeps_nothing_before_the_snapshot_is_taken(mq: zmqkit.Client) -> None:
    t = mq.topic("t")
    t.publish_many([("a", 1), ("b", 2)])
    with t.subscribe(name="ui") as sub:
        assert {taken(sub).key, taken(sub).key} == {"a", "b"} and sub.get(timeout=0.05) is None
    with t.subscribe(name="ui") as sub:
        assert sub.wait_ready() and len(sub.state) == 2  # the snapshot once more
        t.publish("c", 3)
        assert {taken(sub).key for _ in range(3)} == {"a", "b", "c"} and sub.get(timeout=0) is None
    with t.subscribe(name="ui") as sub:
        assert sub.wait_ready() and sub.state == {} and sub.seq == 3


# -- bound and removed ---------------------------------------------------------------------------------------------------------------


def test_updates_under_a_bound_prefix_are_messages_of_a_queue_as_well(tmp_path: Path) -> None:
    with zmqkit.Node("tcp://127.0.0.1:*", journal=str(tmp_path)) as node:
        t, q = node.topic("orders"), node.queue("invoices")
        t.bind("paid.", queue="invoices")
        t.publish_many([("paid.1", {"sum": 3}), ("open.2", {"sum": 4})])
        t.delete("paid.1")
        assert t.info().bindings == {"invoices": ["paid."]}
    with zmqkit.Node("tcp://127.0.0.1:*", journal=str(tmp_path)) as node:
        t, q = node.topic("orders"), node.queue("invoices")
        told = [(d.body, d.headers) for d in q.get_many(2, timeout=SOON)]
        assert told == [
            ({"sum": 3}, {"topic": "orders", "key": "paid.1", "seq": 1}),
            (None, {"topic": "orders", "key": "paid.1", "seq": 3, "deleted": True}),
        ]
        t.unbind("paid.", queue="invoices")
        t.publish("paid.9", 1)
        assert not t.info().bindings and q.info().ready == 0
        with pytest.raises(ValueError):
            t.bind("paid.", queue="")


def test_who_follows_a_topic_that_is_removed_sees_every_key_deleted_and_goes_on(mq: zmqkit.Client) -> None:
    t = mq.topic("removed")
    t.publish_many([("a", 1), ("b", 2)])
    with t.subscribe() as sub:
        fold = Fold(sub)
        fold.until({"a": 1, "b": 2}, 2)
        t.remove()
        fold.until({}, 3)
        assert fold.gaps == [(3, 3)]
        t.publish("c", 3)
        fold.until({"c": 3}, 4)
    assert t.info().keys == 1


# -- the end ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "stop", "mq.stop", "mq.close"])
def test_a_loop_in_another_thread_ends(pair: Pair, end: str) -> None:
    node, mq = pair
    sub, seen = mq.topic("t").subscribe(), list[list[Any]]()

    def follow() -> None:
        mine: list[Any] = []
        seen.append(mine)
        mine.extend(event.value for event in sub)

    loops = [in_thread(follow) for _ in range(2)]
    assert sub.wait_ready()
    node.topic("t").publish("a", 1)
    eventually(lambda: [1] in seen)
    {"close": sub.close, "stop": sub.stop, "mq.stop": mq.stop, "mq.close": mq.close}[end]()
    for loop in loops:
        loop.join(SOON)
    assert sorted(seen) == [[], [1]] and sub.state == {"a": 1}
    eventually(lambda: not _followers(node))
    if end == "mq.close":
        with pytest.raises(zmqkit.Closed):
            sub.get()
        with pytest.raises(zmqkit.Closed):
            sub.add("x")
        with pytest.raises(zmqkit.Closed):
            sub.wait_ready()
    else:
        assert sub.get() is None and list(sub) == []
    sub.close()  # once more is no error


def test_a_loop_ends_also_where_its_client_is_closed_just_before_it_waits(mq: zmqkit.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sub = mq.topic("t").subscribe()
    assert sub.wait_ready()
    take = sub._feed.take

    def taken_too_late() -> Any:
        event = take()
        mq.close()
        return event

    monkeypatch.setattr(sub._feed, "take", taken_too_late)
    assert list(sub) == []


def _followers(node: zmqkit.Node) -> int:
    return int(node._session.ask("topic_info", {"topic": "t"}, SOON)["subscribers"])


def test_stop_in_a_signal_handler_ends_the_loop_of_the_main_thread(mq: zmqkit.Client) -> None:
    sub = mq.topic("t").subscribe()
    before = signal.signal(signal.SIGUSR1, lambda *_: sub.stop())
    try:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert list(sub) == []
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_wait_for_the_state_ends_with_the_subscription(pair: Pair) -> None:
    node, mq = pair
    let_go = freeze(node)
    sub, answers = mq.topic("t").subscribe(), list[bool]()
    waiter = in_thread(lambda: answers.append(sub.wait_ready(None)))
    assert not sub.wait_ready(0.05)
    sub.close()
    waiter.join(SOON)
    assert answers == [False]
    let_go()


def test_a_subscription_that_the_node_refuses_raises(mq: zmqkit.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "SUBSCRIPTIONS_MAX", 1)
    t = mq.topic("t")
    with t.subscribe() as sub, t.subscribe() as refused:
        for use in (lambda: refused.get(timeout=SOON), lambda: refused.wait_ready(SOON), lambda: list(refused)):
            with pytest.raises(zmqkit.QuotaExceeded, match="as many as one may have"):
                use()
        cut(mq)
        t.publish("a", 1)
        assert taken(sub).value == 1


def test_subscriptions_that_are_closed_leave_nothing_behind(pair: Pair) -> None:
    node, mq = pair
    for _ in range(20):
        with mq.topic("t").subscribe() as sub:
            assert sub.wait_ready()
    eventually(lambda: not _followers(node))
    assert not mq._session.feeds and not mq._session.machine.following.subscriptions


def test_who_shares_a_subscription_gets_events_in_order_and_is_told_of_the_rest_of_a_batch(mq: zmqkit.Client) -> None:
    class Slow(int):
        @classmethod
        def model_validate(cls, body: int) -> Slow:
            began.set()
            time.sleep(0.1 if body == 1 else 0.0)
            return cls(body)

    began, ended = threading.Event(), list[int]()
    mq.topic("t").publish_many([("a", 1), ("b", 2), ("c", 3)])
    with mq.topic("t", Slow).subscribe(start="beginning") as sub:
        first = in_thread(lambda: ended.append(taken(sub).value))
        assert began.wait(SOON)
        ended.append(taken(sub).value)
        first.join(SOON)
        assert ended == [1, 2] and sub._feed.wait(0) and sub.get(timeout=0)


def test_threads_may_share_a_subscription(mq: zmqkit.Client) -> None:
    t, seen = mq.topic("t"), list[int]()
    with t.subscribe() as sub:
        loops = [in_thread(lambda: seen.extend(event.seq for event in sub)) for _ in range(4)]
        assert sub.wait_ready()
        for n in range(20):
            t.publish_many([("k", n)] * 200)
        eventually(lambda: len(seen) == 4000)
        sub.stop()
        for loop in loops:
            loop.join(SOON)
        assert sorted(seen) == list(range(1, 4001))
