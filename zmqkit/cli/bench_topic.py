"""`zmqkit bench topic`: publisher, node and subscribers in processes of their own, through the public API, and PUB/SUB beside them.

Every subscriber has a link of its own. The topic keeps all updates of the run, as PUB keeps them without a high-water mark, so that
each subscriber gets each of them; who misses one fails the bench.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

import zmqkit
from zmqkit.cli.bench_call import allow_descriptors
from zmqkit.cli.bench_load import MESSAGE_BYTES_MIN
from zmqkit.cli.bench_rounds import Roles, node, roles
from zmqkit.cli.bench_topic_roles import TOPIC
from zmqkit.cli.processes import Broker, cpu_seconds, peak_memory_bytes, sigterm_as_interrupt

ROLES, RAW_ROLES = "bench_topic_roles", "bench_raw_topic"
PROCESSES_MAX = 2  # that all subscribers are spread over, evenly
JOINERS = (1, 4)
Row = dict[str, Any]


class Bench:
    """Runs modes in `place`, which must be on the disk that is to be measured."""

    def __init__(
        self, place: Path, messages: int | None, size: int, keys: int | None, durabilities: Sequence[str], taken: Sequence[str]
    ) -> None:
        self._place, self._messages, self._size, self._keys = place, messages, size, keys
        self._durabilities, self._taken = durabilities, taken

    def one_to_1(self) -> Iterator[Row]:
        """one subscriber, updates of 1,000 keys; beside PUB and SUB with the same batches, and with an update a message."""
        yield from self._fan("1-1", 1, 2_000_000, 1000, ["raw-zmq", "raw-zmq-singly"])

    def one_to_10(self) -> Iterator[Row]:
        """the same with ten."""
        yield from self._fan("1-10", 10, 400_000, 1000, ["raw-zmq", "raw-zmq-singly"])

    def one_to_100(self) -> Iterator[Row]:
        """the same with a hundred."""
        yield from self._fan("1-100", 100, 50_000, 1000, ["raw-zmq", "raw-zmq-singly"])

    def keys(self) -> Iterator[Row]:
        """one subscriber, updates of a million random keys."""
        yield from self._fan("keys", 1, 3_000_000, 1_000_000, ["raw-zmq"])

    def _fan(self, mode: str, subscribers: int, messages: int, keys: int, raw: Sequence[str]) -> Iterator[Row]:
        messages, keys = self._messages or messages, self._keys or keys
        run = Fan(mode, messages, self._size, keys, subscribers)
        rows = [run.raw(system) for system in raw]
        yield from rows
        for durability in self._durabilities:
            for taken in self._taken:
                with node(self._place, durability) as broker:
                    row = run.ours(broker, taken)
                yield row
                yield {"bench": "topic", "mode": mode, "durability": durability, "taken": taken, **compared(row, rows[0])}

    def snapshot(self) -> Iterator[Row]:
        """seconds until a late joiner has all of a million keys, beside 50,000 updates a second; then four joiners at once."""
        keys = self._keys or 1_000_000
        for durability in self._durabilities:
            head = {"bench": "topic", "mode": "snapshot", **of("zmqkit"), "durability": durability, "keys": keys, "size": self._size}
            with node(self._place, durability) as broker, roles(ROLES, 0, self._size, keys, 0) as running:
                publisher, _ = running.begin("update_evenly", broker.endpoint)
                told = [self._join(running, broker, joiners) for joiners in JOINERS]
                publisher.terminate()
                beside = running.told(publisher, "update_evenly")
                memory = round(peak_memory_bytes(broker.pid) / 1e6)
            assert beside.pop("durability") == durability
            for row in told:
                yield {**head, **row, **beside, "node_rss_mb": memory}

    @staticmethod
    def _join(running: Roles, broker: Broker, joiners: int) -> Row:
        waiting = [running.begin("join", broker.endpoint)[0] for _ in range(joiners)]
        for process in waiting:
            process.send_signal(signal.SIGUSR1)
        for process in waiting:
            running.heard(process, "join")
        for process in waiting:  # only now: who compares takes a core from those that still join
            process.send_signal(signal.SIGUSR1)
        told = [running.told(process, "join") for process in waiting]
        return {"joiners": joiners, "seconds": max(result["seconds"] for result in told), "lost": sum(result["lost"] for result in told)}

    def run(self, mode: str) -> Iterator[Row]:
        return MODES[mode](self)


class Fan:
    """One publisher and so many subscribers, each of which gets every update."""

    def __init__(self, mode: str, messages: int, size: int, keys: int, subscribers: int) -> None:
        self._mode, self._messages, self._size, self._keys, self._subscribers = mode, messages, size, keys, subscribers
        self._processes = min(subscribers, PROCESSES_MAX)
        assert not subscribers % self._processes

    def raw(self, system: str) -> Row:
        kind = "singly" if system == "raw-zmq-singly" else "batched"
        with self._roles(RAW_ROLES, self._subscribers) as publishing, self._roles(RAW_ROLES, self._share) as following:
            publisher, (endpoint,) = publishing.begin(f"pub_{kind}")
            subscribers = [following.start(f"sub_{kind}", endpoint) for _ in range(self._processes)]
            told = [following.told(process, "sub") for process in subscribers]
            published = publishing.told(publisher, "pub")
        return self._row(system, published, told, {"durability": "memory", "lost": 0, "duplicated": 0})

    def ours(self, broker: Broker, taken: str) -> Row:
        with zmqkit.connect(broker.endpoint) as mq:
            mq.declare(TOPIC, zmqkit.TopicPolicy(max_messages=None))
        with self._roles(ROLES, self._share) as running:
            subscribers = [running.begin(f"follow_{taken}", broker.endpoint)[0] for _ in range(self._processes)]
            cpu = cpu_seconds(broker.pid)
            published = running.result("publish", broker.endpoint)
            told = [running.told(process, f"follow_{taken}") for process in subscribers]
            cpu = cpu_seconds(broker.pid) - cpu
        more = {key: sum(result[key] for result in told) for key in ("lost", "duplicated")}
        for name in ("p50_us", "p99_us"):
            more[name] = max((result[name] for result in told if result[name] is not None), default=None)
        row = self._row("zmqkit", published, told, {"durability": published["durability"], "taken": taken, **more})
        row["cpu_us"]["node"] = round(cpu / self._messages * 1e6, 2)
        return {**row, "node_rss_mb": round(peak_memory_bytes(broker.pid) / 1e6)}

    @property
    def _share(self) -> int:
        """Subscribers of one process."""
        return self._subscribers // self._processes

    def _roles(self, module: str, subscribers: int) -> Any:
        return roles(module, self._messages, self._size, self._keys, subscribers)

    def _row(self, system: str, published: Row, told: list[Row], more: Row) -> Row:
        """Rates are from the first update until the last subscriber has the last one. `cpu_us`: work of each process an update."""
        begin = published["first_ns"]
        per_s = self._messages / (max(result["last_ns"] for result in [published, *told]) - begin) * 1e9
        row = {"bench": "topic", "mode": self._mode, **of(system), "messages": self._messages, "size": self._size, "keys": self._keys}
        row |= {"subscribers": self._subscribers, **more}
        row["messages_per_s"], row["deliveries_per_s"] = round(per_s), round(per_s * self._subscribers)
        row["published_per_s"] = round(self._messages / (published["last_ns"] - begin) * 1e9)
        works = {"publisher": published["cpu_s"], "subscribers": sum(result["cpu_s"] for result in told)}
        row["cpu_us"] = {name: round(seconds / self._messages * 1e6, 2) for name, seconds in works.items()}
        return row


def compared(ours: Row, raw: Row) -> Row:
    """Rate by rate, and raw's work an update by ours, in all processes: that tells more where others use the cores, too."""
    work = sum(raw["cpu_us"].values()) / max(sum(ours["cpu_us"].values()), 0.01)
    rate = ours["deliveries_per_s"] / raw["deliveries_per_s"]
    return {"ratio_to": {"raw-zmq": round(rate, 3)}, "cpu_ratio_to": {"raw-zmq": round(work, 3)}}


def of(system: str) -> Row:
    return {"system": system, "version": version("zmqkit" if system == "zmqkit" else "pyzmq")}


MODES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "1-1": Bench.one_to_1, "1-10": Bench.one_to_10, "1-100": Bench.one_to_100, "keys": Bench.keys, "snapshot": Bench.snapshot,
}  # fmt: skip
MODES_HELP = "\n\n".join(f"{mode}: {rows.__doc__}" for mode, rows in MODES.items())


@click.command("topic", help=f"{__doc__.strip() if __doc__ else ''}\n\nModes:\n\n{MODES_HELP}")
@click.option("--messages", type=click.IntRange(min=1), metavar="N", help="How many updates.  [default: what suits the mode]")
@click.option("--size", type=click.IntRange(min=MESSAGE_BYTES_MIN), default=100, show_default=True, metavar="BYTES", help="Of each value.")
@click.option("--keys", type=click.IntRange(min=1), metavar="N", help="How many there are.  [default: what suits the mode]")
@click.option("--mode", "modes", multiple=True, type=click.Choice(list(MODES)), default=list(MODES), show_default=True,
              help="What to measure; may be given several times.")  # fmt: skip
@click.option("--durability", "durabilities", multiple=True, type=click.Choice(["disk", "os", "memory"]), default=["memory", "disk"],
              show_default=True, help="What confirms wait for; memory: a node without a journal.")  # fmt: skip
@click.option("--taken", multiple=True, type=click.Choice(["state", "events"]), default=["state", "events"], show_default=True,
              help="state: it follows by itself, and nobody iterates; events: each is taken by a loop.")  # fmt: skip
@click.option("--dir", "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".", show_default=True,
              help="On the disk to measure; a directory is made in it and removed.")  # fmt: skip
@click.option("--json", "as_lines", is_flag=True, help="One JSON object per line.")
def bench_topic(
    messages: int | None, size: int, keys: int | None, modes: tuple[str, ...], durabilities: tuple[str, ...], taken: tuple[str, ...],
    directory: Path, as_lines: bool,
) -> None:  # fmt: skip
    flawed = False
    allow_descriptors(1000)
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix=".zmqkit-bench-", dir=directory) as place:
        runner = Bench(Path(place), messages, size, keys, durabilities, taken)
        for mode in modes:
            rows = []
            for row in runner.run(mode):
                rows.append(row)
                flawed |= bool(row.get("lost") or row.get("duplicated"))
                if as_lines:
                    click.echo(json.dumps(row))
            if not as_lines:
                show(mode, rows)
    sys.exit(int(flawed))


COLUMNS = {
    "updates/s": "messages_per_s", "delivered/s": "deliveries_per_s", "of raw": "ratio", "by CPU": "cpu_ratio", "joiners": "joiners",
    "seconds": "seconds", "beside": "updates_per_s", "at least": "least_in_a_second", "lost": "lost", "node MB": "node_rss_mb",
}  # fmt: skip


def show(mode: str, rows: list[Row]) -> None:
    """A table of one mode; a ratio stands in the line that it is about."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    lines: list[Row] = []
    for row in rows:
        if "ratio_to" in row:
            lines[-1] |= {"ratio": row["ratio_to"]["raw-zmq"], "cpu_ratio": row["cpu_ratio_to"]["raw-zmq"]}
        else:
            lines.append(dict(row))
    titles = {title: key for title, key in COLUMNS.items() if any(line.get(key) is not None for line in lines)}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(mode, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right")
    for line in lines:
        name = " ".join(filter(None, (line["system"], line["durability"] if line["system"] == "zmqkit" else "", line.get("taken"))))
        table.add_row(name, *["-" if line.get(key) is None else f"{line[key]:,}" for key in titles.values()])
    Console().print(table)
