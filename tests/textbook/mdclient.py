"""Majordomo 0.1 client: REQ, one request at a time, a new socket for each try. `mdclient_dealer` sends many."""

from __future__ import annotations

import zmq

CLIENT = b"MDPC01"


class MajordomoClient:
    def __init__(self, endpoint: str, timeout_seconds: float = 2.5, tries: int = 3) -> None:
        self.endpoint, self.timeout_seconds, self.tries = endpoint, timeout_seconds, tries
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.tried = 0
        self._connect()

    def _connect(self) -> None:
        self.socket = self.context.socket(zmq.REQ)
        self.socket.linger = 0
        self.socket.connect(self.endpoint)

    def send(self, service: bytes, *body: bytes) -> list[bytes] | None:
        """The answer's body, or None when the last try failed. AssertionError: it is none."""
        for _ in range(self.tries):
            self.tried += 1
            self.socket.send_multipart([CLIENT, service, *body])
            if self.socket.poll(self.timeout_seconds * 1000):
                frames = self.socket.recv_multipart()
                assert len(frames) >= 3
                assert frames[0] == CLIENT
                assert frames[1] == service
                return frames[2:]
            self.socket.close(linger=0)
            self._connect()
        return None

    def close(self) -> None:
        self.context.destroy(linger=0)

    def __enter__(self) -> MajordomoClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
