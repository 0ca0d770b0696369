"""Durable queue: the process in the middle is killed with messages in flight.

PUSH takes a message as soon as there is room for it: in its own memory, on the wire, in the memory of the process in the middle. Sent
means nothing; with that process all it holds is gone, and neither side is told. Here `put` returns when the message is on the node's
disk, and the next node on that journal delivers it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from multiprocessing.connection import Connection

import zmq

import zmqkit
from patterns.stage import Actor, Stage, Told, play, told, words

COUNTED = "messages"
MESSAGES = 100
LAST = MESSAGES - 1  # sent after the restart: whoever gets it gets nothing of before any more


def bare_middle(say: Connection, front: str, back: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        say.send([pull.bind(front).addr, push.bind(back).addr])
        while True:
            message = pull.recv()
            say.send("something in hand")
            push.send(message)


def bare_worker(say: Connection, back: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.connect(back)
        while True:
            say.send(int(socket.recv()))


def done(worker: Actor, sent: dict[int, float]) -> Told:
    took, effects = dict[int, float](), list[int]()
    for number in words(worker):
        took[number] = time.monotonic() - sent[number]
        effects.append(number)
        if number == LAST:
            return told(len(sent), took, effects)
    raise EOFError


def bare(stage: Stage) -> Told:
    middle, sent = stage.start(bare_middle, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"), dict[int, float]()
    front, back = middle.hear()
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 0
        socket.connect(front)
        for number in range(LAST):
            socket.send(b"%d" % number)
            sent[number] = time.monotonic()
        middle.hear()  # it has the first, and nobody to give it to
        middle.kill()
        stage.start(bare_middle, front, back).hear()
        socket.send(b"%d" % LAST)
        sent[LAST] = time.monotonic()
        return done(stage.start(bare_worker, back), sent)


def mended_middle(say: Connection, endpoint: str, journal: str) -> None:
    with zmqkit.Node(endpoint, journal=journal) as node:
        say.send(node.endpoint)
        threading.Event().wait()


def mended_worker(say: Connection, endpoint: str) -> None:
    with zmqkit.connect(endpoint) as mq:
        for delivery in mq.queue("jobs").consume():
            with delivery:
                say.send(delivery.body)


def mended(stage: Stage) -> Told:
    with tempfile.TemporaryDirectory() as journal:
        middle = stage.start(mended_middle, "tcp://127.0.0.1:0", journal)
        endpoint = middle.hear()
        with zmqkit.connect(endpoint) as mq:
            mq.queue("jobs").put_many(range(LAST), timeout=60.0)
            sent = dict.fromkeys(range(LAST), time.monotonic())
            middle.kill()
            stage.start(mended_middle, endpoint, journal).hear()
            mq.queue("jobs").put(LAST, timeout=60.0)
            sent[LAST] = time.monotonic()
        return done(stage.start(mended_worker, endpoint), sent)


if __name__ == "__main__":
    play(COUNTED, bare, mended)
