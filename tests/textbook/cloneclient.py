"""Clone clients, with the habits of the examples: one connection for snapshots, one for updates, one to set keys.

Model 3 asks for everything and PUSHes what it sets. Model 5 does the same for a subtree, with a ttl among the properties. Model 6 PUBlishes
what it sets, takes HUGZ for a sign of life, asks again after five seconds, and gives up a server after two requests in vain.
None of them knows whether its subscription stands when it asks for the snapshot.
"""

from __future__ import annotations

import struct
from time import monotonic
from uuid import uuid4

import zmq

from textbook.peer import Peer, Socket

Frames = list[bytes]


def sequence(frame: bytes) -> int:
    number: int = struct.unpack("!q", frame)[0]
    return number


class CloneClient(Peer):
    """`state` is what the example calls its map: key to the frames that set it. `commands` is for the test, to have it set keys."""

    setter = zmq.PUSH
    subtree: bytes | None = None
    request_seconds = 5.0

    def __init__(self, endpoint: str, subtree: bytes | None = None) -> None:
        super().__init__()
        if subtree is not None:
            self.subtree = subtree
        host, _, port = endpoint.rpartition(":")
        self._places = [f"{host}:{int(port) + step}" for step in range(3)]
        self.state: dict[bytes, Frames] = {}
        self.sequence = 0
        self.loaded = False
        self.heard_at = monotonic()
        self.told: list[Frames] = []  # every live update that counted
        self.hugs: list[int] = []
        self._commands = self.context.socket(zmq.PULL)
        self._commands.bind("inproc://commands")
        self._sockets.append(self._commands)
        self._tell = self.context.socket(zmq.PUSH)
        self._tell.connect("inproc://commands")

    # -- for the test -------------------------------------------------------------------------------------------------

    def set(self, key: bytes, value: bytes, ttl: str = "", **more: str) -> bytes:
        """Returns the uuid."""
        uuid = uuid4().bytes
        properties = {**more, **({"ttl": ttl} if ttl else {})}
        props = "".join(f"{name}={text}\n" for name, text in properties.items()).encode()
        self._tell.send_multipart([key, struct.pack("!q", 0), uuid, props, value])
        return uuid

    def send(self, *frames: bytes) -> None:
        self._tell.send_multipart(frames)

    @property
    def values(self) -> dict[bytes, bytes]:
        return {key: frames[4] for key, frames in list(self.state.items())}

    # -- the example --------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        snapshots, updates, collector = self.connect()
        snapshots.send_multipart([b"ICANHAZ?"] if self.subtree is None else [b"ICANHAZ?", self.subtree])
        self.snapshot(snapshots)
        while True:
            for socket in self.wait(1.0, updates, self._commands):
                if socket is updates:
                    self.update(updates.recv_multipart())
                else:
                    collector.send_multipart(self._commands.recv_multipart())

    def connect(self) -> tuple[Socket, Socket, Socket]:
        snapshots = self.open(zmq.DEALER, self._places[0])
        updates = self.context.socket(zmq.SUB)
        updates.linger = 0
        updates.subscribe(self.subtree or b"")
        updates.subscribe(b"HUGZ")
        updates.connect(self._places[1])
        self._sockets.append(updates)
        return snapshots, updates, self.open(self.setter, self._places[2])

    def snapshot(self, snapshots: Socket) -> None:
        while not self.wait(self.request_seconds, snapshots):
            pass
        while True:
            key, seq, _, _, value = frames = snapshots.recv_multipart()
            if key == b"KTHXBAI":
                self.sequence, self.loaded = sequence(seq), True
                self.note("loaded", self.sequence, value)
                return
            self.store(frames)
            self.wait(self.request_seconds, snapshots)

    def update(self, frames: Frames) -> None:
        key, seq, _, _, _ = frames
        self.heard_at = monotonic()
        if key == b"HUGZ":
            self.hugs.append(sequence(seq))
            self.note("hugz")
        if sequence(seq) > self.sequence:
            self.sequence = sequence(seq)
            self.store(frames)
            self.told.append(frames)
            self.note("update", *frames)

    def store(self, frames: Frames) -> None:
        if frames[4]:
            self.state[frames[0]] = frames
        else:
            self.state.pop(frames[0], None)


class CloneClient5(CloneClient):
    subtree = b"/client/"


class CloneClient6(CloneClient5):
    setter = zmq.PUB
    server_seconds = 5.0

    def loop(self) -> None:
        snapshots, updates, collector = self.connect()
        assert self.subtree is not None
        while True:
            snapshots.send_multipart([b"ICANHAZ?", self.subtree])
            if self.wait(self.server_seconds, snapshots):
                self.snapshot(snapshots)
                self.serve(updates, collector)
                snapshots, updates, collector = self.connect()

    def serve(self, updates: Socket, collector: Socket) -> None:
        """Until the server has been silent for too long."""
        self.heard_at = monotonic()
        while monotonic() < self.heard_at + self.server_seconds:
            for socket in self.wait(1.0, updates, self._commands):
                if socket is updates:
                    self.update(updates.recv_multipart())
                else:
                    collector.send_multipart(self._commands.recv_multipart())
        self.note("silent")
