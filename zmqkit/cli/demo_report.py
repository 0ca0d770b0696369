"""What happened in a demo: diaries and the node's log read back.

A job or call that was started twice must have a line in the node's log that says when and why its first lease ended.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from zmqkit.cli.notes import whole_lines

# A lease whose record was not on disk yet when the node was killed ends with it, and the next start says up to which token it knows.
UNWRITTEN = re.compile(r"restarted epoch=(\d+) .* above token=(\d+) ended unwritten")
TOKEN_COUNTER_BITS = 40  # above them stands the epoch
LEASE_ENDED = re.compile(r"lease ended queue=(\S+) token=(\d+) messages=(\d+)-(\d+) cause=(\S+)")


CALLS = "service:"  # stands before a service's name where a queue's could stand


class Start(NamedTuple):
    """One line of a diary: a worker was about to do job (or call) `seq` under lease `token`."""

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
        for line in whole_lines(path):
            seq, token, at = line.split()
            starts.append(Start(int(seq), int(token), float(at)))
    return sorted(starts, key=lambda start: start.at)


class LeaseEnds:
    """What the node's log says of leases of `queue` (or service:NAME) that ended unplanned."""

    def __init__(self, log: str, queue: str) -> None:
        self._of_calls = queue.startswith(CALLS)
        self._told: dict[int, list[tuple[range, str]]] = defaultdict(list)
        for match in LEASE_ENDED.finditer(log):
            if match[1] == queue:
                self._told[int(match[2])].append((range(int(match[3]), int(match[4]) + 1), match[5]))
        self._unwritten = [(int(epoch), int(token)) for epoch, token in UNWRITTEN.findall(log)]

    def cause(self, start: Start) -> str | None:
        """Why the lease under which this execution began has ended; None if the log does not say that it has."""
        for messages, cause in self._told.get(start.token, []):
            if start.seq in messages or self._of_calls:  # those are numbered by their caller; one with a key comes alone
                return cause
        epoch = start.token >> TOKEN_COUNTER_BITS
        if self._of_calls:  # leases of calls are in no journal: all end with the node
            return "node-killed" if any(epoch < later for later, _ in self._unwritten) else None
        return "unwritten" if any(epoch < later and start.token > known for later, known in self._unwritten) else None


def repeats(starts: list[Start], ends: LeaseEnds, kills: list[float]) -> Repeats:
    by_seq: dict[int, list[Start]] = defaultdict(list)
    for start in starts:
        by_seq[start.seq].append(start)
    causes: Counter[str] = Counter()
    unexplained, slowest = [], 0.0
    for seq, executions in by_seq.items():
        for before, after in pairwise(executions):
            cause = ends.cause(before)
            if cause is None:
                unexplained.append(seq)
            else:
                causes[cause] += 1
            since = max([before.at, *(kill for kill in kills if kill <= after.at)])
            slowest = max(slowest, after.at - since)
    return Repeats(causes, sorted(unexplained), slowest)
