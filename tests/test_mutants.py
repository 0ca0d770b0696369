"""Does a test notice when its rule is gone? Each mutant of `mutants.RULES` must make the named test fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import RULES, Rule

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "rules.md"


def table() -> str:
    lines = ["| rule | promise | test | mutant |", "|---|---|---|---|"]
    for rule in RULES:
        file, _, test = rule.test.partition("::")
        lines.append(f"| {rule.name} | {rule.promise} | `{file}` {test.removeprefix('test_').replace('_', ' ')} | `{rule.file}` |")
    return "\n".join(lines)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "-"))
def test_every_mutant_still_fits_the_code_and_its_test_exists(rule: Rule) -> None:
    assert (ROOT / "zmqkit" / rule.file).read_text().count(rule.old) == 1, f"the code of {rule.name} has changed: write its mutant anew"
    file, _, test = rule.test.partition("::")
    assert f"def {test}(" in (ROOT / "tests" / file).read_text()


def test_the_table_in_the_docs_is_this_table() -> None:
    assert table() in DOCS.read_text(), "run `python tests/test_mutants.py` to write it"


def mutate(rule: Rule, directory: Path) -> None:
    shutil.copytree(ROOT / "zmqkit", directory / "zmqkit", ignore=shutil.ignore_patterns("__pycache__"))
    path = directory / "zmqkit" / rule.file
    path.write_text(path.read_text().replace(rule.old, rule.new))


@pytest.mark.gate
@pytest.mark.timeout(150)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "-"))
def test_every_mutant_is_caught(rule: Rule, tmp_path: Path) -> None:
    mutate(rule, tmp_path)
    # -P: neither the working directory nor this checkout's package comes before the mutated one
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-n", "0", str(ROOT / "tests" / rule.test)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-2000:] + done.stderr[-1000:]
    program = [sys.executable, "-P", "-c", "import zmqkit; print(zmqkit.__file__)"]
    where = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert where.stdout.startswith(str(tmp_path))


if __name__ == "__main__":
    head, _, _ = DOCS.read_text().partition("| rule |")
    DOCS.write_text(f"{head}{table()}\n")
