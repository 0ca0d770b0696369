"""What calls are measured against: the bare loops answer every call, and rounds are taken in turn and told as medians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from zmqkit.cli.bench_rounds import medians, raw_concurrent, raw_echo, raw_ppp, roles


@pytest.mark.slow
@pytest.mark.parametrize("measure", [raw_ppp, raw_echo, raw_concurrent])
def test_a_bare_round_answers_every_call_once_and_tells_how_long_it_took(measure: Callable[[int, int], dict[str, Any]]) -> None:
    result = measure(600, 128)
    assert (result["lost"], result["duplicated"]) == (0, 0)
    assert 0 < result["p50_us"] <= result["p99_us"] and result["per_s"] > 0


@pytest.mark.slow
def test_the_queue_is_a_pirates_queue_that_waits_for_a_worker_and_then_serves() -> None:
    with roles("bench_raw_call", 50, 16) as running:
        frontend, backend = running.ready("queue")
        client = running.start("request", frontend)  # there is no worker yet: it waits in front
        running.ready("worker", backend)
        output, _ = client.communicate(timeout=20)
        assert client.returncode == 0 and '"lost": 0' in output


def test_a_role_that_fails_is_told_and_leaves_no_process_behind() -> None:
    with roles("bench_raw_call", 1, 16) as running:
        with pytest.raises(click.ClickException, match="the no-such-role process failed"):
            running.result("no-such-role")
        processes = list(running._processes)
    assert processes and all(process.poll() is not None for process in processes)


def test_rounds_take_turns_and_each_figure_is_the_median_while_losses_add_up() -> None:
    order: list[str] = []
    figures = {"ours": [30.0, 10.0, 20.0], "raw": [1.0, 3.0, 2.0]}

    def measure(name: str) -> Callable[[], dict[str, Any]]:
        def one() -> dict[str, Any]:
            order.append(name)
            figure = figures[name][order.count(name) - 1]
            return {"p50_us": figure, "p99_us": 10 * figure, "per_s": 100 * figure, "lost": name == "raw", "duplicated": 0}

        return one

    told = medians({name: measure(name) for name in figures}, rounds=3)
    assert order == ["ours", "raw"] * 3
    assert told["ours"] == {"p50_us": 20.0, "p99_us": 200.0, "per_s": 2000.0, "lost": 0, "duplicated": 0, "rounds": 3}
    assert (told["raw"]["p50_us"], told["raw"]["lost"]) == (2.0, 3)
