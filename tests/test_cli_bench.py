"""`zmqkit bench queue` with few messages: the lines it prints are a contract, and it finds what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_world import succeeds

KEYS = {"bench", "mode", "system", "version", "durability", "messages", "size", "p50_us", "p99_us", "lost", "duplicated"}


def bench(place: Path, mode: str, messages: int) -> list[dict[str, object]]:
    lines = succeeds("bench", "queue", "--mode", mode, "--messages", str(messages), "--json", "--dir", str(place))
    assert not list(place.iterdir()), "it left something behind"
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "message", "lockstep"])
def test_a_mode_prints_ours_then_plain_pyzmq_then_the_ratio(tmp_path: Path, mode: str) -> None:
    ours, raw, *_, ratio = bench(tmp_path, mode, 600)
    assert ours.keys() >= KEYS | {"messages_per_s"} and raw.keys() >= KEYS
    assert (ours["system"], ours["durability"], ours["lost"], ours["duplicated"]) == ("zmqkit", "disk", 0, 0)
    assert (raw["system"], raw["durability"]) == ("raw-zmq", "memory")
    assert ratio["mode"] == mode and ratio["ratio_to"].keys() >= {"raw-zmq"}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_backlog_survives_the_kill_and_is_drained_whole(tmp_path: Path) -> None:
    (row,) = bench(tmp_path, "backlog", 5000)
    assert (row["lost"], row["duplicated"]) == (0, 0)
    assert row.keys() >= {"restart_s", "node_rss_mb", "drain_per_s", "messages_per_s"}
