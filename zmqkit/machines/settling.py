"""DONE, BACK and SAVE: what a consumer says of the messages it holds.

Rule 1: DONE counts only for messages that are open under that token of that client; it is applied at once (room is free)
        and answered when its record is durable.
Rule 2: the answer is per message. OK: settled by this token. STALE: certainly not. SETTLED: settled, but nobody can tell
        any more by whom; whoever acted on the message may take it for a success.
"""

from __future__ import annotations

from math import inf

from zmqkit import records
from zmqkit.machines.core import Core
from zmqkit.machines.leases import NACK, REJECT, SNOOZE, SPLIT, TOKEN_COUNTER_BITS, UNSTARTED, Lease
from zmqkit.machines.leasing import Leasing
from zmqkit.machines.session import Client
from zmqkit.parcel import PARCEL_MESSAGES_MAX
from zmqkit.records import ranges_of
from zmqkit.wire import ENTRIES_MAX, Answer, Back, BackKind, Done, Save, Verdict

CAUSES = {
    BackKind.NACK: NACK, BackKind.SPLIT: SPLIT, BackKind.REJECT: REJECT, BackKind.SNOOZE: SNOOZE, BackKind.UNSTARTED: UNSTARTED,
}  # fmt: skip

ANSWERS_MAX = 2**18  # ranges for one peer in one turn: a DONE of a lease with holes is answered run by run
LATE_SECONDS = 0.05  # an answer nobody waits for may take so long: one frame then answers for many
LATE_RANGES = 64  # …unless so many have come together for one peer
SAVED_BYTES_MAX = 128 * 1024 * 1024  # of saved states on a node: they are kept in memory


Verdicts = tuple[int, int, int, int]  # token, offset, count, verdict


class Settling:
    def __init__(self, core: Core, leasing: Leasing) -> None:
        self._core = core
        self._leasing = leasing
        self._answers: dict[bytes, list[Verdicts]] = {}  # by peer
        self._now: dict[bytes, None] = {}  # peers whose answers leave with this turn
        self.late = inf  # when the others do

    def done(self, client: Client, command: Done) -> None:
        for token, offset, count in command.ranges:
            if self.overwhelmed(client):
                self._core.drop("too-many-answers", client.peer, f"DONE of {token}")
                return
            self.owe(client, command.wait, self._settle(client, command.wait, token, offset, count))

    def overwhelmed(self, client: Client) -> bool:
        return len(self._answers.get(client.peer, ())) > ANSWERS_MAX

    def owe(self, client: Client, wait: bool, verdicts: list[Verdicts]) -> None:
        """Answer the client so, now (`wait`) or together with others."""
        answers = self._answers.setdefault(client.peer, [])
        answers.extend(verdicts)
        self.late = min(self.late, self._core.now + LATE_SECONDS)
        if wait or len(answers) >= LATE_RANGES:
            self._now[client.peer] = None

    def _settle(self, client: Client, wait: bool, token: int, offset: int, count: int) -> list[Verdicts]:
        lease = self._core.leases.get(token)
        if lease is None:
            return [(token, offset, count, self.verdict_of_unknown(client, token))]
        if lease.queue < 0 or lease.client != client.id or count < 1 or offset + count > lease.count:
            return [(token, offset, count, Verdict.STALE)]
        asked = ((1 << count) - 1) << offset
        mask, revoked = asked & lease.open, asked & lease.revoked
        if mask:
            queue = self._core.queue_of(lease)
            record = records.Done(queue.number, token, ranges_of(mask))
            queue.done(lease, mask, self._core.record(record, waited=wait))
            self._leasing.ended(lease, mask)
        if not revoked:
            return [(token, offset, count, Verdict.OK)]
        parts = [(token, first, length, int(Verdict.STALE)) for first, length in ranges_of(revoked)]
        return parts + [(token, first, length, int(Verdict.OK)) for first, length in ranges_of(asked & ~revoked)]

    def verdict_of_unknown(self, client: Client, token: int) -> Verdict:
        """Of a token whose lease is gone: all of it was settled by DONE, or it was revoked and forgotten."""
        core = self._core
        epoch, counter = token >> TOKEN_COUNTER_BITS, token & ((1 << TOKEN_COUNTER_BITS) - 1)
        if epoch == core.identity.epoch:
            if counter > self._leasing.counter:
                return Verdict.STALE  # never granted
            return Verdict.OK if token > client.doubt else Verdict.SETTLED
        # Of an older epoch: the log is a prefix, so a DONE is there only if its LEASE is.
        return Verdict.STALE if token > core.logged_token else Verdict.SETTLED

    def answer(self, all_peers: bool = False) -> None:
        """Answers that are due, held until the records are durable: a repeat waits for the newest, so surely for its own."""
        if all_peers or self._core.now >= self.late:
            self._now.update(dict.fromkeys(self._answers))
        if not self._now:
            return
        for peer in self._now:
            ranges = self._answers.pop(peer, [])
            for start in range(0, len(ranges), ENTRIES_MAX):
                self._core.send(peer, Answer(ranges[start : start + ENTRIES_MAX]), self._core.last)
        self._now.clear()
        if not self._answers:
            self.late = inf

    def back(self, client: Client, command: Back) -> None:
        lease = self._held(client, command.token, command.offset, command.count)
        if lease is not None:
            cause = CAUSES[BackKind(command.kind)]
            delay = command.delay if command.delay >= 0 else None
            self._leasing.end(lease, ((1 << command.count) - 1) << command.offset, cause, command.reason, delay)

    def save(self, client: Client, command: Save) -> None:
        lease = self._held(client, command.token, command.offset, 1)
        if lease is not None and lease.queue > 0 and lease.open >> command.offset & 1:
            core, queue, qseq = self._core, self._core.queue_of(lease), lease.qseq + command.offset
            growth = len(command.blob) - len(queue.saved.get(qseq, b""))
            if growth > 0 and sum(other.saved_bytes for other in core.queues.values()) + growth > SAVED_BYTES_MAX:
                core.drop("too-much-saved", client.peer, f"{queue.name} {qseq}")
                return
            core.record(records.Save(queue.number, command.token, command.offset, command.blob), waited=False)
            queue.save(qseq, command.blob)

    def _held(self, client: Client, token: int, offset: int, count: int) -> Lease | None:
        """The lease, if it is this client's and these messages are in it; what is stale changes nothing."""
        lease = client.leases.get(token)
        if lease is None or offset + count > min(lease.count, PARCEL_MESSAGES_MAX):
            return None
        return lease
