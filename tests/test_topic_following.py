"""Subscribers and the topic they follow: snapshots, gaps, windows, prefixes, links that are cut. Pure machines."""

from __future__ import annotations

import random
from typing import Any

import pytest
from topic_bench import EPOCH, TopicBench

from zmqkit import framing, wire
from zmqkit.machines.following import Changes, Gap
from zmqkit.wire import Start


def test_a_late_joiner_gets_the_state_and_then_what_changes() -> None:
    bench = TopicBench()
    bench.publish(("a", b"1"), ("b", b"2"), ("c", b"3"))
    bench.publish(("a", b"4"), ("b", None))
    follower = bench.follower()
    subscription = follower.subscribe("t")
    follower.say()
    bench.settle()
    assert subscription.loaded and subscription.state == {"a": b"4", "c": b"3"}
    bench.publish(("d", b"5"), ("a", None))
    bench.settle()
    assert follower.seen == [("a", b"4", 5, True), ("c", b"3", 5, True), ("d", b"5", 6, False), ("a", None, 7, False)]
    assert subscription.state == follower.fold == {"c": b"3", "d": b"5"} and subscription.seq == 7 and not follower.gaps


def test_the_state_has_an_update_before_its_number_is_shown() -> None:
    """Else a thread that waits for the number reads the state before it."""
    shown: list[int] = []

    class State(dict[str, Any]):
        def update(self, *pairs: Any, **more: Any) -> None:
            shown.append(subscription.seq)
            super().update(*pairs, **more)

        def pop(self, *arguments: Any) -> Any:
            shown.append(subscription.seq)
            return super().pop(*arguments)

    bench = TopicBench()
    follower = bench.follower()
    subscription = follower.subscribe("t")
    bench.settle()
    subscription.states = [State()]
    for value in (b"1", b"2", None):
        bench.publish(("a", value))
        bench.settle()
    assert subscription.seq == 3 and shown == [0, 1, 2]


def test_updates_go_on_between_the_pieces_of_a_snapshot() -> None:
    bench = TopicBench()
    for start in range(0, 3000, 1000):
        bench.publish(*[(f"k{number}", b"old") for number in range(start, start + 1000)])
    follower = bench.follower(window=1)  # one frame at a time
    subscription = follower.subscribe("t")
    follower.say()
    for turn in range(20):
        bench.serve()
        follower.listen()
        bench.publish((f"k{turn * 100}", b"new"), (f"k{turn * 100 + 50}", None), (f"n{turn}", b"new"))
    bench.settle()
    assert subscription.loaded and subscription.state == follower.fold == bench.truth(subscription.seq)
    assert subscription.seq == len(bench.log) and not follower.gaps


def test_who_falls_behind_the_history_is_told_and_gets_a_new_snapshot_with_deletions() -> None:
    bench = TopicBench(max_messages=10)
    bench.publish(("a", b"1"), ("b", b"1"))
    follower = bench.follower(window=1)
    subscription = follower.subscribe("t")
    follower.say()
    bench.settle()
    follower.hold = True
    bench.publish(("a", b"2"))
    bench.serve()
    bench.publish(("b", None))
    for number in range(50):
        bench.publish((f"k{number}", b"3"))
    follower.hold = False
    bench.settle()
    assert follower.gaps == [Gap(4, 54)]
    assert ("b", None, 54, True) in follower.seen
    assert subscription.state == follower.fold == bench.truth(54)


@pytest.mark.parametrize(
    ("start", "seq", "expected"),
    [(Start.NOW, 0, []), (Start.BEGINNING, 0, [1, 2, 3, 4]), (Start.SEQ, 2, [3, 4]), (Start.SEQ, 9, []), (Start.TIME, 0, [3, 4])],
)
def test_a_subscription_begins_where_it_is_asked_to(start: Start, seq: int, expected: list[int]) -> None:
    bench = TopicBench()
    bench.publish(("a", b"1"), ("b", b"2"))
    bench.now += 10.0
    bench.publish(("a", b"3"), ("b", b"4"))
    follower = bench.follower()
    follower.subscribe("t", start=start, seq=seq, time=1005.0)
    follower.say()
    bench.settle()
    assert [number for _, _, number, _ in follower.seen] == expected
    bench.publish(("c", b"5"))
    bench.settle()
    assert follower.seen[-1] == ("c", b"5", 5, False) and not follower.gaps


def test_a_position_goes_on_where_it_was_and_one_that_means_nothing_any_more_is_a_gap() -> None:
    bench = TopicBench()
    bench.publish(("a", b"1"), ("b", b"2"), ("a", b"3"))
    for epoch, seq, gaps in ((EPOCH, 1, []), (EPOCH, 9, [Gap(1, 0)]), (EPOCH - 1, 2, [Gap(1, 0)])):
        follower = bench.follower()
        follower.subscribe("t", start=Start.POSITION, epoch=epoch, seq=seq)
        follower.say()
        bench.settle()
        assert follower.gaps == gaps
        assert [n for _, _, n, _ in follower.seen] == ([2, 3] if not gaps else [3, 3])


def test_an_update_that_does_not_follow_what_we_know_is_not_applied_but_asked_for_again() -> None:
    bench = TopicBench()
    bench.publish(("a", b"1"))
    follower = bench.follower()
    subscription = follower.subscribe("t")
    follower.say()
    bench.settle()
    bench.publish(("a", b"2"))
    bench.publish(("b", b"3"))
    bench.serve()
    follower.inbox.popleft()  # lost, as no link of ours can lose it
    assert follower.machine.hear(follower.inbox[0], bench.now) == "update-out-of-order" and subscription.state == {"a": b"1"}
    bench.settle()
    assert subscription.state == follower.fold == {"a": b"2", "b": b"3"} and not follower.gaps


def test_a_name_keeps_the_position_and_belongs_to_the_newest() -> None:
    bench = TopicBench()
    bench.publish(("a", b"1"), ("b", b"2"))
    first, second = bench.follower(), bench.follower()
    one = first.subscribe("t", name="ui")
    first.say()
    bench.settle()
    first.machine.keep(one, EPOCH, 2)
    first.say()
    bench.publish(("c", b"3"))
    two = second.subscribe("t", name="ui")
    second.say()
    bench.settle()
    assert [n for _, _, n, _ in second.seen] == [3] and not second.gaps
    first.machine.keep(one, EPOCH, 3)  # the older one does not move it any more
    first.say()
    assert bench.topic.names == {"ui": (EPOCH, 2)}
    second.machine.keep(two, EPOCH, 3)
    second.machine.keep(two, EPOCH, 2)  # nor does it go back
    second.say()
    assert bench.topic.names == {"ui": (EPOCH, 3)}


def test_prefixes_come_and_go() -> None:
    bench = TopicBench()
    bench.publish(("a.1", b"1"), ("b.1", b"2"), ("c.1", b"3"))
    follower = bench.follower()
    subscription = follower.subscribe("t", ("a.",))
    follower.say()
    bench.settle()
    assert subscription.state == {"a.1": b"1"}
    follower.machine.change(subscription, ("a.", "b."))
    follower.say()
    bench.publish(("b.2", b"4"), ("c.2", b"5"))
    bench.settle()
    assert subscription.state == {"a.1": b"1", "b.1": b"2", "b.2": b"4"} and subscription.loaded and not follower.gaps
    assert [key for key, *_ in follower.seen].count("a.1") == 1  # what it had was not told again
    follower.machine.change(subscription, ("b.",))
    follower.say()
    bench.publish(("a.2", b"6"))
    bench.settle()
    assert subscription.state == {"b.1": b"2", "b.2": b"4"} and subscription.seq == 6


def test_a_kept_position_is_said_again_on_each_link() -> None:
    bench = TopicBench()
    bench.publish(("a", b"1"), ("b", b"2"))
    follower = bench.follower()
    subscription = follower.subscribe("t", name="ui")
    follower.say()
    bench.settle()
    follower.machine.keep(subscription, EPOCH, 2)
    follower.cut()
    follower.up()  # the word was lost
    assert bench.topic.names == {"ui": (EPOCH, 2)}
    follower.up(changed=True)  # of that node it means nothing
    assert subscription.kept is None


def test_an_update_between_pieces_of_a_snapshot_is_no_position_to_keep() -> None:
    bench = TopicBench()
    for start in range(0, 3000, 1000):
        bench.publish(*[(f"k{number}", b"old") for number in range(start, start + 1000)])
    follower = bench.follower(window=1)
    subscription = follower.subscribe("t")
    follower.say()
    bench.serve()
    bench.publish(("k1", b"new"))
    whole = []
    for _ in range(10):
        while follower.inbox:
            assert not follower.machine.hear(follower.inbox.popleft(), bench.now)  # type: ignore[arg-type]
        whole += [(item.snapshot, item.whole) for item in subscription.news if isinstance(item, Changes)]
        follower.listen()
        bench.serve()
    bench.publish(("k1", b"newer"))
    bench.serve()
    assert not follower.machine.hear(follower.inbox.popleft(), bench.now)  # type: ignore[arg-type]
    whole += [(item.snapshot, item.whole) for item in subscription.news if isinstance(item, Changes)]
    assert whole == [(True, False), (False, False), (True, False), (True, False), (False, True)]


def test_a_subscription_that_the_node_refuses_is_over() -> None:
    bench = TopicBench()
    follower = bench.follower()
    subscription, other = follower.subscribe("t"), follower.subscribe("t")
    follower.say()
    refused = wire.Refused(wire.Kind.SUB, "t", subscription.number, 1, wire.Code.QUOTA, 1.0, "too many")
    follower.machine.refused(refused)
    follower.machine.refused(refused)
    assert follower.machine.take_changed() == [subscription] and subscription.news == [refused]
    assert follower.machine.subscriptions == [other]


def test_prefixes_that_come_and_go_before_their_snapshots_fit_a_sub() -> None:
    bench = TopicBench()
    follower = bench.follower()
    subscription = follower.subscribe("t", ("x",))
    follower.say()
    bench.settle()
    chance = random.Random(1)
    for _ in range(50):
        wanted = ("k",) if chance.random() < 0.3 else tuple(f"k{n}" for n in chance.sample(range(1000), 60))
        follower.machine.change(subscription, wanted)
        for command in follower.machine.sends():
            framing.decode(framing.encode(command))
        assert len(subscription.fresh) <= 64


def test_snapshots_at_once_share_their_pieces_and_the_log_is_not_read_for_who_is_at_the_head() -> None:
    bench = TopicBench()
    for start in range(0, 5000, 1000):
        bench.publish(*[(f"k{number}", b"v" * 100) for number in range(start, start + 1000)])
    followers = [bench.follower() for _ in range(4)]
    for follower in followers:
        follower.subscribe("t")
        follower.say()
    bench.serve()
    bodies = {id(command.parcel) for follower in followers for command in follower.inbox if hasattr(command, "parcel")}
    assert len(bodies) == 5
    bench.publish(("k1", b"w"))
    bench.settle()
    assert all(follower.fold == bench.truth(5001) for follower in followers) and bench.reads == 0


@pytest.mark.parametrize("seed", range(200))
def test_any_schedule_ends_with_the_fold_of_the_log(seed: int) -> None:
    chance = random.Random(seed)
    bench = TopicBench(max_messages=chance.choice([5, 50, 100_000]))
    names = [f"{letter}.{number}" for letter in "abc" for number in range(chance.choice([3, 1200]))]
    followers = [bench.follower(window=chance.choice([1, 2000, 1 << 20])) for _ in range(3)]
    subscriptions = []
    for follower in followers:
        prefixes = chance.choice([("",), ("a.",), ("a.", "c.")])
        start = Start.BEGINNING if bench.topic.policy.max_messages == 100_000 and chance.random() < 0.3 else Start.SNAPSHOT
        subscriptions.append(follower.subscribe("t", prefixes, start))
    for _ in range(chance.choice([10, 100])):
        match chance.randrange(8):
            case 0 | 1 | 2:
                pairs = [(chance.choice(names), chance.choice([b"x", b"y", None])) for _ in range(chance.choice([1, 5, 700]))]
                bench.publish(*pairs)
            case 3 | 4:
                bench.serve()
            case 5:
                chance.choice(followers).listen(chance.choice([1, 3, 100]))
            case 6:
                follower = chance.choice(followers)
                follower.cut()
                follower.up()
            case 7:
                index = chance.randrange(3)
                followers[index].listen(0)  # what was heard before is still taken
                followers[index].machine.change(subscriptions[index], chance.choice([("",), ("a.",), ("b.", "c.")]))
                followers[index].fold = dict(subscriptions[index].state)
        for subscription in subscriptions:
            if subscription.loaded and subscription.start != Start.BEGINNING and not subscription.news:
                assert subscription.state == bench.truth(subscription.seq, subscription.prefixes)
    bench.settle()
    for follower, subscription in zip(followers, subscriptions, strict=True):
        assert subscription.loaded and subscription.seq == len(bench.log)
        assert subscription.state == bench.truth(len(bench.log), subscription.prefixes)
        assert follower.fold == subscription.state
