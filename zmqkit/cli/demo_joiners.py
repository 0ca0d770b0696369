"""One process of subscribers in `zmqkit demo topic`: `python -m zmqkit.cli.demo_joiners ENDPOINT NOTES JOINS SECONDS`.

Each joins at some moment of these seconds, on a link of its own, which is cut now and then, and of some for longer than the node
keeps updates. Each stays for a while, takes all events, and writes a line of NOTES when it leaves: what its events add up to, and what
`state` says.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from heapq import heapify, heappop
from typing import Any

import zmqkit
from zmqkit.cli.demo_proxy import Proxy
from zmqkit.cli.demo_publisher import TOPIC
from zmqkit.cli.demo_truth import Follower
from zmqkit.cli.notes import Notes

STAY_SECONDS = (0.5, 5.0)
CUTS_MAX = 2  # of one that joined, while it stays
LONG_CUTS = 0.1  # of all
LONG_SECONDS = 4.0  # without a link: the node keeps less
PATIENCE_SECONDS = 60.0  # without an event: the subscription is dead


class Joiner(threading.Thread):
    def __init__(self, endpoint: str, stay_seconds: float, notes: Notes) -> None:
        super().__init__()
        self._proxy, self._stay_seconds, self._notes = Proxy(endpoint), stay_seconds, notes
        self._cuts = self._long_cuts = 0
        self.left = False

    def cut(self, seconds: float) -> None:
        if self.is_alive():
            self._cuts += 1
            self._long_cuts += seconds > 0
            self._proxy.cut(seconds)

    def run(self) -> None:
        follower = Follower()
        with zmqkit.connect(self._proxy.endpoint, timeout=PATIENCE_SECONDS) as mq, mq.topic(TOPIC).subscribe() as sub:
            stalled = not self._follow(sub, follower)
        self._proxy.close()
        # The link has ended: what `state` and `seq` say changes no more.
        fold = {"seq": follower.seq, "map": follower.map, "moment": time.monotonic()}
        state = {"seq": sub.seq, "map": sub.state.copy(), "moment": time.monotonic()}
        cuts = {"cuts": self._cuts, "long_cuts": self._long_cuts}
        row = {"fold": fold, "state": state, "told": follower.told, "unnoticed": follower.unnoticed, "stalled": stalled, **cuts}
        self._notes.write(json.dumps(row))
        self.left = True

    def _follow(self, sub: zmqkit.Subscription[Any], follower: Follower) -> bool:
        """Stay, and leave with an update in hand: then no snapshot is under way. False: there came none."""
        end = time.monotonic() + self._stay_seconds
        while (event := sub.get(PATIENCE_SECONDS)) is not None:
            follower.add(event.key, event.value, event.seq, event.from_snapshot, event.gap)
            if not event.from_snapshot and time.monotonic() >= end:
                return True
        return False


def run(endpoint: str, notes: Notes, joins: int, seconds: float) -> None:
    chance, begin = random.Random(), time.monotonic()
    happenings: list[tuple[float, int, float]] = []  # when, to whom, a cut of so many seconds; negative: it joins
    stays = [chance.uniform(*STAY_SECONDS) for _ in range(joins)]
    for number, stay in enumerate(stays):
        at = begin + chance.uniform(0, seconds)
        happenings.append((at, number, -1.0))
        for _ in range(chance.randint(0, CUTS_MAX)):
            happenings.append((at + chance.uniform(0, stay), number, LONG_SECONDS if chance.random() < LONG_CUTS else 0.0))
    heapify(happenings)
    joined: dict[int, Joiner] = {}
    while happenings:
        at, number, away_seconds = heappop(happenings)
        time.sleep(max(0.0, at - time.monotonic()))
        if away_seconds < 0:
            joined[number] = Joiner(endpoint, stays[number], notes)
            joined[number].start()
        else:
            joined[number].cut(away_seconds)
    for joiner in joined.values():
        joiner.join()
    if not all(joiner.left for joiner in joined.values()):
        sys.exit(1)  # its traceback is in the log


if __name__ == "__main__":
    run(sys.argv[1], Notes(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
