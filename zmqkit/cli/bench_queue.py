"""`zmqkit bench queue`: producer, node and consumer in processes of their own, through the public API, and plain pyzmq beside them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from zmqkit.cli.bench_load import CLOCK, MESSAGE_BYTES_MIN, merge, percentiles
from zmqkit.cli.bench_raw import appends
from zmqkit.cli.bench_rounds import node
from zmqkit.cli.processes import Broker, cpu_seconds, peak_memory_bytes, python, ready_words, sigterm_as_interrupt, stop
from zmqkit.security import Keys

CREDIT1_WORKERS = 4
IDLE_SECONDS = 30.0
Row = dict[str, Any]


class Bench:
    """Runs modes in `place`, which must be on the disk that is to be measured."""

    def __init__(self, place: Path, messages: int | None, size: int, durability: str, keys: Path | None = None) -> None:
        self._place, self._messages, self._size, self._durability, self._keys = place, messages, size, durability, keys
        self._processes: list[subprocess.Popen[str]] = []

    @contextlib.contextmanager
    def _node(self) -> Iterator[Broker]:
        """A node with an empty journal; it and all processes started meanwhile are gone afterwards."""
        with node(self._place, self._durability, self._keys) as broker:
            try:
                yield broker
            finally:
                while self._processes:
                    stop(self._processes.pop())

    def _start(self, role: str, endpoint: str, messages: int, module: str = "bench_roles") -> subprocess.Popen[str]:
        process = python(f"zmqkit.cli.{module}", role, endpoint, str(messages), str(self._size), *([str(self._keys)] if self._keys else []))
        self._processes.append(process)
        return process

    def _ready(self, role: str, endpoint: str, messages: int, module: str = "bench_roles") -> tuple[subprocess.Popen[str], str]:
        """Start a role and wait for its `ready`; also gives the word after it, if there is one."""
        process = self._start(role, endpoint, messages, module)
        if (words := ready_words(process)) is None:
            raise click.ClickException(f"the {role} process did not start")
        return process, words[-1] if words else ""

    def _result(self, process: subprocess.Popen[str]) -> Row:
        output, _ = process.communicate()
        if process.returncode:
            raise click.ClickException("a process of the bench failed; its traceback is above")
        result: Row = json.loads(output.splitlines()[-1])
        return result

    def _row(self, mode: str, system: str, messages: int, result: Row, **more: Any) -> Row:
        row: Row = {"bench": "queue", "mode": mode, "system": system, "version": version("zmqkit" if system == "zmqkit" else "pyzmq")}
        row |= {"durability": result.get("durability", "memory"), "messages": messages, "size": self._size}
        if system == "zmqkit" and self._keys:
            row["curve"] = True
        if "last_ns" in result:
            row["messages_per_s"] = round(messages / (result["last_ns"] - result["first_ns"]) * 1e9)
        return {**row, **{key: result.get(key) for key in ("p50_us", "p99_us", "lost", "duplicated")}, **more}

    def _stream(self, mode: str, producer: str, consumer: str, messages: int, consumers: int = 1) -> Row:
        """Consumers first, then the producer; the time is from its first put to the last answered ack (or confirm)."""
        with self._node() as broker:
            taking = [self._ready(consumer, broker.endpoint, messages)[0] for _ in range(consumers)]
            put = self._result(self._start(producer, broker.endpoint, messages))
            taken = merge([self._result(process) for process in taking])
            memory = peak_memory_bytes(broker.pid)
        result = {**put, **taken, "last_ns": max(put["last_ns"], taken["last_ns"])}
        return self._row(mode, "zmqkit", messages, result, node_rss_mb=round(memory / 1e6))

    def _raw(self, mode: str, kind: str, messages: int) -> Row:
        try:
            pull, endpoint = self._ready(f"pull_{kind}", "-", messages, "bench_raw")
            put = self._result(self._start(f"push_{kind}", endpoint, messages, "bench_raw"))
            taken = merge([self._result(pull)])
        finally:
            while self._processes:
                stop(self._processes.pop())
        return self._row(mode, "raw-zmq", messages, {**put, **taken})

    def batch(self, messages: int = 2_000_000) -> Iterator[Row]:
        """put_many → consume_many, one ack a batch."""
        yield from self._beside_raw("batch", "bodies", "put_batches", "take_batches", messages)

    def message(self, messages: int = 500_000) -> Iterator[Row]:
        """put_soon(dict) one by one → a handler call and an ack a message."""
        yield from self._beside_raw("message", "documents", "put_documents", "take_documents", messages)

    def _beside_raw(self, mode: str, kind: str, producer: str, consumer: str, messages: int) -> Iterator[Row]:
        raw = self._raw(mode, kind, messages)
        ours = self._stream(mode, producer, consumer, messages)
        beside = {"raw-zmq": raw}
        if self._keys:
            open_to_all = Bench(self._place, self._messages, self._size, self._durability)
            beside["zmqkit-without-keys"] = open_to_all._stream(mode, producer, consumer, messages)
        yield from (ours, *beside.values())
        ratios = {name: round(ours["messages_per_s"] / row["messages_per_s"], 3) for name, row in beside.items()}
        yield {"bench": "queue", "mode": mode, "ratio_to": ratios}

    def credit1(self, messages: int = 50_000) -> Iterator[Row]:
        """4 worker processes that each hold one message at a time and ack it by itself."""
        yield self._stream("credit1", "put_batches", "take_singly", messages, CREDIT1_WORKERS)

    def lockstep(self, messages: int = 3000) -> Iterator[Row]:
        """put, wait for the durable confirm, put the next; beside a raw round trip and append + fdatasync of the same bytes."""
        half = max(1, messages // 2)
        synced = appends(self._place, half, self._size)
        trip = self._round_trips(messages)
        with self._node() as broker:
            put = self._result(self._start("put_lockstep", broker.endpoint, messages))
            taken = merge([self._result(self._start("take_batches", broker.endpoint, messages))])
        synced += appends(self._place, half, self._size)  # before and after: the disk's mood changes
        ours = self._row("lockstep", "zmqkit", messages, {**put, "lost": taken["lost"], "duplicated": taken["duplicated"]})
        floor = {**percentiles(synced), "durability": "disk"}
        yield ours
        yield self._row("lockstep", "raw-zmq", messages, trip)
        yield self._row("lockstep", "append+fdatasync", len(synced), floor)
        both = floor["p50_us"] + trip["p50_us"]
        ratios = {"raw-zmq": round(ours["p50_us"] / trip["p50_us"], 3), "append+fdatasync+raw-zmq": round(ours["p50_us"] / both, 3)}
        yield {"bench": "queue", "mode": "lockstep", "ratio_to": ratios}

    def _round_trips(self, messages: int) -> Row:
        try:
            _, endpoint = self._ready("echo", "-", messages, "bench_raw")
            return self._result(self._start("round_trips", endpoint, messages, "bench_raw"))
        finally:
            while self._processes:
                stop(self._processes.pop())

    def backlog(self, messages: int = 10_000_000) -> Iterator[Row]:
        """Fill a queue, kill -9 the node, start it again, drain the queue: memory, restart time, nothing lost."""
        yield self._backlog("backlog", "put_batches", messages)

    def backlog_small(self, messages: int = 10_000_000) -> Iterator[Row]:
        """The same with puts of 1 to 8 messages, each confirmed before its client's next."""
        yield self._backlog("backlog-small", "put_small", messages)

    def _backlog(self, mode: str, producer: str, messages: int) -> Row:
        with self._node() as broker:
            put = self._result(self._start(producer, broker.endpoint, messages))
            filling = peak_memory_bytes(broker.pid)
            broker.kill()
            restart = broker.start()
            begin = CLOCK()
            taken = merge([self._result(self._start("take_batches", broker.endpoint, messages))])
            draining = peak_memory_bytes(broker.pid)
        return {
            **self._row(mode, "zmqkit", messages, {**put, "lost": taken["lost"], "duplicated": taken["duplicated"]}),
            "drain_per_s": round(messages / (taken["last_ns"] - begin) * 1e9),
            "restart_s": round(restart, 2),
            "node_rss_mb": round(max(filling, draining) / 1e6),
        }

    def idle(self, messages: int = 0) -> Iterator[Row]:
        """CPU of a node with 100 connected consumers (in one other process) and nothing to do."""
        with self._node() as broker:
            self._ready("stay_idle", broker.endpoint, 0)
            time.sleep(3.0)  # the connects themselves are not what is measured
            before, begin = cpu_seconds(broker.pid), time.monotonic()
            time.sleep(IDLE_SECONDS)
            percent = 100 * (cpu_seconds(broker.pid) - before) / (time.monotonic() - begin)
        row = {"bench": "queue", "mode": "idle", "system": "zmqkit", "version": version("zmqkit"), "durability": self._durability}
        yield {**row, "consumers": 100, "seconds": IDLE_SECONDS, "cpu_percent": round(percent, 2)}

    def run(self, mode: str) -> Iterator[Row]:
        rows: Callable[..., Iterator[Row]] = getattr(self, mode.replace("-", "_"))
        return rows(self._messages) if self._messages else rows()


MODES = ["batch", "message", "lockstep", "credit1", "backlog", "backlog-small", "idle"]
MODES_HELP = "\n\n".join(f"{mode}: {getattr(Bench, mode.replace('-', '_')).__doc__}" for mode in MODES)


@click.command("queue", help=f"{__doc__.strip() if __doc__ else ''}\n\nModes:\n\n{MODES_HELP}")
@click.option("--messages", type=click.IntRange(min=1), metavar="N", help="How many.  [default: what suits the mode]")
@click.option("--size", type=click.IntRange(min=MESSAGE_BYTES_MIN), default=128, show_default=True, metavar="BYTES", help="Of each body.")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), default=["batch", "message", "lockstep"], show_default=True,
              help="What to measure; may be given several times.")  # fmt: skip
@click.option("--durability", type=click.Choice(["disk", "os", "memory"]), default="disk", show_default=True,
              help="What confirms wait for.")  # fmt: skip
@click.option("--dir", "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".", show_default=True,
              help="On the disk to measure; a directory is made in it and removed.")  # fmt: skip
@click.option("--curve", is_flag=True, help="Encrypt every link to the node, with keys made for this run; beside it, the same without.")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object per line.")
def bench_queue(messages: int | None, size: int, modes: tuple[str, ...], durability: str, directory: Path, curve: bool,
                as_lines: bool) -> None:  # fmt: skip
    flawed = False
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix=".zmqkit-bench-", dir=directory) as place:
        keys = Path(Keys.make(Path(place, "keys")).path) if curve else None
        runner = Bench(Path(place), messages, size, durability, keys)
        for mode in modes:
            for row in runner.run(mode):
                click.echo(json.dumps(row) if as_lines else in_words(row))
                flawed |= bool(row.get("lost") or row.get("duplicated"))
    sys.exit(int(flawed))


def in_words(row: Row) -> str:
    mode = f"{row['mode']:<14}"
    if "ratio_to" in row:
        return mode + "ratio to " + ", ".join(f"{name}: {ratio}" for name, ratio in row["ratio_to"].items())
    head = f"{row['system']:<17}"
    rest = {key: value for key, value in row.items() if key not in ("bench", "mode", "system", "version") and value is not None}
    words = [f"{key} {value:,}" if isinstance(value, int | float) else f"{key} {value}" for key, value in rest.items()]
    return mode + head + "  ".join(words)
