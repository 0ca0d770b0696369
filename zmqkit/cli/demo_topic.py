"""`zmqkit demo topic`: subscribers that join and leave under load, whose links are cut and whose node is killed, and each compared.

A node, a publisher and the subscribers are processes of their own. This one starts and kills them, and in the end holds what every
subscriber had against the log of somebody who followed from the first update.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import click

import zmqkit
from zmqkit.cli.demo_publisher import TOPIC
from zmqkit.cli.demo_screen import Screen
from zmqkit.cli.demo_truth import Entry, Seen, diverged, lost
from zmqkit.cli.notes import whole_lines
from zmqkit.cli.options import DURATION
from zmqkit.cli.processes import Broker, python, ready_words, sigterm_as_interrupt, stop

PROCESSES = 2  # of subscribers
NODE_KILLS_AT = (1 / 3, 2 / 3)  # of the time
HISTORY_UPDATES = 5000  # that the node keeps
STALL_SECONDS_MAX = 120.0  # without anybody leaving
LOOK_SECONDS = 0.1


@click.command("topic")
@click.option("--joins", type=click.IntRange(min=1), default=300, show_default=True, metavar="N", help="How many join.")
@click.option("--seconds", type=DURATION, default=20.0, show_default=True, metavar="DURATION", help="The time over which they join.")
@click.option("--updates", "updates_per_s", type=click.IntRange(min=1), default=2000, show_default=True, metavar="N", help="A second.")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object instead of a table.")
def demo_topic(joins: int, seconds: float, updates_per_s: int, as_lines: bool) -> None:
    """Follow a topic with hundreds of late joiners, while it is updated, links are cut, and the node is killed with kill -9, twice.

    Fails unless each has, as its `state` and as the sum of its events, exactly what the log adds up to at that update, and none
    misses an update without being told.
    """
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix="zmqkit-demo-") as place, Screen("topic", joins) as screen:
        run = Run(joins, seconds, updates_per_s, Path(place), screen)
        run.run()
        result = account(run)
    click.echo(json.dumps({"demo": "topic", **result})) if as_lines else show(result)
    sys.exit(1 if broken(result) else 0)


class Run:
    """One run; what is left of it is in `place`."""

    def __init__(self, joins: int, seconds: float, updates_per_s: float, place: Path, screen: Screen) -> None:
        self.joins, self.seconds, self.screen = joins, seconds, screen
        self.kills = 0
        self._place, self._updates_per_s = place, updates_per_s
        self._broker = Broker(place / "journal", place / "node.log")
        self._processes: list[subprocess.Popen[str]] = []

    def run(self) -> None:
        try:
            self._broker.start()
            with zmqkit.connect(self._broker.endpoint) as mq:
                mq.declare(TOPIC, zmqkit.TopicPolicy(max_messages=HISTORY_UPDATES))
            files = str(self._place / "log"), str(self._place / "confirmed")
            publisher = self._start("demo_publisher", *files, str(self._updates_per_s))
            if ready_words(publisher) is None:
                raise self._failed("publisher")
            shares = [len(range(first, self.joins, PROCESSES)) for first in range(min(PROCESSES, self.joins))]
            notes = self._place / "notes"
            notes.touch()
            with notes.open("rb") as written:
                self._watch([self._start("demo_joiners", str(notes), str(share), str(self.seconds)) for share in shares], written)
            if stop(publisher):
                raise self._failed("publisher")
        finally:
            for process in self._processes:
                stop(process)
            self._broker.stop()

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        process = python(f"zmqkit.cli.{module}", self._broker.endpoint, *arguments, log=self._place / "processes.log")
        self._processes.append(process)
        return process

    def _failed(self, what: str) -> click.ClickException:
        return click.ClickException(f"a {what} failed: {(self._place / 'processes.log').read_text(errors='replace')[-500:]}")

    def _watch(self, joiners: list[subprocess.Popen[str]], notes: BinaryIO) -> None:
        """Until all have left; kill the node meanwhile."""
        begin = moved = time.monotonic()
        kills, left = [begin + self.seconds * part for part in NODE_KILLS_AT], 0
        while True:
            over = all(process.poll() is not None for process in joiners)  # before looking: then nobody writes any more
            moment, more = time.monotonic(), notes.read().count(b"\n")
            left, moved = left + more, moment if more else moved
            self.screen.done(left)
            if over:
                break
            if moment - moved > STALL_SECONDS_MAX:
                return self.screen.say(f"nobody has left for {STALL_SECONDS_MAX:.0f} s: giving up")
            if kills and moment >= kills[0]:
                kills.pop(0)
                self._broker.kill()
                self.kills += 1
                self.screen.say(f"kill -9 node; it serves again after {self._broker.start():.2f} s")
            time.sleep(LOOK_SECONDS)
        if any(process.returncode for process in joiners):
            raise self._failed("process of subscribers")

    def notes(self) -> list[dict[str, Any]]:
        """Of those that have left."""
        return [json.loads(line) for line in whole_lines(self._place / "notes")]

    def entries(self, name: str) -> list[Entry]:
        return [Entry(*json.loads(line)) for line in (self._place / name).read_text().splitlines()]


def account(run: Run) -> dict[str, Any]:
    notes, log, confirmed = run.notes(), run.entries("log"), run.entries("confirmed")
    states, folds = ([Seen(**note[kind]) for note in notes] for kind in ("state", "fold"))
    return {
        "joined": run.joins,
        "compared": len(notes),
        "links cut": sum(note["cuts"] for note in notes),
        "of these for long": sum(note["long_cuts"] for note in notes),
        "node killed -9": run.kills,
        "updates confirmed": len(confirmed),
        "deleted by ttl": len(log) - len(confirmed),
        "lost": len(lost(log, confirmed)),
        "gaps told": sum(note["told"] for note in notes),
        "undetected gaps": sum(note["unnoticed"] for note in notes),
        "divergent states": len(diverged(log, states)),
        "divergent sums of events": len(diverged(log, folds)),
        "stalled": sum(note["stalled"] for note in notes),
    }


def broken(result: dict[str, Any]) -> bool:
    flaws = ("lost", "undetected gaps", "divergent states", "divergent sums of events", "stalled")
    return result["compared"] != result["joined"] or any(result[flaw] for flaw in flaws)


def show(result: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in result.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    if broken(result):
        click.echo("BROKEN: not everybody has what the log adds up to", err=True)
    else:
        click.echo("everybody had what the log adds up to, and whoever missed something was told")
