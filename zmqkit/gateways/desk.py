"""The desk: what a gateway asks of the node's side, and what it is told. Both sides speak of calls as lists of frames.

A gateway translates one foreign protocol. It is both a caller (its foreign clients ask for services) and a worker (its
foreign workers offer some). How a call is leased, when it may go to another worker and what a lost one means is decided
behind the desk, by the same rules as for native peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

Frames = list[bytes]


class Reply(NamedTuple):
    """The end of a call that the gateway asked for under `ticket`. `frames` None: none will come, `reason` says why."""

    ticket: Any
    frames: Frames | None
    reason: str = ""


class Part(NamedTuple):
    """A part of a streamed answer, in order; `Reply` still follows."""

    ticket: Any
    frames: Frames


class Request(NamedTuple):
    """A call for a foreign worker: answer it once, by `Desk.reply`, `Desk.back` or `Desk.lost`, under `job` (hashable)."""

    service: str
    job: Any
    frames: Frames


class Withdrawn(NamedTuple):
    """Nobody waits for this job any more (cancelled, out of time, or leased away): do not answer it."""

    job: Any


Event = Reply | Part | Request | Withdrawn


class Desk(Protocol):
    def call(
        self, service: str, frames: Frames, ticket: Any, seconds: float, *, wait: bool = True, key: str = "", stream: bool = False
    ) -> None:
        """Ask a service; `Reply` under `ticket` is told once. `wait` False: no worker now is the end of it.

        `stream`: `Part`s may precede the `Reply`.
        """

    def cancel(self, ticket: Any) -> None:
        """Nobody waits for it any more. No `Reply` follows."""

    def served(self, service: str) -> bool | None:
        """Does anybody offer it? None: not known yet, ask again."""

    def offer(self, service: str, free: int) -> None:
        """So many more calls of that service may be handed to this gateway now (absolute, restated at will; 0: none)."""

    def reply(self, job: Any, frames: Frames) -> None: ...

    def part(self, job: Any, frames: Frames) -> None:
        """A part of its answer; `reply` follows with the last."""

    def back(self, job: Any) -> None:
        """Nobody has begun with it: it may go to another worker."""

    def lost(self, job: Any, reason: str) -> None:
        """Its worker vanished with it: whether it was executed, nobody knows."""


class Send(NamedTuple):
    """Frames for one foreign peer, through one of the gateway's doors (its ROUTER sockets, in the order of its endpoints)."""

    door: int
    peer: bytes
    frames: Sequence[bytes]


class Translator(Protocol):
    """A gateway, as its driver sees it. Time is an argument; `take` gives what is to be sent now."""

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None: ...

    def hear(self, events: Sequence[Event], now: float) -> None:
        """The desk has something to tell."""

    def gone(self, door: int, peer: bytes, now: float) -> None:
        """A send to that peer did not leave: it is gone, or does not read.

        Told before the next `take`; nothing more of what the last one gave goes to that peer.
        """

    def tick(self, now: float) -> None: ...

    def take(self) -> list[Send]: ...

    @property
    def deadline(self) -> float:
        """When `tick` is due next; inf: never."""

    @property
    def dropped(self) -> dict[str, int]:
        """What was thrown away, counted by reason."""
