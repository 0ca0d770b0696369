"""An MDP gateway at a desk, for its tests: who says and hears what, frame for frame, in both versions."""

from __future__ import annotations

import pytest
from fake_desk import Bench, FakeDesk

from zmqkit.gateways.desk import Frames
from zmqkit.gateways.mdp import DOOR, ONE, TWO, Mdp, Tongue

SALT = b"salt"
FIRST = SALT + bytes(7) + b"\1"  # the first envelope
C1, C2 = (b"", b"MDPC01"), (b"MDPC02", b"\1")
W1, W2 = (b"", b"MDPW01"), (b"MDPW02",)
HEADS = {ONE: W1, TWO: W2}
LONG, FITS = b"x" * 256, b"\xc3\xa4" * 127 + b"x"
both_versions = pytest.mark.parametrize("tongue", [ONE, TWO], ids=["0.1", "0.2"])


class Broker(Bench):
    def __init__(self, **options: float) -> None:
        desk = FakeDesk()
        super().__init__(Mdp(desk, salt=SALT, **options), desk)

    def ask(self, peer: bytes, *frames: bytes) -> int:
        """A client's request; the ticket under which the desk was asked."""
        before = len(self.desk.asked)
        self.say(DOOR, peer, *frames)
        assert len(self.desk.asked) == before + 1
        return self.desk.asked[-1].ticket

    def work(self, tongue: Tongue, peer: bytes, *frames: bytes) -> None:
        self.say(DOOR, peer, *HEADS[tongue], *frames)

    def ready(self, tongue: Tongue, peer: bytes, service: bytes = b"echo") -> None:
        self.work(tongue, peer, b"\1", service)

    def reply(self, tongue: Tongue, peer: bytes, *frames: bytes, cid: bytes = FIRST) -> None:
        self.work(tongue, peer, tongue.final, cid, b"", *frames)

    def give(self, job: str, *body: bytes) -> None:
        self.tell(self.desk.request("echo", job, *(body or (b"body",))))

    def heard(self, peer: bytes) -> list[Frames]:
        """What a peer was sent since it was asked last, without heartbeats."""
        beats = [[*W1, b"\4"], [*W2, b"\5"]]
        return [frames for frames in self.sent(DOOR, peer) if frames not in beats]

    def wait_with(self, times: int, *tongues_and_peers: tuple[Tongue, bytes]) -> None:
        """These workers beat every 2.5 s meanwhile."""
        for _ in range(times):
            self.wait(2.5)
            for tongue, peer in tongues_and_peers:
                self.work(tongue, peer, tongue.heartbeat)

    @property
    def free(self) -> int:
        return self.desk.offers.get("echo", 0)

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.gateway.dropped)


def disconnect(tongue: Tongue) -> Frames:
    return [*HEADS[tongue], tongue.disconnect]
