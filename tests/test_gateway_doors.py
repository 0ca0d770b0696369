"""The doors of a gateway: what waits for a foreign peer that does not read, on real sockets and a clock that is moved by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import inf
from time import monotonic, sleep
from typing import Any

import pytest
import zmq
from textbook.peer import Raw

from zmqkit import ports, sockets
from zmqkit.ports import GatewayPort
from zmqkit.sockets import DOES_NOT_READ

BODY = b"x" * 100_000


class Gateway:
    """Notes what its doors tell."""

    machine: Any = None

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.left = list[bytes]()

    def drop(self, reason: str, messages: int = 1) -> None:
        self.dropped[reason] += messages

    def gone(self, door: int, peer: bytes, now: float) -> None:
        self.left.append(peer)

    def receive(self, door: int, peer: bytes, frames: Any, now: float) -> None: ...
    def cut(self, was_up: bool, now: float) -> None: ...
    def pump(self, now: float) -> None: ...
    def handle(self, events: list[Any], now: float) -> None: ...
    def closed(self, error: Exception | None) -> None: ...


class Deaf(Raw):
    """It has hardly any room for what it does not read."""

    def prepare(self) -> None:
        self.socket.rcvhwm, self.socket.rcvbuf = 1, 4096


class Bench:
    def __init__(self) -> None:
        self.gateway = Gateway()
        self.port = GatewayPort(self.gateway, lambda socket, wanted: None)
        self.doors = self.port.doors
        self.context: sockets.Context = zmq.Context()
        socket, self.endpoint = sockets.open_foreign_router(self.context, "tcp://127.0.0.1:*")
        self.doors.sockets = [socket]
        self.now = 0.0

    def peer(self, name: bytes) -> Raw:
        """One that is there, and reads only what it is told to."""
        peer = Deaf(self.endpoint, identity=name)
        self.until(lambda: self.send(name, b"hello") is None)
        assert peer.receive() == [b"hello"]
        return peer

    def send(self, name: bytes, *frames: bytes) -> str | None:
        return self.doors.deliver(0, name, list(frames))

    def fill(self, name: bytes, body: bytes = BODY) -> int:
        """Until something waits at us. How many were taken?"""
        count = 0
        while not self.waiting(name):
            assert self.send(name, b"%d" % count, body) is None
            count += 1
        return count

    def waiting(self, name: bytes) -> int:
        unread = self.doors._unread.get((0, name))
        return len(unread.messages) if unread is not None else 0

    def turn(self, seconds: float = 0.0) -> bool:
        self.now += seconds
        sockets.readable(self.doors.sockets[0])  # a poll does so, and libzmq hears of the end of a connection only then
        return self.doors.drain({}, self.now)

    def until(self, done: Any) -> None:
        end = monotonic() + 10
        while not done():
            assert monotonic() < end
            sleep(0.001)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    assert bench.doors._unread_bytes == sum(unread.bytes for unread in bench.doors._unread.values())
    bench.context.destroy(linger=0)


def test_what_a_slow_peer_has_not_read_waits_and_comes_in_order(bench: Bench) -> None:
    with bench.peer(b"slow") as peer:
        count = bench.fill(b"slow") + 20
        for number in range(count - 20, count):
            assert bench.send(b"slow", b"%d" % number, BODY) is None
        for number in range(count):
            while (frames := peer.heard(0.01)) is None:
                waited = bench.waiting(b"slow")
                said = bench.turn(ports.RETRY_SECONDS_MAX)
                assert said == (waited > 0 and not bench.waiting(b"slow")), "a gateway may wait for that to go on"
            assert frames == [b"%d" % number, BODY]
        bench.turn(ports.RETRY_SECONDS_MAX)
        assert bench.doors.retry_at == inf and not bench.doors._unread and not bench.gateway.dropped


def test_a_peer_that_does_not_read_is_given_up_by_bytes_and_all_that_waited_is_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "UNREAD_BYTES_MAX", 1_000_000)
    with bench.peer(b"deaf"):
        bench.fill(b"deaf")
        waiting, reason = 1, None
        while reason is None:
            waiting += 1
            reason = bench.send(b"deaf", BODY)
        assert reason == DOES_NOT_READ and waiting == 10
        assert bench.gateway.dropped == {DOES_NOT_READ: waiting - 1}, "and the last one is told"
        assert not bench.doors._unread and not bench.gateway.left


def test_many_small_frames_count_by_what_they_cost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.peer(b"deaf"):
        bench.fill(b"deaf")
        monkeypatch.setattr(ports, "UNREAD_BYTES_MAX", bench.doors._unread_bytes + 3 * 11 * ports.FRAME_BYTES)
        for _ in range(3):
            assert bench.send(b"deaf", *[b""] * 10) is None
        assert bench.send(b"deaf", *[b""] * 10) == DOES_NOT_READ


def test_all_peers_together_meet_a_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.peer(b"one"), bench.peer(b"two"):
        bench.fill(b"one")
        bench.fill(b"two")
        monkeypatch.setattr(ports, "ALL_UNREAD_BYTES_MAX", 3 * len(BODY))
        assert bench.send(b"two", BODY) == DOES_NOT_READ
        assert bench.waiting(b"one") == 1 and not bench.waiting(b"two")


def test_who_leaves_with_something_unread_is_told_and_what_waited_is_counted(bench: Bench) -> None:
    with bench.peer(b"leaves"):
        bench.fill(b"leaves")
        for _ in range(4):
            bench.send(b"leaves", BODY)
    bench.until(lambda: bench.turn(ports.RETRY_SECONDS_MAX))
    assert bench.gateway.left == [b"leaves"] and bench.gateway.dropped == {"the peer is gone": 5} and bench.doors.retry_at == inf


def test_who_does_not_read_is_tried_less_and_less_often_and_at_once_when_there_is_another(bench: Bench) -> None:
    with bench.peer(b"deaf"), bench.peer(b"slow"):
        bench.fill(b"deaf")
        bench.turn()
        waits = list[float]()
        while not waits or waits[-1] < ports.RETRY_SECONDS_MAX:
            waits.append(bench.doors.retry_at - bench.now)
            bench.turn(waits[-1])
        assert waits[0] < 0.01 and len(waits) < 12
        bench.port.deadline = due = bench.now + 60.0  # what its machine has to do
        assert bench.port.deadline == bench.doors.retry_at < due, "a turn comes for it"
        bench.fill(b"slow")
        assert bench.doors.retry_at < bench.now


def test_what_waits_goes_with_the_doors(bench: Bench) -> None:
    with bench.peer(b"deaf"):
        bench.fill(b"deaf")
        bench.doors.close()
        assert not bench.waiting(b"deaf") and bench.doors.retry_at == inf and not bench.doors.drain({}, bench.now)


def test_only_so_many_are_tried_at_once_and_then_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "RETRY_PEERS_MAX", 1)
    with bench.peer(b"deaf"), bench.peer(b"slow") as slow:
        bench.fill(b"deaf")
        count = bench.fill(b"slow")
        for _ in range(count):
            while slow.heard(0.01) is None:
                bench.turn(ports.RETRY_SECONDS_MAX)
        assert bench.waiting(b"deaf") == 1


def test_a_door_that_is_paused_is_not_listened_to_until_it_is_not_or_closes(bench: Bench) -> None:
    heard: list[bool] = []
    bench.doors._listen = lambda socket, wanted: heard.append(wanted)
    for paused in (True, True, False, False, True):
        bench.doors.pause(0, paused)
    assert heard == [False, True, False]
    bench.doors.close()
    assert heard[3:] == [True, False], "whoever closes must not forget it twice"
