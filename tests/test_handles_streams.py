"""Streamed answers: in order and complete, never too far ahead, and ended from either side."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from call_world import serving
from handle_world import SOON, cut, eventually, in_thread

import zmqkit


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
    return client if request.param == "client" else node


@dataclass
class Line:
    number: int


class Tail:
    """A generator service that knows how far it is, and how it ended."""

    def __init__(self, count: int | None = None) -> None:
        self.count, self.made, self.ended = count, 0, threading.Event()

    def __call__(self, body: Any) -> Iterator[int]:
        try:
            while self.count is None or self.made < self.count:
                self.made += 1
                yield self.made
        finally:
            self.ended.set()


def test_parts_come_in_order_and_completely(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, range_of) as name:
        assert list(mq.stream(name, 1000)) == list(range(1000))
        assert list(mq.stream(name, 0)) == []
        assert list(mq.stream(name, 3, window=1)) == [0, 1, 2]
        assert list(mq.stream(name, 600, window=256)) == list(range(600))


def range_of(count: int) -> Iterator[int]:
    yield from range(count)


def test_streams_run_beside_one_another_and_beside_calls(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, range_of, threads=3) as name, serving(worker, lambda body: body) as echo:
        streams = [mq.stream(name, 100) for _ in range(3)]
        for n in range(100):
            assert [next(stream) for stream in streams] == [n, n, n]
            assert n % 10 or mq.call(echo, n) == n
        assert [list(stream) for stream in streams] == [[], [], []]


def test_the_worker_is_no_further_ahead_than_the_window(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    tail = Tail()
    with serving(worker, tail) as name, mq.stream(name, window=8) as stream:
        assert [next(stream) for _ in range(3)] == [1, 2, 3]
        eventually(lambda: tail.made == 9)  # eight may be sent, and the ninth is made
        assert [next(stream) for _ in range(10)] == list(range(4, 14))
        eventually(lambda: tail.made >= 17)
        time.sleep(0.05)  # time for one part too many to be made
        assert tail.made <= 13 + 8 + 1


def test_leaving_a_stream_ends_the_generator(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    tail = Tail()
    with serving(worker, tail) as name:
        with mq.stream(name) as stream:
            assert next(stream) == 1
        assert tail.ended.wait(SOON)
        with pytest.raises(StopIteration):
            next(stream)


def test_a_generator_is_closed_though_somebody_holds_it(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    tail, held = Tail(), list[Any]()
    with serving(worker, lambda body: held.append(tail(body)) or held[0]) as name:
        with mq.stream(name) as stream:
            assert next(stream) == 1
        assert tail.ended.wait(SOON)


def test_a_stream_that_is_dropped_ends_the_generator(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    tail = Tail()
    with serving(worker, tail) as name:
        for part in mq.stream(name):
            if part == 5:
                break
        assert tail.ended.wait(SOON)


def test_a_stream_that_waits_is_ended_by_another_thread(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    silence = threading.Event()

    def quiet(body: Any) -> Iterator[int]:
        silence.wait(SOON)
        yield 1

    with serving(worker, quiet) as name:
        stream, found = mq.stream(name), list[Any]()
        reader = in_thread(lambda: found.extend(stream))
        stream.close()
        reader.join(SOON)
        silence.set()
    assert not reader.is_alive() and found == []


def test_the_time_is_for_the_whole_stream(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    over = threading.Event()

    def slow(body: Any) -> Iterator[int]:
        yield 1
        over.wait(SOON)
        yield 2

    with serving(worker, slow) as name:
        stream = mq.stream(name, timeout=0.3)
        assert next(stream) == 1
        with pytest.raises(zmqkit.Timeout) as raised:
            next(stream)
        over.set()
        with pytest.raises(StopIteration):  # the error is told once
            next(stream)
    assert raised.value.maybe_executed


def test_an_error_comes_behind_the_parts_before_it(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    def broken(body: Any) -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no third")

    found = []
    with serving(worker, broken) as name, pytest.raises(zmqkit.RemoteError, match="ValueError: no third") as raised:
        for part in mq.stream(name):
            found.append(part)
    assert found == [1, 2] and "in broken" in raised.value.traceback


def test_a_part_that_cannot_be_sent_ends_the_stream(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: iter([1, object(), 3])) as name:
        stream = mq.stream(name)
        assert next(stream) == 1
        with pytest.raises(zmqkit.RemoteError, match="Unencodable"):
            next(stream)


def test_a_plain_function_streams_its_one_value(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: [body, body]) as name:
        assert list(mq.stream(name, 7)) == [[7, 7]]


def test_a_returned_iterator_streams(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: map(str, body)) as name:
        assert list(mq.stream(name, [1, 2])) == ["1", "2"]


def test_a_plain_call_of_a_stream_is_told_so(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, range_of) as name, pytest.raises(zmqkit.RemoteError, match=r"answers in parts: use stream\(\)"):
        mq.call(name, 3)


def test_parts_are_made_into_a_type(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, lambda body: (Line(n) for n in range(2))) as name:
        assert list(mq.stream(name, type=Line)) == [Line(0), Line(1)]
        assert list(mq.stream(name)) == [{"number": 0}, {"number": 1}]


def test_nobody_streams_is_told_at_once(mq: zmqkit.Client) -> None:
    with pytest.raises(zmqkit.NoWorker):
        next(mq.stream("nothing"))


def test_a_stream_goes_on_over_new_links(client: zmqkit.Client, worker: zmqkit.Client) -> None:
    with serving(worker, range_of) as name:
        found = []
        for part in client.stream(name, 300):
            found.append(part)
            if part == 50:
                cut(client)
            elif part == 150:
                cut(worker)
            elif part == 250:
                cut(client)
                cut(worker)
    assert found == list(range(300))


def test_the_handler_of_a_left_stream_sees_that_it_is_cancelled(mq: zmqkit.Client, worker: zmqkit.Client) -> None:
    seen: list[zmqkit.Current] = []

    def patient(body: Any) -> Iterator[int]:
        seen.append(zmqkit.current())
        yield 1
        eventually(lambda: seen[0].cancelled)
        yield 2

    with serving(worker, patient) as name, ExitStack() as leaves:
        stream = leaves.enter_context(mq.stream(name))
        assert next(stream) == 1 and not seen[0].cancelled
        leaves.close()
        eventually(lambda: seen[0].cancelled)


def test_close_ends_a_stream(node: zmqkit.Node, worker: zmqkit.Client) -> None:
    tail = Tail()
    with serving(worker, tail) as name:
        with zmqkit.connect(node.endpoint) as mq:
            stream = mq.stream(name, window=2)
            assert next(stream) == 1
        with pytest.raises(zmqkit.Closed):
            list(stream)
        assert tail.ended.wait(SOON)
