"""A TCP proxy that can cut its connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Proxy:
    def __init__(self, endpoint: str) -> None:
        url = urlsplit(endpoint)
        assert url.hostname and url.port
        self._target = url.hostname, url.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                threading.Thread(target=_connect, args=(near, far), daemon=True).start()

    def cut(self) -> None:
        """Both ends learn at once that the connection is gone; new ones may be made."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _cut(*pair)

    def close(self) -> None:
        self._listener.close()
        self.cut()


def _connect(near: socket.socket, far: socket.socket) -> None:
    """Closed only when nobody reads or writes any more: else a system call under way might meet a new connection with the old number."""
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


@contextmanager
def proxy_to(endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()
