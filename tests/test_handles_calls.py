"""Calls, as their callers see them: answers, typed outcomes, futures, keys; and what is refused before it is sent."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from aio_world import NOWHERE
from call_world import Gate, gate, new_name, patient, serving  # noqa: F401
from handle_world import SOON, cut, eventually, freeze, in_thread

import zmqkit
from zmqkit.machines import calls as node_calls

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def node() -> Iterator[zmqkit.Node]:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        yield node


@pytest.fixture(scope="module")
def worker(node: zmqkit.Node) -> Iterator[zmqkit.Client]:
    with zmqkit.connect(node.endpoint) as worker:
        yield worker


@pytest.fixture(scope="module")
def client(node: zmqkit.Node) -> Iterator[zmqkit.Client]:
    with zmqkit.connect(node.endpoint) as client:
        yield client


@pytest.fixture(params=["client", "node"])
def mq(request: pytest.FixtureRequest, node: zmqkit.Node, client: zmqkit.Client) -> Any:
    """The caller: through a socket, and through the node's own handles."""
    return client if request.param == "client" else node


@dataclass
class Item:
    name: str
    count: int = 1


# -- answers ----------------------------------------------------------------------------------------------------------------


def test_a_call_returns_what_the_function_returns(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: [body, None, {"a": b"\xff"}]) as name:
        assert mq.call(name, {"item": "pear"}) == [{"item": "pear"}, None, {"a": b"\xff"}]
        assert mq.call(name) == [None, None, {"a": b"\xff"}]


def test_many_calls_are_each_answered_with_their_own(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: body * 2) as name:
        futures = [mq.call_soon(name, n) for n in range(5000)]
        assert [future.result(SOON) for future in futures] == [2 * n for n in range(5000)]


def test_threads_share_a_client(client: zmqkit.Client, worker: zmqkit.Client) -> None:
    answers: dict[int, list[int]] = {}
    with serving(worker, lambda body: body + 1) as name:

        def call(first: int) -> None:
            answers[first] = [client.call(name, n) for n in range(first, first + 50)]

        for thread in [in_thread(lambda first=first: call(first)) for first in range(0, 800, 100)]:
            thread.join(SOON)
    assert answers == {first: [n + 1 for n in range(first, first + 50)] for first in range(0, 800, 100)}


def test_headers_reach_the_handler_and_only_theirs(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: zmqkit.current().headers) as name:
        futures = [mq.call_soon(name, n, headers={"n": n} if n % 2 else None) for n in range(10)]
        assert [future.result(SOON) for future in futures] == [{"n": n} if n % 2 else {} for n in range(10)]


def test_a_typed_answer_is_made_and_checked(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: Item(body, 3) if body != "bad" else {"name": 5}) as name:
        assert mq.call(name, "pear", type=Item) == Item("pear", 3)
        assert mq.call(name, "pear") == {"name": "pear", "count": 3}
        assert mq.call_soon(name, "pear", type=Item).result(SOON) == Item("pear", 3)
        with pytest.raises(zmqkit.RemoteError, match=r"Undecodable.*body.name is int, not str"):
            mq.call(name, "bad", type=Item)
        assert isinstance(mq.call_soon(name, "bad", type=Item).exception(SOON), zmqkit.RemoteError)


def test_a_dataclass_is_sent_as_its_fields(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: body) as name:
        assert mq.call(name, [Item("pear")]) == [{"name": "pear", "count": 1}]


# -- typed outcomes -----------------------------------------------------------------------------------------------------------


def test_an_exception_of_the_handler_is_told_with_its_traceback(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    def price(body: Any) -> Any:
        return {}[body]

    with serving(worker, price) as name, pytest.raises(zmqkit.RemoteError) as raised:
        mq.call(name, "pear")
    assert (raised.value.kind, raised.value.message) == ("KeyError", "'pear'")
    assert raised.value.traceback.splitlines()[-1] == "KeyError: 'pear'" and "in price" in raised.value.traceback
    assert "serving.py" not in raised.value.traceback


def test_nobody_serves_is_told_at_once_without_retries(mq: zmqkit.Client) -> None:
    begin = time.monotonic()
    with pytest.raises(zmqkit.NoWorker, match="nobody serves 'nothing'"):
        mq.call("nothing", 1, timeout=30.0, retries=0)
    assert time.monotonic() - begin < SOON


def test_with_retries_a_call_waits_for_a_worker(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    name = new_name()
    future = mq.call_soon(name, 1, timeout=SOON)
    with worker.service(name, lambda body: body + 1):
        pool = worker.serve(block=False)
        assert future.result(SOON) == 2
        pool.stop()


def test_with_retries_nobody_is_told_at_the_deadline(mq: zmqkit.Client) -> None:
    begin = time.monotonic()
    with pytest.raises(zmqkit.NoWorker):
        mq.call("nothing", 1, timeout=0.2)
    assert 0.15 < time.monotonic() - begin < SOON


def test_a_handler_that_is_too_slow_may_have_executed(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate) as name, pytest.raises(zmqkit.Timeout) as raised:
        try:
            mq.call(name, 1, timeout=0.2)
        finally:
            gate.open.set()
    assert raised.value.maybe_executed and not isinstance(raised.value, zmqkit.NotSent)


def test_a_call_that_found_no_free_worker_was_not_executed(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate, threads=1, credit=1) as name:
        first = mq.call_soon(name, "first", timeout=SOON)
        gate.await_begin()
        with pytest.raises(zmqkit.Timeout) as raised:
            mq.call(name, "second", timeout=0.2)
        gate.open.set()
        assert first.result(SOON) == "first"
    assert not raised.value.maybe_executed and gate.bodies == ["first"]


def test_without_a_link_a_call_is_withdrawn_and_says_why() -> None:
    with zmqkit.connect(NOWHERE, lazy=True) as mq, pytest.raises(zmqkit.NotSent, match="connection refused") as raised:
        mq.call("price", 1, timeout=0.2)
    assert not raised.value.maybe_executed


def test_a_quota_is_waited_for_and_told_without_retries(
    mq: zmqkit.Client,
    worker: zmqkit.Client,
    gate: Gate,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_calls, "CALLS_MAX", 1)
    with serving(worker, gate) as name:
        first = mq.call_soon(name, "first")
        gate.await_begin()
        with pytest.raises(zmqkit.QuotaExceeded) as raised:
            mq.call(name, "second", retries=0)
        patient = mq.call_soon(name, "third", retries=100)
        assert raised.value.retry_after > 0 and not patient.done()
        gate.open.set()
        assert (first.result(SOON), patient.result(SOON)) == ("first", "third")
    assert gate.bodies == ["first", "third"]


def test_a_quota_that_stays_is_told_when_the_retries_are_used_up(
    mq: zmqkit.Client, worker: zmqkit.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_calls, "CALLS_MAX", 0)
    begin = time.monotonic()
    with serving(worker, lambda body: body) as name, pytest.raises(zmqkit.QuotaExceeded):
        mq.call(name, 1, timeout=30.0, retries=2)
    assert 0.05 < time.monotonic() - begin < SOON


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def test_a_node_that_is_restarted_is_waited_for() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    node = zmqkit.Node(endpoint)
    with zmqkit.connect(endpoint) as mq, zmqkit.connect(endpoint) as worker:
        mq.call_soon("price", "none serves it yet", timeout=20.0).add_done_callback(lambda future: answers.append(future.result()))
        answers: list[Any] = []
        eventually(lambda: "price" in node._core.services)  # else nobody can say whether the node had it
        node.close()
        with zmqkit.Node(endpoint), serving_as(worker, "price", lambda body: body):
            eventually(lambda: answers)
    assert answers == ["none serves it yet"]


def test_a_node_that_closes_says_that_what_waited_there_was_not_executed() -> None:
    with ExitStack() as stack:
        nodes = [zmqkit.Node("tcp://127.0.0.1:0") for _ in range(20)]
        clients = [stack.enter_context(zmqkit.connect(node.endpoint)) for node in nodes]
        futures = [mq.call_soon("price", timeout=2.5) for mq in clients]
        for node, _ in zip(nodes, clients, strict=True):
            eventually(lambda node=node: "price" in node._core.services)
            node.close()  # its last words and the end of the connection arrive together
        for future in futures:
            with pytest.raises(zmqkit.Timeout) as caught:
                future.result()
            assert not caught.value.maybe_executed


def serving_as(worker: zmqkit.Client, name: str, function: Any) -> Any:
    stack = ExitStack()
    stack.enter_context(worker.service(name, function))
    pool = worker.serve(block=False)
    stack.callback(pool.wait, SOON)
    stack.callback(pool.stop)
    return stack


def test_an_answer_finds_its_caller_on_the_next_link(client: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate) as name:
        future = client.call_soon(name, "once", timeout=SOON)
        gate.await_begin()
        cut(client)
        cut(worker)
        gate.open.set()
        assert future.result(SOON) == "once"
    assert gate.bodies == ["once"]


# -- keys -----------------------------------------------------------------------------------------------------------------------


def test_one_key_is_executed_once(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate) as name:
        running = [mq.call_soon(name, n, idempotency_key="order-7") for n in range(3)]
        assert gate.await_begin().key == "order-7"
        gate.open.set()
        assert [future.result(SOON) for future in running] == [0, 0, 0]
        assert mq.call(name, 9, idempotency_key="order-7") == 0
        assert mq.call(name, 9, idempotency_key="order-8") == 9
    assert gate.bodies == [0, 9]


def test_without_a_key_the_handler_sees_none(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: zmqkit.current().key) as name:
        assert mq.call(name) == ""


# -- futures --------------------------------------------------------------------------------------------------------------------


def test_cancelling_a_future_reaches_the_handler(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate) as name:
        future = mq.call_soon(name, 1)
        call = gate.await_begin()
        assert not call.cancelled
        assert future.cancel() and future.cancelled() and future.done() and future.cancel()
        eventually(lambda: call.cancelled)
        gate.open.set()
        with pytest.raises(CancelledError):
            future.result()
        assert mq.call(name, 2) == 2


def test_a_call_cancelled_before_it_left_is_never_executed(client: zmqkit.Client, worker: zmqkit.Client) -> None:
    seen: list[Any] = []
    with serving(worker, seen.append) as name:
        go_on = freeze(client)
        futures = [client.call_soon(name, n) for n in range(3)]
        assert futures[1].cancel()
        go_on()
        assert [futures[n].result(SOON) for n in (0, 2)] == [None, None]
    assert sorted(seen) == [0, 2]


def held_by(worker: zmqkit.Client, name: str) -> int:
    """Calls of that service in the worker's hands, begun or not."""
    return worker._session.machine.consumers["\0" + name].open


def test_a_call_that_waits_for_a_handler_is_cancelled_for_good(
    mq: zmqkit.Client,
    worker: zmqkit.Client,
    gate: Gate,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zmqkit.machines.consumer.SLOW_SECONDS", 60.0)  # else it would go back for that reason
    with serving(worker, gate, threads=1) as name:  # one more is in the worker's hands already, the others are at the node
        futures = [mq.call_soon(name, n) for n in range(5)]
        gate.await_begin()
        eventually(lambda: held_by(worker, name) == 2)
        assert all(future.cancel() for future in futures[1:])
        mq.queue("any").info()  # the node knows of all of them: it gives none of them out any more
        eventually(lambda: held_by(worker, name) == 1)
        last = mq.call_soon(name, "last")
        gate.open.set()
        assert (futures[0].result(SOON), last.result(SOON)) == (0, "last")
    assert gate.bodies == [0, "last"]


def test_an_answered_future_is_not_cancelled(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: body) as name:
        future = mq.call_soon(name, 1)
        assert future.result(SOON) == 1 and not future.cancel() and not future.cancelled()


def test_futures_work_with_the_standard_library(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: 1 // body) as name:
        futures = {mq.call_soon(name, n): n for n in (0, 1)}
        done = {futures[future]: future for future in as_completed(futures, SOON)}  # type: ignore[index]
    assert isinstance(done[0].exception(), zmqkit.RemoteError) and done[1].result() == 1


def test_callbacks_may_call_in_their_turn(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    found: list[Any] = []
    with serving(worker, lambda body: body + 1) as name:
        mq.call_soon(name, 1).add_done_callback(lambda future: found.append(mq.call(name, future.result())))
        assert eventually(lambda: found) == [3]


def test_a_timeout_of_the_wait_is_not_one_of_the_call(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate) as name:
        future = mq.call_soon(name, 1)
        with pytest.raises(TimeoutError):
            future.result(0.01)
        gate.open.set()
        assert future.result(SOON) == 1


def test_an_interrupted_call_is_cancelled(client: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with serving(worker, gate) as name:
            threading.Thread(target=lambda: (gate.await_begin(), os.kill(os.getpid(), signal.SIGUSR1)), daemon=True).start()
            with pytest.raises(KeyboardInterrupt):
                client.call(name, 1, timeout=None)
            eventually(lambda: gate.calls[0].cancelled)
            gate.open.set()
    finally:
        signal.signal(signal.SIGUSR1, before)


# -- the end ----------------------------------------------------------------------------------------------------------------------


def test_close_ends_what_waits(node: zmqkit.Node, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate) as name:
        with zmqkit.connect(node.endpoint) as mq:
            future = mq.call_soon(name, 1)
            call = gate.await_begin()
        with pytest.raises(zmqkit.Closed, match="may have been executed"):
            future.result(SOON)
        eventually(lambda: call.cancelled)
        with pytest.raises(zmqkit.Closed):
            mq.call(name, 1)
        gate.open.set()


def test_close_ends_what_never_left() -> None:
    with zmqkit.connect(NOWHERE, lazy=True) as mq:
        future = mq.call_soon("price", 1, timeout=None)
    with pytest.raises(zmqkit.Closed):
        future.result(SOON)


def test_a_call_in_a_forked_child_raises(client: zmqkit.Client) -> None:
    pid = os.fork()
    if not pid:
        try:
            client.call("price", 1)
        except zmqkit.Closed:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- what is refused here -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "\0price", "x" * 255, "\ud800", 7, None])
def test_a_name_that_is_none_is_refused(mq: zmqkit.Client, name: Any) -> None:
    for use in (mq.call, mq.call_soon, mq.stream, lambda name: mq.service(name, print)):
        with pytest.raises(ValueError, match="service's name"):
            use(name)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ({"timeout": -1}, ValueError), ({"timeout": "1s"}, TypeError), ({"retries": -1}, ValueError), ({"retries": 1000}, ValueError),
        ({"retries": 1.5}, ValueError), ({"idempotency_key": ""}, ValueError), ({"idempotency_key": "k" * 256}, ValueError),
        ({"idempotency_key": 7}, ValueError), ({"headers": {1: 2}}, zmqkit.Unencodable), ({"headers": {"a": object()}}, zmqkit.Unencodable),
        ({"headers": {"a": b"x" * 200_000}}, zmqkit.MessageTooLarge), ({"timeout": []}, TypeError),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(mq: zmqkit.Client, argument: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        mq.call("price", 1, **argument)
    with pytest.raises(error):
        mq.call_soon("price", 1, **argument)


def test_what_cannot_be_sent_is_refused(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, len) as name:
        with pytest.raises(zmqkit.Unencodable, match="cannot send"):
            mq.call(name, object())
        with pytest.raises(zmqkit.MessageTooLarge):
            mq.call(name, b"x" * (MiB + 1))
        assert mq.call(name, b"x" * (MiB - 100)) == MiB - 100


@pytest.mark.parametrize("window", [0, 257, 1.0])
def test_a_window_has_limits(mq: zmqkit.Client, window: Any) -> None:
    with pytest.raises(ValueError, match="window"):
        mq.stream("tail", window=window)
