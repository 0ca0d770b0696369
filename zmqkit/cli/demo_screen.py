"""What whoever watches a demo sees meanwhile: on a terminal a live bar, elsewhere one line per event; on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import click

from zmqkit.cli.options import on_a_terminal

Value = TypeVar("Value")


class Screen:
    def __init__(self, what: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=Console(stderr=True, highlight=False), disable=not on_a_terminal())
        self._total, self._begin = total, time.monotonic()
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self._begin:5.1f} s  {text}"
        if on_a_terminal():
            self._bar.console.print(line, markup=False)
        else:
            click.echo(line, err=True)

    def done(self, count: int) -> None:
        self._bar.update(self._task, completed=count)

    def follow(self, values: Iterable[Value], what: str) -> Iterator[Value]:
        """The same values, in a bar of their own."""
        return iter(self._bar.track(values, total=self._total, description=what))
