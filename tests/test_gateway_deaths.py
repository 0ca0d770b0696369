"""Gateways on real sockets while workers, clients and nodes are killed, fall silent and come back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gateway_world import QUICK, GatewayNode, eventually, in_thread, quick, serves, serving, until_served
from handle_world import freeze
from textbook.lpclient import LazyPirateClient
from textbook.mdclient import MajordomoClient
from textbook.mdworker import HEARTBEAT, READY, REPLY, MajordomoWorker
from textbook.peer import Raw
from textbook.ppworker import PirateWorker

import zmqkit

READY_PPP, HEARTBEAT_PPP = b"\x01", b"\x02"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayNode]:
    quick(monkeypatch)
    with GatewayNode() as node:
        yield node


def majordomo(node: GatewayNode) -> MajordomoWorker:
    return MajordomoWorker(node.mdp, b"echo", beat_seconds=QUICK, liveness=20, reconnect_seconds=QUICK)


def pirate(node: GatewayNode) -> PirateWorker:
    return PirateWorker(node.back, beat_seconds=QUICK, liveness=20, backoff_seconds=QUICK)


def said(command: bytes, *frames: bytes) -> list[bytes]:
    return [b"", b"MDPW01", command, *frames]


def work(worker: Raw) -> list[bytes]:
    """The next request, whatever else comes."""
    while (frames := worker.receive()) == said(HEARTBEAT) or frames == [HEARTBEAT_PPP]:
        pass
    return frames


# -- workers that die with a request in hand --------------------------------------------------------------------------------


def test_a_majordomo_client_asks_again_and_another_worker_answers_when_the_first_was_killed(node: GatewayNode) -> None:
    with MajordomoClient(node.mdp, timeout_seconds=1.0) as client:
        with Raw(node.mdp) as dies:
            dies.send(*said(READY, b"echo"))
            answers = list[list[bytes] | None]()
            asking = in_thread(lambda: answers.append(client.send(b"echo", b"x")))
            assert work(dies)[-1] == b"x"
        with majordomo(node):
            asking.join(10)
        assert answers == [[b"x"]] and client.tried == 2


def test_a_lazy_pirate_asks_again_and_another_worker_answers_when_the_first_was_killed(node: GatewayNode) -> None:
    with LazyPirateClient(node.front, timeout_seconds=1.0) as client:
        with Raw(node.back, identity=b"DIES") as dies:
            dies.send(READY_PPP)
            answers = list[int]()
            asking = in_thread(lambda: answers.append(client.ask()))
            assert work(dies)[-1] == b"0"
        with pirate(node):
            asking.join(10)
        assert answers == [0] and client.tried == 2


def test_a_native_caller_is_told_within_seconds_that_its_worker_vanished_and_its_call_is_not_repeated(node: GatewayNode) -> None:
    with Raw(node.mdp) as other:
        with Raw(node.mdp) as dies:
            dies.send(*said(READY, b"echo"))
            future = node.call_soon("echo", b"x", timeout=30)
            work(dies)
            other.send(*said(READY, b"echo"))
        with pytest.raises(zmqkit.Timeout, match="worker") as told:
            future.result(5)
        assert told.value.maybe_executed
        assert other.receive() == said(HEARTBEAT)


def test_a_call_with_a_key_goes_to_another_worker(node: GatewayNode) -> None:
    with Raw(node.mdp) as other:
        with Raw(node.mdp) as dies:
            dies.send(*said(READY, b"echo"))
            future = node.call_soon("echo", b"x", timeout=30, idempotency_key="once")
            work(dies)
            other.send(*said(READY, b"echo"))
        _, _, _, client, _, body = work(other)
        other.send(*said(REPLY, client, b"", body))
        assert future.result(5) == b"x"


def test_a_worker_that_beats_at_its_work_and_then_hangs_on_a_living_connection_has_lost_its_request(node: GatewayNode) -> None:
    with Raw(node.mdp) as hangs, Raw(node.back, identity=b"HANGS TOO") as too:
        hangs.send(*said(READY, b"echo"))
        too.send(READY_PPP)
        futures = [node.call_soon(service, b"x", timeout=30) for service in ("echo", "ppp")]
        work(hangs)
        work(too)
        for _ in range(4):
            assert hangs.receive() == said(HEARTBEAT)
            hangs.send(*said(HEARTBEAT))
            assert too.receive() == [HEARTBEAT_PPP]
            too.send(HEARTBEAT_PPP)
        for future in futures:
            with pytest.raises(zmqkit.Timeout, match="silent") as told:
                future.result(5)
            assert told.value.maybe_executed


def test_a_textbook_worker_that_blocks_while_it_works_is_waited_for(node: GatewayNode) -> None:
    """It is mute for as long as ten of these nodes' heartbeats."""

    def slow(body: list[bytes]) -> list[bytes]:
        time.sleep(10 * QUICK)
        return body

    with MajordomoWorker(node.mdp, b"slow", slow) as one, PirateWorker(node.back, lambda body: slow([body])[0]) as other:
        one.seen("connected")
        futures = [node.call_soon(service, b"x", timeout=30) for service in ("slow", "ppp")]
        assert [future.result(10) for future in futures] == [b"x", b"x"]
        assert one.seen("request") and other.seen("request") and node.dropped == {}


def test_a_textbook_pirate_that_blocks_for_four_seconds_answers_its_first_asker() -> None:
    """With the Guide's own heartbeats, of which three may be missing."""

    def slow(body: bytes) -> bytes:
        time.sleep(4.0)
        return body

    with GatewayNode() as node, PirateWorker(node.back, slow), LazyPirateClient(node.front, timeout_seconds=9.0) as client:
        assert client.ask() == 0 and client.tried == 1
        assert node.dropped == {}


def test_a_request_for_a_worker_that_is_gone_while_idle_goes_to_another_and_nothing_is_lost(node: GatewayNode) -> None:
    with majordomo(node) as lives:
        lives.seen("connected")
        until_served(node, "echo")
        for _ in range(20):
            with Raw(node.mdp) as dies:
                dies.send(*said(READY, b"echo"))
                assert dies.receive() == said(HEARTBEAT)  # it is known
            assert node.call("echo", b"x", timeout=10) == b"x"


def test_a_worker_process_that_is_killed_and_one_that_is_stopped_cost_a_client_one_retry_each(node: GatewayNode) -> None:
    """The real thing: processes, SIGKILL and SIGSTOP."""
    program = (
        "import sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "from textbook.mdworker import MajordomoWorker\n"
        "def work(body): print('has', flush=True); threading.Event().wait(); return body\n"
        f"with MajordomoWorker(sys.argv[2], b'echo', work, beat_seconds={QUICK}): threading.Event().wait()\n"
    )
    with ExitStack() as stack:
        client = stack.enter_context(MajordomoClient(node.mdp, timeout_seconds=1.5))
        for number in (signal.SIGKILL, signal.SIGSTOP):
            command = [sys.executable, "-c", program, str(Path(__file__).parent), node.mdp]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            until_served(node, "echo")
            answers = list[list[bytes] | None]()
            asking = in_thread(lambda answers=answers: answers.append(client.send(b"echo", b"x")))
            assert process.stdout and process.stdout.readline() == "has\n"
            process.send_signal(number)
            with majordomo(node):
                asking.join(10)
            assert answers == [[b"x"]]
            process.kill()  # a stopped one is not told from one that works
            eventually(lambda: not serves(node, "echo"))
        assert client.tried == 4


# -- clients that vanish ----------------------------------------------------------------------------------------------------


def test_what_nobody_waits_for_any_more_is_never_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, request_seconds=3 * QUICK)
    with GatewayNode() as node, MajordomoClient(node.mdp, timeout_seconds=QUICK, tries=5) as client:
        assert client.send(b"echo", b"old") is None
        eventually(lambda: node.dropped.get("mdp:no-answer") == 5)
        with majordomo(node) as worker, MajordomoClient(node.mdp) as other:
            assert other.send(b"echo", b"new") == [b"new"]
            assert worker.seen("request") == ("request", [b"new"])


def test_a_client_that_was_killed_frees_its_native_worker(node: GatewayNode) -> None:
    """Its answer cannot leave; the next one's does."""
    entered, go = threading.Event(), threading.Event()

    def slow(body: bytes) -> bytes:
        entered.set()
        go.wait(10)
        return body

    with serving(node, threads=1, slow=slow):
        with Raw(node.mdp) as dies:
            dies.send(b"", b"MDPC01", b"slow", b"x")
            assert entered.wait(5)
        go.set()
        with MajordomoClient(node.mdp) as client:
            assert client.send(b"slow", b"y") == [b"y"]


# -- native workers that die ------------------------------------------------------------------------------------------------


def test_a_majordomo_client_is_answered_by_another_native_worker_when_the_first_has_hung(node: GatewayNode) -> None:
    entered, go = threading.Event(), threading.Event()

    def hang(body: bytes) -> bytes:
        entered.set()
        go.wait(30)
        return b"late"

    with (
        zmqkit.connect(node.endpoint) as first,
        zmqkit.connect(node.endpoint) as second,
        MajordomoClient(node.mdp, timeout_seconds=1.0, tries=5) as client,
        serving(first, echo=hang),
    ):
        answers = list[list[bytes] | None]()
        asking = in_thread(lambda: answers.append(client.send(b"echo", b"x")))
        assert entered.wait(5)
        thaw = freeze(first)  # as if its process had been stopped
        with serving(second, echo=lambda body: body):
            asking.join(15)
        assert answers == [[b"x"]] and client.tried <= 3
        go.set()
        thaw()


# -- the node ---------------------------------------------------------------------------------------------------------------


def test_workers_and_clients_come_back_by_themselves_to_a_node_that_was_restarted(node: GatewayNode) -> None:
    with (
        majordomo(node),
        pirate(node),
        MajordomoClient(node.mdp, timeout_seconds=0.5, tries=20) as client,
        LazyPirateClient(node.front, timeout_seconds=0.5, tries=20) as lazy,
    ):
        assert client.send(b"echo", b"before") == [b"before"]
        assert lazy.ask() == 0
        node.close()
        with node.again() as successor:
            assert client.send(b"echo", b"after") == [b"after"]
            assert lazy.ask() == 1
            assert successor.call("echo", b"x") == b"x"


def test_a_pause_of_the_node_is_not_the_silence_of_its_workers(node: GatewayNode) -> None:
    with Raw(node.mdp) as worker, Raw(node.back, identity=b"PIRATE") as other:
        worker.send(*said(READY, b"echo"))
        other.send(READY_PPP)
        until_served(node, "echo")
        until_served(node, "ppp")
        thaw = freeze(node)  # type: ignore[arg-type]
        time.sleep(6 * QUICK)  # there is no event to wait for: nothing must happen
        worker.send(*said(HEARTBEAT))
        other.send(HEARTBEAT_PPP)
        thaw()
        assert work(worker) if node.call_soon("echo", b"x") else None
        assert work(other) if node.call_soon("ppp", b"x") else None
        assert node.dropped == {}
