"""Clients of the Guide's own brokers: our callers and our workers at mdp:// and ppp://, over real sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from threading import Event

import pytest
from handle_world import eventually
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
        for use in (lambda: mq.queue("q"), lambda: mq.stream("s"), lambda: mq.queues()):
            with pytest.raises(zmqkit.Error, match=r"queues|in one piece"):
                use()
    with pytest.raises(zmqkit.Unreachable, match=r"mdp://127\.0\.0\.1:5555"):
        zmqkit.connect("mdp://nowhere")


def test_a_command_serves_at_a_majordomo_broker(broker: MajordomoBroker) -> None:
    serve = [sys.executable, "-m", "zmqkit.cli", "serve", "upper", "-r", "--connect", foreign("mdp", broker.endpoint)]
    with subprocess.Popen([*serve, "--", "tr", "a-z", "A-Z"]) as process, MajordomoClient(broker.endpoint, timeout_seconds=5.0) as client:
        try:
            assert client.send(b"upper", b"pear") == [b"PEAR"]
        finally:
            process.terminate()
    assert process.returncode == 0
