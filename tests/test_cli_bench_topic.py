"""`zmqkit bench topic` with few updates: the lines it prints are a contract, and what is missing or wrong fails it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_world import ZMQKIT, environment
from click.testing import CliRunner

from zmqkit.cli import bench_topic
from zmqkit.cli.bench_load import STAMP
from zmqkit.cli.bench_updates import names, sequence, truth, updates, wrong

KEYS = {"bench", "mode", "system", "version", "durability", "messages", "size", "keys", "lost", "duplicated", "cpu_us"}
RATES = {"messages_per_s", "deliveries_per_s", "published_per_s"}


def bench(place: Path, *arguments: str) -> list[str]:
    command = [*ZMQKIT, "bench", "topic", "--dir", str(place), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, env=environment())  # many processes on a busy machine
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(place.iterdir()), "it left something behind"
    return done.stdout.splitlines()


def rows(place: Path, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bench(place, "--json", *arguments)]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_fan_prints_plain_pyzmq_then_ours_each_with_its_ratio(tmp_path: Path) -> None:
    told = rows(tmp_path, "--mode", "1-10", "--messages", "3000", "--keys", "50", "--durability", "disk")
    raw, singly, state, its_ratio, events, _ = told
    assert all(row.keys() >= KEYS | RATES for row in (raw, singly, state, events))
    assert [row["system"] for row in (raw, singly, state, events)] == ["raw-zmq", "raw-zmq-singly", "zmqkit", "zmqkit"]
    assert [(row["taken"], row["durability"], row["lost"], row["duplicated"]) for row in (state, events)] == [
        ("state", "disk", 0, 0),
        ("events", "disk", 0, 0),
    ]
    assert state["subscribers"] == 10 and abs(state["deliveries_per_s"] - 10 * state["messages_per_s"]) <= 10
    assert events["p50_us"] > 0 and {*state["cpu_us"]} == {"node", "publisher", "subscribers"}
    ratio = round(state["deliveries_per_s"] / raw["deliveries_per_s"], 3)
    assert (its_ratio["mode"], its_ratio["durability"], its_ratio["taken"]) == ("1-10", "disk", "state")
    assert its_ratio["ratio_to"] == {"raw-zmq": ratio} and its_ratio["cpu_ratio_to"]["raw-zmq"] > 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_late_joiners_are_timed_and_compared_while_updates_go_on(tmp_path: Path) -> None:
    one, four = rows(tmp_path, "--mode", "snapshot", "--keys", "3000", "--durability", "memory")
    assert (one["joiners"], one["lost"], four["joiners"], four["lost"]) == (1, 0, 4, 0)
    assert one["seconds"] > 0 and one["updates_per_s"] > 0 and one["keys"] == 3000


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_without_json_each_mode_is_a_table(tmp_path: Path) -> None:
    shown = bench(tmp_path, "--mode", "keys", "--messages", "500", "--keys", "100", "--taken", "state")
    assert shown[1].split()[0] == "keys" and any("zmqkit memory state" in line for line in shown)


@pytest.mark.parametrize("flaw", ["lost", "duplicated"])
def test_a_lost_or_doubled_update_fails_the_bench(monkeypatch: pytest.MonkeyPatch, flaw: str, tmp_path: Path) -> None:
    for count in (0, 1):
        row = {"system": "zmqkit", "durability": "disk", flaw: count}
        monkeypatch.setitem(bench_topic.MODES, "1-1", lambda runner, row=row: iter([row]))
        done = CliRunner().invoke(bench_topic.bench_topic, ["--mode", "1-1", "--json", "--dir", str(tmp_path)])
        assert done.exit_code == count, done.output


def test_a_state_is_held_against_the_last_update_of_each_key() -> None:
    order = sequence(20, 300)
    assert order == sequence(20, 300) and set(order) == set(names(20))
    state = dict(updates(order, 32))
    assert wrong(state, truth(order)) == 0 and {len(value) for value in state.values()} == {32}
    older = {**state, order[-1]: STAMP.pack(0, 0)}
    missing = {key: value for key, value in state.items() if key != order[0]}
    assert wrong(older, truth(order)) == wrong(missing, truth(order)) == wrong({**state, "other": STAMP.pack(0, 0)}, truth(order)) == 1
