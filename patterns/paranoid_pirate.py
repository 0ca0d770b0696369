"""Paranoid Pirate: workers die behind a queue.

The Guide's load balancer gives each request to the worker that has been idle longest, and forgets it. A request in the hands of a worker
that dies is never answered, and nobody learns of it. Here a request stays the node's until it is answered: a lease ends shortly after its
worker was last heard of, and what has a key goes to the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import zmq

import zmqkit
from patterns.stage import Actor, Stage, Told, die, play, told

COUNTED = "calls"
CALLS = 20
DOOMED = 2  # so many workers die, each with its first request in its hands
QUIET_SECONDS = 2.0  # without an answer: none will come any more


def queue(say: Connection) -> None:
    """The Guide's load balancing broker."""
    context, workers = zmq.Context(), list[bytes]()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    say.send([socket.bind("tcp://127.0.0.1:0").addr for socket in (frontend, backend)])
    while True:
        ready, _, _ = zmq.select([backend, frontend] if workers else [backend], [], [])
        if backend in ready:
            worker, _, *answer = backend.recv_multipart()
            workers.append(worker)
            if answer != [b"READY"]:
                frontend.send_multipart(answer)
        elif frontend in ready:
            backend.send_multipart([workers.pop(0), b"", *frontend.recv_multipart()])


def act(say: Connection, number: int, doomed: bool) -> None:
    if doomed:
        die()
    say.send(number)


def bare_worker(say: Connection, backend: str, doomed: bool) -> None:
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(backend)
    socket.send(b"READY")
    while True:
        *envelope, number = socket.recv_multipart()
        act(say, int(number), doomed)
        socket.send_multipart([*envelope, number])


def lose_workers(stage: Stage, role: Callable[..., None], endpoint: str, ask: Callable[[], Any]) -> Actor:
    """Those that die, the requests, and when all of them have died, one that lives."""
    doomed = [stage.start(role, endpoint, True) for _ in range(DOOMED)]
    ask()
    for worker in doomed:
        worker.wait()
    return stage.start(role, endpoint, False)


def bare(stage: Stage) -> Told:
    frontend, backend = stage.start(queue).hear()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(frontend)
        begin, took = time.monotonic(), dict[int, float]()
        worker = lose_workers(stage, bare_worker, backend, lambda: [socket.send_multipart([b"", b"%d" % n]) for n in range(CALLS)])
        worker.said.poll(None)  # it begins
        while socket.poll(int(QUIET_SECONDS * 1000)):
            took[int(socket.recv_multipart()[1])] = time.monotonic() - begin
    return told(CALLS, took, worker.rest())


def mended_worker(say: Connection, endpoint: str, doomed: bool) -> None:
    with zmqkit.connect(endpoint) as mq:
        mq.service("act", lambda number: act(say, number, doomed))
        mq.serve(threads=1)


def mended(stage: Stage) -> Told:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        begin, took, calls = time.monotonic(), dict[int, float](), list[zmqkit.CallFuture]()

        def ask() -> None:
            calls.extend(node.call_soon("act", n, timeout=60.0, idempotency_key=f"call-{n}") for n in range(CALLS))

        worker = lose_workers(stage, mended_worker, node.endpoint, ask)
        for number, call in enumerate(calls):
            call.result()
            took[number] = time.monotonic() - begin
        return told(CALLS, took, worker.rest())


if __name__ == "__main__":
    play(COUNTED, bare, mended)
