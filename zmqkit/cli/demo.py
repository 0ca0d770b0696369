"""`zmqkit demo`: real work, and processes that are killed while it is done."""

from __future__ import annotations

import click

from zmqkit.cli.demo_calls import demo_calls
from zmqkit.cli.demo_chat import demo_chat
from zmqkit.cli.demo_peers import demo_peers
from zmqkit.cli.demo_queue import demo_queue
from zmqkit.cli.demo_topic import demo_topic


@click.group()
def demo() -> None:
    """See it survive kill -9 on real work."""


demo.add_command(demo_queue)
demo.add_command(demo_calls)
demo.add_command(demo_topic)
demo.add_command(demo_peers)
demo.add_command(demo_chat)
