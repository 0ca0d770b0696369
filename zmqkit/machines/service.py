"""A service at a node: calls that wait for a worker, and the workers that have room for some.

A call is a lease on a queue that is kept in memory: tokens, windows, heartbeats, adoption and grace are those of every
other lease. What differs is what a lost lease means; `calls` decides that.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from zmqkit.machines.leases import Lease
from zmqkit.machines.policy import SECONDS_MAX, QueuePolicy
from zmqkit.parcel import Parcel
from zmqkit.records import ranges_of
from zmqkit.wire import SERVICE_MARK, Lease as LeaseCommand, Terms

if TYPE_CHECKING:
    from zmqkit.machines.account import Account
    from zmqkit.machines.callers import Caller, Kept
    from zmqkit.machines.session import Client, Consumer


LINE_SPARE = 1000  # entries


class Job:
    """Calls of one CALL, under one deadline. Bit i of a mask is call number first + i; leases name the job as their batch.

    A call that is `open` has no outcome yet; one that is `pending` too waits for a worker; open and not pending: it is leased.
    """

    __slots__ = ("account", "attempts", "caller", "count", "deadline", "first", "key", "leases", "open", "parcel", "pending", "serial",
                 "service", "stream", "tried", "waiters")  # fmt: skip
    suspect = 0  # of a queue's batch: leased singly. A call that kills its worker is not tried for ever: `attempts`

    def __init__(
        self, service: Service, account: Account, caller: Caller | None, first: int, parcel: Parcel, deadline: float, attempts: int
    ) -> None:
        self.service, self.account, self.caller = service, account, caller
        self.first, self.count, self.parcel = first, parcel.count, parcel
        self.deadline, self.attempts, self.tried = deadline, attempts, 0
        self.open = (1 << parcel.count) - 1
        self.pending = 0
        self.leases: list[Lease] = []  # that still have calls of it open
        self.serial = 0  # of the newest REPLY about it
        self.key = ""
        self.waiters: list[Job] = []  # of a keyed call: who wants its answer. It has no caller itself
        self.stream: Kept | None = None

    @property
    def qseq(self) -> int:
        return self.first

    @property
    def untouched(self) -> bool:
        """Nobody has begun with what waits of it. (With a key a worker that was lost may have.)"""
        return not (self.key and self.tried)

    @property
    def impatient(self) -> bool:
        """If nobody serves it, that is the end."""
        return self.attempts == 1 and self.untouched


class Service:
    """What Leasing knows a queue by: number, name, policy, consumers, ready, pick, lease."""

    paused = False
    returned: tuple[()] = ()  # no suspects

    def __init__(self, number: int, name: str) -> None:
        self.number = number  # below 0; queues are above
        self.name = name  # with its mark
        self.policy = QueuePolicy()
        self.consumers: dict[bytes, Consumer] = {}  # by client; the one that waited longest comes first
        self.ready = 0  # calls that wait for a worker
        self.line: deque[tuple[Job, int, int]] = deque()  # job, offset, count: of these, what is still pending

    def has_ready_suspects(self) -> bool:
        return False

    def wait(self, job: Job, mask: int, again: bool = False) -> None:
        """These calls wait for a worker; `again`: they have waited before, so they come first."""
        mask &= job.open & ~job.pending
        job.pending |= mask
        self.ready += mask.bit_count()
        if again:
            self.line.extendleft([(job, offset, count) for offset, count in reversed(ranges_of(mask))])
        else:
            for offset, count in ranges_of(mask):
                self.line.append((job, offset, count))

    def forget(self, job: Job, mask: int) -> None:
        """They wait no more."""
        mask &= job.pending
        job.pending ^= mask
        self.ready -= mask.bit_count()
        if len(self.line) > 2 * self.ready + LINE_SPARE:  # nobody serves this, so nobody picks: those over are left out now and then
            self.line = deque(entry for entry in self.line if entry[0].pending >> entry[1] & ((1 << entry[2]) - 1))

    def pick(self, room: int, alone: bool) -> tuple[Job, int, int] | None:
        """The next calls for one worker: neighbours of one job, at most `room`."""
        while self.line:
            job, offset, count = self.line[0]
            mask = job.pending >> offset & ((1 << count) - 1)
            if not mask:
                self.line.popleft()
                continue
            skip = (mask & -mask).bit_length() - 1
            offset, count, mask = offset + skip, count - skip, mask >> skip
            length = min(room, (mask ^ (mask + 1)).bit_length() - 1)
            if length < count:
                self.line[0] = job, offset + length, count - length
            else:
                self.line.popleft()
            return job, offset, length
        return None

    @property
    def title(self) -> str:
        return self.name.removeprefix(SERVICE_MARK)

    def lease(self, lease: Lease) -> None:
        job: Job = lease.batch  # type: ignore[assignment]
        self.forget(job, lease.open << lease.offset)
        job.leases.append(lease)
        job.tried += 1

    def command(self, lease: Lease, client: Client) -> LeaseCommand:
        job: Job = lease.batch  # type: ignore[assignment]
        # Counted from a moment that the worker can name too: whatever holds this LEASE up on its way moves no deadline (R-C5).
        seconds = min(SECONDS_MAX, max(0.0, job.deadline - client.beat_at))
        terms = Terms(seconds, job.key, job.stream.allowed if job.stream else 0, job.account.name)
        parcel = job.parcel if lease.count == job.count else job.parcel.split(lease.offset, lease.count)
        attempt = job.tried if job.key else 1  # without a key nobody can have begun before
        times = lease.seconds, self.policy.grace, client.beat
        return LeaseCommand(self.name, lease.token, lease.qseq, lease.count, attempt, *times, terms, parcel)
