"""What the processes of `zmqkit chaos` have in common: rows of numbers in their notes, and the pace of the work."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

JOBS_PER_S = 150
WORK_SECONDS = 0.004
SLOW_SECONDS = 0.25  # a job, of a slow worker


class Rows:
    """A file of `Notes`, read as it grows: each line a row of numbers."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._rows = path, 0, list[tuple[float, ...]]()

    def read(self) -> list[tuple[float, ...]]:
        """All that is whole."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._rows += [tuple(map(float, line.split())) for line in whole.splitlines()]
        return self._rows


def ready() -> None:
    """From now on signals are heard."""
    print("ready", flush=True)


def ordered() -> Iterator[int]:
    """The numbers of jobs to send, 0, 1, 2…, at their pace: each line of stdin asks for so many more."""
    number = 0
    ready()
    for line in sys.stdin:
        begin = time.monotonic()
        for place in range(int(line)):
            time.sleep(max(0.0, begin + place / JOBS_PER_S - time.monotonic()))
            yield number
            number += 1


class Work:
    """What a worker does with a job: it takes a while, and longer from SIGUSR1 to SIGUSR2."""

    def __init__(self) -> None:
        self._seconds = WORK_SECONDS
        signal.signal(signal.SIGUSR1, self._set)
        signal.signal(signal.SIGUSR2, self._set)

    def _set(self, number: int, frame: object) -> None:
        self._seconds = SLOW_SECONDS if number == signal.SIGUSR1 else WORK_SECONDS

    def do(self) -> float:
        """Returns the seconds that it was to take."""
        seconds = self._seconds
        time.sleep(seconds)
        return seconds
