"""Settling, as users see it: late acks, acks that wait, what is saved, and the ways a handler may end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from handle_world import SOON, eventually, freeze, in_thread, world

import zmqkit
from zmqkit import wire

SHORT = zmqkit.QueuePolicy(lease=0.3, backoff=zmqkit.Backoff(0.01, 0.02))


@pytest.fixture(scope="module")
def peers() -> Iterator[tuple[zmqkit.Node, zmqkit.Client]]:
    with world() as pair:
        yield pair


@pytest.fixture
def mq(peers: tuple[zmqkit.Node, zmqkit.Client]) -> zmqkit.Client:
    return peers[1]


@pytest.fixture
def there(peers: tuple[zmqkit.Node, zmqkit.Client]) -> zmqkit.Queue[Any]:
    """A fresh queue, as the node's own handles see it."""
    name = f"q{time.monotonic_ns()}"
    peers[0].declare(name, SHORT)
    return peers[0].queue(name)


@pytest.fixture
def q(mq: zmqkit.Client, there: zmqkit.Queue[Any]) -> zmqkit.Queue[Any]:
    """The same at the other end of a socket."""
    return mq.queue(there.name)


def outlive(mq: zmqkit.Client, there: zmqkit.Queue[Any]) -> Callable[[], None]:
    """The client is silent until its leases have ended, and does not know it until the returned function is called."""
    thaw = freeze(mq)
    eventually(lambda: there.info().leased == 0)
    return thaw


# -- late acks ------------------------------------------------------------------------------------------------------------


def test_a_late_ack_is_refused_by_the_next_call_and_changes_nothing(
    mq: zmqkit.Client, q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]
) -> None:
    there.put("a")
    consumer = q.consume(credit=1)
    d = next(consumer)
    thaw = outlive(mq, there)
    d.ack()  # nobody knows yet
    thaw()
    eventually(lambda: q._inbox.stale)  # the answer has come
    with pytest.raises(zmqkit.StaleLease, match=f"message {d.seq} in {q.name}"):
        next(consumer)
    with next(consumer) as again:
        assert (again.seq, again.error) == (d.seq, "expired") and again.attempt >= 2 and again.token > d.token
    consumer.stop()


def test_on_stale_takes_what_the_next_call_would_raise(mq: zmqkit.Client, q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]) -> None:
    there.put("a")
    stale: list[zmqkit.StaleLease] = []
    consumer = q.consume(credit=1, on_stale=stale.append)
    d = next(consumer)
    thaw = outlive(mq, there)
    d.ack()
    thaw()
    eventually(lambda: q._inbox.stale)
    with next(consumer) as again:
        assert again.attempt >= 2
    assert len(stale) == 1 and str(d.seq) in str(stale[0])
    consumer.stop()
    mq.flush()  # it was told, so it is not told again


def test_flush_tells_a_late_ack_too(mq: zmqkit.Client, q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]) -> None:
    there.put("a")
    d = q.get()
    assert d is not None
    thaw = outlive(mq, there)
    d.ack()
    thaw()
    with pytest.raises(zmqkit.StaleLease):
        mq.flush()
    mq.flush()
    with there.get() as again:  # type: ignore[union-attr]
        assert again.attempt == 2


def test_get_raises_what_came_too_late_before_it_takes_anything(mq: zmqkit.Client, q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]) -> None:
    there.put("a")
    d = q.get()
    assert d is not None
    thaw = outlive(mq, there)
    d.ack()
    thaw()
    eventually(lambda: q._inbox.stale)
    with pytest.raises(zmqkit.StaleLease):
        q.get()
    with q.get(timeout=SOON) as again:  # type: ignore[union-attr]
        assert again.attempt == 2


def test_an_ack_of_a_lease_that_is_known_to_have_ended_raises_at_once(
    mq: zmqkit.Client, q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]
) -> None:
    there.put_many(["a", "b"])
    with q.consume(credit=2) as consumer:
        d, other = next(consumer), next(consumer)
        outlive(mq, there)()
        eventually(lambda: d._hand.lease.revoked)
        with pytest.raises(zmqkit.StaleLease, match=str(d.seq)):
            d.ack()
        with pytest.raises(zmqkit.StaleLease):
            other.ack(wait=True)
        d.ack()  # said already
    mq.flush()  # and not told again


def test_an_ack_that_waits_raises_its_own_refusal(mq: zmqkit.Client, q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]) -> None:
    there.put("a")
    d = q.get()
    assert d is not None
    thaw = outlive(mq, there)
    raised: list[Exception] = []

    def ack() -> None:
        try:
            d.ack(wait=True)
        except zmqkit.StaleLease as error:
            raised.append(error)

    thread = in_thread(ack)
    thaw()
    thread.join(SOON)
    assert len(raised) == 1
    mq.flush()


def test_a_batch_tells_which_messages_were_too_late(mq: zmqkit.Client, q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]) -> None:
    there.put_many(range(3))
    batch = q.get_many(3)
    assert len(batch) == 3
    outlive(mq, there)()
    eventually(lambda: batch[0]._hand.lease.revoked)
    with pytest.raises(zmqkit.StaleLease, match="messages 1 to 3"):
        batch.ack()
    assert there.info().ready == 3


# -- acks that wait -------------------------------------------------------------------------------------------------------


def test_an_ack_that_waits_returns_when_the_node_has_it(q: zmqkit.Queue[Any], there: zmqkit.Queue[Any]) -> None:
    there.put("a")
    d = q.get()
    assert d is not None and not d.settled
    d.ack(wait=True)
    assert d.settled is True and there.info().leased == 0
    d.ack(wait=True)


def test_an_ack_that_waited_too_long_goes_on(peers: tuple[zmqkit.Node, zmqkit.Client], q: zmqkit.Queue[Any]) -> None:
    node, mq = peers
    q.put("a")
    d = q.get()
    assert d is not None
    thaw = freeze(node)
    with pytest.raises(zmqkit.Timeout, match="it goes on") as caught:
        d.ack(wait=True, timeout=0.05)
    assert caught.value.maybe_executed
    thaw()
    mq.flush()
    assert q.info().leased == 0 and q.get(timeout=0) is None


def test_where_the_node_cannot_tell_any_more_the_ack_succeeds_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zmqkit.Node("tcp://127.0.0.1:0", journal=str(tmp_path)) as node:
        mq, endpoint = zmqkit.connect(node.endpoint), node.endpoint
        q = mq.queue("q")
        q.put("a")
        d = q.get()
        assert d is not None
        reactor, send = mq._session.reactor, mq._session.reactor._send
        said, restarted = threading.Event(), threading.Event()

        def send_and_hang(port: Any, command: wire.Command, moment: float) -> bool:
            """The ack leaves; its answer is lost with the link."""
            sent = send(port, command, moment)
            if isinstance(command, wire.Done) and not said.is_set():
                said.set()
                restarted.wait(30.0)
                mq._session.machine.lost(moment, "cut by the test")
            return sent

        monkeypatch.setattr(reactor, "_send", send_and_hang)
        thread = in_thread(lambda: d.ack(wait=True, timeout=30.0))
        assert said.wait(SOON)
        eventually(lambda: node.queue("q").info().leased == 0)
    with zmqkit.Node(endpoint, journal=str(tmp_path)) as node, mq:
        restarted.set()
        thread.join(SOON)
        assert d.settled == "unknown"
        info = node.queue("q").info()
        assert (info.ready, info.leased, info.delayed, info.dead) == (0, 0, 0, 0)


# -- what a handler may do ------------------------------------------------------------------------------------------------


def again(q: zmqkit.Queue[Any]) -> zmqkit.Delivery[Any]:
    d = q.get(timeout=SOON)
    assert d is not None
    return d


def test_what_is_saved_is_there_at_the_next_attempt(q: zmqkit.Queue[Any]) -> None:
    q.put("a")
    first = again(q)
    assert first.saved is None
    first.save({"page": 1})
    first.save({"page": 2, 3: [b"x", None]})
    first.nack(delay=0)
    second = again(q)
    assert (second.attempt, second.saved) == (2, {"page": 2, 3: [b"x", None]})
    second.snooze(0)
    third = again(q)
    assert third.saved == second.saved and third.attempt == 2
    third.ack()


def test_a_snoozed_message_comes_later_and_nothing_is_counted(q: zmqkit.Queue[Any]) -> None:
    q.put("a")
    again(q).snooze(60.0)
    eventually(lambda: q.info().delayed == 1)
    q.put("b")
    begin = time.monotonic()
    again(q).snooze(0.2)
    with again(q) as d:
        assert (d.body, d.attempt, d.error) == ("b", 1, None) and time.monotonic() - begin > 0.15


@pytest.mark.parametrize("raised, attempt, error", [
    (zmqkit.Retry(0.0, "not there yet"), 2, "Retry: not there yet ("), (zmqkit.Retry(), 2, "Retry: retry ("), (zmqkit.Snooze(0.0), 1, ""),
])  # fmt: skip
def test_raising_steers_and_goes_no_further(q: zmqkit.Queue[Any], raised: Exception, attempt: int, error: str) -> None:
    q.put("a")
    with again(q) as d:
        raise raised
    assert d.settled
    with again(q) as d:
        assert d.attempt == attempt and (d.error or "").startswith(error)


def test_raising_reject_buries_at_once_with_the_reason(q: zmqkit.Queue[Any]) -> None:
    q.put("a")
    with again(q):
        raise zmqkit.Reject("no such address")
    eventually(lambda: q.info().dead == 1)
    letter = q.dead.list()[0]
    assert (letter.reason, letter.attempts) == ("no such address", 1)


def test_any_other_exception_nacks_and_goes_on_up(q: zmqkit.Queue[Any]) -> None:
    q.put("a")
    with pytest.raises(KeyError, match="gone"), again(q):
        raise KeyError("gone")
    with again(q) as d:
        assert d.attempt == 2 and d.error and d.error.startswith("KeyError: 'gone' (test_handles_stale.py:")


def test_the_end_of_the_process_is_not_the_messages_fault(q: zmqkit.Queue[Any]) -> None:
    q.put("a")
    with pytest.raises(KeyboardInterrupt), again(q):
        raise KeyboardInterrupt
    with again(q) as d:
        assert d.attempt == 1


def test_a_message_is_settled_once(q: zmqkit.Queue[Any]) -> None:
    q.put("a")
    d = again(q)
    d.ack()
    d.nack()
    d.reject()
    d.snooze(0)
    q._session.flush(SOON)
    info = q.info()
    assert (info.ready, info.leased, info.delayed, info.dead) == (0, 0, 0, 0)
