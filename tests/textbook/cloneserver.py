"""A Clone server, with the habits of the examples: it counts what it collects, tells it to all, and answers snapshots at once.

Model 3 and 5 take what is PUSHed, and say no HUGZ; model 6 takes what is PUBlished, and says HUGZ each second. Model 5 and 6 end a value
whose ttl has passed by telling it once more, empty; 5 gives no answer to a request for everything.
"""

from __future__ import annotations

import os
import struct
from time import monotonic, time

import zmq

from textbook.peer import LOOPBACK, Peer

Frames = list[bytes]


def seq(number: int) -> bytes:
    return struct.pack("!q", number)


class CloneServer(Peer):
    collects = zmq.PULL
    hugz_seconds = 0.0  # it says none
    answers_all = True

    def __init__(self, endpoint: str = LOOPBACK) -> None:
        super().__init__()
        self.state: dict[bytes, Frames] = {}
        self.ends: dict[bytes, float] = {}
        self.sequence = 0
        self.deaf = False  # to requests
        self.mute = False
        self._snapshots, self._updates, self._collector, self.endpoint = self._three_ports(endpoint)

    def _three_ports(self, endpoint: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes], zmq.Socket[bytes], str]:
        for _ in range(20):
            snapshots, real = self.bind(endpoint)
            host, _, port = real.rpartition(":")
            updates, collector = self.context.socket(zmq.PUB), self.context.socket(self.collects)
            try:
                for step, socket in enumerate((updates, collector), 1):
                    socket.linger = 0
                    self._sockets.append(socket)
                    socket.bind(f"{host}:{int(port) + step}")
            except zmq.ZMQError:
                for socket in (snapshots, updates, collector):
                    socket.close()
                continue
            if self.collects == zmq.SUB:
                collector.subscribe(b"")
            return snapshots, updates, collector, real
        raise AssertionError("no three ports in a row are free")

    def loop(self) -> None:
        hugz_at = monotonic() + self.hugz_seconds
        while True:
            for socket in self.wait(0.05, self._snapshots, self._collector):
                if socket is self._snapshots:
                    self.answer(*self._snapshots.recv_multipart())
                else:
                    self.collect(self._collector.recv_multipart())
            for key in [key for key, end in self.ends.items() if end <= time()]:
                del self.ends[key]
                self.tell([key, b"", self.state[key][2], self.state[key][3], b""])
            if self.hugz_seconds and monotonic() >= hugz_at and not self.mute:
                hugz_at = monotonic() + self.hugz_seconds
                self._updates.send_multipart([b"HUGZ", seq(self.sequence), os.urandom(16), b"", b""])

    def answer(self, peer: bytes, request: bytes, subtree: bytes = b"") -> None:
        assert request == b"ICANHAZ?", "E: bad request, aborting"
        self.note("asked", subtree)
        if self.deaf or (not subtree and not self.answers_all):
            return
        for frames in self.state.values():
            if frames[0].startswith(subtree):
                self._snapshots.send_multipart([peer, *frames])
        self._snapshots.send_multipart([peer, b"KTHXBAI", seq(self.sequence), os.urandom(16), b"", subtree])

    def collect(self, frames: Frames) -> None:
        key, _, uuid, props, value = frames
        self.note("set", *frames)
        ttl = next((float(line[4:]) for line in props.split(b"\n") if line.startswith(b"ttl=")), 0.0)
        self.tell([key, b"", uuid, props, value])
        if ttl:
            self.ends[key] = time() + ttl
            self.state[key][3] = b"ttl=%f\n" % self.ends[key]

    def tell(self, frames: Frames) -> None:
        self.sequence += 1
        frames[1] = seq(self.sequence)
        self._updates.send_multipart(frames)
        if frames[4]:
            self.state[frames[0]] = frames
        else:
            self.state.pop(frames[0], None)


class CloneServer5(CloneServer):
    answers_all = False


class CloneServer6(CloneServer):
    collects = zmq.SUB
    hugz_seconds = 1.0
