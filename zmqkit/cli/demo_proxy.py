"""A link that can be hurt: a TCP proxy whose connections are cut, for a moment or longer, or go on without passing anything.

For `zmqkit demo topic` and `zmqkit chaos`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit


class Proxy:
    def __init__(self, endpoint: str) -> None:
        url = urlsplit(endpoint)
        assert url.hostname and url.port
        self._target = url.hostname, url.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[_Connection] = []
        self._held: list[_Connection] = []
        self._away_until = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                try:
                    if time.monotonic() < self._away_until:
                        raise OSError("away")
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                connection = _Connection(near, far, self._loses)
                self._open.append(connection)
                threading.Thread(target=connection.run, daemon=True).start()

    def _loses(self, from_far: bool) -> bool:
        """Is what an end says now to be lost?"""
        return False

    def cut(self, away_seconds: float = 0.0) -> None:
        """Both ends learn at once that the connection is gone. There is no new one for so many seconds."""
        self._away_until = time.monotonic() + away_seconds
        connections, self._open = self._open, []
        for connection in connections:
            connection.cut()
        self.cut_held()

    def hold(self) -> None:
        """Half-open: neither end learns anything, and what it says from now on is lost. A new connection works."""
        connections, self._open = self._open, []
        for connection in connections:
            connection.held = True
        self._held += connections

    def cut_held(self) -> None:
        connections, self._held = self._held, []
        for connection in connections:
            connection.cut()

    @property
    def lost_bytes(self) -> int:
        """That were said on connections that are held now."""
        return sum(connection.lost_bytes for connection in self._held)

    @property
    def passed_bytes(self) -> int:
        """That went to the other end, of connections that are open now."""
        return sum(connection.passed_bytes for connection in self._open)

    def close(self) -> None:
        _cut(self._listener)  # wakes `accept`, which `close` alone does not
        self._listener.close()
        self.cut()


class _Connection:
    def __init__(self, near: socket.socket, far: socket.socket, loses: Callable[[bool], bool]) -> None:
        self._near, self._far, self._loses = near, far, loses
        self.held = False
        self.lost_bytes = self.passed_bytes = 0

    def cut(self) -> None:
        _cut(self._near, self._far)

    def run(self) -> None:
        """Closed only when nobody reads or writes any more: else a call under way might meet a new connection with the old number."""
        back = threading.Thread(target=self._forward, args=(self._far, self._near), daemon=True)
        back.start()
        self._forward(self._near, self._far)
        back.join()
        self._near.close()
        self._far.close()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.held or self._loses(source is self._far):
                    self.lost_bytes += len(data)
                else:
                    sink.sendall(data)
                    self.passed_bytes += len(data)
        if not self.held:  # else the other end is not to learn of it
            self.cut()


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
