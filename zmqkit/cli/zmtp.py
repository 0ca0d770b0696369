"""ZMTP 3 by hand: as much of ZeroMQ's wire protocol as it takes to shake hands with a stranger and to hear what it says.

By hand, because libzmq tells an application neither what kind of socket stands at the other end nor what it is if it is no ZeroMQ
at all. The stranger says all of that before we have said what we are, so looking takes part in nothing.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from zmqkit.gateways.zmtp import COMMAND, GREETING_BYTES, LONG, MORE, Broken, message, named, pong, properties, ready

SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"
MAJOR = b"\x03"
NULL_GREETING = b"\0" + b"NULL".ljust(20, b"\0") + bytes(32)  # minor version, mechanism, not a server, filler
OLD_IDENTITY = b"\x01\x00"  # ZeroMQ 2 begins with its identity, an empty one as a rule
FRAME_BYTES_MAX = 2**20
SHOWN_BYTES = 24


class Stranger(Exception):
    """What stands there is no ZeroMQ, or does not let us in: why, and what to do."""

    def __init__(self, reason: str, todo: str = "") -> None:
        super().__init__(f"{reason}; {todo or 'check the address'}")


class Link:
    """One connection. All that is done with it ends within `seconds`, which `wait` counts anew."""

    def __init__(self, endpoint: str, seconds: float) -> None:
        """Raises Stranger where nobody listens."""
        self.version = self.mechanism = self.kind = ""
        self._said = b""  # until it is known for a ZeroMQ
        self.wait(seconds)
        try:
            if endpoint.startswith("ipc://"):
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(seconds)
                path = endpoint.removeprefix("ipc://")
                self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
            else:
                host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
                self._socket = socket.create_connection((host.strip("[]"), int(port)), seconds)
        except TimeoutError:
            raise Stranger(f"no answer within {seconds:g} s", "check the address, and the firewalls between") from None
        except socket.gaierror as error:
            raise Stranger(f"no such host ({error.strerror})") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Stranger(reason, "nobody listens there: start what should, or check the address") from None

    def wait(self, seconds: float) -> None:
        """From now on so long."""
        self._deadline = time.monotonic() + seconds

    def look(self) -> None:
        """Hear the greeting and, where no key is asked for, what kind of socket it is; of ourselves nothing is said. Raises Stranger."""
        self._send(SIGNATURE + MAJOR)  # a libzmq says its mechanism when it knows our version, and hangs up if ours is another
        head = self._read(len(OLD_IDENTITY))
        if head == OLD_IDENTITY:
            self.version = "1.0"
            return
        if head[0] == SIGNATURE[0]:
            head += self._read(len(SIGNATURE) + 1 - len(head))
        if head[0] != SIGNATURE[0] or head[9] != SIGNATURE[9]:
            raise self._stranger("")
        if head[10] < 3:
            self.version = "2.0"
            return
        self.version = f"{head[10]}.{self._read(1)[0]}"
        self.mechanism = self._read(20).rstrip(b"\0").decode("ascii", "replace")
        self._read(GREETING_BYTES - len(SIGNATURE) - 22)
        if self.mechanism == "NULL":
            self._send(NULL_GREETING)
            flags, body = self._frame()
            name, fields = named(body)
            if not flags & COMMAND or name != b"READY":
                said = name.decode("ascii", "replace") or "nothing"
                raise Stranger(f"it shakes hands with {said} instead of READY", "does it let this machine in?")
            with suppress(Broken):  # what is cut off may have said it before
                for name, value in properties(fields):
                    self.kind = value.decode("ascii", "replace") if name == b"socket-type" else self.kind

    def meet(self, kind: str) -> None:
        """Be a socket of this kind for it, which must go together with its own."""
        self._send(ready(kind))

    def send(self, *frames: bytes) -> None:
        """One message. Raises Stranger."""
        self._send(message(frames))

    def messages(self) -> Iterator[Sequence[bytes]]:
        """What it says until time is up or it hangs up."""
        frames: list[bytes] = []
        while True:
            try:
                flags, body = self._frame()
            except Stranger:
                return
            if flags & COMMAND:
                self._answer(body)
                continue
            frames.append(body)
            if not flags & MORE:
                yield frames
                frames = []

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self, body: bytes) -> None:
        name, rest = named(body)
        if name == b"PING":
            self._send(pong(rest))

    def _frame(self) -> tuple[int, bytes]:
        flags = self._read(1)[0]
        size = struct.unpack(">Q", self._read(8))[0] if flags & LONG else self._read(1)[0]
        if size > FRAME_BYTES_MAX:
            raise Stranger(f"a frame of {size:,} bytes")
        return flags, self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
                more = self._socket.recv(size - len(data))
            except TimeoutError:
                raise self._stranger("it takes connections and says nothing") from None
            except ConnectionResetError:
                more = b""
            except OSError as error:
                raise self._stranger((error.strerror or str(error)).lower()) from None
            if not more:
                raise self._stranger("it hangs up")
            data += more
            self._said += more if not self.version else b""
        return data

    def _stranger(self, reason: str) -> Stranger:
        """`reason`, unless what it said so far tells more."""
        if self._said and not self.version:
            return Stranger(f"it answers {self._said[:SHOWN_BYTES]!r}, which is no ZeroMQ")
        return Stranger(reason, "is that a ZeroMQ endpoint?")

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Stranger((error.strerror or str(error)).lower()) from None
