"""Whole worlds with topics, one per seed: no schedule may lose, double or make up an update, nor hide that one was missed."""

from __future__ import annotations

import pytest
from seeds import digests, failures_and_hits

from zmqkit.simulator.__main__ import main
from zmqkit.simulator.clock import Scheduler
from zmqkit.simulator.config import FAULTS, QUEUE_FAULTS, TOPIC_FAULTS, Config
from zmqkit.simulator.world import Outcome, run_seed
from zmqkit.wire import Start

# Seeds that once failed: a memory topic told before its log has it (5), a cut during a snapshot (25), a ttl of the old value (47), a window
# that never opens (63), a value that has ended in a snapshot (324), a prefix before the first answer (604), a
# confirm that overtook another (20527).
KNOWN = (5, 25, 47, 63, 324, 604, 20527, 20802)
SEEN = {
    *(f"began {start.name}" for start in Start),
    *("chunks", "snapshots", "gaps", "overtaken by the floor", "came back with a position", "positions kept", "ttls that ended"),
    *("topic swept", "topic copy", "updates confirmed, disk", "updates confirmed, memory", "confirmed", "calls started"),
}


def config(seed: int) -> Config:
    return Config.draw_topics(Scheduler(seed))


def run(seed: int) -> Outcome:
    return run_seed(seed, config(seed))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_seed_loses_or_makes_up_an_update_or_hides_a_gap() -> None:
    failed, hits = failures_and_hits(run, [*KNOWN, *range(1001, 1201)], "--topics ")
    assert not failed, "\n".join(failed)
    kinds = FAULTS.keys() - set(QUEUE_FAULTS) | TOPIC_FAULTS.keys()
    assert kinds <= hits.keys(), f"never happened: {kinds - hits.keys()}"
    assert hits.keys() >= SEEN, f"never happened: {SEEN - hits.keys()}"


@pytest.mark.gate
@pytest.mark.timeout(900)
def test_no_seed_of_many_loses_or_makes_up_an_update_or_hides_a_gap() -> None:
    failed, _ = failures_and_hits(run, range(20_000, 22_000), "--topics ")
    assert not failed, "\n".join(failed)


def test_two_runs_of_a_seed_are_the_same_run_also_under_another_hash_seed() -> None:
    program = "; ".join(
        (
            "from zmqkit.simulator.config import Config",
            "from zmqkit.simulator.clock import Scheduler",
            "from zmqkit.simulator.world import run_seed",
            "print(run_seed(25, Config.draw_topics(Scheduler(25))).world.scheduler.digest)",
        )
    )
    assert digests(program) == {run(25).world.scheduler.digest}


def test_a_world_of_topics_leaves_worlds_without_them_as_they_are() -> None:
    plain = Config.draw(Scheduler(3))
    assert plain.publishers == plain.readers == 0 and not set(plain.faults) & TOPIC_FAULTS.keys()
    assert len({str(config(seed)) for seed in range(50)}) == 50
    beside = [seed for seed in range(50) if config(seed).producers]
    assert 3 < len(beside) < 25  # in some of them there are queues, too


def test_a_failing_seed_is_printed_shrunk_and_can_be_run_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("zmqkit.machines.following.Subscription._apply", lambda subscription, changes, now: None)  # hears, and forgets
    assert main(["--topics", "--seed", "1001", "--shrink"]) == 1
    out = capsys.readouterr().out
    assert "seed 1001 failed after" in out and "-m zmqkit.simulator --seed 1001 --topics --trace" in out
    assert "fewest: " in out and "publishers=1 readers=1 topics=1" in out


def test_a_good_seed_ends_with_what_it_has_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--topics", "--seeds", "1003-1004"]) == 0
    out = capsys.readouterr().out
    assert "failed: none" in out and "updates confirmed" in out
