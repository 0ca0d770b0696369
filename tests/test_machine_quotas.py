"""How much a node lets each of its users have, over all its links; and that one user at its limit slows no other."""

from __future__ import annotations

import pytest
from node_bench import name
from user_bench import NEWS, UserBench, bench
from user_world import rights

from zmqkit import records, wire
from zmqkit.machines import core

ALL = ("publish *", "consume *", "call *", "serve *", "subscribe *", "admin *")


def in_flight(b: UserBench, user: str = "ada") -> int:
    return b.machine.core.accounts[user].in_flight


# -- connections --------------------------------------------------------------------------------------------------------


def test_one_client_too_many_is_refused_and_a_new_link_of_a_known_one_is_not() -> None:
    b = bench(ada=rights("ada", *ALL, connections=2))
    b.join("a", "ada")
    b.join("b", "ada")
    third = b.join("c", "ada")
    assert b.refusals(third) == [("HELLO", "", "QUOTA")] and b.machine.core.dropped == {"quota": 1}
    b.put(b.join("a", "ada", link=2), 1)
    assert b.info() == {"ready": 1}
    b.say(b"b1", wire.Bye())
    third = b.join("c", "ada", link=2)
    assert b.order(third) == ["WELCOME"]
    assert b.order(b.connect("x")) == ["WELCOME"]


def test_who_may_have_no_client_at_all_has_none() -> None:
    b = bench(ada=rights("ada", *ALL, connections=0))
    assert b.refusals(b.join("a", "ada")) == [("HELLO", "", "QUOTA")]
    assert not b.machine.core.clients and "ada" not in b.machine.core.accounts


def test_of_clients_that_are_silent_the_longest_gives_way_to_a_new_one() -> None:
    b = bench(ada=rights("ada", *ALL, connections=1))
    old = b.join("a", "ada")
    for _ in range(5):
        b.wait(1.0)
    assert b.refusals(b.join("b", "ada")) == [("HELLO", "", "QUOTA")]
    for _ in range(2):
        b.wait(1.0)
    assert b.order(b.join("b", "ada", link=2)) == ["WELCOME"]
    b.put(old, 1)
    assert b.order(old)[-1] == "NOSESSION" and not b.machine.core.queues


# -- in flight ----------------------------------------------------------------------------------------------------------


def test_no_more_messages_are_leased_to_all_clients_of_a_user_than_it_may_have_in_flight() -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=3))
    producer = b.connect("p")
    one, two = b.join("a", "ada", window=10), b.join("b", "ada", window=10)
    b.put(producer, 1, 10)
    b.put(producer, 1, 5, queue="r")
    leases = b.hear(one, wire.Lease) + b.hear(two, wire.Lease)
    assert sum(lease.count for lease in leases) == 3 == in_flight(b)
    other = b.connect("o", window=10)
    assert sum(lease.count for lease in b.hear(other, wire.Lease)) == 7, "nobody else is held up"
    b.say(two, wire.Ready(2, 0, [wire.Window("r", 10, 0.0)], 0, [wire.Held(lease.token, lease.count, 0.0) for lease in leases]))
    assert not b.hear(two, wire.Lease)
    b.done(one, leases[0].token, count=leases[0].count)
    assert sum(lease.count for lease in b.hear(two, wire.Lease)) == leases[0].count, "what was settled made room for another queue"
    assert in_flight(b) == 3


@pytest.mark.parametrize("end", ["bye", "lost", "back"])
def test_whatever_ends_a_lease_makes_room(end: str) -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=1))
    b.put(b.connect("p"), 1, 2)
    one, two = b.join("a", "ada", window=1), b.join("b", "ada", window=1)
    lease = b.one_lease(one)
    if end == "bye":
        b.say(one, wire.Bye())
    elif end == "back":
        b.ready(one, 0, beat=2, seen=lease.token, held=[(lease.token, 1)])
        b.back(one, lease.token)
    else:
        b.machine.lost(one, b.now)
        b.ready(two, 1, beat=2)
        b.wait(2.5)
    assert b.one_lease(two).count == 1 and in_flight(b) == 1


def test_a_raised_limit_holds_at_once() -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=1))
    b.put(b.connect("p"), 1, 9)
    ada = b.join("a", "ada", window=9)
    assert b.one_lease(ada).count == 1
    b.allow("ada", *ALL, in_flight=4)
    b.turn()
    assert sum(lease.count for lease in b.hear(ada, wire.Lease)) == 3


def test_a_suspect_is_not_kept_waiting_for_a_user_at_its_limit() -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=0))
    b.join("a", "ada", window=5)
    b.put(b.connect("p"), 1, 2)
    killed = b.connect("k", window=2)
    b.machine.lost(killed, b.now)
    b.wait(2.5)
    assert b.one_lease(b.connect("w", window=2)).count == 1


def test_calls_of_a_user_count_too_and_what_is_over_is_refused_one_by_one() -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=3))
    ada, worker = b.join("a", "ada"), b.connect("w", window=9, queue="\0s")
    b.call(ada, 1, 5)
    (refused,) = b.hear(ada, wire.Refused)
    assert (refused.first, refused.count, refused.code) == (4, 2, wire.Code.QUOTA) and refused.retry_after > 0
    lease = b.one_lease(worker)
    assert lease.count == 3 == in_flight(b)
    b.call(b.join("b", "ada"), 1)
    assert b.refusals(b"b1") == [("CALL", "s", "QUOTA")]
    b.reply(worker, lease.token, 3)
    assert in_flight(b) == 0
    b.call(b"b1", 2)
    assert b.one_lease(worker).count == 1
    b.say(b"b1", wire.Cancel(2, 0, 1))
    assert in_flight(b) == 0


def test_calls_whose_refusal_was_lost_with_its_link_are_not_forgotten() -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=2))
    worker = b.connect("w", window=1, queue="\0s")
    b.call(b.join("a", "ada"), 1, 3)
    ada = b.join("a", "ada", link=2)
    b.call(ada, 1, 3)
    (refused,) = b.hear(ada, wire.Refused)
    assert (refused.first, refused.count) == (3, 1) and b.one_lease(worker).qseq == 1 and in_flight(b) == 2


def test_a_call_that_ends_makes_room_for_messages() -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=1))
    worker, ada = b.connect("w", window=1, queue="\0s"), b.join("a", "ada", window=1)
    b.call(ada)
    b.put(b.connect("p"), 1)
    assert not b.hear(ada, wire.Lease)
    b.reply(worker, b.one_lease(worker).token)
    assert b.one_lease(ada).queue == "q"


def test_calls_leased_to_a_worker_are_in_flight_to_its_user() -> None:
    b = bench(ada=rights("ada", *ALL, in_flight=1))
    worker = b.join("w", "ada", window=5, queue="\0s")
    b.call(b.connect("c"), 1, 3)
    assert b.one_lease(worker).count == 1


# -- bytes a second -----------------------------------------------------------------------------------------------------


def test_who_publishes_faster_than_it_may_is_refused_until_its_time_has_come() -> None:
    b = bench(ada=rights("ada", *ALL, bytes=1000))
    ada, other = b.join("a", "ada"), b.connect("o")
    b.put(ada, 1, size=1500)
    b.put(ada, 2, base=2, size=1500)  # a second's worth may come at once, and is let through whole
    (refused,) = b.hear(ada, wire.Refused)
    assert refused.code == wire.Code.QUOTA and refused.retry_after == pytest.approx(0.5)
    b.updates(ada, 1, "k")
    assert b.refusals(ada) == [("PUT", NEWS, "QUOTA")], "over all that it publishes"
    b.put(other, 1, size=5000)
    assert b.info() == {"ready": 2}
    b.wait(refused.retry_after)
    b.put(ada, 2, base=2, size=1500)
    assert b.info() == {"ready": 3} and b.machine.core.dropped == {"quota": 2}


def test_in_the_long_run_a_user_publishes_at_its_rate() -> None:
    b = bench(ada=rights("ada", *ALL, bytes=10_000))
    b.checked = False
    ada, number, stored = b.join("a", "ada"), 1, 0
    for _ in range(200):
        b.put(ada, number, size=900)
        if not b.hear(ada, wire.Refused):
            number, stored = number + 1, stored + 900
        b.now += 0.05
    assert stored == pytest.approx(10_000 * (0.05 * 200 + 1.0), rel=0.1)


def test_a_stored_put_is_confirmed_again_whatever_was_published_since() -> None:
    b = bench(ada=rights("ada", *ALL, bytes=100))
    ada = b.join("a", "ada")
    b.put(ada, 1, size=1000)
    b.put(ada, 1, size=1000)
    assert b.order(ada) == ["WELCOME", "CONFIRM", "CONFIRM"]


def test_a_put_that_is_refused_takes_nothing_off_what_its_user_may_publish() -> None:
    b = bench(ada=rights("ada", *ALL, bytes=1000))
    ada = b.join("a", "ada")
    b.declare(ada, max_messages=1)
    b.put(ada, 1, size=100)
    for _ in range(50):
        b.put(ada, 2, base=2, size=1000)
    assert {code for _, _, code in b.refusals(ada)} == {"FULL"}


def test_producers_of_a_queue_whose_policy_is_to_wait_are_told_to_wait() -> None:
    b = bench(ada=rights("ada", *ALL, bytes=100))
    ada = b.join("a", "ada")
    b.declare(ada, on_full="block")
    b.put(ada, 1, size=1000)
    b.put(ada, 2, base=2)
    assert b.refusals(ada) == [("PUT", "q", "WAIT")]


# -- queues and topics --------------------------------------------------------------------------------------------------


def test_a_user_makes_as_many_queues_and_topics_as_it_may_and_uses_those_of_others() -> None:
    b = bench(ada=rights("ada", *ALL, queues=2))
    ada, root = b.join("a", "ada"), b.connect("r")
    b.put(root, 1, queue="theirs")
    b.put(ada, 1, queue="one")
    b.updates(ada, 1, "k")
    b.put(ada, 1, queue="three")
    b.ready(ada, 1, queue="three")
    b.subscribe(ada, 1, "four")
    assert b.refusals(ada) == [("PUT", "three", "QUOTA"), ("READY", "three", "QUOTA"), ("SUB", "four", "QUOTA")]
    for number, (verb, more) in enumerate([("declare", {"queue": "x", "policy": {}}), ("pause", {"queue": "x"}),
                                           ("topic_declare", {"topic": "x", "policy": {}}),
                                           ("topic_bind", {"topic": "news", "prefix": "", "queue": "x"})], 1):  # fmt: skip
        assert b.ask(ada, number, verb, **more)["error"] == wire.Code.QUOTA
    b.put(ada, 1, queue="theirs")
    b.put(root, 1, queue="more")
    assert sorted(b.machine.core.queues) == ["more", "one", "theirs"]
    assert b.ask(ada, 9, "delete", queue="one") == {"count": 1}
    b.put(ada, 1, queue="three")
    assert b.refusals(ada) == [] and b.info("three") == {"ready": 1}


def test_whose_queues_are_is_known_after_a_restart() -> None:
    b = bench(ada=rights("ada", *ALL, queues=1))
    b.put(b.join("a", "ada"), 1)
    for after in (b.crash(), b.restart_from_checkpoint()):
        after.users[b"b1"] = "ada"
        after.connect("b")
        after.put(b"b1", 1, queue="r")
        assert [refused.code for refused in after.hear(b"b1", wire.Refused)] == [wire.Code.QUOTA]


def test_a_topic_that_is_deleted_under_its_followers_stays_its_owners() -> None:
    b = bench(ada=rights("ada", *ALL, queues=1))
    ada = b.join("a", "ada")
    b.updates(ada, 1, "k")
    b.subscribe(ada)
    b.ask(ada, 1, "topic_delete", topic="news")
    assert b.machine.topics.hosted[NEWS].topic.owner == "ada"
    b.put(ada, 1)
    assert b.refusals(ada) == [("PUT", "q", "QUOTA")]


def test_a_bound_queue_that_the_node_makes_again_is_the_topics_owners() -> None:
    b = bench(ada=rights("ada", *ALL, queues=2))
    ada, root = b.join("a", "ada"), b.connect("r")
    b.ask(ada, 1, "topic_bind", topic="news", prefix="", queue="q")
    b.ask(ada, 2, "delete", queue="q")
    b.updates(root, 1, "k")
    assert b.info() == {"ready": 1} and b.machine.core.queues["q"].owner == "ada"
    b.put(ada, 1, queue="r")
    assert b.refusals(ada) == [("PUT", "r", "QUOTA")]


def test_a_queue_of_an_older_journal_is_nobodys() -> None:
    kind, chunks, _ = records.encode(records.Queue(1, "q", {}, False, False))
    payload = b"".join(map(bytes, chunks))
    old = records.decode(kind, b"\x95" + payload[1:-1])  # without the last field
    assert old == records.Queue(1, "q", {}, False, False, "")


def test_one_client_cannot_have_all_streams_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "CLIENT_STREAMS_MAX", 3)
    b = bench()
    peer = b.connect("p")
    for queue in "abcd":
        b.put(peer, 1, queue=queue)
    assert b.refusals(peer) == [("PUT", "d", "QUOTA")]
    b.put(b.connect("o"), 1, queue="d")
    assert b.info("d") == {"ready": 1}


# -- subscriptions ------------------------------------------------------------------------------------------------------


def test_a_user_has_as_many_subscriptions_over_all_its_clients_as_it_may() -> None:
    b = bench(ada=rights("ada", *ALL, subscriptions=2))
    one, two = b.join("a", "ada"), b.join("b", "ada")
    b.subscribe(one, 1)
    b.subscribe(two, 1)
    b.subscribe(two, 2)
    assert b.refusals(two) == [("SUB", "news", "QUOTA")] and b.refusals(one) == []
    b.subscribe(two, 1)
    assert b.refusals(two) == [], "one that is changed is not one more"
    b.say(one, wire.Unsub(1))
    b.subscribe(two, 3)
    assert b.refusals(two) == []
    b.subscribe(b.connect("o"), 1)
    assert b.machine.core.dropped == {"quota": 1}


# -- accounts -----------------------------------------------------------------------------------------------------------


def test_a_user_without_clients_and_queues_is_forgotten() -> None:
    b = bench(ada=rights("ada", *ALL))
    b.say(b.join("a", "ada"), wire.Bye())
    for _ in range(130):
        b.wait(1.0)
    assert name("a") not in b.machine.core.clients and "ada" not in b.machine.core.accounts
