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
from zmqkit.cli.demo_outcomes import Account, Ended, account, read_outcomes
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


# -- calls ----------------------------------------------------------------------------------------------------------------

CALL_LINE = "2026-01-01 INFO zmqkit.node lease ended queue=service:demo.order token=7 messages=901-901 cause=link-lost\n"
RESTART = "restarted epoch=2 leases=0: leases of earlier epochs above token=99 ended unwritten, if there were any\n"


def one_call(*outcomes: str, tokens: tuple[int, ...] = (7,), effects: int = 1, log: str | None = CALL_LINE) -> Account:
    """What is said of call 4, which ended so and was begun under these leases. `log` None: it has no key."""
    ended = [Ended(4, outcome, 0.5) for outcome in outcomes]
    starts = [Start(4, token, float(at)) for at, token in enumerate(tokens)]
    return account([4], ended, starts, [4] * effects, None if log is None else LeaseEnds(log, "service:demo.order"))


def test_a_second_execution_of_a_keyed_call_is_explained_by_the_end_of_its_lease_whatever_its_caller_numbers_it() -> None:
    told = one_call("answered", tokens=(7, 9))
    assert told.doubled == Counter({"link-lost": 1}) and not told.broken() and not told.lost
    assert one_call("answered", tokens=(8, 9)).unexplained == [4]
    assert one_call("answered", tokens=(7, 9), log=CALL_LINE.replace("order", "other")).unexplained == [4]


def test_leases_of_calls_end_with_the_node_whatever_its_journal_knows() -> None:
    before, after = (1 << 40) + 5, (2 << 40) + 1
    assert one_call("answered", tokens=(before, after), log=RESTART).doubled == Counter({"node-killed": 1})
    assert one_call("answered", tokens=(before, before + 1), log="").unexplained == [4]


def test_each_promise_about_calls_can_be_seen_broken() -> None:
    assert not one_call("answered").broken()
    assert not one_call("maybe-executed", tokens=(), effects=0).broken()
    assert not one_call("no-worker", tokens=(), effects=0).broken()
    broken = {
        "without an outcome": one_call(),
        "with two outcomes": one_call("answered", "maybe-executed"),
        "with an outcome that no kill explains": one_call("wrong"),
        "and their effect is not there": one_call("answered", effects=0),
        "reported as not executed": one_call("not-executed"),
        "and nothing in the node's log explains it": one_call("answered", tokens=(7, 9), log=None),
        "whose effect is there twice": one_call("answered", effects=2),
    }
    for text, told in broken.items():
        assert [text in complaint for complaint in told.broken()] == [True], told.broken()
    assert one_call().lost == one_call("answered", effects=0).lost == 1


def test_outcomes_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "outcomes-0").write_text("4 answered 0.5\n5 no-worker 8.0\n")
    assert read_outcomes([tmp_path / "outcomes-0"]) == [Ended(4, "answered", 0.5), Ended(5, "no-worker", 8.0)]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_demo_of_calls_accounts_for_each_of_them_while_workers_and_node_are_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zmqkit.cli", "demo", "calls", "--calls", "600", "--seconds", "5s"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=90)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    table = {cells[0]: cells[1:] for line in done.stdout.splitlines() if len(cells := re.split(r"\s{2,}", line.strip())) == 3}
    assert table["made"] == ["300", "300"] and table["lost"] == table["effects doubled"] == ["0", "0"], said
    assert table["doubled"][1] == "0", said
    counted = [sum(int(table[row][kind]) for row in ("answered", "no worker", "not executed in time", "maybe executed")) for kind in (0, 1)]
    assert counted == [300, 300], said
    assert re.search(r"killed -9: 2 × node, \d+ × worker", done.stdout), said
