"""A node in this process and a client of it, for the tests of handles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmqkit

SOON = 15.0  # how long something that must happen may take on a busy machine


@contextmanager
def world() -> Iterator[tuple[zmqkit.Node, zmqkit.Client]]:
    with zmqkit.Node("tcp://127.0.0.1:0") as node, zmqkit.connect(node.endpoint) as mq:
        yield node, mq


def eventually(question: Callable[[], Any]) -> Any:
    """The first true answer. Fails after SOON."""
    end = time.monotonic() + SOON
    while not (answer := question()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)
    return answer


def in_thread(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def cut(mq: zmqkit.Client) -> None:
    """The link of this client ends, as if the network had cut it."""
    session = mq._nodes.sessions[0]
    session.reactor.call(lambda now: session.machine.lost(now, "cut by the test"))


def freeze(mq: zmqkit.Client) -> Callable[[], None]:
    """Stop this client's I/O thread until the returned function is called."""
    gate, held = threading.Event(), threading.Event()

    def hold(now: float) -> None:
        held.set()
        gate.wait(30.0)

    mq._nodes.reactor.call(hold)
    held.wait(SOON)
    return gate.set
