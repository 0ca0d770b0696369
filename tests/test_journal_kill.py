"""kill -9, for real: a child appends and reports what is durable over a pipe until it is killed; the next one goes on.

In memory if there is a file system for it: what a process wrote outlives it there as well, and syncs cost nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from zmqkit.journal import Item, Journal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

SEGMENT_BYTES = 64 << 10


def payload_at(position: int) -> bytes:
    """Tells by itself whether a record is the one that belongs at its position."""
    return b"%d " % position * (position * 7 % 300)


def recover(path: str) -> tuple[Journal, int]:
    """The journal, checked: every record is there and the right one, up to the number returned."""
    journal = Journal(path, segment_bytes=SEGMENT_BYTES, cache_bytes=1000)
    count = 0
    for entry in journal.replay():
        if not entry.position:
            count = int(bytes(entry.payload))
            continue
        count += 1
        assert entry.position == count
        assert entry.payload == payload_at(count)
    assert count == journal.last
    return journal, count


def work(path: str, pipe: int, seed: int) -> None:
    """Append, now waited for and now not, with checkpoints, and report each durable position."""
    random = Random(seed)
    journal, last = recover(path)
    journal.retain(range(max(1, last - 20), last + 1))
    moved = threading.Condition()

    def report() -> None:
        os.write(pipe, journal.durable.to_bytes(8, "little"))
        with moved:
            moved.notify()

    def failed(error: Exception) -> None:
        os.write(2, repr(error).encode())
        os._exit(3)

    journal.start(report, failed)
    while True:
        count = random.randint(1, 5)
        last = journal.append([Item(1, [payload_at(last + n)], True) for n in range(1, count + 1)], waited=random.random() < 0.8)
        if journal.wants_checkpoint or random.random() < 0.01:
            journal.checkpoint([Item(2, [b"%d" % last])])
        with moved:
            moved.wait_for(lambda: last - journal.durable < 50)  # noqa: B023
        if last > 40:
            journal.release(range(max(1, last - 60), last - 40))


def killed_after(path: str, seed: int) -> int:
    """Run a child, kill it at a random moment; returns the last position it reported as durable."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            work(path, write, seed)
        except BaseException as error:
            sys.stderr.write(repr(error))
        os._exit(2)
    os.close(write)
    acknowledged = 0
    reports = reports_from(read)
    for _ in range(Random(seed).randint(1, 150)):
        acknowledged = next(reports, acknowledged)
    os.kill(child, signal.SIGKILL)
    acknowledged = max([acknowledged, *reports])  # what was in the pipe was promised too
    os.close(read)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return acknowledged


def reports_from(pipe: int) -> Iterator[int]:
    while data := os.read(pipe, 8):
        yield int.from_bytes(data, "little")


def rounds(path: Path, count: int) -> None:
    last = 0
    for seed in range(count):
        acknowledged = killed_after(str(path), seed)
        journal, recovered = recover(str(path))
        assert recovered >= acknowledged and recovered >= last, seed
        journal.close()
        last = recovered
    assert last > count


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def test_a_killed_process_loses_nothing_it_reported(fast_path: Path) -> None:
    rounds(fast_path, 40)


@pytest.mark.gate
@pytest.mark.timeout(600)
def test_a_killed_process_loses_nothing_it_reported_in_2000_rounds(fast_path: Path) -> None:
    rounds(fast_path, 2000)
