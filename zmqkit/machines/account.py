"""Accounts: what a node keeps of one user, over all its links: its rights, and how much it has of what they limit."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from zmqkit.rights import Limits, Rights

if TYPE_CHECKING:
    from zmqkit.machines.session import Client

BURST_SECONDS = 1.0  # what a second allows may come at once
RETRY_SECONDS_MAX = 3600.0
UNLIMITED = Limits()


class Account:
    __slots__ = ("_paid_until", "clients", "free", "in_flight", "limits", "name", "owned", "rights", "user")

    def __init__(self, user: str | None, rights: Rights | None) -> None:
        self.user = user  # None: of clients that the log knows of, and that did not come back yet
        self.clients: dict[bytes, Client] = {}
        self.owned: dict[int, None] = {}  # numbers of the queues and topics that came into being by it
        self.in_flight = 0  # messages and calls leased to it, and calls of its own without an outcome; a checker proves it
        self._paid_until = -inf  # what it has published takes so long at its rate
        self.entitle(rights)

    def entitle(self, rights: Rights | None) -> None:
        """None: it has no rights here, or no more."""
        self.rights = rights
        self.limits = UNLIMITED if rights is None else rights.limits
        self.free = rights is not None and rights.free  # there is nothing to ask
        self.name = "" if rights is None else rights.name

    @property
    def who(self) -> str:
        """In a refusal."""
        return f"key {self.name}" if self.name else "this key"

    @property
    def room(self) -> float:
        """So many messages or calls may be in flight beside those that are."""
        return self.limits.in_flight - self.in_flight

    def overdrawn(self, now: float) -> float:
        """Seconds until it may publish again; 0.0: it may. A batch is let through whole, and paid for by what comes later."""
        if not self.limits.bytes:
            return RETRY_SECONDS_MAX
        return min(RETRY_SECONDS_MAX, max(0.0, self._paid_until - now - BURST_SECONDS))

    def publish(self, size: int, now: float) -> None:
        """So many bytes were taken."""
        self._paid_until = max(self._paid_until, now) + size / self.limits.bytes
