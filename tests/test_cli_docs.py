"""docs/cli.md is what `--help` says; `python tests/test_cli_docs.py` writes it anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from zmqkit.cli.main import zmqkit

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# The command line

Made from the commands' own help by `python tests/test_cli_docs.py`; a test compares it.
Exit codes: 0 done, 1 failed (one line on stderr), 2 usage; `journal verify` has its own.
"""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, click.Context]]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100, auto_envvar_prefix="ZMQKIT")
    yield context.command_path, context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found
            if not found.hidden:
                yield from commands(found, child, context)


def page() -> str:
    return HEAD + "".join(f"\n## {path}\n\n```text\n{context.get_help()}\n```\n" for path, context in commands(zmqkit, "zmqkit"))


def test_every_command_and_option_is_documented() -> None:
    assert PAGE.read_text() == page(), "write it anew: python tests/test_cli_docs.py"


def test_every_command_says_what_it_does_and_every_option_too() -> None:
    for path, context in commands(zmqkit, "zmqkit"):
        assert context.command.help, path
        for parameter in context.command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{path} {parameter.opts}"


def test_what_destroys_can_be_tried_dry() -> None:
    destructive = {"queue purge", "queue rm", "dead drop", "dead redrive"}
    found = {path.removeprefix("zmqkit "): context for path, context in commands(zmqkit, "zmqkit")}
    for path in destructive:
        assert "--dry-run" in {opt for parameter in found[path].command.params for opt in parameter.opts}, path


if __name__ == "__main__":
    PAGE.write_text(page())
