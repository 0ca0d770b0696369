"""`zmqkit call`: one call from a shell, its answer on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

import zmqkit
from zmqkit.cli.bodies import parsed, write
from zmqkit.cli.options import DURATION, connect_option, connected
from zmqkit.handles.calling import CALL_SECONDS, RETRIES

CONNECT_SECONDS_MAX = 5.0


@click.command()
@click.argument("service")
@click.argument("body", required=False)
@click.option("-r", "--raw", is_flag=True, help="Body and answer are text as it is, not JSON.")
@click.option("--timeout", type=DURATION, metavar="DURATION",
              help=f"Give up after this time.  [default: {CALL_SECONDS:g}s; a stream: never]")  # fmt: skip
@click.option("--retries", type=click.IntRange(min=0), metavar="N",
              help=f"Workers to be tried after the first; 0: do not wait for one.  [default: {RETRIES}; a stream: 0]")  # fmt: skip
@click.option("--key", metavar="KEY", help="Idempotency key: the call may be made again, and its answer is kept for ten minutes.")
@click.option("--stream", is_flag=True, help="Print the parts of the answer, a line each, as they come.")
@click.option("-v", "--verbose", is_flag=True, help="With the traceback of a service that failed.")
@connect_option
def call(service: str, body: str | None, raw: bool, timeout: float | None, retries: int | None, key: str | None, stream: bool,
         verbose: bool, endpoint: str) -> None:  # fmt: skip
    """Call SERVICE with BODY (JSON; without one what is on stdin, else null) and print its answer as a line of JSON.

    Exits with 0 if there is an answer. Else with 1, and a line on stderr says whether the call may have been executed.
    """
    if stream and key is not None:
        raise click.UsageError("--stream takes no --key: the parts of an answer are not kept")
    options: dict[str, Any] = {} if retries is None else {"retries": retries}
    value = given(body, raw)
    patience = CONNECT_SECONDS_MAX if timeout is None else min(timeout, CONNECT_SECONDS_MAX)
    with connected(endpoint, timeout=patience) as mq, explained(service, endpoint, key, verbose):
        if stream:
            with mq.stream(service, value, timeout=timeout, **options) as parts:
                for part in parts:
                    write(part, raw)
        else:
            limit = CALL_SECONDS if timeout is None else timeout
            write(mq.call(service, value, timeout=limit, idempotency_key=key, **options), raw)


def given(body: str | None, raw: bool) -> Any:
    """The argument, or stdin, or nothing."""
    if body is None and sys.stdin.isatty():
        return None
    if body is not None and raw:
        return body
    try:
        return parsed(sys.stdin.buffer.read() if body is None else body.encode(), raw)
    except ValueError as error:
        where = "stdin" if body is None else "the body"
        raise click.ClickException(f"{where} is no JSON: {error}; put strings in quotes, or say -r for plain text") from None


@contextmanager
def explained(service: str, endpoint: str, key: str | None, verbose: bool) -> Iterator[None]:
    """Outcomes in a shell's words: what, why, and what to do."""
    try:
        yield
    except zmqkit.NoWorker:
        todo = f"start a worker, such as `zmqkit serve {service} -- COMMAND`, or check the name"
        raise click.ClickException(f"nobody serves {service!r} at {endpoint}: {todo}") from None
    except zmqkit.NotSent as error:
        raise click.ClickException(f"{error}; it was not executed: call again once the node answers") from None
    except zmqkit.Timeout as error:
        if not error.maybe_executed:
            todo = "call again, with more --timeout, or start more workers"
        elif key is not None:
            todo = "call again with the same --key"
        else:
            todo = "look whether it was before you call again, or give calls a --key"
        raise click.ClickException(f"{error}; {todo}") from None
    except zmqkit.RemoteError as error:
        if verbose and error.traceback:
            click.echo(error.traceback.rstrip("\n"), err=True)
        todo = "; -v shows where" if error.traceback and not verbose else ""
        raise click.ClickException(f"{service!r} failed: {error}{todo}") from None
