"""Getting and consuming, as users see it: who gets what, when a loop ends, and what becomes of the rest."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from handle_world import SOON, cut, eventually, in_thread, world

import zmqkit
from zmqkit import codec
from zmqkit.handles.hand import Hand

QUICK = zmqkit.QueuePolicy(backoff=zmqkit.Backoff(0.02, 0.05))  # so that what failed comes again within a test


@pytest.fixture(scope="module")
def peers() -> Iterator[tuple[zmqkit.Node, zmqkit.Client]]:
    with world() as pair:
        yield pair


@pytest.fixture(params=["node", "client"])
def q(request: pytest.FixtureRequest, peers: tuple[zmqkit.Node, zmqkit.Client]) -> Iterator[zmqkit.Queue[Any]]:
    """A fresh queue, through the node's own handles and through a socket."""
    peer = peers[request.param == "client"]
    name = f"q{time.monotonic_ns()}"
    peer.declare(name, QUICK)
    yield peer.queue(name)


@pytest.fixture
def mq(peers: tuple[zmqkit.Node, zmqkit.Client]) -> zmqkit.Client:
    return peers[1]


def held(q: zmqkit.Queue[Any]) -> tuple[int, int]:
    info = q.info()
    return info.ready + info.delayed, info.leased


# -- get ------------------------------------------------------------------------------------------------------------------


def test_get_gives_a_message_or_none(q: zmqkit.Queue[Any]) -> None:
    assert q.get(timeout=0.05) is None
    assert q.get(timeout=0) is None
    q.put_many(["a", "b"])
    d = q.get(timeout=0)
    assert d is not None and (d.body, d.attempt, d.queue, d.error, d.saved, d.headers) == ("a", 1, q.name, None, None, {})
    d.ack(wait=True)
    with q.get() as second:  # type: ignore[union-attr]
        assert second.seq == d.seq + 1 and second.token > d.token
    assert q.get(timeout=0) is None


def test_get_waits_for_what_comes(q: zmqkit.Queue[Any]) -> None:
    threading.Timer(0.1, lambda: q.put("late")).start()
    d = q.get(timeout=SOON)
    assert d is not None and d.body == "late"
    d.ack()


def test_a_get_that_gave_up_takes_nothing(q: zmqkit.Queue[Any]) -> None:
    assert q.get(timeout=0.02) is None
    q.put("a")  # whoever had a window got it before we were told that it is stored
    assert held(q) == (1, 0)


def test_get_takes_one_and_leaves_the_rest_to_others(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(10))
    d = q.get()
    assert d is not None and held(q) == (9, 1)
    d.ack(wait=True)
    assert held(q) == (9, 0)


def test_get_many_takes_what_is_there(q: zmqkit.Queue[Any]) -> None:
    assert not q.get_many(10, timeout=0.02)
    for n in range(7):
        q.put(n)
    batch = q.get_many(5)
    assert len(batch) == 5 and batch.bodies == [0, 1, 2, 3, 4] and [d.body for d in batch[1:3]] == [1, 2]
    assert batch[-1].seq == batch[0].seq + 4
    with batch:
        pass
    rest = q.get_many(5, timeout=SOON)
    assert rest.bodies == [5, 6]
    rest.ack(wait=True)
    assert held(q) == (0, 0)


def test_a_get_and_a_loop_share_a_queue(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(3))
    consumer = q.consume(credit=1)
    first = next(consumer)
    got = q.get()
    assert got is not None and {first.body, got.body} == {0, 1}
    first.ack()
    assert next(consumer).body == 2  # the get's message does not use up the loop's credit
    consumer.stop()


# -- loops ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["auto", 1, 10])
def test_a_loop_gives_every_message_once_in_order(q: zmqkit.Queue[Any], credit: Any) -> None:
    q.put_many(range(500))
    found = []
    for d in q.consume(credit=credit, idle=SOON):
        with d:
            found.append(d.body)
        if len(found) == 500:
            break
    assert found == list(range(500))
    eventually(lambda: held(q) == (0, 0))


def test_credit_bounds_what_is_held(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(100))
    consumer = q.consume(credit=7)
    first = next(consumer)
    eventually(lambda: held(q) == (93, 7))
    q.put(100)  # makes the node look for somebody with room
    assert held(q) == (94, 7)
    consumer.credit = 20
    eventually(lambda: held(q) == (81, 20))
    consumer.credit = 3
    eventually(lambda: held(q) == (98, 3))
    first.ack()
    consumer.stop()
    eventually(lambda: held(q) == (100, 0))


@pytest.mark.parametrize("credit", [0, -1, "all", 1.5, True, 2**32])
def test_a_credit_that_is_none_is_refused(q: zmqkit.Queue[Any], credit: Any) -> None:
    with pytest.raises(ValueError, match="credit"):
        q.consume(credit=credit)


def test_as_much_as_anybody_can_ask_for_still_fits_a_heartbeat(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(10))
    with q.consume(credit=2**32 - 1) as one, q.consume(credit=2**32 - 1):
        assert len(q.get_many(2**40, timeout=0)) == 10
        q.put("last")
        assert next(one).body == "last"  # the node understood


@pytest.mark.parametrize("reason", [b"bytes", 1, None])
def test_a_reason_is_a_text(q: zmqkit.Queue[Any], reason: Any) -> None:
    q.put("a")
    with q.get() as d:  # type: ignore[union-attr]
        for settle in (d.reject, lambda reason: d.nack(reason=reason)):
            with pytest.raises(TypeError, match="reason"):
                settle(reason)
    eventually(lambda: held(q) == (0, 0))  # it was still to be acked


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, 2**70])
def test_what_cannot_be_kept_is_refused_when_it_is_saved(q: zmqkit.Queue[Any], value: Any) -> None:
    q.put("a")
    with q.get() as d:  # type: ignore[union-attr]
        with pytest.raises(zmqkit.Unencodable):
            d.save(value)
        with pytest.raises(zmqkit.MessageTooLarge):
            d.save(bytes(70_000))


def test_one_slow_handler_keeps_no_message_from_the_idle_ones(q: zmqkit.Queue[Any]) -> None:
    let_go, done = threading.Event(), list[Any]()

    def handle(d: zmqkit.Delivery[Any]) -> None:
        if d.body == "slow":
            assert let_go.wait(20.0)
        done.append(d.body)

    work = q.work(handle, threads=2, block=False)
    assert work is not None
    q.put("slow")
    eventually(lambda: held(q)[1] == 1)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() > begun + 1.2)  # it has run for over a second
    q.put("quick")
    eventually(lambda: done == ["quick"])
    let_go.set()
    work.stop()
    assert work.wait(5.0)


def test_auto_hoards_nothing_behind_a_slow_handler(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(10))
    consumer = q.consume()
    d = next(consumer)
    eventually(lambda: held(q)[1] == 2)  # the one in hand, and one ahead
    eventually(lambda: held(q)[1] == 1)  # it has run for over a second
    d.ack()
    with next(consumer) as second:
        assert second.attempt == 1  # nothing was counted
    consumer.stop()


def test_auto_takes_more_as_work_goes_fast(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(100_000))
    with q.consume(idle=SOON) as consumer:
        for d in consumer:
            with d:
                if q._inbox.state.window > 100:
                    break
        else:
            raise AssertionError("the window stayed small")


def test_leaving_a_loop_gives_back_what_waits_and_what_was_dropped_uncounted(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(10))
    for d in q.consume(credit=5):
        assert d.body == 0
        break
    del d
    eventually(lambda: held(q) == (10, 0))
    with q.get() as again:  # type: ignore[union-attr]
        assert again.attempt == 1


def test_what_a_running_loop_forgets_is_nacked(q: zmqkit.Queue[Any]) -> None:
    q.put("forgotten")
    consumer = q.consume(credit=2)
    next(consumer)
    with next(consumer) as d:
        assert d.attempt == 2 and d.error == "dropped without ack, nack or reject"
    consumer.stop()


def test_stop_ends_a_waiting_loop_from_another_thread(q: zmqkit.Queue[Any]) -> None:
    consumer, took = q.consume(), threading.Event()

    def loop() -> None:
        for d in consumer:
            d.ack()
            took.set()

    thread = in_thread(loop)
    q.put("the only one")
    assert took.wait(SOON)
    consumer.stop()
    thread.join(SOON)
    assert not thread.is_alive()


def test_idle_ends_a_loop(q: zmqkit.Queue[Any]) -> None:
    begin = time.monotonic()
    assert list(q.consume(idle=0.2)) == []
    assert 0.15 < time.monotonic() - begin < SOON


def test_threads_may_share_a_loop(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(5000))
    consumer, found = q.consume(idle=SOON), []

    def take() -> None:
        for d in consumer:
            with d:
                found.append(d.body)
            if len(found) == 5000:
                consumer.stop()

    threads = [in_thread(take) for _ in range(4)]
    for thread in threads:
        thread.join(30.0)
    assert sorted(found) == list(range(5000))


def test_batches_are_of_at_most_n_and_of_all_messages(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(3000))
    found: list[Any] = []
    sizes = set()
    for batch in q.consume_many(100, idle=SOON):
        with batch:
            sizes.add(len(batch))
            found += batch.bodies
        if len(found) == 3000:
            break
    assert found == list(range(3000)) and max(sizes) <= 100
    eventually(lambda: held(q) == (0, 0))


def test_a_batch_that_raises_comes_again_one_by_one(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(4))
    with pytest.raises(RuntimeError), q.get_many(4, timeout=SOON) as batch:
        assert len(batch) == 4
        raise RuntimeError("one of them is bad")
    for _ in range(4):
        with q.get_many(4, timeout=SOON) as single:
            assert len(single) == 1 and single[0].attempt == 1


def test_deliveries_of_a_batch_may_be_settled_singly(q: zmqkit.Queue[Any]) -> None:
    q.put_many(range(4))
    with q.get_many(4, timeout=SOON) as batch:
        batch[1].reject("not this one")
        batch[2].snooze(60.0)
    eventually(lambda: held(q) == (1, 0) and q.info().dead == 1)
    assert [letter.body for letter in q.dead.list()] == [1]


# -- work -----------------------------------------------------------------------------------------------------------------


def test_work_calls_the_handler_and_survives_its_failures(q: zmqkit.Queue[Any], caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    def handle(d: zmqkit.Delivery[Any]) -> None:
        seen.append((d.body, d.attempt))
        if d.body == "bad" and d.attempt == 1:
            raise RuntimeError("once")

    q.put_many(["a", "bad", "b"])
    work = q.work(handle, threads=2, block=False)
    eventually(lambda: ("bad", 2) in seen and held(q) == (0, 0))
    work.stop()
    assert work.wait(SOON)
    assert sorted(seen) == [("a", 1), ("b", 1), ("bad", 1), ("bad", 2)] and "a handler failed" in caplog.text


def test_work_stops_on_sigterm_after_what_runs(mq: zmqkit.Client) -> None:
    q = mq.queue("signals")
    q.put_many(range(10))
    before, done = signal.getsignal(signal.SIGTERM), []

    def handle(d: zmqkit.Delivery[Any]) -> None:
        if d.body == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            eventually(lambda: not q._inbox.demands)  # the loop has been stopped
        done.append(d.body)

    q.work(handle, threads=1, credit=3)
    assert done == [0] and signal.getsignal(signal.SIGTERM) == before
    eventually(lambda: held(q) == (9, 0))
    q.delete()


# -- bodies ---------------------------------------------------------------------------------------------------------------


@dataclass
class Email:
    to: str


def test_what_is_not_of_the_type_goes_to_the_dead_letters_with_a_reason(mq: zmqkit.Client) -> None:
    raw, typed = mq.queue("mixed"), mq.queue("mixed", type=Email)
    raw.put_many([{"to": "ada"}, {"to": 1}, "rubbish", {"to": "bob"}])
    assert [d.body for d in typed.consume(idle=1.5) if not d.ack()] == [Email("ada"), Email("bob")]  # type: ignore[func-returns-value]
    eventually(lambda: raw.info().dead == 2)
    assert [letter.body for letter in raw.dead.list()] == [{"to": 1}, "rubbish"]
    assert "not a Email" in raw.dead.list()[0].reason
    raw.put_many([{"to": "ada"}, {"to": 1}, {"to": "bob"}])
    with typed.get_many(3, timeout=SOON) as batch:
        assert batch.bodies == [Email("ada"), Email("bob")]
    raw.delete()


def test_bytes_that_are_no_body_hurt_only_themselves(mq: zmqkit.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    q = mq.queue("broken")
    good = codec.packer()
    q._producer._pack = lambda body: b"\xc1" if body == "bad" else good(body)  # another program sends this
    for body in ["a", "bad", "b"]:
        q.put_soon(body)
    mq.flush()
    for expected in ["a", "b"]:
        with q.get(timeout=SOON) as d:  # type: ignore[union-attr]
            assert d.body == expected
    eventually(lambda: q.info().dead == 1)
    letter = q.dead.list()[0]
    assert "no msgpack body" in letter.reason and isinstance(letter.body, codec.Undecodable)
    q.delete()


# -- links ----------------------------------------------------------------------------------------------------------------


def test_no_thread_takes_from_a_batch_that_another_one_is_still_decoding(mq: zmqkit.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding, decoded, bodies = threading.Event(), threading.Event(), list[int]()
    open_up = Hand.open_up

    def slowly(hand: Hand) -> None:
        decoding.set()
        decoded.wait(SOON)
        open_up(hand)

    monkeypatch.setattr(Hand, "open_up", slowly)
    q = mq.queue(f"q{time.monotonic_ns()}")
    q.put_many([1, 2])
    consumer = q.consume(credit=2)
    threads = [in_thread(lambda: bodies.append(next(consumer).body))]
    assert decoding.wait(SOON)
    threads.append(in_thread(lambda: bodies.append(next(consumer).body)))
    threads[1].join(0.1)  # it would have failed by now
    decoded.set()
    for thread in threads:
        thread.join(SOON)
    assert sorted(bodies) == [1, 2]
    consumer.stop()


def test_a_thread_that_comes_while_some_of_a_batch_goes_back_finds_the_rest(mq: zmqkit.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    q = mq.queue(f"q{time.monotonic_ns()}")
    q.put_many([1, 2, 3])
    consumer = q.consume(credit=3)
    assert next(consumer).body == 1
    hand = consumer._inbox.front
    assert hand is not None
    monkeypatch.setattr(consumer._inbox, "_let_go", lambda _: None)  # we play the I/O thread, which does one thing at a time
    rest, came = list(hand.cursor), threading.Event()  # as it does: for a moment there is nothing
    advance = consumer._inbox._advance

    def late(seen: Hand | None) -> bool:
        hand.cursor = iter(rest)
        came.set()
        return advance(seen)

    monkeypatch.setattr(consumer._inbox, "_advance", late)
    monkeypatch.setattr(consumer, "_wait", lambda *_: False)  # so that it ends instead of waiting for news
    bodies: list[int] = []
    thread = in_thread(lambda: bodies.append(next(consumer).body))
    thread.join(SOON)
    assert came.is_set() and bodies == [2]
    consumer.stop()


def test_a_cut_link_loses_and_doubles_nothing(mq: zmqkit.Client) -> None:
    q, found = mq.queue("cut"), []
    feeder = in_thread(lambda: [q.put(n, timeout=30.0) for n in range(300)])
    cutter = threading.Event()

    def cut_often() -> None:
        while not cutter.wait(0.05):
            cut(mq)

    in_thread(cut_often)
    for d in q.consume(credit=5, idle=3.0):
        d.ack()
        found.append(d.body)
        if len(found) >= 300:
            break
    cutter.set()
    feeder.join(SOON)
    mq.flush()
    assert sorted(found) == list(range(300)) and held(q) == (0, 0)  # first leases are in order, starts over lost links need not be


def test_a_message_in_hand_stays_ours_over_a_cut_link(mq: zmqkit.Client) -> None:
    q = mq.queue("adopted")
    q.put("a")
    d = q.get()
    assert d is not None
    cut(mq)
    q.info()
    d.ack(wait=True)
    assert d.settled is True and held(q) == (0, 0)
