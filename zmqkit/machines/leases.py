"""Leases: messages of one parcel that are one consumer's until a deadline, and the one table of how a lease ends.

Rule 1: a token names one lease and is never reused: epoch << 40 | counter (a fencing token, it only rises).
Rule 2: every end other than DONE goes through the table below; nothing else decides what an end costs.
Rule 3: a message is settled, returned or revoked by bit: `open` and `revoked` are masks over the lease's messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from zmqkit.machines.parts import Batch

TOKEN_COUNTER_BITS = 40


class Cause(NamedTuple):
    """Why a lease ended, and what that costs its messages."""

    name: str
    counts: bool = False  # a failed attempt
    only_single: bool = False  # …but only if the lease was granted with one message: a neighbour is not to blame
    suspect: bool = False  # otherwise: leased singly from now on, to find out which one kills
    backoff: bool = False  # wait before the next attempt
    logged: bool = True
    unasked: bool = False  # its holder does not know yet, and may be running them


NACK = Cause("nack", counts=True, backoff=True, logged=False)
REJECT = Cause("reject", counts=True, logged=False)
SPLIT = Cause("split", suspect=True, logged=False)
SNOOZE = Cause("snooze", logged=False)
UNSTARTED = Cause("unstarted")
STOPPED = Cause("client-stopped")
UNSENT = Cause("unsent")
UNLISTED = Cause("not-held")
UNRECEIVED = Cause("not-received")
LOST = Cause("link-lost", counts=True, only_single=True, suspect=True, unasked=True)
EXPIRED = Cause("expired", counts=True, only_single=True, suspect=True, unasked=True)
ORPHANED = Cause("node-restarted", counts=True, only_single=True, suspect=True, unasked=True)
DELETED = Cause("queue-deleted", unasked=True)
WITHDRAWN = Cause("rights-withdrawn", unasked=True)


class Lease:
    """`count` messages of `batch` from `offset` on; bit i of the masks is message offset + i."""

    __slots__ = (
        "batch", "client", "count", "deadline", "granted", "link", "lost", "offset", "open", "queue", "revoked", "seconds", "token",
    )  # fmt: skip

    def __init__(self, token: int, queue: int, client: bytes, link: int, batch: Batch, offset: int, count: int) -> None:
        self.token = token
        self.queue = queue  # its number
        self.client = client
        self.link = link  # number of the client's link that holds it; 0: none since the node started
        self.batch = batch  # of calls: their Job
        self.offset = offset
        self.count = count
        self.open = (1 << count) - 1
        self.revoked = 0
        self.granted = 0.0
        self.seconds = 0.0
        self.deadline = 0.0
        self.lost = False  # the deadline was brought forward because the link ended

    @property
    def qseq(self) -> int:
        return self.batch.qseq + self.offset
