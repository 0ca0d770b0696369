"""Whole worlds, one per seed: no schedule may lose, double or stall a message."""

from __future__ import annotations

from pathlib import Path

import pytest
from seeds import digests, failures_and_hits

from zmqkit.simulator.__main__ import main
from zmqkit.simulator.config import FAULTS
from zmqkit.simulator.world import World, run_seed

REGRESSIONS = Path(__file__).parent / "sim" / "regressions.txt"


def known() -> list[int]:
    return [int(line.split()[0]) for line in REGRESSIONS.read_text().splitlines() if line and not line.startswith("#")]


ENDS = {f"call ended {end}" for end in ("OK", "ERROR", "END", "NO_WORKER", "UNDISPATCHED", "MAYBE_EXECUTED", "NOT_SENT")}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_seed_loses_doubles_or_stalls_a_message() -> None:
    failed, hits = failures_and_hits(run_seed, [*known(), *range(1, 141)])
    assert not failed, "\n".join(failed)
    assert FAULTS.keys() <= hits.keys(), f"never happened: {FAULTS.keys() - hits.keys()}"
    assert {*ENDS, "keys executed again", "reply STALE"} <= hits.keys(), f"never happened: {ENDS - hits.keys()}"


@pytest.mark.gate
@pytest.mark.timeout(900)
def test_no_seed_of_many_loses_doubles_or_stalls_a_message() -> None:
    failed, _ = failures_and_hits(run_seed, range(10_000, 12_000))
    assert not failed, "\n".join(failed)


def test_two_runs_of_a_seed_are_the_same_run_also_under_another_hash_seed() -> None:
    program = "from zmqkit.simulator.world import run_seed; print(run_seed(5).world.scheduler.digest)"
    assert digests(program) == {run_seed(5).world.scheduler.digest}


def test_a_seed_draws_its_world_before_anything_runs() -> None:
    assert World(3).config == World(3).config and World(3).plan() == World(3).plan()
    assert len({str(World(seed).config) for seed in range(50)}) == 50


def test_a_failing_seed_prints_its_config_and_how_to_run_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zmqkit.machines.queue.Queue.land", lambda queue, what: None)  # nothing ever becomes ready
    assert main(["--seed", "3"]) == 1
    out = capsys.readouterr().out
    assert "seed 3 failed after" in out
    assert "config: " in out and "-m zmqkit.simulator --seed 3 --trace" in out


def test_a_good_seed_ends_with_what_it_has_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3-4"]) == 0
    assert "failed: none" in capsys.readouterr().out
