"""Clients of the Guide's own brokers: our callers and our workers at mdp:// and ppp://, over real sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from threading import Event

import pytest
from handle_world import eventually, in_thread
from textbook.lpclient import LazyPirateClient
from textbook.mdbroker import MajordomoBroker
from textbook.mdclient import MajordomoClient
from textbook.mdworker import MajordomoWorker
from textbook.ppqueue import PirateQueue
from textbook.ppworker import PirateWorker

import zmqkit


@pytest.fixture
def broker() -> Iterator[MajordomoBroker]:
    with MajordomoBroker() as broker:
        yield broker


def upper(body: list[bytes]) -> list[bytes]:
    return [frame.upper() for frame in body]


def foreign(scheme: str, address: str) -> str:
    return f"{scheme}://{address.partition('://')[2]}"


def test_our_caller_is_answered_by_a_majordomo_worker(broker: MajordomoBroker) -> None:
    with MajordomoWorker(broker.endpoint, b"echo", upper), zmqkit.connect(foreign("mdp", broker.endpoint)) as mq:
        assert mq.call("echo", b"hello", timeout=10.0) == b"HELLO"
        futures = [mq.call_soon("echo", b"%d" % n, timeout=20.0) for n in range(20)]
        assert [future.result() for future in futures] == [b"%d" % n for n in range(20)]


def test_our_worker_serves_a_majordomo_client(broker: MajordomoBroker) -> None:
    with zmqkit.connect(foreign("mdp", broker.endpoint)) as mq, MajordomoClient(broker.endpoint) as client:
        mq.service("shout", lambda body: body + b"!")
        mq.serve(threads=2, block=False)
        assert [client.send(b"shout", b"%d" % n) for n in range(20)] == [[b"%d!" % n] for n in range(20)]


def test_our_caller_and_our_worker_meet_at_a_pirate_queue() -> None:
    with PirateQueue() as queue, PirateWorker(queue.backend, bytes.upper), zmqkit.connect(foreign("ppp", queue.frontend)) as mq:
        assert mq.call("any", b"hello", timeout=10.0) == b"HELLO"
    with PirateQueue() as queue, zmqkit.connect(foreign("ppp", queue.backend)) as mq, LazyPirateClient(queue.frontend) as client:
        mq.service("any", lambda body: body)
        mq.serve(threads=2, block=False)
        assert [client.ask() for _ in range(10)] == list(range(10))


def test_a_call_that_nobody_answers_may_have_been_executed(broker: MajordomoBroker) -> None:
    asked, let_go = Event(), Event()

    def never(body: list[bytes]) -> list[bytes]:
        asked.set()
        let_go.wait(20.0)
        return body

    with MajordomoWorker(broker.endpoint, b"slow", never), zmqkit.connect(foreign("mdp", broker.endpoint)) as mq:
        with pytest.raises(zmqkit.Timeout) as caught:
            mq.call("slow", b"x", timeout=1.0)
        assert caught.value.maybe_executed
        eventually(asked.is_set)
        let_go.set()


def test_what_a_foreign_broker_has_not_is_said(broker: MajordomoBroker) -> None:
    with zmqkit.connect(foreign("mdp", broker.endpoint)) as mq:
        for use in (lambda: mq.queue("q"), lambda: mq.stream("s"), lambda: mq.queues(), lambda: mq.call("s", headers={"a": 1})):
            with pytest.raises(zmqkit.Error, match=r"queues|in one piece|no headers"):
                use()
    with pytest.raises(zmqkit.Unreachable, match=r"mdp://127\.0\.0\.1:5555"):
        zmqkit.connect("mdp://nowhere")
    with pytest.raises(zmqkit.Error, match="alone"):
        zmqkit.connect("mdp://127.0.0.1:5555", "tcp://127.0.0.1:5555")


def test_what_we_call_and_serve_meets_at_the_broker_and_not_in_our_own_process(broker: MajordomoBroker) -> None:
    with zmqkit.connect(foreign("mdp", broker.endpoint)) as mq:
        mq.service("echo", lambda body: body)
        mq.serve(threads=1, block=False)
        for number in range(20):
            assert mq.call("echo", b"%d" % number, timeout=10.0) == b"%d" % number
            broker.seen("dispatched")


def test_a_body_of_many_frames_travels_by_majordomo_and_not_by_pirates(broker: MajordomoBroker) -> None:
    with MajordomoWorker(broker.endpoint, b"echo", upper), zmqkit.connect(foreign("mdp", broker.endpoint)) as mq:
        assert mq.call("echo", [b"a", b"", b"c"], 10.0, 0) == [b"A", b"", b"C"]
    with (
        PirateQueue() as queue,
        zmqkit.connect(foreign("ppp", queue.frontend)) as mq,
        pytest.raises(zmqkit.Timeout, match="2 body frames"),
    ):
        mq.call("any", [b"a", b"b"], timeout=10.0)


def test_a_worker_leaves_the_broker_with_its_service_or_its_handlers_and_answers_first(broker: MajordomoBroker) -> None:
    entered, go = Event(), Event()

    def slow(body: bytes) -> bytes:
        entered.set()
        go.wait(10.0)
        return body

    def links() -> int:
        return len(mq._session.reactor._ports) - 1

    with zmqkit.connect(foreign("mdp", broker.endpoint)) as mq, MajordomoClient(broker.endpoint) as client:
        echo, serving = mq.service("echo", slow), mq.serve(threads=3, block=False)
        answers = list[list[bytes] | None]()
        asking = in_thread(lambda: answers.append(client.send(b"echo", b"x")))
        assert entered.wait(5.0)
        echo.close()
        eventually(lambda: links() == 1)
        go.set()
        asking.join(5.0)
        assert answers == [[b"x"]]
        eventually(lambda: links() == 0)
        mq.service("echo", lambda body: b"again")
        eventually(lambda: links() == 3)
        serving.stop()
        eventually(lambda: links() == 0)


def test_callers_and_workers_come_back_to_a_broker_that_was_restarted() -> None:
    with MajordomoBroker(beat_seconds=0.1) as first, zmqkit.connect(foreign("mdp", first.endpoint)) as mq:
        mq.service("echo", lambda body: body)
        mq.serve(threads=1, block=False)
        assert mq.call("echo", b"before", timeout=10.0) == b"before"
        first.stop()
        with MajordomoBroker(first.endpoint, beat_seconds=0.1):
            assert mq.call("echo", b"after", timeout=20.0) == b"after"


def test_a_broker_that_is_not_there_has_executed_nothing() -> None:
    with MajordomoBroker() as broker:
        endpoint = foreign("mdp", broker.endpoint)
    with zmqkit.connect(endpoint) as mq, pytest.raises(zmqkit.NotSent, match="nobody listens there"):
        mq.call("echo", b"x", timeout=0.5)


def test_asyncio_calls_and_serves_at_a_foreign_broker_too(broker: MajordomoBroker) -> None:
    async def main() -> None:
        async with zmqkit.aio.connect(foreign("mdp", broker.endpoint)) as mq:
            mq.service("echo", lambda body: body)
            serving = await mq.serve(threads=2, block=False)
            assert await asyncio.gather(*(mq.call("echo", b"%d" % n, timeout=10.0) for n in range(20))) == [b"%d" % n for n in range(20)]
            with pytest.raises(zmqkit.Error, match="queues"):
                mq.queue("q")
            serving.stop()

    asyncio.run(main())


def test_a_command_serves_at_a_majordomo_broker(broker: MajordomoBroker) -> None:
    serve = [sys.executable, "-m", "zmqkit.cli", "serve", "upper", "-r", "--connect", foreign("mdp", broker.endpoint)]
    with subprocess.Popen([*serve, "--", "tr", "a-z", "A-Z"]) as process, MajordomoClient(broker.endpoint, timeout_seconds=5.0) as client:
        try:
            assert client.send(b"upper", b"pear") == [b"PEAR"]
        finally:
            process.terminate()
    assert process.returncode == 0
