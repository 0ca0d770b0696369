"""`zmqkit keys`, and `--keys` on the commands that talk to a node: as a user types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import fails, succeeds
from handle_world import SOON

import zmqkit
from zmqkit.cli.main import main
from zmqkit.cli.processes import Broker
from zmqkit.security import Keys, Pair

KEY = Pair.new().public


class Run:
    """The command line in this process, up to its exit code."""

    def __init__(self, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured, self.said = patch, captured, ""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it says, on stdout if it must end well, else on stderr."""
        self._patch.setattr(sys, "argv", ["zmqkit", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, error = self._captured.readouterr()
        self.said += out + error
        assert ended.value.code == code, out + error
        return error if code else out.rstrip("\n")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("ZMQKIT_KEYS", raising=False)
    return Run(monkeypatch, capsys)


@pytest.fixture
def team(tmp_path: Path) -> Iterator[tuple[Broker, str]]:
    """A broker with keys, and their directory."""
    path = str(tmp_path / "team")
    succeeds("keys", "new", "--keys", path)
    broker = Broker(None, tmp_path / "node.log", keys=Path(path))
    try:
        broker.start()
        yield broker, path
    finally:
        broker.stop()


def test_a_team_is_three_commands(team: tuple[Broker, str]) -> None:
    broker, path = team
    assert succeeds("put", "q", "1", "2", "--connect", broker.endpoint, "--keys", path) == ["confirmed 2"]
    assert succeeds("get", "q", "--connect", broker.endpoint, ZMQKIT_KEYS=path) == ["1", "2"]
    for command in (["queue", "ls"], ["topic", "ls"], ["dead", "ls"], ["pub", "t", "k", "1"]):
        succeeds(*command, "--connect", broker.endpoint, ZMQKIT_KEYS=path)


def test_probe_knows_a_node_with_keys_from_outside_and_from_inside(team: tuple[Broker, str]) -> None:
    broker, path = team
    (outside,) = [json.loads(line) for line in succeeds("probe", broker.endpoint, "-o", "jsonl")]
    assert outside["protocol"].startswith("ZMTP 3") and outside["mechanism"] == "CURVE"
    (inside,) = [json.loads(line) for line in succeeds("probe", broker.endpoint, "-o", "jsonl", "--keys", path)]
    assert (inside["protocol"], inside["mechanism"]) == ("ZMK1", "CURVE")


def test_who_has_another_directory_pins_the_node_and_is_trusted_there(team: tuple[Broker, str], tmp_path: Path, run: Run) -> None:
    broker, path = team
    mine = str(tmp_path / "mine")
    key, server = run("keys", "new", "--keys", mine), run("keys", "show", "--keys", path)
    run("keys", "trust", server, "--node", broker.endpoint, "--keys", mine)
    run("keys", "trust", key, "--role", "publish:q", "--keys", path)
    with zmqkit.connect(broker.endpoint, keys=mine, timeout=SOON) as mq:  # the node sees the new line within a second
        assert mq.queue("q").put(1).seq == 1


def test_what_is_trusted_is_listed_replaced_and_removed(tmp_path: Path, run: Run) -> None:
    path = str(tmp_path / "keys")
    own = run("keys", "new", "--keys", path)
    (tmp_path / "ada.public").write_text(KEY + "\n")
    words = ["--name", "ada", "--role", "publish:orders.*,x", "--role", "consume:*", "--limit", "bytes:10", "--node", "studio"]
    run("keys", "trust", str(tmp_path / "ada.public"), *words, "--keys", path)
    rows = {row["name"]: row for row in json.loads(run("keys", "ls", "-o", "json", "--keys", path))}
    assert (rows["ada"]["may"], rows["ada"]["limits"], rows["ada"]["key"]) == ("publish:orders.*,x consume:*", "bytes:10", KEY)
    assert (rows["own"]["may"], rows["own"]["key"], rows["studio"]["kind"]) == ("all", own, "node")
    assert "nothing else" in run("keys", "trust", KEY, "--name", "ada", "--keys", path)
    assert Keys(path).users[KEY].grants == ()
    assert "would remove user ada" in run("keys", "rm", KEY, "--dry-run", "--keys", path)
    assert KEY in Keys(path).users and len(run("keys", "rm", KEY, "--keys", path).splitlines()) == 2
    assert not Keys(path).users and not Keys(path).nodes
    assert "zmqkit keys ls" in run("keys", "rm", KEY, "--keys", path, code=1)


def test_a_pinned_node_is_not_let_in(tmp_path: Path, run: Run) -> None:
    path = str(tmp_path / "keys")
    run("keys", "new", "--keys", path)
    run("keys", "trust", KEY, "--node", "tcp://127.0.0.1:1", "--keys", path)
    assert not Keys(path).users and Keys(path).nodes == {"tcp://127.0.0.1:1": KEY}


def test_mistakes_are_told_and_change_nothing(tmp_path: Path, run: Run) -> None:
    path = str(tmp_path / "keys")
    assert "zmqkit keys new" in run("keys", "show", "--keys", path, code=1)
    own = run("keys", "new", "--keys", path)
    before = (tmp_path / "keys" / "trusted").read_text()
    assert "already" in run("keys", "new", "--keys", path, code=1)
    assert "single quotes" in run("keys", "trust", KEY[:39], "--keys", path, code=2)
    assert "is a secret key, which is given to nobody" in run("keys", "trust", path + "/key.secret", "--keys", path, code=2)
    assert "own key" in run("keys", "trust", own, "--keys", path, code=2)
    assert "'publish'" in run("keys", "trust", KEY, "--role", "publish", "--keys", path, code=2)
    assert "no limit" in run("keys", "trust", KEY, "--limit", "tea:1", "--keys", path, code=2)
    assert (tmp_path / "keys" / "trusted").read_text() == before
    (tmp_path / "keys").chmod(0o755)
    assert f"chmod 700 {path}" in fails(1, "broker", "--journal", "none", "--bind", "tcp://127.0.0.1:0", "--keys", path)


def test_no_command_prints_the_secret(tmp_path: Path, run: Run) -> None:
    path = str(tmp_path / "keys")
    for command, code in ((["new"], 0), (["new"], 1), (["show"], 0), (["ls"], 0), (["ls", "-o", "json"], 0), (["rm", "x"], 1)):
        run("keys", *command, "--keys", path, code=code)
    assert run.said.count(Keys(path).pair.public) == 4 and Keys(path).pair.secret not in run.said


def test_the_environment_says_which_directory(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQKIT_KEYS", str(tmp_path / "keys"))
    assert run("keys", "new") == Keys(tmp_path / "keys").pair.public == run("keys", "show")
