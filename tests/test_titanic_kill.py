"""Titanic goes down with kill -9, again and again: what it said 200 to is executed and answered, and what was closed stays closed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from handle_world import eventually

import zmqkit
from zmqkit.cli.processes import kill, next_line

NODE = str(Path(__file__).with_name("titanic_node.py"))
ROUNDS = 8
REQUESTS_A_ROUND = 25
SEED = 20270114
PATIENCE = 30.0


class Ship:
    """The node's process, and another one on the same endpoint and journal after each kill."""

    def __init__(self, place: Path) -> None:
        self._journal, self._log, self.endpoint = place / "journal", place / "log", "tcp://127.0.0.1:0"
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            command = [sys.executable, NODE, self.endpoint, str(self._journal)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout
        words = next_line(self._process).split()
        assert words[:1] == ["ready"], self._log.read_text()
        self.endpoint = words[1]

    def kill(self) -> None:
        kill(self._process)
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture
def ship(tmp_path: Path) -> Iterator[Ship]:
    afloat = Ship(tmp_path)
    yield afloat
    afloat.kill()


def insist(call: Callable[[], Any]) -> Any:
    """Until the node is there again: what is asked of Titanic may be asked twice."""
    for _ in range(100):
        try:
            told = call()
        except (zmqkit.Timeout, zmqkit.NoWorker):
            continue
        if told[0] != b"500":
            return told
    raise AssertionError("it does not come up again")


def request(mq: zmqkit.Client, service: str, body: bytes) -> bytes:
    status, uuid = insist(lambda: mq.call("titanic.request", [service.encode(), body], timeout=1.0))
    assert status == b"200"
    return uuid  # type: ignore[no-any-return]


def reply(mq: zmqkit.Client, uuid: bytes) -> list[bytes]:
    return insist(lambda: mq.call("titanic.reply", uuid, timeout=1.0))  # type: ignore[no-any-return]


def answered(mq: zmqkit.Client, uuid: bytes) -> list[bytes]:
    waiter = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        told = reply(mq, uuid)
        if told != [b"300"]:
            return told
        waiter.wait(0.02)
    raise AssertionError(f"{uuid!r} is still not answered")


@pytest.mark.timeout(120)
def test_a_kill_between_request_and_reply_loses_neither(ship: Ship) -> None:
    begun, end = threading.Event(), threading.Event()
    with zmqkit.connect(ship.endpoint) as mq, zmqkit.connect(ship.endpoint) as worker:
        worker.service("slow", lambda body: (begun.set(), end.wait(PATIENCE), body.upper())[2])
        serving = worker.serve(threads=2, block=False)
        running, waiting, closed = request(mq, "slow", b"a"), request(mq, "absent", b"b"), request(mq, "absent", b"c")
        assert begun.wait(PATIENCE)
        assert insist(lambda: mq.call("titanic.close", closed, timeout=1.0)) == [b"200"]
        ship.kill()
        ship.start()
        assert reply(mq, running) == reply(mq, waiting) == [b"300"] and reply(mq, closed) == [b"400"]
        end.set()
        assert answered(mq, running) == [b"200", b"A"]
        ship.kill()
        ship.start()
        assert reply(mq, running) == [b"200", b"A"]
        ran: list[bytes] = []
        worker.service("absent", lambda body: (ran.append(body), body.upper())[1])
        assert answered(mq, waiting) == [b"200", b"B"] and ran == [b"B".lower()]
        assert insist(lambda: mq.call("titanic.close", running, timeout=1.0)) == [b"200"]
        ship.kill()
        ship.start()
        assert reply(mq, running) == [b"400"] and reply(mq, waiting) == [b"200", b"B"]
        serving.stop()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kills_under_load_lose_nothing_that_was_taken_and_revive_nothing_that_was_closed(ship: Ship) -> None:
    chance = random.Random(SEED)
    executed: list[bytes] = []
    with zmqkit.connect(ship.endpoint) as mq, zmqkit.connect(ship.endpoint) as worker:
        worker.service("upper", lambda body: (executed.append(body), body.upper())[1])
        serving = worker.serve(threads=2, block=False)
        open_: dict[bytes, bytes] = {}
        closed: list[bytes] = []
        for turn in range(ROUNDS):
            before = len(executed)
            for number in range(REQUESTS_A_ROUND):
                body = b"r%d-%d" % (turn, number)
                open_[request(mq, "upper", body)] = body
            for uuid in chance.sample([*open_], 5):
                assert insist(lambda uuid=uuid: mq.call("titanic.close", uuid, timeout=1.0)) == [b"200"]
                closed.append(uuid)
                del open_[uuid]
            eventually(lambda before=before: len(executed) > before)
            ship.kill()
            ship.start()
        for uuid, body in open_.items():
            assert answered(mq, uuid) == [b"200", body.upper()]
        assert {reply(mq, uuid)[0] for uuid in closed} == {b"400"}
        queue = mq.queue("titanic.requests")
        eventually(lambda: (info := queue.info()).ready + info.leased + info.delayed == 0)
        assert queue.info().dead == 0
        serving.stop()
