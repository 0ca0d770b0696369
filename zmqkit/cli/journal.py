"""`zmqkit journal`: look at a journal directory from outside, and save what is left of a damaged one. Only `salvage` writes, elsewhere."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgpack

from zmqkit import records
from zmqkit.cli.options import as_json, output_option, print_rows
from zmqkit.journal import tools
from zmqkit.parcel import Parcel

DIRECTORY = click.Path(exists=True, file_okay=False)


@click.group()
def journal() -> None:
    """Check and read a journal directory. A running node may have it open; then the newest records can be missing."""


@journal.command("stat")
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@output_option
def stat(directory: str, output: str) -> None:
    """Size, records, checkpoints, and who holds it."""
    facts = asdict(tools.stat(directory))
    facts["locked_by"] = "process {} on {}".format(*facts["locked_by"]) if facts["locked_by"] else None
    if output == "table":
        print_rows([{"field": field, "value": value} for field, value in facts.items()], output, ["field", "value"])
    else:
        print_rows([facts], output, [])


@journal.command("verify")
@click.argument("directory", metavar="DIR", type=DIRECTORY)
def verify(directory: str) -> None:
    """Read every byte and compare every checksum.

    Exits with 0: clean. 1: a crash left a torn end, which nobody was promised and the next start mends. 2: corrupt, with
    file, offset and record.
    """
    verdict = tools.verify(directory)
    word = {tools.CLEAN: "clean", tools.TORN: "torn tail", tools.CORRUPT: "corrupt"}[verdict.code]
    place = f" ({verdict.file} offset {verdict.offset} record {verdict.lsn})" if verdict.file else ""
    click.echo(f"{word}: {verdict.text}{place}")
    sys.exit(verdict.code)


@journal.command("dump")
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--bodies", is_flag=True, help="Also the messages themselves.")
def dump(directory: str, bodies: bool) -> None:
    """Every record in order, one JSON object a line."""
    for found in tools.dump(directory):
        record = records.decode(found.kind, found.payload)
        line: dict[str, Any] = {"lsn": found.lsn, "epoch": found.epoch, "file": found.file, "offset": found.offset}
        if record is None:
            line |= {"kind": found.kind, "bytes": len(found.payload)}
        else:
            line |= {"kind": type(record).__name__.upper(), **fields(record, bodies)}
        click.echo(as_json(line))


def fields(record: Any, bodies: bool) -> dict[str, Any]:
    """A record's fields; ids as hex, and of a batch its size, or its messages."""
    shown: dict[str, Any] = {}
    for name, value in record._asdict().items():
        if isinstance(value, Parcel):
            shown["messages"], shown["bytes"] = value.count, len(value.body)
            if bodies:
                shown["bodies"] = [msgpack.unpackb(message, strict_map_key=False) for message in value.messages()]
        else:
            shown[name] = value.hex() if isinstance(value, bytes) and name == "client" else value
    return shown


@journal.command("salvage")
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--to", "target", type=click.Path(path_type=Path), metavar="NEW", help="Where to write it.  [default: DIR.salvaged]")
def salvage(directory: str, target: Path | None) -> None:
    """Write what can still be read of a damaged journal as a new one. DIR itself is not changed."""
    target = target or Path(directory.rstrip("/") + ".salvaged")
    saved = tools.salvage(directory, str(target))
    lost = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in saved.lost)
    click.echo(f"salvaged {saved.records} records into {target}")
    if lost:
        click.echo(f"not readable: records {lost}; what they put is missing, and what they settled is delivered again", err=True)
    click.echo(f"check it with `zmqkit journal verify {target}`, then start a node on it", err=True)
