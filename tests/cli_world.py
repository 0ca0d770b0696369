"""Running `zmqkit` as a user does: a process, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zmqkit.cli.processes import Broker

ZMQKIT = [sys.executable, "-m", "zmqkit.cli"]


def environment(**more: str) -> dict[str, str]:
    """Ours, without what a developer's shell may have set for zmqkit."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("ZMQKIT_")}, **more}


def zmqkit(*arguments: str, stdin: str | None = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ZMQKIT, *arguments], input=stdin, capture_output=True, text=True, timeout=100, env=environment(**variables))


def succeeds(*arguments: str, **options: str) -> list[str]:
    """The lines on stdout of a command that must end well."""
    done = zmqkit(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def fails(code: int, *arguments: str, **options: str) -> str:
    """The one line on stderr of a command that must fail."""
    done = zmqkit(*arguments, **options)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("zmqkit: "), done.stderr
    return done.stderr


@contextmanager
def node(place: Path, journal: bool = True) -> Iterator[Broker]:
    broker = Broker(place / "journal" if journal else None, place / "node.log")
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
