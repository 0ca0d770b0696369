"""Textbook Clone clients at a node, on real sockets: they, late joiners among them, and native peers share one topic."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq
from cli_world import ZMQKIT, environment, fails, succeeds
from gateway_world import ANY, in_thread
from textbook.cloneclient import CloneClient, CloneClient5, CloneClient6
from textbook.peer import Raw

import zmqkit
from zmqkit import clone_bridge
from zmqkit.cli.processes import Broker, next_line

SOON = 30.0
UUID = b"U" * 16
clients = pytest.mark.parametrize("kind", [CloneClient, CloneClient5, CloneClient6])


def until(question: Callable[[], Any]) -> None:
    end = time.monotonic() + SOON
    while not question():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@pytest.fixture
def node() -> Iterator[zmqkit.Node]:
    with zmqkit.Node(clone=ANY) as node:
        yield node


def place(node: zmqkit.Node, step: int = 0) -> str:
    head, _, port = node.gateways["clone"][0].rpartition(":")
    return f"{head}:{int(port) + step}"


def native(node: zmqkit.Node) -> dict[str, Any]:
    with node.topic("clone").subscribe() as sub:
        assert sub.wait_ready(SOON)
        return sub.state.copy()


# -- what is shared -----------------------------------------------------------------------------------------------------------


def first_set(client: CloneClient, key: bytes, value: bytes, **more: str) -> tuple[bytes, tuple[Any, ...]]:
    """A PUB that does not know its collector yet drops what it is told: it is told again. Returns the uuid, and what was heard."""
    for _ in range(3):
        uuid = client.set(key, value, **more)
        with suppress(AssertionError):
            return uuid, client.seen("update", key, within=SOON / 2)
    raise AssertionError("no set was ever heard")


@clients
def test_a_client_gets_what_holds_and_then_what_changes_and_sets_for_all(node: zmqkit.Node, kind: type[CloneClient]) -> None:
    topic = node.topic("clone")
    topic.publish("/client/old", b"old", timeout=SOON)
    topic.publish("/other/old", b"old", timeout=SOON)
    everything = {b"/client/old": b"old", b"/other/old": b"old"}
    with kind(place(node)) as client, CloneClient(place(node)) as other, topic.subscribe(start="now") as sub:
        loaded = client.seen("loaded", 2, within=SOON)
        assert loaded[2] == (client.subtree or b"")
        assert client.values == (everything if client.subtree is None else {b"/client/old": b"old"})
        other.seen("loaded", within=SOON)
        uuid, own = first_set(client, b"/client/new", b"\0\xff", color="red")
        heard = [own, other.seen("update", b"/client/new", within=SOON)]
        assert heard == [("update", b"/client/new", struct.pack("!q", 3), uuid, b"color=red\n", b"\0\xff")] * 2
        event = sub.get(SOON)
        assert event is not None and (event.key, event.value, event.seq) == ("/client/new", b"\0\xff", 3)
        topic.publish("/other/new", b"x", timeout=SOON)
        topic.publish("/client/old", b"newer", timeout=SOON)
        client.set(b"/client/new", b"")
        client.seen("update", b"/client/new", within=SOON)
        other.seen("update", b"/client/new", struct.pack("!q", 6), within=SOON)
        assert client.values == {key: value for key, value in other.values.items() if key.startswith(client.subtree or b"")}
        assert other.values == {b"/client/old": b"newer", b"/other/old": b"old", b"/other/new": b"x"}
        assert native(node) == {key.decode(): value for key, value in other.values.items()}
    assert node.dropped == {}


@pytest.mark.parametrize(
    ("value", "seen"),
    [(b"bytes", b"bytes"), ("Größe", "Größe".encode()), ({"pear": 4, "ä": [1, None]}, '{"pear": 4, "ä": [1, null]}'.encode()),
     (4.5, b"4.5"), (None, b"null"), ([b"a", b"b"], b'["a", "b"]')],
)  # fmt: skip
def test_what_clients_see_of_a_native_value(node: zmqkit.Node, value: Any, seen: bytes) -> None:
    node.topic("clone").publish("k", value, timeout=SOON)
    with CloneClient(place(node)) as client:
        client.seen("loaded", 1, within=SOON)
        assert client.values == {b"k": seen}
        node.topic("clone").publish("l", value, timeout=SOON)
        assert client.seen("update", b"l", within=SOON)[5] == seen


def test_a_ttl_ends_a_value_for_all_and_properties_come_back_until_then(node: zmqkit.Node) -> None:
    with CloneClient(place(node)) as client:
        client.seen("loaded", within=SOON)
        began = time.time()
        uuid = client.set(b"short", b"v", ttl="2", color="red")
        told = client.seen("update", b"short", within=SOON)
        assert told[3:5] == (uuid, b"color=red\nttl=2\n")
        node.topic("clone").publish("shorter", b"w", ttl=1.5, timeout=SOON)
        assert client.seen("update", b"shorter", within=SOON)[4] == b"ttl=1.5\n"
        with Raw(place(node)) as late:
            late.send(b"ICANHAZ?", b"short")
            entries = {frames[0]: frames for frames in (late.receive(SOON) for _ in range(3))}
        end = float(entries[b"short"][3].removeprefix(b"color=red\nttl="))
        assert began + 2 <= end <= time.time() + 2 and entries[b"short"][2] == uuid
        for key in (b"short", b"shorter"):
            until(lambda key=key: client.values.get(key) is None)
        assert native(node) == {}


def test_other_names_and_durability_are_the_topics(tmp_path: Path) -> None:
    with zmqkit.Node(clone=ANY, clone_topic="prices", journal=str(tmp_path / "journal")) as node:
        node.declare("prices", zmqkit.TopicPolicy(durability="memory"))
        with CloneClient(place(node)) as client:
            client.seen("loaded", within=SOON)
            client.set(b"k", b"v")
            client.seen("update", b"k", within=SOON)
        assert [info.name for info in node.topics()] == ["prices"]


def test_a_subscriber_that_is_idle_hears_hugz(node: zmqkit.Node) -> None:
    with CloneClient6(place(node)) as client:
        client.seen("loaded", within=SOON)
        for _ in range(3):
            client.seen("hugz", within=SOON)


# -- who joins late -------------------------------------------------------------------------------------------------------------


def test_late_joiners_miss_nothing_while_updates_go_on(node: zmqkit.Node) -> None:
    """Two connections race: the snapshot is asked for at once, and the subscription may come after it."""
    topic, ended, joined = node.topic("clone"), list[bool](), list[CloneClient]()

    def publish() -> None:
        number = 0
        while not ended:
            while number > 1000 + min((client.sequence for client in list(joined)), default=number):
                time.sleep(0.01)  # all these clients share one interpreter: what they cannot keep up with would wait for minutes
            for _ in range(20):
                number += 1
                topic.publish_soon(f"k{number % 50}", b"%d" % number)
            time.sleep(0.01)
        topic.publish("end", b"%d" % number, timeout=SOON)

    publisher = in_thread(publish)
    try:
        with ExitStack() as stack:
            for _ in range(40):
                client = stack.enter_context(CloneClient(place(node)))
                client.seen("loaded", within=SOON)
                joined.append(client)
            ended.append(True)
            publisher.join(SOON)
            for client in joined:
                client.seen("update", b"end", within=SOON)
            truth = {key.encode(): value for key, value in native(node).items()}
            for client in joined:
                assert client.values == truth
    finally:
        ended.append(True)


def test_a_subscription_that_comes_after_its_snapshot_misses_nothing(node: zmqkit.Node) -> None:
    topic = node.topic("clone")
    topic.publish("k", b"1", timeout=SOON)
    with Raw(place(node)) as snapshots, zmq.Context() as context, context.socket(zmq.SUB) as updates:
        snapshots.send(b"ICANHAZ?", b"")
        assert [snapshots.receive(SOON)[4], snapshots.receive(SOON)[1]] == [b"1", struct.pack("!q", 1)]
        topic.publish("k", b"2", timeout=SOON)
        topic.publish("k", b"3", timeout=SOON)
        updates.linger = 0
        updates.subscribe(b"k")
        updates.connect(place(node, 1))
        values = []
        while b"3" not in values:
            assert updates.poll(SOON * 1000)
            _, seq, _, _, value = updates.recv_multipart()
            values += [value] if seq > struct.pack("!q", 1) else []
        assert values == [b"2", b"3"]


def test_a_burst_comes_whole_to_who_reads(node: zmqkit.Node) -> None:
    """More than a subscription's window, less than what may wait for a subscriber."""
    with CloneClient(place(node)) as client:
        client.seen("loaded", within=SOON)
        node.topic("clone").publish_many([(f"k{number}", b"%d" % number * 70) for number in range(30_000)], timeout=SOON)
        client.seen("update", b"k29999", within=SOON)
        assert len(client.values) == 30_000


@pytest.mark.parametrize("kind", [CloneClient, CloneClient6])
def test_what_a_client_sets_in_a_burst_is_stored_whole(node: zmqkit.Node, kind: type[CloneClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone_bridge, "WAITING_BYTES_MAX", 10_000)  # so that its port is read only now and then
    count = 20_000 if kind.setter == zmq.PUSH else 500  # a PUB of ZeroMQ's drops what is more than its 1,000
    with kind(place(node)) as client:
        client.seen("loaded", within=SOON)
        if (
            kind.setter == zmq.PUB
        ):  # whether its collector is subscribed, a publisher cannot know: the Guide's client loses what it sets before
            until(lambda: client.set(b"/client/probe", b"x") and b"/client/probe" in client.values)
        for number in range(count):
            client.set(b"/client/%d" % number, b"%d" % number)
        client.seen("update", b"/client/%d" % (count - 1), within=SOON)
        until(lambda: len(client.values) >= count)
        assert {key for key in client.values if key != b"/client/probe"} == {b"/client/%d" % number for number in range(count)}


# -- deaths ----------------------------------------------------------------------------------------------------------------------


class CloneBroker(Broker):
    """A `zmqkit broker --clone`, at the same ports again after a kill."""

    clone = ANY

    def start(self) -> float:
        self._command = [word for word in self._command if word not in ("--clone", self.clone)] + ["--clone", self.clone]
        with self._log.open("a") as log:
            command = [*self._command, "--bind", self.endpoint]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout
        ready, self.endpoint, word, clone = next_line(self.process).split()
        assert (ready, word) == ("ready", "clone")
        self._command = [*self._command[:-1], clone]
        self.clone = clone
        return 0.0


class PatientClient(CloneClient6):
    server_seconds = 2 * SOON  # it does not ask again, however long the node takes to come back


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_over_kills_of_the_node_clients_and_native_peers_see_one_linear_truth(tmp_path: Path) -> None:
    broker = CloneBroker(tmp_path / "journal", tmp_path / "node.log")
    broker.start()
    try:
        with CloneClient(broker.clone) as client, PatientClient(broker.clone, b"") as pub, zmqkit.connect(broker.endpoint) as mq:
            client.seen("loaded", within=SOON)
            pub.seen("loaded", within=SOON)
            topic = mq.topic("clone")
            for round in range(3):
                futures = [topic.publish_soon(f"n{number % 7}", b"%d.%d" % (round, number)) for number in range(100)]
                for number in range(100):
                    client.set(b"c%d" % (number % 5), b"%d.%d" % (round, number))
                futures[round * 40].result(SOON)
                broker.kill()
                broker.start()
                for future in futures:
                    future.result(SOON)
                topic.publish(f"round {round}", b"done", timeout=SOON)
                client.seen("update", b"round %d" % round, within=SOON)
                pub.seen("update", b"round %d" % round, within=SOON)
            head = topic.info(SOON).seq
            until(lambda: client.sequence == head and pub.sequence == head)
            with topic.subscribe(start="beginning") as sub:
                events = [sub.get(SOON) for _ in range(head)]
                log = {event.seq: (event.key.encode(), event.value) for event in events if event is not None}
            with topic.subscribe() as sub:
                assert sub.wait_ready(SOON)
                state = {key.encode(): value for key, value in sub.state.copy().items()}
            assert sorted(log) == list(range(1, head + 1))
            for peer in (client, pub):
                told = [(struct.unpack("!q", frames[1])[0], (frames[0], frames[4])) for frames in peer.told]
                assert [number for number, _ in told] == list(range(head - len(told) + 1, head + 1)), (
                    "nothing is missing, nothing comes twice"
                )
                assert all(log[number] == update for number, update in told)
                assert peer.values == state
    finally:
        broker.stop()


# -- opening it ------------------------------------------------------------------------------------------------------------------


def test_a_probe_knows_the_ports_of_a_clone_server(node: zmqkit.Node) -> None:
    node.topic("clone").publish("k", b"v", timeout=SOON)
    [line] = succeeds("probe", place(node), "-o", "jsonl", "--timeout", "10s")
    assert '"CHP"' in line and "which is at update 1" in line
    [line] = succeeds("probe", place(node, 1), "-o", "jsonl", "--timeout", "10s")
    assert '"CHP"' in line and "one port below" in line


@pytest.mark.parametrize("wrong", [5570, "tcp://127.0.0.1", "ipc:///tmp/x:1", "tcp://127.0.0.1:65534", "tcp://127.0.0.1:port", ""])
def test_what_is_no_endpoint_for_three_ports_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(ValueError, match="next two ports"):
        zmqkit.Node(clone=wrong)
    with pytest.raises(ValueError, match="a topic's name"):
        zmqkit.Node(clone=ANY, clone_topic="")


@pytest.mark.parametrize("step", [0, 1, 2])
def test_each_of_the_three_ports_must_be_free_and_what_cannot_open_leaves_nothing_behind(
    node: zmqkit.Node, step: int, tmp_path: Path
) -> None:
    host, _, port = place(node).rpartition(":")
    wanted = f"{host}:{int(port) + step}"
    with pytest.raises(zmqkit.AddressInUse):
        zmqkit.Node(clone=wanted, journal=str(tmp_path / "journal"))
    zmqkit.Node(clone=ANY, journal=str(tmp_path / "journal")).close()


def test_a_node_of_asyncio_has_it_too() -> None:
    async def main() -> None:
        async with zmqkit.aio.Node(clone=ANY, clone_topic="t") as node:
            await node.topic("t").publish("k", b"v", timeout=SOON)
            with CloneClient(node.gateways["clone"][0]) as client:
                await asyncio.to_thread(client.seen, "loaded", 1, within=SOON)
                assert client.values == {b"k": b"v"}

    asyncio.run(main())


def test_the_broker_opens_it_and_says_where() -> None:
    command = [*ZMQKIT, "broker", "--journal", "none", "--bind", ANY, "--clone-topic", "prices"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(ZMQKIT_BROKER_CLONE=ANY))
    try:
        assert process.stdout
        ready, endpoint, word, clone = process.stdout.readline().split()
        assert (ready, word) == ("ready", "clone")
        with zmqkit.connect(endpoint) as mq, CloneClient5(clone) as client:
            client.seen("loaded", within=SOON)
            mq.topic("prices").publish("/client/k", b"v", timeout=SOON)
            client.seen("update", b"/client/k", within=SOON)
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.communicate()
    assert "--insecure" in fails(1, "broker", "--journal", "none", "--bind", ANY, "--clone", "tcp://*:0")


# -- strangers -------------------------------------------------------------------------------------------------------------------


def test_rubbish_at_any_of_the_ports_is_counted_and_harms_nobody(node: zmqkit.Node) -> None:
    with CloneClient(place(node)) as honest, Raw(place(node)) as asks, Raw(place(node, 2), zmq.PUSH) as pushes:
        honest.seen("loaded", within=SOON)
        asks.send(b"WHO ARE YOU?")
        pushes.send(b"k", b"v")
        for step in (1, 2):
            with socket.create_connection(("127.0.0.1", int(place(node, step).rpartition(":")[2]))) as stranger:
                stranger.settimeout(SOON)
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while stranger.recv(1000):
                    pass  # our greeting, and then the end
        with Raw(place(node, 1), zmq.PAIR):
            until(lambda: node.dropped.get("clone:another-socket-type"))
        honest.set(b"k", b"v")
        honest.seen("update", b"k", within=SOON)
        until(lambda: {"clone:bad-request", "clone:bad-frames", "clone:not-zmtp-3"} <= node.dropped.keys())
        assert node.dropped["clone:not-zmtp-3"] == 2


def test_a_subscriber_that_does_not_read_is_given_up_and_others_hear_everything(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.ports.UNREAD_BYTES_MAX", 1024 * 1024)
    with CloneClient(place(node)) as honest, zmq.Context() as context, context.socket(zmq.SUB) as deaf:
        honest.seen("loaded", within=SOON)
        deaf.linger, deaf.rcvhwm, deaf.rcvbuf = 0, 1, 4096
        deaf.subscribe(b"")
        deaf.connect(place(node, 1))
        assert deaf.poll(SOON * 1000), "its subscription stands"
        number = 0
        while "clone:the-peer-does-not-read" not in node.dropped:
            number += 1
            assert number < 1000, "it was never given up"
            node.topic("clone").publish(f"k{number % 10}", b"%d" % number * 20_000, timeout=SOON)
            honest.seen("update", within=SOON)
        node.topic("clone").publish("end", b"end", timeout=SOON)
        honest.seen("update", b"end", within=SOON)
        assert [struct.unpack("!q", frames[1])[0] for frames in honest.told] == list(range(1, number + 2))


def test_who_asks_in_a_loop_and_does_not_read_delays_nobody(node: zmqkit.Node) -> None:
    node.topic("clone").publish_many([(f"k{number}", b"x" * 1000) for number in range(5_000)], timeout=SOON)
    with Raw(place(node)) as greedy:
        greedy.socket.rcvhwm = 1
        for _ in range(1_000):
            greedy.send(b"ICANHAZ?", b"")
        until(lambda: node.dropped.get("clone:asked-again", 0) > 500)
        with CloneClient(place(node)) as honest:
            honest.seen("loaded", within=SOON)
            assert len(honest.values) == 5_000


def test_a_textbook_subscriber_that_was_cut_off_hears_what_it_missed(node: zmqkit.Node) -> None:
    """ZeroMQ connects it again, and tells it nothing of that."""
    reactor = node._reactor
    with CloneClient(place(node)) as client:
        client.seen("loaded", within=SOON)
        node.topic("clone").publish("k", b"1", timeout=SOON)
        client.seen("update", b"k", within=SOON)
        bridge: Any = node._gateways._bridges["clone"]

        def cut(now: float) -> None:
            for peer in list(bridge._clone._subscribers):
                bridge._clone._end(1, peer, "cut-by-the-test")

        reactor.call(cut)
        for number in range(2, 12):
            node.topic("clone").publish("k", b"%d" % number, timeout=SOON)
        until(lambda: client.sequence == 11)
        assert [frames[4] for frames in client.told] == [b"%d" % number for number in range(1, 12)]
