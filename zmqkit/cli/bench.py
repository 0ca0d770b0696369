"""`zmqkit bench`: what can be measured."""

from __future__ import annotations

import click

from zmqkit.cli.bench_call import bench_call
from zmqkit.cli.bench_queue import bench_queue
from zmqkit.cli.bench_topic import bench_topic


@click.group()
def bench() -> None:
    """Measure this machine."""


bench.add_command(bench_queue)
bench.add_command(bench_call)
bench.add_command(bench_topic)
