"""ASK: what is answered, what a repeat gets, and what survives."""

from __future__ import annotations

import pytest
from node_bench import Bench

from zmqkit import wire
from zmqkit.parcel import Parcel


def test_a_repeated_ask_is_done_once_and_answered_twice() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1)
    assert bench.ask(peer, 1, "purge", queue="q") == {"count": 1}
    bench.put(peer, 2, base=2)
    peer = bench.connect("p", link=2)
    assert bench.ask(peer, 1, "purge", queue="q") == {"count": 1}
    assert bench.info() == {"ready": 1}


def test_what_an_ask_changes_is_durable_before_it_is_told() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.auto_sync = False
    bench.say(peer, wire.Ask(1, 1, "pause", {"queue": "q"}))
    assert bench.order(peer) == ["WELCOME"]
    bench.sync()
    assert bench.order(peer) == ["WELCOME", "TOLD"]


def test_what_holds_already_is_told_when_it_is_durable() -> None:
    bench = Bench()
    first, second = bench.connect("p"), bench.connect("q")
    bench.auto_sync = False
    for peer in (first, second):  # nothing is left to do for the second, but what it is told must survive as well
        bench.say(peer, wire.Ask(1, 1, "declare", {"queue": "q", "policy": {"max_attempts": 3}}))
    assert bench.order(second) == ["WELCOME"]
    bench.sync()
    assert bench.order(first) == bench.order(second) == ["WELCOME", "TOLD"]


def test_pause_and_policy_survive_a_restart_and_a_checkpoint() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.declare(peer, max_attempts=3, grace=7.0)
    bench.ask(peer, 1, "pause", queue="q")
    for after in (bench.crash(), bench.restart_from_checkpoint()):
        queue = after.machine.core.queues["q"]
        assert queue.paused and queue.policy.max_attempts == 3 and queue.policy.grace == 7.0


def test_declare_changes_only_the_fields_that_are_given() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.declare(peer, max_attempts=3)
    bench.declare(peer, grace=7.0)
    policy = bench.machine.core.queues["q"].policy
    assert (policy.max_attempts, policy.grace) == (3, 7.0)


def test_purge_settles_what_is_ready_and_delayed_and_leaves_what_is_leased_or_dead() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    for number in range(1, 6):
        bench.put(producer, number)
    lease = bench.one_lease(consumer)
    bench.back(consumer, lease.token, kind=wire.BackKind.REJECT)
    bench.back(consumer, bench.one_lease(consumer).token, delay=60.0)
    assert bench.info() == {"ready": 2, "leased": 1, "delayed": 1, "dead": 1}
    assert bench.ask(producer, 1, "purge", queue="q") == {"count": 3}
    assert bench.info() == {"leased": 1, "dead": 1}
    assert bench.crash().info() == {"leased": 1, "dead": 1}


def test_delete_ends_leases_and_the_queue_comes_back_empty_at_its_next_use() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1, 3)
    token = bench.one_lease(consumer).token
    assert bench.ask(producer, 1, "delete", queue="q") == {"count": 3}
    assert [cause for *_, cause in bench.ended] == ["queue-deleted"] and len(bench.log.released) == 1
    bench.done(consumer, token)
    assert bench.verdicts(consumer)[0][3] != "OK"
    bench.put(producer, 4, base=4)
    assert bench.info() == {"ready": 1} and bench.crash().info() == {"ready": 1}


def test_redrive_gives_dead_letters_a_clean_sheet_and_drop_ends_them() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2)
    bench.put(producer, 1, 2)
    bench.back(consumer, bench.one_lease(consumer).token, 0, 2, kind=wire.BackKind.REJECT)
    assert bench.info() == {"dead": 2}
    assert bench.ask(producer, 1, "drop", queue="q", seqs=[2]) == {"count": 1}
    assert bench.ask(producer, 2, "redrive", queue="q", seqs=[1]) == {"count": 1}
    assert bench.one_lease(consumer).attempt == 1
    after = bench.crash()
    assert after.info() == {"leased": 1} and not after.machine.core.queues["q"].dead


def test_peek_shows_bodies_and_takes_nothing() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1, 3)
    told = bench.ask(peer, 1, "peek", queue="q", state="ready", count=2)
    assert told["rows"] == [[1, 1], [2, 1]] and told["parcels"][0][1][1] == b"12" and bench.info() == {"ready": 3}


def one_of_each(bench: Bench) -> bytes:
    """1 leased, 2 dead, 3 delayed, 4 to 6 ready in a parcel that is begun, 7 to 9 in one that is not; who looks."""
    producer, consumer = bench.connect("p"), bench.connect("c", window=3)
    bench.put(producer, 1, 6)
    bench.put(producer, 7, 3)
    token = bench.one_lease(consumer).token
    bench.ready(consumer, 0, beat=2, seen=token, held=[(token, 3)])  # no more, please
    bench.back(consumer, token, 1, 1, kind=wire.BackKind.REJECT)
    bench.back(consumer, token, 2, 1, delay=60.0)
    assert bench.info() == {"ready": 6, "leased": 1, "delayed": 1, "dead": 1}
    return bench.connect("a")


def look(bench: Bench, admin: bytes, number: int, **more: object) -> tuple[list[int], bool]:
    told = bench.ask(admin, number, "peek", queue="q", **{"state": "ready", "count": 10, **more})
    bodies = b"".join(frames[1] for _, frames in told["parcels"]).decode()
    assert bodies == "".join(str(qseq) for qseq, _ in told["rows"]), "a row stands beside another's body"
    return [qseq for qseq, _ in told["rows"]], told["more"]


def test_peek_goes_on_behind_a_number_and_says_whether_there_is_more() -> None:
    bench = Bench()
    admin = one_of_each(bench)
    assert look(bench, admin, 1, count=2) == ([4, 5], True)
    assert look(bench, admin, 2, count=3, after=5) == ([6, 7, 8], True)
    assert look(bench, admin, 3, count=3, after=8) == ([9], False)
    assert look(bench, admin, 4, count=3, after=9) == look(bench, admin, 5, count=3, after=2**63) == ([], False)
    assert look(bench, admin, 6, count=6) == ([4, 5, 6, 7, 8, 9], False)
    assert look(bench, admin, 7, state="delayed", after=2) == ([3], False)
    assert look(bench, admin, 8, state="delayed", after=3) == ([], False)


def test_peek_at_some_shows_those_that_are_in_that_state_whatever_else_is_asked_for() -> None:
    bench = Bench()
    admin = one_of_each(bench)
    wanted = [9, 8, 6, 4, 4, 3, 2, 1, 0, -5, 10, 2**63]
    assert look(bench, admin, 1, seqs=wanted) == ([4, 6, 8, 9], False)
    assert look(bench, admin, 2, seqs=wanted, after=6) == ([8, 9], False)
    assert look(bench, admin, 3, seqs=wanted, count=2) == ([4, 6], True)
    assert [look(bench, admin, n, seqs=wanted, state=s)[0] for n, s in ((4, "leased"), (5, "dead"), (6, "delayed"))] == [[1], [2], [3]]
    assert look(bench, admin, 7, seqs=[]) == ([], False)
    assert len(bench.machine.core.queues["q"].backlog.positions) - bench.machine.core.queues["q"].backlog.head == 1  # looking began nothing


def test_peek_pages_through_many_parcels_of_which_one_answer_reads_only_some() -> None:
    bench = Bench()
    admin = bench.connect("p")
    for number in range(1, 201):
        bench.put(admin, number)
    seen: list[int] = []
    more, number = True, 0
    while more:
        number += 1
        told = bench.ask(admin, number, "peek", queue="q", state="ready", count=1000, after=seen[-1] if seen else 0)
        assert len(told["rows"]) <= 64
        seen += [qseq for qseq, _ in told["rows"]]
        more = told["more"]
    assert seen == list(range(1, 201))


def test_what_did_not_fit_a_frame_is_more_to_come() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.say(peer, wire.Put("q", 1, 1000, 1, Parcel.of([b"y" * 1000] * 1000, {"headers": [{"a": "x" * 200}] * 1000})))
    told = bench.ask(peer, 1, "peek", queue="q", state="ready", count=1000)
    assert len(told["rows"]) < 1000 and told["more"]


def test_purge_of_some_settles_those_that_wait_and_no_other() -> None:
    bench = Bench()
    admin = one_of_each(bench)
    assert bench.ask(admin, 1, "purge", queue="q", seqs=[1, 2, 3, 5, 8, 8, 77]) == {"count": 3}
    for after in (bench, bench.crash()):
        assert after.info() == {"ready": 4, "leased": 1, "dead": 1}
    assert look(bench, admin, 2) == ([4, 6, 7, 9], False)
    assert bench.ask(admin, 3, "purge", queue="q", seqs=[]) == {"count": 0}
    assert bench.ask(admin, 4, "purge", queue="q", seqs=[5, 8]) == {"count": 0}  # gone already
    assert bench.ask(admin, 5, "purge", queue="q") == {"count": 4}


def test_a_repeated_look_at_messages_that_are_gone_meanwhile_is_answered_all_the_same() -> None:
    bench = Bench()
    producer, consumer, admin = bench.connect("p"), bench.connect("c"), bench.connect("a")
    bench.put(producer, 1)
    assert bench.ask(admin, 1, "peek", queue="q", state="ready", count=1)["rows"]
    bench.ready(consumer, 1)
    bench.done(consumer, bench.one_lease(consumer).token)
    assert len(bench.log.released) == 1
    assert bench.ask(bench.connect("a", link=2), 1, "peek", queue="q", state="ready", count=1)["rows"] == []


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("fly", {}),
        ("info", {}),
        ("declare", {"queue": "", "policy": {}}),
        ("declare", {"queue": "q", "policy": {"lease": -1}}),
        ("declare", {"queue": "q", "policy": {"colour": 1}}),
        ("declare", {"queue": "q", "policy": {"backoff": 7}}),
        ("pause", {"queue": 5}),
        ("info", {"queue": ["q"]}),
        ("peek", {"queue": "q", "state": "lost", "count": 1}),
        ("peek", {"queue": "q", "state": "ready", "count": 0}),
        ("redrive", {"queue": "q", "seqs": [[]]}),
        ("drop", {"queue": "q", "seqs": 7}),
        ("purge", {"queue": {}}),
        ("purge", {"queue": "q", "seqs": [1.0]}),
        ("peek", {"queue": "q", "state": "ready", "count": 1, "seqs": [True]}),
        ("peek", {"queue": "q", "state": "ready", "count": 1, "after": -1}),
        ("peek", {"queue": "q", "state": "ready", "count": 1, "after": "q"}),
        ("list", {"after": 7}),
    ],
)
def test_wrong_arguments_are_answered_in_words_and_disturb_nobody(verb: str, arguments: dict[str, object]) -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1)
    assert bench.ask(peer, 1, verb, **arguments)["error"] == wire.Code.MALFORMED
    assert [row["name"] for row in bench.ask(peer, 2, "list")["queues"]] == ["q"]
