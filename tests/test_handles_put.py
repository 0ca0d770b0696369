"""Putting, as users see it: receipts, futures, many at once, and every way it can fail."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from handle_world import SOON, eventually, freeze, in_thread, world

import zmqkit
from zmqkit.handles.waiting import run
from zmqkit.parcel import FULL_BYTES, PARCEL_BYTES_MAX


@pytest.fixture(scope="module")
def peers() -> Iterator[tuple[zmqkit.Node, zmqkit.Client]]:
    with world() as pair:
        yield pair


@pytest.fixture(params=["node", "client"])
def q(request: pytest.FixtureRequest, peers: tuple[zmqkit.Node, zmqkit.Client]) -> Iterator[zmqkit.Queue[Any]]:
    """A fresh queue, through the node's own handles and through a socket."""
    queue = peers[request.param == "client"].queue("q")
    yield queue
    queue.delete()


@pytest.fixture
def mq(peers: tuple[zmqkit.Node, zmqkit.Client]) -> zmqkit.Client:
    return peers[1]


def bodies(q: zmqkit.Queue[Any]) -> list[Any]:
    """What is in the queue, in order of its numbers; it is taken out. What was given back on the way comes again behind the others."""
    found: dict[int, Any] = {}
    while batch := q.get_many(4096, timeout=0):
        with batch:
            found.update((d.seq, d.body) for d in batch)
    return [found[seq] for seq in sorted(found)]


def test_a_receipt_tells_where_and_how_safe(q: zmqkit.Queue[Any]) -> None:
    first, second = q.put({"a": 1}), q.put({"a": 2})
    assert second.seq == first.seq + 1 and not first.duplicate
    assert first.durability == "memory" and len(bytes.fromhex(first.node)) == 16
    assert bodies(q) == [{"a": 1}, {"a": 2}]


def test_put_soon_gives_a_future_that_works_as_any_other(q: zmqkit.Queue[Any]) -> None:
    futures = [q.put_soon(n) for n in range(20)]
    done, waiting = concurrent.futures.wait(futures, timeout=SOON)
    assert len(done) == 20 and not waiting
    seqs = [future.result().seq for future in futures]
    assert seqs == list(range(seqs[0], seqs[0] + 20))
    assert {future.result().seq for future in concurrent.futures.as_completed(futures)} == set(seqs)
    assert futures[0].exception() is None and futures[0].done() and not futures[0].cancel()


def test_callbacks_never_run_on_the_io_thread(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    names: list[str] = []
    future = q.put_soon(1)
    future.add_done_callback(lambda f: names.append(threading.current_thread().name))
    future.result(SOON)
    eventually(lambda: names)
    assert names[0] not in ("zmqkit-client", "zmqkit-node")


def test_a_failing_callback_hurts_nobody(q: zmqkit.Queue[Any]) -> None:
    future = q.put_soon(1)
    future.add_done_callback(lambda f: 1 / 0)
    assert future.result(SOON).seq and q.put(2).seq


def test_put_many_takes_any_iterable_in_order_under_one_receipt(q: zmqkit.Queue[Any]) -> None:
    receipt = q.put_many(n for n in range(10_000))
    assert receipt.count == 10_000 and receipt.last_seq - receipt.first_seq == 9_999
    assert bodies(q) == list(range(10_000))


def test_put_many_of_nothing_is_nothing(q: zmqkit.Queue[Any]) -> None:
    assert q.put_many([]).count == 0


def test_put_many_is_lazy(mq: zmqkit.Client) -> None:
    q, pulled = mq.queue("lazy"), 0
    thaw = freeze(mq)

    def source() -> Iterator[bytes]:
        nonlocal pulled
        for pulled in range(1, 100_001):  # noqa: B007
            yield bytes(1000)

    thread = in_thread(lambda: q.put_many(source(), timeout=None))
    eventually(lambda: pulled > 1000)
    held = pulled
    assert held < 20_000  # what fits the window of this process, and no more
    thaw()
    thread.join(30.0)
    assert pulled == 100_000 and q.info().ready == 100_000
    q.delete()


def test_puts_of_several_threads_keep_each_threads_order(q: zmqkit.Queue[Any]) -> None:
    threads = [in_thread(lambda name=name: [q.put_soon([name, n]) for n in range(2000)]) for name in range(3)]  # type: ignore[misc]
    for thread in threads:
        thread.join(SOON)
    run(q._nodes.flushing(SOON))
    found = bodies(q)
    assert len(found) == 6000
    for name in range(3):
        assert [n for who, n in found if who == name] == list(range(2000))


def test_put_and_put_many_keep_their_order(q: zmqkit.Queue[Any]) -> None:
    q.put_soon(0)
    q.put_many(range(1, 2000))
    q.put(2000)
    q.put_many([2001, 2002])
    assert bodies(q) == list(range(2003))


def test_headers_travel_beside_the_body(q: zmqkit.Queue[Any]) -> None:
    q.put_soon("plain")
    q.put_soon("marked", headers={"trace": "abc", "n": 1})
    q.put("plain again")
    with q.get_many(3) as batch:
        assert [(d.body, d.headers) for d in batch] == [("plain", {}), ("marked", {"trace": "abc", "n": 1}), ("plain again", {})]


@pytest.mark.parametrize("body", [object(), {1, 2}, 2**65, {"deep": 1j}])
def test_a_body_msgpack_cannot_carry_is_refused_at_once(q: zmqkit.Queue[Any], body: Any) -> None:
    with pytest.raises(zmqkit.Unencodable, match="cannot send"):
        q.put(body)
    q.put("after")
    assert bodies(q) == ["after"]


@pytest.mark.parametrize("headers", [{1: 2}, {"a": object()}, ["a"], [], {"a": {1: 2}}, {"a": [0] * 5000}])
def test_headers_that_are_none_are_refused(q: zmqkit.Queue[Any], headers: Any) -> None:
    with pytest.raises(zmqkit.Unencodable):
        q.put("x", headers=headers)


def test_headers_are_refused_at_the_sender_as_deep_as_they_would_stand_in_a_batch(q: zmqkit.Queue[Any]) -> None:
    headers: dict[str, Any] = {}
    for _ in range(1015):
        headers = {"a": headers}
    stored = 0
    with pytest.raises(zmqkit.Unencodable):
        for stored in range(20):  # noqa: B007
            q.put("x", headers=headers)
            headers = {"a": headers}
    assert stored and q.put("the link lives").seq
    assert len(bodies(q)) == stored + 1


def test_headers_that_change_after_the_put_are_sent_as_they_were(mq: zmqkit.Client, q: zmqkit.Queue[Any]) -> None:
    headers: dict[str, Any] = {"n": 1, "inner": []}
    thaw = freeze(mq)
    future = mq.queue(q.name).put_soon("x", headers=headers)
    headers["n"] = object()
    headers["inner"].append({1: 2})
    thaw()
    assert future.result(SOON).seq
    with q.get() as d:  # type: ignore[union-attr]
        assert d.headers == {"n": 1, "inner": []}


def test_a_message_over_the_limit_is_refused_at_the_sender(q: zmqkit.Queue[Any]) -> None:
    with pytest.raises(zmqkit.MessageTooLarge) as caught:
        q.put(bytes(PARCEL_BYTES_MAX + 1))
    assert isinstance(caught.value, ValueError) and caught.value.limit <= PARCEL_BYTES_MAX
    with pytest.raises(zmqkit.MessageTooLarge):
        q.put_many([b"x", bytes(PARCEL_BYTES_MAX + 1)])


def test_messages_of_any_size_up_to_the_limit_go_together(q: zmqkit.Queue[Any]) -> None:
    sizes = [10, FULL_BYTES, 900_000, 1, PARCEL_BYTES_MAX - 100, 700_000, 700_000, 5]
    q.put_many(bytes(size) for size in sizes)
    for size in sizes:
        q.put_soon(bytes(size))
    run(q._nodes.flushing(SOON))
    assert [len(body) for body in bodies(q)] == sizes * 2


def test_put_many_tells_how_many_are_safe_when_one_cannot_be_sent(q: zmqkit.Queue[Any]) -> None:
    with pytest.raises(zmqkit.Unencodable, match="message 3000") as caught:
        q.put_many(n if n != 3000 else object() for n in range(5000))
    safe = caught.value.confirmed  # type: ignore[attr-defined]
    assert bodies(q)[:safe] == list(range(safe))


def test_an_unsent_put_is_withdrawn_when_its_time_is_up(mq: zmqkit.Client) -> None:
    q = mq.queue("withdrawn")
    q.put("first")
    thaw = freeze(mq)
    with pytest.raises(zmqkit.NotSent) as caught:
        q.put("late", timeout=0.05)
    assert not caught.value.maybe_executed and isinstance(caught.value, TimeoutError)
    kept = q.put_soon("kept")
    thaw()
    assert kept.result(SOON).seq == 2
    assert bodies(q) == ["first", "kept"]


def test_a_future_can_be_cancelled_until_it_is_sent(mq: zmqkit.Client) -> None:
    q = mq.queue("cancelled")
    thaw = freeze(mq)
    futures = [q.put_soon(n) for n in range(5)]
    assert futures[1].cancel() and futures[3].cancel() and futures[1].cancelled()
    thaw()
    mq.flush()
    assert [future.result(SOON).seq for future in (futures[0], futures[2], futures[4])] == [1, 2, 3]
    with pytest.raises(concurrent.futures.CancelledError):
        futures[1].result()
    assert bodies(q) == [0, 2, 4]


def test_a_full_queue_says_so_and_when_to_come_back(mq: zmqkit.Client) -> None:
    q = mq.queue("full")
    mq.declare("full", zmqkit.QueuePolicy(max_messages=2))
    q.put_many([1, 2])
    with pytest.raises(zmqkit.QueueFull) as caught:
        q.put(3)
    assert caught.value.retry_after > 0
    with q.get_many(1):
        pass
    mq.flush()
    assert q.put(4).seq and bodies(q) == [2, 4]


def test_flush_raises_the_first_failure_that_nobody_saw(mq: zmqkit.Client) -> None:
    q = mq.queue("unseen")
    mq.declare("unseen", zmqkit.QueuePolicy(max_messages=1))
    q.put(1)
    q.put_soon(2)
    with pytest.raises(zmqkit.QueueFull):
        mq.flush()
    mq.flush()
    future = q.put_soon(3)
    with pytest.raises(zmqkit.QueueFull):
        future.result(SOON)
    mq.flush()  # that one was seen
    bodies(q)


def test_a_queue_that_blocks_makes_its_producers_wait(mq: zmqkit.Client) -> None:
    q = mq.queue("blocking")
    mq.declare("blocking", zmqkit.QueuePolicy(max_messages=1, on_full="block"))
    q.put(1)
    later = q.put_soon(2)
    with pytest.raises(TimeoutError):
        later.result(0.2)
    with q.get_many(1):
        pass
    assert later.result(SOON).seq == 2
    assert bodies(q) == [2]


@dataclass
class Email:
    to: str
    tries: int = 0


def test_a_typed_queue_checks_at_the_sender(mq: zmqkit.Client) -> None:
    q = mq.queue("typed", type=Email)
    with pytest.raises(zmqkit.Unencodable, match="Email"):
        q.put(Email(1))  # type: ignore[arg-type]
    q.put(Email("ada"))
    q.put_many([Email("bob", 2)])
    assert bodies(q) == [Email("ada"), Email("bob", 2)]


@pytest.mark.parametrize("name", ["", "x" * 256, 1, "half a \ud800 letter", b"q"])
def test_a_queue_needs_a_name(mq: zmqkit.Client, name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        mq.queue(name)
