"""One caller process of `zmqkit demo calls`: `python -m zmqkit.cli.demo_caller ENDPOINT DIARY FIRST STEP CALLS SECONDS`.

Makes calls number FIRST, FIRST + STEP, … below CALLS, evenly over SECONDS: odd ones with a key, even ones without. It keeps a diary of
outcomes, one line each: number, outcome, seconds. It ends when each call has one.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial

import zmqkit
from zmqkit.cli.demo_service import ORDER, VISIT
from zmqkit.cli.notes import Notes

CALL_SECONDS = 8.0
IN_FLIGHT_MAX = 100
WORK_SECONDS = 0.004  # before the effect of each call, and again after it

ANSWERED, WRONG, FAILED, NO_WORKER, NOT_EXECUTED, MAYBE = "answered", "wrong", "failed", "no-worker", "not-executed", "maybe-executed"


def keyed(number: int) -> bool:
    return number % 2 == 1


def outcome(future: zmqkit.CallFuture, number: int) -> str:
    """One word for what came of the call."""
    error = future.exception()
    if error is None:
        return ANSWERED if future.result() == number else WRONG
    if isinstance(error, zmqkit.NoWorker):
        return NO_WORKER
    if isinstance(error, zmqkit.Timeout):
        return MAYBE if error.maybe_executed else NOT_EXECUTED
    return FAILED


def call_all(endpoint: str, diary: Notes, numbers: range, seconds: float) -> None:
    room = threading.Semaphore(IN_FLIGHT_MAX)

    def ended(number: int, begun: float, future: zmqkit.CallFuture) -> None:
        diary.write(number, outcome(future, number), f"{time.monotonic() - begun:.6f}")
        room.release()

    with zmqkit.connect(endpoint, timeout=30.0) as mq:
        start = time.monotonic()
        for place, number in enumerate(numbers):
            time.sleep(max(0.0, start + seconds * place / len(numbers) - time.monotonic()))
            room.acquire()
            name, key = (ORDER, f"order-{number}") if keyed(number) else (VISIT, None)
            body = {"number": number, "seconds": WORK_SECONDS}
            future = mq.call_soon(name, body, timeout=CALL_SECONDS, idempotency_key=key)
            future.add_done_callback(partial(ended, number, time.monotonic()))
        for _ in range(IN_FLIGHT_MAX):
            room.acquire()


if __name__ == "__main__":
    node, notes, first, step, calls, span = sys.argv[1:]
    call_all(node, Notes(notes), range(int(first), int(calls), int(step)), float(span))
