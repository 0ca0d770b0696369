"""`zmqkit queue` and `zmqkit dead`: look into queues and dead letters, and change them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import click

import zmqkit
from zmqkit.cli.options import DURATION, connect_option, connected, dry_run_option, output_option, print_rows

COLUMNS = ["name", "ready", "leased", "delayed", "dead", "consumers", "bytes", "oldest_age", "paused"]
MESSAGE_COLUMNS = ["seq", "attempt", "body"]
DEAD_COLUMNS = ["seq", "attempts", "reason", "body"]
LIST_MAX = 1000


@contextmanager
def queue_at(endpoint: str, name: str) -> Iterator[zmqkit.Queue[Any]]:
    """A queue that exists; Raises ClickException for one that does not, so that a typing error creates none."""
    with connected(endpoint) as mq:
        known = [info.name for info in mq.queues()]
        if name not in known:
            raise click.ClickException(f"no queue {name!r} at {endpoint}: there are {', '.join(sorted(known)) or 'none'}")
        yield mq.queue(name)


@click.group()
def queue() -> None:
    """List, look into, pause, empty and remove queues."""


@queue.command("ls")
@output_option
@connect_option
def ls(output: str, endpoint: str) -> None:
    """All queues of a node."""
    with connected(endpoint) as mq:
        print_rows([row(info) for info in mq.queues()], output, COLUMNS, empty="no queues yet: the first put makes one")


def row(info: zmqkit.QueueInfo) -> dict[str, Any]:
    return {column: getattr(info, column) for column in COLUMNS}


@queue.command("info")
@click.argument("name", metavar="QUEUE")
@output_option
@connect_option
def info(name: str, output: str, endpoint: str) -> None:
    """One queue: what waits, who works."""
    with queue_at(endpoint, name) as q:
        print_rows([row(q.info())], output, COLUMNS)


@queue.command("peek")
@click.argument("name", metavar="QUEUE")
@click.option("-n", "--count", type=click.IntRange(1, LIST_MAX), default=10, show_default=True, metavar="N", help="At most so many.")
@click.option("--state", type=click.Choice(["ready", "leased", "delayed"]), default="ready", show_default=True, help="Which messages.")
@output_option
@connect_option
def peek(name: str, count: int, state: str, output: str, endpoint: str) -> None:
    """Look at messages without taking them."""
    with queue_at(endpoint, name) as q:
        rows = [{"seq": d.seq, "attempt": d.attempt, "headers": d.headers, "body": d.body} for d in q.peek(count, state=state)]
        print_rows(rows, output, MESSAGE_COLUMNS, empty=f"no message is {state}")


@queue.command("purge")
@click.argument("name", metavar="QUEUE")
@dry_run_option
@connect_option
def purge(name: str, dry_run: bool, endpoint: str) -> None:
    """Drop all messages that nobody holds."""
    with queue_at(endpoint, name) as q:
        if dry_run:
            now = q.info()
            click.echo(f"would purge {now.ready + now.delayed}")
        else:
            click.echo(f"purged {q.purge()}")


@queue.command("pause")
@click.argument("name", metavar="QUEUE")
@connect_option
def pause(name: str, endpoint: str) -> None:
    """Give no message out until `resume`; puts and acks go on."""
    with queue_at(endpoint, name) as q:
        q.pause()
        click.echo(f"paused {name}")


@queue.command("resume")
@click.argument("name", metavar="QUEUE")
@connect_option
def resume(name: str, endpoint: str) -> None:
    """Give messages out again."""
    with queue_at(endpoint, name) as q:
        q.resume()
        click.echo(f"resumed {name}")


@queue.command("rm")
@click.argument("name", metavar="QUEUE")
@dry_run_option
@connect_option
def rm(name: str, dry_run: bool, endpoint: str) -> None:
    """Remove a queue with all its messages and dead letters."""
    with queue_at(endpoint, name) as q:
        now = q.info()
        count = now.ready + now.leased + now.delayed + now.dead
        if not dry_run:
            q.delete()
        click.echo(f"{'would remove' if dry_run else 'removed'} {name} with {count} messages")


@queue.command("policy")
@click.argument("name", metavar="QUEUE")
@click.option("--max-attempts", type=click.IntRange(min=1), metavar="N", help="Failures until a message goes to the dead letters.")
@click.option("--backoff", type=(DURATION, DURATION), metavar="FIRST MOST", help="Wait after the first failure (it doubles), and at most.")
@click.option("--lease", type=DURATION, metavar="DURATION", help="How long a consumer keeps a message without renewing it.")
@click.option("--grace", type=DURATION, metavar="DURATION", help="How long after its last heartbeat a lost consumer keeps its messages.")
@click.option("--max-run", type=DURATION, metavar="DURATION", help="The longest a lease is renewed; 0: no limit.")
@click.option("--max-messages", type=click.IntRange(min=0), metavar="N", help="Full at so many messages; 0: no limit.")
@click.option("--max-bytes", type=click.IntRange(min=0), metavar="N", help="Full at so many bytes; 0: no limit.")
@click.option("--on-full", type=click.Choice(["reject", "block", "drop_oldest", "dead_letter"]), help="What then happens to a put.")
@output_option
@connect_option
def policy(name: str, output: str, endpoint: str, backoff: tuple[float, float] | None, **changes: Any) -> None:
    """Show a queue's policy, or change what is given (and make the queue, if it is new)."""
    given: dict[str, Any] = {field: None if value == 0 else value for field, value in changes.items() if value is not None}
    if backoff:
        given["backoff"] = zmqkit.Backoff(*backoff)
    with connected(endpoint) as mq:
        known = {info.name: info for info in mq.queues()}
        now = known[name].policy if name in known else zmqkit.QueuePolicy()
        if given:
            now = replace(now, **given)
            mq.declare(name, now)
        elif name not in known:
            raise click.ClickException(f"no queue {name!r} at {endpoint}: give it a policy to make it")
    fields = {**asdict(now), "backoff": [now.backoff.initial, now.backoff.maximum]}
    if output == "table":
        print_rows([{"field": field, "value": value} for field, value in fields.items()], output, ["field", "value"])
    else:
        print_rows([fields], output, [])


@click.group()
def dead() -> None:
    """Look at dead letters, give them another try, or drop them."""


@dead.command("ls")
@click.argument("name", metavar="[QUEUE]", required=False)
@output_option
@connect_option
def dead_ls(name: str | None, output: str, endpoint: str) -> None:
    """Dead letters of QUEUE; without one, how many each queue has."""
    if name is None:
        with connected(endpoint) as mq:
            counts = [{"queue": info.name, "dead": info.dead} for info in mq.queues() if info.dead]
        print_rows(counts, output, ["queue", "dead"], empty="no dead letters")
        return
    with queue_at(endpoint, name) as q:
        print_rows([letter(found) for found in q.dead.list()], output, DEAD_COLUMNS, empty="no dead letters")


def letter(found: zmqkit.DeadLetter) -> dict[str, Any]:
    return {"seq": found.seq, "attempts": found.attempts, "reason": found.reason, "history": found.history, "body": found.body}


@dead.command("show")
@click.argument("name", metavar="QUEUE")
@click.argument("seq", type=int)
@connect_option
def dead_show(name: str, seq: int, endpoint: str) -> None:
    """One dead letter with its history, as JSON."""
    with queue_at(endpoint, name) as q:
        for found in q.dead.list():
            if found.seq == seq:
                print_rows([letter(found)], "jsonl", [])
                return
    raise click.ClickException(f"no dead letter {seq} in {name}: see `zmqkit dead ls {name}`")


def dead_change(verb: str, done: str, change: Callable[[Any, list[int] | None], int], text: str) -> None:
    """Add `zmqkit dead VERB QUEUE [SEQ]…`."""

    @dead.command(verb, help=text)
    @click.argument("name", metavar="QUEUE")
    @click.argument("seqs", metavar="[SEQ]...", type=int, nargs=-1)
    @dry_run_option
    @connect_option
    def command(name: str, seqs: tuple[int, ...], dry_run: bool, endpoint: str) -> None:
        with queue_at(endpoint, name) as q:
            if dry_run:
                there = [found.seq for found in q.dead.list()]
                click.echo(f"would {verb} {len(set(there).intersection(seqs) if seqs else there)}")
            else:
                click.echo(f"{done} {change(q.dead, list(seqs) or None)}")


ALL_OR_SOME = "all of QUEUE, or those named."
dead_change("redrive", "redrove", lambda letters, seqs: letters.redrive(seqs), f"Give dead letters another try: {ALL_OR_SOME}")
dead_change("drop", "dropped", lambda letters, seqs: letters.drop(seqs), f"Drop dead letters for good: {ALL_OR_SOME}")
