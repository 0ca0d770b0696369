"""Where a node may listen: beyond this machine with keys, or when it is said, and nowhere by accident; and as many doors as it may have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from keys_world import made

import zmqkit

BEYOND = ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://192.0.2.1:0", "tcp://lo:0", "tcp://127.1:0", "tcp://example.org:0", "udp://127.0.0.1:0"]


@pytest.mark.parametrize("endpoint", BEYOND)
def test_a_node_listens_beyond_this_machine_neither_without_keys_nor_by_accident(endpoint: str) -> None:
    for endpoints in ([endpoint], ["tcp://127.0.0.1:0", endpoint]):
        with pytest.raises(zmqkit.Insecure, match=r"--keys.*--insecure"):
            zmqkit.Node(*endpoints)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1", "tcp://127.0.0.1:5,tcp://127.0.0.1:6", "tcp://127.0.0.1:5, tcp://127.0.0.1:6", "tcp://:x"])
def test_what_is_no_address_is_named_so_and_not_as_a_danger(endpoint: str) -> None:
    with pytest.raises(zmqkit.Error, match="is no address to listen at") as refused:
        zmqkit.Node(endpoint)
    assert not isinstance(refused.value, zmqkit.Insecure)


@pytest.mark.parametrize("doors", [{"mdp": "tcp://*:0"}, {"ppp": ("tcp://127.0.0.1:0", "tcp://*:0")}, {"clone": "tcp://*:5570"}])
def test_foreign_doors_stay_on_this_machine_even_with_keys(tmp_path: Path, doors: dict[str, str]) -> None:
    with pytest.raises(zmqkit.Insecure, match=r"show no keys.*--insecure"):
        zmqkit.Node("tcp://127.0.0.1:0", keys=made(tmp_path, "keys").path, **doors)  # type: ignore[arg-type]


def test_it_may_with_keys_or_when_it_is_meant(tmp_path: Path) -> None:
    """`lo` is an interface: for all we know reachable from elsewhere, and in truth not."""
    path = made(tmp_path, "keys").path
    with zmqkit.Node("tcp://lo:0", keys=path) as node, zmqkit.connect(node.endpoint, keys=path) as mq:
        mq.queue("q").put(1)
    with zmqkit.Node("tcp://lo:0", mdp="tcp://lo:0", insecure=True) as node, zmqkit.connect(node.endpoint) as mq:
        mq.queue("q").put(1)


def test_a_node_raises_a_low_limit_of_descriptors_as_far_as_it_may(tmp_path: Path) -> None:
    code = (
        "import resource, zmqkit; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 3000));"
        "zmqkit.Node('tcp://127.0.0.1:0').close(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout == "3000\n", done.stderr
