"""What zmqkit is compared with: plain pyzmq carrying the same frames, encoded and decoded, and plain append + fdatasync.

`python -m zmqkit.cli.bench_raw ROLE ENDPOINT MESSAGES SIZE`; the only file of the command line that opens sockets itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import zmq

from zmqkit import framing, wire
from zmqkit.cli.bench_load import CHUNK_MESSAGES, CLOCK, Tally, bodies, documents, percentiles
from zmqkit.codec import packer, unpack_all
from zmqkit.parcel import Buffer, Parcel

Result = dict[str, Any]


def encode(messages: Sequence[Any], first: int) -> list[Buffer]:
    pack = packer()
    return framing.encode(wire.Put("bench", first, len(messages), 1, Parcel.of([pack(message) for message in messages])))


def decode(frames: list[bytes]) -> list[Any]:
    put = framing.decode(frames)
    assert isinstance(put, wire.Put)
    return unpack_all(put.count, put.parcel.body)


def lists(messages: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(islice(messages, CHUNK_MESSAGES)):
        yield chunk


def push(endpoint: str, load: Iterator[list[Any]]) -> Result:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(endpoint)
        begin, first = CLOCK(), 1
        for messages in load:
            socket.send_multipart(encode(messages, first))
            first += len(messages)
        end = CLOCK()
    return {"first_ns": begin, "last_ns": end}


def pull(endpoint: str, messages: int, note: Callable[[Tally, list[Any]], None]) -> Result:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        print("ready", socket.bind("tcp://127.0.0.1:0").addr, flush=True)
        tally = Tally(messages)
        while tally.count < messages:
            note(tally, decode(socket.recv_multipart()))
    return tally.result()


def note_documents(tally: Tally, received: list[Any]) -> None:
    for document in received:
        tally.document(document)


def echo(endpoint: str, messages: int, size: int) -> Result:
    """Answers each put with a confirm, at once and with nothing stored."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        print("ready", socket.bind("tcp://127.0.0.1:0").addr, flush=True)
        for _ in range(messages):
            peer, *frames = socket.recv_multipart()
            put = framing.decode(frames)
            assert isinstance(put, wire.Put)
            socket.send_multipart([peer, *framing.encode(wire.Confirm("bench", put.first, put.count, put.first, "memory"))])
    return {}


def round_trips(endpoint: str, messages: int, size: int) -> Result:
    times = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        for number, body in enumerate(bodies(messages, size), 1):
            begin = CLOCK()
            socket.send_multipart(encode([body], number))
            framing.decode(socket.recv_multipart())
            times.append(CLOCK() - begin)
    return percentiles(times)


def appends(directory: Path, messages: int, size: int) -> list[int]:
    """Nanoseconds of each write + fdatasync of one message's frame at the end of an ordinary file."""
    path, times = directory / "appends", []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for number, body in enumerate(bodies(messages, size), 1):
            record = b"".join(encode([body], number))
            begin = CLOCK()
            os.write(file, record)
            os.fdatasync(file)
            times.append(CLOCK() - begin)
    finally:
        os.close(file)
        path.unlink()
    return times


ROLES: dict[str, Callable[[str, int, int], Result]] = {
    "push_bodies": lambda endpoint, messages, size: push(endpoint, lists(bodies(messages, size))),
    "push_documents": lambda endpoint, messages, size: push(endpoint, lists(documents(messages, size))),
    "pull_bodies": lambda endpoint, messages, size: pull(endpoint, messages, Tally.bodies),
    "pull_documents": lambda endpoint, messages, size: pull(endpoint, messages, note_documents),
    "echo": echo,
    "round_trips": round_trips,
}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))), flush=True)
