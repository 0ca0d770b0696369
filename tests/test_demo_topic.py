"""`zmqkit demo topic`: its judge in memory, and a short run of the whole with real processes, cuts and kills."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_world import ZMQKIT
from click.testing import CliRunner

import zmqkit
from zmqkit.cli import demo_topic
from zmqkit.cli.demo_proxy import Proxy
from zmqkit.cli.demo_truth import EARLY_SECONDS, Entry, Follower, Seen, diverged, lost
from zmqkit.machines.following import Gap

LOG = [Entry(1, "a", [1, 0.0, None]), Entry(2, "b", [2, 0.0, 5.0]), Entry(3, "a", None), Entry(4, "b", None)]
A, B = {"a": LOG[0].value}, {"b": LOG[1].value}
LATER = 5.0 + EARLY_SECONDS


@pytest.mark.parametrize(
    ("seq", "held", "moment"),
    [(0, {}, 0.0), (1, A, 0.0), (2, {**A, **B}, LATER), (2, A, LATER), (3, B, 0.0), (3, {}, LATER), (4, {}, 0.0)],
)
def test_a_map_of_any_moment_is_the_fold_of_the_log_but_for_what_has_run_out(seq: int, held: dict[str, Any], moment: float) -> None:
    assert diverged(LOG, [Seen(seq, held, moment)]) == []


@pytest.mark.parametrize(
    ("seq", "held", "moment"),
    [
        (0, A, 0.0),
        (1, {}, LATER),
        (1, {"a": [9, 0.0, None]}, 0.0),
        (2, B, LATER),
        (2, A, 0.0),
        (3, {**A, **B}, 0.0),
        (4, B, 0.0),
        (5, {}, 0.0),
    ],
)
def test_a_map_that_never_was_diverges(seq: int, held: dict[str, Any], moment: float) -> None:
    right, wrong = Seen(3, B, 0.0), Seen(seq, held, moment)
    assert diverged(LOG, [right, wrong, right]) == [wrong]


def test_a_follower_adds_up_and_notices_what_does_not_follow() -> None:
    follower = Follower()
    follower.add("a", A["a"], 1, True, None)
    follower.add("b", B["b"], 1, True, None)
    follower.add("a", None, 2, False, None)
    assert (follower.map, follower.seq, follower.told, follower.unnoticed) == (B, 2, 0, 0)
    follower.add("a", A["a"], 9, True, Gap(3, 9))  # all anew, and said
    follower.add("b", None, 9, True, None)
    follower.add("a", None, 10, False, None)
    assert (follower.map, follower.told, follower.unnoticed) == ({}, 1, 0)
    for seq, from_snapshot in ((10, False), (12, False), (13, True)):  # again, one left out, anew without a word
        before = follower.unnoticed
        follower.add("a", A["a"], seq, from_snapshot, None)
        assert follower.unnoticed == before + 1


def test_what_is_confirmed_and_not_in_the_log_is_lost() -> None:
    other, beyond, nowhere = Entry(2, "b", [7, 0.0, None]), Entry(5, "a", None), Entry(0, "a", None)
    assert lost(LOG, [*LOG[:3], other, beyond, nowhere]) == [other, beyond, nowhere]


GOOD = {"joined": 3, "compared": 3, "lost": 0, "undetected gaps": 0, "divergent states": 0, "divergent sums of events": 0, "stalled": 0}


@pytest.mark.parametrize("flaw", [{}, *({name: 1} for name in GOOD)])
def test_each_flaw_fails_the_demo(monkeypatch: pytest.MonkeyPatch, flaw: dict[str, int]) -> None:
    monkeypatch.setattr(demo_topic.Run, "run", lambda run: None)
    monkeypatch.setattr(demo_topic, "account", lambda run: {**GOOD, **flaw})
    for form in ([], ["--json"]):
        assert CliRunner().invoke(demo_topic.demo_topic, form).exit_code == bool(flaw)


def test_a_link_through_the_proxy_is_cut_for_a_moment_or_longer() -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        proxy = Proxy(node.endpoint)
        with zmqkit.connect(proxy.endpoint, timeout=30.0) as mq:
            for seconds in (0.0, 0.3):
                proxy.cut(seconds)
                assert mq.topic("t").publish("a", 1, timeout=30.0)
        proxy.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_whoever_joins_under_load_has_what_the_log_adds_up_to(tmp_path: Path) -> None:
    command = [*ZMQKIT, "demo", "topic", "--joins", "24", "--seconds", "4s", "--updates", "500", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["compared"] == 24 and told["node killed -9"] == 2 and told["updates confirmed"] > 0, told
    assert not demo_topic.broken(told)
