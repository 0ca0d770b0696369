"""Rounds of the bench: the same thing measured several times, what it is compared with in between, and the median of each figure.

One round of raw calls is three processes that come and go, so that nothing of one round weighs on the next.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click

from zmqkit.cli.processes import Broker, python, ready_words, stop

Result = dict[str, Any]
FIGURES = ("per_s", "p50_us", "p99_us")


@contextmanager
def node(place: Path | None = None, durability: str = "memory", keys: Path | None = None) -> Iterator[Broker]:
    """A broker whose files are in `place`, and gone in the end. With "memory" it has no journal; calls need none whatever it is."""
    with tempfile.TemporaryDirectory(prefix="zmqkit-bench-", dir=place) as directory:
        journal = None if durability == "memory" else Path(directory, "journal")
        broker = Broker(journal, Path(directory, "log"), durability=durability, log_level="warning", keys=keys)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


class Roles:
    """Processes of one round; all are gone when it is over."""

    def __init__(self, module: str, numbers: tuple[int, ...]) -> None:
        self._module, self._numbers = module, [str(number) for number in numbers]
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, role: str, endpoint: str = "-") -> subprocess.Popen[str]:
        process = python(f"zmqkit.cli.{self._module}", role, endpoint, *self._numbers)
        self._processes.append(process)
        return process

    def ready(self, role: str, endpoint: str = "-") -> list[str]:
        """Start a role and wait until it is ready; the endpoints it says. Raises ClickException."""
        return self.begin(role, endpoint)[1]

    def begin(self, role: str, endpoint: str = "-") -> tuple[subprocess.Popen[str], list[str]]:
        """The same, with the process, whose result is awaited later."""
        process = self.start(role, endpoint)
        return process, self.heard(process, role)

    @staticmethod
    def heard(process: subprocess.Popen[str], role: str) -> list[str]:
        """Wait until it is ready; what it says with that. Raises ClickException."""
        if (words := ready_words(process)) is None:
            raise click.ClickException(f"the {role} process ended early")
        return words

    def result(self, role: str, endpoint: str = "-") -> Result:
        """Start a role and wait for what it has to tell at its end. Raises ClickException."""
        return self.told(self.start(role, endpoint), role)

    @staticmethod
    def told(process: subprocess.Popen[str], role: str) -> Result:
        """What it has to tell at its end. Raises ClickException."""
        output, _ = process.communicate()
        if process.returncode:
            raise click.ClickException(f"the {role} process failed; its traceback is above")
        result: Result = json.loads(output.splitlines()[-1])
        return result

    def stop(self) -> None:
        while self._processes:
            stop(self._processes.pop())


@contextmanager
def roles(module: str, *numbers: int) -> Iterator[Roles]:
    """`numbers`: of calls, of bytes, and what else the roles of that module want to know."""
    running = Roles(module, numbers)
    try:
        yield running
    finally:
        running.stop()


def raw_ppp(calls: int, size: int) -> Result:
    """One round, lockstep: REQ – ROUTER queue ROUTER – DEALER worker, in plain pyzmq."""
    return _through("queue", "request", calls, size)


def raw_concurrent(calls: int, size: int) -> Result:
    """One round with 200 calls under way: DEALER – ROUTER queue ROUTER – DEALER worker, in plain pyzmq."""
    return _through("forward", "requests", calls, size)


def raw_echo(calls: int, size: int) -> Result:
    """One round, lockstep: REQ – ROUTER that answers by itself, in plain pyzmq."""
    with roles("bench_raw_call", calls, size) as running:
        (endpoint,) = running.ready("echo")
        return rated(running.result("request", endpoint), calls)


def _through(middle: str, client: str, calls: int, size: int) -> Result:
    with roles("bench_raw_call", calls, size) as running:
        frontend, backend = running.ready(middle)
        running.ready("worker", backend)
        return rated(running.result(client, frontend), calls)


def rated(result: Result, calls: int) -> Result:
    """The result of a client, with its calls a second."""
    return {**result, "per_s": round(calls / (result["last_ns"] - result["first_ns"]) * 1e9)}


def medians(measures: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, Result]:
    """Measure each in turn, `rounds` times over, so that a mood of the machine meets them all. Figures are medians, losses add up."""
    told: dict[str, list[Result]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            told[name].append(measure())
    return {name: _median(results) for name, results in told.items()}


def _median(results: list[Result]) -> Result:
    figures = {key: round(median(result[key] for result in results), 1) for key in FIGURES if results[0].get(key) is not None}
    losses = {key: sum(result.get(key, 0) for result in results) for key in ("lost", "duplicated")}
    return {**results[-1], **figures, **losses, "rounds": len(results)}
