"""`zmqkit ls`: the nodes that mDNS finds."""

from __future__ import annotations

import click

import zmqkit
from zmqkit.cli.options import DURATION, interface_option, keys_option, output_option, print_rows
from zmqkit.security import Keys

COLUMNS = ["name", "endpoint", "fingerprint", "trusted"]


@click.command()
@click.option("--timeout", type=DURATION, default="2s", show_default=True, help="How long to wait for answers.")
@interface_option
@keys_option("Say whether a node's key is known there: the directory's own, or one in known_nodes.")
@output_option
def ls(timeout: float, interface: str | None, keys: str | None, output: str) -> None:
    """List the nodes that announce themselves in this network.

    What they say of themselves proves nothing; a key does. A trusted one is held to its key when it is connected to.
    """
    known = Keys(keys) if keys is not None else None
    found = zmqkit.discover(timeout, interface)
    rows = [{**one._asdict(), "fingerprint": one.fingerprint or None, "trusted": trusted(one.fingerprint, known)} for one in found]
    print_rows(rows, output, COLUMNS, empty="no node answered: nodes announce themselves with `zmqkit broker --announce`")


def trusted(fingerprint: str, known: Keys | None) -> bool | None:
    """None where there is no key."""
    return known.trusted(fingerprint) if known is not None and fingerprint else None
