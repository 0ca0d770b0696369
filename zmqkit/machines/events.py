"""What a client's machine tells the handles: one value per batch, lease or turn, never one per message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zmqkit.wire import Verdict

if TYPE_CHECKING:
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


Event = Up | Down | Stored | Rejected | Granted | Judged | Revoked | Replied | Echoed | Left
