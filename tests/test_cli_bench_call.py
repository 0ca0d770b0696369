"""`zmqkit bench call` with few calls: the lines it prints are a contract, and what is lost or runs twice fails it."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from cli_world import succeeds
from click.testing import CliRunner

from zmqkit.cli import bench_call
from zmqkit.cli.bench_call_roles import Account
from zmqkit.cli.bench_rounds import roles
from zmqkit.errors import NoWorker

KEYS = {"bench", "mode", "system", "version", "durability", "messages", "size", "messages_per_s", "p50_us", "p99_us", "lost", "duplicated"}


def bench(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in succeeds("bench", "call", "--json", *arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lockstep", "direct", "concurrent"])
def test_a_mode_prints_ours_then_plain_pyzmq_then_the_ratio(mode: str) -> None:
    ours, raw, ratio = bench("--mode", mode, "--messages", "500", "--rounds", "2")
    assert ours.keys() >= KEYS and raw.keys() >= KEYS
    assert (ours["system"], raw["system"], ours["mode"], ours["size"], ours["rounds"]) == ("zmqkit", "raw-zmq", mode, 100, 2)
    assert (ours["lost"], ours["duplicated"], raw["lost"], raw["duplicated"]) == (0, 0, 0, 0)
    figure = "messages_per_s" if mode == "concurrent" else "p50_us"
    assert ratio == {"bench": "call", "mode": mode, "ratio_to": {"raw-zmq": round(ours[figure] / raw[figure], 3)}}


@pytest.mark.slow
def test_idle_says_what_a_node_with_workers_that_have_nothing_to_do_costs() -> None:
    (row,) = bench("--mode", "idle", "--messages", "5", "--seconds", "0.3")
    assert (row["mode"], row["workers"], row["seconds"]) == ("idle", 5, 0.3)
    assert 0 <= row["cpu_percent"] < 100 and "rounds" not in row


def result(**more: Any) -> dict[str, Any]:
    return {"first_ns": 0, "last_ns": 1, "p50_us": 2.0, "p99_us": 3.0, "per_s": 4, "lost": 0, "duplicated": 0, **more}


@pytest.mark.parametrize("flaw", ["lost", "duplicated"])
def test_a_lost_or_doubled_call_in_any_round_fails_the_bench(monkeypatch: pytest.MonkeyPatch, flaw: str) -> None:
    rounds = iter([result(), result(**{flaw: 1}), result()])
    monkeypatch.setattr(bench_call, "ours_direct", lambda calls, size: next(rounds))
    monkeypatch.setattr(bench_call, "raw_echo", lambda calls, size: result())
    done = CliRunner().invoke(bench_call.bench_call, ["--mode", "direct", "--rounds", "3", "--json"])
    assert done.exit_code == 1 and json.loads(done.output.splitlines()[0])[flaw] == 1


def test_what_has_no_answer_is_lost_and_what_ran_unasked_is_doubled(capsys: pytest.CaptureFixture[str]) -> None:
    account = Account(ran=10)
    account.times += [1, 2, 3]
    account.fail(NoWorker("nobody"))
    assert account.close()["lost"] == 1 and "nobody" in capsys.readouterr().err
    assert account.doubled(10 + 1 + 4) == 0, "the question itself, three answers, one lost"
    assert account.doubled(10 + 1 + 6) == 2


@pytest.mark.slow
def test_a_caller_that_finds_no_node_ends_with_its_error_and_leaves_no_process_behind() -> None:
    with bench_call.node() as broker, roles(bench_call.ROLES, 5, 16) as running:
        broker.stop()
        with pytest.raises(click.ClickException, match="the lockstep process failed"):
            running.result("lockstep", broker.endpoint)
        processes = list(running._processes)
    assert processes and all(process.poll() is not None for process in processes)
