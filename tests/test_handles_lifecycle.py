"""How peers come and go, as users see it: connecting, closing, forks, restarts, failures; and what becomes of work in hand."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from handle_world import SOON, cut, eventually, freeze, in_thread, world

import zmqkit
from zmqkit import sockets

# -- addresses ------------------------------------------------------------------------------------------------------------

LONG = "ipc:///" + "x" * 200
NO_ADDRESSES = [
    "nonsense", "ipx://x", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:x", "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:70000", "tcp://*:5555", "tcp://127.0.0.1:*", "tcp://:5555", "TCP://127.0.0.1:5", "tcp:/127.0.0.1:5",
    " tcp://127.0.0.1:5", "tcp://127.0.0.1:5\n", "tcp://127.0.0.1:5/", "ipc://", LONG, "inproc://x", "udp://127.0.0.1:5", 5555,
]  # fmt: skip
ADDRESSES = [
    "tcp://127.0.0.1:5555", "tcp://localhost:1", "tcp://a-host.example_1.org:65535", "tcp://[::1]:5555", "tcp://[fe80::1%eth0]:5",
    "ipc:///run/zmqkit", "ipc://relative path", "ipc://@abstract",
]  # fmt: skip


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_refused_at_once_in_one_line(address: Any, lazy: bool) -> None:
    begin = time.monotonic()
    with pytest.raises(zmqkit.Unreachable, match="no address; give one like") as caught:
        zmqkit.connect(address, timeout=30.0, lazy=lazy)
    assert time.monotonic() - begin < SOON
    assert "\n" not in str(caught.value) and "--bind" not in str(caught.value) and caught.value.endpoint == str(address)


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_could_be_an_address_is_left_to_the_network(address: str) -> None:
    sockets.check_address(address)
    context = zmq.Context[zmq.Socket[bytes]]()
    sockets.close_dealer(*sockets.open_dealer(context, address))
    context.term()


# -- connecting -----------------------------------------------------------------------------------------------------------


def free_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def test_nobody_there_is_told_in_time_with_the_reason_and_what_to_do() -> None:
    endpoint = free_endpoint()
    begin = time.monotonic()
    with pytest.raises(zmqkit.Unreachable, match="connection refused; start one with `zmqkit broker --bind tcp:") as caught:
        zmqkit.connect(endpoint, timeout=0.2)
    assert time.monotonic() - begin < SOON
    assert isinstance(caught.value, ConnectionError) and (caught.value.endpoint, caught.value.reason) == (endpoint, "connection refused")


def test_something_else_there_is_no_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        in_thread(lambda: listener.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10))
        with pytest.raises(zmqkit.Unreachable):
            zmqkit.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3)


def test_a_lazy_client_connects_at_first_use() -> None:
    endpoint = free_endpoint()
    with zmqkit.connect(endpoint, lazy=True) as mq:
        q = mq.queue("q")
        assert not mq._nodes.started
        with zmqkit.Node(endpoint):
            assert q.put("a").seq == 1
            with q.get() as d:  # type: ignore[union-attr]
                assert d.body == "a"


def test_a_lazy_client_without_a_node_withdraws_what_it_could_not_send() -> None:
    endpoint = free_endpoint()
    with zmqkit.connect(endpoint, lazy=True) as mq:
        with pytest.raises(zmqkit.NotSent, match="no node at") as caught:
            mq.queue("q").put("a", timeout=0.1)
        assert not caught.value.maybe_executed
        with pytest.raises(zmqkit.Timeout):
            mq.queue("q").info(timeout=0.1)
        assert mq.queue("q").get(timeout=0) is None
        with zmqkit.Node(endpoint):
            assert mq.queue("q").put("b", timeout=SOON).seq == 1  # "a" was not kept


def test_the_environment_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        monkeypatch.setenv("ZMQKIT_ENDPOINT", node.endpoint)
        with zmqkit.connect() as mq:
            assert mq.endpoint == node.endpoint


def test_a_port_in_use_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        with pytest.raises(zmqkit.AddressInUse, match="choose another port") as caught:
            zmqkit.Node(node.endpoint, journal=str(tmp_path / "journal"))
        assert isinstance(caught.value, OSError) and caught.value.endpoint == node.endpoint
    with zmqkit.Node(node.endpoint, journal=str(tmp_path / "journal")) as node:  # neither is the journal locked, nor the port
        assert node.queue("q").put("a").seq == 1


def test_a_node_needs_no_endpoint() -> None:
    with zmqkit.Node() as node:
        assert node.endpoint == "" and node.queue("q").put("a").durability == "memory"


# -- closing --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[zmqkit.Node, zmqkit.Client]]:
    with world() as both:
        yield both


def test_closing_gives_back_what_is_in_hand_uncounted_and_at_once(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    node.declare("q", zmqkit.QueuePolicy(grace=3600.0))
    node.queue("q").put_many(range(5))
    consumer = mq.queue("q").consume(credit=3)
    d = next(consumer)
    mq.close()
    assert (node.queue("q").info().ready, node.queue("q").info().leased) == (5, 0)
    with node.queue("q").get() as again:  # type: ignore[union-attr]
        assert (again.body, again.attempt) == (0, 1)
    for settle in (d.ack, lambda: d.ack(wait=True), d.nack, d.reject, lambda: d.snooze(1), lambda: d.save(1)):
        with pytest.raises(zmqkit.Closed):
            settle()
    with pytest.raises(RuntimeError, match="the handler's own"), d:
        raise RuntimeError("the handler's own")
    assert list(consumer) == []


def test_a_batch_of_a_closed_client_is_not_acked_in_silence(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    node.queue("q").put_many(range(3))
    batch = mq.queue("q").get_many(3)
    mq.close()
    with pytest.raises(zmqkit.Closed):
        batch.ack()
    assert node.queue("q").info().ready == 3


def test_closing_confirms_what_was_put_and_acked_before(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    q = mq.queue("q")
    q.put_many(range(100))
    batch = q.get_many(100)
    futures = [q.put_soon(n) for n in range(1000)]
    for d in batch:
        d.ack()
    mq.close()
    assert [f.result(0).seq for f in futures] == list(range(101, 1101))
    assert (node.queue("q").info().ready, node.queue("q").info().leased) == (1000, 0)


@pytest.mark.parametrize("which", [0, 1])
def test_after_closing_every_call_raises_closed_and_closing_again_is_nothing(pair: tuple[zmqkit.Node, zmqkit.Client], which: int) -> None:
    peer = pair[which]
    q = peer.queue("q")
    waiting: list[str] = []

    def wait() -> None:
        with pytest.raises(zmqkit.Closed):
            q.get(timeout=None)
        waiting.append("told")

    thread = in_thread(wait)
    eventually(lambda: q._inbox.waiting)
    peer.close()
    thread.join(SOON)
    assert waiting == ["told"]
    for call in (lambda: q.put(1), lambda: q.put_soon(1), lambda: q.put_many([1]), q.get, lambda: q.get_many(1), q.info, q.peek, q.purge,
                 q.dead.list, peer.flush, peer.queues, lambda: next(q.consume()), lambda: next(q.consume_many(2))):  # fmt: skip
        with pytest.raises(zmqkit.Closed):
            call()
    peer.close()
    peer.stop()


def test_the_end_of_a_with_block_raises_what_nobody_saw_and_hides_no_exception() -> None:
    def fail(mq: zmqkit.Client) -> None:
        mq.declare("full", zmqkit.QueuePolicy(max_messages=1))
        mq.queue("full").purge()
        mq.queue("full").put(1)
        mq.queue("full").put_soon(2)

    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        with pytest.raises(zmqkit.QueueFull), zmqkit.connect(node.endpoint) as mq:
            fail(mq)
        with pytest.raises(KeyError, match="mine"), zmqkit.connect(node.endpoint) as mq:
            fail(mq)
            raise KeyError("mine")
        mq = zmqkit.connect(node.endpoint)
        fail(mq)
        with pytest.raises(zmqkit.QueueFull):
            mq.close()


def test_stop_ends_loops_and_nothing_else(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    q = mq.queue("q")
    q.put_many(range(10))
    consumer = q.consume(credit=4)
    d = next(consumer)
    mq.stop()
    assert list(consumer) == []
    eventually(lambda: (node.queue("q").info().ready, node.queue("q").info().leased) == (9, 1))
    d.ack(wait=True)  # what is in hand is finished
    with q.get() as second:  # type: ignore[union-attr]
        assert (second.body, second.attempt) == (1, 1)
    assert q.put("more").seq == 11


# -- flush ----------------------------------------------------------------------------------------------------------------


def test_flush_waits_for_puts_and_acks(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    q = mq.queue("q")
    q.put_many(range(50))
    batch = q.get_many(50)
    futures = [q.put_soon(n) for n in range(50)]
    for d in batch:
        d.ack()
    mq.flush()
    info = node.queue("q").info()
    assert all(f.done() for f in futures) and (info.ready, info.leased) == (50, 0)


def test_flush_raises_the_first_failure_that_nobody_saw_and_each_once(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    mq = pair[1]
    for name in ("one", "two"):
        mq.declare(name, zmqkit.QueuePolicy(max_messages=1))
        mq.queue(name).put(0)
    mq.queue("one").put_soon(1)
    seen = mq.queue("two").put_soon(1)
    assert isinstance(seen.exception(SOON), zmqkit.QueueFull)
    with pytest.raises(zmqkit.QueueFull, match="queue one"):
        mq.flush()
    mq.flush()


def test_flush_without_an_answer_gives_up_in_time(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    q = mq.queue("q")
    q.put("a")
    d = q.get()
    assert d is not None
    thaw = freeze(node)
    q.put_soon("b")
    with pytest.raises(zmqkit.Timeout, match="puts are not confirmed") as caught:
        mq.flush(0.05)
    assert caught.value.maybe_executed
    thaw()
    mq.flush()
    thaw = freeze(node)
    d.ack()
    with pytest.raises(zmqkit.Timeout, match="acks are not answered"):
        mq.flush(0.05)
    thaw()
    mq.flush()
    assert node.queue("q").info().leased == 0


# -- the node is down, or comes back --------------------------------------------------------------------------------------


def test_a_put_that_never_left_was_withdrawn() -> None:
    node = zmqkit.Node("tcp://127.0.0.1:0")
    with zmqkit.connect(node.endpoint) as mq:
        q = mq.queue("q")
        q.put("a")
        node.close()
        eventually(lambda: not mq._session.is_up)
        with pytest.raises(zmqkit.NotSent, match="no node at") as caught:
            q.put("b", timeout=0.1)
        assert not caught.value.maybe_executed
        with zmqkit.Node(node.endpoint) as again:
            assert q.put("c", timeout=SOON).seq == 1 and [m.body for m in again.queue("q").peek()] == ["c"]


def test_a_put_that_left_without_an_answer_is_in_doubt_and_stored_once(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    q = mq.queue("q")
    thaw = freeze(node)
    with pytest.raises(zmqkit.Timeout, match="may still be stored") as caught:
        q.put("a", timeout=0.1)
    assert caught.value.maybe_executed and not isinstance(caught.value, zmqkit.NotSent)
    cut(mq)
    thaw()
    assert q.put("b").seq == 2
    assert [m.body for m in q.peek()] == ["a", "b"]


def test_a_restarted_node_finds_its_clients_and_they_keep_what_they_hold(tmp_path: Path) -> None:
    node = zmqkit.Node("tcp://127.0.0.1:0", journal=str(tmp_path))
    with zmqkit.connect(node.endpoint) as mq:
        q = mq.queue("q")
        q.put_many(["held", "acked", "left"])
        held, acked = q.get(), q.get()
        assert held is not None and acked is not None
        acked.ack(wait=True)
        node.close()
        assert isinstance(node.failure, zmqkit.Closed)
        with zmqkit.Node(node.endpoint, journal=str(tmp_path)) as again:
            assert q.put("new", timeout=SOON).seq == 4
            assert again.queue("q").info().leased == 1
            held.ack(wait=True)
            assert held.settled is True
            assert [m.body for m in again.queue("q").peek()] == ["left", "new"]


def test_a_node_without_a_journal_is_another_one_after_a_restart() -> None:
    node = zmqkit.Node("tcp://127.0.0.1:0")
    with zmqkit.connect(node.endpoint) as mq:
        q = mq.queue("q")
        first = q.put("a")
        d = q.get()
        assert d is not None
        node.close()
        with zmqkit.Node(node.endpoint):
            second = q.put("b", timeout=SOON)
            assert second.node != first.node and second.seq == 1
            with pytest.raises(zmqkit.StaleLease):
                d.ack()


# -- journals -------------------------------------------------------------------------------------------------------------


def test_a_journal_belongs_to_one_node_at_a_time(tmp_path: Path) -> None:
    with zmqkit.Node(journal=str(tmp_path / "j")) as node:
        node.queue("q").put("a")
        with pytest.raises(zmqkit.JournalLocked, match="choose another directory") as caught:
            zmqkit.Node(journal=str(tmp_path / "j"))
        assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
        assert node.queue("q").put("b").seq == 2
    with zmqkit.Node(journal=str(tmp_path / "j")) as node:
        assert [m.body for m in node.queue("q").peek()] == ["a", "b"]


def test_a_number_in_the_journals_name_is_the_first_free_one(tmp_path: Path) -> None:
    pattern = str(tmp_path / "{n}")
    with zmqkit.Node(journal=pattern) as zero, zmqkit.Node(journal=pattern) as one:
        zero.queue("q").put("zero")
        one.queue("q").put("one")
    with zmqkit.Node(journal=str(tmp_path / "1")) as node:
        assert [m.body for m in node.queue("q").peek()] == ["one"]


@pytest.mark.parametrize("durability, kept", [("disk", False), ("os", False), ("memory", True), ("cloud", True)])
def test_a_durability_that_cannot_be_is_refused(durability: str, kept: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"durability='{durability}'|durability=\"{durability}\""):
        zmqkit.Node(journal=str(tmp_path / "j") if kept else None, durability=durability)
    assert not (tmp_path / "j").exists()


def test_a_disk_that_fails_ends_the_node_and_not_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = zmqkit.Node("tcp://127.0.0.1:0", journal=str(tmp_path))
    with zmqkit.connect(node.endpoint) as mq:
        local, remote = node.queue("q"), mq.queue("q")
        local.put("safe")
        assert node.failure is None

        def fail(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail)
        future = local.put_soon("lost")
        with pytest.raises(zmqkit.JournalFailed, match="Input/output error"):
            future.result(SOON)
        eventually(lambda: node.failure)
        assert isinstance(node.failure, zmqkit.JournalFailed)
        for call in (lambda: local.put("x"), local.get, local.info, node.flush, lambda: next(local.consume())):
            with pytest.raises(zmqkit.JournalFailed):
                call()
        with pytest.raises(zmqkit.Timeout):  # nothing is confirmed to anybody
            remote.put("y", timeout=0.2)
        monkeypatch.undo()
        try:
            node.close()
        except zmqkit.JournalFailed:
            pass
        with zmqkit.Node(node.endpoint, journal=str(tmp_path)) as again:
            assert [m.body for m in again.queue("q").peek()][:1] == ["safe"]
            assert remote.put("after", timeout=SOON).seq >= 2


# -- forks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_closed_and_its_parent_is_unharmed(pair: tuple[zmqkit.Node, zmqkit.Client]) -> None:
    node, mq = pair
    q, local = mq.queue("q"), node.queue("q")
    q.put_many(range(3))
    consumer = q.consume(credit=2)
    d = next(consumer)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        told = []
        for call in (lambda: q.put(1), local.info, lambda: next(consumer), q.get, d.ack, d.nack, mq.flush, node.queues):
            try:
                call()
                told.append("nothing")
            except BaseException as error:
                told.append(type(error).__name__)
        for peer in (mq, node):
            peer.close(1.0)
        try:
            with zmqkit.connect(node.endpoint) as own:
                told.append(own.queue("child").put("hello").durability)
        finally:
            os.write(writing, " ".join(told).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read().split() == ["Closed"] * 8 + ["memory"]
    os.waitpid(child, 0)
    d.ack(wait=True)
    assert d.settled is True and next(consumer).body == 1 and local.put("still here").seq == 4
    consumer.stop()


# -- work and signals -----------------------------------------------------------------------------------------------------

WORKER = """
import logging, sys, threading, zmqkit
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

def handle(d):
    print("runs", d.body, flush=True)
    threading.Event().wait()

with zmqkit.connect(sys.argv[1]) as mq:
    mq.queue("q").work(handle, threads=1)
"""


def test_a_second_signal_ends_work_at_once_and_what_ran_goes_back_uncounted() -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        q = node.queue("q")
        q.put("endless")
        process = subprocess.Popen([sys.executable, "-c", WORKER, node.endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "runs endless\n"
        process.send_signal(signal.SIGTERM)
        while "stopping" not in (line := process.stdout.readline()):
            assert line, "it ended without a word"
        assert process.poll() is None and q.info().leased == 1  # what runs is finished, and it runs still
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SOON)
        assert process.returncode != 0
        with q.get(timeout=SOON) as d:  # type: ignore[union-attr]
            assert (d.body, d.attempt) == ("endless", 1)
