"""Foreign clients of one gateway, and the answers that they wait for.

Rule 1  Only so many requests of one client, and so many bytes, are with the desk; its others wait here, in order. So a client that pours
        out a hundred thousand requests, as the Guide's asynchronous one does, crowds out nobody, and no deadline runs before a request
        has a chance. Nor does it fill the room of all: the last quarter is kept for who waits for nothing yet, and has one request.
Rule 2  These protocols know no error. What will not be answered is dropped, and the client asks again when it has waited enough.
Rule 3  A client that is gone waits for nothing: all of its requests are taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any

from zmqkit.gateways.desk import Desk, Frames, Part, Reply

# A stock client waits 2.5 s and asks again, from a new socket, and nobody tells that the old one is gone. A stock worker must
# be heard every 7.5 s and says nothing while it works. After both together nobody waits any more and nobody works any more: whatever
# is older would be run for nothing, in front of those who do wait. Less would be wrong for slow services with patient clients.
REQUEST_SECONDS = 10.0
WINDOW = 100  # requests of one client that are with the desk
WINDOW_BYTES = 4 * 1024 * 1024  # or one that is larger
CLIENT_REQUESTS_MAX = 100_000  # of one client, with the desk or waiting: what the Guide's asynchronous client sends at once
CLIENT_BYTES_MAX = 64 * 1024 * 1024
REQUESTS_MAX = 200_000  # of all clients
REQUESTS_BYTES_MAX = 256 * 1024 * 1024
FRAME_BYTES = 64  # what an empty frame costs to keep


class Call:
    __slots__ = ("frames", "head", "peer", "service", "size", "stream")

    def __init__(self, peer: bytes, service: str, frames: Frames, head: Any, size: int, stream: bool) -> None:
        self.peer, self.service, self.frames, self.size = peer, service, frames, size
        self.head = head  # what the gateway needs to address the answer
        self.stream = stream  # its protocol knows answers in parts


class Client:
    __slots__ = ("asked", "asked_bytes", "bytes", "waiting")

    def __init__(self) -> None:
        self.asked: dict[int, Call] = {}  # with the desk, by ticket
        self.waiting: deque[Call] = deque()
        self.asked_bytes = self.bytes = 0  # with the desk; in all


def size_of(frames: Sequence[bytes]) -> int:
    return sum(map(len, frames)) + FRAME_BYTES * len(frames)


class Clients:
    def __init__(self, desk: Desk, seconds: float) -> None:
        self._desk, self._seconds = desk, seconds
        self._clients: dict[bytes, Client] = {}  # those that wait for anything
        self._peers: dict[int, bytes] = {}  # by ticket
        self._tickets = count(1)
        self._requests, self._bytes = 0, 0

    def ask(self, peer: bytes, service: str, frames: Frames, head: Any, *, kept: int = 0, stream: bool = False) -> str:
        """Returns why it was dropped; "": it will be asked. `kept`: bytes of `head`."""
        client = self._clients.get(peer)
        size = size_of(frames) + kept
        share = 1.0
        if client is not None:
            share = 0.75
            if len(client.asked) + len(client.waiting) >= CLIENT_REQUESTS_MAX or client.bytes + size > CLIENT_BYTES_MAX:
                return "too-many-requests-of-one"
        if self._requests >= REQUESTS_MAX * share or self._bytes + size > REQUESTS_BYTES_MAX * share:
            return "too-many-requests"
        if client is None:
            client = self._clients[peer] = Client()
        self._requests += 1
        self._bytes += size
        client.bytes += size
        client.waiting.append(Call(peer, service, frames, head, size, stream))
        self._pass_on(client)
        return ""

    def hear(self, event: Reply | Part) -> tuple[Call, Frames] | str:
        """What to tell whom, or why nothing is told."""
        peer = self._peers.get(event.ticket)
        if peer is None:
            return ""  # it is gone, as the desk was told
        call = self._clients[peer].asked[event.ticket]
        if isinstance(event, Part):
            return call, event.frames
        self._end(peer, event.ticket)
        return (call, event.frames) if event.frames is not None else "no-answer"

    def gone(self, peer: bytes) -> None:
        client = self._clients.pop(peer, None)
        if client is None:
            return
        for ticket in client.asked:
            del self._peers[ticket]
            self._desk.cancel(ticket)
        for call in (*client.asked.values(), *client.waiting):
            self._requests -= 1
            self._bytes -= call.size

    def _pass_on(self, client: Client) -> None:
        while client.waiting and len(client.asked) < WINDOW:
            if client.asked and client.asked_bytes + client.waiting[0].size > WINDOW_BYTES:
                return
            call, ticket = client.waiting.popleft(), next(self._tickets)
            client.asked[ticket] = call
            client.asked_bytes += call.size
            self._peers[ticket] = call.peer
            self._desk.call(call.service, call.frames, ticket, self._seconds, stream=call.stream)
            call.frames = []  # the desk has them

    def _end(self, peer: bytes, ticket: int) -> None:
        client = self._clients[peer]
        call = client.asked.pop(ticket)
        del self._peers[ticket]
        self._requests -= 1
        self._bytes -= call.size
        client.bytes -= call.size
        client.asked_bytes -= call.size
        self._pass_on(client)
        if not client.asked:
            del self._clients[peer]
