"""What happened in `zmqkit demo queue`: diaries and the node's log read back, and the table at the end.

A job that was started twice must have a line in the node's log that says when and why its first lease ended.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

LEASE_ENDED = re.compile(r"lease ended queue=(\S+) token=(\d+) messages=(\d+)-(\d+) cause=(\S+)")


class Start(NamedTuple):
    """One line of a diary: a worker was about to do job `seq` under lease `token`."""

    seq: int
    token: int
    at: float


class Repeats(NamedTuple):
    causes: Counter[str]  # of executions after the first, by why the lease before it ended
    unexplained: list[int]  # seqs that ran again although no line says that their lease had ended
    slowest_seconds: float  # from the kill (or the first start, if later) to the next start


def read_diaries(paths: Iterable[Path]) -> list[Start]:
    starts = []
    for path in paths:
        for line in path.read_text().split("\n")[:-1]:  # what follows the last newline was cut off by a kill
            seq, token, at = line.split()
            starts.append(Start(int(seq), int(token), float(at)))
    return sorted(starts, key=lambda start: start.at)


def read_lease_ends(log: Path, queue: str) -> dict[int, list[tuple[range, str]]]:
    """token -> the ranges of messages that it lost, each with its cause."""
    ends: dict[int, list[tuple[range, str]]] = defaultdict(list)
    for match in LEASE_ENDED.finditer(log.read_text(errors="replace")):
        if match[1] == queue:
            ends[int(match[2])].append((range(int(match[3]), int(match[4]) + 1), match[5]))
    return ends


def repeats(starts: list[Start], ends: dict[int, list[tuple[range, str]]], kills: list[float]) -> Repeats:
    by_seq: dict[int, list[Start]] = defaultdict(list)
    for start in starts:
        by_seq[start.seq].append(start)
    causes: Counter[str] = Counter()
    unexplained, slowest = [], 0.0
    for seq, executions in by_seq.items():
        for before, after in pairwise(executions):
            cause = next((cause for messages, cause in ends.get(before.token, []) if seq in messages), None)
            if cause is None:
                unexplained.append(seq)
            else:
                causes[cause] += 1
            since = max([before.at, *(kill for kill in kills if kill <= after.at)])
            slowest = max(slowest, after.at - since)
    return Repeats(causes, sorted(unexplained), slowest)
