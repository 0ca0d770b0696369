"""The two clusters of `zmqkit chaos`: a producer, something in the middle and two workers, on plain pyzmq and on zmqkit.

Each is a process of its own, and everybody's connection goes through a proxy. What happened is read from their notes.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import click

import zmqkit
from zmqkit.cli.chaos_bare import SPOOL
from zmqkit.cli.chaos_clock import JUMPED
from zmqkit.cli.chaos_notes import Rows
from zmqkit.cli.demo_proxy import Proxy
from zmqkit.cli.processes import Broker, kill, last_line, next_line, python, ready_words, stop
from zmqkit.journal.journal import SEGMENT_BYTES

WORKERS = 2
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.01
QUIET_SECONDS = 1.2  # in which no job is done: what plain ZeroMQ has not delivered by then is lost
FILLER, FILLER_BYTES = "chaos.filler", 256 * 1024
JUMP_SECONDS = 0.5  # well below a lease: what is given again meanwhile is given by the wall clock
FREE = "tcp://127.0.0.1:0"


class Skipped(Exception):
    """This machine does not let us inject the fault; says why."""


class Cluster(ABC):
    name: str
    patience_seconds: float  # without anything being done; then what is not done is lost

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.log = place / "node.log"
        self.log.touch()
        self.handed, self.sent, self.refused = (Rows(place / name) for name in ("handed", "sent", "refused"))
        self.begun = [Rows(place / f"begun-{k}") for k in range(WORKERS)]
        self.done = [Rows(place / f"done-{k}") for k in range(WORKERS)]
        self.ordered, self.first = 0, 0  # jobs so far; the first that the present hit may meet
        self.links: list[Proxy] = []  # the producer's, then the workers'
        self.workers: list[subprocess.Popen[str]] = []
        self._died_with = [0] * WORKERS  # begun and never done, by those who were killed
        self._marks = [0] * WORKERS
        self.over = False  # who waits for anything waits no more
        self._producer: subprocess.Popen[str] | None = None
        self._middle: subprocess.Popen[str] | None = None

    # -- what is different ----------------------------------------------------------------------------------------------

    @abstractmethod
    def start_middle(self) -> None:
        """Where it was before, if it was; returns when it listens."""

    @abstractmethod
    def _endpoints(self) -> tuple[str, str]:
        """Where producers and workers find the middle."""

    @abstractmethod
    def _role(self, role: str, number: int, link: Proxy) -> subprocess.Popen[str]:
        """A producer or worker; says `ready`."""

    @abstractmethod
    def fill_disk(self, order: Callable[[], None]) -> None:
        """No room for the middle's files, until `free_disk`; `order` orders jobs. Returns when it was noticed."""

    @abstractmethod
    def free_disk(self) -> None: ...

    @abstractmethod
    def see_jump(self, k: int) -> None:
        """Wait for what the jump of the clock does to the job in the hands of that frozen worker."""

    @contextlib.contextmanager
    def with_clock(self) -> Iterator[None]:
        """While inside, the middle's clock can jump, and it uses one."""
        yield

    # -- its life -------------------------------------------------------------------------------------------------------

    @property
    def middle(self) -> subprocess.Popen[str]:
        assert self._middle
        return self._middle

    def start(self) -> None:
        self.start_middle()
        front, back = self._endpoints()
        self.links = [Proxy(front), *(Proxy(back) for _ in range(WORKERS))]
        self._producer = self._role("produce", 0, self.links[0])
        self._start_workers()
        self._await_ready(self._producer)

    def _start_workers(self) -> None:
        self.workers = [self._start_worker(k) for k in range(WORKERS)]
        for worker in self.workers:
            self._await_ready(worker)

    def _start_worker(self, k: int) -> subprocess.Popen[str]:
        self._died_with[k] = len(self.begun[k].read()) - len(self.done[k].read())
        return self._role("work", k, self.links[1 + k])

    def _await_ready(self, process: subprocess.Popen[str]) -> None:
        if ready_words(process) is None:
            raise click.ClickException(f"{self.name}: a process did not start: {last_line(self.place / 'processes.log')}")

    def stop(self) -> None:
        """Workers first: they finish what is in hand and say goodbye to a node that still listens."""
        for process in [self._producer, *self.workers, self._middle]:
            if process:
                process.send_signal(signal.SIGCONT)  # where a hit was interrupted, it may be frozen
                stop(process)
        for link in self.links:
            link.close()

    def order(self, count: int) -> None:
        """Let the producer send so many more jobs."""
        assert self._producer and self._producer.stdin
        self.ordered += count
        self._producer.stdin.write(f"{count}\n")
        self._producer.stdin.flush()

    def until(self, what: str, happened: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            if self.over:
                raise click.Abort
            if time.monotonic() > end:
                words = last_line(self.place / "processes.log")
                raise click.ClickException(f"{self.name}: not within {PATIENCE_SECONDS:.0f} s: {what}; last words: {words}")
            time.sleep(LOOK_SECONDS)

    def kill_middle(self) -> None:
        kill(self.middle)

    def replace_worker(self, k: int) -> None:
        """Kill it with -9, and start another."""
        kill(self.workers[k])
        stop(self.workers[k])
        self.workers[k] = self._start_worker(k)
        self._await_ready(self.workers[k])

    def catch(self, k: int) -> None:
        """Freeze a worker with a job in its hands. It is slow from now on, so that there is one."""
        worker = self.workers[k]
        self.slow_down(k)
        while True:
            self.until("a worker has a job in its hands", lambda: self._holds(k))
            freeze(worker)
            if self._holds(k):
                return
            worker.send_signal(signal.SIGCONT)

    def _holds(self, k: int) -> bool:
        done = len(self.done[k].read())  # first: what is begun later only makes it true
        return len(self.begun[k].read()) > done + self._died_with[k]

    def thaw(self, k: int) -> None:
        self.workers[k].send_signal(signal.SIGCONT)
        self.speed_up(k)

    def slow_down(self, k: int) -> None:
        self.workers[k].send_signal(signal.SIGUSR1)

    def speed_up(self, k: int) -> None:
        self.workers[k].send_signal(signal.SIGUSR2)

    def jump_clock(self, days: int) -> None:
        for _ in range(abs(days)):
            told = self.words().count(JUMPED)
            self.middle.send_signal(signal.SIGUSR1 if days > 0 else signal.SIGUSR2)
            self.until("the clock jumps", lambda told=told: self.words().count(JUMPED) > told)  # type: ignore[misc]

    def words(self) -> str:
        """What the middle has said."""
        return self.log.read_text(errors="replace")

    # -- what came of it ------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """From here on `all_work` counts."""
        self._marks = [len(rows.read()) for rows in self.begun]

    def all_work(self) -> bool:
        """Each worker has begun a job since `mark`."""
        return all(len(rows.read()) > mark for rows, mark in zip(self.begun, self._marks, strict=True))

    def settle(self) -> None:
        """Until all that was ordered since `first` is done; or nothing has been done for a while, and nothing keeps anybody from it."""
        moved, count, numbers = time.monotonic(), -1, set(range(self.first, self.ordered))
        while time.monotonic() < moved + self.patience_seconds and not self.over:
            sent, rows = self.sent.read(), [row for rows in self.done for row in rows.read()]
            if numbers <= {row[0] for row in sent} & {row[0] for row in rows}:
                return
            now = len(rows) + len(sent)
            moved, count = (time.monotonic(), now) if now != count else (moved, count)
            time.sleep(LOOK_SECONDS)


class Bare(Cluster):
    name = "bare"
    patience_seconds = QUIET_SECONDS

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._at = FREE, FREE
        self._lends = False

    def start_middle(self) -> None:
        role = "lend" if self._lends else "forward"
        self._middle = python("zmqkit.cli.chaos_bare", role, str(self.place), "0", *self._at, log=self.log)
        front, _, back = next_line(self._middle).strip().partition(" ")
        if not back:
            raise click.ClickException(f"bare: the process in the middle did not start: {last_line(self.log)}")
        self._at = front, back

    def _endpoints(self) -> tuple[str, str]:
        return self._at

    def _role(self, role: str, number: int, link: Proxy) -> subprocess.Popen[str]:
        role = "borrow" if role == "work" and self._lends else role
        log, listens = self.place / "processes.log", role == "produce"
        return python("zmqkit.cli.chaos_bare", role, str(self.place), str(number), link.endpoint, log=log, listens=listens)

    def fill_disk(self, order: Callable[[], None]) -> None:
        limit_files(self.middle, (self.place / SPOOL).stat().st_size)
        order()
        self.until("the process in the middle has met the full disk", lambda: self.middle.poll() is not None)

    def free_disk(self) -> None:
        self.start_middle()

    def see_jump(self, k: int) -> None:
        held = self.begun[k].read()[-1][0]
        self.until("the job is given again", lambda: any(row[0] == held for row in self.begun[1 - k].read()))

    @contextlib.contextmanager
    def with_clock(self) -> Iterator[None]:
        self.settle()
        self._change(lends=True)
        try:
            yield
        finally:
            self.settle()
            self._change(lends=False)

    def _change(self, lends: bool) -> None:
        """Another middle and other workers, with nothing under way."""
        for process in [*self.workers, self.middle]:
            stop(process)
        self._lends = lends
        self.start_middle()
        self._start_workers()


class Ours(Cluster):
    name = "zmqkit"
    patience_seconds = PATIENCE_SECONDS

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._broker = Broker(place / "journal", self.log, module="zmqkit.cli.chaos_clock")

    def start_middle(self) -> None:
        try:
            self._broker.start()
        finally:
            self._middle = self._broker.process

    def _endpoints(self) -> tuple[str, str]:
        return self._broker.endpoint, self._broker.endpoint

    def _role(self, role: str, number: int, link: Proxy) -> subprocess.Popen[str]:
        log, listens = self.place / "processes.log", role == "produce"
        return python("zmqkit.cli.chaos_roles", role, link.endpoint, str(self.place), str(number), log=log, listens=listens)

    def fill_disk(self, order: Callable[[], None]) -> None:
        """No room for another segment; then the present one is filled, one by one: the last MiB is the node's own."""
        limit_files(self.middle, SEGMENT_BYTES - 1)
        told = len(self.refused.read())
        with zmqkit.connect(self._broker.endpoint) as mq, contextlib.suppress(zmqkit.DiskFull):
            while True:
                mq.queue(FILLER).put(bytes(FILLER_BYTES), timeout=PATIENCE_SECONDS)
        order()
        self.until("the node refuses for want of room", lambda: len(self.refused.read()) > told)

    def free_disk(self) -> None:
        limit_files(self.middle, None)
        with zmqkit.connect(self._broker.endpoint) as mq:
            mq.queue(FILLER).purge(timeout=PATIENCE_SECONDS)

    def see_jump(self, k: int) -> None:
        time.sleep(JUMP_SECONDS)


def freeze(process: subprocess.Popen[str]) -> None:
    """SIGSTOP; returns when it stands, or has died."""
    process.send_signal(signal.SIGSTOP)
    while state(process.pid) not in "TZ":
        time.sleep(0.001)


def state(pid: int) -> str:
    """One letter, as in /proc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def limit_files(process: subprocess.Popen[str], size: int | None) -> None:
    """No file of that process grows beyond so many bytes: writes fail with EFBIG, which a journal takes as it takes a full disk.
    None: as far as it may. Raises Skipped."""
    try:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))
    except (OSError, ValueError) as error:
        raise Skipped(f"no limit on another process's files: {error}") from None
