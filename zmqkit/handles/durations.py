"""Durations as users give them: seconds, or a timedelta."""

from __future__ import annotations

from datetime import timedelta
from math import isfinite

from zmqkit.fields import SECONDS_MAX
from zmqkit.reactor import now

Duration = float | timedelta


def seconds(duration: Duration) -> float:
    """At most three centuries, which the wire can say. Raises ValueError for a negative or infinite one, TypeError for what is none."""
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise TypeError(f"{duration!r} is no duration: give seconds or a timedelta")
    if not isfinite(duration) or duration < 0:
        raise ValueError(f"{duration!r} is no duration: give finite seconds from 0 on, or None where waiting for ever is meant")
    return min(float(duration), SECONDS_MAX)


def patience(timeout: Duration | None) -> float | None:
    """A timeout: None waits for ever."""
    return None if timeout is None else seconds(timeout)


def left(deadline: float | None, at_most: float | None = None) -> float | None:
    """Until that moment, or `at_most` so long; None: for ever."""
    limits = [limit for limit in (at_most, None if deadline is None else deadline - now()) if limit is not None]
    return max(0.0, min(limits)) if limits else None
