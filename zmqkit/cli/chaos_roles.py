"""One producer or worker process of `zmqkit chaos` on zmqkit: `python -m zmqkit.cli.chaos_roles produce|work ENDPOINT PLACE NUMBER`.

Both are what a user would write, plus notes in PLACE: of a job handed to `put` and of its confirm, of the start and the end of each
execution.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import zmqkit
from zmqkit.cli.chaos_notes import Work, ordered, ready
from zmqkit.cli.notes import Notes

QUEUE = "chaos"
LEASE_SECONDS = 2.0  # renewed while a job runs, but not by a frozen process
CONNECT_SECONDS = 60.0
AGAIN_SECONDS = 0.2  # after a refusal


def produce(endpoint: str, place: Path) -> None:
    handed, confirmed, refused = (Notes(place / name) for name in ("handed", "sent", "refused"))
    with zmqkit.connect(endpoint, timeout=CONNECT_SECONDS) as mq:
        queue = mq.queue(QUEUE)

        def put(number: int) -> None:
            queue.put_soon(number).add_done_callback(partial(told, number))

        def told(number: int, future: zmqkit.PutFuture) -> None:
            error = future.exception()
            if isinstance(error, zmqkit.DiskFull):
                refused.write(number, time.monotonic())
                threading.Timer(AGAIN_SECONDS, put, [number]).start()
            elif error is None:
                confirmed.write(number, future.result().seq, time.monotonic())

        for number in ordered():
            handed.write(number, time.monotonic())
            put(number)


def work(endpoint: str, place: Path, name: str) -> None:
    begun, done, job = Notes(place / f"begun-{name}"), Notes(place / f"done-{name}"), Work()
    with zmqkit.connect(endpoint, timeout=CONNECT_SECONDS) as mq:
        # One at a time: jobs that were taken ahead would wait for a worker that suddenly is slow.
        consumer = mq.queue(QUEUE).consume(credit=1, lease=LEASE_SECONDS, on_stale=lambda error: None)
        signal.signal(signal.SIGTERM, lambda number, frame: consumer.stop())
        ready()
        for d in consumer:
            begun.write(d.seq, d.token, time.monotonic())
            with contextlib.suppress(zmqkit.StaleLease), d:
                seconds = job.do()
                done.write(d.body, d.seq, time.monotonic(), seconds)


if __name__ == "__main__":
    role, node, directory, own = sys.argv[1:]
    produce(node, Path(directory)) if role == "produce" else work(node, Path(directory), own)
