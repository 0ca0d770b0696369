"""A Clone server on a bench: its topic, its unread bytes and its clock are the test's; peers speak ZMTP by hand."""

from __future__ import annotations

from zmqkit.gateways import zmtp
from zmqkit.gateways.clone import COLLECTOR, SNAPSHOTS, UPDATES, Clone, Set
from zmqkit.gateways.clone_state import Update
from zmqkit.gateways.zmtp import GREETING, Connection

Frames = list[bytes]
ICANHAZ, KTHXBAI, HUGZ = b"ICANHAZ?", b"KTHXBAI", b"HUGZ"
UUID = b"U" * 16
DOORS = {"SUB": UPDATES, "PUSH": COLLECTOR, "PUB": COLLECTOR}


def seq(number: int) -> bytes:
    return number.to_bytes(8, "big")


def ready(kind: str) -> bytes:
    fields = b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind.encode() + b"\x08Identity" + bytes(4)
    return zmtp.command(b"READY", fields)


class Wire:
    """A peer's end of a connection: what it heard, as messages."""

    def __init__(self, bench: Bench, peer: bytes, kind: str, shakes: bool = True) -> None:
        self.bench, self.peer, self.door, self.kind = bench, peer, DOORS[kind], kind
        self.closed = False
        self.heard: list[Frames] = []
        self._link = Connection({"XPUB": kind, "PULL": kind, "SUB": kind}, 0.0, 10, 1 << 24)
        self.say(b"")  # it is there
        if shakes:
            self.say(GREETING + ready(kind))

    def say(self, data: bytes) -> None:
        self.bench.clone.receive(self.door, self.peer, [data], self.bench.now)
        self.bench.turn()

    def send(self, *frames: bytes) -> None:
        self.say(zmtp.message(list(frames)))

    def subscribe(self, prefix: bytes) -> None:
        self.send(b"\x01" + prefix)

    def hear(self, data: bytes) -> None:
        assert not self.closed
        if data:
            self.heard += list(self._link.receive(data))
        else:
            self.closed = True

    def take(self) -> list[Frames]:
        heard, self.heard = self.heard, []
        return heard

    @property
    def server(self) -> str:
        """What kind of socket stands at the other end."""
        return self._link.kind


class Bench:
    def __init__(self, *loaded: Update, seq: int = 0, complete: bool = True) -> None:
        self.now = 1000.0
        self.sets: list[Set] = []
        self.deaf: dict[bytes, int] = {}  # peers that do not read, and how much waits for them
        self.told: dict[bytes, list[Frames]] = {}  # at the door of snapshots
        self.clone = Clone(self.sets.append, lambda door, peer: self.deaf.get(peer, 0))
        self.wires: dict[bytes, Wire] = {}
        self.gone: dict[bytes, None] = {}  # sends to these do not leave
        for update in loaded:
            self.clone.load(update, self.now)
        if complete:
            self.clone.complete(seq, self.now)

    def wire(self, peer: bytes, kind: str, shakes: bool = True) -> Wire:
        wire = Wire.__new__(Wire)
        self.wires[peer] = wire
        wire.__init__(self, peer, kind, shakes)  # type: ignore[misc]
        return wire

    def subscriber(self, peer: bytes, *prefixes: bytes) -> Wire:
        wire = self.wire(peer, "SUB")
        for prefix in prefixes:
            wire.subscribe(prefix)
        wire.take()
        return wire

    def update(self, *updates: Update) -> None:
        for update in updates:
            self.clone.update(update, self.now)
        self.turn()

    def ask(self, peer: bytes, *frames: bytes) -> list[Frames]:
        """And what is told until now."""
        self.clone.receive(SNAPSHOTS, peer, list(frames), self.now)
        self.turn()
        return self.told.pop(peer, [])

    def turn(self, most: int = 1000) -> None:
        """What the driver does last, until there is no more to send."""
        for _ in range(most):
            sends = self.clone.take(self.now)
            gone: dict[tuple[int, bytes], None] = {}
            for send in sends:
                if (send.door, send.peer) in gone:
                    continue  # what follows would make no sense
                if send.peer in self.gone and send.frames[0]:
                    gone[send.door, send.peer] = None
                elif send.door == SNAPSHOTS:
                    self.told.setdefault(send.peer, []).append(list(send.frames))
                else:
                    assert len(send.frames) == 1, "a connection has no frames of its own"
                    self.wires[send.peer].hear(send.frames[0])
            for place in gone:
                self.clone.gone(*place, self.now)
            if not gone and not self.clone.has_more:
                return
        assert most < 1000, "it never ends"

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.clone.deadline <= until:
            self.now = max(self.now, self.clone.deadline)
            self.clone.tick(self.now)
            self.turn()
        self.now = until

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.clone.dropped)


__all__ = [
    "COLLECTOR", "HUGZ", "ICANHAZ", "KTHXBAI", "SNAPSHOTS", "UPDATES", "UUID", "Bench", "Frames", "Set", "Update", "Wire", "ready", "seq",
]  # fmt: skip
