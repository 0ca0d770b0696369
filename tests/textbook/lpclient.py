"""Lazy Pirate client: a REQ socket that is thrown away when no answer comes, and the same request again on a new one."""

from __future__ import annotations

from types import TracebackType

import zmq


class ServerOffline(Exception):
    """The last try failed: here the example ends its process."""


class LazyPirateClient:
    """The body is a sequence number in decimal; an answer counts only if it is the same number."""

    def __init__(self, endpoint: str, timeout_seconds: float = 2.5, tries: int = 3) -> None:
        self.endpoint, self.timeout_seconds, self.tries = endpoint, timeout_seconds, tries
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sequence, self.tried, self.malformed = -1, 0, list[bytes]()
        self._connect()

    def _connect(self) -> None:
        self.socket = self.context.socket(zmq.REQ)
        self.socket.connect(self.endpoint)

    def ask(self) -> int:
        """The next number, there and back. Raises ServerOffline."""
        self.sequence += 1
        request = str(self.sequence).encode()
        self.socket.send(request)
        left = self.tries
        while True:
            self.tried += 1
            while self.socket.poll(self.timeout_seconds * 1000):
                reply = self.socket.recv()
                if reply.isdigit() and int(reply) == self.sequence:
                    return self.sequence
                self.malformed.append(reply)  # complained about, and waited on
            self.socket.close(linger=0)
            left -= 1
            if left == 0:
                raise ServerOffline(request)
            self._connect()
            self.socket.send(request)

    def close(self) -> None:
        self.context.destroy(linger=0)

    def __enter__(self) -> LazyPirateClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
