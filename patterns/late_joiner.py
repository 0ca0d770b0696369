"""Late joiner: somebody joins a map that many follow, while it changes.

The Guide's Clone subscribes on one socket and asks for a snapshot on another. Nothing orders these two connections: where the snapshot is
the faster, the updates between it and the subscription's arrival reach nobody, and the client, which passes over what is older than
its snapshot, cannot tell. (On one machine, with no link slower than the other, 5 to 48 of 200 joins lose updates so.) Here snapshot and
updates come on one link, and a piece of the snapshot is cut only when all updates before it have been told: the order of the link is the
order of the map.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import msgpack
import zmq

import zmqkit
from patterns.stage import Stage, Told, play, told

COUNTED = "joins"
JOINS = 10
KEYS = 101  # a prime, so that each key in turn is updated, and now and then deleted
UPDATES_PER_S = 2500
LATE_SECONDS = 0.05  # the link that comes up late
SEEN = 10  # updates after the snapshot; then the joiner's map is compared
Map = dict[str, int]


def updates() -> Iterator[tuple[int, str, int | None]]:
    """Number, key and value (None: deleted), each at its time; one that is late comes at once."""
    begin, number = time.monotonic(), 0
    while True:
        number += 1
        time.sleep(max(0.0, begin + number / UPDATES_PER_S - time.monotonic()))
        yield number, *update(number)


def update(number: int) -> tuple[str, int | None]:
    return f"key-{number * 37 % KEYS}", None if number % 7 == 0 else number


def truth(number: int) -> Map:
    """The map after that update: of each key only the newest counts, and those are the last ones."""
    newest = dict(map(update, range(max(1, number - KEYS + 1), number + 1)))
    return {key: value for key, value in newest.items() if value is not None}


def change(state: Map, key: str, value: int | None) -> None:
    state.pop(key, None)
    if value is not None:
        state[key] = value


def bare_server(say: Connection) -> None:
    context, state = zmq.Context(), Map()
    snapshots, publisher = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
    say.send([socket.bind("tcp://127.0.0.1:0").addr for socket in (snapshots, publisher)])
    for number, key, value in updates():
        change(state, key, value)
        publisher.send_multipart([key.encode(), msgpack.packb([number, value])])
        while snapshots.poll(0):
            peer, _ = snapshots.recv_multipart()
            snapshots.send_multipart([peer, msgpack.packb([number, state])])


def bare(stage: Stage) -> Told:
    snapshots, publisher = stage.start(bare_server).hear()
    publisher, took = stage.late_link(publisher, LATE_SECONDS), dict[int, float]()
    with zmq.Context() as context:
        for join in range(JOINS):
            begin = time.monotonic()
            with context.socket(zmq.DEALER) as snapshot, context.socket(zmq.SUB) as changes:
                changes.subscribe(b"")
                changes.connect(publisher)
                snapshot.connect(snapshots)
                snapshot.send(b"ICANHAZ?")
                last, state = msgpack.unpackb(snapshot.recv())
                for _ in range(SEEN):
                    key, body = changes.recv_multipart()
                    number, value = msgpack.unpackb(body)
                    if number > last:
                        last = number
                        change(state, key.decode(), value)
            if state == truth(last):
                took[join] = time.monotonic() - begin
    return told(JOINS, took)


def mended_server(say: Connection) -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        say.send(node.endpoint)
        topic = node.topic("map")
        for _, key, value in updates():
            topic.delete_soon(key) if value is None else topic.publish_soon(key, value)


def mended(stage: Stage, joins: int = JOINS) -> Told:
    endpoint, took = stage.late_link(stage.start(mended_server).hear(), LATE_SECONDS), dict[int, float]()
    for join in range(joins):
        begin, fold, seen = time.monotonic(), Map(), 0
        with zmqkit.connect(endpoint) as mq, mq.topic("map").subscribe() as sub:
            while seen < SEEN:
                event = sub.get(timeout=60.0)
                change(fold, event.key, None if event.deleted else event.value)
                seen += not event.from_snapshot
        # The link has ended: what `state` and `seq` say changes no more.
        if fold == truth(event.seq) and sub.state.copy() == truth(sub.seq):
            took[join] = time.monotonic() - begin
    return told(joins, took)


if __name__ == "__main__":
    play(COUNTED, bare, mended)
