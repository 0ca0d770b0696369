"""Where a client's link stands, and how long each phase may last."""

from __future__ import annotations

from enum import Enum

WELCOME_SECONDS = 2.0
BEAT_SECONDS = 1.0
IDLE_BEATS = 2.5  # nothing held, nothing awaited
BEATS_A_LEASE = 3  # a short lease is renewed before a lost turn or two end it
PATIENCE_SECONDS = 3.0
RETRY_SECONDS, RETRY_SECONDS_MAX = 0.1, 1.0
BYE_SECONDS = 2.0  # for the node's goodbye


class Phase(Enum):
    IDLE = "not started"
    WAITING = "between two attempts"
    GREETING = "HELLO said"
    UP = "WELCOME heard"
    PARTING = "BYE said"
    CLOSED = "closed"


UP = Phase.UP  # asked several times a turn: reading a member off its enum takes as long as a call
