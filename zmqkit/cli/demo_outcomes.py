"""What came of the calls in `zmqkit demo calls`, of one kind of them: counted, and held against what is promised."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from zmqkit.cli.demo_caller import ANSWERED, MAYBE, NO_WORKER, NOT_EXECUTED
from zmqkit.cli.demo_report import LeaseEnds, Start, repeats
from zmqkit.cli.notes import whole_lines

DEFINITE = {NO_WORKER, NOT_EXECUTED}  # who says so says that no worker has begun it
KNOWN = {ANSWERED, MAYBE, *DEFINITE}
SHOWN = 10  # numbers in a complaint


class Ended(NamedTuple):
    """One line of a caller's diary."""

    number: int
    outcome: str
    seconds: float


class Account(NamedTuple):
    """Numbers of calls, where they broke a promise; else how many."""

    calls: int
    outcomes: Counter[str]
    silent: list[int]  # no outcome
    contradicted: list[int]  # more than one
    odd: list[int]  # an outcome that nothing here explains
    gone: list[int]  # answered, and without effect
    denied: list[int]  # executed, and the caller was told that it was not
    doubled: Counter[str]  # executions after the first, by why the lease before it ended
    unexplained: list[int]  # executed again although no line of the node's log says that the lease had ended
    repeated: list[int]  # their effect is there twice
    slowest: float

    @property
    def lost(self) -> int:
        return len({*self.silent, *self.gone})

    def broken(self) -> list[str]:
        """Promises that were, in words."""
        texts = {
            "without an outcome": self.silent,
            "with two outcomes": self.contradicted,
            "with an outcome that no kill explains": self.odd,
            "answered, and their effect is not there": self.gone,
            "executed, and reported as not executed": self.denied,
            "executed twice, and nothing in the node's log explains it": self.unexplained,
            "whose effect is there twice": self.repeated,
        }
        return [f"{len(numbers)} calls {text}: {sorted(numbers)[:SHOWN]}" for text, numbers in texts.items() if numbers]


def read_outcomes(paths: Iterable[Path]) -> list[Ended]:
    found = []
    for path in paths:
        for line in whole_lines(path):
            number, outcome, seconds = line.split()
            found.append(Ended(int(number), outcome, float(seconds)))
    return found


def account(numbers: Iterable[int], ended: Iterable[Ended], starts: list[Start], effects: list[int], ends: LeaseEnds | None) -> Account:
    """`ends` None: no lease's end allows these calls a second execution."""
    numbers = set(numbers)
    told: dict[int, list[Ended]] = defaultdict(list)
    for entry in ended:
        if entry.number in numbers:
            told[entry.number].append(entry)
    last = {number: entries[-1].outcome for number, entries in told.items()}
    begun, done = Counter(start.seq for start in starts if start.seq in numbers), Counter(effects)
    again = repeats([start for start in starts if start.seq in numbers], ends or LeaseEnds("", ""), [])
    return Account(
        len(numbers),
        Counter(last.values()),
        [number for number in numbers if number not in told],
        [number for number, entries in told.items() if len(entries) > 1],
        [number for number, outcome in last.items() if outcome not in KNOWN],
        [number for number, outcome in last.items() if outcome == ANSWERED and not (begun[number] and done[number])],
        [number for number, outcome in last.items() if outcome in DEFINITE and begun[number]],
        again.causes,
        again.unexplained,
        [number for number in numbers if done[number] > 1],
        max((entry.seconds for entries in told.values() for entry in entries), default=0.0),
    )
