"""One process of `zmqkit chaos` on plain pyzmq: `python -m zmqkit.cli.chaos_bare ROLE PLACE NUMBER ENDPOINT…`.

What a reader of the ZeroMQ Guide writes first: a producer pushes jobs to a process in the middle, which writes each into a file, for the
record, and pushes it on to workers. Where a fault is about clocks, the one in the middle is a queue that gives a job again which has
not been reported done in time; time is what `time.time` says, as it is in the Guide.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import zmq

from zmqkit.cli.chaos_clock import let_jump
from zmqkit.cli.chaos_notes import Work, ordered, ready
from zmqkit.cli.notes import Notes

SPOOL = "spool"
AGAIN_SECONDS = 30.0  # without a report
LOOK_MS = 50


def produce(context: zmq.Context[zmq.Socket[bytes]], place: Path, name: str, front: str) -> None:
    handed, sent, socket = Notes(place / "handed"), Notes(place / "sent"), context.socket(zmq.PUSH)
    socket.connect(front)
    for number in ordered():
        handed.write(number, time.monotonic())
        socket.send(b"%d" % number)
        sent.write(number, number, time.monotonic())


def forward(context: zmq.Context[zmq.Socket[bytes]], place: Path, name: str, front: str, back: str) -> None:
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    print(pull.bind(front).addr, push.bind(back).addr, flush=True)
    with (place / SPOOL).open("ab", buffering=0) as spool:
        while True:
            job = pull.recv()
            spool.write(job + b"\n")
            push.send(job)


def work(context: zmq.Context[zmq.Socket[bytes]], place: Path, name: str, back: str) -> None:
    socket, do = context.socket(zmq.PULL), worker(place, name)
    socket.connect(back)
    ready()
    while True:
        do(socket.recv())


def worker(place: Path, name: str) -> Callable[[bytes], None]:
    begun, done, job = Notes(place / f"begun-{name}"), Notes(place / f"done-{name}"), Work()

    def do(number: bytes) -> None:
        begun.write(int(number), 0, time.monotonic())
        seconds = job.do()
        done.write(int(number), int(number), time.monotonic(), seconds)

    return do


def lend(context: zmq.Context[zmq.Socket[bytes]], place: Path, name: str, front: str, back: str) -> None:
    let_jump()
    pull, router = context.socket(zmq.PULL), context.socket(zmq.ROUTER)
    print(pull.bind(front).addr, router.bind(back).addr, flush=True)
    waiting, idle, lent = deque[bytes](), deque[bytes](), dict[bytes, float]()
    while True:
        ready, _, _ = zmq.select([pull, router], [], [], LOOK_MS / 1000)
        if pull in ready:
            waiting.append(pull.recv())
        if router in ready:
            borrower, _, done = router.recv_multipart()
            lent.pop(done, None)
            idle.append(borrower)
        for job, until in list(lent.items()):
            if until < time.time():
                del lent[job]
                waiting.append(job)
        while waiting and idle:
            job = waiting.popleft()
            lent[job] = time.time() + AGAIN_SECONDS
            router.send_multipart([idle.popleft(), b"", job])


def borrow(context: zmq.Context[zmq.Socket[bytes]], place: Path, name: str, back: str) -> None:
    socket, do, job = context.socket(zmq.REQ), worker(place, name), b""
    socket.connect(back)
    ready()
    while True:
        socket.send(job)
        job = socket.recv()
        do(job)


if __name__ == "__main__":
    roles = {role.__name__: role for role in (produce, forward, work, lend, borrow)}
    roles[sys.argv[1]](zmq.Context(), Path(sys.argv[2]), *sys.argv[3:])
