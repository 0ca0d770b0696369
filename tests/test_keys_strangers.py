"""A node with keys among peers who connect and say nothing, say it slowly, or say rubbish: an honest client is served meanwhile, and
nothing is left of them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

import pytest
from handle_world import SOON, eventually
from keys_world import Knocking, made, shows

import zmqkit
from zmqkit import sockets
from zmqkit.cli.processes import Broker
from zmqkit.security import Pair

HALF_OPEN, SLOW, RUBBISH = 1000, 100, 300
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47)
BABBLE = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    GREETING[:11],
    GREETING,
    GREETING + b"\x04\xc8\x05HELLO" + bytes(194),
    GREETING + b"\x04\xc8\x05HELLO\x01\x00" + os.urandom(192),
    GREETING + b"\x06" + (2**62).to_bytes(8, "big"),
    GREETING + b"\x04\x05\x05READY",
    GREETING.replace(b"CURVE", b"NULL\0") + b"\x04\x06\x05READY",
    os.urandom(500),
]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    sockets._raise_descriptors()
    broker = Broker(None, tmp_path / "node.log", keys=Path(made(tmp_path, "keys").path))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def descriptors(broker: Broker) -> int:
    return len(os.listdir(f"/proc/{broker.pid}/fd"))


def serve(broker: Broker, place: Path) -> float:
    """One message there and back on a new link; how long that took."""
    began = monotonic()
    with zmqkit.connect(broker.endpoint, keys=str(place / "keys"), timeout=SOON) as mq:
        mq.queue("q").put(1, timeout=SOON)
        with mq.queue("q").get(timeout=SOON) as d:  # type: ignore[union-attr]
            assert d.body == 1
    return monotonic() - began


@pytest.mark.timeout(120)
def test_an_honest_client_is_served_among_a_thousand_that_only_connect_and_nothing_is_left_of_them(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host, port = broker.endpoint.removeprefix("tcp://").split(":")
    serve(broker, tmp_path)
    before, times, over = descriptors(broker), [], threading.Event()

    def connection() -> socket.socket:
        return stack.enter_context(socket.create_connection((host, int(port)), timeout=SOON))

    def dribble(slow: list[socket.socket]) -> None:
        for byte in GREETING + bytes(200):
            for one in slow:
                with suppress(OSError):
                    one.send(bytes([byte]))
            if over.wait(1.0):
                return

    with ExitStack() as stack:
        crowd = [connection() for _ in range(HALF_OPEN)]
        dribbler = threading.Thread(target=dribble, args=([connection() for _ in range(SLOW)],))
        dribbler.start()
        try:
            for number in range(RUBBISH):
                with suppress(OSError):
                    connection().sendall(BABBLE[number % len(BABBLE)])
                if number % 30 == 0:
                    times.append(serve(broker, tmp_path))
            assert len(crowd) == HALF_OPEN
        finally:
            over.set()
            dribbler.join()
        eventually(lambda: descriptors(broker) <= before)  # though none of them has closed
        times.append(serve(broker, tmp_path))
    with capsys.disabled():
        if os.environ.get("ZMQKIT_TEST_FIGURES"):
            print(f"\nan honest client's round: {max(times):.3f} s at most of {len(times)}")
    assert max(times) < SOON


def test_a_crowd_of_untrusted_keys_holds_nobody_up(broker: Broker, tmp_path: Path) -> None:
    server = (tmp_path / "keys" / "key.public").read_text().strip()
    before = descriptors(broker)
    with ExitStack() as stack:
        crowd = [stack.enter_context(Knocking(broker.endpoint, shows(Pair.new(), server))) for _ in range(50)]
        serve(broker, tmp_path)
        assert {stranger.outcome() for stranger in crowd} == {"refused"}
    eventually(lambda: descriptors(broker) <= before + 1)
