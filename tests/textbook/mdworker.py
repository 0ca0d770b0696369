"""Majordomo 0.1 worker: one service, one request at a time. It is deaf and mute while its handler runs, and never says goodbye."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import zmq

from textbook.peer import Peer, Socket

WORKER = b"MDPW01"
READY, REQUEST, REPLY, HEARTBEAT, DISCONNECT = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"


class MajordomoWorker(Peer):
    def __init__(
        self,
        endpoint: str,
        service: bytes,
        handler: Callable[[list[bytes]], list[bytes]] = lambda body: body,
        *,
        beat_seconds: float = 2.5,
        liveness: int = 3,
        reconnect_seconds: float = 2.5,
    ) -> None:
        super().__init__()
        self.endpoint, self.service, self.handler = endpoint, service, handler
        self.beat_seconds, self.liveness, self.reconnect_seconds = beat_seconds, liveness, reconnect_seconds
        self._socket: Socket | None = None
        self._live, self._beat_at = 0, 0.0

    def loop(self) -> None:
        self._connect()
        while True:
            client, body = self._next()
            self.note("request", body)
            self._say(REPLY, client, b"", *self.handler(body))

    def _connect(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket = self.open(zmq.DEALER, self.endpoint)
        self._say(READY, self.service)
        self._live, self._beat_at = self.liveness, monotonic() + self.beat_seconds
        self.note("connected")

    def _say(self, command: bytes, *frames: bytes) -> None:
        assert self._socket is not None
        self._socket.send_multipart([b"", WORKER, command, *frames])

    def _next(self) -> tuple[bytes, list[bytes]]:
        """The next request: who asked, and what."""
        while True:
            assert self._socket is not None
            if self.wait(self.beat_seconds, self._socket):
                frames = self._socket.recv_multipart()
                self._live = self.liveness
                assert len(frames) >= 3
                assert frames[0] == b""
                assert frames[1] == WORKER
                if frames[2] == REQUEST:
                    client, empty, *body = frames[3:]
                    assert empty == b""
                    return client, body  # the heartbeat waits until the handler is through
                if frames[2] == DISCONNECT:
                    self._connect()
                else:
                    self.note("heartbeat" if frames[2] == HEARTBEAT else "invalid", frames)
            else:
                self._live -= 1
                if self._live == 0:
                    self.note("silence")
                    self.wait(self.reconnect_seconds)
                    self._connect()
            if monotonic() > self._beat_at:
                self._say(HEARTBEAT)
                self._beat_at = monotonic() + self.beat_seconds
