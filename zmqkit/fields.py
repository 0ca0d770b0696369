"""Fields: what one value of a header may be. A check is True for a value that is right; it never raises.

Types are compared exactly: a bool is no integer here, and no text is bytes. NaN is in no range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SECONDS_MAX = 1e10  # three centuries: no duration is longer, and none overflows a clock

Check = Callable[[Any], bool]


class Number:
    """From `low` to `high`, both included, and usually of type `kind`. Whoever reads many may ask that without a call."""

    kind: type
    low: float
    high: float

    def __call__(self, value: Any) -> bool:
        raise NotImplementedError


class Integer(Number):
    """A whole number."""

    kind = int

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def __call__(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high


class Seconds(Number):
    """A duration; one without a fraction may be a whole number."""

    kind = float

    def __init__(self, low: float = 0.0) -> None:
        self.low, self.high = low, SECONDS_MAX

    def __call__(self, value: Any) -> bool:
        return type(value) in (int, float) and self.low <= value <= self.high


def text(chars_max: int) -> Check:
    return lambda value: type(value) is str and len(value) <= chars_max


def name(bytes_max: int) -> Check:
    return lambda value: type(value) is str and 1 <= len(value.encode()) <= bytes_max


def unmarked(bytes_max: int) -> Check:
    """A name that does not begin with the mark of services."""
    return lambda value: type(value) is str and 1 <= len(value.encode()) <= bytes_max and value[0] != "\0"


def text_up_to(bytes_max: int) -> Check:
    return lambda value: type(value) is str and len(value.encode()) <= bytes_max


def blob(*lengths: int) -> Check:
    return lambda value: type(value) is bytes and len(value) in lengths


def blob_up_to(bytes_max: int) -> Check:
    return lambda value: type(value) is bytes and len(value) <= bytes_max


def list_of(check: Check, items_max: int) -> Check:
    return lambda value: type(value) is list and len(value) <= items_max and all(map(check, value))


def flag(value: Any) -> bool:
    return type(value) is bool


def map_of_anything(value: Any) -> bool:
    return type(value) is dict


def anything(value: Any) -> bool:
    return True
