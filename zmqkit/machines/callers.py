"""What a node keeps for one caller: its calls without an outcome, and the answers it may not have.

Rule 1 (R-C1)  A number that comes again is never dispatched again. Its answer, if there is one, is among the REPLYs kept.
Rule 2         REPLYs to one caller are numbered and kept until it says that they have come; a new link begins with those
               it lacks. So one long call holds up no memory of the others', as a lowest unanswered number would.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from typing import NamedTuple

from zmqkit.machines.account import Account
from zmqkit.machines.replies import Answer
from zmqkit.machines.service import Job
from zmqkit.parcel import Parcel
from zmqkit.wire import Call, Kind, Part, Refused, Reply

RETRY_SECONDS = 0.1  # a refused caller may ask again after that
SERIAL_MAX = 2**62  # no caller has had so many REPLYs, and the numbers after it must fit their field too


class Budget:
    """Bytes that a node keeps of calls: bodies that wait or run, answers and parts that may have to be told again."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Told(NamedTuple):
    reply: Reply
    jobs: list[Job]  # it is about these


class Kept:
    """Parts of a streamed answer that the caller may not have."""

    __slots__ = ("_budget", "allowed", "last", "parts", "got")  # noqa: RUF023 — in the order of their meaning

    def __init__(self, allowed: int, budget: Budget) -> None:
        self._budget = budget
        self.allowed = allowed  # the worker may send so many in all
        self.last = 0  # the newest one that came from the worker
        self.got = 0  # the caller has all up to this one
        self.parts: deque[Part] = deque()

    def take(self, first: int, parcel: Parcel, number: int) -> Part | None:
        """A PART of the worker's, as it goes on to the caller; None if something is missing before it, or it is not allowed."""
        new = first + parcel.count - 1 - self.last
        if first > self.last + 1 or self.last + new > self.allowed:
            return None
        part = Part(number, 0, self.last + 1, new, parcel.split(parcel.count - new, new))
        self.last += new
        self.parts.append(part)
        self._budget.used += len(part.parcel.body)
        return part

    def arrived(self, got: int) -> None:
        self.got = max(self.got, min(got, self.last))
        while self.parts and self.parts[0].first + self.parts[0].count - 1 <= self.got:
            self._budget.used -= len(self.parts.popleft().parcel.body)


class Caller:
    __slots__ = ("_budget", "_firsts", "account", "answered", "answers", "client", "jobs", "kept", "open", "relinked", "replied", "serial",
                 "unread")  # fmt: skip

    def __init__(self, client: bytes, account: Account, budget: Budget) -> None:
        self.client, self.account, self._budget = client, account, budget
        self.jobs: dict[int, Job] = {}  # by the number of their first call
        self._firsts: list[int] = []  # their keys, in order
        self.open = 0  # calls without an outcome
        self.unread = 0  # calls whose outcome it may not have
        self.serial = 0  # of the newest REPLY
        self.replied = 0  # of the newest REPLY that it has
        self.kept: deque[Told] = deque()
        self.relinked = False  # a new link has not said yet which REPLYs it lacks
        self.answers: list[Answer] = []  # of this turn
        self.answered: list[Job] = []  # what each of them is about

    @property
    def busy(self) -> bool:
        return bool(self.jobs or self.kept)

    def add(self, job: Job) -> None:
        self.jobs[job.first] = job
        insort(self._firsts, job.first)
        self.open += job.count
        self.account.in_flight += job.count

    def find(self, number: int) -> Job | None:
        """The job in which that call is, if the node knows of it."""
        place = bisect_right(self._firsts, number)
        job = self.jobs[self._firsts[place - 1]] if place else None
        return job if job is not None and number < job.first + job.count else None

    def answer(self, job: Job, offset: int, count: int, status: int, parcel: Parcel) -> None:
        """The outcome of these calls, for the REPLY of this turn."""
        self.answers.append((job.first + offset, 0, count, status, parcel))
        self.answered.append(job)
        self._budget.used += len(parcel.body)
        job.serial = max(job.serial, self.serial + 1)  # of that REPLY, at least: the job is kept until it has come

    def keep(self, reply: Reply, jobs: list[Job]) -> None:
        for job in jobs:
            job.serial = reply.serial
        self.kept.append(Told(reply, jobs))
        self.unread += reply.count

    def arrived(self, replied: int) -> None:
        """The caller has every REPLY up to this serial."""
        if not self.replied < replied < SERIAL_MAX:
            return
        self.replied = replied
        self.serial = max(self.serial, replied)  # a node that had forgotten this caller goes on behind what it knows
        while self.kept and self.kept[0].reply.serial <= replied:
            told = self.kept.popleft()
            self.unread -= told.reply.count
            self._budget.used -= len(told.reply.parcel.body)
            for job in told.jobs:
                self.drop_if_over(job)

    def drop_if_over(self, job: Job) -> None:
        """It has no open call, and all that was told of it has come."""
        if not job.open and job.serial <= self.replied and self.jobs.pop(job.first, None) is not None:
            del self._firsts[bisect_right(self._firsts, job.first) - 1]
            self._release(job)

    def _release(self, job: Job) -> None:
        if job.stream is not None:
            job.stream.arrived(job.stream.last)

    def clear(self) -> None:
        """It will not come back."""
        self._budget.used -= sum(len(told.reply.parcel.body) for told in self.kept)
        self._budget.used -= sum(len(parcel.body) for *_, parcel in self.answers)
        for job in self.jobs.values():
            self._release(job)


def rest(command: Call, start: int) -> Call:
    """These calls without the first ones."""
    count = command.count - start
    return command._replace(first=command.first + start, count=count, parcel=command.parcel.split(start, count))


def refused(service: str, first: int, count: int, code: int, text: str) -> Refused:
    return Refused(Kind.CALL, service, first, count, code, RETRY_SECONDS, text)
