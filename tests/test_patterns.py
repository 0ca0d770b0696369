"""The catalogue in patterns/: each failure happens on plain ZeroMQ, and does not happen on zmqkit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PATTERNS = Path(__file__).parents[1] / "patterns"
LINES_MAX = 80
ROUNDS_MAX = 20  # of 200 joins: usually the first is enough, and a race is nobody's duty


def late_joiners(half: str, joins: int) -> dict[str, int]:
    """What a half prints: joins, diverged, undetected gaps, updates a second."""
    done = subprocess.run([sys.executable, str(PATTERNS / "late_joiner" / f"{half}.py"), str(joins)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    found = re.fullmatch(r"joins (\d+)  diverged (\d+)  undetected gaps (\d+)  at ([\d,]+) updates/s\n", done.stdout)
    assert found, done.stdout
    return dict(zip(("joins", "diverged", "gaps", "rate"), (int(number.replace(",", "")) for number in found.groups()), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_late_joiner_of_the_textbook_loses_updates_and_does_not_know() -> None:
    for _ in range(ROUNDS_MAX):
        told = late_joiners("bare", 200)
        if told["diverged"] and told["gaps"]:
            return
    pytest.fail(f"no update was lost in {ROUNDS_MAX} rounds")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_late_joiner_of_ours_has_all() -> None:
    told = late_joiners("mended", 100)
    assert (told["joins"], told["diverged"], told["gaps"]) == (100, 0, 0)


@pytest.mark.gate
@pytest.mark.timeout(600)
def test_a_thousand_late_joiners_of_ours_have_all() -> None:
    told = late_joiners("mended", 1000)
    assert (told["joins"], told["diverged"], told["gaps"]) == (1000, 0, 0)
    assert told["rate"] >= 2000


def test_a_half_is_read_on_one_screen_or_two() -> None:
    for path in PATTERNS.glob("*/*.py"):
        assert len(path.read_text().splitlines()) <= LINES_MAX, path
