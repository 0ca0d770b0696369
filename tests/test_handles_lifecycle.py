"""How peers come and go, as users see it: connecting, closing, forks, restarts, failures; and what becomes of work in hand."""

from __future__ import annotations

import time
from typing import Any

import pytest
import zmq

import zmqkit
from zmqkit import sockets

# -- addresses ------------------------------------------------------------------------------------------------------------

LONG = "ipc:///" + "x" * 200
NO_ADDRESSES = [
    "nonsense", "ipx://x", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:x", "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:70000", "tcp://*:5555", "tcp://127.0.0.1:*", "tcp://:5555", "TCP://127.0.0.1:5", "tcp:/127.0.0.1:5",
    " tcp://127.0.0.1:5", "tcp://127.0.0.1:5\n", "tcp://127.0.0.1:5/", "ipc://", LONG, "inproc://x", "udp://127.0.0.1:5", 5555,
]  # fmt: skip
ADDRESSES = [
    "tcp://127.0.0.1:5555", "tcp://localhost:1", "tcp://a-host.example_1.org:65535", "tcp://[::1]:5555", "tcp://[fe80::1%eth0]:5",
    "ipc:///run/zmqkit", "ipc://relative path", "ipc://@abstract",
]  # fmt: skip


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_refused_at_once_in_one_line(address: Any, lazy: bool) -> None:
    begin = time.monotonic()
    with pytest.raises(zmqkit.Unreachable, match="no address; give one like") as caught:
        zmqkit.connect(address, timeout=30.0, lazy=lazy)
    assert time.monotonic() - begin < 1.0
    assert "\n" not in str(caught.value) and "--bind" not in str(caught.value) and caught.value.endpoint == str(address)


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_could_be_an_address_is_left_to_the_network(address: str) -> None:
    sockets.check_address(address)
    context = zmq.Context[zmq.Socket[bytes]]()
    sockets.close_dealer(*sockets.open_dealer(context, address))
    context.term()
