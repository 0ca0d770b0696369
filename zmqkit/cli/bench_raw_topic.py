"""What topics are compared with: PUB and SUB in plain pyzmq, carrying the same batches in the same frames, encoded and decoded.

`python -m zmqkit.cli.bench_raw_topic ROLE ENDPOINT MESSAGES SIZE KEYS SUBSCRIBERS`. No high-water mark, and the publisher begins when
every subscriber is known to it: so nothing is lost that a table would have to explain. Nothing is stored, confirmed or compared.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

import zmq

from zmqkit import framing, wire
from zmqkit.cli.bench_load import CLOCK
from zmqkit.cli.bench_updates import sequence, updates
from zmqkit.codec import packer, unpack
from zmqkit.handles.topic import Pairs
from zmqkit.parcel import FULL_BYTES, PARCEL_MESSAGES_MAX, Buffer, Parcel
from zmqkit.updates import Updates

Result = dict[str, Any]
Pair = tuple[str, bytes]
Frames = Sequence[Buffer]
DRAIN_MAX = 100  # messages of one subscriber before the next has its turn


def batched(pairs: Iterator[Pair]) -> Iterator[Frames]:
    """In batches as large as those of `publish_many`, and encoded by the same code."""
    encoded, count, first = Pairs(None, None).encoded, 64, 1
    while chunk := list(islice(pairs, count)):
        parcel = Parcel.of(encoded(chunk, packer()))
        yield framing.encode(wire.Live(1, first - 1, first, parcel.count, b"", parcel.count, parcel))
        first += parcel.count
        count = max(1, min(PARCEL_MESSAGES_MAX, FULL_BYTES * parcel.count // len(parcel.body) + 1))


def singly(pairs: Iterator[Pair]) -> Iterator[Frames]:
    """Key and value, each update by itself."""
    pack = packer()
    return ([key.encode(), pack(value)] for key, value in pairs)


def count_batch(frames: list[bytes]) -> int:
    live = framing.decode(frames)
    assert isinstance(live, wire.Live)
    return len(Updates.read(live.parcel).keys)


def count_single(frames: list[bytes]) -> int:
    key, value = frames
    key.decode()
    unpack(value)
    return 1


def publish(framed: Callable[[Iterator[Pair]], Iterator[Frames]], messages: int, size: int, keys: int, subscribers: int) -> Result:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.XPUB_VERBOSE, 1)  # the same subscription of another subscriber is told, too
        print("ready", socket.bind("tcp://127.0.0.1:0").addr, flush=True)
        pairs = updates(sequence(keys, messages), size)
        for _ in repeat(None, subscribers):
            socket.recv()
        begin, cpu = CLOCK(), time.process_time()
        for frames in framed(pairs):
            socket.send_multipart(frames)
        end = CLOCK()
    return {"first_ns": begin, "last_ns": end, "cpu_s": time.process_time() - cpu}


def follow(counted: Callable[[list[bytes]], int], endpoint: str, messages: int, subscribers: int) -> Result:
    left: dict[Any, int] = {}
    with zmq.Context() as context:
        poller = zmq.Poller()
        for _ in range(subscribers):
            socket = context.socket(zmq.SUB)
            socket.set(zmq.RCVHWM, 0)
            socket.set(zmq.SUBSCRIBE, b"")
            socket.connect(endpoint)
            left[socket] = messages
            poller.register(socket, zmq.POLLIN)
        cpu = time.process_time()
        while left:
            for socket, _ in poller.poll():
                for _ in repeat(None, DRAIN_MAX):
                    try:
                        left[socket] -= counted(socket.recv_multipart(zmq.NOBLOCK))
                    except zmq.Again:
                        break
                    if not left[socket]:
                        del left[socket]
                        poller.unregister(socket)
                        socket.close()
                        break
        return {"last_ns": CLOCK(), "cpu_s": time.process_time() - cpu}


ROLES: dict[str, Callable[[str, int, int, int, int], Result]] = {
    "pub_batched": lambda endpoint, messages, size, keys, subscribers: publish(batched, messages, size, keys, subscribers),
    "pub_singly": lambda endpoint, messages, size, keys, subscribers: publish(singly, messages, size, keys, subscribers),
    "sub_batched": lambda endpoint, messages, size, keys, subscribers: follow(count_batch, endpoint, messages, subscribers),
    "sub_singly": lambda endpoint, messages, size, keys, subscribers: follow(count_single, endpoint, messages, subscribers),
}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:7]))), flush=True)
