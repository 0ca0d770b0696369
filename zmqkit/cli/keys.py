"""`zmqkit keys`: make keys, say whom a node lets in and with what rights, and which key is expected where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zmqkit.cli.options import dry_run_option, keys_option, output_option, print_rows
from zmqkit.rights import Rights
from zmqkit.security import Keys, fingerprint
from zmqkit.security.directory import PUBLIC, SECRET
from zmqkit.security.identity import check_key
from zmqkit.security.trusted import ALL, LIMIT, grant_words, limit_words, rights_of

COLUMNS = ["name", "kind", "fingerprint", "may", "limits", "key"]
DIRECTORY = "~/.config/zmqkit/keys"
directory_option = keys_option("The key directory.", default=DIRECTORY, show_default=True)


class Key(click.ParamType):  # type: ignore[type-arg]
    """A public key as it is, or the file it stands in."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_key(value)
        except ValueError as error:
            mistake = error
        if Path(value).name == SECRET:
            self.fail(f"{value} is a secret key, which is given to nobody: give {PUBLIC}, which lies beside it", param, ctx)
        try:
            return check_key(Path(value).read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            self.fail(f"{mistake}, and there is no file of that name with one in it: is it between single quotes?", param, ctx)


@click.group()
def keys() -> None:
    """Make keys, and say whom a node lets in.

    A key directory has a key of its own, the file `trusted` with whom its node lets in, and the file `known_nodes` with the keys that its
    clients expect elsewhere. The own key may do everything, and is expected of every node that is not in known_nodes: a copy of one
    directory on each machine makes a team.
    """


@keys.command("new")
@directory_option
def new(keys: str) -> None:
    """Make a key directory with a new key, and print the public one."""
    show_own(Keys.make(keys))


@keys.command("show")
@directory_option
def show(keys: str) -> None:
    """Print the directory's own public key, to be given to `zmqkit keys trust` elsewhere."""
    show_own(Keys(keys))


def show_own(found: Keys) -> None:
    click.echo(f"{found.path}, fingerprint {found.pair.fingerprint}, public key:", err=True)
    click.echo(found.pair.public)


@keys.command("trust")
@click.argument("key", type=Key())
@click.option("--name", help="The user's name, for people.  [default: of the key's fingerprint]")
@click.option("--role", "roles", multiple=True, metavar="ROLE:NAMES",
              help="What this user may do (publish, consume, call, serve, subscribe, admin), and with which queues, topics and "
                   "services: publish:orders.*,audit. May be given several times.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="This user may do everything.")
@click.option("--limit", "limits", multiple=True, metavar="WHAT:NUMBER",
              help="What this user may have at a time: connections, in_flight, bytes (a second), queues, subscriptions.")  # fmt: skip
@click.option("--node", "wheres", multiple=True, metavar="ENDPOINT|NAME",
              help="Expect this key of the node there, written as in --connect. Alone, it does not let the key in.")  # fmt: skip
@directory_option
def trust(key: str, name: str | None, roles: tuple[str, ...], everything: bool, limits: tuple[str, ...], wheres: tuple[str, ...],
          keys: str) -> None:  # fmt: skip
    """Let KEY in (or the key in that file), or expect it of a node (--node).

    Without --role and --all this user may connect, and do nothing else. A key that is trusted already gets these rights instead of those it
    had. A running node knows of it within a second.
    """
    found = Keys(keys)
    words = [*([ALL] if everything else []), *roles, *(LIMIT + limit for limit in limits)]
    try:
        if words or name or not wheres:
            rights = rights_of(name or fingerprint(key).replace("-", "")[:8], words)
            found.trust(key, rights)
            at_most = " ".join(word.removeprefix(LIMIT) for word in limit_words(rights.limits))
            allowed = may(rights) or "may connect, and nothing else"
            click.echo(f"trusted {rights.name} {fingerprint(key)}: {allowed}{at_most and f'; at most {at_most}'}")
        for where in wheres:
            found.pin(where, key)
            click.echo(f"expected of {where}: {fingerprint(key)}")
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@keys.command("rm")
@click.argument("who", metavar="NAME|KEY|ENDPOINT")
@dry_run_option
@directory_option
def rm(who: str, dry_run: bool, keys: str) -> None:
    """Let a user in no more, or expect nothing special of a node any more.

    A running node knows of it within a second, and what comes on links that are still up is refused from then on.
    """
    found = Keys(keys)
    users, nodes = found.lines(who)
    if not users and not nodes:
        raise click.ClickException(f"{who!r} is neither a user nor a node of {found.path}: `zmqkit keys ls` shows all of them")
    if not dry_run:
        found.forget(users, nodes)
    for key in users:
        click.echo(f"{'would remove' if dry_run else 'removed'} user {found.users[key].name} {fingerprint(key)}")
    for where in nodes:
        click.echo(f"{'would remove' if dry_run else 'removed'} node {where} {fingerprint(found.nodes[where])}")


@keys.command("ls")
@output_option
@directory_option
def ls(output: str, keys: str) -> None:
    """The own key, the users that are let in, and the nodes whose keys are known."""
    found = Keys(keys)
    users = [row("user" if key != found.pair.public else "own", key, rights) for key, rights in found.everyone.items()]
    nodes = [{"name": where, "kind": "node", "fingerprint": fingerprint(key), "key": key} for where, key in found.nodes.items()]
    print_rows([*users, *nodes], output, COLUMNS)


def row(kind: str, key: str, rights: Rights) -> dict[str, str | None]:
    limits = " ".join(word.removeprefix(LIMIT) for word in limit_words(rights.limits))
    cells = {"name": rights.name, "kind": kind, "fingerprint": fingerprint(key)}
    return {**cells, "may": may(rights) or None, "limits": limits or None, "key": key}


def may(rights: Rights) -> str:
    return " ".join(grant_words(rights.grants))
