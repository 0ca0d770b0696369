"""What a client's machine tells the handles: one value per batch, lease or turn, never one per message."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqkit.parcel import Parcel
from zmqkit.wire import Status, Verdict

if TYPE_CHECKING:
    from zmqkit.machines.following import Subscription
    from zmqkit.machines.holdings import HeldLease


class Up(NamedTuple):
    """A link stands. `changed`: another node than before answered, so every lease held until now has ended."""

    node: bytes
    epoch: int
    limits: dict[str, Any]
    changed: bool


class Down(NamedTuple):
    """A link ended, or an attempt to make one failed. The machine goes on trying by itself."""

    reason: str


class Stored(NamedTuple):
    """The batch of this ticket is in the queue, its first message under number `qseq`."""

    ticket: Any
    qseq: int
    durability: str


class Rejected(NamedTuple):
    """The batch of this ticket was refused: nothing of it is in the queue, and nothing of it will be."""

    ticket: Any
    code: int
    retry_after: float
    text: str


class Postponed(NamedTuple):
    """The node stops and takes no more puts. What is under way of this queue is offered to it again later, unless it is taken back."""

    queue: str


class Granted(NamedTuple):
    """A lease arrived: all its messages wait to be taken, until `lease.starts_until`."""

    lease: HeldLease


class Judged(NamedTuple):
    """The node's answer to a DONE. OK is only told for a lease that somebody watches."""

    lease: HeldLease
    offset: int
    count: int  # type: ignore[assignment]  # of messages, not tuple.count
    verdict: Verdict


class Revoked(NamedTuple):
    """This lease has ended: drop what waits; what runs is no longer ours (call `drop` when it has ended)."""

    lease: HeldLease


class Barred(NamedTuple):
    """The node opens no window into this queue or (by its marked name) service. Whoever goes on wanting one is told so again."""

    queue: str
    code: int
    retry_after: float
    text: str


class Replied(NamedTuple):
    """The answer to an ask."""

    ticket: Any
    result: Any


class Echoed(NamedTuple):
    """A fresh heartbeat came back: gates have moved on. What the windows in it allowed has arrived before; if it was sent
    `behind` the words of its turn, also what these made room for."""

    beat: int
    behind: bool


class Left(NamedTuple):
    """The goodbye is complete: the node has given back what was left. Nothing more comes."""


class Answered(NamedTuple):
    """Calls of this ticket were answered: OK, ERROR or END, with one body each."""

    ticket: Any
    offset: int
    count: int  # type: ignore[assignment]
    status: Status
    parcel: Parcel


class Outcome(Enum):
    """How a call ends without an answer."""

    NOT_SENT = "it never left this process"
    NO_WORKER = "nobody serves that name"
    UNDISPATCHED = "no worker got it in time"
    MAYBE_EXECUTED = "a worker may have executed it"
    QUOTA = "a limit of the node's is reached"
    STOPPING = "the node stops"
    FORBIDDEN = "this key may not do that"
    MALFORMED = "the node did not understand it"


class Failed(NamedTuple):
    """Calls of this ticket ended without an answer."""

    ticket: Any
    offset: int
    count: int  # type: ignore[assignment]
    outcome: Outcome
    text: str
    retry_after: float


class Parts(NamedTuple):
    """The next parts of a streamed answer, the first of them under number `first` (from 1)."""

    ticket: Any
    first: int
    parcel: Parcel


class Cancelled(NamedTuple):
    """Nobody waits for these calls of a lease any more."""

    lease: HeldLease
    offset: int
    count: int  # type: ignore[assignment]


class Allowed(NamedTuple):
    """Of a stream that is being answered: so many parts may be sent in all."""

    lease: HeldLease
    offset: int
    parts: int


class News(NamedTuple):
    """These subscriptions have news."""

    subscriptions: list[Subscription]


Event = (
    Up | Down | Stored | Rejected | Postponed | Granted | Judged | Revoked | Barred | Replied | Echoed | Left
    | Answered | Failed | Parts | Cancelled | Allowed | News
)  # fmt: skip
