"""`zmqkit broker`: ready, SIGTERM, restart, and what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from cli_world import ZMQKIT, environment, fails, node, succeeds

from zmqkit.cli.processes import Broker


def test_sigterm_ends_it_with_zero_and_what_was_confirmed_is_there_again(tmp_path: Path) -> None:
    with node(tmp_path) as broker:
        assert succeeds("put", "q", "1", "2", "--connect", broker.endpoint) == ["confirmed 2"]
        assert broker.process
        broker.process.send_signal(signal.SIGTERM)
        assert broker.process.wait(15) == 0
        broker.start()
        assert succeeds("get", "q", "--connect", broker.endpoint) == ["1", "2"]


def test_after_kill_9_what_was_confirmed_is_there_again(tmp_path: Path) -> None:
    with node(tmp_path) as broker:
        for number in range(3):
            succeeds("put", "q", str(number), "--connect", broker.endpoint)
            broker.kill()
            broker.start()
        assert succeeds("get", "q", "--connect", broker.endpoint) == ["0", "1", "2"]


def test_ready_is_told_to_systemd_and_names_every_endpoint(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(15)
        command = [*ZMQKIT, "broker", "--journal", "none", "--bind", "tcp://127.0.0.1:0", "--bind", f"ipc://{tmp_path}/ipc"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(NOTIFY_SOCKET=str(tmp_path / "notify")))
        try:
            assert systemd.recv(100) == b"READY=1"
            assert process.stdout
            word, *endpoints = process.stdout.readline().split()
            assert word == "ready" and endpoints[0].startswith("tcp://127.0.0.1:") and endpoints[1] == f"ipc://{tmp_path}/ipc"
            assert [succeeds("put", "q", "1", "--connect", endpoint) for endpoint in endpoints] == [["confirmed 1"]] * 2
            process.terminate()
            assert systemd.recv(100) == b"STOPPING=1"
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "[::]", "192.0.2.1", "eth0"])
def test_it_does_not_listen_beyond_this_machine_unless_told_so(tmp_path: Path, host: str) -> None:
    assert "--insecure" in fails(1, "broker", "--journal", "none", "--bind", f"tcp://{host}:0")


def test_a_port_in_use_and_a_held_journal_are_one_line_each(tmp_path: Path) -> None:
    with node(tmp_path) as broker:
        assert "in use" in fails(1, "broker", "--journal", "none", "--bind", broker.endpoint)
        held = fails(1, "broker", "--journal", str(tmp_path / "journal"), "--bind", "tcp://127.0.0.1:0")
        assert f"process {broker.pid}" in held
        assert succeeds("put", "q", "1", "--connect", broker.endpoint) == ["confirmed 1"]  # nobody was disturbed


def test_a_journal_that_is_no_directory_or_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fails(1, "broker", "--journal", str(tmp_path / "file"), "--bind", "tcp://127.0.0.1:0")
    assert "usage" in fails(2, "broker", "--durability", "paper").lower()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_journal_without_permission_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert str(tmp_path) in fails(1, "broker", "--journal", str(tmp_path / "new"), "--bind", "tcp://127.0.0.1:0")


def test_without_a_journal_nothing_is_kept(tmp_path: Path) -> None:
    broker = Broker(None, tmp_path / "node.log")
    try:
        broker.start()
        assert succeeds("put", "q", "1", "--connect", broker.endpoint) == ["confirmed 1"]
        broker.kill()
        broker.start()
        assert succeeds("get", "q", "--connect", broker.endpoint) == []
    finally:
        broker.stop()
