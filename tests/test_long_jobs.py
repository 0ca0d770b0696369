"""A job that runs ten times its lease runs once: also over a cut link, and over a node that is killed meanwhile.

The stories take ten seconds each and mostly wait, so they run side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli_world import node
from proxy import Proxy, proxy_to

import zmqkit
from zmqkit.cli.processes import Broker

LEASE_SECONDS = 1.0
JOB_SECONDS = 10 * LEASE_SECONDS
GRACE_SECONDS = 20.0  # a restart on a busy machine takes its time

Trouble = Callable[[Broker, Proxy, zmqkit.Client], None]
Executions = list[tuple[int, int]]  # (seq, attempt) of each


def quiet(broker: Broker, proxy: Proxy, admin: zmqkit.Client) -> None:
    return


def cut(broker: Broker, proxy: Proxy, admin: zmqkit.Client) -> None:
    proxy.cut()


def kill_the_node(broker: Broker, proxy: Proxy, admin: zmqkit.Client) -> None:
    admin.queue("marker").put("on disk")  # and so is what came before it: a lease that is not written is not known after the kill
    broker.kill()
    proxy.cut()
    broker.start()


def wait_ten_leases() -> None:
    threading.Event().wait(JOB_SECONDS)


def burn_ten_leases() -> None:
    end = time.monotonic() + JOB_SECONDS
    while time.monotonic() < end:
        sum(range(1000))


def run_one_long_job(place: Path, trouble: Trouble, work: Callable[[], None]) -> Executions:
    """`trouble` comes while the job runs for the first time."""
    executions: Executions = []
    begun = threading.Event()

    def job(delivery: zmqkit.Delivery) -> None:
        executions.append((delivery.seq, delivery.attempt))
        begun.set()
        work()

    place.mkdir()
    with node(place) as broker, proxy_to(broker.endpoint) as proxy, zmqkit.connect(broker.endpoint) as admin:
        admin.declare("jobs", zmqkit.QueuePolicy(lease=LEASE_SECONDS, grace=GRACE_SECONDS))
        admin.queue("jobs").put("long")
        with zmqkit.connect(proxy.endpoint) as mq:
            worker = threading.Thread(target=lambda: mq.queue("jobs").work(job, idle=1.0))
            worker.start()
            assert begun.wait(30)
            trouble(broker, proxy, admin)
            worker.join(60)
            assert not worker.is_alive()
        info = admin.queue("jobs").info()
        assert (info.ready, info.leased, info.delayed, info.dead) == (0, 0, 0, 0), info
    return executions


STORIES: dict[str, tuple[Trouble, Callable[[], None]]] = {
    "though it burns CPU": (quiet, burn_ten_leases),
    "over a cut link": (cut, wait_ten_leases),
    "over a killed node": (kill_the_node, wait_ten_leases),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_job_of_ten_leases_runs_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(len(STORIES)) as pool:
        executions = {name: pool.submit(run_one_long_job, tmp_path / name.replace(" ", "-"), *story) for name, story in STORIES.items()}
    assert {name: future.result() for name, future in executions.items()} == {name: [(1, 1)] for name in STORIES}
