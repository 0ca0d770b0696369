"""Paranoid Pirate queue, with the habits of the Python example.

Whatever a worker sends makes it ready: READY, a heartbeat, an answer, rubbish; so a busy worker that beats gets a second request.
Heartbeats leave only right after something came from a worker, and only to those that wait for work. Clients are listened to only while a
worker is ready. A request that was handed on is forgotten: if its worker dies, it is lost.
"""

from __future__ import annotations

from time import monotonic

from textbook.peer import LOOPBACK, Peer
from textbook.ppworker import HEARTBEAT, READY


class PirateQueue(Peer):
    def __init__(self, frontend: str = LOOPBACK, backend: str = LOOPBACK, *, beat_seconds: float = 1.0, liveness: int = 3) -> None:
        super().__init__()
        self.beat_seconds, self.expiry_seconds = beat_seconds, beat_seconds * liveness
        self._frontend, self.frontend = self.bind(frontend)
        self._backend, self.backend = self.bind(backend)
        self._ready: dict[bytes, float] = {}  # worker -> when it expires; the one that waits longest first

    def loop(self) -> None:
        beat_at = monotonic() + self.beat_seconds
        while True:
            doors = (self._backend, self._frontend) if self._ready else (self._backend,)
            readable = self.wait(self.beat_seconds, *doors)
            if self._backend in readable:
                self._from_worker(*self._backend.recv_multipart())
                if monotonic() >= beat_at:
                    for worker in self._ready:
                        self._backend.send_multipart([worker, HEARTBEAT])
                    beat_at = monotonic() + self.beat_seconds
            if self._frontend in readable:
                worker = next(iter(self._ready))
                del self._ready[worker]
                request = self._frontend.recv_multipart()
                self._backend.send_multipart([worker, *request])
                self.note("request", worker, request)
            now = monotonic()
            self._ready = {worker: expires for worker, expires in self._ready.items() if expires > now}

    def _from_worker(self, worker: bytes, *frames: bytes) -> None:
        self._ready.pop(worker, None)
        self._ready[worker] = monotonic() + self.expiry_seconds
        if len(frames) != 1:
            self._frontend.send_multipart(frames)
        elif frames[0] not in (READY, HEARTBEAT):
            self.note("invalid", worker, frames[0])
        self.note("ready", worker)
