"""`zmqkit journal` on the directory of a node that was killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_world import fails, node, succeeds, zmqkit


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a node that was killed with kill -9, with two messages in it, one of them settled."""
    place = tmp_path_factory.mktemp("node")
    with node(place) as broker:
        at = ["--connect", broker.endpoint]
        succeeds("put", "emails", '{"to": "ada"}', *at)
        succeeds("put", "emails", '{"to": "bob"}', *at)
        succeeds("get", "emails", "--count", "1", *at)
        held = json.loads(succeeds("journal", "stat", str(place / "journal"), "-o", "jsonl")[0])["locked_by"]
        assert str(broker.pid) in held
        broker.kill()
    return place / "journal"


@pytest.fixture
def copy(left_behind: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(left_behind, tmp_path / "copy"))


def spoil(directory: Path, text: bytes) -> Path:
    """Flip a bit in the record that holds `text`; gives its file."""
    for file in sorted(directory.iterdir()):
        data = bytearray(file.read_bytes())
        if (at := data.find(text)) >= 0:
            data[at] ^= 1
            file.write_bytes(data)
            return file
    raise AssertionError(f"{text!r} is nowhere in {directory}")


def test_a_journal_left_by_kill_9_is_clean_or_torn_and_stat_tells_its_size(copy: Path) -> None:
    verdict = zmqkit("journal", "verify", str(copy))
    assert (verdict.returncode, verdict.stdout.split(":")[0]) in [(0, "clean"), (1, "torn tail")]
    told = json.loads(succeeds("journal", "stat", str(copy), "-o", "json")[0])[0]
    assert told["segments"] >= 1 and told["last"] > 2 and told["locked_by"] is None


def test_dump_shows_every_record_and_the_bodies_if_asked(copy: Path) -> None:
    shown = [json.loads(line) for line in succeeds("journal", "dump", str(copy))]
    assert [line["lsn"] for line in shown] == sorted(line["lsn"] for line in shown)
    puts = [line for line in shown if line["kind"] == "PUT"]
    assert [put["messages"] for put in puts] == [1, 1] and "bodies" not in puts[0]
    puts = [line for line in map(json.loads, succeeds("journal", "dump", "--bodies", str(copy))) if line["kind"] == "PUT"]
    assert [put["bodies"] for put in puts] == [[{"to": "ada"}], [{"to": "bob"}]]


def test_a_flipped_bit_is_corrupt_with_its_place_and_a_node_refuses_it(copy: Path) -> None:
    file = spoil(copy, b"ada")
    verdict = zmqkit("journal", "verify", str(copy))
    assert verdict.returncode == 2 and verdict.stdout.startswith("corrupt:") and f"{file} offset" in verdict.stdout
    assert "salvage" in fails(1, "broker", "--journal", str(copy), "--bind", "tcp://127.0.0.1:0")


def test_salvage_saves_what_is_whole_into_a_new_journal_that_a_node_takes(copy: Path, tmp_path: Path) -> None:
    spoil(copy, b"ada")
    before = {file: file.read_bytes() for file in copy.iterdir()}
    assert str(tmp_path / "journal") in succeeds("journal", "salvage", str(copy), "--to", str(tmp_path / "journal"))[0]
    assert {file: file.read_bytes() for file in copy.iterdir()} == before
    assert zmqkit("journal", "verify", str(tmp_path / "journal")).returncode == 0
    with node(tmp_path) as broker:
        assert succeeds("get", "emails", "--connect", broker.endpoint) == ['{"to": "bob"}']


def test_salvage_writes_into_no_directory_that_holds_something(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert "empty" in fails(1, "journal", "salvage", str(copy), "--to", str(tmp_path / "full"))


def test_what_is_no_journal_is_one_line(tmp_path: Path) -> None:
    for command in ("stat", "verify", "dump"):
        assert "not a journal" in fails(1, "journal", command, str(tmp_path))
    assert "does not exist" in fails(2, "journal", "verify", str(tmp_path / "nowhere"))
