"""What is known of a client's nodes, and a watch on those that come, go, and are cut off."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from zmqkit.handles.waiting import Listeners, Steps, run

Kind = Literal["came", "up", "down", "gone"]
EVENTS_MAX = 1000  # that wait to be taken; then the oldest is forgotten for each new one


class NodeInfo(NamedTuple):
    """One node of a client at one moment.

    name    as discovery tells it; "" if nobody did
    node    its id, as receipts and events name it; "" as long as it was never reached
    reason  why it is not up
    """

    name: str
    endpoint: str
    node: str
    up: bool
    reason: str


class NodeEvent(NamedTuple):
    """`kind`: "came" (it is one of the client's), "up", "down" or "gone" (it is none any more)."""

    kind: Kind
    node: NodeInfo


class Watches:
    """All of one client. On the I/O thread."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []

    def begin(self, watch: Watch, infos: Iterable[NodeInfo]) -> None:
        """With the nodes that are there."""
        for info in infos:
            watch.tell(NodeEvent("came", info))
            if info.up:
                watch.tell(NodeEvent("up", info))
        self._watches.append(watch)

    def tell(self, kind: Kind, info: NodeInfo) -> None:
        self._watches = [watch for watch in self._watches if not watch.ended]
        for watch in self._watches:
            watch.tell(NodeEvent(kind, info))

    def end(self) -> None:
        for watch in self._watches:
            watch.close()


class Watch(Listeners):
    """Made by `Client.watch()`. Begins with the nodes that are there, and ends with its client, or by `close`."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self._changed = threading.Condition()
        self._events: deque[NodeEvent] = deque(maxlen=EVENTS_MAX)

    @property
    def happened(self) -> bool:
        return bool(self._events) or self.ended

    def wait(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.happened, timeout)

    def tell(self, event: NodeEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()
        self._tell()

    def close(self) -> None:
        """Who waits for events is told that none will come."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()
        self._tell()

    def taking(self) -> Steps[NodeEvent | None]:
        """The next event; None: there will be none."""
        while not self.ended:
            yield self, None
            try:
                return self._events.popleft()
            except IndexError:
                pass  # another thread was faster, or it has ended
        return None

    def __iter__(self) -> Iterator[NodeEvent]:
        while (event := run(self.taking())) is not None:
            yield event

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
