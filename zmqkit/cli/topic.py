"""`zmqkit pub`, `zmqkit sub` and `zmqkit topic`: updates into a topic, out of it as JSON lines, and what it keeps."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import click

import zmqkit
from zmqkit.cli.messages import counted, lines
from zmqkit.cli.options import DURATION, as_json, connect_option, connected, dry_run_option, output_option, print_rows

COLUMNS = ["name", "seq", "floor", "messages", "bytes", "keys", "subscribers", "names"]


@click.command()
@click.argument("topic")
@click.argument("key", required=False)
@click.argument("value", required=False)
@click.option("-r", "--raw", is_flag=True, help="VALUE is text as it is, not JSON.")
@click.option("-d", "--delete", is_flag=True, help="KEY holds nothing from now on.")
@click.option("--ttl", type=DURATION, metavar="DURATION", help="The value holds so long.  [default: until the next]")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Give up when not confirmed after this time.  [default: never]")
@connect_option
def pub(
    topic: str, key: str | None, value: str | None, raw: bool, delete: bool, ttl: float | None, timeout: float | None, endpoint: str
) -> None:  # fmt: skip
    """Publish into TOPIC: KEY holds VALUE (JSON) from now on. With no KEY each line of stdin is an update, as `zmqkit sub` prints it:
    {"key": …, "value": …}, or {"key": …, "deleted": true}.

    Exits with 0 only if all are confirmed. The last line on stdout is `confirmed N`.
    """
    if key is None and (raw or delete or ttl is not None):
        raise click.UsageError("-r, --delete and --ttl go with a KEY")
    if key is not None and delete == (value is not None):
        raise click.UsageError("give a VALUE, or --delete" if value is None else "a key that is deleted has no VALUE")
    body = None if delete or value is None else value if raw else parsed(value)
    with connected(endpoint) as mq:
        t = mq.topic(topic)
        if key is None:
            click.echo(f"confirmed {publish_lines(t, timeout)}")
        elif delete:
            t.delete(key, timeout=timeout)
            click.echo("confirmed 1")
        else:
            t.publish(key, body, ttl=ttl, timeout=timeout)
            click.echo("confirmed 1")


def parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        text = f"the value is no JSON: {value!r:.60} ({error}); put strings in quotes, or say -r for plain text"
        raise click.ClickException(text) from None


def publish_lines(t: zmqkit.Topic[Any], timeout: float | None) -> int:
    """How many were confirmed; all before a line that is none."""
    waiting: deque[zmqkit.PutFuture] = deque()
    confirmed = 0
    for key, value, deleted in updates():
        waiting.append(t.delete_soon(key, timeout) if deleted else t.publish_soon(key, value, timeout=timeout))
        while waiting and waiting[0].done():
            waiting.popleft().result()
            confirmed += 1
    for future in waiting:
        future.result(timeout)
    return confirmed + len(waiting)


def updates() -> Iterator[tuple[str, Any, bool]]:
    """Key, value, and whether it is deleted instead. Raises ClickException for a line that is none."""
    for number, line in enumerate(counted(lines(), None), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield str(row["key"]), row.get("value"), bool(row.get("deleted"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise click.ClickException(f'line {number} is no update: {line!r:.60}; write {{"key": …, "value": …}}') from None


class StartType(click.ParamType):  # type: ignore[type-arg]
    name = "start"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("snapshot", "now", "beginning"):
            return value
        if value.isdecimal():
            return int(value)
        epoch, colon, seq = value.partition(":")
        if colon and epoch.isdecimal() and seq.isdecimal():
            return int(epoch), int(seq)
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r}: give snapshot, now, beginning, a seq, EPOCH:SEQ, or a time such as 2026-01-31T12:00", param, ctx)


@click.command()
@click.argument("topic")
@click.argument("prefixes", metavar="[PREFIX]...", nargs=-1)
@click.option("--start", type=StartType(), default="snapshot", show_default=True, metavar="START",
              help="snapshot, now, beginning, a seq, EPOCH:SEQ, or a time.")  # fmt: skip
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.  [default: never]")
@click.option("--name", default="", metavar="NAME", help="The node keeps the position under this name: go on there, now and next time.")
@click.option("--state", is_flag=True, help="Print the state once it is complete, and end.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="End when nothing came for so long.  [default: never]")
@connect_option
def sub(
    topic: str, prefixes: tuple[str, ...], start: Any, count: int | None, name: str, state: bool, timeout: float | None, endpoint: str
) -> None:  # fmt: skip
    """Follow TOPIC, or its keys under each PREFIX: one JSON object a line, {"key", "value", "seq"}, with "deleted", "from_snapshot"
    or "gap" where that is so. `zmqkit pub` reads such lines."""
    with connected(endpoint) as mq, mq.topic(topic).subscribe(*prefixes, start=start, name=name) as subscription:
        if state:
            if not subscription.wait_ready(timeout):
                raise click.ClickException(f"no complete state within {timeout:g} s" if timeout else "no complete state")
            write({"key": key, "value": value} for key, value in subscription.state.copy().items())
            return
        taken = 0
        while count is None or taken < count:
            event = subscription.get(timeout)
            if event is None:
                return
            write([row_of(event)])
            taken += 1


def row_of(event: zmqkit.Event) -> dict[str, Any]:
    row: dict[str, Any] = {"key": event.key, "value": event.value, "seq": event.seq}
    if event.deleted:
        row["deleted"] = True
    if event.from_snapshot:
        row["from_snapshot"] = True
    if event.gap is not None:
        row["gap"] = list(event.gap)
    return row


def write(rows: Iterable[Any]) -> None:
    for row in rows:
        sys.stdout.write(as_json(row) + "\n")
    sys.stdout.flush()


@click.group()
def topic() -> None:
    """List topics, look at them, and say what they keep."""


def row(info: zmqkit.TopicInfo) -> dict[str, Any]:
    return {column: getattr(info, column) for column in COLUMNS}


@topic.command("ls")
@output_option
@connect_option
def ls(output: str, endpoint: str) -> None:
    """All topics of a node."""
    with connected(endpoint) as mq:
        print_rows([row(info) for info in mq.topics()], output, COLUMNS, empty="no topics yet: the first update or subscriber makes one")


@topic.command("info")
@click.argument("name", metavar="TOPIC")
@output_option
@connect_option
def info(name: str, output: str, endpoint: str) -> None:
    """One topic: its newest update, its history, who follows."""
    with connected(endpoint) as mq:
        print_rows([row(known(mq, name, endpoint))], output, COLUMNS)


def known(mq: zmqkit.Client, name: str, endpoint: str) -> zmqkit.TopicInfo:
    """Raises ClickException for one that does not exist, so that a typing error creates none."""
    topics = {info.name: info for info in mq.topics()}
    if name not in topics:
        raise click.ClickException(f"no topic {name!r} at {endpoint}: there are {', '.join(sorted(topics)) or 'none'}")
    return topics[name]


@topic.command("rm")
@click.argument("name", metavar="TOPIC")
@dry_run_option
@connect_option
def rm(name: str, dry_run: bool, endpoint: str) -> None:
    """Remove a topic with its state, history, names and bindings."""
    with connected(endpoint) as mq:
        now = known(mq, name, endpoint)
        if not dry_run:
            mq.topic(name).remove()
        click.echo(f"{'would remove' if dry_run else 'removed'} {name} with {now.keys} keys and {now.messages} updates")


@topic.command("bind")
@click.argument("name", metavar="TOPIC")
@click.argument("prefix", metavar="PREFIX")
@click.argument("queue", metavar="QUEUE")
@click.option("--off", is_flag=True, help="No more.")
@connect_option
def bind(name: str, prefix: str, queue: str, off: bool, endpoint: str) -> None:
    """Make each update under a prefix also a message of a queue ("" is every key)."""
    with connected(endpoint) as mq:
        if off:
            known(mq, name, endpoint)
        (mq.topic(name).unbind if off else mq.topic(name).bind)(prefix, queue)
        click.echo(f"updates of {name} under {prefix!r} are {'no more ' if off else ''}messages of {queue}")


@topic.command("policy")
@click.argument("name", metavar="TOPIC")
@click.option("--max-messages", type=click.IntRange(min=0), metavar="N", help="Updates kept as history; 0: no limit.")
@click.option("--max-bytes", type=click.IntRange(min=0), metavar="N", help="Bytes kept as history; 0: no limit.")
@click.option("--max-age", type=DURATION, metavar="DURATION", help="How long updates are kept as history; 0: no limit.")
@click.option("--keep-values/--no-keep-values", default=None, help="Keep the last value of each key, for snapshots.")
@click.option("--durability", type=click.Choice(["node", "disk", "os", "memory"]), help="memory: confirm and tell before the disk has it.")
@output_option
@connect_option
def policy(name: str, output: str, endpoint: str, keep_values: bool | None, durability: str | None, **limits: Any) -> None:
    """Show a topic's policy, or change what is given (and make the topic, if it is new)."""
    given: dict[str, Any] = {field: None if value == 0 else value for field, value in limits.items() if value is not None}
    if keep_values is not None:
        given["keep_values"] = keep_values
    if durability is not None:
        given["durability"] = None if durability == "node" else durability
    with connected(endpoint) as mq:
        now = mq.declare(name, replace(mq.topic(name).info().policy, **given)) if given else known(mq, name, endpoint).policy
        print_rows([asdict(now)], output, list(asdict(now)))
