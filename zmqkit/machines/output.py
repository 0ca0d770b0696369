"""What a machine wants done: records to persist, then commands to send. The order is a value, not a habit.

Every `Send` names the position it waits for: 0 leaves at once, any other when the log is durable so far. The driver
appends `records`, keeps held sends in one queue in issue order, and lets go what is durable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zmqkit.records import Record
from zmqkit.wire import Command


class Send(NamedTuple):
    peer: bytes
    command: Command
    after: int = 0


class Ended(NamedTuple):
    """A lease, or a part of it, ended otherwise than by its consumer's DONE. For the log that people read."""

    queue: str
    token: int
    first: int  # qseq
    count: int  # type: ignore[assignment]
    cause: str


class Dropped(NamedTuple):
    """Something was thrown away: counted by reason, never in silence."""

    reason: str
    peer: bytes
    detail: str


@dataclass(slots=True)
class Output:
    """Of a node's machine. Append `records` in order, then treat `sends` in order."""

    records: list[Record] = field(default_factory=list)
    waited: bool = False  # somebody waits for one of these records: start a sync
    sends: list[Send] = field(default_factory=list)
    events: list[Ended | Dropped] = field(default_factory=list)
    released: list[int] = field(default_factory=list)  # positions whose bodies are needed no more, durably


@dataclass(slots=True)
class ClientOutput:
    """Of a client's machine: one peer, nothing to persist."""

    connect: int | None = None  # close the link if there is one (LINGER 0) and open another under this number
    close: bool = False  # close the link for good, after `sends`
    sends: list[Command] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
