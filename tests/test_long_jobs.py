"""A job that runs ten times its lease runs once: also over a cut link, and over a node that is killed meanwhile.

The stories take ten seconds each and mostly wait, so they run side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from cli_world import node
from proxy import Proxy, proxy_to

import zmqkit
from zmqkit.cli.processes import Broker

LEASE_SECONDS = 1.0
JOB_SECONDS = 10 * LEASE_SECONDS
GRACE_SECONDS = 20.0  # a restart on a busy machine takes its time

Trouble = Callable[[Broker, Proxy], None]
Executions = list[tuple[int, int]]  # (seq, attempt) of each


def quiet(broker: Broker, proxy: Proxy) -> None:
    return


def cut(broker: Broker, proxy: Proxy) -> None:
    proxy.cut()


def kill_the_node(broker: Broker, proxy: Proxy) -> None:
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
            trouble(broker, proxy)
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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Executions]]]:
    with ThreadPoolExecutor(len(STORIES)) as pool:
        place = tmp_path_factory.mktemp("long")
        yield {name: pool.submit(run_one_long_job, place / name.replace(" ", "-"), *story) for name, story in STORIES.items()}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("story", STORIES)
def test_a_job_of_ten_leases_runs_once(story: str, outcomes: dict[str, Future[Executions]]) -> None:
    assert outcomes[story].result(100) == [(1, 1)]
