"""The processes of `zmqkit bench topic`: `python -m zmqkit.cli.bench_topic_roles ROLE ENDPOINT MESSAGES SIZE KEYS SUBSCRIBERS`.

Each uses the public API only, against any node (`zmqkit broker`), so one of them can be looked at by itself. One that has to be there
before the others prints `ready`; each role's last line is its result as JSON, `cpu_s` what its process worked for it.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import zmqkit
from zmqkit.cli.bench_load import CLOCK, STAMP, percentiles
from zmqkit.cli.bench_updates import names, sequence, truth, updates, wrong

TOPIC = "bench"
LOOK_SECONDS = 0.002
STALL_SECONDS_MAX = 30.0  # without an update for so long, what is missing is lost
LATENCY_EVERY = 256  # events
UPDATES_PER_S = 50_000  # beside which snapshots are taken
SLICE_SECONDS = 0.01
SLACK_NS = 100_000_000  # what a scheduler delays is caught up
LOADED_SECONDS_MAX = 300.0

Result = dict[str, Any]


def ready() -> None:
    print("ready", flush=True)


def publish(endpoint: str, messages: int, size: int, keys: int, subscribers: int) -> Result:
    order = sequence(keys, messages)
    with zmqkit.connect(endpoint) as mq:
        topic = mq.topic(TOPIC)
        begin, cpu = CLOCK(), time.process_time()
        receipt = topic.publish_many(updates(order, size), timeout=None)
        return {"first_ns": begin, "last_ns": CLOCK(), "cpu_s": time.process_time() - cpu, "durability": receipt.durability}


# -- subscribers ------------------------------------------------------------------------------------------------------------


class Crowd:
    """Subscribers that are ready, each with a link of its own, and what their process works while they follow."""

    def __init__(self, endpoint: str, subscribers: int) -> None:
        self._clients = [zmqkit.connect(endpoint) for _ in range(subscribers)]
        self.subs = [mq.topic(TOPIC).subscribe() for mq in self._clients]
        assert all([sub.wait_ready(None) for sub in self.subs])

    def until(self, slowest: Callable[[], int], messages: int) -> Result:
        """Until the slowest has so many, or none has got one for too long."""
        ready()
        cpu, moved, before = time.process_time(), CLOCK(), 0
        while (reached := slowest()) < messages:
            if reached > before or not before:
                before, moved = reached, CLOCK()
            elif CLOCK() - moved > STALL_SECONDS_MAX * 1e9:
                break
            time.sleep(LOOK_SECONDS)
        return {"last_ns": CLOCK(), "cpu_s": time.process_time() - cpu}

    def close(self) -> None:
        for mq in self._clients:
            mq.close()


def follow_state(endpoint: str, messages: int, size: int, keys: int, subscribers: int) -> Result:
    """Nobody takes events; each subscriber's state is compared when it has all."""
    expected, crowd = truth(sequence(keys, messages)), Crowd(endpoint, subscribers)
    result = crowd.until(lambda: min(sub.seq for sub in crowd.subs), messages)
    lost = sum(wrong(sub.state.copy(), expected) for sub in crowd.subs)
    crowd.close()
    return {**result, "lost": lost, "duplicated": 0, **percentiles([])}


class Taker(threading.Thread):
    """Takes every event of one subscription; each has the number behind the one before."""

    def __init__(self, sub: zmqkit.Subscription[bytes]) -> None:
        super().__init__(daemon=True)
        self._sub = sub
        self.seq = self.lost = self.duplicated = 0
        self.latencies_ns: list[int] = []

    def run(self) -> None:
        expected = 1
        for event in self._sub:
            if event.seq != expected:
                self.lost += max(0, event.seq - expected)
                self.duplicated += event.seq < expected
            if not event.seq % LATENCY_EVERY:
                self.latencies_ns.append(CLOCK() - STAMP.unpack_from(event.value)[1])
            self.seq, expected = event.seq, event.seq + 1


def follow_events(endpoint: str, messages: int, size: int, keys: int, subscribers: int) -> Result:
    """A thread for each subscriber takes its events one by one."""
    crowd = Crowd(endpoint, subscribers)
    takers = [Taker(sub) for sub in crowd.subs]
    for taker in takers:
        taker.start()
    result = crowd.until(lambda: min(taker.seq for taker in takers), messages)
    lost = sum(taker.lost + max(0, messages - taker.seq) for taker in takers)
    crowd.close()
    latencies = [latency for taker in takers for latency in taker.latencies_ns]
    return {**result, "lost": lost, "duplicated": sum(taker.duplicated for taker in takers), **percentiles(latencies)}


# -- late joiners -----------------------------------------------------------------------------------------------------------


def update_evenly(endpoint: str, messages: int, size: int, keys: int, subscribers: int) -> Result:
    """Give each key a value; then updates of random keys, so many a second, until SIGTERM."""
    over, all_keys, seconds = threading.Event(), names(keys), Counter[int]()
    signal.signal(signal.SIGTERM, lambda number, frame: over.set())
    with zmqkit.connect(endpoint) as mq:
        topic = mq.topic(TOPIC)
        topic.publish_many(updates(all_keys, size), timeout=None)
        ready()
        begin = CLOCK()
        receipt = topic.publish_many(_evenly(all_keys, size, over, seconds), timeout=None)
        elapsed = CLOCK() - begin
    least = min(seconds[second] for second in range(max(1, elapsed // 10**9)))
    return {"updates_per_s": round(receipt.count / elapsed * 1e9), "least_in_a_second": least, "durability": receipt.durability}


def _evenly(keys: list[str], size: int, over: threading.Event, seconds: Counter[int]) -> Iterator[tuple[str, bytes]]:
    """At their time, or when there is room; what that delays is not caught up. `seconds`: how many in each. At least one slice."""
    slice, chance, begin = round(UPDATES_PER_S * SLICE_SECONDS), random.Random(1), CLOCK()
    following = begin
    for first in count(len(keys), slice):
        for number, key in enumerate(chance.choices(keys, k=slice), first):
            yield key, STAMP.pack(number, 0).ljust(size, b"\0")
        seconds[(CLOCK() - begin) // 10**9] += slice
        following = max(following, CLOCK() - SLACK_NS) + round(SLICE_SECONDS * 1e9)
        if over.wait(max(0.0, (following - CLOCK()) / 1e9)):
            return


def join(endpoint: str, messages: int, size: int, keys: int, subscribers: int) -> Result:
    """At SIGUSR1 join; at the next one compare what it has by then with what there was at that number."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # before there are threads, so that none of them gets it
    with zmqkit.connect(endpoint) as mq:
        mq.topics()  # the link is up
        ready()
        signal.sigwait([signal.SIGUSR1])
        begin = CLOCK()
        sub = mq.topic(TOPIC).subscribe()
        complete = sub.wait_ready(LOADED_SECONDS_MAX)
        seconds = (CLOCK() - begin) / 1e9
        ready()
        signal.sigwait([signal.SIGUSR1])
        before = sub.seq
        state = sub.state.copy()
        sub.close()
    # The value of the newest update says of which moment the copy is; the link may have brought more since `seq` was read.
    newest = max((STAMP.unpack_from(value)[0] for value in state.values()), default=-1)
    expected = truth(names(keys) + sequence(keys, max(0, newest + 1 - keys)))
    lost = wrong(state, expected) if complete and newest + 1 >= before else keys
    return {"seconds": round(seconds, 3), "lost": lost, "seq": newest + 1}


ROLES: dict[str, Callable[[str, int, int, int, int], Result]] = {
    role.__name__: role for role in (publish, follow_state, follow_events, update_evenly, join)
}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:7]))), flush=True)
