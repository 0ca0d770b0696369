"""Topics in threads that meet trouble: links that are cut, nodes that are killed or several, and subscribers that are slow."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from cli_world import node as broker
from handle_world import SOON, eventually, in_thread
from proxy import proxy_to
from topic_world import Fold, Pair, declare, pair as pair, taken

import zmqkit
from zmqkit.handles import feed
from zmqkit.machines.following import Changes, Subscription

# -- several nodes ---------------------------------------------------------------------------------------------------------------------


def test_a_topic_at_several_nodes_is_followed_as_one() -> None:
    with zmqkit.Node("tcp://127.0.0.1:*") as one, zmqkit.Node("tcp://127.0.0.1:*") as other:
        nodes = [one.topic("t"), other.topic("t")]
        nodes[0].publish_many([("a", 1), ("shared", "one")])
        with zmqkit.connect(one.endpoint, other.endpoint) as mq, mq.topic("t").subscribe() as sub:
            assert sub.wait_ready() and sub.state == {"a": 1, "shared": "one"}
            ids = [nodes[0].publish("b", 2).node, nodes[1].publish("c", 3).node]
            nodes[1].publish("shared", "other")
            fold = Fold(sub)
            fold.merged({"a": 1, "b": 2, "c": 3, "shared": "other"})
            assert {event.key: event.node for event in fold.events} == {"a": ids[0], "b": ids[0], "c": ids[1], "shared": ids[1]}
            nodes[1].delete("shared")  # the last word of any node counts
            nodes[0].delete("a")
            fold.merged({"b": 2, "c": 3})
            assert [*sub.positions] == [one.endpoint, other.endpoint] and [seq for _, seq in sub.positions.values()] == [4, 3]
            for wrong in (lambda: sub.seq, lambda: sub.position):
                with pytest.raises(zmqkit.Error, match="several nodes"):
                    wrong()
            with pytest.raises(ValueError, match="several nodes"):
                mq.topic("t").subscribe(start=7)


def test_a_snapshot_of_one_of_several_nodes_deletes_nothing_of_the_others(tmp_path: Path) -> None:
    with zmqkit.Node("tcp://127.0.0.1:*") as one, broker(tmp_path) as process:
        one.topic("t").publish("a", 1)
        with zmqkit.connect(process.endpoint) as mq:
            mq.topic("t").publish("b", 2)
        with zmqkit.connect(one.endpoint, process.endpoint) as mq, mq.topic("t").subscribe() as sub:
            fold = Fold(sub)
            fold.merged({"a": 1, "b": 2})
            with zmqkit.connect(process.endpoint) as other:
                other.topic("t").remove()
            fold.merged({"a": 1})
            process.kill()
            one.topic("t").publish("c", 3)
            fold.merged({"a": 1, "c": 3})
            process.start()
            with zmqkit.connect(process.endpoint) as other:
                other.topic("t").publish("d", 4)
            fold.merged({"a": 1, "c": 3, "d": 4})


def test_who_takes_nothing_of_several_nodes_has_their_state_and_is_told_of_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "UNTAKEN_BYTES", 20_000)
    with (
        zmqkit.Node("tcp://127.0.0.1:*") as one,
        zmqkit.Node("tcp://127.0.0.1:*") as other,
        zmqkit.connect(one.endpoint, other.endpoint) as mq,
        mq.topic("t").subscribe() as sub,
    ):
        assert sub.wait_ready()
        for n in range(100):
            one.topic("t").publish(f"a{n % 7}", "x" * 1000 + str(n))
            other.topic("t").publish(f"b{n % 7}", "x" * 1000 + str(n))
        truth = {f"{letter}{n % 7}": "x" * 1000 + str(n) for n in range(100) for letter in "ab"}
        eventually(lambda: sub.state == truth)
        fold = Fold(sub)
        fold.merged(truth)
        assert fold.gaps


# -- links that are cut, nodes that are killed -----------------------------------------------------------------------------------


def test_links_that_are_cut_lose_and_double_nothing(pair: Pair) -> None:
    node, _ = pair
    t = node.topic("t")
    truth: dict[str, int] = {}
    with proxy_to(node.endpoint) as proxy, zmqkit.connect(proxy.endpoint) as mq, mq.topic("t").subscribe(start="beginning") as sub:
        fold, seq = Fold(sub), 0
        for round in range(5):
            pairs = [(f"k{n % 700}", 1000 * round + n) for n in range(1000)]
            half = len(pairs) // 2
            t.publish_many(pairs[:half])
            for _ in range(100 * round):
                fold.add(taken(sub))
            proxy.cut()
            t.publish_many(pairs[half:])
            t.delete(f"k{round}")
            truth |= dict(pairs)
            truth.pop(f"k{round}", None)
            seq += len(pairs) + 1
        fold.until(truth, seq)
        assert [event.seq for event in fold.events] == list(range(1, seq + 1)) and not fold.gaps


def test_a_node_that_is_killed_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    truth: dict[str, int] = {}
    confirmed, ended = threading.Event(), threading.Event()
    with broker(tmp_path) as process, zmqkit.connect(process.endpoint) as mq, zmqkit.connect(process.endpoint) as other:
        t = mq.topic("t")

        def publish() -> None:
            for n in range(400):
                t.publish(f"k{n % 50}", n, timeout=4 * SOON)  # in order, and each once, however often it had to be said
                truth[f"k{n % 50}"] = n
                if n % 100 == 50:
                    confirmed.set()
            ended.set()

        publisher = in_thread(publish)
        with other.topic("t").subscribe(start="beginning", name="ui") as sub:
            fold = Fold(sub)
            for _ in range(2):
                assert confirmed.wait(SOON)
                confirmed.clear()
                process.kill()
                process.start()
            publisher.join(4 * SOON)
            assert ended.is_set()
            fold.until(truth, 400)
            assert [event.value for event in fold.events] == list(range(400)) and not fold.gaps
        with other.topic("t").subscribe() as sub:
            assert sub.wait_ready() and sub.state == truth


# -- slow ones, and such as never iterate ----------------------------------------------------------------------------------------


def test_who_never_iterates_has_the_state_and_bounded_memory(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "UNTAKEN_BYTES", 20_000)
    node, mq = pair
    t = node.topic("t")
    t.publish_many([(f"k{n}", "old") for n in range(100)])
    with mq.topic("t").subscribe() as sub:
        assert sub.wait_ready()
        total = 0
        for round in range(12):  # more than a window
            t.publish_many([(f"k{n}", f"{round} " + "x" * 1000) for n in range(1000)])
            total += 1000
            eventually(lambda: sub.seq == 100 + total)  # noqa: B023
            assert sub._feed._bytes <= 20_000 and len(sub._feed._waiting) <= 100
        assert total * 1000 > 8 * 1024 * 1024 and sub.state.copy() == {f"k{n}": "11 " + "x" * 1000 for n in range(1000)}
        # Whoever begins to take now is told, and gets the state.
        t.publish("new", 1)
        eventually(lambda: sub.seq == 101 + total)
        fold = Fold(sub)
        fold.until(sub.state.copy(), 101 + total)
        first = fold.events[0]
        assert first.gap is not None and first.gap.first == 101 and 101 <= first.gap.last <= 101 + total and first.from_snapshot
        assert len(fold.gaps) == 1 and len(fold.events) < 3000
        t.publish("new", 2)  # from now on it gets all
        assert taken(sub)[:2] == ("new", 2)


def test_what_is_given_up_makes_room_at_once() -> None:
    """Else the node learns of it by the next heartbeat, and an untaken subscription goes by a window a second."""
    woken: list[bool] = []
    subscription = Subscription("t")
    untaken = feed.Feed(subscription.state, None, lambda: woken.append(True))
    untaken.sources[subscription] = feed.Source(subscription, str)
    for size, wakes in ((feed.UNTAKEN_BYTES, 0), (1, 1), (feed.UNTAKEN_BYTES, 1)):
        subscription.news.append(Changes(["a"], [b"1"], range(1, 2), 1, size, True, False, True))
        untaken.came(subscription)
        assert len(woken) == wakes


def test_a_slow_loop_is_told_a_gap_where_the_history_is_short(pair: Pair) -> None:
    node, mq = pair
    declare(node, "t", max_messages=2000)
    t = node.topic("t")
    big, rounds = "x" * 10_000, 5
    t.publish_many([("gone", 0), ("kept", 0)])
    with mq.topic("t").subscribe() as sub:
        fold = Fold(sub)
        fold.add(taken(sub))  # it takes events, and then is slow
        for round in range(rounds):
            t.publish_many([(f"k{n}", f"{round}{big}") for n in range(1000)])
            if round == 1:
                t.delete("gone")
        head = 3 + 1000 * rounds
        assert sub.seq < head  # its window is full
        fold.until({"kept": 0, **{f"k{n}": f"{rounds - 1}{big}" for n in range(1000)}}, head)
        assert len(fold.gaps) == 1 and 3 < fold.gaps[0].first < fold.gaps[0].last == head
        assert ("gone", None) in fold.told


def test_a_slow_loop_slows_nobody_else(pair: Pair) -> None:
    node, mq = pair
    t = node.topic("t")
    with mq.topic("t").subscribe(start="now") as slow, mq.topic("t").subscribe(start="now") as quick:
        assert slow.wait_ready() and quick.wait_ready()
        t.publish("first", 0)
        taken(slow), taken(quick)
        for n in range(12):
            t.publish_many([(f"k{n}", bytes(1000)) for _ in range(1000)])
            assert all(taken(quick).seq == 1000 * n + place + 2 for place in range(1000))
        assert slow.seq < quick.seq == 12_001
        assert [taken(slow).seq for _ in range(12_000)] == list(range(2, 12_002))  # it gets all, in its time
