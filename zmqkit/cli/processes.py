"""Nodes and workers as processes of their own, started from this one and never left behind: for the demo and the bench."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 15.0


class Broker:
    """A `zmqkit broker` process that can be killed and started again on the same endpoint and journal."""

    def __init__(self, journal: Path | None, log: Path, *, durability: str | None = None, log_level: str = "info",
                 keys: Path | None = None, module: str = "zmqkit.cli") -> None:  # fmt: skip
        self._command = [sys.executable, "-m", module, "broker", "--journal", str(journal or "none"), "--log-level", log_level]
        self._command += ["--durability", durability] if durability else []
        self._command += ["--keys", str(keys)] if keys else []
        self._log, self.endpoint = log, "tcp://127.0.0.1:0"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Returns the seconds from exec until it served. Raises ClickException with the node's last words."""
        begin = time.monotonic()
        with self._log.open("a") as log:
            command = [*self._command, "--bind", self.endpoint]
            given = {name: value for name, value in os.environ.items() if name != "ZMQKIT_KEYS"}  # our own roles come without
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=given
            )
        if (words := ready_words(self.process)) is None:
            raise click.ClickException(f"the node did not start: {last_line(self._log)}")
        self.endpoint = words[0]  # from now on the same port again
        return time.monotonic() - begin

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def kill(self) -> None:
        assert self.process
        kill(self.process)

    def stop(self) -> None:
        if self.process:
            stop(self.process)


def ready_words(process: subprocess.Popen[str]) -> list[str] | None:
    """Waits until it says `ready`, and gives what it says with that. None: it ended, said something else, or took too long."""
    words = next_line(process).split()
    return words[1:] if words[:1] == ["ready"] else None


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints; empty if it ended or took too long."""
    import select

    stream = process.stdout
    assert stream is not None
    ready, _, _ = select.select([stream], [], [], READY_SECONDS_MAX)
    return stream.readline() if ready else ""


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def python(module: str, *arguments: str, log: Path | None = None, listens: bool = False) -> subprocess.Popen[str]:
    """`python -m module arguments…`, with its stdout piped to us, its stderr in `log`, and its stdin from us if it `listens`."""
    stdin = subprocess.PIPE if listens else subprocess.DEVNULL
    with log.open("a") if log else contextlib.nullcontext() as stderr:
        return subprocess.Popen([sys.executable, "-m", module, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL: no handler runs, no buffer is flushed, no goodbye is said."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def stop(process: subprocess.Popen[str]) -> int:
    """SIGTERM, and SIGKILL if that is not heard. Returns the exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            kill(process)
    if process.stdout:
        process.stdout.close()
    return process.returncode


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While inside, SIGTERM ends this command as Ctrl-C does: `finally` runs, and children do not outlive us."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def peak_memory_bytes(pid: int) -> int:
    """The most physical memory that process ever held (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """User and system time of that process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
