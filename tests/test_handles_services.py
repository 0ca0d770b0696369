"""Services, as those who write them see them: who answers what, when they come and go, and what a handler may do wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from call_world import Gate, await_known, gate, new_name, patient, serving  # noqa: F401
from handle_world import SOON, cut, eventually, in_thread
from proxy import proxy_to

import zmqkit
from zmqkit.handles.serving import TEXT_BYTES_MAX

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def node() -> Iterator[zmqkit.Node]:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        yield node


@pytest.fixture(scope="module")
def mq(node: zmqkit.Node) -> Iterator[zmqkit.Client]:
    with zmqkit.connect(node.endpoint) as client:
        yield client


@pytest.fixture(params=["client", "node"])
def worker(request: pytest.FixtureRequest, node: zmqkit.Node) -> Iterator[Any]:
    """The one who serves: through a socket, and the node itself (a worker that binds)."""
    if request.param == "node":
        yield node
    else:
        with zmqkit.connect(node.endpoint) as client:
            yield client


@dataclass
class Item:
    name: str


# -- coming and going ---------------------------------------------------------------------------------------------------------


def test_a_decorated_function_stays_what_it_is(worker: zmqkit.Client, mq: zmqkit.Client) -> None:
    name = new_name()

    @worker.service(name)
    def double(body: int) -> int:
        return 2 * body

    assert double(4) == 8
    pool = worker.serve(block=False)
    assert mq.call(name, 4) == 8
    pool.stop()
    assert pool.wait(SOON) and pool.ended


def test_services_come_and_go_while_serving(worker: zmqkit.Client, mq: zmqkit.Client) -> None:
    pool = worker.serve(block=False)
    first = worker.service("first", lambda body: [1, body])
    assert mq.call("first", 7) == [1, 7] and first.name == "first"
    with worker.service("second", lambda body: [2, body]):
        assert mq.call("second", 7) == [2, 7]
        first.close()
        eventually(lambda: nobody_serves(mq, "first"))
        assert mq.call("second", 8) == [2, 8]
    first.close()  # twice does nothing
    with worker.service("first", lambda body: [3, body]):
        assert mq.call("first", 7) == [3, 7]
    pool.stop()
    assert pool.wait(SOON)


def nobody_serves(mq: zmqkit.Client, name: str) -> bool:
    try:
        mq.call(name, 0, retries=0)
    except zmqkit.NoWorker:
        return True
    return False


def test_a_name_is_served_once_by_one_client(worker: zmqkit.Client) -> None:
    with worker.service("price", lambda body: 1):
        with pytest.raises(zmqkit.Error, match="serves 'price' already"):
            worker.service("price", lambda body: 2)
        with pytest.raises(zmqkit.Error, match=r"serves 'price' already"):
            worker.aio.service("price", lambda body: 2)
    worker.service("price", lambda body: 2).close()


def test_a_service_is_a_function(worker: zmqkit.Client) -> None:
    with pytest.raises(TypeError, match="function of one body"):
        worker.service("price", "price")  # type: ignore[call-overload]


@pytest.mark.parametrize(("argument", "error"), [({"threads": 0}, ValueError), ({"threads": 1.5}, ValueError), ({"credit": 0}, ValueError)])
def test_wrong_arguments_of_serve_are_refused(worker: zmqkit.Client, argument: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        worker.serve(block=False, **argument)


def test_closing_a_service_finishes_what_runs_and_gives_back_the_rest(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    name = new_name()
    service = worker.service(name, gate)
    pool = worker.serve(1, block=False, credit=3)
    running, *rest = [mq.call_soon(name, n) for n in range(3)]
    gate.await_begin()
    eventually(lambda: worker._session.machine.consumers["\0" + name].open == 3)
    service.close()
    with zmqkit.connect(mq.endpoint) as other, other.service(name, lambda body: -body):
        taking_over = other.serve(block=False)
        assert [future.result(SOON) for future in rest] == [-1, -2]
        taking_over.stop()
    gate.open.set()
    assert running.result(SOON) == 0 and gate.bodies == [0]
    pool.stop()
    assert pool.wait(SOON)


def test_stop_finishes_what_runs_and_gives_back_the_rest(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    name = new_name()
    with worker.service(name, gate):
        pool = worker.serve(1, block=False, credit=3)
        running, *rest = [mq.call_soon(name, n) for n in range(3)]
        gate.await_begin()
        worker.stop()
        with zmqkit.connect(mq.endpoint) as other, other.service(name, lambda body: -body):
            taking_over = other.serve(block=False)
            assert [future.result(SOON) for future in rest] == [-1, -2]
            taking_over.stop()
        assert not pool.wait(0.0)
        gate.open.set()
        assert pool.wait(SOON) and running.result(SOON) == 0 and gate.bodies == [0]


def test_serving_may_begin_again(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: body) as name:
        assert mq.call(name, 1) == 1
        worker.stop()
        assert eventually(lambda: nobody_serves(mq, name))
        again = worker.serve(block=False)
        assert mq.call(name, 2) == 2
        again.stop()
        assert again.wait(SOON)


def test_stop_ends_a_serve_that_has_nothing_to_serve(worker: zmqkit.Client) -> None:
    blocked = in_thread(lambda: worker.serve())
    eventually(lambda: worker._nodes.crews and len(worker._nodes.crews["threads"].sleepers) == 4)
    worker.stop()
    blocked.join(SOON)
    assert not blocked.is_alive()


def test_close_ends_serving(node: zmqkit.Node) -> None:
    with zmqkit.connect(node.endpoint) as worker:
        worker.service(new_name(), lambda body: body)
        pool = worker.serve(block=False)
    assert pool.wait(SOON)
    with pytest.raises(zmqkit.Closed):
        worker.serve(block=False)
    with pytest.raises(zmqkit.Closed):
        worker.service("price", lambda body: body)


def test_an_answer_that_was_given_before_close_arrives(node: zmqkit.Node, mq: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with zmqkit.connect(node.endpoint) as worker:
        name = new_name()
        worker.service(name, gate)
        pool = worker.serve(block=False)
        future = mq.call_soon(name, 1)
        gate.await_begin()
        worker.stop()
        gate.open.set()
        assert pool.wait(SOON)
    assert future.result(SOON) == 1


def test_a_name_that_came_and_went_leaves_nothing_behind(node: zmqkit.Node, mq: zmqkit.Client) -> None:
    with zmqkit.connect(node.endpoint) as worker:
        pool = worker.serve(block=False)
        for n in range(500):  # more than one client may serve at a time
            with worker.service(f"job.{n}", lambda body: body + 1):
                if n % 50 == 0:
                    assert mq.call(f"job.{n}", n) == n + 1
            if n % 100 == 0:
                eventually(lambda: not worker._session.inboxes)
        eventually(lambda: not worker._session.inboxes and not worker._session.machine.consumers)
        pool.stop()


def test_sigterm_ends_serve_when_what_runs_is_finished(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    name = new_name()
    with worker.service(name, gate):
        future = mq.call_soon(name, 1)

        def end() -> None:
            gate.await_begin()
            os.kill(os.getpid(), signal.SIGTERM)
            gate.open.set()

        in_thread(end)
        worker.serve()
        assert future.result(SOON) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# -- who answers what -----------------------------------------------------------------------------------------------------------


def test_idle_handlers_take_calls_while_others_take_long(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate, threads=2) as slow, serving_beside(worker, lambda body: body) as quick:
        future = mq.call_soon(slow, 0, timeout=4 * SOON)
        gate.await_begin()
        time.sleep(1.2)  # from a second on a handler counts as slow, and nothing is to wait behind it
        begin = time.monotonic()
        assert [mq.call(quick, n) for n in range(20)] == list(range(20))
        assert time.monotonic() - begin < SOON
        gate.open.set()
        assert future.result(SOON) == 0


def test_there_is_room_for_every_free_handler_at_once(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate, threads=8) as name, serving_beside(worker, lambda body: body) as beside:
        await_known(worker, beside)
        state, other = (worker._session.machine.consumers["\0" + service] for service in (name, beside))
        assert state.stated == 9  # and one ahead
        futures = [mq.call_soon(name, n) for n in range(6)]
        eventually(lambda: len(gate.bodies) == 6 and other.window == 3)  # two are left for the other service, and one ahead
        gate.open.set()
        assert [future.result(SOON) for future in futures] == list(range(6))


def serving_beside(worker: zmqkit.Client, function: Any) -> Any:
    """For the handlers that run already."""
    name = new_name()
    service = worker.service(name, function)

    class Beside:
        def __enter__(self) -> str:
            return name

        def __exit__(self, *error: object) -> None:
            service.close()

    return Beside()


def test_what_waits_behind_slow_handlers_goes_to_another_worker(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate, threads=1) as name:
        first, second = (mq.call_soon(name, n, timeout=4 * SOON) for n in (0, 1))
        gate.await_begin()
        eventually(lambda: worker._session.machine.consumers["\0" + name].open == 2)
        with zmqkit.connect(mq.endpoint) as other, other.service(name, lambda body: "other"):
            pool = other.serve(block=False)
            assert second.result(SOON) == "other"
            pool.stop()
        gate.open.set()
        assert first.result(SOON) == 0


def test_services_of_one_client_have_their_turns(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    order: list[str] = []

    def a(body: Any) -> None:
        order.append("a")
        gate(body)

    with serving(worker, a, threads=1, credit=30) as first, serving_beside(worker, lambda body: order.append("b")) as second:
        futures = [mq.call_soon(first, n, timeout=4 * SOON) for n in range(20)]
        gate.await_begin()
        await_known(worker, second)
        futures.append(mq.call_soon(second, 0, timeout=4 * SOON))
        consumers = worker._session.machine.consumers
        eventually(lambda: (consumers["\0" + first].open, consumers["\0" + second].open) == (20, 1))
        gate.open.set()
        for future in futures:
            future.result(SOON)
    assert order.index("b") <= 2


def test_a_call_past_its_deadline_is_not_begun(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate, threads=1, credit=5) as name:
        first = mq.call_soon(name, "first", timeout=4 * SOON)
        gate.await_begin()
        late = [mq.call_soon(name, "late", timeout=0.1) for _ in range(3)]
        assert all(isinstance(future.exception(SOON), zmqkit.Timeout) for future in late)
        gate.open.set()
        assert first.result(SOON) == "first" and mq.call(name, "last") == "last"
    assert gate.bodies == ["first", "last"]


# -- current() --------------------------------------------------------------------------------------------------------------------


def test_the_current_call_is_known_to_its_handler(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    def look(body: Any) -> Any:
        call = zmqkit.current()
        times = [call.remaining, call.deadline - time.time()]
        return [call.service, call.headers, call.key, call.attempt, call.cancelled, call.user, call.token > 0, *times]

    with serving(worker, look) as name:
        *told, remaining, left = mq.call(name, 1, timeout=30.0, headers={"trace": "t1"}, idempotency_key=new_name())
        assert told[:2] == [name, {"trace": "t1"}] and told[3:] == [1, False, None, True]
        assert 25.0 < remaining <= 30.0 and 20.0 < left < 35.0
        assert mq.call(name, 1, timeout=None)[-2] == float("inf")


def test_there_is_no_current_call_outside_of_handlers() -> None:
    with pytest.raises(zmqkit.Error, match=r"current\(\) is for the handlers"):
        zmqkit.current()


def test_a_handler_that_runs_too_long_sees_it(mq: zmqkit.Client, worker: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    with serving(worker, gate) as name:
        future = mq.call_soon(name, 1, timeout=0.2)
        call = gate.await_begin()
        assert isinstance(future.exception(SOON), zmqkit.Timeout)
        eventually(lambda: call.cancelled)
        assert call.remaining == 0.0
        gate.open.set()


# -- what may go wrong in a handler -------------------------------------------------------------------------------------------------


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def fail(body: Any) -> Any:
    if body == "remote":
        raise zmqkit.RemoteError("sold-out", "no pears", "their traceback")
    if body == "exit":
        sys.exit(3)
    if body == "odd":
        raise Odd
    if body == "long":
        raise ValueError("x" * MiB)
    if body == "half a letter":
        raise ValueError("\ud800")
    return {"object": object(), "large": b"x" * (MiB + 1), "stream": iter([])}.get(body, body)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("remote", "sold-out", "no pears"), ("exit", "SystemExit", "3"), ("odd", "Odd", "<ValueError in its __str__>"),
        ("long", "ValueError", "x" * TEXT_BYTES_MAX), ("half a letter", "ValueError", "?"), ("object", "Unencodable", None),
        ("large", "MessageTooLarge", None), ("stream", "TypeError", None),
    ],
)  # fmt: skip
def test_whatever_goes_wrong_is_told_and_the_handlers_go_on(
    mq: zmqkit.Client, worker: zmqkit.Client, body: str, kind: str, message: str | None
) -> None:
    with serving(worker, fail, threads=1) as name:
        for _ in range(2):
            with pytest.raises(zmqkit.RemoteError) as raised:
                mq.call(name, body)
            assert raised.value.kind == kind and message in (None, raised.value.message)
            assert len(raised.value.traceback) <= TEXT_BYTES_MAX
        assert mq.call(name, "good") == "good"
        if body == "remote":
            assert raised.value.traceback == "their traceback"


def test_a_body_of_another_type_is_refused_and_the_next_one_served(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda item: item.name, type=Item) as name:
        futures = [mq.call_soon(name, body) for body in ({"name": "pear"}, {"nome": "mela"}, {"name": "plum"})]
        assert futures[0].result(SOON) == "pear" and futures[2].result(SOON) == "plum"
        with pytest.raises(zmqkit.RemoteError, match="Undecodable: not a Item"):
            futures[1].result(SOON)


# -- lost workers ---------------------------------------------------------------------------------------------------------------------

DOOMED = """
import sys, time, zmqkit
mq = zmqkit.connect(sys.argv[1])
mq.service("doomed", lambda body: (print("begun", flush=True), time.sleep(60)))
mq.serve()
"""


@pytest.mark.parametrize("key", [None, "order-9"])
def test_a_call_whose_worker_is_killed_is_made_again_with_a_key_only(node: zmqkit.Node, mq: zmqkit.Client, key: str | None) -> None:
    with subprocess.Popen([sys.executable, "-c", DOOMED, node.endpoint], stdout=subprocess.PIPE) as doomed:
        future = mq.call_soon("doomed", 1, timeout=4 * SOON, idempotency_key=key)
        assert doomed.stdout is not None and doomed.stdout.readline() == b"begun\n"
        doomed.kill()
    with mq.service("doomed", lambda body: zmqkit.current().attempt):
        pool = mq.serve(block=False)
        if key:
            assert future.result(2 * SOON) == 2
        else:
            with pytest.raises(zmqkit.Timeout) as raised:
                future.result(2 * SOON)
            assert raised.value.maybe_executed
        pool.stop()
        assert pool.wait(SOON)


def test_an_answer_survives_the_workers_link(mq: zmqkit.Client, node: zmqkit.Node, gate: Gate) -> None:  # noqa: F811
    with zmqkit.connect(node.endpoint) as worker, serving(worker, gate) as name:
        future = mq.call_soon(name, 1)
        gate.await_begin()
        cut(worker)
        gate.open.set()
        assert future.result(SOON) == 1 and gate.bodies == [1]


def test_a_handler_whose_lease_has_ended_sees_it_and_its_answer_counts_for_nothing(
    mq: zmqkit.Client,
    node: zmqkit.Node,
    gate: Gate,  # noqa: F811
) -> None:
    with proxy_to(node.endpoint) as proxy, zmqkit.connect(proxy.endpoint) as worker, serving(worker, gate) as name:
        future = mq.call_soon(name, 1, timeout=4 * SOON)
        call = gate.await_begin()
        target, proxy._target = proxy._target, ("127.0.0.1", 9)  # nobody listens there
        proxy.cut()
        assert isinstance(future.exception(2 * SOON), zmqkit.Timeout)  # the grace of its lease is over
        assert not call.cancelled  # nobody could tell it
        proxy._target = target
        eventually(lambda: call.cancelled)
        gate.open.set()
        assert mq.call(name, 2) == 2
