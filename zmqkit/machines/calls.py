"""Calls at a node, on their caller's side: from CALL to the one outcome each of them has.

Rule 1 (R-C1)  A repeated number never dispatches again; if it has an outcome, that is told again.
Rule 2 (R-C2)  Calls that come again after a restart, without a key, are refused as MAYBE_EXECUTED: nobody knows any more.
Rule 3 (R-C4)  A key's answer is kept. A running key is joined, an answered one never dispatched.
Rule 4         A call past its deadline is never handed to a worker. It ends then: as NO_WORKER or UNDISPATCHED if nobody
               got it, which is definite, else as MAYBE_EXECUTED.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf

from zmqkit.machines.callers import Budget, Caller, Kept, refused, rest
from zmqkit.machines.core import PATIENCE, Core
from zmqkit.machines.keys import Keys
from zmqkit.machines.replies import Answer, gathered, texts
from zmqkit.machines.service import Job, Service
from zmqkit.machines.session import Client
from zmqkit.parcel import Parcel
from zmqkit.records import mask_of, ranges_of
from zmqkit.wire import Call, Cancel, Code, More, Status

CALLS_MAX = 16_384  # of one caller, whose outcome it may not have
CALLS_BYTES_MAX = 256 * 1024 * 1024  # of a node: bodies of calls, and answers that may have to be told again. No new calls beyond that
ANSWERS_BYTES_MAX = 2 * CALLS_BYTES_MAX  # nor answers to those there are beyond that: their callers read nothing
PARTS_AHEAD_MAX = 256  # of one stream: kept here until its caller has them
ABSENCE_SECONDS = 1200.0  # a caller gives up by itself when it was cut off for half of that
HASTE_SECONDS = 0.02  # a deadline is not corrected by less
SPENT = Parcel(0, b"", b"")


class Calls:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.budget = Budget()
        self.keys = Keys()
        self.callers: dict[bytes, Caller] = {}
        self.answering: dict[bytes, Caller] = {}  # in this turn
        self._due: list[tuple[float, int, Job]] = []  # a heap
        self._begun = 0  # jobs, ever: what is due at the same time ends in this order
        self._ended = 0  # of those in the heap

    # -- from the caller ----------------------------------------------------------------------------------------------

    def call(self, client: Client, command: Call, forbidden: str = "") -> None:
        core = self._core
        caller = self.callers.get(client.id)
        if caller is None:
            caller = self.callers[client.id] = Caller(client.id, client.account, self.budget)
        caller.arrived(command.replied)
        known = caller.find(command.first)
        if known is not None:
            self._hasten(known, core.now + command.seconds)  # rule 1: a new link has told again what there is to tell
            over = known.first + known.count - command.first
            if over < command.count:  # the rest was refused, and the link that was to tell is lost
                self.call(client, rest(command, over), forbidden)
            return
        code, text = self._refusal(caller, command, forbidden)
        if not code and caller.account.in_flight + command.count > caller.account.limits.in_flight:
            room = int(caller.account.room)
            if room > 0:
                self.call(client, command._replace(count=room, parcel=command.parcel.split(0, room)))
                command = rest(command, room)
            code, text = Code.QUOTA, f"{caller.account.who} has as many messages and calls in flight as it may"
        service = None if code else core.service(command.service)
        if service is None:
            text = text or "this node has as many services as it takes"
            core.refuse(client.peer, refused(command.service, command.first, command.count, code or Code.QUOTA, text))
            return
        job = Job(service, caller.account, caller, command.first, command.parcel, core.now + command.seconds, command.attempts)
        caller.add(job)
        self._expect(job)
        if command.parts:
            job.stream = Kept(min(command.parts, PARTS_AHEAD_MAX), self.budget)
        self.budget.used += _size(job.parcel)
        if command.key:
            self._join(job, command.key)
        else:
            self._offer(job)

    def _hasten(self, job: Job, deadline: float) -> None:
        """How long a CALL was on its way, nobody knows. Of two, the one that leaves less time tells more."""
        if job.open and deadline < job.deadline - HASTE_SECONDS:
            job.deadline = deadline
            self._expect(job)
            self._ended += 1  # it stands in the heap twice now

    def _refusal(self, caller: Caller, command: Call, forbidden: str) -> tuple[int, str]:
        """What is definite about these calls comes last: a restart makes all else doubtful (rule 2)."""
        core = self._core
        if command.epoch not in (0, core.identity.epoch) and not command.key:
            return Code.MAYBE_EXECUTED, "the node has restarted since, and cannot tell whether the call was executed"
        if forbidden:
            return Code.FORBIDDEN, forbidden
        if core.stopping:
            return Code.STOPPING, "the node stops"
        if command.key and command.parts:
            return Code.MALFORMED, "a stream takes no key: its parts are not kept"
        waiting = caller.open + caller.unread
        if waiting + command.count > CALLS_MAX:
            return Code.QUOTA, f"{waiting:,} calls of this client wait for their answers, or these to be read; the limit is {CALLS_MAX:,}"
        if self.budget.used + _size(command.parcel) > CALLS_BYTES_MAX:
            return Code.QUOTA, f"calls on this node hold {self.budget.used:,} bytes, the limit is {CALLS_BYTES_MAX:,}"
        if command.key and self.keys.refuses((caller.account.user, command.service, command.key), core.now):
            return Code.QUOTA, "this node keeps as many answers to keyed calls as it can"
        return 0, ""

    def _join(self, job: Job, key: str) -> None:
        job.key = key
        entry = self.keys.find(job, self._core.now)
        if entry is None:
            # What runs belongs to the key: its callers come and go, and each has a deadline of its own.
            run = Job(job.service, job.account, None, job.first, job.parcel, job.deadline, job.attempts)
            run.key, run.waiters, job.parcel = key, [job], SPENT
            self.keys.begin(run)
            return self._offer(run)
        self._spend(job)
        joined = entry.run
        if joined is None:
            self._answer(job, 0, 1, entry.status, entry.body)
        elif job.attempts == 1 and joined.pending and joined.untouched and not self.serves(job.service):
            self._conclude(job, job.open, Status.NO_WORKER)
        else:
            joined.waiters.append(job)
            joined.deadline, joined.attempts = max(joined.deadline, job.deadline), max(joined.attempts, job.attempts)

    def _offer(self, job: Job) -> None:
        service = job.service
        if job.impatient and not self.serves(service):
            self._conclude(job, job.open, Status.NO_WORKER)
        else:
            service.wait(job, job.open)
            self._core.hungry[service.number] = service

    def serves(self, service: Service) -> bool:
        """Is there a worker that has been heard of lately?"""
        heard = self._core.heard
        return any(c.client.peer and heard - c.client.last_ready <= PATIENCE for c in service.consumers.values())

    def cancel(self, client: Client, command: Cancel) -> None:
        caller = self.callers.get(client.id)
        number, end = command.number, command.number + command.count
        while caller is not None and number < end:
            job = caller.find(number)
            if job is None:
                number += 1
                continue
            count = min(end, job.first + job.count) - number
            self._forget(job, ((1 << count) - 1) << number - job.first)
            number += count

    def more(self, client: Client, command: More) -> None:
        caller = self.callers.get(client.id)
        job = caller.find(command.number) if caller is not None else None
        if job is None or job.stream is None:
            return
        stream = job.stream
        stream.arrived(command.got)
        stream.allowed = max(stream.allowed, min(command.parts, stream.got + PARTS_AHEAD_MAX))
        for lease in job.leases:
            self._core.send(self._core.clients[lease.client].peer, More(lease.token, 0, stream.allowed, stream.got))

    def _forget(self, job: Job, mask: int) -> None:
        """Nobody waits for these calls any more. One with a key runs on: its answer may be asked for again."""
        mask &= job.open
        if job.key:
            self._leave(job)
        else:
            job.service.forget(job, mask)
            self.withdraw(job, mask)
        self._close(job, mask)
        if job.caller is not None:
            job.caller.drop_if_over(job)

    def _run_of(self, job: Job) -> Job:
        """What executes this call: of a keyed one, what its key stands for."""
        entry = self.keys.find(job, self._core.now) if job.key and job.caller is not None else None
        return job if entry is None or entry.run is None else entry.run

    def _unbegun(self, job: Job) -> int:
        """Those of its calls that certainly nobody has begun with."""
        run = self._run_of(job)
        if run is job:
            return job.open & job.pending
        return job.open if run.pending and run.untouched else 0

    def _leave(self, waiter: Job) -> None:
        run = self._run_of(waiter)
        if waiter in run.waiters:
            run.waiters.remove(waiter)
            if not run.waiters and run.pending:
                run.service.forget(run, run.pending)
                self._give_up(run)

    def _give_up(self, run: Job) -> None:
        """Nobody waits for this key's answer, and nobody is at it."""
        self.keys.drop(run)
        self._close(run, run.open)

    def withdraw(self, job: Job, mask: int) -> None:
        """Tell the workers that have some of these calls."""
        for lease in job.leases:
            for offset, count in ranges_of(mask >> lease.offset & lease.open):
                self._core.send(self._core.clients[lease.client].peer, Cancel(lease.token, offset, count))

    # -- outcomes -------------------------------------------------------------------------------------------------------

    def answered(self, job: Job, offset: int, count: int, status: int, parcel: Parcel) -> None:
        """A worker has answered these calls of a job. Some may have an outcome already: that holds."""
        mask = ((1 << count) - 1) << offset
        if job.key:
            self.keys.keep(job, status, parcel, self._core.now)
            self._close(job, mask)
            for waiter in job.waiters:
                self._answer(waiter, 0, 1, status, parcel)
            job.waiters = []
        elif job.open & mask == mask:  # as almost always
            self._answer(job, offset, count, status, parcel)
        else:
            for first, length in ranges_of(job.open & mask):
                self._answer(job, first, length, status, parcel.split(first - offset, length))

    def again(self, job: Job, mask: int) -> None:
        """Nobody has begun with these calls, or another worker may: they wait once more, inside their deadline."""
        if job.key and not job.waiters:
            return self._give_up(job)
        if job.impatient and not (self._core.stopping or self.serves(job.service)):
            return self._conclude(job, mask, Status.NO_WORKER)
        job.service.wait(job, mask, again=True)
        self._core.hungry[job.service.number] = job.service
        if self._core.stopping:
            for waiter in job.waiters[:] if job.key else [job]:
                self._refuse(waiter)

    def unserved(self, service: Service) -> None:
        """The last worker has left."""
        for job in dict.fromkeys(job for job, *_ in service.line if job.pending and job.impatient):
            waiting = job.pending
            service.forget(job, waiting)
            self._conclude(job, waiting, Status.NO_WORKER)

    def lost(self, job: Job, mask: int, cause: str) -> None:
        """Their worker has them no more, and nobody knows what it did."""
        self._conclude(job, mask, Status.MAYBE_EXECUTED, cause)

    def _conclude(self, job: Job, mask: int, status: Status, cause: str = "") -> None:
        """The node's own verdict on what is open of these calls."""
        mask &= job.open
        if job.caller is None:
            self._close(job, mask)
            self.keys.drop(job)
            for waiter in job.waiters:
                self._conclude(waiter, waiter.open, status, cause)
            job.waiters = []
            return
        for offset, count in ranges_of(mask):
            self._answer(job, offset, count, status, texts(cause, count))

    def _answer(self, job: Job, offset: int, count: int, status: int, parcel: Parcel) -> None:
        caller = job.caller
        assert caller is not None, "a keyed run is answered to its waiters"
        if self.budget.used + len(parcel.body) > ANSWERS_BYTES_MAX:
            status, parcel = Status.MAYBE_EXECUTED, texts("answered, but this node holds as many answers as it can", count)
        caller.answer(job, offset, count, status, parcel)
        self.answering[caller.client] = caller
        self._close(job, ((1 << count) - 1) << offset)

    def _close(self, job: Job, mask: int) -> None:
        """These calls have an outcome."""
        mask &= job.open
        job.open ^= mask
        if job.caller is not None:
            job.caller.open -= mask.bit_count()
            self._core.release(job.account, mask.bit_count())
        if mask and not job.open:
            self._ended += job.caller is not None
            self._spend(job)

    def _spend(self, job: Job) -> None:
        """Its bodies are needed no more."""
        self.budget.used -= _size(job.parcel)
        job.parcel = SPENT

    def flush(self) -> None:
        """One REPLY for all answers to one caller in this turn."""
        for caller in self.answering.values():
            answers, jobs = caller.answers, caller.answered
            caller.answers, caller.answered = [], []
            while answers:
                used = self._reply(caller, answers, jobs)
                answers, jobs = answers[used:], jobs[used:]
        self.answering.clear()

    def _reply(self, caller: Caller, answers: list[Answer], jobs: list[Job]) -> int:
        """Send what fits one REPLY; says how many of these answers did."""
        caller.serial += 1
        reply, used = gathered(caller.serial, answers, joins=True)
        caller.keep(reply, jobs[:used])
        if not caller.relinked:
            self._core.send(self._core.clients[caller.client].peer, reply)
        return used

    # -- links and time -------------------------------------------------------------------------------------------------

    def relinked(self, client: Client) -> None:
        """A new link of this client: its first READY says what it has."""
        caller = self.callers.get(client.id)
        if caller is not None:
            caller.relinked = True

    def ready(self, client: Client, replied: int) -> None:
        caller = self.callers.get(client.id)
        if caller is None:
            return
        caller.arrived(replied)
        if caller.relinked:
            caller.relinked = False
            for job in caller.jobs.values():
                for part in job.stream.parts if job.stream else ():
                    self._core.send(client.peer, part)
            for told in caller.kept:
                self._core.send(client.peer, told.reply)
        if not caller.busy:
            del self.callers[client.id]

    def busy(self, client: Client, away: float) -> bool:
        """Calls of this client, or answers to it, are kept for its return. It asks for none after so long."""
        caller = self.callers.get(client.id)
        if caller is not None and (away > ABSENCE_SECONDS or not caller.busy):
            self.leave(client)
        return client.id in self.callers

    def leave(self, client: Client) -> None:
        """It will not come back."""
        caller = self.callers.pop(client.id, None)
        if caller is not None:
            self.answering.pop(client.id, None)
            caller.clear()
            for job in list(caller.jobs.values()):
                self._forget(job, job.open)

    def _expect(self, job: Job) -> None:
        self._begun += 1
        heappush(self._due, (job.deadline, self._begun, job))
        if self._ended > 1000 and 2 * self._ended > len(self._due):
            self._due = [entry for entry in self._due if entry[2].open]
            heapify(self._due)
            self._ended = 0

    @property
    def deadline(self) -> float:
        return self._due[0][0] if self._due else inf

    def tick(self) -> None:
        now = self._core.now
        while self._due and self._due[0][0] <= now:
            job = heappop(self._due)[2]
            if job.open:
                self._expire(job)
            self._ended -= 1

    def _expire(self, job: Job) -> None:
        """Rule 4."""
        waiting = self._unbegun(job)
        begun = job.open & ~waiting
        self.withdraw(job, begun)
        job.service.forget(job, waiting)
        if job.key:
            self._leave(job)
        self._conclude(job, waiting, Status.UNDISPATCHED if self.serves(job.service) else Status.NO_WORKER)
        self._conclude(job, begun, Status.MAYBE_EXECUTED, "a worker had it, and did not answer in time")

    def stop(self) -> None:
        """What no worker has got is refused: its callers may ask another node."""
        for caller in self.callers.values():
            for job in list(caller.jobs.values()):
                self._refuse(job)

    def _refuse(self, job: Job) -> None:
        """The node stops, so these calls find no worker any more."""
        core, caller, run = self._core, job.caller, self._run_of(job)
        if run.pending and run is not job and run.tried:
            run.service.forget(run, run.pending)
            self._conclude(run, run.open, Status.MAYBE_EXECUTED, "a worker had it, and the node stops")
            return
        for offset, count in ranges_of(self._unbegun(job)):
            assert caller is not None, "a keyed run is refused to its waiters"
            peer = core.clients[caller.client].peer
            core.send(peer, refused(job.service.title, job.first + offset, count, Code.STOPPING, "the node stops"))
            self._forget(job, mask_of([(offset, count)]))


def _size(parcel: Parcel) -> int:
    return len(parcel.body) + len(parcel.columns or b"")
