"""Paranoid Pirate: workers behind a queue die, or hang.

The Guide's load balancer gives each request to the worker that has been idle longest, and forgets it. A request in the hands of a worker
that is killed, or frozen, is never answered, and nobody learns of it. Here a request stays the node's until it is answered: a lease ends
shortly after its worker was last heard of, and what has a key goes to the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import zmq

import zmqkit
from patterns.stage import Actor, Stage, Told, die, freeze, play, told

COUNTED = "calls"
CALLS = 20
QUIET_SECONDS = 2.0  # without an answer: none will come any more
FATES: tuple[Callable[[], None], ...] = (die, freeze)  # of the first two workers, each with its first request in hand


def queue(say: Connection) -> None:
    """The Guide's load balancing broker."""
    context, workers = zmq.Context(), list[bytes]()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    say.send([socket.bind("tcp://127.0.0.1:0").addr for socket in (frontend, backend)])
    while True:
        sockets = [backend, frontend] if workers else [backend]
        ready, _, _ = zmq.select(sockets, [], [])
        if backend in ready:
            worker, _, *answer = backend.recv_multipart()
            workers.append(worker)
            if answer != [b"READY"]:
                frontend.send_multipart(answer)
        elif frontend in ready:
            backend.send_multipart([workers.pop(0), b"", *frontend.recv_multipart()])


def bare_worker(say: Connection, backend: str, fate: Callable[[], None] | None) -> None:
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(backend)
    socket.send(b"READY")
    while True:
        *envelope, number = socket.recv_multipart()
        act(say, int(number), fate)
        socket.send_multipart([*envelope, number])


def act(say: Connection, number: int, fate: Callable[[], None] | None) -> None:
    if fate:
        say.send("a request in hand")
        fate()
    say.send(number)


def meet_fates(stage: Stage, role: Callable[..., None], endpoint: str, ask: Callable[[], Any]) -> Actor:
    """Two workers, the requests, and when both have met their fate with one in hand, a third that is well."""
    doomed = [stage.start(role, endpoint, fate) for fate in FATES]
    ask()
    for worker in doomed:
        worker.hear()
    return stage.start(role, endpoint, None)


def bare(stage: Stage) -> Told:
    frontend, backend = stage.start(queue).hear()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(frontend)
        begin, took = time.monotonic(), dict[int, float]()
        worker = meet_fates(stage, bare_worker, backend, lambda: [socket.send_multipart([b"", b"%d" % n]) for n in range(CALLS)])
        worker.said.poll(None)  # it begins
        while socket.poll(int(QUIET_SECONDS * 1000)):
            took[int(socket.recv_multipart()[1])] = time.monotonic() - begin
    return told(CALLS, took, worker.rest())


def mended_worker(say: Connection, endpoint: str, fate: Callable[[], None] | None) -> None:
    with zmqkit.connect(endpoint) as mq:
        mq.service("act", lambda number: act(say, number, fate))
        mq.serve(threads=1)


def mended(stage: Stage) -> Told:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        begin, took, calls = time.monotonic(), dict[int, float](), list[zmqkit.CallFuture]()

        def ask() -> None:
            calls.extend(node.call_soon("act", n, timeout=60.0, idempotency_key=f"call-{n}") for n in range(CALLS))

        worker = meet_fates(stage, mended_worker, node.endpoint, ask)
        for number, call in enumerate(calls):
            call.result()
            took[number] = time.monotonic() - begin
        return told(CALLS, took, worker.rest())


if __name__ == "__main__":
    play(COUNTED, bare, mended)
