"""What calls are compared with: plain pyzmq in processes of their own, carrying the same bodies there and back, and nothing else done.

`python -m zmqkit.cli.bench_raw_call ROLE ENDPOINT CALLS SIZE`. A client's last line is its result as JSON; the other roles print
`ready ENDPOINT…` and go on until they are ended. Three arrangements:

    request · queue · worker       the Paranoid Pirate loop: a queue that gives one request to each ready worker
    request · echo                 a REQ and a ROUTER that answers: the least that a round trip takes
    requests · forward · worker    many under way: a queue that hands on all it gets
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

import zmq

from zmqkit.cli.bench_load import CLOCK, STAMP, bodies, percentiles

READY, HEARTBEAT = b"\x01", b"\x02"
HEARTBEAT_NS = 1_000_000_000
HEARTBEAT_MS = HEARTBEAT_NS // 1_000_000
LIVENESS = 3  # a worker that was silent for so many heartbeats gets no request
IN_FLIGHT = 200
ANSWER_MS_MAX = 10_000
WARM_UP_MAX = 200  # calls before those that are measured: links come up, caches fill

Result = dict[str, Any]
Socket = zmq.Socket[bytes]


def request(endpoint: str, calls: int, size: int) -> Result:
    """Lockstep: a call, its answer, the next call."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        connect(socket, endpoint)
        lockstep(socket, min(calls, WARM_UP_MAX), size)
        begin = CLOCK()
        times = lockstep(socket, calls, size)
        end = CLOCK()
    return {"first_ns": begin, "last_ns": end, **percentiles(times), "lost": 0, "duplicated": 0}


def lockstep(socket: Socket, calls: int, size: int) -> list[int]:
    times = []
    for body in bodies(calls, size):
        before = CLOCK()
        socket.send(body)
        answer = socket.recv()
        times.append(CLOCK() - before)
        assert answer == body, "another call's answer"
    return times


def requests(endpoint: str, calls: int, size: int) -> Result:
    """`IN_FLIGHT` calls under way at any time: each answer makes room for one more."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        connect(socket, endpoint)
        pipelined(socket, min(calls, WARM_UP_MAX), size)
        begin = CLOCK()
        times, came = pipelined(socket, calls, size)
        end = CLOCK()
    doubled = sum(came) - (calls - came.count(0))
    return {"first_ns": begin, "last_ns": end, **percentiles(times), "lost": came.count(0), "duplicated": doubled}


def pipelined(socket: Socket, calls: int, size: int) -> tuple[list[int], bytearray]:
    load, sent, times, came = bodies(calls, size), [0] * calls, [0] * calls, bytearray(calls)
    number = -1
    for number, body in enumerate(islice(load, IN_FLIGHT)):
        sent[number] = CLOCK()
        socket.send_multipart((b"", body))
    for _ in range(calls):
        answered: int = STAMP.unpack_from(socket.recv_multipart()[1])[0]
        times[answered] = CLOCK() - sent[answered]
        came[answered] += 1
        for body in islice(load, 1):
            number += 1
            sent[number] = CLOCK()
            socket.send_multipart((b"", body))
    return times, came


def connect(socket: Socket, endpoint: str) -> None:
    socket.linger, socket.rcvtimeo = 0, ANSWER_MS_MAX  # an answer that never comes fails the run, and does not stop it for ever
    socket.connect(endpoint)


def echo(endpoint: str, calls: int, size: int) -> Result:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        print("ready", socket.bind("tcp://127.0.0.1:0").addr, flush=True)
        while True:
            socket.send_multipart(socket.recv_multipart())


def worker(endpoint: str, calls: int, size: int) -> Result:
    """Says READY, answers each request with its own body, and beats once a second."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.rcvtimeo = HEARTBEAT_MS
        socket.connect(endpoint)
        socket.send(READY)
        print("ready", flush=True)
        beat_at = CLOCK() + HEARTBEAT_NS
        while True:
            with suppress(zmq.Again):
                frames = socket.recv_multipart()
                if len(frames) == 3:  # client, delimiter, body; anything else is a heartbeat
                    socket.send_multipart(frames)
            if CLOCK() >= beat_at:
                socket.send(HEARTBEAT)
                beat_at = CLOCK() + HEARTBEAT_NS


def queue(endpoint: str, calls: int, size: int) -> Result:
    """One request to the worker that has been ready longest; whatever comes from a worker says that it is ready again."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as frontend, context.socket(zmq.ROUTER) as backend:
        print("ready", frontend.bind("tcp://127.0.0.1:0").addr, backend.bind("tcp://127.0.0.1:0").addr, flush=True)
        idle, both = poller(backend), poller(backend, frontend)
        ready: dict[bytes, int] = {}  # worker -> when its silence makes it a dead one; in the order of their turn
        beat_at = CLOCK() + HEARTBEAT_NS
        while True:
            readable = dict((both if ready else idle).poll(HEARTBEAT_MS))
            now = CLOCK()
            if backend in readable:
                name, *frames = backend.recv_multipart()
                ready.pop(name, None)
                ready[name] = now + LIVENESS * HEARTBEAT_NS
                if len(frames) == 3:
                    frontend.send_multipart(frames)
            if now >= beat_at:
                for name in [*ready]:
                    backend.send_multipart((name, HEARTBEAT))
                beat_at = now + HEARTBEAT_NS
            while ready and next(iter(ready.values())) <= now:
                del ready[next(iter(ready))]
            if frontend in readable and ready:
                name = next(iter(ready))
                del ready[name]
                backend.send_multipart((name, *frontend.recv_multipart()))


def forward(endpoint: str, calls: int, size: int) -> Result:
    """All requests to the one worker, all answers back; each side is read until it is empty."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as frontend, context.socket(zmq.ROUTER) as backend:
        for socket in (frontend, backend):
            socket.sndhwm = socket.rcvhwm = 0  # a ROUTER drops what is over: that would be lost calls, not slow ones
        print("ready", frontend.bind("tcp://127.0.0.1:0").addr, backend.bind("tcp://127.0.0.1:0").addr, flush=True)
        name, *_ = backend.recv_multipart()
        both, beat_at = poller(backend, frontend), CLOCK() + HEARTBEAT_NS
        while True:
            readable = dict(both.poll(HEARTBEAT_MS))
            if backend in readable:
                drain(backend, lambda frames: frontend.send_multipart(frames[1:]) if len(frames) == 4 else None)
            if frontend in readable:
                drain(frontend, lambda frames: backend.send_multipart((name, *frames)))
            if CLOCK() >= beat_at:
                backend.send_multipart((name, HEARTBEAT))
                beat_at = CLOCK() + HEARTBEAT_NS


def poller(*sockets: Socket) -> zmq.Poller:
    made = zmq.Poller()
    for socket in sockets:
        made.register(socket, zmq.POLLIN)
    return made


def drain(socket: Socket, hand_on: Callable[[list[bytes]], Any]) -> None:
    try:
        while True:
            hand_on(socket.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        return


ROLES: dict[str, Callable[[str, int, int], Result]] = {
    role.__name__: role for role in (request, requests, echo, worker, queue, forward)
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))), flush=True)
