"""The publisher of `zmqkit demo topic`: `python -m zmqkit.cli.demo_publisher ENDPOINT LOG CONFIRMED UPDATES_PER_S`.

Updates random keys until SIGTERM: some are deleted, some have a ttl, which the node ends by a deletion of its own. Beside that it
follows the topic from its beginning on another link. What that sees is LOG, one update a line; what was confirmed is CONFIRMED.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import count, islice
from math import ceil
from pathlib import Path

import zmqkit
from zmqkit.cli.demo_truth import Entry, Value

TOPIC = "demo"
KEYS = 900  # fit one piece of a snapshot
DELETIONS, WITH_TTL = 0.1, 0.15  # of all updates
TTL_SECONDS = (0.5, 4.0)
AHEAD_MAX = 1000  # updates that the observer has not seen: fewer than the node keeps, so that it misses none
BURST_SECONDS = 0.01  # what is between two of them comes together
END_SECONDS = 60.0  # for what is under way at SIGTERM


class Observer(threading.Thread):
    """Follows from the first update, and writes down each. Fails if it is told of a gap, or finds one."""

    def __init__(self, sub: zmqkit.Subscription[Value]) -> None:
        super().__init__(daemon=True)
        self._sub = sub
        self.log: list[Entry] = []

    def run(self) -> None:
        for event in self._sub:
            if event.gap is not None or event.from_snapshot or event.seq != len(self.log) + 1:
                return
            self.log.append(Entry(event.seq, event.key, event.value))

    @property
    def seq(self) -> int:
        if not self.is_alive():
            sys.exit("the observer has missed an update: nothing can be compared")
        return len(self.log)


class Publisher:
    def __init__(self, topic: zmqkit.Topic[Value]) -> None:
        self._topic, self._chance = topic, random.Random()
        self._waiting: deque[tuple[zmqkit.PutFuture, str, Value | None]] = deque()
        self.confirmed: list[Entry] = []

    def publish(self, number: int) -> None:
        kind, key = self._chance.random(), f"key-{self._chance.randrange(KEYS)}"
        ttl = self._chance.uniform(*TTL_SECONDS) if kind > 1 - WITH_TTL else None
        value = None if kind < DELETIONS else [number, time.monotonic(), ttl]
        future = self._topic.delete_soon(key) if value is None else self._topic.publish_soon(key, value, ttl)
        self._waiting.append((future, key, value))
        self.collect(False)

    def collect(self, all: bool) -> None:
        """Write down what is confirmed. Raises what a publish failed with."""
        while self._waiting and (all or self._waiting[0][0].done()):
            future, key, value = self._waiting.popleft()
            self.confirmed.append(Entry(future.result(END_SECONDS).seq, key, value))

    @property
    def newest(self) -> int:
        """The number of the newest update, as far as this one knows."""
        return (self.confirmed[-1].seq if self.confirmed else 0) + len(self._waiting)


def run(endpoint: str, log: Path, confirmed: Path, updates_per_s: float) -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: over.set())
    with zmqkit.connect(endpoint) as mq, zmqkit.connect(endpoint) as other, other.topic(TOPIC).subscribe(start="beginning") as sub:
        assert sub.wait_ready(END_SECONDS)
        publisher, observer = Publisher(mq.topic(TOPIC)), Observer(sub)
        observer.start()
        print("ready", flush=True)
        numbers, following = count(1), time.monotonic()
        while not over.wait(max(0.0, following - time.monotonic())):
            following = max(following, time.monotonic()) + BURST_SECONDS  # after a standstill it does not hurry to catch up
            for number in islice(numbers, ceil(updates_per_s * BURST_SECONDS)):
                publisher.publish(number)
            while publisher.newest - observer.seq > AHEAD_MAX:
                time.sleep(BURST_SECONDS)
                publisher.collect(False)
        publisher.collect(True)
        while observer.seq < publisher.newest:
            time.sleep(0.01)
    write(log, observer.log)
    write(confirmed, publisher.confirmed)


def write(path: Path, entries: Iterable[Entry]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in list(entries)))


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
