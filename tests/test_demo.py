"""The demo: its parts in memory, and a short run of the whole with real processes and real kills."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from zmqkit.cli.demo_jobs import directory_jobs, do, line_jobs, totals
from zmqkit.cli.demo_report import LeaseEnds, Start, read_diaries, repeats

LINE = "2026-01-01 INFO zmqkit.node lease ended queue=demo.jobs token=7 messages=3-5 cause=link-lost\n"


def test_a_python_file_is_counted_by_kinds_of_token(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    result = do({"file": str(tmp_path / "a.py")})
    assert result == {"bytes": 6, "lines": 1, "tokens": {"ENCODING": 1, "NAME": 1, "OP": 1, "NUMBER": 1, "NEWLINE": 1, "ENDMARKER": 1}}


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        *((b"# coding: klingon\n", "undecodable"), (b'x = "\xff"\n', "undecodable")),
        *((b"x = (\n", "no Python"), (b"if x:\n  a\n b\n", "no Python")),
    ],
)
def test_a_file_that_cannot_be_tokenised_is_a_result_and_no_failure(tmp_path: Path, data: bytes, flaw: str) -> None:
    (tmp_path / "a.py").write_bytes(data)
    assert do({"file": str(tmp_path / "a.py")})["flaw"] == flaw
    assert do({"file": str(tmp_path / "gone.py")})["flaw"] == "unreadable"


def test_jobs_are_found_in_the_same_order_and_installed_packages_are_none(tmp_path: Path) -> None:
    for name in ("b.py", "a/c.py", "site-packages/other.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n")
    assert [Path(job["file"]).name for job in directory_jobs(tmp_path)] == ["c.py", "b.py"]
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    assert line_jobs(tmp_path / "notes.txt") == [{"line": "one"}, {"line": "two"}]


def test_totals_add_up_every_job_once() -> None:
    assert totals([do({"line": "x"}), do({"line": "("})]) == Counter(
        {"jobs": 2, "bytes": 2, "lines": 0, "tokens": 4, "no Python": 1}
        | {f"tokens {kind}": 1 for kind in ("ENCODING", "NAME", "NEWLINE", "ENDMARKER")}
    )


def test_a_second_execution_is_explained_by_the_end_of_the_lease_before_it() -> None:
    ends = LeaseEnds(LINE + LINE.replace("demo.jobs", "other"), "demo.jobs")
    told = repeats([Start(4, 7, 10.0), Start(1, 8, 10.1), Start(4, 9, 12.5)], ends, [10.5, 99.0])
    assert told.causes == Counter({"link-lost": 1}) and not told.unexplained
    assert told.slowest_seconds == pytest.approx(2.0)  # from the kill at 10.5


def test_a_lease_that_the_killed_node_had_not_written_yet_has_ended_with_it() -> None:
    first, second = (1 << 40) + 5, (2 << 40) + 1
    log = f"restarted epoch=2 leases=1: leases of earlier epochs above token={first - 1} ended unwritten, if there were any\n"
    assert repeats([Start(4, first, 1.0), Start(4, second, 2.0)], LeaseEnds(log, "demo.jobs"), []).causes == Counter(unwritten=1)
    assert repeats([Start(4, first - 1, 1.0), Start(4, second, 2.0)], LeaseEnds(log, "demo.jobs"), []).unexplained == [4]
    assert repeats([Start(4, second, 1.0), Start(4, second + 1, 2.0)], LeaseEnds(log, "demo.jobs"), []).unexplained == [4]


def test_a_second_execution_under_a_lease_that_never_ended_is_unexplained() -> None:
    ends = LeaseEnds(LINE, "demo.jobs")
    assert repeats([Start(6, 7, 1.0), Start(6, 9, 2.0)], ends, []).unexplained == [6]  # its message is not in that range
    assert repeats([Start(4, 8, 1.0), Start(4, 9, 2.0)], ends, []).unexplained == [4]  # that line is about another lease


def test_a_diary_cut_off_by_a_kill_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    (tmp_path / "diary-0").write_text("1 7 2.5\n2 7 1.")
    assert read_diaries([tmp_path / "diary-0"]) == [Start(1, 7, 2.5)]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["--dir", "--input"])
def test_the_demo_loses_nothing_while_workers_and_node_are_killed(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "own"
    source.mkdir()
    for number in range(60):
        (source / f"f{number}.py").write_text(f"x{number} = [{number}] * 3\n" * (number + 1) * 20)
    (tmp_path / "lines").write_text("".join(f"y = {number} + (2)\n" for number in range(300)))
    own = source if kind == "--dir" else tmp_path / "lines"
    count = 60 if kind == "--dir" else 300
    command = [sys.executable, "-m", "zmqkit.cli", "demo", "queue", kind, str(own), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONUNBUFFERED": "1"}, timeout=90)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    table = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    assert (table["jobs put"], table["confirmed"], table["done"], table["lost"]) == (str(count), str(count), str(count), "0"), said
    assert table["killed -9"] == "2 × worker, 2 × node", said
    assert table["totals"] == "equal to the plain loop", said


@pytest.mark.slow
def test_the_demo_refuses_what_holds_no_jobs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zmqkit.cli", "demo", "queue", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("zmqkit: no jobs in") and done.stderr.count("\n") == 1
