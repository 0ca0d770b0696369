"""The processes of `zmqkit bench queue`: `python -m zmqkit.cli.bench_roles ROLE ENDPOINT MESSAGES SIZE [KEYS]`.

Each uses the public API only. A consumer prints `ready` once it consumes; each role's last line is its result as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import zmqkit
from zmqkit.cli.bench_load import CLOCK, Tally, bodies, documents, percentiles

QUEUE = "bench"
IDLE_SECONDS_MAX = 5.0  # a consumer that got nothing for so long takes the rest for lost
SMALL_PUT_CLIENTS = 32
POLL_SECONDS = 0.0002
IDLE_CLIENTS = 100

Result = dict[str, Any]


def ready() -> None:
    print("ready", flush=True)


def connected() -> zmqkit.Client:
    return zmqkit.connect(sys.argv[2], keys=sys.argv[5] if len(sys.argv) > 5 else None)


def put_batches(mq: zmqkit.Client, messages: int, size: int) -> Result:
    begin = CLOCK()
    receipt = mq.queue(QUEUE).put_many(bodies(messages, size), timeout=None)
    return {"first_ns": begin, "last_ns": CLOCK(), "durability": receipt.durability}


def put_documents(mq: zmqkit.Client, messages: int, size: int) -> Result:
    begin, put_soon = CLOCK(), mq.queue(QUEUE).put_soon
    for body in documents(messages, size):
        last = put_soon(body)
    mq.flush(None)
    return {"first_ns": begin, "last_ns": CLOCK(), "durability": last.result().durability}


def put_lockstep(mq: zmqkit.Client, messages: int, size: int) -> Result:
    put, times = mq.queue(QUEUE).put, []
    begin = CLOCK()
    for body in bodies(messages, size):
        before = CLOCK()
        receipt = put(body)
        times.append(CLOCK() - before)
    return {"first_ns": begin, "last_ns": CLOCK(), "durability": receipt.durability, **percentiles(times)}


def put_small(mq: zmqkit.Client, messages: int, size: int) -> Result:
    """Puts of 1 to 8 messages: many clients, each of which waits for its confirm before it puts again."""
    begin, load, chance = CLOCK(), bodies(messages, size), random.Random(1)
    clients = [mq, *(connected() for _ in range(SMALL_PUT_CLIENTS - 1))]
    puts = [client.queue(QUEUE).put_soon for client in clients]
    waiting: dict[int, zmqkit.PutFuture] = {}
    over = False
    while not over:
        free = [number for number in range(len(puts)) if number not in waiting or waiting[number].done()]
        if not free:
            time.sleep(POLL_SECONDS)
        for number in free:
            futures = [puts[number](body) for body in islice(load, chance.randint(1, 8))]
            over = not futures
            if over:
                break
            waiting[number] = futures[-1]
    for client in clients:
        client.flush(None)
        client.close()
    return {"first_ns": begin, "last_ns": CLOCK(), "durability": "disk"}


def take_batches(mq: zmqkit.Client, messages: int, size: int) -> Result:
    tally, consumer = Tally(messages), mq.queue(QUEUE).consume_many(512, idle=IDLE_SECONDS_MAX)
    ready()
    for batch in consumer:
        with batch:
            tally.bodies(batch.bodies)
        if tally.count >= messages:
            break
    mq.flush(None)  # the clock stops when every ack has been answered
    return tally.result()


def take_documents(mq: zmqkit.Client, messages: int, size: int) -> Result:
    tally, consumer = Tally(messages), mq.queue(QUEUE).consume(idle=IDLE_SECONDS_MAX)
    handle = tally.document
    ready()
    for d in consumer:
        with d:
            handle(d.body)
        if tally.count >= messages:
            break
    mq.flush(None)
    return tally.result()


def take_singly(mq: zmqkit.Client, messages: int, size: int) -> Result:
    """Credit 1: this consumer never holds a second message. Several share the queue, so it ends when no more come."""
    tally, last = Tally(messages), CLOCK()
    consumer = mq.queue(QUEUE).consume(credit=1, idle=IDLE_SECONDS_MAX)
    ready()
    for d in consumer:
        with d:
            tally.bodies([d.body])
        last = CLOCK()
    mq.flush(None)
    return {**tally.result(), "last_ns": last}  # the waiting for a next one that did not come is not counted


def stay_idle(mq: zmqkit.Client, messages: int, size: int) -> Result:
    """Connected consumers with nothing to do, until this process is ended."""
    clients = [mq, *(connected() for _ in range(IDLE_CLIENTS - 1))]
    handles = [client.queue(QUEUE).work(lambda d: None, threads=1, block=False) for client in clients]
    ready()
    while handles:
        time.sleep(3600)
    return {}


ROLES: dict[str, Callable[[zmqkit.Client, int, int], Result]] = {
    role.__name__: role
    for role in (put_batches, put_documents, put_lockstep, put_small, take_batches, take_documents, take_singly, stay_idle)
}

if __name__ == "__main__":
    with connected() as client:
        print(json.dumps(ROLES[sys.argv[1]](client, int(sys.argv[3]), int(sys.argv[4]))), flush=True)
