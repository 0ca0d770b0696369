"""What both halves have in common: numbered updates, and the map that the first so many of them make."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, Process
from typing import Any

KEYS = 101  # a prime, so that each key in turn is updated, and now and then deleted
UPDATES_PER_S = 2500


def update(number: int) -> tuple[str, int | None]:
    """Key and value; None: the key is deleted."""
    return f"key-{number * 37 % KEYS}", None if number % 7 == 0 else number


def truth(number: int) -> dict[str, int]:
    """The map after that update: of each key only the newest counts, and those are the last ones."""
    newest = dict(map(update, range(max(1, number - KEYS + 1), number + 1)))
    return {key: value for key, value in newest.items() if value is not None}


def paced() -> Iterator[int]:
    """1, 2, 3… at their time; one that is late comes at once."""
    begin, number = time.monotonic(), 0
    while True:
        number += 1
        time.sleep(max(0.0, begin + number / UPDATES_PER_S - time.monotonic()))
        yield number


def begun(target: Callable[..., None], *arguments: Any) -> Any:
    """Run it in a process of its own, which ends with ours; what it says when it is ready."""
    ours, theirs = Pipe()
    Process(target=target, args=(theirs, *arguments), daemon=True).start()
    return ours.recv()


def run(join: Callable[[], tuple[bool, bool, int]]) -> None:
    """Let clients join, as many as the command line says. `join`: is the client's map one that was; has it missed nothing without a
    word; the number of the newest update that it has."""
    joins, diverged, gaps, first, last, begin = int((sys.argv[1:] or ["200"])[0]), 0, 0, 0, 0, time.monotonic()
    for _ in range(joins):
        right, unbroken, last = join()
        diverged, gaps, first = diverged + (not right), gaps + (not unbroken), first or last
    rate = (last - first) / (time.monotonic() - begin)
    print(f"joins {joins}  diverged {diverged}  undetected gaps {gaps}  at {rate:,.0f} updates/s")
