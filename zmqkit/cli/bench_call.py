"""`zmqkit bench call`: caller, node and worker in processes of their own, through the public API, and plain pyzmq beside them.

Ours and what it is compared with are measured in turn, several times over; each figure is the median of its rounds.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import click

from zmqkit.cli.bench_call_roles import IDLE_WORKERS_MAX
from zmqkit.cli.bench_load import MESSAGE_BYTES_MIN
from zmqkit.cli.bench_queue import in_words
from zmqkit.cli.bench_rounds import medians, node, rated, raw_concurrent, raw_echo, raw_ppp, roles
from zmqkit.cli.processes import cpu_seconds, sigterm_as_interrupt

ROLES = "bench_call_roles"
IDLE_WORKERS = 1000
SETTLING_SECONDS = 5.0  # connecting is not what is measured
Row = dict[str, Any]
Measure = Callable[[int, int], Row]  # one round of so many calls of that size


def through_node(worker: str, caller: str, calls: int, size: int) -> Row:
    """One round: caller – node – worker."""
    with node() as broker, roles(ROLES, calls, size) as running:
        running.ready(worker, broker.endpoint)
        return rated(running.result(caller, broker.endpoint), calls)


def ours_lockstep(calls: int, size: int) -> Row:
    return through_node("worker", "lockstep", calls, size)


def ours_concurrent(calls: int, size: int) -> Row:
    return through_node("loop_worker", "concurrent", calls, size)


def ours_direct(calls: int, size: int) -> Row:
    with roles(ROLES, calls, size) as running:
        (endpoint,) = running.ready("node")
        return rated(running.result("lockstep", endpoint), calls)


class Bench:
    def __init__(self, messages: int | None, size: int, rounds: int, seconds: float) -> None:
        self._messages, self._size, self._rounds, self._seconds = messages, size, rounds, seconds

    def lockstep(self) -> Iterator[Row]:
        """one call after the other, through a node, to a worker of one thread; beside a Paranoid Pirate queue and worker."""
        yield from self._beside_raw("lockstep", ours_lockstep, raw_ppp, self._messages or 5000, "p50_us")

    def direct(self) -> Iterator[Row]:
        """one call after the other, to a node that is its own worker; beside a REQ and a ROUTER that answers."""
        yield from self._beside_raw("direct", ours_direct, raw_echo, self._messages or 5000, "p50_us")

    def concurrent(self) -> Iterator[Row]:
        """200 calls under way, from one loop, through a node, to a worker's loop; beside a queue that hands on all it gets."""
        yield from self._beside_raw("concurrent", ours_concurrent, raw_concurrent, self._messages or 100_000, "per_s")

    def _beside_raw(self, mode: str, ours: Measure, raw: Measure, calls: int, compared: str) -> Iterator[Row]:
        measures = {"zmqkit": lambda: ours(calls, self._size), "raw-zmq": lambda: raw(calls, self._size)}
        told = medians(measures, self._rounds)
        for system, result in told.items():
            figures = {"messages_per_s": result["per_s"], **{key: result[key] for key in ("p50_us", "p99_us", "lost", "duplicated")}}
            yield {**self._head(mode, system), "messages": calls, "size": self._size, **figures, "rounds": self._rounds}
        ratio = round(told["zmqkit"][compared] / told["raw-zmq"][compared], 3)
        yield {"bench": "call", "mode": mode, "ratio_to": {"raw-zmq": ratio}}

    @staticmethod
    def _head(mode: str, system: str) -> Row:
        release = version("zmqkit" if system == "zmqkit" else "pyzmq")
        return {"bench": "call", "mode": mode, "system": system, "version": release, "durability": "memory"}

    def idle(self) -> Iterator[Row]:
        """CPU of a node with 1,000 connected workers (--messages: how many) and nothing to do, over --seconds."""
        workers = self._messages or IDLE_WORKERS
        allow_descriptors(workers)
        with node() as broker, ExitStack() as running:
            for first in range(0, workers, IDLE_WORKERS_MAX):
                running.enter_context(roles(ROLES, min(IDLE_WORKERS_MAX, workers - first), 0)).ready("idle_workers", broker.endpoint)
            time.sleep(min(SETTLING_SECONDS, self._seconds))
            before, begin = cpu_seconds(broker.pid), time.monotonic()
            time.sleep(self._seconds)
            percent = 100 * (cpu_seconds(broker.pid) - before) / (time.monotonic() - begin)
        yield {**self._head("idle", "zmqkit"), "workers": workers, "seconds": self._seconds, "cpu_percent": round(percent, 2)}

    def run(self, mode: str) -> Iterator[Row]:
        rows: Callable[[], Iterator[Row]] = getattr(self, mode)
        return rows()


def allow_descriptors(links: int) -> None:
    """Each is a descriptor of the node's and four of its worker's process; both inherit the limit, which is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = links + 500
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


MODES = ["lockstep", "direct", "concurrent", "idle"]
MODES_HELP = "\n\n".join(f"{mode}: {getattr(Bench, mode).__doc__}" for mode in MODES)


@click.command("call", help=f"{__doc__.strip() if __doc__ else ''}\n\nModes:\n\n{MODES_HELP}")
@click.option("--messages", type=click.IntRange(min=1), metavar="N", help="How many calls a round.  [default: what suits the mode]")
@click.option("--size", type=click.IntRange(min=MESSAGE_BYTES_MIN), default=100, show_default=True, metavar="BYTES", help="Of each body.")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), default=["lockstep", "direct", "concurrent"], show_default=True,
              help="What to measure; may be given several times.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Of each, in turn.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=15.0, show_default=True, metavar="S", help="To look at an idle node.")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object per line.")
def bench_call(messages: int | None, size: int, modes: tuple[str, ...], rounds: int, seconds: float, as_lines: bool) -> None:
    flawed, runner = False, Bench(messages, size, rounds, seconds)
    with sigterm_as_interrupt():
        for mode in modes:
            for row in runner.run(mode):
                click.echo(json.dumps(row) if as_lines else in_words(row))
                flawed |= bool(row.get("lost") or row.get("duplicated"))
    sys.exit(int(flawed))
