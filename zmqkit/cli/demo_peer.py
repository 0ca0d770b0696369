"""One peer of `zmqkit demo peers`: `python -m zmqkit.cli.demo_peer TEAM NUMBER PEERS JOBS PLACE`: its own node, and a worker for all.

It is what a user would write, plus files that are still there after a kill -9: which of its jobs are confirmed, and one line
before each execution and one behind it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from pathlib import Path

import zmqkit
from zmqkit.cli.demo_jobs import Job, do, stdlib_jobs
from zmqkit.cli.notes import Notes, whole_lines

QUEUE = "demo.jobs"
LEASE_SECONDS = 10.0  # a job takes milliseconds; renewed while it runs
PAUSE_SECONDS = 0.02  # between two jobs of one peer: work comes in while peers come and go


def peer(team: str, number: int, peers: int, jobs: int, place: Path) -> None:
    logging.basicConfig(filename=place / f"node-{number}.log", level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with (
        zmqkit.Node("tcp://127.0.0.1:0", journal=str(place / f"journal-{number}"), name=team, announce=True) as node,
        zmqkit.connect(f"mdns:{team}", timeout=30.0) as mq,
    ):
        own, over = stdlib_jobs()[number::peers], threading.Event()
        producer = threading.Thread(target=produce, args=(node, number, [own[index % len(own)] for index in range(jobs)], place, over))
        consumer = mq.queue(QUEUE).consume(lease=LEASE_SECONDS, on_stale=lambda error: None)

        def stop(signum: int, frame: object) -> None:
            over.set()
            consumer.stop()

        signal.signal(signal.SIGTERM, stop)
        print("ready", node.id, flush=True)
        producer.start()
        begun, done = Notes(place / f"begun-{number}"), Notes(place / f"done-{number}")
        for d in consumer:
            begun.write(d.body["job"], d.node, d.seq, d.token, f"{time.time():.6f}")
            with contextlib.suppress(zmqkit.StaleLease), d:
                result = do(d.body)
                done.write(d.body["job"], result["bytes"])  # first the result, then, leaving `with`, the ack
        producer.join()


def produce(node: zmqkit.Node, number: int, jobs: list[Job], place: Path, over: threading.Event) -> None:
    """Goes on where a killed predecessor's notes end; what that one had put and not noted yet is there twice."""
    queue, confirmed = node.queue(QUEUE), place / f"confirmed-{number}"
    known = len(whole_lines(confirmed)) if confirmed.exists() else 0
    notes = Notes(confirmed)
    for index, job in enumerate(jobs[known:], known):
        name = f"{number}:{index}"
        queue.put({"job": name, **job}, timeout=None)
        notes.write(name)
        if over.wait(PAUSE_SECONDS):
            return


if __name__ == "__main__":
    peer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
