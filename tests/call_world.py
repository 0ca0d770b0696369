"""A node, a caller and a worker for the tests of calls, and handlers that wait to be let go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from handle_world import SOON, eventually

import zmqkit
from zmqkit.machines import calling

_numbers = count()


def new_name() -> str:
    """A service nobody has used."""
    return f"s{next(_numbers)}"


class Gate:
    """A handler that has begun when `begun` is set, and ends when `open` is."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        self.calls: list[zmqkit.Current] = []
        self.bodies: list[Any] = []

    def __call__(self, body: Any) -> Any:
        self.calls.append(zmqkit.current())
        self.bodies.append(body)
        self.begun.set()
        assert self.open.wait(2 * SOON), "nobody let it go"
        return body

    def await_begin(self) -> zmqkit.Current:
        assert self.begun.wait(SOON), "no call came"
        return self.calls[-1]


def await_known(mq: zmqkit.Client | zmqkit.Node, name: str) -> None:
    """Until the node knows that this client serves it."""
    eventually(lambda: (state := mq._session.machine.consumers.get("\0" + name)) is not None and state.stated)
    mq.queues()  # what was said before is heard before


@contextmanager
def serving(mq: zmqkit.Client | zmqkit.Node, function: Callable[[Any], Any], threads: int = 4, credit: Any = "auto",
            type: Any = None) -> Iterator[str]:  # fmt: skip
    """A service under a new name, and threads that run it."""
    name = new_name()
    with mq.service(name, function, type=type):
        pool = mq.serve(threads, block=False, credit=credit)
        try:
            await_known(mq, name)
            yield name
        finally:
            pool.stop()
            assert pool.wait(SOON), "a handler does not end"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the node's verdict on a call may come late, and be the right one nevertheless."""
    monkeypatch.setattr(calling, "VERDICT_SECONDS", SOON)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def let_in_flight(mq: zmqkit.Client) -> None:
    """Until the I/O thread has sent all that was called before."""
    turned = threading.Event()
    for _ in range(2):  # the first of them may run in the turn that sends
        turned.clear()
        mq._session.reactor.call(lambda now: turned.set())
        assert turned.wait(SOON)
