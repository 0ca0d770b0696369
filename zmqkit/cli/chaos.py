"""`zmqkit chaos`: the same work on plain pyzmq and on zmqkit, the same faults, one after another, and a table of what was lost."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from zmqkit.cli.chaos_cluster import PATIENCE_SECONDS, WORKERS, Bare, Cluster, Ours, Skipped
from zmqkit.cli.chaos_faults import FAULTS, Hit, schedule
from zmqkit.cli.chaos_roles import QUEUE
from zmqkit.cli.demo_report import LeaseEnds, Start, repeats
from zmqkit.cli.demo_screen import Screen
from zmqkit.cli.options import as_json, output_option, print_table
from zmqkit.cli.processes import sigterm_as_interrupt

JOBS, JOBS_QUICK = 300, 90  # of one hit; and some more until both clusters are well again
RECOVER_SECONDS = 0.1
SEEDS = 10_000


@dataclass
class Account:
    """What came of some hits on one cluster."""

    hits: int = 0
    sent: int = 0
    lost: int = 0
    doubled: int = 0  # executions after the first
    explained: Counter[str] = field(default_factory=Counter)  # of these, by why the lease before it ended
    slowest_seconds: float = 0.0  # from sending to the first end of a job

    def __str__(self) -> str:
        return f"lost {self.lost}, doubled {self.doubled}, slowest {self.slowest_seconds:.2f} s"

    def add(self, other: Account) -> None:
        self.hits, self.sent, self.lost = self.hits + other.hits, self.sent + other.sent, self.lost + other.lost
        self.doubled, self.explained = self.doubled + other.doubled, self.explained + other.explained
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)


def account(cluster: Cluster, numbers: range) -> Account:
    """Of these jobs, which one hit has met."""
    handed = {int(number): at for number, at in cluster.handed.read()}
    done: dict[int, list[float]] = defaultdict(list)
    seqs: dict[int, set[int]] = defaultdict(set)
    for number, seq, at, _ in (row for rows in cluster.done for row in rows.read()):
        done[int(number)].append(at)
        seqs[int(number)].add(int(seq))
    for number, seq, _ in cluster.sent.read():
        seqs[int(number)].add(int(seq))
    ours = {seq for number in numbers for seq in seqs[number]}
    starts = sorted((row for rows in cluster.begun for row in rows.read() if row[0] in ours), key=lambda row: row[2])
    again = repeats([Start(int(seq), int(token), at) for seq, token, at in starts], LeaseEnds(cluster.words(), QUEUE), [])
    stored_twice = sum(max(0, len(seqs[number]) - 1) for number in numbers)
    took = [min(done[number]) - handed[number] for number in numbers if done[number]]
    lost = sum(not done[number] for number in numbers)
    doubled = again.causes.total() + len(again.unexplained) + stored_twice
    return Account(1, len(numbers), lost, doubled, again.causes, max(took, default=0.0))


def hit_cluster(cluster: Cluster, hit: Hit, jobs: int) -> Skipped | None:
    cluster.first = cluster.ordered
    cluster.order(hit.before)
    skipped = None
    try:
        FAULTS[hit.fault].inject(cluster, hit)
    except Skipped as reason:
        skipped = reason
    cluster.order(max(0, cluster.first + jobs - cluster.ordered))
    cluster.mark()
    return skipped


class Run:
    """Both clusters, hit by hit; the accounts of each fault."""

    def __init__(self, hits: list[Hit], jobs: int, place: Path, screen: Screen) -> None:
        self._hits, self._jobs, self._screen = hits, jobs, screen
        self._clusters: list[Cluster] = [Bare(place / "bare"), Ours(place / "zmqkit")]
        self.accounts = {hit.fault: [Account() for _ in self._clusters] for hit in hits}
        self.skipped: dict[str, str] = {}

    def run(self) -> None:
        try:
            with ThreadPoolExecutor(len(self._clusters)) as threads:
                try:
                    list(threads.map(lambda cluster: cluster.start(), self._clusters))
                    for number, hit in enumerate(self._hits):
                        self._screen.say(str(hit))
                        self._hit(hit, threads)
                        self._screen.done(number + 1)
                finally:
                    for cluster in self._clusters:
                        cluster.over = True
        finally:
            for cluster in self._clusters:
                cluster.stop()

    def _hit(self, hit: Hit, threads: ThreadPoolExecutor) -> None:
        skips = list(threads.map(lambda cluster: hit_cluster(cluster, hit, self._jobs), self._clusters))
        self._recover()
        list(threads.map(lambda cluster: cluster.settle(), self._clusters))
        if reasons := [str(skipped) for skipped in skips if skipped]:
            self.skipped[hit.fault] = reasons[0]
            return
        told = [account(cluster, range(cluster.first, cluster.ordered)) for cluster in self._clusters]
        for total, one in zip(self.accounts[hit.fault], told, strict=True):
            total.add(one)
        self._screen.say("         " + "; ".join(f"{cluster.name}: {one}" for cluster, one in zip(self._clusters, told, strict=True)))

    def _recover(self) -> None:
        """More jobs, for both alike, until each worker has had one: the next hit may aim at any of them."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not all(cluster.all_work() for cluster in self._clusters):
            if time.monotonic() > end:
                raise click.ClickException(f"a worker got no job within {PATIENCE_SECONDS:.0f} s after the fault")
            for cluster in self._clusters:
                cluster.order(WORKERS)
            time.sleep(RECOVER_SECONDS)

    def rows(self) -> list[dict[str, Any]]:
        names = [cluster.name for cluster in self._clusters]
        return [
            {"fault": fault, "skipped": self.skipped.get(fault), **dict(zip(names, map(vars, accounts), strict=True))}
            for fault, accounts in self.accounts.items()
        ]


@click.command()
@click.option("--faults", default=",".join(FAULTS), show_default=True, metavar="A,B", help="Which of them.")
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="How often each.")
@click.option("--quick", is_flag=True, help="Fewer jobs: less than half a minute for all faults.")
@click.option("--seed", type=int, metavar="N", help="The order of the faults, whom they hit and when.  [default: another one each time]")
@output_option
def chaos(faults: str, rounds: int, quick: bool, seed: int | None, output: str) -> None:
    """Kill, freeze, cut, fill and slow down two clusters that do the same work, one on plain pyzmq and one on zmqkit, and count.

    A cluster is a producer, a process in the middle (PULL and PUSH; a node with its journal) and two workers. Each fault hits both in
    the same way, and only when it is certain to hit something. Fails if zmqkit lost a job, or executed one twice and the node's log does
    not say why.
    """
    names = faults.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        raise click.UsageError(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    seed = random.randrange(SEEDS) if seed is None else seed
    hits = schedule(names, rounds, seed)
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix="zmqkit-chaos-") as place, Screen("chaos", len(hits)) as screen:
        screen.say(f"seed {seed}")
        run = Run(hits, JOBS_QUICK if quick else JOBS, Path(place), screen)
        run.run()
    rows = run.rows()
    if output == "json":
        click.echo(as_json(rows))
    elif output == "jsonl":
        for row in rows:
            click.echo(as_json(row))
    else:
        show(rows)
    broken = complaints(rows)
    for text in broken:
        click.echo(f"BROKEN {text} (seed {seed})", err=True)
    sys.exit(1 if broken else 0)


def complaints(rows: list[dict[str, Any]]) -> list[str]:
    """Promises that were broken, in words."""
    texts = []
    for row in rows:
        ours = row["zmqkit"]
        unexplained = ours["doubled"] - sum(ours["explained"].values())
        texts += [f"{row['fault']}: zmqkit lost {ours['lost']} jobs"] if ours["lost"] else []
        texts += [f"{row['fault']}: {unexplained} second executions have no cause in the node's log"] if unexplained else []
    return texts


COLUMNS = ["fault", "hits", "sent", "bare lost", "bare doubled", "bare slowest", "zmqkit lost", "zmqkit doubled", "zmqkit slowest"]


def cells(row: dict[str, Any]) -> list[str]:
    bare, ours = row["bare"], row["zmqkit"]
    if row["skipped"]:
        return [row["fault"], f"skipped: {row['skipped']}", *[""] * (len(COLUMNS) - 2)]
    causes = ", ".join(f"{cause} {count}" for cause, count in sorted(ours["explained"].items()))
    return [
        *(row["fault"], str(ours["hits"]), str(ours["sent"])),
        *(str(bare["lost"]), str(bare["doubled"]), f"{bare['slowest_seconds']:.2f} s"),
        *(str(ours["lost"]), str(ours["doubled"]) + (f" ({causes})" if causes else ""), f"{ours['slowest_seconds']:.2f} s"),
    ]


def show(rows: list[dict[str, Any]]) -> None:
    lines = [cells(row) for row in rows]
    if not sys.stdout.isatty():
        return print_table(lines, COLUMNS)
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in COLUMNS:
        table.add_column(title, justify="left" if title == "fault" else "right")
    for line in lines:
        table.add_row(*line)
    Console().print(table)
