"""Majordomo 0.1 client that does not wait: DEALER, any number of requests; answers are taken to come in their order, for nothing tells."""

from __future__ import annotations

import zmq

from textbook.mdclient import CLIENT


class MajordomoDealerClient:
    def __init__(self, endpoint: str, timeout_seconds: float = 2.5) -> None:
        self.timeout_seconds = timeout_seconds
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, service: bytes, *body: bytes) -> None:
        self.socket.send_multipart([b"", CLIENT, service, *body])  # the empty frame that a REQ would add

    def receive(self) -> list[bytes] | None:
        """The body of the next answer, whosever it is; None: nothing came."""
        if not self.socket.poll(self.timeout_seconds * 1000):
            return None
        frames = self.socket.recv_multipart()
        assert len(frames) >= 4
        assert frames[1] == CLIENT
        return frames[3:]

    def close(self) -> None:
        self.context.destroy(linger=0)

    def __enter__(self) -> MajordomoDealerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
