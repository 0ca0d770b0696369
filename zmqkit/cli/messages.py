"""`zmqkit put` and `zmqkit get`: bodies from the command line or stdin into a queue, and out of it onto stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

import zmqkit
from zmqkit.cli.options import DURATION, as_json, connect_option, connected, on_a_terminal

PAGE_MESSAGES = 1000
GET_CREDIT_MAX = 512
LOOK_SECONDS = 0.2  # how long `get` waits before it asks whether the queue is really empty


@click.command()
@click.argument("queue")
@click.argument("bodies", metavar="[BODY]...", nargs=-1)
@click.option("-r", "--raw", is_flag=True, help="Bodies are text as it is, not JSON.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Give up when not confirmed after this time.  [default: never]")
@connect_option
def put(queue: str, bodies: tuple[str, ...], raw: bool, timeout: float | None, endpoint: str) -> None:
    """Put messages into QUEUE: each BODY is one, as JSON; with none given, each line of stdin is one.

    Exits with 0 only if all are confirmed. The last line on stdout is `confirmed N`.
    """
    values = Bodies(bodies, raw, "argument") if bodies else Bodies(lines(), raw, "line")
    given = list(values) if bodies else values  # a mistake in an argument is found before anything is sent
    confirmed = 0
    with connected(endpoint) as mq:
        try:
            if not values.mistake or not bodies:
                confirmed = mq.queue(queue).put_many(counted(given, len(bodies) or None), timeout=timeout).count
        except zmqkit.Error as failure:
            confirmed = getattr(failure, "confirmed", 0)
            raise
        finally:
            click.echo(f"confirmed {confirmed}")
    if values.mistake:
        raise click.ClickException(values.mistake)


def lines() -> Iterator[str]:
    if sys.stdin.isatty():
        click.echo("one body a line, Ctrl-D to end", err=True)
    return (line.rstrip("\r\n") for line in sys.stdin)


class Bodies:
    """The bodies that `texts` stand for, up to the first that is no JSON, about which `mistake` then tells.

    It ends there instead of raising, so that what came before is still confirmed and counted.
    """

    def __init__(self, texts: Iterable[str], raw: bool, what: str) -> None:
        self._texts, self._raw, self._what, self.mistake = texts, raw, what, ""

    def __iter__(self) -> Iterator[Any]:
        for number, text in enumerate(self._texts, 1):
            if self._raw:
                yield text
            elif text.strip() or self._what == "argument":
                try:
                    yield json.loads(text)
                except ValueError as error:
                    shown = text if len(text) <= 40 else text[:39] + "…"
                    self.mistake = f"{self._what} {number} is no JSON: {shown!r} ({error}); put strings in quotes, or say -r for plain text"
                    return


def counted(values: Iterable[Any], total: int | None) -> Iterator[Any]:
    """The same values, with a progress bar on a terminal."""
    if not on_a_terminal() or total == 1:
        yield from values
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(TextColumn("put"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True))
    with bar:
        yield from bar.track(values, total=total)


@click.command()
@click.argument("queue")
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="At most so many.  [default: all that are there]")
@click.option("-f", "--follow", is_flag=True, help="Go on waiting for more.")
@click.option("--no-ack", "--keep", "keep", is_flag=True, help="Only look: leave them in the queue.")
@click.option("--timeout", type=DURATION, metavar="DURATION", default=0.0, help="Wait so long for a message when none is there.")
@click.option("-v", "--verbose", is_flag=True, help="With seq, attempt and headers.")
@connect_option
def get(queue: str, count: int | None, follow: bool, keep: bool, timeout: float, verbose: bool, endpoint: str) -> None:
    """Take messages out of QUEUE: one body a line as JSON on stdout, acknowledged once it is written."""
    if keep and follow:
        raise click.UsageError("--keep only looks at what is there: it does not go with --follow")
    with connected(endpoint) as mq:
        q = mq.queue(queue)
        if keep:
            for page in look(q, count):
                write(page, verbose)
            return
        for number, d in enumerate(take(q, count, timeout, follow), 1):
            with d:
                write([d], verbose)
            if number == count:
                break  # what had come beyond that goes back, uncounted


def look(q: zmqkit.Queue[Any], count: int | None) -> Iterator[list[zmqkit.Peeked]]:
    """What is ready, in order and page by page: it may be more than fits into memory."""
    after, left = 0, q.info().ready if count is None else count
    while left > 0 and (page := q.peek(min(left, PAGE_MESSAGES), after=after)):
        yield page
        after, left = page[-1].seq, left - len(page)


def take(q: zmqkit.Queue[Any], count: int | None, timeout: float, follow: bool) -> Iterator[zmqkit.Delivery[Any]]:
    """Messages in order, until the queue gives none and it stayed so for `timeout`."""
    credit = min(count or GET_CREDIT_MAX, GET_CREDIT_MAX)
    while True:
        with q.consume(credit=credit, idle=None if follow else max(timeout, LOOK_SECONDS)) as consumer:
            yield from consumer
        now = q.info()
        if follow or now.ready == 0 or now.paused:
            return


def write(messages: Iterable[Any], verbose: bool) -> None:
    """Returns once the lines have left this process, so that an ack never comes before its output."""
    for d in messages:
        row = {"seq": d.seq, "attempt": d.attempt, "headers": d.headers, "body": d.body} if verbose else d.body
        sys.stdout.write(as_json(row) + "\n")
    sys.stdout.flush()
