"""docs/security.md keeps its word: each row of its checklist names tests, and they are there; every package is locked."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKLIST = (ROOT / "docs" / "security.md").read_text().partition("## The checklist")[2].partition("\n## ")[0]
ROWS = {cells[0]: cells[-1] for line in CHECKLIST.splitlines() if len(cells := line.strip("| ").split(" | ")) == 4 and cells[0] != "area"}
TESTS = {
    node.name
    for path in ROOT.glob("tests/test_*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
}
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("area", ROWS)
def test_each_row_of_the_checklist_names_its_tests(area: str) -> None:
    named = re.findall(r"`(\w+)`", ROWS[area])
    assert named and set(named) <= TESTS, set(named) - TESTS


def test_the_checklist_has_all_areas() -> None:
    assert len(ROWS) >= 22


def test_every_package_is_locked_by_its_checksum() -> None:
    packages = re.findall(r"^([a-z0-9-]+)==[^\n]+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", LOCK, re.M)
    assert len(packages) == len(re.findall(r"^[a-z0-9-]+==", LOCK, re.M)) > 10
