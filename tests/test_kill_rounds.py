"""Fifty times SIGKILL, to the node, to a worker or to both, under load: nothing confirmed is lost, nothing is stored twice,
and whoever executes a message twice finds the reason in the node's log."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_world import node

import zmqkit
from zmqkit.cli.processes import Broker

ROUNDS = 50
SEED = 20261124
PUTS_A_ROUND = 200
WORKER = str(Path(__file__).with_name("kill_worker.py"))
ENDED = re.compile(r"lease ended queue=work token=(\d+) messages=(\d+)-(\d+) cause=\S+")
UNWRITTEN = re.compile(r"restarted epoch=(\d+) .* above token=(\d+) ended unwritten")
TOKEN_COUNTER_BITS = 40


class Execution(NamedTuple):
    seq: int
    token: int
    body: int


class Workers:
    """Two worker processes; a killed one is replaced at once."""

    def __init__(self, endpoint: str, log: Path) -> None:
        self.log = log
        self._command = [sys.executable, WORKER, endpoint, str(log)]
        self._processes = [subprocess.Popen(self._command) for _ in range(2)]

    def kill_one(self, index: int) -> None:
        self._processes[index].kill()
        self._processes[index].wait()
        self._processes[index] = subprocess.Popen(self._command)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def executions(self, word: str) -> list[Execution]:
        """A kill may tear a line (at a page's end): what is left of it stands before the next one and counts for nothing."""
        text = self.log.read_text() if self.log.exists() else ""
        return [Execution(*map(int, found)) for found in re.findall(rf"{word} (\d+) (\d+) (\d+)\n", text)]


class Producer:
    """Puts numbers 0, 1, 2…, `PUTS_A_ROUND` at a time, and remembers the futures."""

    def __init__(self, queue: zmqkit.Queue) -> None:
        self._queue = queue
        self.futures: list[Future[zmqkit.Receipt]] = []

    def put_some(self) -> None:
        for _ in range(PUTS_A_ROUND):
            self.futures.append(self._queue.put_soon(len(self.futures)))


@pytest.mark.timeout(240)
def test_fifty_kills_lose_nothing_and_explain_every_double(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with node(tmp_path) as broker:
        workers = Workers(broker.endpoint, tmp_path / "executions")
        try:
            with zmqkit.connect(broker.endpoint) as mq:
                queue = mq.queue("work")
                producer = Producer(queue)
                for _ in range(ROUNDS):
                    producer.put_some()
                    _wait_for_an_execution(workers)
                    _kill(chance, broker, workers)
                mq.flush(60.0)
                _drain(queue)
                seqs = [future.result(0).seq for future in producer.futures]
        finally:
            workers.stop()
        log = (tmp_path / "node.log").read_text()

    started, done = workers.executions("start"), workers.executions("done")
    assert len(set(seqs)) == len(seqs), "a put was answered with another's number"
    assert {execution.body for execution in done} == set(range(len(seqs))), "confirmed, and never done"
    assert {execution.seq: execution.body for execution in started} == dict(zip(seqs, range(len(seqs)), strict=True)), "stored twice"
    _explain_doubles(started, log)


def _wait_for_an_execution(workers: Workers) -> None:
    """So that every kill meets work: at least one more message has begun since we looked."""
    before = workers.log.stat().st_size if workers.log.exists() else 0
    waiter = threading.Event()
    for _ in range(6000):
        if workers.log.exists() and workers.log.stat().st_size > before:
            return
        waiter.wait(0.01)
    raise AssertionError("for a minute no worker has begun a message")


def _kill(chance: random.Random, broker: Broker, workers: Workers) -> None:
    victim = chance.choice(("node", "worker", "both"))
    if victim != "node":
        workers.kill_one(chance.randrange(2))
    if victim != "worker":
        broker.kill()
        broker.start()


def _drain(queue: zmqkit.Queue) -> None:
    waiter = threading.Event()
    for _ in range(6000):
        info = queue.info()
        if not (info.ready or info.leased or info.delayed):
            assert info.dead == 0
            return
        waiter.wait(0.01)
    raise AssertionError(f"for a minute the queue has not been drained: {queue.info()}")


def _explain_doubles(started: list[Execution], log: str) -> None:
    """Of every message that began more than once, each lease but the last one has ended for a reason in the node's log."""
    ended = [tuple(map(int, match.groups())) for match in ENDED.finditer(log)]
    unwritten = [tuple(map(int, match.groups())) for match in UNWRITTEN.finditer(log)]
    tokens: dict[int, list[int]] = {}
    for execution in started:
        assert execution.token not in tokens.setdefault(execution.seq, []), f"{execution} began twice under one lease"
        tokens[execution.seq].append(execution.token)
    for seq, held in tokens.items():
        for token in sorted(held)[:-1]:
            told = any(t == token and first <= seq <= last for t, first, last in ended)
            epoch = token >> TOKEN_COUNTER_BITS
            lost = any(epoch < later and token > written for later, written in unwritten)
            assert told or lost, f"message {seq}: lease {token} ended unexplained"
