"""What a node knows of one client: its link, what it holds, what it is willing to take, and how far its streams are."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from zmqkit.machines.account import Account
from zmqkit.machines.leases import Lease
from zmqkit.machines.ledger import Ledger
from zmqkit.parcel import Parcel


class Consumer:
    """A client's appetite for one queue. `open` counts its leased messages; a checker proves that it equals the leases."""

    __slots__ = ("client", "lease_seconds", "open", "revoked", "window")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.window = 0  # absolute, in messages
        self.lease_seconds = 0.0
        self.open = 0
        self.revoked = 0  # messages of revoked tokens that the client lists, or does not know of: they run, so they take up room

    @property
    def room(self) -> int:
        return self.window - self.open - self.revoked


class Accepted(NamedTuple):
    """An answer of a stream: these numbers were stored as qseq…, by the record at `after`."""

    first: int
    count: int  # type: ignore[assignment]
    qseq: int
    after: int


class Stream:
    """One producer's numbers in one queue: dense, counted in messages."""

    __slots__ = ("answers", "last", "merging", "seen")

    def __init__(self) -> None:
        self.last = 0  # highest number accepted, or refused and passed over
        self.answers: deque[Accepted] = deque()  # of numbers >= the producer's base
        self.merging: list[Parcel] = []  # accepted in this turn, not yet a record
        self.seen = 0.0

    def pass_base(self, base: int) -> None:
        """The producer knows the answer of every number below `base`."""
        self.last = max(self.last, base - 1)
        answers = self.answers
        while answers and answers[0].first + answers[0].count <= base:
            answers.popleft()


class Client:
    __slots__ = (
        "account", "alone_token", "asks", "beat", "beat_at", "consumers", "doubt", "id", "last_ready", "leases", "link", "next_echo",
        "parted", "peer", "revoke", "seen", "stray", "streams",
    )  # fmt: skip

    def __init__(self, client: bytes, account: Account) -> None:
        self.id, self.account = client, account
        self.peer = b""  # routing id of the newest link, b"" while there is none
        self.link = 0
        self.beat = 0  # number of its newest READY
        self.beat_at = 0.0  # when that came
        self.seen = 0  # highest token it has received
        self.last_ready = 0.0  # heard time of the newest READY
        self.next_echo = 0.0
        self.revoke: list[int] = []  # tokens to name in the next ECHO
        self.consumers: dict[int, Consumer] = {}  # by queue number
        self.leases: dict[int, Lease] = {}  # by token, also ended ones whose revoked messages it may still name
        self.stray = 0  # messages of leases that are over, which it still ran when last heard of: its next READY tells
        self.doubt = 0  # tokens up to here were forgotten: what a DONE of them did is unknown
        self.alone_token = 0  # of a suspect it holds: nothing else goes to it meanwhile
        self.streams: dict[int, Stream] = {}  # by queue number
        self.parted: dict[str, Stream] = {}  # by the name of a queue that was deleted, until its producer goes on
        self.asks = Ledger()

    def holds_any(self) -> bool:
        return any(lease.open for lease in self.leases.values())

    def runs_any(self) -> bool:
        """Also of leases that are over. It does not run dry, and is no company for a suspect, before these are done."""
        return self.stray > 0 or self.holds_any()
