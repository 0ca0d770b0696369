"""The faults of `zmqkit chaos`: how each is made, the same way on both clusters.

Each is aimed: before a process is killed it is frozen, until it is certain that it holds something. A fault that did not hit ends the
command, with what it waited for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from zmqkit.cli.chaos_cluster import WORKERS, Cluster, freeze
from zmqkit.cli.chaos_notes import SLOW_SECONDS
from zmqkit.cli.chaos_roles import LEASE_SECONDS

CAUGHT = 20  # jobs that are sent while the fault lasts, at least
AWAY_SECONDS = 0.3  # a cut link
PATIENCE_OF_PEERS_SECONDS = 3.0  # a peer that is not answered for so long takes another link


class Hit(NamedTuple):
    """One injection."""

    fault: str
    worker: int  # whom it hits, where it hits one
    link: int  # 0: the producer's
    before: int  # jobs ahead of it
    seconds: float  # how long it lasts, where it lasts

    def __str__(self) -> str:
        fault = FAULTS[self.fault]
        aim = {"worker": f", worker {self.worker}", "link": f", link {self.link}", "": ""}[fault.aim]
        return f"{self.fault}, after {self.before} jobs{aim}: {fault.text}"


def kill_node(cluster: Cluster, hit: Hit) -> None:
    """It has jobs that it said it has, for the workers are slow; and others are on their way to it."""
    middle, link = cluster.middle, cluster.links[0]
    for k in range(WORKERS):
        cluster.slow_down(k)
    cluster.order(CAUGHT)
    cluster.until("the node has jobs", lambda: len(cluster.sent.read()) == cluster.ordered)
    freeze(middle)
    passed = link.passed_bytes
    cluster.order(CAUGHT)
    cluster.until("the frozen node is sent jobs", lambda: link.passed_bytes > passed and len(cluster.handed.read()) == cluster.ordered)
    cluster.kill_middle()
    for k in range(WORKERS):
        cluster.speed_up(k)
    cluster.start_middle()


def kill_worker(cluster: Cluster, hit: Hit) -> None:
    cluster.order(CAUGHT)
    cluster.catch(hit.worker)
    cluster.replace_worker(hit.worker)


def stop_worker(cluster: Cluster, hit: Hit) -> None:
    cluster.order(CAUGHT)
    cluster.catch(hit.worker)
    cluster.order(CAUGHT)
    time.sleep(LEASE_SECONDS + hit.seconds)
    cluster.thaw(hit.worker)


def cut_link(cluster: Cluster, hit: Hit) -> None:
    link = cluster.links[hit.link]
    link.hold()
    cluster.order(CAUGHT)
    cluster.until("something is on the link", lambda: link.lost_bytes and len(cluster.handed.read()) == cluster.ordered)
    link.cut(AWAY_SECONDS)


def half_open(cluster: Cluster, hit: Hit) -> None:
    link = cluster.links[hit.link]
    link.hold()
    cluster.order(CAUGHT)
    cluster.until("something was said on the link", lambda: link.lost_bytes)
    time.sleep(PATIENCE_OF_PEERS_SECONDS + hit.seconds)
    link.cut_held()


def slow_reader(cluster: Cluster, hit: Hit) -> None:
    def slow_jobs() -> int:
        return sum(seconds == SLOW_SECONDS for _, _, _, seconds in cluster.done[hit.worker].read())

    before = slow_jobs()
    cluster.slow_down(hit.worker)
    cluster.order(2 * CAUGHT)
    cluster.until("a worker is slow", lambda: slow_jobs() > before)
    time.sleep(hit.seconds)
    cluster.speed_up(hit.worker)


def full_disk(cluster: Cluster, hit: Hit) -> None:
    cluster.fill_disk(lambda: cluster.order(CAUGHT))
    cluster.free_disk()


def clock_jump(cluster: Cluster, hit: Hit) -> None:
    with cluster.with_clock():
        cluster.order(CAUGHT)
        cluster.catch(hit.worker)
        cluster.jump_clock(days=1)
        cluster.see_jump(hit.worker)
        cluster.thaw(hit.worker)
        cluster.jump_clock(days=-2)
        cluster.order(CAUGHT)
        cluster.until("they are sent", lambda: len(cluster.sent.read()) == cluster.ordered)
        cluster.jump_clock(days=1)


class Fault(NamedTuple):
    text: str
    inject: Callable[[Cluster, Hit], None]
    bare: str  # what becomes of jobs on plain pyzmq: "lost", "late", "doubled"
    aim: str = ""  # "worker", "link": which one is the schedule's choice
    seconds: tuple[float, float] = (0.0, 0.0)


FAULTS = {
    "kill-node": Fault("kill -9 of what is in the middle, with jobs in it and on their way to it", kill_node, "lost"),
    "kill-worker": Fault("kill -9 of a worker, with a job in its hands", kill_worker, "lost", "worker"),
    "stop-worker": Fault("SIGSTOP of a worker, for longer than a lease", stop_worker, "late", "worker", (0.5, 1.0)),
    "cut-link": Fault("a connection is cut, with something on it", cut_link, "lost", "link"),
    "half-open": Fault("a connection passes nothing any more, and neither end is told", half_open, "lost", "link", (0.5, 1.0)),
    "slow-reader": Fault("a worker takes sixty times as long for a job", slow_reader, "late", "worker", (1.0, 1.5)),
    "full-disk": Fault("no room for another byte in the middle's files", full_disk, "lost"),
    "clock-jump": Fault("the wall clock in the middle jumps a day ahead, two back, and right again", clock_jump, "doubled", "worker"),
}


def schedule(faults: list[str], rounds: int, seed: int) -> list[Hit]:
    """Each fault once a round, in another order each time; the same for the same seed."""
    chance, hits = random.Random(seed), list[Hit]()
    for _ in range(rounds):
        for name in chance.sample(faults, len(faults)):
            worker, link, before = chance.randrange(WORKERS), chance.randrange(1 + WORKERS), chance.randrange(5, 20)
            hits.append(Hit(name, worker, link, before, chance.uniform(*FAULTS[name].seconds)))
    return hits
