"""What the brokers of foreign protocols have in common: clients that ask, workers that answer, and a count of what was dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from zmqkit.gateways.clients import Call, Clients
from zmqkit.gateways.desk import Desk, Event, Frames, Part, Request, Send, Withdrawn
from zmqkit.gateways.workers import Workers


class Broker(ABC):
    """`salt` is chance from outside: a few bytes that no other process used."""

    def __init__(self, desk: Desk, salt: bytes, request_seconds: float, beat_seconds: float, expiry_seconds: float) -> None:
        self._desk = desk
        self._clients = Clients(desk, request_seconds)
        self._workers = Workers(desk, salt, beat_seconds, expiry_seconds)
        self._out: list[Send] = []
        self.dropped: dict[str, int] = Counter()

    def hear(self, events: Sequence[Event], now: float) -> None:
        self._workers.listen(now)
        for event in events:
            if isinstance(event, Request):
                self._hand(event)
            elif isinstance(event, Withdrawn):
                self._workers.withdraw(event.job)
            else:
                told = self._clients.hear(event)
                if isinstance(told, str):
                    self._drop(told)
                else:
                    self._tell(*told, last=not isinstance(event, Part))
        self._workers.restate()

    def _hand(self, request: Request) -> None:
        self._workers.hand(request)

    @abstractmethod
    def _tell(self, call: Call, frames: Frames, last: bool) -> None:
        """The answer to a client's request, or (not `last`) a part of it."""

    def _drop(self, reason: str) -> None:
        if reason:
            self.dropped[reason] += 1
