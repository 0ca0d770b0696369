"""What commands share: durations, the endpoint, the node at it, and listings as table, JSON or JSON lines."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

import zmqkit
from zmqkit.fields import one_line

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"
CONNECT_SECONDS = 5.0
KEYS_HELP = "The key directory with which to come to a node that asks for keys."
_KEYS = "zmqkit.keys"  # in a command's context
UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


if TYPE_CHECKING:
    FloatType = click.ParamType[float]
else:
    FloatType = click.ParamType  # older clicks know no parameter here


class Duration(FloatType):
    """`250ms`, `30s`, `5m`, `1h`, `2d` or plain seconds; gives seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|d|)", str(value).strip())
        if not match:
            self.fail(f"{value!r} is no duration: write 250ms, 30s, 5m, 1h or plain seconds", param, ctx)
        return float(match[1]) * UNIT_SECONDS[match[2]]


DURATION = Duration()


def connect_option(command: Command) -> Command:
    """The command takes `endpoint`, and gives it to `connected`."""
    return keys_option(KEYS_HELP, expose_value=False, callback=_remember_keys)(_endpoint_option(command))


def keys_option(help: str, **more: Any) -> Callable[[Command], Command]:
    return click.option("--keys", envvar="ZMQKIT_KEYS", show_envvar=True, metavar="DIR", help=help, **more)


def _remember_keys(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta[_KEYS] = value


def connected(endpoint: str, timeout: float | None = CONNECT_SECONDS) -> zmqkit.Client:
    """A client of the node that the command's options name."""
    return zmqkit.connect(endpoint, timeout=timeout, keys=click.get_current_context().meta[_KEYS])


def _endpoint_option(command: Command) -> Command:
    return click.option(
        "--connect",
        "endpoint",
        envvar="ZMQKIT_ENDPOINT",
        default=DEFAULT_ENDPOINT,
        show_default=True,
        show_envvar=True,
        metavar="ENDPOINT",
        help="The node to talk to; several with commas between.",
    )(command)


def output_option(command: Command) -> Command:
    choice = click.Choice(["table", "json", "jsonl"])
    return click.option("-o", "--output", type=choice, default="table", show_default=True, help="How to print the listing.")(command)


def interface_option(command: Command) -> Command:
    return click.option(
        "--mdns-interface",
        "interface",
        envvar="ZMQKIT_MDNS_INTERFACE",
        show_envvar=True,
        metavar="INTERFACE",
        help="Where mDNS is spoken: a name such as eth0, or an address.  [default: everywhere]",
    )(command)


def dry_run_option(command: Command) -> Command:
    return click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")(command)


def as_json(value: Any) -> str:
    """One line of JSON; bytes, which JSON has not, become `{"base64": "…"}`."""
    return json.dumps(value, ensure_ascii=False, default=_not_json)


def _not_json(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def print_rows(rows: Iterable[Mapping[str, Any]], output: str, columns: list[str], empty: str = "nothing") -> None:
    """Print a listing on stdout; `empty` is said on stderr when a table would have no row."""
    rows = list(rows)
    if output == "jsonl":
        for row in rows:
            click.echo(as_json(row))
    elif output == "json":
        click.echo(as_json(rows))
    elif not rows:
        click.echo(empty, err=True)
    else:
        print_table([[_cell(row.get(column)) for column in columns] for row in rows], columns)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return value if isinstance(value, str) else as_json(value)


def print_table(cells: list[list[str]], columns: list[str]) -> None:
    """Columns aligned by spaces: reads well on a terminal, and `awk` reads it too."""
    # One message must stay one line, and no body may move the cursor.
    cells = [[one_line(cell) for cell in row] for row in cells]
    widths = [max(len(line[n]) for line in [columns, *cells]) for n in range(len(columns))]
    for line in [[name.upper() for name in columns], *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def on_a_terminal() -> bool:
    """Progress is drawn on stderr, so that stdout stays clean for a pipe."""
    return sys.stderr.isatty()
