"""Between a subscriber of `zmqkit demo topic` and its node: a TCP proxy whose connections can be cut, for a moment or longer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit


class Proxy:
    def __init__(self, endpoint: str) -> None:
        url = urlsplit(endpoint)
        assert url.hostname and url.port
        self._target = url.hostname, url.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
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
                self._ends += (near, far)
                threading.Thread(target=_join, args=(near, far), daemon=True).start()

    def cut(self, away_seconds: float = 0.0) -> None:
        """Both ends learn at once that the connection is gone. There is no new one for so many seconds."""
        self._away_until = time.monotonic() + away_seconds
        ends, self._ends = self._ends, []
        _cut(*ends)

    def close(self) -> None:
        _cut(self._listener)  # wakes `accept`, which `close` alone does not
        self._listener.close()
        self.cut()


def _join(near: socket.socket, far: socket.socket) -> None:
    """Closed only when nobody reads or writes any more: else a call under way might meet a new connection with the old number."""
    back = threading.Thread(target=_forward, args=(far, near), daemon=True)
    back.start()
    _forward(near, far)
    back.join()
    near.close()
    far.close()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _cut(source, sink)


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
