"""What one seed simulates: every seed first draws its own world (swarm testing), so that no two look alike.

A world in which all faults are on all the time reaches less than many worlds in each of which only some are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from random import Random
from typing import Any

from zmqkit.simulator.clock import Scheduler
from zmqkit.simulator.disk import DiskConfig
from zmqkit.simulator.net import NetConfig
from zmqkit.simulator.sizes import TopicSizes

# kind -> seconds between two of them, on average, where it is on
FAULTS = {
    "kill node": 6.0,
    "cut power": 8.0,
    "stop node": 7.0,
    "slow disk": 4.0,
    "full disk": 6.0,
    "sync error": 12.0,
    "damaged checkpoint": 9.0,
    "kill client": 3.0,
    "stop client": 3.0,
    "leave": 4.0,
    "hasty leave": 5.0,
    "cut link": 1.5,
    "half-open link": 3.0,
    "unreachable": 4.0,
    "pause queue": 6.0,
    "look": 2.0,
    "redrive": 5.0,
    "purge": 9.0,
}

# The same, of topics: drawn for worlds that have some.
TOPIC_FAULTS = {
    "change prefixes": 1.0,
    "stop taking": 2.0,
    "unsubscribe": 2.0,
    "declare topic": 4.0,
    "look at topics": 3.0,
}
QUEUE_FAULTS = ("pause queue", "look", "redrive", "purge")


@dataclass
class Config:
    chaos_seconds: float = 15.0
    producers: int = 2
    workers: int = 2
    both: bool = False  # workers also put what they made into the last queue
    queues: int = 1
    put_every: float = 0.05  # seconds, on average
    put_messages: int = 5  # at most, in a batch
    messages_max: int = 300  # puts in all, of one producer
    credit: int = 4  # 0: auto
    handlers: int = 2  # at a time, in one worker
    batched: bool = False  # a handler takes what is there of a lease
    handler_seconds: float = 0.05
    slow_handlers: float = 0.0  # share that takes 3 leases long
    failing: float = 0.1  # share of handler runs that ends otherwise than by ack
    poison: float = 0.0  # share of messages that kill their worker
    watched: float = 0.3  # share of acks that wait for their answer
    lease: float = 5.0
    grace: float = 2.0
    max_attempts: int = 8
    max_messages: int = 0  # 0: no limit
    on_full: str = "reject"
    callers: int = 0
    serving: bool = False  # workers answer calls beside their queues
    services: int = 1
    call_every: float = 0.05  # seconds, on average
    call_batch: int = 3  # calls at most, in a batch
    calls_max: int = 100  # of one caller
    keyed: float = 0.0  # share of calls with an idempotency key
    streams: float = 0.0  # share of calls that want parts
    cancelled: float = 0.0  # share of calls that are cancelled
    publishers: int = 0
    readers: int = 0
    topics: int = 1
    update_every: float = 0.05  # seconds, on average
    updates_batch: int = 5  # at most
    updates_max: int = 100  # of one publisher
    deletions: float = 0.2  # share of updates
    ttls: float = 0.2  # share of values that have one
    named: float = 0.3  # share of subscriptions that keep their position at the node
    take_every: float = 0.0  # seconds, on average, between the takings of a reader; 0: at once
    windows: tuple[int, ...] = (1 << 20,)  # bytes, of which a reader has one
    durability: str = "disk"
    keep_values: bool = True
    history: int = 100_000  # max_messages
    topic_sizes: TopicSizes = field(default_factory=TopicSizes)
    drain_max: int = 256
    drift: float = 0.0
    net: NetConfig = field(default_factory=NetConfig)
    disk: DiskConfig = field(default_factory=DiskConfig)
    faults: tuple[str, ...] = ()

    @classmethod
    def draw(cls, scheduler: Scheduler) -> Config:
        random = scheduler.random("config")
        pick = random.choice
        poison = pick((0.0, 0.0, 0.02))
        return cls(
            chaos_seconds=pick((3.0, 6.0, 12.0)),
            producers=pick((1, 1, 2, 3)), workers=pick((1, 2, 2, 3, 4)), both=random.random() < 0.2, queues=pick((1, 1, 2)),
            put_every=pick((0.005, 0.05, 0.05, 0.3)), put_messages=pick((1, 3, 8, 30)), messages_max=pick((20, 60, 150)),
            credit=pick((0, 1, 1, 4, 20)), handlers=pick((1, 2, 8)), batched=random.random() < 0.25,
            handler_seconds=pick((0.0005, 0.01, 0.1, 0.5)), slow_handlers=pick((0.0, 0.0, 0.02)),
            failing=pick((0.0, 0.1, 0.3)), poison=poison, watched=pick((0.0, 0.3, 1.0)),
            lease=pick((1.5, 5.0, 30.0)), grace=pick((1.2, 2.0, 2.0, 4.0)), max_attempts=3 if poison else pick((2, 3, 8)),
            max_messages=pick((0, 0, 20, 60)), on_full=pick(("reject", "block", "drop_oldest", "dead_letter")),
            drain_max=pick((2, 16, 256)), drift=pick((0.0, 0.01)),
            net=NetConfig(pick(((30, 300), (30, 2_000), (500, 60_000)))),
            disk=DiskConfig(pick(((50, 400), (100, 3_000), (3_000, 60_000))), pick(((10, 100), (10, 5_000))), pick((15, 60, 250))),
            faults=_draw_faults(random), **_draw_calls(scheduler.random("config of calls")),
        )  # fmt: skip

    @classmethod
    def draw_topics(cls, scheduler: Scheduler) -> Config:
        """A world of topics, in one of four beside queues and calls."""
        random = scheduler.random("config of topics")
        pick = random.choice
        beside = random.random() < 0.25
        world = cls.draw(scheduler).changed(chaos_seconds=pick((2.0, 4.0, 8.0)), messages_max=20, calls_max=20)
        without = {} if beside else {"producers": 0, "workers": 0, "callers": 0, "both": False}
        volatile = not beside and random.random() < 0.1
        kinds = {kind: 1.0 for kind in FAULTS if beside or kind not in QUEUE_FAULTS} | TOPIC_FAULTS
        share = pick((0.2, 0.4, 0.6))
        return world.changed(
            **without, publishers=pick((1, 2, 2, 3)), readers=pick((1, 2, 3, 4)), topics=pick((1, 1, 2)),
            update_every=pick((0.01, 0.05, 0.05, 0.2)), updates_batch=pick((1, 4, 4, 30)), updates_max=pick((20, 60, 120)),
            deletions=pick((0.1, 0.3)), ttls=pick((0.0, 0.2, 0.5)), named=pick((0.0, 0.3, 1.0)), take_every=pick((0.0, 0.0, 0.03, 0.3)),
            windows=pick(((1 << 20,), (1, 300, 3_000), (300,), (1 << 20, 500))), durability=pick(("disk", "disk", "memory")),
            keep_values=volatile or random.random() < 0.8, history=pick((5, 20, 20, 60, 100_000)),
            topic_sizes=TopicSizes(pick((100, 400, 10**9)), pick((1, 4, 4, 1000)), pick((1, 8)), pick((1, 500, 10**6))),
            disk=world.disk._replace(volatile=volatile), faults=tuple(kind for kind in kinds if random.random() < share),
        )  # fmt: skip

    def changed(self, **changes: Any) -> Config:
        return Config(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **changes})

    def __str__(self) -> str:
        return " ".join(f"{name}={value!r}" for name, value in asdict(self).items())


def _draw_calls(random: Random) -> dict[str, Any]:
    """Drawn by themselves: worlds without calls are what they were before there were any."""
    pick = random.choice
    if random.random() < 0.4:
        return {}
    return {
        "callers": pick((1, 2, 3)), "serving": random.random() < 0.95, "services": pick((1, 1, 2)), "call_every": pick((0.01, 0.05, 0.3)),
        "call_batch": pick((1, 3, 20)), "calls_max": pick((20, 60, 150)), "keyed": pick((0.0, 0.3, 1.0)),
        "streams": pick((0.0, 0.0, 0.3)), "cancelled": pick((0.0, 0.1, 0.3)),
    }  # fmt: skip


def _draw_faults(random: Random) -> tuple[str, ...]:
    share = random.choice((0.15, 0.3, 0.5))
    return tuple(kind for kind in FAULTS if random.random() < share)
