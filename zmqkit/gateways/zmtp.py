"""ZMTP 3.0 (RFC 23) for peers that connect to us, without a mechanism (NULL): greeting, READY, frames; bytes in, messages and bytes out.

By hand, because a socket of libzmq is of one kind. 12/CHP lets some clients PUSH and others PUB to the same port, and of a PUB socket
nobody learns which subscriber lost an update, or that a new one has come and what it may have missed.

Rule 1  We are what goes together with the peer: PULL for PUSH, SUB for PUB, XPUB for SUB. Its READY comes first; one that waits for
        ours, as who only wants to know what stands here, gets it after a second.
Rule 2  What one peer may make us keep is bounded by its frames' lengths, which come before them: who goes beyond is cut off.
Rule 3  What breaks the protocol ends the connection, with a reason to be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from struct import Struct

GREETING_BYTES = 64
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4  # flags of a frame
SHAKE_SECONDS = 3.0  # for greeting and READY
READY_SECONDS = 1.0
COMMAND_BYTES_MAX = 4096

_LONG = Struct(">BQ")


class Broken(Exception):
    """This connection ends; why."""


class Connection:
    """`kinds`: what we are for whom, the first for who does not say. A message has up to `frames_max` frames that are kept, and one more
    that tells that there were too many."""

    def __init__(self, kinds: Mapping[str, str], now: float, frames_max: int, bytes_max: int) -> None:
        self.kind = ""  # the peer's, once we have shaken hands
        self._kinds, self._frames_max, self._bytes_max = kinds, frames_max, bytes_max
        self._data = bytearray()
        self._greeted = False
        self._said = ""  # our kind, once it was said
        self._ready_at, self._gives_up_at = now + READY_SECONDS, now + SHAKE_SECONDS
        self._frames: list[bytes] = []
        self._bytes = self._count = 0  # of the message under way
        self._out = [GREETING]

    @property
    def kept(self) -> int:
        """Bytes that wait for their rest."""
        return len(self._data) + self._bytes

    @property
    def deadline(self) -> float:
        if self.kind:
            return inf
        return self._gives_up_at if self._said or not self._greeted else min(self._ready_at, self._gives_up_at)

    def tick(self, now: float) -> None:
        """Raises Broken."""
        if self.kind:
            return
        if now >= self._gives_up_at:
            raise Broken("no-handshake")
        if self._greeted and not self._said and now >= self._ready_at:
            self._say(next(iter(self._kinds.values())))

    def take(self) -> bytes:
        """What is to be sent now."""
        out, self._out = self._out, []
        return b"".join(out)

    def receive(self, data: bytes) -> Iterator[list[bytes]]:
        """The messages that are whole by now. Raises Broken."""
        self._data += data
        if not self._greeted and not self._greet():
            return
        at = 0
        try:
            while (frame := self._frame(at)) is not None:
                flags, body, at = frame
                if flags & COMMAND:
                    self._command(body)
                    continue
                if not self.kind:
                    raise Broken("no-handshake")
                self._count += 1
                if self._count <= self._frames_max + 1:
                    self._frames.append(body)
                    self._bytes += len(body)
                if not flags & MORE:
                    frames, self._frames, self._bytes, self._count = self._frames, [], 0, 0
                    yield frames
        finally:
            del self._data[:at]

    def _greet(self) -> bool:
        """Is the greeting complete?"""
        head = bytes(self._data[:12])
        if head[:1] != GREETING[:1] or (len(head) > 9 and head[9] != GREETING[9]) or (len(head) > 10 and head[10] < 3):
            raise Broken("not-zmtp-3")
        if len(self._data) < GREETING_BYTES:
            return False
        if bytes(self._data[12:32]).rstrip(b"\0") != b"NULL":
            raise Broken("another-mechanism")
        del self._data[:GREETING_BYTES]
        self._greeted = True
        return True

    def _frame(self, at: int) -> tuple[int, bytes, int] | None:
        """Flags, body, and where the next one begins; None: it is not whole."""
        data = self._data
        if len(data) < at + 2:
            return None
        flags = data[at]
        if flags > 7 or (flags & COMMAND and flags & MORE):
            raise Broken("not-zmtp-3")
        start = at + (9 if flags & LONG else 2)
        if len(data) < start:
            return None
        size = _LONG.unpack_from(data, at)[1] if flags & LONG else data[at + 1]
        if size > (COMMAND_BYTES_MAX if flags & COMMAND else self._bytes_max - self._bytes):
            raise Broken("message-too-large")
        end = start + size
        return (flags, bytes(data[start:end]), end) if len(data) >= end else None

    def _command(self, body: bytes) -> None:
        name, rest = named(body)
        if name == b"READY" and not self.kind:
            kind = dict(properties(rest)).get(b"socket-type", b"").decode("ascii", "replace")
            ours = self._kinds.get(kind)
            if ours is None or self._said not in ("", ours):
                raise Broken("another-socket-type")
            if not self._said:
                self._say(ours)
            self.kind = kind
        elif name == b"PING" and self.kind:
            self._out.append(pong(rest))
        elif name == b"ERROR":
            raise Broken("peer-error")

    def _say(self, kind: str) -> None:
        self._said = kind
        self._out.append(ready(kind))


def message(frames: Sequence[bytes]) -> bytes:
    """As it travels."""
    last = len(frames) - 1
    return b"".join([_head(MORE * (index < last), len(frame)) + frame for index, frame in enumerate(frames)])


def command(name: bytes, data: bytes) -> bytes:
    body = bytes((len(name),)) + name + data
    return _head(COMMAND, len(body)) + body


def ready(kind: str) -> bytes:
    """READY of a socket of that kind."""
    return command(b"READY", _property(b"Socket-Type", kind.encode()) + _property(b"Identity", b""))


def pong(ping: bytes) -> bytes:
    """The answer to a PING: it holds a ttl of two bytes, then up to 16 that it wants to see again."""
    return command(b"PONG", ping[2:18])


def _head(flags: int, size: int) -> bytes:
    return bytes((flags, size)) if size < 256 else _LONG.pack(flags | LONG, size)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


def named(body: bytes) -> tuple[bytes, bytes]:
    """The name of a command or property, and what follows."""
    size = body[0] if body else 0
    return body[1 : 1 + size], body[1 + size :]


def properties(fields: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Those of a READY, their names in small letters. Raises Broken behind the last one that is whole."""
    while fields:
        name, rest = named(fields)
        size = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + size:
            raise Broken("not-zmtp-3")
        yield name.lower(), rest[4 : 4 + size]
        fields = rest[4 + size :]
