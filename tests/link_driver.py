"""Drivers for links outwards: one moved by hand, which keeps a transcript, and one on a real socket in a thread."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any

import zmq
from fake_desk import FakeDesk
from textbook.peer import Peer, Socket

from zmqkit.gateways.desk import Event, Frames, Request
from zmqkit.gateways.outward import OutwardLink

OPEN = "open"  # in a transcript: here the link got a new socket


class NotYet(Exception):
    """The handler is still at it: ask again."""


class LinkBench:
    """`heard()` is what the broker heard since it was asked last: OPEN for each new socket, and messages."""

    def __init__(self, link: OutwardLink, desk: FakeDesk, now: float = 1000.0) -> None:
        self.link, self.desk, self.now = link, desk, now
        self.stuck = False  # nothing leaves
        self.names: list[bytes] = []  # routing ids, socket by socket
        self._heard: list[str | Frames] = []

    def say(self, *frames: bytes) -> None:
        self.link.receive(0, b"", frames, self.now)
        self.turn()

    def tell(self, *events: Event) -> None:
        self.link.hear(events, self.now)
        self.turn()

    def cut(self, was_up: bool = True) -> None:
        self.link.cut(self.now, was_up)
        self.turn()

    def turn(self) -> None:
        if self.link.wants_new_socket():
            self._heard.append(OPEN)
            self.names.append(self.link.routing_id)
        sends = self.link.take()
        if sends and self.stuck:
            self.link.gone(0, b"", self.now)
            return self.turn()
        assert all((send.door, send.peer) == (0, b"") for send in sends)
        self._heard += [list(send.frames) for send in sends]

    def wait(self, seconds: float) -> None:
        """Time passes, and the driver ticks when it is due."""
        until = self.now + seconds
        while self.link.deadline <= until:
            self.now = max(self.now, self.link.deadline)
            self.link.tick(self.now)
            self.turn()
        self.now = until

    def heard(self) -> list[str | Frames]:
        heard, self._heard = self._heard, []
        return heard


def names() -> Callable[[], bytes]:
    numbers = count(1)
    return lambda: b"W%d" % next(numbers)


def bench(make: Callable[[FakeDesk], OutwardLink]) -> LinkBench:
    desk = FakeDesk()
    b = LinkBench(make(desk), desk)
    b.wait(0.0)
    return b


def random_worker_life(link: LinkBench, asks: Callable[[bytes], Frames], others: list[Frames], chance: random.Random) -> list[str | Frames]:
    """Whatever may happen to a worker's link, in any order. The transcript has each request as ("asked", client)."""
    life: list[Any] = link.heard()
    clients = count(1)
    for _ in range(60):
        draw = chance.random()
        if draw < 0.3:
            client = b"C%d" % next(clients)
            link.say(*asks(client))
            life.append(f"asked {client.decode()}")
        elif draw < 0.6 and link.desk.open:
            ticket = chance.choice(list(link.desk.open))
            link.tell(link.desk.refuse(ticket) if draw < 0.36 else link.desk.answer(ticket, b"x"))
        elif draw < 0.7:
            link.say(*chance.choice(others))
        elif draw < 0.73:
            link.cut(chance.random() < 0.5)
        elif draw < 0.76:
            link.stuck = not link.stuck
        else:
            link.wait(chance.choice((0.0, 0.3, 1.0, 3.0, 9.0)))
        life += link.heard()
    return life


def sockets_of(life: list[Any]) -> list[list[Any]]:
    """What happened on each socket."""
    sockets: list[list[Any]] = []
    for entry in life:
        if entry == OPEN:
            sockets.append([])
        else:
            sockets[-1].append(entry)
    return sockets


class DrivenLink(Peer):
    """A link at a real broker. What its desk is asked, `handler` answers (None: no answer); what a test asks goes out by `ask`."""

    def __init__(self, endpoint: str, make: Callable[[FakeDesk], OutwardLink], handler: Callable[[Frames], Frames | None]) -> None:
        super().__init__()
        self.endpoint, self.handler, self.desk = endpoint, handler, FakeDesk()
        self.link = make(self.desk)
        self._events: queue.SimpleQueue[tuple[str, int, Frames]] = queue.SimpleQueue()
        self._jobs = 0

    def ask(self, service: str, *body: bytes) -> int:
        """Hand it out when the link offers to take it; `seen("settled", job)` tells how it ended."""
        self._jobs += 1
        self._events.put((service, self._jobs, list(body)))
        return self._jobs

    def loop(self) -> None:
        socket: Socket | None = None
        waiting: list[tuple[str, int, Frames]] = []
        settled = 0
        while True:
            if socket is not None and self.wait(0.005, socket):
                self.link.receive(0, b"", socket.recv_multipart(), monotonic())
            self.link.hear(self._answers(), monotonic())
            while not self._events.empty():
                waiting.append(self._events.get())
            if waiting and self.desk.offers.get(waiting[0][0], 0) > 0:
                service, job, body = waiting.pop(0)
                self.link.hear([self.desk.request(service, job, *body)], monotonic())
            if self.link.deadline <= monotonic():
                self.link.tick(monotonic())
            if self.link.wants_new_socket():
                if socket is not None:
                    socket.close(linger=0)
                socket = self.open(zmq.DEALER, self.endpoint, self.link.routing_id)
                self.note("opened")
            for send in self.link.take():
                assert socket is not None
                socket.send_multipart(send.frames)
            for job, how in list(self.desk.settled.items())[settled:]:
                settled += 1
                self.note("settled", job, how)

    def _answers(self) -> list[Any]:
        answers: list[Event] = []
        for ticket, asked in list(self.desk.open.items()):
            try:
                body = self.handler(asked.frames)
            except NotYet:
                continue
            answers.append(self.desk.refuse(ticket) if body is None else self.desk.answer(ticket, *body))
        return answers


def request(desk: FakeDesk, job: Any, *body: bytes) -> Request:
    return desk.request("echo", job, *body)
