"""A node whose clients are users: each of them has what the test grants it. Whose link it is, is told to the node's machine by the
client id in its HELLO, where otherwise a key would prove it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmqkit
from zmqkit import framing, wire
from zmqkit.rights import ANYBODY, EVERYTHING, Grant, Limits, Rights, Role


def rights(name: str, *grants: str, **limits: float) -> Rights:
    """Each grant like "publish orders.*"."""
    return Rights(name, tuple(Grant(Role(role), names) for role, names in map(str.split, grants)), Limits(**limits))


class UserNode:
    def __init__(self, node: zmqkit.Node) -> None:
        self.node, self.core = node, node._core
        self._users: dict[bytes, str] = {}  # by client id
        self._peers: dict[bytes, str] = {}
        self._lock = threading.Lock()
        self.core.access.users = {ANYBODY: EVERYTHING}
        host = node._reactor._host
        assert host is not None
        machine = host.machine
        receive = machine.receive

        def received(peer: bytes, frames: Any, now: float, user: str = ANYBODY) -> None:
            try:
                command = framing.decode(frames)
            except framing.Malformed:
                command = wire.NoSession()
            if isinstance(command, wire.Hello):
                self._peers[peer] = self._users.get(command.client, ANYBODY)
            receive(peer, frames, now, self._peers.get(peer, ANYBODY))

        machine.receive = received  # type: ignore[method-assign]

    def allow(self, name: str, *grants: str, **limits: float) -> None:
        """From now on; none: it may nothing."""
        with self._lock:
            self.core.access.users = {**self.core.access.users, name: rights(name, *grants, **limits)}
        self.node._reactor.wake()

    def dismiss(self, name: str) -> None:
        with self._lock:
            self.core.access.users = {user: held for user, held in self.core.access.users.items() if user != name}
        self.node._reactor.wake()

    def knows(self, client: bytes, name: str) -> None:
        """That client is this user's."""
        self._users[client] = name

    def connect(self, name: str, **options: Any) -> zmqkit.Client:
        """A lazy client of this user's; `.aio` is its twin."""
        mq = zmqkit.connect(self.node.endpoint, lazy=True, **options)
        self._users[mq._session.machine.client] = name
        return mq


@contextmanager
def user_node(**options: Any) -> Iterator[UserNode]:
    with zmqkit.Node("tcp://127.0.0.1:0", **options) as node:
        yield UserNode(node)
