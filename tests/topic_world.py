"""What the tests of topics share: a node and a client of it, what an application makes of the events, and waiting for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from handle_world import SOON, eventually, world

import zmqkit
from zmqkit.handles.feed import Event
from zmqkit.handles.topic import Subscription

Pair = tuple[zmqkit.Node, zmqkit.Client]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with world() as made:
        yield made


@pytest.fixture
def mq(pair: Pair) -> zmqkit.Client:
    return pair[1]


class Fold:
    """A plain fold of a subscription's events, and the gaps that it was told of."""

    def __init__(self, sub: Subscription[Any]) -> None:
        self.sub = sub
        self.state: dict[str, Any] = {}
        self.events: list[Event] = []
        self.gaps: list[Any] = []

    def add(self, event: Event) -> None:
        self.events.append(event)
        if event.gap is not None:
            self.gaps.append(event.gap)
        if event.deleted:
            self.state.pop(event.key, None)
        else:
            self.state[event.key] = event.value

    def until(self, truth: dict[str, Any], seq: int) -> None:
        """Take events until all of them are there, and the state. It may be a moment ahead of them."""
        eventually(lambda: self._drain() and self.sub.seq == seq and self.state == truth == self.sub.state.copy())

    def merged(self, truth: dict[str, Any]) -> None:
        """The same where several nodes are followed."""
        eventually(lambda: self._drain() and self.state == truth == self.sub.state.copy())

    def _drain(self) -> bool:
        while (event := self.sub.get(timeout=0)) is not None:
            self.add(event)
        return True

    @property
    def told(self) -> list[tuple[str, Any]]:
        return [(event.key, event.value) for event in self.events]


def taken(sub: Subscription[Any]) -> Event:
    event = sub.get(timeout=SOON)
    assert event is not None
    return event


def declare(node: zmqkit.Node, topic: str, **policy: Any) -> None:
    node._session.ask("topic_declare", {"topic": topic, "policy": policy}, SOON)
