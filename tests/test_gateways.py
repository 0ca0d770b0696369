"""Textbook clients, textbook workers, and ours, on real sockets, in every pairing: who asks reaches who serves."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import ZMQKIT, environment, fails
from gateway_world import ANY, GatewayNode, eventually, serving, until_served
from textbook.lpclient import LazyPirateClient
from textbook.md2client import Majordomo2Client
from textbook.md2worker import Majordomo2Worker
from textbook.mdclient import MajordomoClient
from textbook.mdclient_dealer import MajordomoDealerClient
from textbook.mdworker import MajordomoWorker
from textbook.ppworker import PirateWorker

import zmqkit


@pytest.fixture
def node() -> Iterator[GatewayNode]:
    with GatewayNode() as node:
        yield node


def shout(body: list[bytes]) -> list[bytes]:
    return [frame.upper() for frame in body]


def upper(body: Any) -> Any:
    return body.upper() if isinstance(body, bytes) else [frame.upper() for frame in body]


# -- Majordomo --------------------------------------------------------------------------------------------------------------


def test_majordomo_clients_of_both_versions_reach_a_native_service(node: GatewayNode) -> None:
    with (
        serving(node, price=upper),
        MajordomoClient(node.mdp) as one,
        Majordomo2Client(node.mdp) as two,
        zmqkit.connect(node.endpoint) as mq,
    ):
        assert one.send(b"price", b"pear") == [b"PEAR"]
        assert one.send(b"price", b"pear", b"", b"plum") == [b"PEAR", b"", b"PLUM"]
        two.send(b"price", b"apple")
        assert list(two.parts(b"price")) == [[b"APPLE"]]
        assert mq.call("price", b"pear") == b"PEAR"  # as does whoever is at home here
        assert one.tried == 2


def test_a_native_caller_reaches_majordomo_workers_of_both_versions(node: GatewayNode) -> None:
    with (
        MajordomoWorker(node.mdp, b"one", shout),
        Majordomo2Worker(node.mdp, b"two", lambda body: [shout(body)]),
        zmqkit.connect(node.endpoint) as mq,
    ):
        assert mq.call("one", b"a") == node.call("one", b"a") == b"A"
        assert mq.call("two", b"b") == b"B"
        assert mq.call("one", [b"a", b"", b"c"]) == [b"A", b"", b"C"]
        assert [future.result() for future in [mq.call_soon("one", b"%d" % n) for n in range(100)]] == [b"%d" % n for n in range(100)]


def test_a_majordomo_client_of_either_version_reaches_a_worker_of_the_other(node: GatewayNode) -> None:
    with (
        MajordomoWorker(node.mdp, b"one", shout),
        Majordomo2Worker(node.mdp, b"two", lambda body: [[b"part"], shout(body)]),
        MajordomoClient(node.mdp) as first,
        Majordomo2Client(node.mdp) as second,
    ):
        second.send(b"one", b"a")
        assert list(second.parts(b"one")) == [[b"A"]]
        second.send(b"two", b"a")
        assert list(second.parts(b"two")) == [[b"part"], [b"A"]]
        assert first.send(b"one", b"a") == [b"A"]


def test_a_native_generator_answers_a_client_of_version_2_in_parts(node: GatewayNode) -> None:
    def count(body: bytes) -> Iterator[bytes]:
        for number in range(int(body)):
            yield b"%d" % number

    with serving(node, count=count), Majordomo2Client(node.mdp) as client:
        client.send(b"count", b"100")  # more than may be under way at once
        assert list(client.parts(b"count")) == [[b"%d" % number] for number in range(100)]
        client.send(b"count", b"0")
        assert list(client.parts(b"count")) == [[b""]]  # "precisely one FINAL", and it has a body


def test_a_native_stream_has_the_parts_of_a_worker_of_version_2(node: GatewayNode) -> None:
    answer = [[b"%d" % number] for number in range(100)]
    with Majordomo2Worker(node.mdp, b"count", lambda body: answer):
        until_served(node, "count")
        with node.stream("count", b"", timeout=10) as parts:
            assert list(parts) == [b"%d" % number for number in range(100)]
        assert node.call("count", b"") == [b"%d" % number for number in range(100)]  # who wants one answer gets a list


def test_a_worker_of_version_1_answers_a_stream_with_one_part(node: GatewayNode) -> None:
    with MajordomoWorker(node.mdp, b"echo"):
        until_served(node, "echo")
        assert list(node.stream("echo", b"x", timeout=10)) == [b"x"]


def test_a_client_that_sends_everything_before_it_reads_gets_everything(node: GatewayNode) -> None:
    with serving(node, echo=lambda body: body), MajordomoDealerClient(node.mdp) as client:
        for _ in range(2000):
            client.send(b"echo", b"x")
        assert [client.receive() for _ in range(2000)] == [[b"x"]] * 2000


# -- Paranoid Pirate --------------------------------------------------------------------------------------------------------


def test_a_lazy_pirate_reaches_a_native_service_named_ppp(node: GatewayNode) -> None:
    with serving(node, ppp=lambda body: body), LazyPirateClient(node.front) as client:
        assert [client.ask() for _ in range(20)] == list(range(20))
        assert client.tried == 20 and not client.malformed


def test_a_native_caller_and_both_kinds_of_clients_reach_a_paranoid_pirate(node: GatewayNode) -> None:
    with PirateWorker(node.back, lambda body: body), LazyPirateClient(node.front) as client, MajordomoClient(node.mdp) as majordomo:
        assert [client.ask() for _ in range(20)] == list(range(20))
        assert node.call("ppp", b"x") == b"x"
        assert majordomo.send(b"ppp", b"x") == [b"x"]


def test_a_body_of_many_frames_is_none_for_a_paranoid_pirate(node: GatewayNode) -> None:
    with PirateWorker(node.back) as worker:
        with pytest.raises(zmqkit.Timeout, match="one body frame"):
            node.call("ppp", [b"a", b"b"], timeout=5)
        assert node.call("ppp", b"a") == b"a"
        worker.seen("request", b"a")


# -- bodies -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (b"bytes", [b"bytes"]),
        (b"", [b""]),
        ([b"two", b"frames"], [b"two", b"frames"]),
        ("Größe", ["Größe".encode()]),
        ({"pear": 4, "ä": [1, None]}, ['{"pear": 4, "ä": [1, null]}'.encode()]),
        (4.5, [b"4.5"]),
        (None, [b"null"]),
        (["text", 1], [b'["text", 1]']),
        ([], [b"[]"]),
    ],
)
def test_what_a_body_is_on_the_other_side(node: GatewayNode, ours: Any, theirs: list[bytes]) -> None:
    told = list[list[bytes]]()

    def listen(body: list[bytes]) -> list[bytes]:
        told.append(body)
        return body

    with serving(node, ours=lambda body: ours), MajordomoWorker(node.mdp, b"theirs", listen), MajordomoClient(node.mdp) as client:
        assert client.send(b"ours", b"") == theirs
        assert node.call("theirs", ours) == (theirs[0] if len(theirs) == 1 else theirs)
        assert told == [theirs]


def test_a_native_failure_is_silence_for_a_foreign_client_and_counted(node: GatewayNode) -> None:
    def fail(body: bytes) -> bytes:
        raise RuntimeError("never")

    with serving(node, fail=fail), MajordomoClient(node.mdp, timeout_seconds=0.3, tries=2) as client:
        assert client.send(b"fail", b"") is None
        eventually(lambda: node.dropped == {"mdp:no-answer": 2})


# -- MMI --------------------------------------------------------------------------------------------------------------------


def test_mmi_knows_native_services_and_foreign_ones_and_nothing_else(node: GatewayNode) -> None:
    def asked(service: bytes) -> list[bytes] | None:
        return client.send(b"mmi.service", service)

    with MajordomoClient(node.mdp) as client, zmqkit.connect(node.endpoint) as mq:
        with serving(mq, price=upper), MajordomoWorker(node.mdp, b"echo"), PirateWorker(node.back):
            for service in (b"price", b"echo", b"ppp"):
                eventually(lambda service=service: asked(service) == [b"200"])
            assert asked(b"nobody") == [b"404"]
            with MajordomoClient(node.mdp, timeout_seconds=0.1, tries=1) as hopeful:
                assert hopeful.send(b"asked for", b"x") is None
            assert asked(b"asked for") == [b"404"]  # RFC 8 counts workers, not wishes
        eventually(lambda: asked(b"price") == [b"404"])
        assert client.send(b"mmi.other", b"") == [b"501"]


# -- opening them -----------------------------------------------------------------------------------------------------------


def test_a_gateway_that_cannot_open_leaves_nothing_behind(tmp_path: Path, node: GatewayNode) -> None:
    def opens(**options: Any) -> None:
        zmqkit.Node(ANY, journal=str(tmp_path / "journal"), **options).close()

    with pytest.raises(zmqkit.AddressInUse):
        opens(mdp=node.endpoint)
    with pytest.raises(zmqkit.AddressInUse):
        opens(mdp=ANY, ppp=(ANY, node.mdp))
    with pytest.raises(zmqkit.Error, match="cannot listen at nowhere"):
        opens(ppp=("nowhere", ANY))
    for wrong in ({"mdp": 5556}, {"ppp": ANY}, {"ppp": (ANY,)}, {"ppp": (ANY, None)}):
        with pytest.raises(ValueError, match="give"):
            opens(**wrong)
    opens(mdp=ANY, ppp=[ANY, ANY])  # the journal is free, and so are the threads
    assert zmqkit.Node().gateways == {}


def test_a_node_of_asyncio_has_gateways_too() -> None:
    async def main() -> None:
        async with zmqkit.aio.Node(mdp=ANY, ppp=(ANY, ANY), titanic=True) as node:
            assert await node.call("titanic.reply", b"never heard of") == [b"400"]
            assert [len(endpoints) for endpoints in node.gateways.values()] == [1, 2]
            with MajordomoWorker(node.gateways["mdp"][0], b"echo") as worker:
                worker.seen("connected")
                assert await node.call("echo", b"x") == b"x"
            assert node.dropped == {}

    asyncio.run(main())


def test_the_broker_opens_gateways_and_says_where(tmp_path: Path) -> None:
    command = [*ZMQKIT, "broker", "--journal", "none", "--bind", ANY, "--ppp", ANY, ANY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(ZMQKIT_BROKER_MDP=ANY))
    try:
        assert process.stdout
        ready, endpoint, mdp_word, mdp, ppp_word, front, back = process.stdout.readline().split()
        assert (ready, mdp_word, ppp_word) == ("ready", "mdp", "ppp")
        with MajordomoWorker(mdp, b"echo"), MajordomoClient(mdp) as client, PirateWorker(back), LazyPirateClient(front) as pirate:
            assert client.send(b"echo", b"x") == [b"x"]
            assert pirate.ask() == 0
            with zmqkit.connect(endpoint) as mq:
                assert mq.call("echo", b"x") == b"x"
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("option", [("--mdp", "tcp://*:0"), ("--ppp", ANY, "tcp://0.0.0.0:0")])
def test_no_gateway_listens_beyond_this_machine_unless_told_so(option: tuple[str, ...]) -> None:
    assert "--insecure" in fails(1, "broker", "--journal", "none", "--bind", ANY, *option)
