"""`zmqkit demo queue`: real work through a durable queue, while a worker and the node are killed with kill -9, twice.

A node, several workers, and this process, which puts the jobs, collects the results, does the killing, and in the end
does the same work in a plain loop and compares. It talks to the node as any application would.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

import zmqkit
from zmqkit.cli import demo_jobs
from zmqkit.cli.demo_jobs import Job, Result
from zmqkit.cli.demo_report import LeaseEnds, Repeats, read_diaries, repeats
from zmqkit.cli.demo_screen import Screen
from zmqkit.cli.processes import Broker, kill, python, sigterm_as_interrupt, stop

JOBS, RESULTS = "demo.jobs", "demo.results"
KILLS_AT = (1 / 3, 2 / 3)  # of all jobs done
STALL_SECONDS_MAX = 60.0  # without a result for so long, what is missing counts as lost
LOOK_SECONDS = 0.25


@click.command("queue")
@click.option("--input", "lines", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Each line of this file is a job.")
@click.option("--dir", "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Each .py file below is a job.")
@click.option("--workers", type=click.IntRange(min=1), default=3, show_default=True, help="Worker processes.")
def demo_queue(lines: Path | None, directory: Path | None, workers: int) -> None:
    """Tokenise every file of Python's standard library through a durable queue, and kill -9 a worker and the node on the way.

    Fails unless every job's result is there exactly once and the totals equal those of a plain loop over the same jobs.
    """
    if lines and directory:
        raise click.UsageError("--input and --dir exclude each other")
    jobs = demo_jobs.line_jobs(lines) if lines else demo_jobs.directory_jobs(directory) if directory else demo_jobs.stdlib_jobs()
    if not jobs:
        raise click.ClickException(f"no jobs in {lines or directory}: give a file with lines, or a directory with .py files")
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix="zmqkit-demo-") as place, Screen("queue", len(jobs)) as screen:
        run = Run(jobs, Path(place), workers, screen)
        run.run()
        screen.say("the same work in a plain loop, to compare")
        begin = time.monotonic()
        plain = demo_jobs.totals(screen.follow((demo_jobs.do(job) for job in jobs), "plain loop"))
        plain_seconds = time.monotonic() - begin
    sys.exit(report(run, plain, plain_seconds))


class Run:
    """One run over `jobs`; its attributes are what the report is made of."""

    def __init__(self, jobs: list[Job], place: Path, workers: int, screen: Screen) -> None:
        self.jobs, self.screen, self.results = jobs, screen, dict[int, Result]()
        self.confirmed = 0
        self.killed: Counter[str] = Counter()
        self.kill_times: list[float] = []
        self.doubled_results, self.seconds, self.left = 0, 0.0, 0
        self.repeats = Repeats(Counter(), [], 0.0)
        self._place, self._log, self._worker_count = place, place / "node.log", workers
        self._broker = Broker(place / "journal", self._log)
        self._workers: list[subprocess.Popen[str]] = []
        self._room, self._over = threading.Semaphore(0), threading.Event()
        self._failure: BaseException | None = None
        self._marks = sorted(max(1, int(len(jobs) * part)) for part in KILLS_AT)

    def run(self) -> None:
        try:
            self._broker.start()
            self._workers = [self._new_worker() for _ in range(self._worker_count)]
            begin = time.monotonic()
            with zmqkit.connect(self._broker.endpoint) as mq:
                feeder = threading.Thread(target=self._feed, args=(mq,), daemon=True)
                feeder.start()
                self._collect(mq)
                self.seconds = time.monotonic() - begin
                self._over.set()
                self._room.release(len(self.jobs))
                feeder.join()
        finally:
            # Workers first: they finish what is in hand and say goodbye to a node that still listens.
            for process in self._workers:
                stop(process)
            self._broker.stop()
        ends = LeaseEnds(self._log.read_text(errors="replace"), JOBS)
        self.repeats = repeats(read_diaries(self._place.glob("diary-*")), ends, self.kill_times)

    def _new_worker(self) -> subprocess.Popen[str]:
        number = self.killed["worker"] + len(self._workers)
        diary = str(self._place / f"diary-{number}")
        return python("zmqkit.cli.demo_worker", self._broker.endpoint, JOBS, RESULTS, diary, log=self._place / "workers.log")

    def _feed(self, mq: Any) -> None:
        """Put a quarter of the jobs at once, the others one by one as results come in: so some put is under way at each kill."""
        try:
            queue, ahead = mq.queue(JOBS), max(1, len(self.jobs) // 4)
            self.confirmed += queue.put_many(self.jobs[:ahead], timeout=None).count
            for job in self.jobs[ahead:]:
                self._room.acquire()
                if self._over.is_set():
                    return
                queue.put(job, timeout=None)
                self.confirmed += 1
        except BaseException as failure:
            self._failure = failure

    def _collect(self, mq: Any) -> None:
        """Take results until each job has one and the job queue is empty, and kill at the marks."""
        jobs, results, heard = mq.queue(JOBS), mq.queue(RESULTS), time.monotonic()
        while time.monotonic() - heard < STALL_SECONDS_MAX:
            if self._failure:
                raise self._failure
            if batch := quiet(results.get_many, 256, timeout=LOOK_SECONDS):
                heard = time.monotonic()
                self._count(batch.bodies)
                quiet(batch.ack)
                self._kill_at_marks()
            elif info := quiet(jobs.info):
                self.left = info.ready + info.leased + info.delayed + info.dead
                if len(self.results) == len(self.jobs) and not self.left:
                    return
        self.screen.say(f"no result for {STALL_SECONDS_MAX:.0f} s: giving up")

    def _count(self, bodies: Iterable[dict[str, Any]]) -> None:
        for body in bodies:
            if body["seq"] in self.results:
                self.doubled_results += 1
            else:
                self.results[body["seq"]] = body["result"]
                self._room.release()
        self.screen.done(len(self.results))

    def _kill_at_marks(self) -> None:
        if not self._marks or len(self.results) < self._marks[0]:
            return
        self._marks.pop(0)
        victim = self._workers.pop(0)
        kill(victim)
        self._broker.kill()
        self.kill_times.append(time.time())
        self.killed += Counter(worker=1, node=1)
        self.screen.say(f"kill -9 worker {victim.pid} and node {self._broker.pid}, with {len(self.results)} of {len(self.jobs)} jobs done")
        self._workers.append(self._new_worker())
        self.screen.say(f"the node serves again after {self._broker.start():.2f} s; a new worker is {self._workers[-1].pid}")


def quiet(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The call's result, or None while the node is away: it is being restarted, and the link mends itself.

    None, too, where a lease ended with the killed node before our ack was on disk: those results come again and are not counted again.
    """
    try:
        return call(*arguments, **options)
    except (zmqkit.Timeout, zmqkit.StaleLease):
        return None


def report(run: Run, plain: dict[str, int], plain_seconds: float) -> int:
    """Print the table; returns the exit code."""
    total, lost = demo_jobs.totals(run.results.values()), max(0, run.confirmed - len(run.results) - run.left)
    equal, causes = total == plain, ", ".join(f"{cause} {count}" for cause, count in sorted(run.repeats.causes.items()))
    rows = {
        "jobs put": f"{len(run.jobs):,}",
        "confirmed": f"{run.confirmed:,}",
        "done": f"{len(run.results):,}",
        "lost": f"{lost:,}",
        "executed twice": f"{run.repeats.causes.total() + len(run.repeats.unexplained):,}" + (f"  ({causes})" if causes else ""),
        "killed -9": ", ".join(f"{count} × {what}" for what, count in run.killed.items()) or "nothing: too few jobs",
        "slowest redelivery": f"{run.repeats.slowest_seconds:.2f} s" if run.repeats.causes else "-",
        "rate": f"{len(run.results) / run.seconds:,.0f} jobs/s: {run.seconds:.1f} s (plain loop: {plain_seconds:.1f} s)",
        "counted": ", ".join(f"{total.get(key, 0):,} {key}" for key in ("lines", "tokens", *flaws(total))),
        "totals": "equal to the plain loop" if equal else "DIFFER from the plain loop",
    }
    for name, value in rows.items():
        click.echo(f"{name:<20}{value}")
    if run.repeats.unexplained:
        click.echo(f"no lease end in the node's log explains the second execution of {run.repeats.unexplained[:10]}", err=True)
    if not equal:
        differing = [key for key in sorted({*total, *plain}) if total.get(key) != plain.get(key)]
        parts = [f"{key} {total.get(key, 0):,} instead of {plain.get(key, 0):,}" for key in differing[:5]]
        click.echo("differs: " + ", ".join(parts), err=True)
    complete = len(run.jobs) == run.confirmed == len(run.results)
    return 0 if complete and equal and not lost and not run.repeats.unexplained else 1


def flaws(total: dict[str, int]) -> list[str]:
    return [key for key in ("undecodable", "no Python", "unreadable") if key in total]
