"""Two machines and a cable: a node in one network namespace, who looks for it in another, and the cable pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import ZMQKIT, environment

from zmqkit.cli.processes import next_line

HERE = Path(__file__).parent
SCRIPT = str(HERE / "namespace_client.py")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and `ip`"),
]


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0 and "Operation not permitted" in done.stderr:
        pytest.skip(f"ip {' '.join(arguments)}: {done.stderr.strip()}")  # root of a container
    assert done.returncode == 0, done.stderr


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """Two namespaces; in each is one end of a cable, and it has the same name."""
    mark = os.urandom(3).hex()
    ends = (f"zk{mark}a", f"zk{mark}b")
    try:
        for end in ends:
            ip("netns", "add", end)
            ip("-n", end, "link", "set", "lo", "up")
        ip("link", "add", ends[0], "netns", ends[0], "type", "veth", "peer", "name", ends[1], "netns", ends[1])
        for number, end in enumerate(ends, 1):
            ip("-n", end, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", end, "link", "set", end, "up")
        yield ends
    finally:
        for end in ends:
            subprocess.run(["ip", "netns", "del", end], capture_output=True)


def within(namespace: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return next_line(process).rstrip("\n")


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_node_is_found_over_a_cable_lost_when_it_is_pulled_and_used_again_when_it_is_back(cable: tuple[str, str]) -> None:
    there, here = cable
    broker = [*ZMQKIT, "broker", "--journal", "none", "--bind", "tcp://0.0.0.0:0", "--insecure", "--log-level", "error"]
    node = within(there, *broker, "--name", there, "--announce", "--mdns-interface", there)
    client = within(here, sys.executable, SCRIPT, here, there)
    try:
        port = line(node).rpartition(":")[2]
        assert line(client) == f"found tcp://10.77.0.1:{port}"
        assert line(client) == "put 1"
        ip("-n", there, "link", "set", there, "down")
        go_on(client)
        assert line(client) == "lost"
        ip("-n", there, "link", "set", there, "up")
        go_on(client)
        assert line(client) == f"recovered tcp://10.77.0.1:{port}"
        assert client.wait(15) == 0
        node.terminate()
        assert node.wait(15) == 0
    finally:
        for process in (client, node):
            process.kill()
            process.communicate()
