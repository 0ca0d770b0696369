"""A TCP proxy that can cut its connections, for as long as a test has it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from zmqkit.cli.demo_proxy import Proxy as Proxy


@contextmanager
def proxy_to(endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


class MutableProxy(Proxy):
    """One that can also swallow what the node says, while what is said to it goes on."""

    muted = False

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._ends += (near, far)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink, source is far), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, backwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not (backwards and self.muted):
                    sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
