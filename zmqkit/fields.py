"""Fields: what one value of a header may be. A check is True for a value that is right; it never raises.

Types are compared exactly: a bool is no integer here, and no text is bytes. NaN is in no range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SECONDS_MAX = 1e10  # three centuries: no duration is longer, and none overflows a clock

Check = Callable[[Any], bool]


def one_line(text: str) -> str:
    """Somebody else's words, for a log or a message: they end no line and move no cursor."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "�" for letter in text)


class Number:
    """From `low` to `high`, both included, and of one of these types, most often the first. Whoever reads many asks that without a call."""

    def __init__(self, low: float, high: float, *kinds: type) -> None:
        self.low, self.high, self.kind, self._kinds = low, high, kinds[0], kinds

    def __call__(self, value: Any) -> bool:
        return type(value) in self._kinds and self.low <= value <= self.high


class Integer(Number):
    """A whole number."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high, int)


class Seconds(Number):
    """A duration; one without a fraction may be a whole number."""

    def __init__(self, low: float = 0.0) -> None:
        super().__init__(low, SECONDS_MAX, float, int)


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
