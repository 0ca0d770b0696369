"""Majordomo 0.2 worker: DEALER, no empty frame, an answer in parts. There is no Python example of 0.2: this one follows the RFC.

So, unlike the 0.1 example, it says DISCONNECT when it is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import zmq

from textbook.peer import Peer, Socket, Stopped

WORKER2 = b"MDPW02"
READY2, REQUEST2, PARTIAL2, FINAL2, HEARTBEAT2, DISCONNECT2 = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05", b"\x06"


class Majordomo2Worker(Peer):
    """The handler gives the bodies of the answer, one or more: all but the last leave as PARTIAL."""

    def __init__(
        self,
        endpoint: str,
        service: bytes,
        handler: Callable[[list[bytes]], Sequence[list[bytes]]] = lambda body: [body],
        *,
        beat_seconds: float = 2.5,
        liveness: int = 3,
        reconnect_seconds: float = 2.5,
    ) -> None:
        super().__init__()
        self.endpoint, self.service, self.handler = endpoint, service, handler
        self.beat_seconds, self.liveness, self.reconnect_seconds = beat_seconds, liveness, reconnect_seconds

    def loop(self) -> None:
        while True:
            socket = self.open(zmq.DEALER, self.endpoint)
            socket.send_multipart([WORKER2, READY2, self.service])
            self.note("connected")
            try:
                self._work(socket)
            except Stopped:
                socket.send_multipart([WORKER2, DISCONNECT2])
                socket.close(linger=1000)
                raise
            socket.close(linger=0)

    def _work(self, socket: Socket) -> None:
        """Until the broker is silent for too long, or sends us away."""
        live, beat_at = self.liveness, monotonic() + self.beat_seconds
        while True:
            if self.wait(beat_at - monotonic(), socket):
                header, command, *frames = socket.recv_multipart()
                assert header == WORKER2
                live = self.liveness
                if command == DISCONNECT2:
                    return
                if command == REQUEST2:
                    self._serve(socket, *frames)
            if monotonic() >= beat_at:
                live -= 1
                if live < 0:
                    self.note("silence")
                    self.wait(self.reconnect_seconds)
                    return
                socket.send_multipart([WORKER2, HEARTBEAT2])
                beat_at = monotonic() + self.beat_seconds

    def _serve(self, socket: Socket, client: bytes, empty: bytes, *body: bytes) -> None:
        assert empty == b""
        self.note("request", list(body))
        *parts, last = self.handler(list(body))
        for part in parts:
            socket.send_multipart([WORKER2, PARTIAL2, client, b"", *part])
        socket.send_multipart([WORKER2, FINAL2, client, b"", *last])
