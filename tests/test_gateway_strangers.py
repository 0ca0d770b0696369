"""Peers that babble, lie, flood and vanish at the gateways, on real sockets. The node lives, an honest pair of each protocol and a
queue are served within seconds throughout, and what was dropped is counted."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from time import monotonic

import pytest
from gateway_world import GatewayNode, eventually, in_thread, serves, serving
from textbook.lpclient import LazyPirateClient
from textbook.mdclient import MajordomoClient
from textbook.mdworker import DISCONNECT, HEARTBEAT, READY, REPLY, REQUEST, MajordomoWorker
from textbook.peer import Raw
from textbook.ppworker import PirateWorker

import zmqkit
from zmqkit import bridge, sockets
from zmqkit.gateways import workers
from zmqkit.parcel import PARCEL_BYTES_MAX

pytestmark = pytest.mark.slow
SERVED_SECONDS = 10.0  # an honest peer's slowest round, on a machine that may be busy with more than this


class Honest(threading.Thread):
    """One request of each protocol and one message of a queue after the other, and how long the slowest round took."""

    def __init__(self, node: GatewayNode) -> None:
        super().__init__(daemon=True)
        self.node, self.rounds, self.slowest, self.ended = node, 0, 0.0, False
        self.error: BaseException | None = None
        self.progress = threading.Condition()

    def run(self) -> None:
        queue = self.node.queue("honest")
        try:
            with MajordomoClient(self.node.mdp, SERVED_SECONDS) as client, LazyPirateClient(self.node.front, SERVED_SECONDS) as pirate:
                while not self.ended:
                    began = monotonic()
                    assert client.send(b"honest", b"x") == [b"x"]
                    assert pirate.ask() == self.rounds
                    queue.put(self.rounds, timeout=SERVED_SECONDS)
                    with queue.get(timeout=SERVED_SECONDS) as d:  # type: ignore[union-attr]
                        assert d.body == self.rounds
                    with self.progress:
                        self.slowest = max(self.slowest, monotonic() - began)
                        self.rounds += 1
                        self.progress.notify_all()
                        self.progress.wait(0.002)
                assert client.tried == pirate.tried == self.rounds
        except BaseException as error:
            self.error = error

    def serve(self, rounds: int = 20) -> None:
        goal = self.rounds + rounds
        with self.progress:
            assert self.progress.wait_for(lambda: self.rounds >= goal or self.error, 30), "nobody is served any more"
        if self.error is not None:
            raise self.error


class World:
    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.node = stack.enter_context(GatewayNode())
        stack.enter_context(MajordomoWorker(self.node.mdp, b"honest"))
        stack.enter_context(PirateWorker(self.node.back))
        self.honest = Honest(self.node)
        self.honest.start()
        self.honest.serve(5)
        self._names = 0

    def peer(self, door: str = "mdp") -> Raw:
        """At "mdp", "front" or "back"."""
        self._names += 1
        return self.stack.enter_context(Raw(getattr(self.node, door), identity=b"stranger %d" % self._names))

    def worker(self, service: bytes) -> Raw:
        peer = self.peer()
        peer.send(*said(READY, service))
        eventually(lambda: serves(self.node, service.decode()))
        return peer

    def counts(self, reason: str, number: int) -> None:
        eventually(lambda: self.node.dropped.get(reason, 0) >= number)
        assert self.node.dropped[reason] == number

    def settled(self) -> None:
        self.honest.serve()
        assert self.honest.slowest < SERVED_SECONDS
        assert self.node.failure is None


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        world = World(stack)
        yield world
        world.settled()
        world.honest.ended = True
        world.honest.join(10)
        assert world.honest.error is None


def said(command: bytes, *frames: bytes) -> list[bytes]:
    return [b"", b"MDPW01", command, *frames]


def asked(service: bytes, *body: bytes) -> list[bytes]:
    return [b"", b"MDPC01", service, *body]


# -- babble -----------------------------------------------------------------------------------------------------------------

BABBLE: list[tuple[str, str, list[bytes]]] = [
    ("mdp", "not-mdp", [b""]),
    ("mdp", "not-mdp", [b"", b""]),
    ("mdp", "not-mdp", [b"GET / HTTP/1.1\r\n\r\n"]),
    ("mdp", "not-mdp", [b"\0" * 900_000]),
    ("mdp", "not-mdp", [b"", b"MDPC02", b"\1", b"echo", b"x"]),
    ("mdp", "not-mdp", [b"", b"MDPW01"]),
    ("mdp", "bad-request", asked(b"honest")),
    ("mdp", "bad-request", [b"MDPC02", b"\1", b"honest"]),
    ("mdp", "bad-request", [b"MDPC02", b"\2", b"honest", b"x"]),
    ("mdp", "bad-service", asked(b"", b"x")),
    ("mdp", "bad-service", asked(b"\xff\xfe", b"x")),
    ("mdp", "bad-service", asked(b"x" * 300, b"x")),
    ("mdp", "bad-service", said(READY, b"\xff")),
    ("mdp", "bad-frames", said(READY)),
    ("mdp", "bad-frames", said(READY, b"honest", b"more")),
    ("mdp", "bad-frames", said(HEARTBEAT, b"more")),
    ("mdp", "bad-frames", said(REPLY, b"client")),
    ("mdp", "bad-frames", said(REPLY, b"client", b"full", b"x")),
    ("mdp", "bad-frames", said(DISCONNECT, b"more")),
    ("mdp", "unknown-command", said(REQUEST, b"client", b"", b"x")),
    ("mdp", "unknown-command", said(b"\x09")),
    ("mdp", "unknown-command", said(b"")),
    ("mdp", "too-many-frames", [b""] * 1500),
    ("front", "bad-request", [b"no delimiter"]),
    ("front", "bad-request", [b"address", b""]),
    ("front", "too-many-frames", [b"x"] * 1500),
    ("back", "stranger", [b""]),
    ("back", "stranger", [b"\x09"]),
    ("back", "stranger", [b"", b"\1"]),
    ("back", "stranger", [b"\1", b"\1"]),
]


@pytest.mark.parametrize(("door", "reason", "frames"), BABBLE, ids=range(len(BABBLE)))
def test_what_is_no_message_is_dropped_and_counted(world: World, door: str, reason: str, frames: list[bytes]) -> None:
    peer = world.peer(door)
    for _ in range(10):
        peer.send(*frames)
    world.counts(f"{'mdp' if door == 'mdp' else 'ppp'}:{reason}", 10)


def test_a_second_ready_ends_the_conversation_and_is_no_second_worker(world: World) -> None:
    peer = world.worker(b"twice")
    peer.send(*said(READY, b"twice"))
    assert peer.receive() == said(DISCONNECT)
    eventually(lambda: not serves(world.node, "twice"))
    world.counts("mdp:unexpected", 1)


def test_a_pirate_that_says_ready_twice_is_one_worker() -> None:
    """While idle, and with a request in hand: two that ask at once are answered one after the other, and neither asks again."""
    with ExitStack() as stack:
        node = stack.enter_context(GatewayNode())
        peer = stack.enter_context(Raw(node.back, identity=b"TWICE"))
        clients = [stack.enter_context(LazyPirateClient(node.front, timeout_seconds=20.0)) for _ in range(2)]
        for rounds in range(3):
            for _ in range(2):
                peer.send(b"\1")
            askers = [in_thread(client.ask) for client in clients]
            for _ in askers:
                while len(frames := peer.receive()) != 3:
                    assert frames == [b"\2"]
                peer.send(b"\1")
                assert all(more == [b"\2"] for more in iter(lambda: peer.heard(0.1), None)), "one at a time"
                peer.send(*frames)
            for asker in askers:
                asker.join(5)
            assert [client.tried for client in clients] == [rounds + 1] * 2 and node.dropped == {}


def test_answers_that_nobody_asked_for_reach_nobody(world: World) -> None:
    peer = world.worker(b"liar")
    for _ in range(100):
        peer.send(*said(REPLY, b"stranger 1", b"", b"surprise"))
    world.counts("mdp:stray-reply", 100)
    future = world.node.call_soon("liar", b"x")
    client = peer.receive()[3]
    peer.send(*said(REPLY, client + b"!", b"", b"wrong"))
    peer.send(*said(REPLY, client, b"", b"right"))
    assert future.result(5) == b"right"


# -- size -------------------------------------------------------------------------------------------------------------------


def test_bodies_up_to_the_limit_travel_and_larger_ones_are_dropped(world: World) -> None:
    peer = world.peer()
    whole = b"x" * (PARCEL_BYTES_MAX - 5)  # its size is written in front of it
    peer.send(*asked(b"honest", whole))
    assert peer.receive(10)[3] == whole
    peer.send(*asked(b"honest", whole + b"x"))
    world.counts("mdp:no-answer", 1)
    peer.send(*asked(b"honest", *[b"x" * 100_000] * 20))
    world.counts("mdp:no-answer", 2)
    peer.send(*asked(b"honest", *[b""] * 900))
    assert peer.receive(10)[3:] == [b""] * 900


def test_an_answer_over_the_limit_is_dropped_and_its_worker_asked_again(world: World) -> None:
    peer, future = world.worker(b"large"), world.node.call_soon("large", b"")
    peer.send(*said(REPLY, peer.receive()[3], b"", *[b"x" * 600_000] * 2))
    with pytest.raises(Exception, match="answer of 1,200,0"):
        future.result(5)
    future = world.node.call_soon("large", b"")
    peer.send(*said(REPLY, peer.receive()[3], b"", b"small"))
    assert future.result(5) == b"small"


def test_a_flood_of_large_requests_for_nobody_is_bounded_and_goes_with_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.gateways.clients.REQUESTS_BYTES_MAX", 20_000_000)
    peer = world.peer()
    for _ in range(100):
        peer.send(*asked(b"nobody", b"x" * 900_000))
    eventually(lambda: world.node.dropped.get("mdp:too-many-requests", 0) >= 70)


# -- connections ------------------------------------------------------------------------------------------------------------


def zmtp(endpoint: str) -> socket.socket:
    """A connection behind its handshake, on which any bytes may follow."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    connection = socket.create_connection((host, int(port)))
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER" + b"\x08Identity" + struct.pack(">I", 0)
    connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + bytes([4, len(ready)]) + ready)
    heard = b""
    while len(heard) < 66 or len(heard) < 66 + heard[65]:  # a message that came before the other side's READY would end the connection
        heard += connection.recv(4096)
    return connection


def frame(data: bytes, more: bool = False) -> bytes:
    return bytes([2 + more]) + struct.pack(">Q", len(data)) + data


@pytest.mark.parametrize("door", ["mdp", "front", "back"])
def test_half_a_message_and_bytes_that_are_none_end_with_their_connection(world: World, door: str) -> None:
    whole = [frame(b"", True), frame(b"MDPC01", True), frame(b"nobody", True), frame(b"x")]
    for end in range(len(b"".join(whole))):
        with zmtp(getattr(world.node, door)) as connection:
            connection.sendall(b"".join(whole)[:end])
    with zmtp(getattr(world.node, door)) as connection:
        connection.sendall(frame(b"x" * (sockets.FRAME_BYTES_MAX + 1))[:100_000])
        with suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    world.honest.serve(50)
    assert {reason for reason in world.node.dropped if "request" in reason} == set()


# -- floods -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["of a worker", "of a stranger"])
@pytest.mark.parametrize("door", ["mdp", "back"])
def test_a_flood_of_heartbeats_holds_nobody_up(world: World, door: str, known: bool) -> None:
    peer, beat = world.peer(door), said(HEARTBEAT) if door == "mdp" else [b"\2"]
    if known:
        peer.send(*(said(READY, b"flood") if door == "mdp" else [b"\1"]))
    if door == "back":
        peer.close()  # a heartbeat makes a worker of whoever sends it, and this one would not answer
        peer = world.peer("front")
        beat = [b"\2"]

    def flood() -> None:
        for _ in range(50_000):
            peer.send(*beat)

    flooding = in_thread(flood)
    world.honest.serve(100)
    flooding.join(30)
    assert not flooding.is_alive()


def test_a_crowd_of_workers_with_a_service_each_gets_what_one_ready_can_name_and_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WORKERS_MAX", 100)
    with ExitStack() as stack:
        crowd = [stack.enter_context(Raw(world.node.mdp)) for _ in range(110)]
        for number, peer in enumerate(crowd):
            peer.send(*said(READY, b"service %d %s" % (number, b"x" * 200)))
        eventually(lambda: world.node.dropped.get("mdp:too-many-workers") == 11)  # the honest one is the first
        assert world.node.dropped["mdp:too-many-services"] >= 60
        world.honest.serve(50)
        for peer in crowd:
            peer.send(*said(DISCONNECT))
        eventually(lambda: world.node.dropped.get("mdp:unexpected", 0) == 0 and len(services(world)) == 1)
    peer = world.worker(b"afterwards" + b"x" * 200)
    future = world.node.call_soon("afterwards" + "x" * 200, b"x")
    peer.send(*said(REPLY, peer.receive()[3], b"", b"there is room again"))
    assert future.result(5) == b"there is room again"


def services(world: World) -> list[str]:
    """What the gateway of Majordomo offers or is about to take back."""
    return list(world.node._gateways._bridges["mdp"].machine.consumers)


def test_a_client_that_asks_for_a_thousand_names_keeps_others_from_none(world: World) -> None:
    peers = [world.peer() for _ in range(20)]
    for number in range(2000):
        peers[number % 20].send(*asked(b"nobody %d" % number, b"x"))
    with serving(world.node, late=lambda body: body), MajordomoClient(world.node.mdp) as client:
        assert client.send(b"late", b"x") == [b"x"]


class Deaf(Raw):
    """It has hardly any room for what it does not read."""

    def prepare(self) -> None:
        self.socket.rcvhwm, self.socket.rcvbuf, self.socket.sndtimeo = 1, 4096, 5000


@pytest.mark.parametrize("size", [20_000, 200_000])
@pytest.mark.parametrize("door", ["mdp", "front"])
def test_a_client_that_never_reads_is_given_up_and_its_requests_with_it_and_delays_nobody(world: World, door: str, size: int) -> None:
    """At the front it asks the honest worker, with what it will not read back."""
    answer = b"x" * size
    reason = f"{'mdp' if door == 'mdp' else 'ppp'}:the-peer-does-not-read"
    with serving(world.node, deaf=lambda body: answer), Deaf(getattr(world.node, door)) as deaf:
        while reason not in world.node.dropped:
            deaf.send(*(asked(b"deaf", b"x") if door == "mdp" else [b"", answer]))
        world.honest.serve(50)
    assert world.node.dropped[reason] > 50, "what waited for it is counted"


def test_a_client_that_reads_at_last_gets_what_waited_for_it(world: World) -> None:
    answer, asked_for = b"x" * 200_000, list[bytes]()

    def large(body: bytes) -> bytes:
        asked_for.append(body)
        return answer

    with serving(world.node, large=large), Deaf(world.node.mdp) as late:
        for _ in range(120):
            late.send(*asked(b"large", b"x"))
        doors = world.node._gateways._bridges["mdp"].deliver.__self__  # type: ignore[attr-defined]
        eventually(lambda: len(asked_for) == 120 and doors._unread)
        for _ in range(120):
            assert late.receive()[3] == answer
    assert "mdp:the-peer-does-not-read" not in world.node.dropped


@pytest.mark.parametrize("door", ["mdp", "front", "back"])
def test_a_message_without_end_is_noticed_by_nobody(world: World, door: str) -> None:
    with zmtp(getattr(world.node, door)) as connection:
        connection.sendall(frame(b"", True) + frame(b"MDPC01", True) + frame(b"honest", True))
        for _ in range(50):
            connection.sendall(frame(b"x" * 100_000, True))
            world.honest.serve(2)
    world.honest.serve()
    assert world.node.dropped == {}


# -- parts ------------------------------------------------------------------------------------------------------------------


def part(client: bytes, body: bytes) -> list[bytes]:
    return [b"MDPW02", b"\x03", client, b"", body]


def worker_of_parts(world: World) -> Raw:
    peer = world.peer()
    peer.send(b"MDPW02", b"\x01", b"parts")
    eventually(lambda: serves(world.node, "parts"))
    peer.socket.sndtimeo = 5000
    return peer


def envelope(peer: Raw) -> bytes:
    """Of the request that comes next."""
    while (frames := peer.receive())[1] != b"\x02":
        assert frames == [b"MDPW02", b"\x05"]
    return frames[2]


def test_parts_for_a_client_that_never_reads_end_with_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.ports.UNREAD_BYTES_MAX", 2_000_000)
    peer = worker_of_parts(world)
    with Deaf(world.node.mdp) as deaf:
        deaf.send(b"MDPC02", b"\x01", b"parts", b"x")
        client = envelope(peer)
        while "mdp:late-reply" not in world.node.dropped:  # the first part that nobody waits for
            peer.send(*part(client, b"x" * 50_000))
    assert world.node.dropped["mdp:the-peer-does-not-read"] > 10


@pytest.mark.parametrize(("size", "parts"), [(0, bridge.PARTS_WAITING_MAX), (200_000, bridge.PARTS_BYTES_MAX // 200_000)])
def test_parts_for_a_caller_that_never_reads_end_its_stream(world: World, size: int, parts: int) -> None:
    peer = worker_of_parts(world)
    with world.node.stream("parts", b"x", timeout=30) as stream:
        client = envelope(peer)
        for _ in range(parts + 100):
            peer.send(*part(client, b"x" * size))
        eventually(lambda: world.node.dropped.get("mdp:late-reply", 0) > 50)
        with pytest.raises(zmqkit.Timeout, match="nobody reads"):
            list(stream)
