"""`zmqkit demo peers`: processes that find each other and share their work with no broker, while some are killed with kill -9.

Each peer puts its jobs into a queue of its own node, and works for every node that it finds. This process starts, kills and
restarts them, reads what they noted, and is itself no part of the work.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zmqkit.cli.demo_peer import QUEUE
from zmqkit.cli.demo_report import LeaseEnds, Repeats, Start, repeats
from zmqkit.cli.demo_screen import Screen
from zmqkit.cli.notes import whole_lines
from zmqkit.cli.processes import kill, python, ready_words, sigterm_as_interrupt, stop

STALL_SECONDS_MAX = 60.0  # without a job done for so long, what is missing counts as lost
LOOK_SECONDS = 0.1
AWAY_SECONDS_MAX = 2.0  # of a killed peer


@click.command("peers")
@click.option("--peers", "count", type=click.IntRange(min=2), default=5, show_default=True, metavar="N", help="Processes.")
@click.option("--jobs", type=click.IntRange(min=1), default=300, show_default=True, metavar="N", help="That each of them puts.")
@click.option("--kills", type=click.IntRange(min=0), default=6, show_default=True, metavar="N", help="How often one is killed.")
@click.option("--seed", type=int, help="Of who is killed, and for how long.  [default: another each time]")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object instead of a table.")
def demo_peers(count: int, jobs: int, kills: int, seed: int | None, as_lines: bool) -> None:
    """Tokenise Python's standard library by processes that find each other by mDNS, with no broker, and kill -9 some at random on the way.

    Fails unless every job that was confirmed to its producer is done, and every second execution has a cause in a node's log.
    """
    seed = random.randrange(10**6) if seed is None else seed
    os.environ.setdefault("ZMQKIT_MDNS_INTERFACE", "127.0.0.1")  # the peers are all here, and nobody else need see them
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix="zmqkit-demo-") as place, Screen("peers", count * jobs) as screen:
        run = Run(count, jobs, kills, random.Random(seed), Path(place), screen)
        screen.say(f"seed {seed}: {count} peers, {jobs} jobs each, no broker")
        run.run()
        result = {"seed": seed, **account(run)}
    click.echo(json.dumps({"demo": "peers", **result})) if as_lines else show(result)
    sys.exit(1 if broken(result) else 0)


class Run:
    """One run; what is left of it is in `place`."""

    def __init__(self, count: int, jobs: int, kills: int, chance: random.Random, place: Path, screen: Screen) -> None:
        self.count, self.jobs, self.place, self.screen = count, jobs, place, screen
        self.killed, self.kill_times, self.seconds = 0, list[float](), 0.0
        self.numbers: dict[str, int] = {}  # of the peer with that node
        self._team, self._chance = f"demo-peers-{os.getpid()}", chance
        self._peers: dict[int, subprocess.Popen[str]] = {}
        self._back: list[tuple[float, int]] = []  # when a killed one is started again
        self._marks = sorted(chance.uniform(0.1, 0.8) * count * jobs for _ in range(kills))  # jobs done

    def run(self) -> None:
        try:
            for number in range(self.count):
                self._start(number)
            for number in range(self.count):
                self._ready(number)
            self._watch()
        finally:
            for process in self._peers.values():
                process.terminate()  # all at once: each gives back what it holds to nodes that still listen
            for process in self._peers.values():
                stop(process)

    def _start(self, number: int) -> None:
        log = self.place / "processes.log"
        self._peers[number] = python("zmqkit.cli.demo_peer", self._team, *map(str, (number, self.count, self.jobs, self.place)), log=log)

    def _ready(self, number: int) -> None:
        if (words := ready_words(self._peers[number])) is None:
            raise self._failed(number)
        self.numbers[words[0]] = number

    def _failed(self, number: int) -> click.ClickException:
        return click.ClickException(f"peer {number} failed: {(self.place / 'processes.log').read_text(errors='replace')[-500:]}")

    def _watch(self) -> None:
        """Until everything is done; kill at the marks."""
        begin = moved = time.monotonic()
        before, total = 0, self.count * self.jobs
        while True:
            done, moment = len(self.jobs_in("done")), time.monotonic()
            moved, before = (moment, done) if done > before else (moved, before)
            self.screen.done(done)
            self.seconds = moment - begin
            if done == total and not self._back:
                return
            if moment - moved > STALL_SECONDS_MAX:
                return self.screen.say(f"nothing was done for {STALL_SECONDS_MAX:.0f} s: giving up")
            self._play(done, moment)
            time.sleep(LOOK_SECONDS)

    def _play(self, done: int, moment: float) -> None:
        while self._back and self._back[0][0] <= moment:
            number = self._back.pop(0)[1]
            self._start(number)
            self._ready(number)
            self.screen.say(f"peer {number} is back, at another port, with its own journal")
        here = sorted(set(self._peers) - {number for _, number in self._back})
        for number in here:
            if self._peers[number].poll() is not None:
                raise self._failed(number)
        if self._marks and done >= self._marks[0] and len(here) > 1:
            self._marks.pop(0)
            number = self._chance.choice(here)
            kill(self._peers[number])
            self.killed += 1
            self.kill_times.append(time.time())
            self._back = sorted([*self._back, (moment + self._chance.uniform(0.0, AWAY_SECONDS_MAX), number)])
            self.screen.say(f"kill -9 peer {number}, with {done} of {self.count * self.jobs} jobs done")

    # -- what they noted ----------------------------------------------------------------------------------------------

    def lines(self, name: str) -> Iterator[tuple[int, list[str]]]:
        """Number of a peer and the words of a line of its."""
        for path in sorted(self.place.glob(f"{name}-*")):
            for line in whole_lines(path):
                yield int(path.name.rpartition("-")[2]), line.split()

    def jobs_in(self, name: str) -> set[str]:
        return {words[0] for _, words in self.lines(name)}


def account(run: Run) -> dict[str, Any]:
    confirmed, done = run.jobs_in("confirmed"), run.jobs_in("done")
    begun: dict[int, list[Start]] = defaultdict(list)  # by the peer whose job it is
    puts: dict[str, set[str]] = defaultdict(set)  # numbers of each job: two where its producer was killed before it could note the first
    by_others = 0
    for number, (job, node, seq, token, at) in run.lines("begun"):
        begun[run.numbers[node]].append(Start(int(seq), int(token), float(at)))
        by_others += number != run.numbers[node]
        puts[job].add(seq)
    again = [of_node(run, owner, starts) for owner, starts in begun.items()]
    unexplained = sum(len(part.unexplained) for part in again)
    return {
        "peers": run.count,
        "jobs": run.count * run.jobs,
        "confirmed": len(confirmed),
        "done": len(done),
        "lost": len(confirmed - done),
        "begun by another peer than their own": by_others,
        "killed -9": run.killed,
        "put twice": sum(len(seqs) > 1 for seqs in puts.values()),
        "executed twice": sum(part.causes.total() for part in again) + unexplained,
        "of these unexplained": unexplained,
        "slowest redelivery s": round(max((part.slowest_seconds for part in again), default=0.0), 2),
        "seconds": round(run.seconds, 1),
    }


def of_node(run: Run, number: int, starts: list[Start]) -> Repeats:
    """Second executions of jobs of that peer's, which the log of its node must explain."""
    ends = LeaseEnds((run.place / f"node-{number}.log").read_text(errors="replace"), QUEUE)
    return repeats(sorted(starts, key=lambda start: start.at), ends, run.kill_times)


def broken(result: dict[str, Any]) -> bool:
    return result["done"] != result["jobs"] or bool(result["lost"] or result["of these unexplained"])


def show(result: dict[str, Any]) -> None:
    for name, value in result.items():
        click.echo(f"{name:<38}{value:,}" if isinstance(value, int) and name != "seed" else f"{name:<38}{value}")
    if broken(result):
        click.echo("BROKEN: a confirmed job was not done, or one ran twice and no log says why", err=True)
