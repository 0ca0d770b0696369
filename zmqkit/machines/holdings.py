"""What a consumer holds: leases, the messages of them that are open, and words the node may not have heard.

Rule 1 (R-Q2)  READY lists every token with a message in hand, or settled without an answer yet.
Rule 2 (R-Q4)  A message is started only while the node cannot have given it away: within the grace of the newest echoed
               beat and within the lease of the beat that began or renewed it, both less 5 %, in this process's own time.
Rule 3 (R-A4)  A DONE is repeated on each new link until it is answered. BACK and SAVE have no answer; the echo of a beat
               sent after them proves that they arrived, and until then a new link repeats them too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf

from zmqkit import wire
from zmqkit.machines.events import Allowed, Cancelled, Event, Judged, Revoked
from zmqkit.machines.replies import Answer, gathered
from zmqkit.parcel import Parcel
from zmqkit.records import mask_of, ranges_of
from zmqkit.wire import (
    ENTRIES_MAX,
    Back,
    BackKind,
    Cancel,
    Done,
    Held,
    Lease,
    More,
    Part,
    Reply,
    Save,
    Verdict,
)  # fmt: skip

REPLIES_SPARE = 16
MARGIN = 0.95  # of grace and of lease: two clocks may differ in speed


class HeldLease:
    """A lease as its holder sees it. Bit i of a mask is message i of the lease."""

    __slots__ = (
        "attempt",
        "count",
        "ends_at",
        "grace",
        "open",
        "parcel",
        "parts",
        "parts_made",
        "qseq",
        "queue",
        "renewed",
        "replies",
        "returning",
        "revoked",
        "seconds",
        "starts_until",
        "terms",
        "token",
        "unanswered",
        "wanted",
        "watched",
    )  # fmt: skip

    def __init__(self, lease: Lease, renewed: float) -> None:
        self.queue, self.token, self.qseq, self.count = lease.queue, lease.token, lease.qseq, lease.count
        self.attempt, self.seconds, self.grace, self.parcel = lease.attempt, lease.lease, lease.grace, lease.parcel
        self.open = (1 << lease.count) - 1  # waiting or running
        self.unanswered = 0  # settled by us, the node's word is missing
        self.returning = 0  # handed back, but not yet said on this link
        self.renewed = renewed  # sending time of the beat that began or last renewed it
        self.wanted = 0.0  # lease length asked for; 0: as given
        self.starts_until = -inf  # the gate: any thread may read it, and start no message at or after it
        self.revoked = False
        self.watched = False  # somebody waits for the verdicts
        self.terms = lease.terms  # of calls
        self.ends_at = inf  # of calls: none is started at or after it
        self.replies: list[Answer] = []  # said, and to be said again on a new link
        self.parts: deque[Part] = deque()  # of a stream: those that may not have reached its caller
        self.parts_made = 0

    def move_gate(self, proven: float) -> None:
        """`proven`: sending time of the newest echoed beat."""
        if not self.revoked:
            self.starts_until = min(proven + MARGIN * self.grace, self.renewed + MARGIN * self.seconds, self.ends_at)


class Holdings:
    """All leases of one client, and what it has said about them."""

    def __init__(self) -> None:
        self.leases: dict[int, HeldLease] = {}
        self.in_hand = 0  # leases with open messages
        self.seen = 0  # highest token received, on any link
        self.shortest = inf  # no lease in hand is shorter, in seconds
        self._done: list[tuple[int, int, int]] = []  # ranges to say
        self._hurry = False
        self._replies: list[Answer] = []  # to say
        self._parts: list[Part] = []  # to say
        self._words: deque[Back | Save] = deque()  # to say
        self._unproven: deque[tuple[int, Back | Save]] = deque()  # said; the echo of a beat above this one proves it

    @property
    def awaited(self) -> bool:
        """Is there anything that must be kept, or that the node has to answer or prove?"""
        return bool(self.leases or self._unproven or self._words)

    @property
    def speechless(self) -> bool:
        return not (self._done or self._words or self._replies or self._parts)

    # -- what the consumer does ---------------------------------------------------------------------------------------

    def granted(self, lease: Lease, renewed: float) -> HeldLease:
        held = self.leases[lease.token] = HeldLease(lease, renewed)
        self.shortest = min(self.shortest, held.seconds)
        self.seen = max(self.seen, lease.token)
        self.in_hand += 1
        return held

    def done(self, lease: HeldLease, offset: int, count: int, wait: bool) -> int:
        """Settle what is still open of a range; says how many that were."""
        mask = self._close(lease, offset, count)
        if not mask:
            return 0
        lease.unanswered |= mask
        self._hurry |= wait
        if mask.bit_count() == count:
            self._done.append((lease.token, offset, count))
        else:
            self._done.extend((lease.token, first, length) for first, length in ranges_of(mask))
        return mask.bit_count()

    def back(self, lease: HeldLease, offset: int, count: int, kind: BackKind, delay: float, reason: str) -> int:
        """Hand back what is still open of a range; says how many that were."""
        mask = self._close(lease, offset, count)
        lease.returning |= mask
        for first, length in ranges_of(mask):
            self._words.append(Back(lease.token, first, length, kind, delay, reason))
        return mask.bit_count()

    def reply(self, lease: HeldLease, offset: int, count: int, status: int, parcel: Parcel) -> int:
        """End calls that are still open of a range, each with its body; says how many that were."""
        mask = self._close(lease, offset, count)
        lease.unanswered |= mask
        for first, length in ranges_of(mask):
            answer = lease.token, first, length, status, parcel if length == count else parcel.split(first - offset, length)
            lease.replies.append(answer)
            self._replies.append(answer)
        return mask.bit_count()

    def part(self, lease: HeldLease, offset: int, parcel: Parcel) -> None:
        """The next parts of a streamed answer."""
        if lease.open >> offset & 1 and not lease.revoked:
            part = Part(lease.token, offset, lease.parts_made + 1, parcel.count, parcel)
            lease.parts_made += parcel.count
            lease.parts.append(part)
            self._parts.append(part)

    def drop(self, lease: HeldLease, offset: int, count: int) -> int:
        """Forget messages of a lease that has ended; says how many were open."""
        mask = self._close(lease, offset, count)
        self._bury(lease)
        return mask.bit_count()

    def _close(self, lease: HeldLease, offset: int, count: int) -> int:
        """What was open in a range is so no longer; returns its mask."""
        mask = ((1 << count) - 1) << offset & lease.open
        lease.open ^= mask
        if mask and not lease.open:
            self.in_hand -= 1
            if self.leases.pop(lease.token, None) is not None:
                self.leases[lease.token] = lease  # last among those that wait for an answer, see `listed`
        return mask

    def save(self, lease: HeldLease, offset: int, blob: bytes) -> None:
        self._words.append(Save(lease.token, offset, blob))

    def insist(self) -> None:
        """Ask again, with haste, for every answer that is missing."""
        self._done = [(token, *run) for token, lease in self.leases.items() if not lease.terms for run in ranges_of(lease.unanswered)]
        self._hurry = bool(self._done)
        calls = [lease for lease in self.leases.values() if lease.terms]
        self._parts = [part for lease in calls for part in lease.parts]
        self._replies = [answer for lease in calls for answer in lease.replies if lease.unanswered & mask_of([answer[1:3]])]

    # -- what is said -------------------------------------------------------------------------------------------------

    def listed(self) -> list[Held]:
        """Rule 1. What is in hand comes first; `open` counts that alone, for a settled message uses no room.

        Then what was settled last: a node lets nobody hold more leases than a READY can list, so those that it cannot know to
        be settled are always among these. The others have been settled there, and only their answers are on their way.
        """
        held = [Held(t, lease.open.bit_count(), lease.wanted) for t, lease in self.leases.items() if lease.open]
        rest = [Held(t, 0, lease.wanted) for t, lease in reversed(self.leases.items()) if not lease.open]
        return (held + rest)[:ENTRIES_MAX]

    def sends(self, beat: int) -> Iterator[Back | Save | Done | Part | Reply]:
        """What is to be said now; `beat`: the last one sent. A SAVE goes before the word that ends its message."""
        while self._words:
            word = self._words.popleft()
            self._unproven.append((beat, word))
            yield word
            if type(word) is Back and (lease := self.leases.get(word.token)):
                lease.returning &= ~mask_of([(word.offset, word.count)])
                self._bury(lease)
        done, self._done = self._done, []
        for start in range(0, len(done), ENTRIES_MAX):
            yield Done(self._hurry, done[start : start + ENTRIES_MAX])
        self._hurry = False
        parts, self._parts = self._parts, []
        yield from parts
        replies, self._replies = self._replies, []
        while replies:
            reply, used = gathered(0, replies, joins=False)
            replies = replies[used:]
            yield reply

    def resume(self) -> None:
        """On a new link. Rule 3; R-Q2 wants the tokens of repeated words listed before the words."""
        self._words.extendleft(word for _, word in reversed(self._unproven))
        self._unproven.clear()
        for word in self._words:
            lease = self.leases.get(word.token)
            if type(word) is Back and lease is None:
                lease = self.leases[word.token] = _ghost(word.token)
            if type(word) is Back and lease is not None:
                lease.returning |= mask_of([(word.offset, word.count)])
        self.insist()
        self._hurry = any(lease.watched for lease in self.leases.values())

    # -- what the node says -------------------------------------------------------------------------------------------

    def echoed(self, beat: int, sent: float, listed: list[int]) -> None:
        """READY number `beat`, sent at `sent` with these tokens, has come back."""
        while self._unproven and self._unproven[0][0] < beat:
            self._unproven.popleft()
        for token in listed:
            if (lease := self.leases.get(token)) is not None:
                lease.renewed = max(lease.renewed, sent)
        for lease in self.leases.values():
            if lease.starts_until > -inf or lease.renewed >= sent:  # else it waits for the first beat that lists it
                lease.move_gate(sent)

    def revoke(self, tokens: list[int]) -> list[Event]:
        events: list[Event] = []
        for token in tokens:
            lease = self.leases.get(token)
            if lease is not None and not lease.revoked:
                lease.revoked, lease.starts_until = True, -inf
                if lease.open:
                    events.append(Revoked(lease))
        return events

    def answered(self, answer: wire.Answer) -> list[Event]:
        events: list[Event] = []
        for token, offset, count, verdict in answer.ranges:
            lease = self.leases.get(token)
            if lease is None:
                continue
            lease.unanswered &= ~(((1 << count) - 1) << offset)
            if len(lease.replies) > 2 * lease.unanswered.bit_count() + REPLIES_SPARE:  # one long call holds up no memory of the others'
                lease.replies = [said for said in lease.replies if lease.unanswered & mask_of([said[1:3]])]
            if verdict != Verdict.OK or lease.watched:
                events.append(Judged(lease, offset, count, Verdict(verdict)))
            self._bury(lease)
        return events

    def cancelled(self, cancel: Cancel) -> list[Event]:
        lease = self.leases.get(cancel.number)
        return [Cancelled(lease, cancel.offset, cancel.count)] if lease is not None and lease.open else []

    def more(self, more: More) -> list[Event]:
        lease = self.leases.get(more.number)
        if lease is None:
            return []
        while lease.parts and lease.parts[0].first + lease.parts[0].count - 1 <= more.got:
            lease.parts.popleft()
        return [Allowed(lease, more.offset, more.parts)]

    def abandon(self) -> list[Event]:
        """Another node answers (R-L6): no lease counts any more, and no answer will come. In doubt is not stale."""
        events: list[Event] = []
        for lease in self.leases.values():
            lease.revoked, lease.starts_until = True, -inf
            if lease.open:
                events.append(Revoked(lease))
            for offset, count in ranges_of(lease.unanswered):
                events.append(Judged(lease, offset, count, Verdict.SETTLED))
            lease.unanswered = lease.returning = 0
        self.leases.clear()
        self._done.clear()
        self._replies.clear()
        self._parts.clear()
        self._words.clear()
        self._unproven.clear()
        self.seen = 0
        return events

    def _bury(self, lease: HeldLease) -> None:
        if not (lease.open or lease.unanswered or lease.returning):
            self.leases.pop(lease.token, None)
            if not self.leases:
                self.shortest = inf


def _ghost(token: int) -> HeldLease:
    """A lease that is over for us, listed only until the node has heard so."""
    lease = HeldLease(Lease("", token, 1, 1, 1, 0.0, 0.0, 0, None, None), -inf)  # type: ignore[arg-type]
    lease.open = 0
    return lease
