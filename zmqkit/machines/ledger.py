"""Ledger: answers to numbered requests, kept until the asker says that it has them.

A request may come again after a lost link. It is never done twice: its first answer, and the position that answer waits
for, are given again until the asker's `base` (its lowest unanswered number) passes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

ANSWERS_MAX = 1000  # kept for one asker


class Entry(NamedTuple):
    result: Any
    after: int


class Ledger:
    __slots__ = ("_answers", "base")

    def __init__(self) -> None:
        self.base = 1
        self._answers: dict[int, Entry] = {}

    def advance(self, base: int) -> None:
        if base > self.base:
            self.base = base
            self._answers = {number: entry for number, entry in self._answers.items() if number >= base}

    @property
    def full(self) -> bool:
        return len(self._answers) >= ANSWERS_MAX

    def find(self, number: int) -> Entry | None:
        return self._answers.get(number)

    def keep(self, number: int, result: Any, after: int) -> None:
        self._answers[number] = Entry(result, after)
