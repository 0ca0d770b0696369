"""Nodes with keys on real sockets: who comes in and who does not, what each is told, and what becomes of them when the file changes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq
from handle_world import SOON, eventually
from keys_world import ODD, Knocking, Prepare, made, rights, shows

import zmqkit
from zmqkit import framing, gate, sockets, wire
from zmqkit.handles.waiting import run
from zmqkit.machines.node import NodeMachine
from zmqkit.monitors import NEVER_UP, NO_KEY, NO_ZEROMQ, NOT_TRUSTED, WANTS_KEYS, WANTS_NONE, Reasons
from zmqkit.reactor import LOCAL
from zmqkit.rights import ANYBODY
from zmqkit.security import Keys, Pair, zap

HELLO = [bytes(frame) for frame in framing.encode(wire.Hello([wire.VERSION], b"c" * 16, 1, b"", 0))]


class World:
    """A node with a key directory, and one of a client that knows the node's key."""

    def __init__(self, place: Path, node: zmqkit.Node) -> None:
        self.place, self.node, self.endpoint = place, node, node.endpoint
        self.keys = Keys(place / "node")
        self.server = self.keys.pair.public
        self.ada = made(place, "ada")
        self.ada.pin(self.endpoint, self.server)

    def connect(self) -> zmqkit.Client:
        return zmqkit.connect(self.endpoint, keys=self.ada.path, timeout=SOON)

    def told(self, *reasons: str) -> str:
        return told(self.endpoint, self.ada.path, *reasons)

    def users(self) -> set[str]:
        return set(self.node._core.access.users) - {ANYBODY}


def told(endpoint: str, keys: str | None, *reasons: str) -> str:
    """What one who is not let in is told, once it is for one of these reasons."""
    mq = zmqkit.connect(endpoint, keys=keys, lazy=True)
    try:
        mq._nodes.begin()
        eventually(lambda: mq._session.reason in reasons)
        with pytest.raises(zmqkit.Unreachable) as refused:
            run(mq._nodes.rising(0.0))
        return str(refused.value)
    finally:
        mq._close(0.0)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(gate, "LOOK_SECONDS", 0.05)
    made(tmp_path, "node")
    with zmqkit.Node("tcp://127.0.0.1:0", f"ipc://{tmp_path}/socket", keys=str(tmp_path / "node")) as node:
        yield World(tmp_path, node)


# -- who comes in -------------------------------------------------------------------------------------------------------------


def nothing(world: World) -> Prepare:
    return lambda socket: None


def a_password(world: World) -> Prepare:
    def prepare(socket: zmq.Socket[bytes]) -> None:
        socket.plain_username, socket.plain_password = b"admin", b"admin"

    return prepare


def a_server_too(world: World) -> Prepare:
    def prepare(socket: zmq.Socket[bytes]) -> None:
        socket.curve_server, socket.curve_secretkey = True, world.keys.pair.secret.encode()

    return prepare


def the_public_key_alone(world: World) -> Prepare:
    """Of the node's own pair, with another secret."""

    def prepare(socket: zmq.Socket[bytes]) -> None:
        shows(Pair.new(), world.server)(socket)
        socket.curve_publickey = world.server.encode()

    return prepare


def a_removed_key(world: World) -> Prepare:
    world.keys.trust(world.ada.pair.public, rights("ada", "all"))
    eventually(lambda: world.ada.pair.public in world.users())
    world.keys.forget([world.ada.pair.public], [])
    eventually(lambda: world.ada.pair.public not in world.users())
    return shows(world.ada.pair, world.server)


def a_key_trusted_elsewhere(world: World) -> Prepare:
    made(world.place, "elsewhere").trust(world.ada.pair.public, rights("ada", "all"))
    return shows(world.ada.pair, world.server)


STRANGERS = {
    "no key": (nothing, {"mismatch", "hung up"}),
    "a password": (a_password, {"mismatch", "hung up"}),
    "a peer that is a server, too": (a_server_too, {"mismatch", "hung up"}),
    "a key that nobody knows": (lambda world: shows(Pair.new(), world.server), {"refused"}),
    "a key that is trusted elsewhere": (a_key_trusted_elsewhere, {"refused"}),
    "a key that was removed": (a_removed_key, {"refused"}),
    "our own key for another node": (lambda world: shows(world.keys.pair, world.ada.pair.public), {"hung up"}),
    "our public key with another secret": (the_public_key_alone, {"hung up"}),
}


AT_EACH_DOOR = [(name, door) for name in STRANGERS for door in (0, 1) if not door or name != "a peer that is a server, too"]


@pytest.mark.parametrize(("name", "door"), AT_EACH_DOOR)
def test_a_stranger_is_refused_and_nothing_it_says_is_heard(world: World, name: str, door: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, outcomes = STRANGERS[name]
    prepared, heard = prepare(world), []
    monkeypatch.setattr(NodeMachine, "receive", lambda machine, peer, frames, now, user=ANYBODY: heard.append((frames, user)))
    with Knocking(world.node.endpoints[door], prepared) as stranger:
        with contextlib.suppress(zmq.Again):  # it may have been refused by now, and has nobody to say it to
            stranger.socket.send_multipart(HELLO, zmq.NOBLOCK)
        assert stranger.outcome() in outcomes
    with Knocking(world.node.endpoints[door], shows(world.keys.pair, world.server)) as friend:
        friend.socket.send_multipart([b"from a friend"])
        assert friend.outcome() == "let in"
        eventually(lambda: heard)
    assert heard == [([b"from a friend"], world.server)]


def test_a_copy_of_one_directory_is_a_team(world: World) -> None:
    for endpoint in world.node.endpoints:
        with zmqkit.connect(endpoint, keys=world.keys.path) as mq:
            mq.queue("q").put(endpoint)
            d = mq.queue("q").get(timeout=SOON)
            assert d is not None and d.body == endpoint
            d.ack(wait=True)


def test_a_key_that_is_trusted_while_the_node_runs_comes_in_and_one_that_is_removed_does_not(world: World) -> None:
    world.told(NOT_TRUSTED)
    world.keys.trust(world.ada.pair.public, rights("ada", "all"))
    with world.connect() as mq:
        mq.queue("q").put(1)
        world.keys.forget([world.ada.pair.public], [])
        eventually(lambda: world.node._core.access.of(world.ada.pair.public) is None)
        world.told(NOT_TRUSTED)


def test_a_file_that_is_not_understood_changes_nothing_and_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.keys.trust(world.ada.pair.public, rights("ada", "all"))
    eventually(lambda: world.ada.pair.public in world.users())
    trusted = Path(world.keys.path, "trusted")
    with caplog.at_level(logging.ERROR, "zmqkit.keys"):
        trusted.write_text("garbage\n")
        eventually(lambda: caplog.records)
        looked = world.node._reactor._gate.look_at
        eventually(lambda: world.node._reactor._gate.look_at > looked + 0.2)
        assert [record.getMessage() for record in caplog.records] == [
            f"{trusted}: line 1: a line is KEY NAME and what this user may do; mend it, or copy it again; "
            "until then everybody keeps the rights they have"
        ]
        trusted.chmod(0o666)
        eventually(lambda: len(caplog.records) == 2)
        looked = world.node._reactor._gate.look_at
        eventually(lambda: world.node._reactor._gate.look_at > looked + 0.2)
        assert [f"chmod 600 {trusted}" in record.getMessage() for record in caplog.records] == [False, True]
    with world.connect() as mq:
        mq.queue("q").put(1)
    trusted.chmod(0o600)
    trusted.write_text("")
    eventually(lambda: world.users() == {world.server})


def test_a_node_in_asyncio_and_a_client_there_have_keys_too(tmp_path: Path) -> None:
    import asyncio

    path = made(tmp_path, "keys").path

    async def both() -> None:
        async with zmqkit.aio.Node("tcp://127.0.0.1:0", keys=path) as node:
            async with zmqkit.aio.connect(node.endpoint, keys=path) as mq:
                await mq.queue("q").put(1)
            assert not node.dropped

    asyncio.run(both())


def test_a_client_of_several_nodes_expects_of_each_its_own_key(tmp_path: Path) -> None:
    mine = made(tmp_path, "mine")
    nodes = []
    try:
        for name in ("a", "b"):
            keys = made(tmp_path, name)
            keys.trust(mine.pair.public, rights("me", "all"))
            nodes.append(zmqkit.Node("tcp://127.0.0.1:0", keys=keys.path, name=name))
            mine.pin(nodes[-1].endpoint, keys.pair.public)
        with zmqkit.connect(*[node.endpoint for node in nodes], keys=mine.path) as mq:
            eventually(lambda: all(session.is_up for session in mq._nodes.sessions))
    finally:
        for node in nodes:
            node.close()


# -- who it is ----------------------------------------------------------------------------------------------------------------


def test_every_message_has_its_key_for_a_user_whatever_its_sender_calls_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[bytes, str] = {}
    monkeypatch.setattr(
        NodeMachine, "receive", lambda machine, peer, frames, now, user=ANYBODY: heard.__setitem__(bytes(frames[0]), user)
    )
    world.keys.trust(world.ada.pair.public, rights("ada"))
    eventually(lambda: world.ada.pair.public in world.users())

    def as_somebody_else(socket: zmq.Socket[bytes]) -> None:
        shows(world.ada.pair, world.server)(socket)
        socket.setsockopt(zmq.ROUTING_ID, world.server.encode())
        socket.setsockopt(zmq.METADATA, b"X-User-Id:" + world.server.encode())

    with Knocking(world.endpoint, as_somebody_else) as ada, Knocking(world.endpoint, shows(world.keys.pair, world.server)) as own:
        for number in range(3):
            ada.socket.send_multipart([b"ada %d" % number, b"more"])
            own.socket.send(b"own %d" % number)
        eventually(lambda: len(heard) == 6)
    assert {user for said, user in heard.items() if said.startswith(b"ada")} == {world.ada.pair.public}
    assert {user for said, user in heard.items() if said.startswith(b"own")} == {world.server}


def test_nobody_can_guess_the_routing_id_of_a_link_and_come_by_it_when_that_has_ended(world: World) -> None:
    world.keys.trust(world.ada.pair.public, rights("ada"))
    eventually(lambda: world.ada.pair.public in world.users())
    host = world.node._reactor._host
    assert host is not None
    with world.connect(), world.connect():
        one, other = (peer for peer in host.machine._peers if not peer.startswith(LOCAL))
        assert one[1:5] != other[1:5] and len(one) == len(other) == 1 + sockets.ROUTING_ID_BYTES


def test_without_keys_and_inside_the_process_everybody_is_anybody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    users: set[str] = set()
    real = NodeMachine.hear

    def hear(machine: NodeMachine, peer: bytes, command: wire.Command, now: float, user: str = ANYBODY) -> None:
        users.add(user)
        real(machine, peer, command, now, user)

    monkeypatch.setattr(NodeMachine, "hear", hear)
    world.node.queue("q").put(1)
    with zmqkit.Node("tcp://127.0.0.1:0") as node, zmqkit.connect(node.endpoint) as mq:
        mq.queue("q").put(1)
    assert users == {ANYBODY}
    assert world.node._core.access.of(ANYBODY) is not None and world.node._core.access.of(sockets.NO_USER) is None


def test_what_libzmq_names_no_user_of_is_said_by_nobody() -> None:
    context: sockets.Context = zmq.Context()
    try:
        router, (endpoint,) = sockets.open_router(context, ["tcp://127.0.0.1:0"])
        with Knocking(endpoint, lambda socket: None) as peer:
            peer.socket.send_multipart([b"a", b"b"])
            assert router.poll(1000 * SOON)
            assert sockets.receive_from_user(router)[1:] == ([b"a", b"b"], sockets.NO_USER)
    finally:
        context.destroy(linger=0)


# -- the gate -----------------------------------------------------------------------------------------------------------------


def test_odd_questions_are_answered_no_and_the_gate_lives(world: World) -> None:
    asker = world.node._reactor._context.socket(zmq.DEALER)
    asker.linger = 0
    asker.connect(zap.ENDPOINT)
    try:
        for frames in ([b""], [b"", b""], [b"x"], [b"", b"1.0", b"x" * 256, b"", b"", b"", b"CURVE", b""]):
            asker.send_multipart(frames)  # these name no question to answer
        for frames in ODD.values():
            asker.send_multipart([b"", *frames])
            assert asker.poll(1000 * SOON)
            assert asker.recv_multipart()[3:] == [b"400", b"refused", b"", b""]
    finally:
        asker.close()
    with zmqkit.connect(world.endpoint, keys=world.keys.path, timeout=SOON) as mq:
        mq.queue("q").put(1)


def test_a_key_that_breaks_whoever_looks_it_up_breaks_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    access = world.node._core.access
    with monkeypatch.context() as broken:
        broken.setattr(access, "of", lambda user: 1 / 0)
        with Knocking(world.endpoint, shows(world.keys.pair, world.server)) as friend:
            assert friend.outcome() == "refused"
    with Knocking(world.endpoint, shows(world.keys.pair, world.server)) as friend:
        assert friend.outcome() == "let in"


def test_where_there_is_no_gate_nobody_comes_in() -> None:
    context: sockets.Context = zmq.Context()
    own = Pair.new()
    try:
        _, (endpoint,) = sockets.open_router(context, ["tcp://127.0.0.1:0"], own)
        with Knocking(endpoint, shows(own, own.public)) as friend:
            assert friend.outcome() == "hung up"
    finally:
        context.destroy(linger=0)


UNSAFE = {
    "no ZAP": lambda patch: patch.setattr(sockets.zap, "ENDPOINT", "inproc://elsewhere"),
    "the wrong domain": lambda patch: patch.setattr(sockets, "zap", SimpleNamespace(DOMAIN=b"global", ENDPOINT=zap.ENDPOINT)),
    "everybody is let in": lambda patch: patch.setattr(gate.Question, "answer", lambda asked, _: [b"1.0", asked.id, b"200", b"", b"", b""]),
    "nobody is let in": lambda patch: patch.setattr(gate.Question, "answer", lambda asked, _: [b"1.0", asked.id, b"400", b"", b"", b""]),
    "nothing is encrypted": lambda patch: patch.setattr(
        "zmqkit.reactor.open_router", lambda context, endpoints, keys: sockets.open_router(context, endpoints)
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_a_node_that_would_not_be_safe_refuses_to_start(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    UNSAFE[name](monkeypatch)
    path = made(tmp_path, "keys").path
    with pytest.raises(zmqkit.Error, match="is not safe, so nothing is served"):
        zmqkit.Node("tcp://127.0.0.1:0", keys=path)


def test_the_proof_at_the_start_is_counted_for_no_stranger(world: World) -> None:
    assert world.node.dropped == {}
    with Knocking(world.endpoint, shows(Pair.new(), world.server)) as stranger:
        assert stranger.outcome() == "refused"
    eventually(lambda: world.node.dropped == {"untrusted-key": 1})


def test_who_was_refused_is_in_the_log_once_with_what_lets_it_in(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "zmqkit.keys"):
        for _ in range(3):
            with Knocking(world.endpoint, shows(world.ada.pair, world.server)) as stranger:
                assert stranger.outcome() == "refused"
        eventually(lambda: world.node.dropped.get("untrusted-key") == 3)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"zmqkit keys trust '{world.ada.pair.public}' --keys {world.keys.path}" in line and "127.0.0.1" in line


# -- what a client is told ------------------------------------------------------------------------------------------------------


def test_a_client_whose_key_is_not_trusted_is_told_what_to_run_there(world: World) -> None:
    assert f"{NOT_TRUSTED}; run `zmqkit keys trust '{world.ada.pair.public}'" in world.told(NOT_TRUSTED)


def test_a_client_without_keys_is_told_to_come_with_some(world: World) -> None:
    """As certain, or as one of what it may be: that depends on who of the two looks first."""
    assert "connect with keys=DIR (--keys DIR)" in told(world.endpoint, None, WANTS_KEYS, NO_ZEROMQ)


def test_a_node_with_another_key_than_the_pinned_one_may_be_an_impostor(world: World) -> None:
    world.ada.pin(world.endpoint, Pair.new().public)
    world.keys.trust(world.ada.pair.public, rights("ada", "all"))
    text = world.told(NO_KEY)
    assert "impostor" in text and f"--node {world.endpoint}" in text


def test_a_client_that_wants_keys_never_talks_to_a_node_without(tmp_path: Path) -> None:
    path = made(tmp_path, "keys").path
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        assert "does not speak CURVE" in told(node.endpoint, path, WANTS_NONE, NO_KEY)
        assert node.dropped == {} and not node._core.clients.keys() - {node._session.machine.client}


def test_a_reason_that_was_certain_is_told_until_another_is_or_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [NO_KEY, NOT_TRUSTED, NO_KEY, None, NO_KEY, NEVER_UP, NO_KEY, WANTS_NONE, NO_KEY]
    reasons, monitor = Reasons(with_keys=True), zmq.Context.instance().socket(zmq.PAIR)
    told = []
    for reason in seen:
        monkeypatch.setattr("zmqkit.monitors.doubt", lambda monitor, with_keys, reason=reason: reason)
        told.append(reasons.latest(monitor))
    monitor.close()
    assert told == [NO_KEY, NOT_TRUSTED, NOT_TRUSTED, None, NOT_TRUSTED, NEVER_UP, NO_KEY, WANTS_NONE, WANTS_NONE]


@pytest.mark.parametrize("scheme", ["mdp", "ppp", "clone"])
def test_foreign_protocols_know_no_keys(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(zmqkit.Error, match="knows no keys"):
        zmqkit.connect(f"{scheme}://127.0.0.1:5555", keys=made(tmp_path, "keys").path)
