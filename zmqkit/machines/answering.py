"""Calls at a node, on their workers' side: REPLY and PART, and what a lost lease means for the calls in it.

Rule 1 (R-C3)  Another worker gets a dispatched call only if it has a key, came back unstarted, or never reached its
               worker. That no start was reported proves nothing.
Rule 2         A REPLY is a DONE with a value: it counts under a live token only, and is answered.
"""

from __future__ import annotations

from zmqkit.machines.calls import ANSWERS_BYTES_MAX, Calls
from zmqkit.machines.core import Core
from zmqkit.machines.leases import TOKEN_COUNTER_BITS, UNRECEIVED, UNSENT, UNSTARTED, Cause, Lease
from zmqkit.machines.leasing import Leasing
from zmqkit.machines.service import Job
from zmqkit.machines.session import Client
from zmqkit.machines.settling import Settling
from zmqkit.parcel import Parcel
from zmqkit.records import ranges_of
from zmqkit.wire import Cancel, More, Part, Reply, Status, Verdict


class Answering:
    def __init__(self, core: Core, calls: Calls, leasing: Leasing, settling: Settling) -> None:
        self._core, self._calls, self._leasing, self._settling = core, calls, leasing, settling
        leasing.end_calls, leasing.adopt_calls, leasing.unserved = self.end, self.adopt, calls.unserved

    def reply(self, client: Client, command: Reply) -> None:
        place = 0
        if self._settling.overwhelmed(client):
            self._core.drop("too-many-answers", client.peer, f"REPLY of {command.count}")
            return
        whole = command.parcel
        if whole.columns is not None:
            whole = Parcel(whole.count, whole.sizes, whole.body)
        for token, offset, count, status in command.ranges:
            bodies = whole if count == whole.count else whole.split(place, count)
            place += count
            verdicts = self._reply(client, token, offset, count, status, bodies)
            self._settling.owe(client, False, verdicts)

    def _reply(self, client: Client, token: int, offset: int, count: int, status: int, bodies: Parcel) -> list[tuple[int, int, int, int]]:
        lease = self._core.leases.get(token)
        if lease is None:
            return [(token, offset, count, self._verdict_of_unknown(client, token))]
        if lease.queue > 0 or lease.client != client.id or offset + count > lease.count or status > Status.END:
            return [(token, offset, count, Verdict.STALE)]
        asked = ((1 << count) - 1) << offset
        mask, revoked = asked & lease.open, asked & lease.revoked
        if mask:
            job: Job = lease.batch  # type: ignore[assignment]
            lease.open ^= mask
            self._leave(job, lease)
            if mask == asked:  # as almost always
                self._calls.answered(job, lease.offset + offset, count, status, bodies)
            else:
                for first, length in ranges_of(mask):
                    self._calls.answered(job, lease.offset + first, length, status, bodies.split(first - offset, length))
            self._leasing.ended(lease, mask)
        if not revoked:
            return [(token, offset, count, int(Verdict.OK))]
        parts = [(token, first, length, int(Verdict.STALE)) for first, length in ranges_of(revoked)]
        return parts + [(token, first, length, int(Verdict.OK)) for first, length in ranges_of(asked & ~revoked)]

    def _verdict_of_unknown(self, client: Client, token: int) -> Verdict:
        if token >> TOKEN_COUNTER_BITS != self._core.identity.epoch:
            return Verdict.SETTLED  # leases of calls are in no log, so nobody knows what was answered before the restart
        return self._settling.verdict_of_unknown(client, token)

    def part(self, client: Client, command: Part) -> None:
        lease = client.leases.get(command.number)
        if lease is None or lease.queue > 0 or not lease.open >> command.offset & 1:
            return
        job: Job = lease.batch  # type: ignore[assignment]
        stream, caller = job.stream, job.caller
        if stream is None or caller is None or not job.open or command.first + command.count - 1 <= stream.last:
            return  # nobody wants it, or it is here
        if len(command.parcel.body) + self._calls.budget.used > ANSWERS_BYTES_MAX:
            self._calls.withdraw(job, job.open)
            self._calls.lost(job, job.open, "this node holds as many bytes of answers as it can")
            return
        part = stream.take(command.first, command.parcel, job.first)
        if part is None:
            self._core.drop("wrong-part", client.peer, f"part {command.first} of {command.number}")
        elif not caller.relinked:
            self._core.send(self._core.clients[caller.client].peer, part)

    def adopt(self, client: Client, lease: Lease) -> None:
        """Its worker has it still, on a new link: what was said of its calls may have died with the old one."""
        job: Job = lease.batch  # type: ignore[assignment]
        if job.stream is not None and job.open:
            self._core.send(client.peer, More(lease.token, 0, job.stream.allowed, job.stream.got))
        for offset, count in ranges_of(lease.open & ~(job.open >> lease.offset)):  # nobody waits for these any more
            self._core.send(client.peer, Cancel(lease.token, offset, count))

    def end(self, lease: Lease, mask: int, cause: Cause, error: str) -> None:
        """These calls are the worker's no more, without an answer (rule 1)."""
        job: Job = lease.batch  # type: ignore[assignment]
        lease.open &= ~mask
        lease.revoked |= mask
        self._leave(job, lease)
        calls = mask << lease.offset & job.open
        # Whoever has sent parts has begun, whatever it says.
        unstarted = cause in (UNSTARTED, UNSENT, UNRECEIVED) and not (job.stream and job.stream.last)
        if unstarted:
            job.tried -= 1
        if calls and (unstarted or (job.key and job.tried < job.attempts)):
            self._calls.again(job, calls)
        elif calls:
            self._calls.lost(job, calls, f"its worker ended without an answer: {error or cause.name}")

    @staticmethod
    def _leave(job: Job, lease: Lease) -> None:
        if not lease.open and lease in job.leases:
            job.leases.remove(lease)
