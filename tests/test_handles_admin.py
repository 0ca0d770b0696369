"""Looking after queues, as users see it: counts, messages in place, policies, limits, and dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from handle_world import SOON, eventually, in_thread, world

import zmqkit

QUICK = zmqkit.QueuePolicy(max_attempts=3, backoff=zmqkit.Backoff(0.01, 0.02))


@pytest.fixture(scope="module")
def peers() -> Iterator[tuple[zmqkit.Node, zmqkit.Client]]:
    with world() as pair:
        yield pair


@pytest.fixture(params=["node", "client"])
def mq(request: pytest.FixtureRequest, peers: tuple[zmqkit.Node, zmqkit.Client]) -> zmqkit.Node | zmqkit.Client:
    """The node's own handles, and those of a client at the other end of a socket."""
    return peers[request.param == "client"]


@pytest.fixture
def q(mq: zmqkit.Client) -> Iterator[zmqkit.Queue[Any]]:
    name = f"q{time.monotonic_ns()}"
    mq.declare(name, QUICK)
    queue = mq.queue(name)
    yield queue
    queue.delete()


def counts(q: zmqkit.Queue[Any]) -> tuple[int, int, int, int]:
    info = q.info()
    return info.ready, info.leased, info.delayed, info.dead


def bury(q: zmqkit.Queue[Any], *bodies: Any, reason: str = "no good") -> list[int]:
    """These are dead letters now; their seqs."""
    before = q.info().dead
    receipt = q.put_many(bodies)
    with q.get_many(len(bodies), timeout=SOON) as batch:
        assert len(batch) == len(bodies)
        for d in batch:
            d.reject(reason)
    eventually(lambda: q.info().dead == before + len(bodies))
    return list(range(receipt.first_seq, receipt.last_seq + 1))


def one_of_each(q: zmqkit.Queue[Any]) -> zmqkit.Delivery[Any]:
    """A ready, a leased, a delayed and a dead message; the leased one."""
    bury(q, "dead")
    q.put("delayed")
    with q.get() as d:  # type: ignore[union-attr]
        d.snooze(60.0)
    q.put("leased")
    leased = q.get()
    assert leased is not None
    q.put("ready", headers={"h": 1})
    eventually(lambda: counts(q) == (1, 1, 1, 1))
    return leased


# -- info and peek --------------------------------------------------------------------------------------------------------


def test_info_counts_every_state(q: zmqkit.Queue[Any]) -> None:
    leased = one_of_each(q)
    info = q.info()
    assert (info.name, info.paused, info.policy) == (q.name, False, QUICK)
    assert info.bytes >= sum(map(len, ("dead", "delayed", "leased", "ready"))) and 0 < info.oldest_age < 60
    assert info.consumers == 1  # whoever holds a message, or waits for one
    leased.ack(wait=True)
    eventually(lambda: q.info().consumers == 0)
    assert counts(q) == (1, 0, 1, 1)


def test_asking_about_a_queue_does_not_make_it(mq: zmqkit.Client) -> None:
    assert mq.queue("never").info().ready == 0 and mq.queue("never").info().oldest_age == 0.0
    assert mq.queue("never").peek() == [] and mq.queue("never").dead.list() == [] and mq.queue("never").purge() == 0
    assert "never" not in [info.name for info in mq.queues()]


def test_all_queues_of_the_node_are_listed_by_name(mq: zmqkit.Client) -> None:
    for name in ("z", "a", "m"):
        mq.queue(name).put(1)
    names = [info.name for info in mq.queues()]
    assert names == sorted(names) and {"a", "m", "z"} <= set(names)
    for name in ("z", "a", "m"):
        mq.queue(name).delete()


def test_peek_shows_messages_in_every_state_and_takes_none(q: zmqkit.Queue[Any]) -> None:
    leased = one_of_each(q)
    seen = {state: q.peek(10, state=state) for state in ("ready", "leased", "delayed", "dead")}
    assert {state: [m.body for m in found] for state, found in seen.items()} == {state: [state] for state in seen}
    ready = seen["ready"][0]
    assert ready.headers == {"h": 1} and ready.attempt == 1 and ready.seq == leased.seq + 1
    assert counts(q) == (1, 1, 1, 1)
    leased.ack()


def test_peek_gives_the_first_n(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(50))
    assert [m.body for m in q.peek(3)] == [0, 1, 2] and len(q.peek()) == 10 and q.peek(0) == [] and len(q.peek(1000)) == 50


def test_peek_gives_as_many_as_are_asked_for_however_many_answers_that_takes(q: zmqkit.Queue[Any]) -> None:
    for body in range(130):  # each by itself, more than one answer reads
        q.put(body)
    q.put_many(range(130, 150))
    found = q.peek(1000)
    assert [m.body for m in found] == list(range(150)) and [m.body for m in q.peek(100)] == list(range(100))
    assert [m.body for m in q.peek(1000, after=found[120].seq)] == list(range(121, 150)) and q.peek(after=found[-1].seq) == []


def test_peek_shows_those_that_are_named_and_there(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(20))
    assert [(m.seq, m.body) for m in q.peek(seqs=(7, 3, 3, 999, 12))] == [(3, 2), (7, 6), (12, 11)]
    assert [m.seq for m in q.peek(2, seqs=[7, 3, 12])] == [3, 7] and [m.seq for m in q.peek(seqs=[7, 3, 12], after=3)] == [7, 12]
    assert q.peek(seqs=[]) == [] and q.peek(state="delayed", seqs=[3]) == []
    assert [m.seq for m in q.peek(seqs=[20, *range(1000, 10_000), 1])] == [1, 20]


def test_peek_shows_an_attempt_that_has_failed(q: zmqkit.Queue[Any]) -> None:
    q.put("a")
    with q.get() as d:  # type: ignore[union-attr]
        d.nack(delay=60.0)
    assert eventually(lambda: q.peek(state="delayed"))[0].attempt == 2


def test_a_state_that_is_none_is_refused(q: zmqkit.Queue[Any]) -> None:
    with pytest.raises(zmqkit.RemoteError, match="state must be one of ready"):
        q.peek(state="lost")


@pytest.mark.parametrize("ask", [
    lambda q: q.peek(2**70), lambda q: q.peek(1, state=object()), lambda q: q.peek(1, state="x" * 100_000),
    lambda q: q.peek(seqs=[object()]), lambda q: q.purge([2**70]), lambda q: q.peek(after=2**70),
    lambda q: q.dead.redrive([object()]), lambda q: q.dead.drop([2**70]), lambda q: q.dead.list(seqs=[{1}]),
])  # fmt: skip
def test_a_question_that_cannot_be_sent_fails_at_once_and_hurts_no_other(q: zmqkit.Queue[Any], ask: Any) -> None:
    with pytest.raises(zmqkit.Unencodable, match="cannot send"):
        ask(q)
    assert q.put("the link lives").seq == 1 and counts(q) == (1, 0, 0, 0)


# -- purge, pause, delete -------------------------------------------------------------------------------------------------


def test_purge_throws_away_what_waits_and_nothing_else(q: zmqkit.Queue[Any]) -> None:
    leased = one_of_each(q)
    assert q.purge() == 2 and counts(q) == (0, 1, 0, 1)
    leased.ack(wait=True)
    assert q.purge() == 0 and leased.settled is True


def test_purge_of_some_throws_away_those_that_wait_and_nothing_else(q: zmqkit.Queue[Any]) -> None:
    leased = one_of_each(q)
    q.put_many(range(3))
    seqs = [m.seq for m in q.peek()]
    assert q.purge([leased.seq, seqs[1], *range(1000, 10_000), seqs[2]]) == 2 and counts(q) == (2, 1, 1, 1)
    assert [m.seq for m in q.peek()] == [seqs[0], seqs[3]]
    assert q.purge([]) == 0 and q.purge() == 3
    leased.ack(wait=True)


def test_a_paused_queue_takes_puts_and_gives_nothing_until_it_is_resumed(q: zmqkit.Queue[Any]) -> None:
    q.put("before")
    q.pause()
    q.put("after")
    assert q.info().paused and q.get(timeout=0) is None and counts(q) == (2, 0, 0, 0)
    found: list[Any] = []
    waiting = in_thread(lambda: found.append(q.get(timeout=SOON)))
    eventually(lambda: q.info().consumers)
    q.resume()
    waiting.join(SOON)
    assert found[0].body == "before" and not q.info().paused
    found[0].ack()


def test_deleting_takes_messages_dead_letters_and_policy_and_the_next_use_begins_anew(q: zmqkit.Queue[Any]) -> None:
    leased = one_of_each(q)
    q.delete()
    assert counts(q) == (0, 0, 0, 0) and q.info().policy == zmqkit.QueuePolicy()
    assert q.put("new").seq == 1
    try:
        leased.ack(wait=True)
    except zmqkit.StaleLease:
        pass  # a heartbeat told so
    else:
        assert leased.settled == "unknown"  # the node has forgotten, and does not say that this ack counted
    with q.get() as d:  # type: ignore[union-attr]
        assert d.body == "new" and d.attempt == 1


# -- policies -------------------------------------------------------------------------------------------------------------


def test_declare_makes_a_queue_and_changes_it(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    policy = zmqkit.QueuePolicy(max_attempts=2, lease=7.0, max_messages=5, on_full="block", grace=3600.0, max_run=60.0)
    assert mq.declare(q.name, policy) == policy == q.info().policy
    q.put("a")
    d = q.get()
    assert d is not None and d._hand.lease.seconds == 7.0
    d.ack(wait=True)


@pytest.mark.parametrize("bad", [
    {"max_attempts": 0}, {"max_attempts": 1.5}, {"on_full": "explode"}, {"lease": 0}, {"lease": float("nan")}, {"grace": -1.0},
    {"max_messages": 0}, {"max_bytes": "1"}, {"max_run": 0.0}, {"lease": 1e12}, {"backoff": zmqkit.Backoff(0.0, 1.0)},
])  # fmt: skip
def test_a_policy_that_is_none_is_refused_where_it_is_written(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        zmqkit.QueuePolicy(**bad)


def test_a_policy_that_cannot_be_sent_fails_at_once(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    with pytest.raises(zmqkit.Unencodable):
        mq.declare(q.name, zmqkit.QueuePolicy(max_messages=2**70))
    assert q.info().policy == QUICK


def test_a_field_that_the_node_does_not_know_is_refused_by_name(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    with pytest.raises(zmqkit.RemoteError, match="no policy field 'colour'"):
        mq._session.ask("declare", {"queue": q.name, "policy": {"colour": "red"}}, SOON)


# -- dead letters ---------------------------------------------------------------------------------------------------------


def test_after_max_attempts_a_message_is_a_dead_letter_with_its_history(q: zmqkit.Queue[Any]) -> None:
    q.put({"to": "ada"}, headers={"trace": 7})
    begin = time.time()
    for attempt in (1, 2, 3):
        with pytest.raises(RuntimeError), q.get(timeout=SOON) as d:  # type: ignore[union-attr]
            assert d.attempt == attempt and (d.error or "").startswith(f"RuntimeError: failure {attempt - 1}" if attempt > 1 else "")
            raise RuntimeError(f"failure {attempt}")
    eventually(lambda: counts(q) == (0, 0, 0, 1))
    letter = q.dead.list()[0]
    assert (letter.seq, letter.attempts, letter.body, letter.headers) == (1, 3, {"to": "ada"}, {"trace": 7})
    assert letter.reason.startswith("failed 3 times, the last time: RuntimeError: failure 3 (test_handles_admin.py:")
    assert [error.partition(" (")[0] for error in letter.history] == [f"RuntimeError: failure {n}" for n in (1, 2, 3)]
    assert begin - 1 < letter.at < time.time() + 1


def test_dead_letters_are_listed_all_or_some(q: zmqkit.Queue[Any]) -> None:
    seqs = bury(q, *range(5), reason="because")
    assert [letter.seq for letter in q.dead.list()] == seqs
    assert {letter.reason for letter in q.dead.list()} == {"because"}
    assert [letter.body for letter in q.dead.list(2)] == [0, 1]
    assert [letter.body for letter in q.dead.list(seqs=[seqs[3], seqs[1], 999])] == [1, 3]


def test_a_redriven_message_has_all_its_attempts_again(q: zmqkit.Queue[Any]) -> None:
    seqs = bury(q, "a", "b", "c")
    assert q.dead.redrive([seqs[1], 999]) == 1
    for attempt in (1, 2):
        with q.get(timeout=SOON) as d:  # type: ignore[union-attr]
            assert (d.seq, d.body, d.attempt) == (seqs[1], "b", attempt)
            d.nack(delay=0)
    with q.get(timeout=SOON) as d:  # type: ignore[union-attr]
        assert d.attempt == 3
    assert q.dead.redrive() == 2 and q.dead.redrive() == 0
    with q.get_many(2, timeout=SOON) as batch:
        assert [d.body for d in batch] in (["a", "c"], ["a"])


def test_dropped_dead_letters_are_gone_all_or_some(q: zmqkit.Queue[Any]) -> None:
    seqs = bury(q, "a", "b", "c")
    assert q.dead.drop((seqs[0], 999)) == 1 and [letter.body for letter in q.dead.list()] == ["b", "c"]
    assert q.dead.drop([]) == 0 and q.dead.drop() == 2
    assert q.dead.list() == [] and q.info().bytes == 0


def test_more_numbers_than_one_question_takes_are_asked_in_parts(q: zmqkit.Queue[Any]) -> None:
    seqs = bury(q, "a", "b")
    assert q.dead.drop([seqs[0], *range(1000, 10_000), seqs[1]]) == 2


# -- limits ---------------------------------------------------------------------------------------------------------------


def limit(q: zmqkit.Queue[Any], mq: zmqkit.Client, on_full: Any, **limits: int) -> None:
    mq.declare(q.name, zmqkit.QueuePolicy(on_full=on_full, **limits))  # type: ignore[arg-type]


def test_a_full_queue_rejects(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    limit(q, mq, "reject", max_messages=2)
    q.put_many([1, 2])
    with pytest.raises(zmqkit.QueueFull, match=q.name) as caught:
        q.put(3)
    assert caught.value.retry_after > 0 and [m.body for m in q.peek()] == [1, 2]


def test_bytes_have_a_limit_too(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    limit(q, mq, "reject", max_bytes=1000)
    q.put(bytes(900))
    with pytest.raises(zmqkit.QueueFull):
        q.put(bytes(200))
    with q.get():  # type: ignore[union-attr]
        pass
    eventually(lambda: q.info().bytes == 0)
    assert q.put(bytes(200)).seq


def test_a_full_queue_blocks_until_there_is_room(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    limit(q, mq, "block", max_messages=1)
    q.put(1)
    future = q.put_soon(2)
    eventually(future.running)
    with pytest.raises(zmqkit.Timeout) as caught:
        q.put(3, timeout=0.05)
    assert not caught.value.maybe_executed  # it waited behind the other one, and never left
    assert not future.done() and [m.body for m in q.peek()] == [1]
    with q.get():  # type: ignore[union-attr]
        pass
    assert future.result(SOON).seq == 2 and [m.body for m in q.peek()] == [2]


def test_a_full_queue_drops_the_oldest_but_nothing_that_is_leased(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    limit(q, mq, "drop_oldest", max_messages=3)
    q.put(0)
    leased = q.get()
    assert leased is not None
    q.put_many([1, 2])
    q.put(3)
    assert [m.body for m in q.peek()] == [2, 3] and counts(q) == (2, 1, 0, 0)
    leased.ack(wait=True)
    assert leased.settled is True


def test_a_full_queue_buries_the_oldest(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    limit(q, mq, "dead_letter", max_messages=2)
    for body in range(4):
        q.put(body)
    assert [m.body for m in q.peek()] == [2, 3]
    assert [(letter.body, letter.reason, letter.attempts) for letter in q.dead.list()] == [(n, "the queue was full", 0) for n in (0, 1)]


def test_no_queue_is_called_as_a_service_is_on_the_wire(mq: zmqkit.Client) -> None:
    with pytest.raises(ValueError, match=r"does not begin with U\+0000"):
        mq.queue("\0price")
    with pytest.raises(zmqkit.RemoteError, match=r"does not begin with U\+0000"):
        mq.declare("\0price", zmqkit.QueuePolicy())
