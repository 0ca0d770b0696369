"""Fair share: of two workers one is slow.

PUSH deals its messages out in turn, as fast as they come: half of the work waits behind the slow worker while the fast one has nothing to
do. Here a worker says how much it wants; what it has not asked for goes to whoever asks.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import zmq

import zmqkit
from patterns.stage import Actor, Stage, Told, play, told, words

COUNTED = "messages"
MESSAGES = 40
WORK_SECONDS = {"fast": 0.001, "slow": 0.1}


def bare_worker(say: Connection, work_seconds: float) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        say.send(socket.bind("tcp://127.0.0.1:0").addr)
        while True:
            number = int(socket.recv())
            time.sleep(work_seconds)
            say.send(number)


def done(workers: list[Actor], begin: float) -> Told:
    took = dict[int, float]()
    for number in words(*workers):
        assert number not in took, "it was given twice"
        took[number] = time.monotonic() - begin
        if len(took) == MESSAGES:
            break
    return told(MESSAGES, took, took)


def bare(stage: Stage) -> Told:
    workers = [stage.start(bare_worker, seconds) for seconds in WORK_SECONDS.values()]
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        for worker in workers:
            socket.connect(worker.hear())
        begin = time.monotonic()
        for number in range(MESSAGES):
            socket.send(b"%d" % number)
        return done(workers, begin)


def mended_worker(say: Connection, work_seconds: float, endpoint: str) -> None:
    with zmqkit.connect(endpoint) as mq:
        say.send("ready")
        for delivery in mq.queue("jobs").consume():
            with delivery:
                time.sleep(work_seconds)
                say.send(delivery.body)


def mended(stage: Stage) -> Told:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        workers = [stage.start(mended_worker, seconds, node.endpoint) for seconds in WORK_SECONDS.values()]
        for worker in workers:
            worker.hear()
        begin = time.monotonic()
        node.queue("jobs").put_many(range(MESSAGES))
        return done(workers, begin)


if __name__ == "__main__":
    play(COUNTED, bare, mended)
