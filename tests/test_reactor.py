"""The reactor: what lives on it side by side, and what one of them may do to the others."""

from __future__ import annotations

import fcntl
import os
import random
import threading
from pathlib import Path
from typing import Any

from handle_world import eventually, freeze

import zmqkit
from zmqkit.machines.link import ClientMachine
from zmqkit.reactor import now
from zmqkit.sockets import Waker


class Broken:
    """An application that raises once it hears from the node."""

    def __init__(self) -> None:
        self.machine = ClientMachine(os.urandom(16), random.random)
        self.ended = threading.Event()
        self.error: Exception | None = None

    def pump(self, moment: float) -> None:
        self.machine.tick(moment)

    def handle(self, events: list[Any], moment: float) -> None:
        raise ArithmeticError("as broken as can be")

    def closed(self, error: Exception | None) -> None:
        self.error = error
        self.ended.set()


def test_a_broken_application_ends_alone() -> None:
    with zmqkit.Node("tcp://127.0.0.1:*") as node, zmqkit.connect(node.endpoint) as mq:
        broken = Broken()

        def attach(moment: float) -> None:
            broken.machine.start(now())
            node._reactor.attach(broken, None)

        node._reactor.call(attach)
        assert broken.ended.wait(5.0) and isinstance(broken.error, ArithmeticError)
        assert node.queue("q").put(1).seq == 1 and mq.queue("q").put(2).seq == 2 and node.failure is None


def test_a_client_whose_own_end_is_broken_fails_all_that_waits() -> None:
    with zmqkit.Node("tcp://127.0.0.1:*") as node:
        mq = zmqkit.connect(node.endpoint)
        session = mq._session

        def broken(moment: float) -> None:
            raise ArithmeticError("as broken as can be")

        session.pump = broken  # type: ignore[method-assign]
        session.reactor.wake()
        assert mq._nodes.ended.wait(5.0)
        try:
            mq.queue("q").put(1)
        except zmqkit.Closed as error:
            assert "as broken as can be" in str(error)
        else:
            raise AssertionError("it should be closed")
        assert node.queue("q").put(1).seq == 1


def test_each_message_counts_from_when_it_came_and_not_from_when_its_turn_began() -> None:
    """Where many threads share a processor a turn may last, and a ttl that counted from its beginning ran out too early."""
    with zmqkit.Node("tcp://127.0.0.1:*") as node, zmqkit.connect(node.endpoint) as mq, mq.topic("t").subscribe() as sub:
        assert sub.wait_ready()
        machine, times = mq._session.machine, list[float]()
        receive = machine.receive

        def timed(frames: list[bytes], moment: float) -> None:
            receive(frames, moment)
            times.extend((moment, now()))

        machine.receive = timed  # type: ignore[method-assign]
        let_go = freeze(mq)  # so that they stand in line, for one turn
        for number in range(5):
            node.topic("t").publish("a", number)
        let_go()
        eventually(lambda: sub.seq == 5)
        assert len(times) >= 10 and times == sorted(times)


def test_a_wake_that_comes_late_writes_into_nobody_elses_file(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("wb") as file:
        waker = Waker()
        waker.close()
        assert fcntl.fcntl(file, fcntl.F_DUPFD, waker.fd) == waker.fd, "a freed number goes to the next one who asks"
        waker.wake()
        os.close(waker.fd)
    assert (tmp_path / "journal").read_bytes() == b""
