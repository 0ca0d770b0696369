"""`zmqkit probe` against real sockets: each protocol is known by what it says, and no peer comes to harm by being asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq
from cli_world import fails, succeeds
from handle_world import eventually
from textbook.lpclient import LazyPirateClient
from textbook.mdbroker import MajordomoBroker
from textbook.mdclient import MajordomoClient
from textbook.mdworker import MajordomoWorker
from textbook.peer import Peer, Raw
from textbook.ppqueue import PirateQueue
from textbook.ppworker import PirateWorker

import zmqkit

QUESTION = [b"", b"MDPC01", b"mmi.service", b"zmqkit.probe"]
KTHXBAI = [b"KTHXBAI", (7).to_bytes(8, "big"), bytes(16), b"", b"/"]
SHORT = ["--timeout", "300ms"]  # where nobody will answer
PATIENT = ["--timeout", "10s"]


def probe(endpoint: str, *options: str) -> dict[str, str]:
    (row,) = json.loads("".join(succeeds("probe", endpoint, "-o", "json", *(options or PATIENT))))
    assert row["endpoint"] == endpoint
    return row  # type: ignore[no-any-return]


def known(endpoint: str, *options: str) -> tuple[str, str]:
    row = probe(endpoint, *options)
    return row["protocol"], row["said"]


# -- each by its own words ------------------------------------------------------------------------------------------------


def test_a_zmqkit_node_is_known_with_its_name_and_keeps_nothing_of_the_probe() -> None:
    with zmqkit.Node("tcp://127.0.0.1:0", name="ada") as node:
        protocol, said = known(node.endpoint)
        assert (protocol, said) == ("ZMK1", "a zmqkit node, version 1, name ada, durability memory")
        machine = node._reactor._host.machine  # type: ignore[union-attr]
        eventually(lambda: len([client for client in machine.core.clients.values() if client.peer]) == 1)  # its own
        assert known(node.endpoint, "--ask", "zmk1", *PATIENT) == (protocol, said)


def test_a_majordomo_broker_is_known_and_serves_on() -> None:
    with MajordomoBroker() as broker, MajordomoWorker(broker.endpoint, b"echo") as worker, MajordomoClient(broker.endpoint) as client:
        assert client.send(b"echo", b"before") == [b"before"]
        assert known(broker.endpoint) == ("MDP 0.1", "a Majordomo broker: mmi.service answers 404")
        assert client.send(b"echo", b"after") == [b"after"] and worker.seen("request", [b"after"])


def test_a_majordomo_broker_of_the_second_kind_is_known_when_it_is_asked_for() -> None:
    with answering(lambda frames: [b"MDPC02", b"\x03", b"mmi.service", b"404"] if frames[0] == b"MDPC02" else None) as (endpoint, heard):
        assert known(endpoint, "--ask", "mdp2", *PATIENT) == ("MDP 0.2", "a Majordomo broker: mmi.service answers 404")
        assert heard == [[b"MDPC02", b"\x01", b"mmi.service", b"zmqkit.probe"]]


def test_the_backend_of_a_pirates_queue_is_known_by_its_heartbeats() -> None:
    with PirateQueue(beat_seconds=0.02) as queue:  # it beats when it hears somebody, if a beat has passed since it began
        protocol, said = known(queue.backend)
    assert protocol == "PPP" and "backend" in said


def test_the_frontend_of_a_pirates_queue_stays_silent_and_serves_on() -> None:
    with PirateQueue(beat_seconds=0.2) as queue, PirateWorker(queue.backend, beat_seconds=0.2) as worker:
        assert worker and probe(queue.frontend, *SHORT) | {"said": ""} == {
            "endpoint": queue.frontend, "protocol": "ZMTP 3.1", "zmtp": "3.1", "socket": "ROUTER", "mechanism": "NULL", "said": "",
        }  # fmt: skip
        assert "a Paranoid Pirate queue" in probe(queue.frontend, *SHORT)["said"]
        with LazyPirateClient(queue.frontend) as client:
            assert client.ask() == 0


def test_a_clone_server_is_known_by_its_three_ports_and_hears_nothing_but_its_own_request() -> None:
    with three_ports(zmq.PUB, zmq.PULL) as (endpoint, router, _), serving(router, lambda frames: KTHXBAI) as heard:
        assert known(endpoint) == ("CHP", "the snapshots of a clone server, which is at update 7")
        ((request, subtree),) = heard
        assert request == b"ICANHAZ?" and subtree.startswith(b"/zmqkit.probe/")


def test_two_ports_of_other_things_make_no_clone_server() -> None:
    with three_ports(zmq.PUB, zmq.PUSH) as (endpoint, router, _), serving(router, lambda frames: [*QUESTION[:3], b"404"]) as heard:
        assert known(endpoint)[0] == "MDP 0.1" and heard == [QUESTION]


def test_the_updates_of_a_clone_server_are_known_by_their_hugz() -> None:
    with Publisher([b"HUGZ", bytes(8), b"", b"", b""]) as publisher:
        protocol, said = known(publisher.endpoint)
    assert protocol == "CHP" and "one port below" in said


@pytest.mark.parametrize(
    ("kind", "name"), [(zmq.REP, "REP"), (zmq.PULL, "PULL"), (zmq.DEALER, "DEALER"), (zmq.PUB, "PUB"), (zmq.SUB, "SUB")]
)
def test_another_socket_is_plain_zmtp_and_is_told_nothing(kind: int, name: str) -> None:
    with zmq.Context() as context, context.socket(kind) as there:
        there.linger = 0
        row = probe(there.bind("tcp://127.0.0.1:0").addr, *SHORT)
        assert (row["protocol"], row["socket"], row["mechanism"]) == ("ZMTP 3.1", name, "NULL")
        if kind != zmq.PUB:
            assert not there.poll(100)


def test_an_answer_that_is_no_known_one_is_shown() -> None:
    with answering(lambda frames: [b"who are you?"]) as (endpoint, _):
        assert known(endpoint) == ("ZMTP 3.1", "it answers [b'who are you?']")


@pytest.mark.parametrize("mechanism", ["CURVE", "PLAIN"])
def test_what_asks_for_a_key_is_known_to_do_so(mechanism: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as there:
        if mechanism == "CURVE":
            there.curve_server, (_, there.curve_secretkey) = True, zmq.curve_keypair()
        else:
            there.plain_server = True
        row = probe(there.bind("tcp://127.0.0.1:0").addr)
    assert (row["mechanism"], row["socket"]) == (mechanism, None) and "only who has a key" in row["said"]


@pytest.mark.parametrize(("greeting", "version"), [(b"\x01\x00", "1.0"), (b"\xff" + bytes(7) + b"\x01\x7f\x01\x06", "2.0")])
def test_a_zeromq_of_long_ago_is_known_by_its_greeting(greeting: bytes, version: str) -> None:
    with listening(greeting) as endpoint:
        assert known(endpoint) == (f"ZMTP {version}", "a ZeroMQ of long ago: nothing was asked")


def test_a_file_is_an_address_too(tmp_path: Path) -> None:
    with zmqkit.Node(f"ipc://{tmp_path}/node", name="ada") as node:
        assert known(node.endpoint)[0] == "ZMK1"


def test_the_gateways_of_a_node_are_known_as_what_they_stand_for_and_take_nobody_for_a_worker() -> None:
    ends = "tcp://127.0.0.1:0"
    with zmqkit.Node(ends, mdp=ends, ppp=(ends, ends)) as node:
        (mdp,), (_, backend) = node.gateways["mdp"], node.gateways["ppp"]
        assert known(mdp)[0] == "MDP 0.1" and known(mdp, "--ask", "mdp2", *PATIENT)[0] == "MDP 0.2"
        assert "a Paranoid Pirate queue" in known(backend, *SHORT)[1] and node.dropped["ppp:stranger"] == 1


@pytest.mark.parametrize("question", ["mdp2", "chp"])
def test_a_node_that_is_asked_something_else_is_known_all_the_same(question: str) -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        assert known(node.endpoint, "--ask", question, *PATIENT) == ("ZMK1", "a zmqkit node")


# -- manners ------------------------------------------------------------------------------------------------------------


def test_one_question_is_asked_and_never_is_ready_said() -> None:
    with answering(lambda frames: None) as (endpoint, heard):
        probe(endpoint, *SHORT)
        assert heard == [QUESTION]


def test_with_ask_none_nothing_is_said_at_all() -> None:
    with answering(lambda frames: None) as (endpoint, heard):
        assert known(endpoint, "--ask", "none", *PATIENT) == ("ZMTP 3.1", "nothing was asked")
        with Raw(endpoint) as later:
            later.send(b"end")
            eventually(lambda: [b"end"] in heard)
        assert heard == [[b"end"]]


# -- nothing there --------------------------------------------------------------------------------------------------------


def test_a_table_is_for_people() -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        head, row = succeeds("probe", node.endpoint)
    assert head.split() == ["PROTOCOL", "SOCKET", "MECHANISM", "SAID"] and row.split()[:3] == ["ZMK1", "ROUTER", "NULL"]


def test_nobody_there_is_one_line_with_the_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        assert f"no ZeroMQ at {endpoint}: connection refused; nobody listens there" in fails(1, "probe", endpoint)
    assert "no ZeroMQ at ipc:///no/such/file: no such file" in fails(1, "probe", "ipc:///no/such/file")


@pytest.mark.parametrize(("words", "told"), [
    (b"SSH-2.0-OpenSSH_9.6\r\n", "it answers b'SS"), (b"", "it takes connections and says nothing"), (None, "it hangs up"),
    (b"\xff" * 20, "which is no ZeroMQ"),
])  # fmt: skip
def test_what_is_no_zeromq_is_one_line_with_what_it_did(words: bytes | None, told: str) -> None:
    with listening(words) as endpoint:
        assert told in fails(1, "probe", endpoint, *SHORT)


def test_what_is_no_address_is_said_so() -> None:
    assert "that is no address" in fails(1, "probe", "nonsense")


# -- the stage ------------------------------------------------------------------------------------------------------------


@contextmanager
def serving(router: zmq.Socket[bytes], answer: Callable[[list[bytes]], list[bytes] | None]) -> Iterator[list[list[bytes]]]:
    """A ROUTER that answers each message as told; what it heard."""
    heard: list[list[bytes]] = []
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            if router.poll(20):
                peer, *frames = router.recv_multipart()
                heard.append(frames)
                told = answer(frames)
                if told is not None:
                    router.send_multipart([peer, *told])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()


@contextmanager
def answering(answer: Callable[[list[bytes]], list[bytes] | None]) -> Iterator[tuple[str, list[list[bytes]]]]:
    with Raw(kind=zmq.ROUTER) as raw, serving(raw.socket, answer) as heard:
        yield raw.endpoint, heard


@contextmanager
def three_ports(second: int, third: int) -> Iterator[tuple[str, zmq.Socket[bytes], list[zmq.Socket[bytes]]]]:
    """A ROUTER, and the other two on the next two ports."""
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        for _ in range(100):
            sockets = [context.socket(kind) for kind in (zmq.ROUTER, second, third)]
            for one in sockets:
                one.linger = 0
            port = sockets[0].bind_to_random_port("tcp://127.0.0.1")
            try:
                for distance in (1, 2):
                    sockets[distance].bind(f"tcp://127.0.0.1:{port + distance}")
            except zmq.ZMQError:  # taken, or no port at all
                for one in sockets:
                    one.close()
                continue
            for one in sockets:
                stack.enter_context(one)
            yield f"tcp://127.0.0.1:{port}", sockets[0], sockets[1:]
            return
    raise AssertionError("no three free ports in a row")


class Publisher(Peer):
    """Publishes one message ten times a second."""

    def __init__(self, message: list[bytes]) -> None:
        super().__init__()
        self._message, self._socket = message, self.context.socket(zmq.PUB)
        self._socket.bind("tcp://127.0.0.1:0")
        self._sockets.append(self._socket)
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def loop(self) -> None:
        while True:
            self.wait(0.1)
            self._socket.send_multipart(self._message)


@contextmanager
def listening(words: bytes | None) -> Iterator[str]:
    """A plain TCP server that says this to whoever comes; None: it hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    there, _ = server.accept()
                except OSError:
                    return
                if words is None:
                    there.close()
                else:
                    there.sendall(words)
                    taken.append(there)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for there in taken:
                there.close()
