"""TSP (RFC 9) on the wire: every request to Titanic and every status, as the frames of a Majordomo client, byte for byte."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from gateway_world import ANY, serving
from handle_world import eventually
from test_wire_golden import written
from textbook.peer import Raw

import zmqkit
from zmqkit.gateways.desk import Frames
from zmqkit.handles import titanic
from zmqkit.handles.titanic import REQUESTS

C1, C2 = (b"", b"MDPC01"), (b"MDPC02", b"\1")
REQUEST, REPLY, CLOSE = b"titanic.request", b"titanic.reply", b"titanic.close"
UNKNOWN = b"ffffffffffffffffffffffffffffffff"


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests get the UUIDs 1, 2, 3…, and those that fail are tried again at once."""
    numbers = count(1)
    monkeypatch.setattr(titanic, "os", SimpleNamespace(urandom=lambda size: next(numbers).to_bytes(size, "big")))
    monkeypatch.setattr(titanic, "POLICY", zmqkit.QueuePolicy(max_attempts=1000, backoff=zmqkit.Backoff(0.001, 0.002)))


def fail(body: Any) -> Any:
    raise ValueError("broken")


def conversation() -> dict[str, Frames]:
    """In both directions, without routing ids. What only comes after a while is asked for until it does, and written down once."""
    told: dict[str, Frames] = {}
    with zmqkit.Node(mdp=ANY, titanic=True) as node, Raw(node.gateways["mdp"][0]) as client:

        def asked(*frames: bytes) -> Frames:
            client.send(*frames)
            return client.receive()

        def ask(title: str, *frames: bytes) -> bytes:
            """The last frame of the answer."""
            told[f"{title}: asked"] = list(frames)
            told[f"{title}: told"] = answer = asked(*frames)
            return answer[-1]

        def settled(uuid: bytes) -> None:
            eventually(lambda: asked(*C1, REPLY, uuid)[3] != b"300")

        one = ask("request", *C1, REQUEST, b"upper", b"a")
        two = ask("request of several frames", *C1, REQUEST, b"upper", b"b", b"", b"c")
        none = ask("request without a body", *C1, REQUEST, b"upper")
        late = ask("request by 18/MDP", *C2, REQUEST, b"upper", b"d")
        ask("reply, not yet", *C1, REPLY, one)
        ask("reply, not yet, by 18/MDP", *C2, REPLY, one)
        with serving(node, upper=lambda body: body.upper() if isinstance(body, bytes) else [frame.upper() for frame in body]):
            for uuid in (one, two, none, late):
                settled(uuid)
        ask("reply", *C1, REPLY, one)
        ask("reply of several frames", *C1, REPLY, two)
        ask("reply to a request without a body", *C1, REPLY, none)
        ask("reply, asked in capitals", *C1, REPLY, late.upper())
        ask("reply by 18/MDP", *C2, REPLY, late)
        ask("close", *C1, CLOSE, one)
        ask("close again", *C1, CLOSE, one)
        ask("close by 18/MDP", *C2, CLOSE, late)
        ask("reply to what is closed", *C1, REPLY, one)
        for what, uuid in [("an unknown uuid", UNKNOWN), ("what is no uuid", b"../../etc/passwd"), ("an empty frame", b"")]:
            ask(f"reply to {what}", *C1, REPLY, uuid)
            ask(f"close of {what}", *C1, CLOSE, uuid)
        ask("reply with a frame too many", *C1, REPLY, two, b"more")
        ask("close with a frame too many", *C1, CLOSE, two, b"more")
        assert asked(*C1, REPLY, two)[3:] == [b"200", b"B", b"", b"C"], "nothing was closed"
        ask("request of a service without a name", *C1, REQUEST, b"", b"a")
        ask("request of a service whose name is no text", *C1, REQUEST, b"\xff", b"a")
        ask("request of Titanic through Titanic", *C1, REQUEST, REPLY, one)
        with serving(node, shaky=fail):
            dead = ask("request of a service that fails", *C1, REQUEST, b"shaky", b"a")
            settled(dead)
        ask("reply when it was given up", *C1, REPLY, dead)
        node.declare(REQUESTS, zmqkit.QueuePolicy(max_messages=1))
        asked(*C1, REQUEST, b"absent", b"the only one")
        ask("request when there is no room", *C1, REQUEST, b"upper", b"e")
        # No frame at all is no request of 7/MDP, so what follows it is answered first.
        for service in (REQUEST, REPLY, CLOSE):
            told[f"{service.decode().removeprefix('titanic.')} without a frame, never answered: asked"] = [*C1, service]
            client.send(*C1, service)
        assert asked(*C1, b"mmi.service", REQUEST) == [*C1, b"mmi.service", b"200"]
        assert node.dropped == {"mdp:bad-request": 3}
    return told


@pytest.mark.usefixtures("numbered")
def test_every_request_to_titanic_and_every_status_has_these_bytes() -> None:
    told = conversation()
    assert told == written("tsp", told)
