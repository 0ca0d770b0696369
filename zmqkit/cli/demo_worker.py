"""One worker process of `zmqkit demo queue`: `python -m zmqkit.cli.demo_worker ENDPOINT JOBS RESULTS DIARY`.

It is what a user would write, plus a diary: one line before each job is started, written straight to the file, so
that it is still there after a kill -9. The diaries tell afterwards which job ran twice.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time

import zmqkit
from zmqkit.cli.demo_jobs import do
from zmqkit.cli.notes import Notes

LEASE_SECONDS = 10.0  # a job takes milliseconds; renewed while it runs


def work(endpoint: str, jobs: str, results: str, diary: Notes) -> None:
    with zmqkit.connect(endpoint, timeout=30.0) as mq:
        done = mq.queue(results)
        # A late word that an ack came too late changes nothing here: results are counted once per job.
        consumer = mq.queue(jobs).consume(lease=LEASE_SECONDS, on_stale=lambda error: None)
        signal.signal(signal.SIGTERM, lambda number, frame: consumer.stop())
        for d in consumer:
            diary.write(d.seq, d.token, f"{time.time():.6f}")
            with contextlib.suppress(zmqkit.StaleLease), d:
                done.put({"seq": d.seq, "result": do(d.body)}, timeout=None)  # first the result, durably; then, leaving `with`, the ack


if __name__ == "__main__":
    node, job_queue, result_queue, path = sys.argv[1:]
    work(node, job_queue, result_queue, Notes(path))
