"""`zmqkit`: the commands, and the one place that turns an error into a line and an exit code.

0 done · 1 failed, with one line on stderr that says what, why and what to do · 2 usage. A traceback is a bug of ours.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys

import click

from zmqkit.errors import Error

# name -> module and attribute; a command's module is imported when it is used, so `zmqkit --help` is instant.
COMMANDS = {
    "broker": ("zmqkit.cli.broker", "broker", "Host queues until SIGTERM."),
    "put": ("zmqkit.cli.messages", "put", "Put messages into a queue."),
    "get": ("zmqkit.cli.messages", "get", "Take messages out of a queue."),
    "call": ("zmqkit.cli.call", "call", "Call a service and print its answer."),
    "serve": ("zmqkit.cli.serve", "serve", "Answer calls by running a command."),
    "queue": ("zmqkit.cli.queue", "queue", "List, look into, pause, empty and remove queues."),
    "dead": ("zmqkit.cli.queue", "dead", "Look at dead letters, give them another try, or drop them."),
    "pub": ("zmqkit.cli.topic", "pub", "Publish updates into a topic."),
    "sub": ("zmqkit.cli.topic", "sub", "Follow a topic: what holds, then what changes."),
    "topic": ("zmqkit.cli.topic", "topic", "List topics, look at them, and say what they keep."),
    "ls": ("zmqkit.cli.ls", "ls", "List the nodes that announce themselves in this network."),
    "journal": ("zmqkit.cli.journal", "journal", "Check and read a journal directory."),
    "keys": ("zmqkit.cli.keys", "keys", "Make keys, and say whom a node lets in."),
    "probe": ("zmqkit.cli.probe", "probe", "Which protocol does an endpoint speak?"),
    "bench": ("zmqkit.cli.bench", "bench", "Measure this machine."),
    "demo": ("zmqkit.cli.demo", "demo", "See it survive kill -9 on real work."),
    "chaos": ("zmqkit.cli.chaos", "chaos", "See what each fault costs plain ZeroMQ, and what it costs zmqkit."),
}


class Commands(click.Group):
    """A group whose commands are imported at first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ZMQKIT"})
@click.version_option(package_name="zmqkit", prog_name="zmqkit")
def zmqkit() -> None:
    """Durable work queues on ZeroMQ.

    Every option can also be set by the environment: ZMQKIT_ENDPOINT for --connect, ZMQKIT_KEYS for --keys, and for the others
    ZMQKIT_COMMAND_OPTION, such as ZMQKIT_BROKER_JOURNAL. Durations are 250ms, 30s, 5m, 1h or plain seconds.
    """


def main() -> None:
    """The entry point: runs the command of sys.argv and exits with its code."""
    logging.getLogger("zmqkit").addHandler(logging.NullHandler())  # what a command is told it says itself; who serves sets up a log
    try:
        code = zmqkit.main(prog_name="zmqkit", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.UsageError as mistake:  # click's own text: how the command is used, then what was wrong
        mistake.show()
        code = mistake.exit_code
    except click.ClickException as failure:
        code = fail(failure.format_message(), failure.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output left (`| head`): that is no failure to report, but Python would at exit, when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (Error, OSError) as error:
        code = fail(str(error) or type(error).__name__, 1)
    sys.exit(code if isinstance(code, int) else 0)


def fail(text: str, code: int) -> int:
    click.echo(f"zmqkit: {' '.join(text.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
