"""What a node keeps for one caller: its calls without an outcome, and the answers it may not have.

Rule 1 (R-C1)  A number that comes again is never dispatched again. Its answer, if there is one, is among the REPLYs kept.
Rule 2         REPLYs to one caller are numbered and kept until it says that they have come; a new link begins with those
               it lacks. So one long call holds up no memory of the others', as a lowest unanswered number would.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from typing import NamedTuple

from zmqkit.machines.service import Job
from zmqkit.parcel import Parcel
from zmqkit.wire import Part, Reply


class Told(NamedTuple):
    reply: Reply
    jobs: list[Job]  # it is about these


class Kept:
    """Parts of a streamed answer that the caller may not have."""

    __slots__ = ("allowed", "last", "parts", "got")  # noqa: RUF023 — in the order of their meaning

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed  # the worker may send so many in all
        self.last = 0  # the newest one that came from the worker
        self.got = 0  # the caller has all up to this one
        self.parts: deque[Part] = deque()

    def take(self, first: int, parcel: Parcel, number: int) -> Part | None:
        """A PART of the worker's, as it goes on to the caller; None if there is nothing new in it, or something is missing."""
        new = first + parcel.count - 1 - self.last
        if new <= 0 or first > self.last + 1 or self.last + new > self.allowed:
            return None
        part = Part(number, 0, self.last + 1, new, parcel.split(parcel.count - new, new))
        self.last += new
        self.parts.append(part)
        return part

    def arrived(self, got: int) -> None:
        self.got = max(self.got, min(got, self.last))
        while self.parts and self.parts[0].first + self.parts[0].count - 1 <= self.got:
            self.parts.popleft()


class Caller:
    __slots__ = ("_firsts", "answers", "client", "jobs", "kept", "kept_bytes", "open", "relinked", "serial")

    def __init__(self, client: bytes) -> None:
        self.client = client
        self.jobs: dict[int, Job] = {}  # by the number of their first call
        self._firsts: list[int] = []  # their keys, in order
        self.open = 0  # calls without an outcome
        self.serial = 0  # of the newest REPLY
        self.kept: deque[Told] = deque()
        self.kept_bytes = 0
        self.relinked = False  # a new link has not said yet which REPLYs it lacks
        self.answers: list[tuple[Job, int, int, int, Parcel]] = []  # of this turn: job, offset, count, status, bodies

    @property
    def busy(self) -> bool:
        return bool(self.jobs or self.kept)

    def add(self, job: Job) -> None:
        self.jobs[job.first] = job
        insort(self._firsts, job.first)
        self.open += job.count

    def find(self, number: int) -> Job | None:
        """The job in which that call is, if the node knows of it."""
        place = bisect_right(self._firsts, number)
        job = self.jobs[self._firsts[place - 1]] if place else None
        return job if job is not None and number < job.first + job.count else None

    def keep(self, reply: Reply, jobs: list[Job]) -> None:
        for job in jobs:
            job.serial = reply.serial
        self.kept.append(Told(reply, jobs))
        self.kept_bytes += len(reply.parcel.body)

    def arrived(self, replied: int) -> None:
        """The caller has every REPLY up to this serial."""
        self.serial = max(self.serial, replied)  # a node that had forgotten this caller goes on behind what it knows
        while self.kept and self.kept[0].reply.serial <= replied:
            told = self.kept.popleft()
            self.kept_bytes -= len(told.reply.parcel.body)
            for job in told.jobs:
                if not job.open and job.serial <= replied:
                    self.drop(job)

    def drop(self, job: Job) -> None:
        if self.jobs.pop(job.first, None) is not None:
            del self._firsts[bisect_right(self._firsts, job.first) - 1]
