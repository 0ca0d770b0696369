"""README keeps its word: its first shell block, its examples, its links, its commands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from zmqkit.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = [(kind, text) for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)]
EXAMPLES = [text for kind, text in BLOCKS if kind == "python"]


def test_the_first_shell_block_is_two_commands_for_a_fresh_clone() -> None:
    first = next(text for kind, text in BLOCKS if kind in ("sh", "bash", "shell", "console"))
    run, check = first.splitlines()
    for line in (run, check):
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip "), "it must make its own environment"
        assert "requirements.lock" in line
    assert run.endswith(".venv/bin/zmqkit demo queue")
    assert check.endswith(".venv/bin/python -m pytest -q")
    assert README.index("```") < 2000, "the commands belong on the first screen"


def test_ci_runs_the_second_of_them() -> None:
    assert "sed -n 2p" in (ROOT / ".ci" / "run").read_text()


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_every_command_it_names_exists() -> None:
    for name in re.findall(r"zmqkit ([a-z]+)", README):
        assert name in COMMANDS, name


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_python(number: int) -> None:
    compile(textwrap.dedent(EXAMPLES[number]), f"README example {number + 1}", "exec")


def test_the_first_examples_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    endpoint, own = "tcp://127.0.0.1:5555", f"ipc://{tmp_path}/node"  # never a port that somebody else may use
    host, work = (text.replace(endpoint, own) for text in EXAMPLES[:2])
    assert host != EXAMPLES[0] and work != EXAMPLES[1]
    # The second talks to the node of the first, so it runs inside its `with`.
    exec(compile(host + textwrap.indent(work, "    "), "README", "exec"), {})
    assert capsys.readouterr().out.splitlines()[:3] == ["1 disk", "1 ada@example.org", "1 user0@example.org"]
