"""Majordomo 0.2 client: DEALER, no empty frame, and answers in parts. There is no Python example of 0.2: this one follows the RFC."""

from __future__ import annotations

from collections.abc import Iterator

import zmq

CLIENT2 = b"MDPC02"
REQUEST2, PARTIAL2, FINAL2 = b"\x01", b"\x02", b"\x03"


class Majordomo2Client:
    def __init__(self, endpoint: str, timeout_seconds: float = 2.5) -> None:
        self.timeout_seconds = timeout_seconds
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, service: bytes, *body: bytes) -> None:
        self.socket.send_multipart([CLIENT2, REQUEST2, service, *body])

    def parts(self, service: bytes) -> Iterator[list[bytes]]:
        """The bodies of one answer: any number of PARTIAL, and FINAL. Raises TimeoutError."""
        while True:
            if not self.socket.poll(self.timeout_seconds * 1000):
                raise TimeoutError(f"no answer from {service!r}")
            header, command, name, *body = self.socket.recv_multipart()
            assert (header, name) == (CLIENT2, service)
            assert command in (PARTIAL2, FINAL2)
            yield body
            if command == FINAL2:
                return

    def close(self) -> None:
        self.context.destroy(linger=0)

    def __enter__(self) -> Majordomo2Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
