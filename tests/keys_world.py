"""Key directories, and peers who come with any key or none, for the tests of keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq
from handle_world import SOON
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from zmqkit.rights import Rights
from zmqkit.security import Keys, Pair
from zmqkit.security.trusted import rights_of

Prepare = Callable[["zmq.Socket[bytes]"], None]
OUTCOMES = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "let in",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "mismatch",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "hung up",
    zmq.EVENT_DISCONNECTED: "hung up",
}


KEY = Pair.new().public
RAW = z85.decode(KEY.encode())
QUESTION = [b"1.0", b"7", b"zmqkit", b"127.0.0.1", b"", b"CURVE", RAW]


def changed(position: int, *frames: bytes) -> list[bytes]:
    return [*QUESTION[:position], *frames, *QUESTION[position + 1 :]]


ODD: dict[str, list[bytes]] = {
    "another version": changed(0, b"2.0"),
    "no version": changed(0, b""),
    "another domain": changed(2, b"global"),
    "no domain": changed(2, b""),
    "NULL": [*changed(5, b"NULL")[:-1]],
    "NULL with a key": changed(5, b"NULL"),
    "PLAIN": [*QUESTION[:5], b"PLAIN", b"ada", b"secret"],
    "PLAIN with a key": changed(5, b"PLAIN"),
    "GSSAPI": changed(5, b"GSSAPI"),
    "small letters": changed(5, b"curve"),
    "no key": QUESTION[:-1],
    "an empty key": changed(6, b""),
    "a short key": changed(6, RAW[:-1]),
    "a long key": changed(6, RAW + b"\0"),
    "a key as text": changed(6, KEY.encode()),
    "two keys": [*QUESTION, RAW],
    "a thousand frames": [*QUESTION[:2], *[b"x"] * 1000],
    "hardly anything": QUESTION[:2],
}


def made(place: Path, name: str) -> Keys:
    return Keys.make(place / name)


def rights(name: str, *words: str) -> Rights:
    return rights_of(name, words)


def shows(pair: Pair, server: str) -> Prepare:
    """Come with this key, and expect that one."""

    def prepare(socket: zmq.Socket[bytes]) -> None:
        socket.curve_publickey, socket.curve_secretkey = pair.public.encode(), pair.secret.encode()
        socket.curve_serverkey = server.encode()

    return prepare


class Knocking:
    """A DEALER on its way to a node."""

    def __init__(self, endpoint: str, prepare: Prepare) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger, self.socket.reconnect_ivl = 0, -1
        prepare(self.socket)
        self.monitor = self.socket.get_monitor_socket(sum(OUTCOMES))
        self.socket.connect(endpoint)

    def outcome(self) -> str:
        """Of the handshake, or what ended the connection after it."""
        assert self.monitor.poll(1000 * SOON), "the handshake never ended"
        return OUTCOMES[recv_monitor_message(self.monitor)["event"]]

    def __enter__(self) -> Knocking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.disable_monitor()
        self.context.destroy(linger=0)
