"""`zmqkit demo peers` and `demo chat`: what is read from the peers' notes, and a short run of each with real processes and real kills."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_world import ZMQKIT, environment, zmqkit

from zmqkit.cli.demo_chat import Play
from zmqkit.cli.demo_peers import Run, account, broken
from zmqkit.cli.demo_screen import Screen

LINE = "2026-01-01 INFO zmqkit.node lease ended queue=demo.jobs token=7 messages=1-1 cause=link-lost\n"


def told(place: Path, files: dict[str, str]) -> dict[str, Any]:
    """What a run of two peers with two jobs each comes to, of which these files are left."""
    names = [f"{kind}-{number}" for kind in ("confirmed", "begun", "done") for number in (0, 1)]
    for name in names:
        (place / name).write_text("")
    for number in (0, 1):
        (place / f"node-{number}.log").write_text(LINE)
    for name, text in files.items():
        (place / name).write_text(text)
    run = Run(2, 2, 0, random.Random(1), place, Screen("peers", 4))
    run.numbers = {"aa": 0, "bb": 1}
    return account(run)


ALL = {
    "confirmed-0": "0:0\n0:1\n", "confirmed-1": "1:0\n1:1\n", "done-0": "0:0 5\n1:1 5\n", "done-1": "0:1 5\n1:0 5\n",
    "begun-0": "0:0 aa 1 7 1.0\n1:1 bb 2 8 1.0\n", "begun-1": "0:1 aa 2 9 1.0\n1:0 bb 1 7 1.0\n",
}  # fmt: skip


def test_a_job_is_lost_if_it_was_confirmed_and_is_not_done(tmp_path: Path) -> None:
    whole = told(tmp_path, ALL)
    assert not broken(whole) and (whole["done"], whole["lost"], whole["begun by another peer than their own"]) == (4, 0, 2)
    less = told(tmp_path, {**ALL, "done-1": "0:1 5\n1:0 "})  # the last word was cut off by a kill
    assert broken(less) and less["lost"] == 1


@pytest.mark.parametrize(("seq", "token", "unexplained"), [(1, 7, 0), (1, 6, 1)])
def test_a_second_execution_is_explained_by_the_log_of_the_node_that_has_the_job(
    tmp_path: Path, seq: int, token: int, unexplained: int
) -> None:
    begun = f"0:0 aa {seq} {token} 1.0\n0:0 aa {seq} 10 2.0\n0:1 aa 2 9 1.0\n1:0 bb 1 7 1.0\n1:1 bb 2 8 1.0\n"
    result = told(tmp_path, {**ALL, "begun-0": "", "begun-1": begun})
    assert (result["executed twice"], result["of these unexplained"]) == (1, unexplained) and broken(result) == bool(unexplained)


def test_a_job_that_was_put_twice_is_told_apart_from_one_that_ran_twice(tmp_path: Path) -> None:
    again = ALL["begun-0"] + "0:0 aa 3 10 2.0\n"
    result = told(tmp_path, {**ALL, "begun-0": again})
    assert (result["put twice"], result["executed twice"], broken(result)) == (1, 0, False)


@pytest.mark.slow
def test_peers_without_a_broker_lose_nothing_while_some_of_them_are_killed() -> None:
    done = subprocess.run(
        [*ZMQKIT, "demo", "peers", "--peers", "3", "--jobs", "40", "--kills", "2", "--json"], capture_output=True, text=True, timeout=100,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["jobs"], result["confirmed"], result["done"], result["lost"], result["killed -9"]) == (120, 120, 120, 0, 2), done.stderr
    assert result["begun by another peer than their own"] and result["of these unexplained"] == 0


@pytest.mark.slow
def test_a_chat_has_everything_for_everybody_however_late(tmp_path: Path) -> None:
    done = zmqkit("demo", "chat")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each of 3 people has read every one of them, once" in done.stdout and "kill -9 bob" in done.stderr


def test_a_line_that_somebody_misses_or_reads_twice_breaks_the_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Deaf:
        name, heard = "cy", ["ada: hello", "ada: hello"]

        def has(self, said: list[str]) -> bool:
            return False

        def say(self, text: str) -> None: ...

    play = Play("room", tmp_path)
    play._here["cy"] = Deaf()  # type: ignore[assignment]
    play._say("cy", "hello")
    play._said.append("ada: hello")
    assert play.report() == 1
    told = capsys.readouterr().err
    assert "cy has not heard cy: 'hello'" in told and "cy has read 'ada: hello' twice" in told
