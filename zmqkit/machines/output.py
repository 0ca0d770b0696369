"""What a machine wants done: records to persist, then commands to send. The order is a value, not a habit.

Every `Send` names the position it waits for: 0 leaves at once, any other when the log is durable so far. The driver
appends `records`, keeps held sends in one queue in issue order, and lets go what is durable.
"""

from __future__ import annotations

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


class Output:
    """Of a node's machine. Append `records` in order, then treat `sends` in order."""

    __slots__ = ("events", "records", "released", "sends", "waited")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.waited = False  # somebody waits for one of these records: start a sync
        self.sends: list[Send] = []
        self.events: list[Ended | Dropped] = []
        self.released: list[int] = []  # positions whose bodies are needed no more, durably


class ClientOutput:
    """Of a client's machine: one peer, nothing to persist."""

    __slots__ = ("close", "connect", "events", "sends")

    def __init__(self) -> None:
        self.connect: int | None = None  # close the link if there is one (LINGER 0) and open another under this number
        self.close = False  # close the link for good, after `sends`
        self.sends: list[Command] = []
        self.events: list[Any] = []
