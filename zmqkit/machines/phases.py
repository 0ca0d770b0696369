"""Where a client's link stands."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    IDLE = "not started"
    WAITING = "between two attempts"
    GREETING = "HELLO said"
    UP = "WELCOME heard"
    PARTING = "BYE said"
    CLOSED = "closed"


UP = Phase.UP  # asked several times a turn: reading a member off its enum takes as long as a call
