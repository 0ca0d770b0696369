"""A client's ledger of asks: numbered questions, each asked on every link until it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmqkit.wire import Ask


class Asks:
    def __init__(self) -> None:
        self.open: dict[int, tuple[str, dict[str, Any], Any]] = {}  # verb, arguments, ticket; by number, in order
        self._last = self._sent = 0

    def add(self, verb: str, arguments: dict[str, Any], ticket: Any) -> None:
        self._last += 1
        self.open[self._last] = verb, arguments, ticket

    def forget(self, ticket: Any) -> None:
        for number in [number for number, ask in self.open.items() if ask[2] is ticket]:
            del self.open[number]

    def resume(self) -> None:
        """On a new link: all that is unanswered is asked again. The node answers what it has done from its own ledger."""
        self._sent = 0

    def sends(self) -> Iterator[Ask]:
        base = next(iter(self.open), self._last + 1)
        for number, (verb, arguments, _) in self.open.items():
            if number > self._sent:
                self._sent = number
                yield Ask(number, base, verb, arguments)

    def told(self, number: int) -> Any:
        """The ticket of an answered ask; None if nobody waits for it."""
        ask = self.open.pop(number, None)
        return ask[2] if ask else None
