"""`zmqkit demo calls`: calls with and without a key, while workers come and go by kill -9 and the node is killed twice.

A node, workers and callers are processes of their own. This one starts and kills them, and in the end holds what the callers were
told against what the workers did, and every second execution against the node's log.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from heapq import heappop, heappush
from pathlib import Path

import click

from zmqkit.cli.demo_caller import CALL_SECONDS, keyed
from zmqkit.cli.demo_outcomes import Account, account, read_outcomes
from zmqkit.cli.demo_report import CALLS, LeaseEnds, read_diaries
from zmqkit.cli.demo_screen import Screen
from zmqkit.cli.demo_service import ORDER, make, rows
from zmqkit.cli.options import DURATION
from zmqkit.cli.processes import Broker, kill, python, sigterm_as_interrupt, stop

CALLERS = 2
WORKER_KILLS_EVERY = (0.4, 1.2)  # seconds from one to the next
AWAY_SECONDS = (0.0, 1.0)  # until another worker is started for a killed one
NODE_KILLS_AT = (1 / 3, 2 / 3)  # of the time
SPARE_SECONDS = 20.0  # after the last call's deadline; then what has no outcome has none
LOOK_SECONDS = 0.1


@click.command("calls")
@click.option("--calls", "count", type=click.IntRange(min=1), default=3000, show_default=True, metavar="N", help="How many are made.")
@click.option("--seconds", type=DURATION, default=12.0, show_default=True, metavar="DURATION", help="The time over which they are made.")
@click.option("--workers", type=click.IntRange(min=1), default=3, show_default=True, help="Worker processes.")
def demo_calls(count: int, seconds: float, workers: int) -> None:
    """Call services, half of the calls with an idempotency key, while workers are killed with kill -9 and started at random, and the
    node twice.

    Fails unless every call has exactly one outcome that is true, none without a key was executed twice, every second execution of one
    with a key has the end of the lease before it in the node's log, and every effect that has its key beside it is there once.
    """
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix="zmqkit-demo-") as place, Screen("calls", count) as screen:
        run = Run(count, seconds, workers, Path(place), screen)
        run.run()
        accounts = run.accounts()
    sys.exit(report(run, accounts))


class Run:
    """One run; what is left of it is in `place`."""

    def __init__(self, count: int, seconds: float, workers: int, place: Path, screen: Screen, seed: int | None = None) -> None:
        self.count, self.seconds, self.screen = count, seconds, screen
        self.killed: Counter[str] = Counter()
        self._place, self._ledger, self._log = place, str(place / "ledger.db"), place / "node.log"
        self._broker = Broker(place / "journal", self._log)
        self._worker_count, self._workers_made = workers, 0
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._callers: list[subprocess.Popen[str]] = []
        self._chance = random.Random(seed)
        self._events: list[tuple[float, str]] = []  # a heap of what happens when

    def run(self) -> None:
        make(self._ledger)
        try:
            self._broker.start()
            for _ in range(self._worker_count):
                self._start_worker()
            begin = time.monotonic()
            self._callers = [self._caller(number) for number in range(CALLERS)]
            self._events = [(begin + self.seconds * part, "node") for part in NODE_KILLS_AT]
            heappush(self._events, (begin + self._pause(WORKER_KILLS_EVERY), "kill"))
            self._watch(begin)
        finally:
            # Workers first: they finish what is in hand and say goodbye to a node that still listens.
            for process in [*self._callers, *self._workers.values()]:
                stop(process)
            self._broker.stop()

    def _watch(self, begin: float) -> None:
        """Until every caller has ended; kill and start meanwhile."""
        over, end = begin + self.seconds, begin + self.seconds + CALL_SECONDS + SPARE_SECONDS
        while any(caller.poll() is None for caller in self._callers):
            moment = time.monotonic()
            if moment > end:
                return self.screen.say(f"no outcome for {SPARE_SECONDS:.0f} s: giving up")
            while self._events and self._events[0][0] <= moment:
                self._happen(heappop(self._events)[1], moment, over)
            self.screen.done(len(read_outcomes(self._place.glob("outcomes-*"))))
            time.sleep(LOOK_SECONDS)
        for caller in self._callers:
            if caller.returncode:
                raise click.ClickException(f"a caller failed: {(self._place / 'callers.log').read_text(errors='replace')[-500:]}")

    def _happen(self, what: str, moment: float, over: float) -> None:
        if what == "start":
            self._start_worker()
        elif moment >= over:
            return  # what is still under way may end in peace
        elif what == "node":
            self._broker.kill()
            self.killed["node"] += 1
            self.screen.say(f"kill -9 node; it serves again after {self._broker.start():.2f} s")
        else:
            heappush(self._events, (moment + self._pause(WORKER_KILLS_EVERY), "kill"))
            if self._workers:
                heappush(self._events, (moment + self._pause(AWAY_SECONDS), "start"))
                self._kill_worker()

    def _pause(self, between: tuple[float, float]) -> float:
        return self._chance.uniform(*between)

    def _kill_worker(self) -> None:
        number = self._chance.choice(sorted(self._workers))
        kill(self._workers[number])
        stop(self._workers.pop(number))
        self.killed["worker"] += 1
        self.screen.say(f"kill -9 worker {number}: {len(self._workers)} left")

    def _start_worker(self) -> None:
        number, self._workers_made = self._workers_made, self._workers_made + 1
        diary, log = str(self._place / f"diary-{number}"), self._place / "workers.log"
        self._workers[number] = python("zmqkit.cli.demo_service", self._broker.endpoint, self._ledger, diary, log=log)

    def _caller(self, number: int) -> subprocess.Popen[str]:
        arguments = [str(self._place / f"outcomes-{number}"), str(number), str(CALLERS), str(self.count), str(self.seconds)]
        return python("zmqkit.cli.demo_caller", self._broker.endpoint, *arguments, log=self._place / "callers.log")

    def accounts(self) -> dict[str, Account]:
        log, starts = self._log.read_text(errors="replace"), read_diaries(self._place.glob("diary-*"))
        ended = read_outcomes(self._place.glob("outcomes-*"))
        order, visit = [n for n in range(self.count) if keyed(n)], [n for n in range(self.count) if not keyed(n)]
        return {
            "with key": account(order, ended, starts, rows(self._ledger, "orders"), LeaseEnds(log, CALLS + ORDER)),
            "without key": account(visit, ended, starts, rows(self._ledger, "visits"), None),
        }


def report(run: Run, accounts: dict[str, Account]) -> int:
    """Print the table; returns the exit code."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("calls", *accounts):
        table.add_column(title, justify="left" if title == "calls" else "right")
    for title, cells in lines(list(accounts.values())).items():
        table.add_row(title, *cells)
    Console().print(table)
    killed = ", ".join(f"{count} × {what}" for what, count in sorted(run.killed.items()))
    click.echo(f"killed -9: {killed or 'nothing: too short a time'}")
    broken = [f"{kind}: {text}" for kind, of_kind in accounts.items() for text in of_kind.broken()]
    for text in broken:
        click.echo(f"BROKEN {text}", err=True)
    if not broken:
        click.echo("every call has one outcome, and it is true; every second execution is in the node's log")
    return 1 if broken else 0


def lines(accounts: list[Account]) -> dict[str, list[str]]:
    def counts(outcome: str) -> list[str]:
        return [f"{of_kind.outcomes[outcome]:,}" for of_kind in accounts]

    causes = [", ".join(f"{cause} {count}" for cause, count in sorted(of_kind.doubled.items())) for of_kind in accounts]
    doubled = [f"{of_kind.doubled.total() + len(of_kind.unexplained):,}" for of_kind in accounts]
    return {
        "made": [f"{of_kind.calls:,}" for of_kind in accounts],
        "answered": counts("answered"),
        "no worker": counts("no-worker"),
        "not executed in time": counts("not-executed"),
        "maybe executed": counts("maybe-executed"),
        "lost": [f"{of_kind.lost:,}" for of_kind in accounts],
        "doubled": [f"({why}) {number}" if why else number for number, why in zip(doubled, causes, strict=True)],
        "effects doubled": [f"{len(of_kind.repeated):,}" for of_kind in accounts],
        "slowest": [f"{of_kind.slowest:.2f} s" for of_kind in accounts],
    }
