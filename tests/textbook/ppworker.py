"""Paranoid Pirate worker: a DEALER that says READY, beats, and takes a new socket under a new name when the queue is silent.

A request is `[client · '' · body]`, exactly three frames, and goes back as it came, the body through the handler. Anything else but
a heartbeat is complained about and gets no answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic

import zmq

from textbook.peer import Peer, Socket

READY, HEARTBEAT = b"\x01", b"\x02"


class Crashed(Exception):
    """The example ends its process at random, to show what then happens."""


class PirateWorker(Peer):
    """`chaos`: after the third request crash (1 in 6) or stall (1 in 6), as the example does."""

    def __init__(
        self,
        endpoint: str,
        handler: Callable[[bytes], bytes] = lambda body: body,
        *,
        beat_seconds: float = 1.0,
        liveness: int = 3,
        backoff_seconds: float = 1.0,
        backoff_seconds_max: float = 32.0,
        stall_seconds: float = 3.0,
        chaos: random.Random | None = None,
    ) -> None:
        super().__init__()
        self.endpoint, self.handler, self.chaos = endpoint, handler, chaos
        self.beat_seconds, self.liveness, self.stall_seconds = beat_seconds, liveness, stall_seconds
        self.backoff_seconds, self.backoff_seconds_max = backoff_seconds, backoff_seconds_max
        self.identities: list[bytes] = []
        self._requests = 0

    def loop(self) -> None:
        socket, live, backoff = self._connect(), self.liveness, self.backoff_seconds
        beat_at = monotonic() + self.beat_seconds
        while True:
            if self.wait(self.beat_seconds, socket):
                frames = socket.recv_multipart()
                if len(frames) == 3:
                    self._serve(socket, frames)
                    live = self.liveness
                elif frames == [HEARTBEAT]:
                    self.note("heartbeat")
                    live = self.liveness
                else:
                    self.note("invalid", frames)
                backoff = self.backoff_seconds
            else:
                live -= 1
                if live == 0:
                    self.note("silence", backoff)
                    self.wait(backoff)
                    backoff = min(backoff * 2, self.backoff_seconds_max)
                    socket.close(linger=0)
                    socket, live = self._connect(), self.liveness
            if monotonic() > beat_at:
                beat_at = monotonic() + self.beat_seconds
                socket.send(HEARTBEAT)

    def _connect(self) -> Socket:
        identity = b"%04X-%04X" % (random.randint(0, 0x10000), random.randint(0, 0x10000))
        self.identities.append(identity)
        socket = self.open(zmq.DEALER, self.endpoint, identity)
        socket.send(READY)
        return socket

    def _serve(self, socket: Socket, frames: list[bytes]) -> None:
        self._requests += 1
        if self.chaos is not None and self._requests > 3:
            fate = self.chaos.randint(0, 5)
            if fate == 0:
                raise Crashed
            if fate == 1:
                self.note("stalls")
                self.wait(self.stall_seconds)
        self.note("request", frames[2])
        socket.send_multipart([*frames[:2], self.handler(frames[2])])
