"""A PPP gateway at a desk, for its tests: who says and hears what, frame for frame."""

from __future__ import annotations

from fake_desk import Bench, FakeDesk

from zmqkit.gateways.desk import Frames
from zmqkit.gateways.ppp import BACKEND, FRONTEND, HEARTBEAT, Ppp

SALT = b"salt"
FIRST = SALT + bytes(7) + b"\1"  # the first envelope


class Queue(Bench):
    def __init__(self, **options: float) -> None:
        desk = FakeDesk()
        super().__init__(Ppp(desk, salt=SALT, **options), desk)

    def ask(self, peer: bytes, *body: bytes) -> int:
        """A client's request; the ticket under which the desk was asked."""
        self.say(FRONTEND, peer, b"", *body)
        return self.desk.asked[-1].ticket

    def work(self, peer: bytes, *frames: bytes) -> None:
        self.say(BACKEND, peer, *frames)

    def give(self, job: str, *body: bytes) -> None:
        self.tell(self.desk.request("ppp", job, *(body or (b"body",))))

    def heard(self, peer: bytes) -> list[Frames]:
        """What a worker was sent since it was asked last, without heartbeats."""
        return [frames for frames in self.sent(BACKEND, peer) if frames != [HEARTBEAT]]

    def beats(self, peer: bytes) -> int:
        return self.sent(BACKEND, peer).count([HEARTBEAT])

    def wait_with(self, seconds: int, *peers: bytes) -> None:
        """These workers beat once a second meanwhile."""
        for _ in range(seconds):
            self.wait(1.0)
            for peer in peers:
                self.work(peer, HEARTBEAT)

    def keeps_nothing_of_clients(self) -> bool:
        table = self.gateway._clients
        return not (table._clients or table._peers or table._requests or table._bytes)

    @property
    def free(self) -> int:
        return self.desk.offers.get("ppp", 0)

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.gateway.dropped)
