"""The catalogue in patterns/: each failure happens on plain ZeroMQ, and does not happen on zmqkit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from patterns import late_joiner
from patterns.__main__ import NAMES, PAGE, section
from patterns.stage import Stage, Told

ROOT = Path(__file__).parents[1]
LINES_MAX = 120
WAITS = {"fair_share"}  # nothing is lost there: it waits
ROW = re.compile(r"(bare|mended) +(\d+) +(\d+) +(\d+) +(-|([\d.]+) s)")


def played(name: str) -> dict[str, Told]:
    """What `python -m patterns.NAME` says of each half."""
    done = subprocess.run([sys.executable, "-m", f"patterns.{name}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [row for line in done.stdout.splitlines() if (row := ROW.fullmatch(line))]
    assert [row[1] for row in found] == ["bare", "mended"], done.stdout
    return {row[1]: Told(int(row[2]), int(row[3]), int(row[4]), float(row[6] or 0)) for row in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_plain_zeromq_loses_or_waits_and_zmqkit_does_not(name: str) -> None:
    halves = played(name)
    bare, mended = halves["bare"], halves["mended"]
    assert bare.sent == mended.sent > 0
    assert (mended.lost, mended.doubled) == (0, 0)
    if name in WAITS:
        assert bare.slowest > 2 * mended.slowest
    else:
        assert bare.lost > 0


@pytest.mark.gate
@pytest.mark.timeout(900)
def test_a_thousand_late_joiners_of_ours_have_all() -> None:
    with Stage() as stage:
        told = late_joiner.mended(stage, 1000)
    assert (told.sent, told.lost) == (1000, 0)


def test_each_is_on_the_page_with_what_came_of_it() -> None:
    page = PAGE.read_text()
    for name in NAMES:
        assert section(name) in page, "write it anew: python -m patterns"
    assert re.findall(r"\| (bare|mended) \|", page) == ["bare", "mended"] * len(NAMES), "write it anew: python -m patterns"


def test_one_is_read_on_two_screens() -> None:
    for name in NAMES:
        assert len((ROOT / "patterns" / f"{name}.py").read_text().splitlines()) <= LINES_MAX, name
