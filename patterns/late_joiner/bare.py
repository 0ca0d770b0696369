"""Late joiners on plain ZeroMQ, as the Guide's Clone does it: updates from a SUB socket, the snapshot from a DEALER.

`python patterns/late_joiner/bare.py [JOINS]`. Two connections have no common order: the snapshot may be taken before the subscription
has arrived, and what is published in between reaches nobody. The client cannot tell: it waits for no number in particular.
"""

from __future__ import annotations

import json
from functools import partial
from multiprocessing.connection import Connection

import zmq
from workload import begun, paced, run, truth, update

UPDATES_SEEN = 10  # after the snapshot; then the joiner is compared


def publish(ready: Connection, collector: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(collector)
        ready.send(None)
        for number in paced():
            key, value = update(number)
            socket.send_multipart([key.encode(), json.dumps(value).encode()])


def serve(ready: Connection) -> None:
    """Number what publishers push, tell it to all, and answer who asks for a snapshot."""
    context, state, number = zmq.Context(), dict[bytes, bytes](), 0
    snapshots, updates, collector = sockets = [context.socket(kind) for kind in (zmq.ROUTER, zmq.PUB, zmq.PULL)]
    ready.send([socket.bind("tcp://127.0.0.1:0").addr for socket in sockets])
    poller = zmq.Poller()
    poller.register(snapshots, zmq.POLLIN)
    poller.register(collector, zmq.POLLIN)
    while True:
        waiting = dict(poller.poll())
        if collector in waiting:
            key, value = collector.recv_multipart()
            number += 1
            updates.send_multipart([key, b"%d" % number, value])
            state[key] = value
        if snapshots in waiting:
            peer, _ = snapshots.recv_multipart()
            for key, value in state.items():
                snapshots.send_multipart([peer, key, b"%d" % number, value])
            snapshots.send_multipart([peer, b"KTHXBAI", b"%d" % number, b""])


def join(context: zmq.Context[zmq.Socket[bytes]], snapshots: str, publisher: str) -> tuple[bool, bool, int]:
    """A client that has just joined, as `run` wants it."""
    state: dict[str, int] = {}
    with context.socket(zmq.DEALER) as snapshot, context.socket(zmq.SUB) as updates:
        snapshot.connect(snapshots)
        updates.subscribe(b"")
        updates.connect(publisher)
        snapshot.send(b"ICANHAZ?")
        while (frames := snapshot.recv_multipart())[0] != b"KTHXBAI":
            if (value := json.loads(frames[2])) is not None:
                state[frames[0].decode()] = value
        numbers = [int(frames[1])]
        while len(numbers) <= UPDATES_SEEN:
            key, number, held = updates.recv_multipart()
            if int(number) > numbers[-1]:  # what the snapshot has already is passed over
                numbers.append(int(number))
                state.pop(key.decode(), None)
                if (value := json.loads(held)) is not None:
                    state[key.decode()] = value
    return state == truth(numbers[-1]), numbers[1] == numbers[0] + 1, numbers[-1]


if __name__ == "__main__":
    *endpoints, collector = begun(serve)
    begun(publish, collector)
    with zmq.Context() as ours:
        run(partial(join, ours, *endpoints))
