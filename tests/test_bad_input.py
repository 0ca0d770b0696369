"""Peers that lie, babble, flood and vanish, on real sockets. The node answers or counts what it drops, it never ends, and an honest
producer beside them is confirmed within a second throughout."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import count
from time import monotonic
from typing import Any, TypeVar

import pytest
import zmq
from test_wire_fuzz import mutate
from wire_values import COMMANDS, as_bytes

from zmqkit import framing, sockets, wire
from zmqkit.journal import MemoryLog
from zmqkit.machines.node import NodeMachine
from zmqkit.parcel import Parcel
from zmqkit.reactor import Reactor

SERVED_SECONDS = 5.0  # a confirm waits no longer, on a machine that may be busy with more than this
C = TypeVar("C")


class Peer:
    """A DEALER that may send anything."""

    def __init__(self, endpoint: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 5000
        self.socket.sndtimeo = 5000
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(endpoint)
        self.client = os.urandom(16)
        self._numbers = count(1)

    def raw(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def say(self, *commands: wire.Command) -> None:
        for command in commands:
            self.raw(*as_bytes(framing.encode(command)))

    def hear(self, kind: type[C]) -> C:
        """The next command of that kind; what comes before it is passed over."""
        while True:
            command = framing.decode(self.socket.recv_multipart())
            if isinstance(command, kind):
                return command

    def hello(self, link: int = 1) -> wire.Welcome:
        self.say(wire.Hello([1], self.client, link, b"", 0))
        return self.hear(wire.Welcome)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Answered behind everything that was sent before it."""
        number = next(self._numbers)
        self.say(wire.Ask(number, number, verb, arguments))
        told = self.hear(wire.Told)
        assert told.number == number
        return told.result

    def put(self, first: int, queue: str = "q", base: int | None = None, body: bytes = b"x") -> None:
        self.say(wire.Put(queue, first, 1, first if base is None else base, Parcel.of([body])))

    def disconnected(self) -> bool:
        return bool(self.monitor.poll(5000))

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close()
        self.context.term()


class Honest(threading.Thread):
    """Puts one message after the other and measures how long each confirm takes."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.endpoint = endpoint
        self.confirmed = 0
        self.slowest = 0.0
        self.error: BaseException | None = None
        self.ended = False
        self.progress = threading.Condition()

    def run(self) -> None:
        peer = Peer(self.endpoint)
        try:
            peer.hello()
            beat = 0
            for first in count(1):
                started = monotonic()
                if int(started) != beat:
                    beat = int(started)
                    peer.say(wire.Ready(first, 0, [], 0, []))
                peer.put(first, "honest")
                confirm = peer.hear(wire.Confirm)
                assert (confirm.first, confirm.qseq) == (first, first)
                with self.progress:
                    self.slowest = max(self.slowest, monotonic() - started)
                    self.confirmed = first
                    self.progress.notify_all()
                    self.progress.wait(0.002)
                if self.ended:
                    return
        except BaseException as error:
            self.error = error
        finally:
            peer.close()

    def serve(self, puts: int = 20) -> None:
        """Returns when so many more puts are confirmed."""
        with self.progress:
            goal = self.confirmed + puts
            assert self.progress.wait_for(lambda: self.confirmed >= goal or self.error is not None, 10.0), "nothing is confirmed any more"
        assert self.error is None, f"the honest producer was not served: {self.error!r}"


def read_until(stranger: socket.socket, enough: Callable[[bytes], bool]) -> bytes:
    """What the node says, until it is enough or the node hangs up."""
    data = b""
    while not enough(data):
        try:
            more = stranger.recv(4096)
        except ConnectionResetError:
            break
        if not more:
            break
        data += more
    return data


def never(data: bytes) -> bool:
    return False


class World:
    def __init__(self) -> None:
        log = MemoryLog()
        self.machine = NodeMachine(log.node, log.epoch, durability="memory", jitter=lambda: 0.5)
        self.reactor = Reactor("victim")
        (self.endpoint,) = self.reactor.host(self.machine, log, ["tcp://127.0.0.1:0"])
        self.address = ("127.0.0.1", int(self.endpoint.rpartition(":")[2]))
        self.reactor.start()
        self.honest = Honest(self.endpoint)
        self.honest.start()
        self._open: list[Any] = []

    @property
    def dropped(self) -> dict[str, int]:
        return self.machine.core.dropped

    def peer(self) -> Peer:
        peer = Peer(self.endpoint)
        self._open.append(peer)
        return peer

    def member(self) -> Peer:
        peer = self.peer()
        peer.hello()
        return peer

    def tcp(self) -> socket.socket:
        stranger = socket.create_connection(self.address, timeout=5.0)
        self._open.append(stranger)
        return stranger

    def zmtp(self, identity: bytes = b"", mechanism: bytes = b"NULL") -> socket.socket:
        """A TCP connection on which a DEALER of that routing id has shaken hands."""
        stranger = self.tcp()
        stranger.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32))
        said = read_until(stranger, lambda data: len(data) >= 64)
        properties = [(b"Socket-Type", b"DEALER"), (b"Identity", identity)]
        body = b"\x05READY" + b"".join(bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in properties)
        stranger.sendall(b"\x06" + struct.pack(">Q", len(body)) + body)
        read_until(stranger, lambda data: b"READY" in said + data)
        return stranger

    def settled(self) -> None:
        """Everything that has arrived was dealt with, by a node that lives."""
        done = threading.Event()
        self.reactor.call(lambda now: done.set())
        assert done.wait(5.0), "the node has ended"
        self.honest.serve()

    def close(self) -> None:
        self.honest.serve()
        self.honest.ended = True
        self.honest.join(10.0)
        for peer in self._open:
            peer.close()
        alive = not self.reactor.closed
        self.reactor.close(1.0)
        assert alive, "the node has ended"
        assert self.honest.slowest < SERVED_SECONDS, f"a confirm took {self.honest.slowest:.2f} s"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.honest.serve()
    yield world
    world.close()


# -- strangers ----------------------------------------------------------------------------------------------------------

GARBAGE: dict[str, list[bytes]] = {
    "noise": [bytes(range(256))],
    "an empty frame": [b""],
    "the textbook's worker": [b"", b"MDPW01", b"\x01", b"echo"],
    "a request of REQ": [b"", b"hello"],
    "an unknown kind": [b"Z1\x63\x01\x00\x90"],
    "a HELLO cut short": [as_bytes(framing.encode(COMMANDS["hello"]))[0][:-1]],
    "a HELLO with 8,000 versions": [b"Z1\x01\xf3\x1f\x95\xdc\x1f\x40" + b"\x02" * 8000 + b"\xc4\x10" + bytes(16) + b"\x01\xc4\x00\x00"],
    "a header that is a number": [b"Z1\x0e\x01\x00\x05", b"\x80"],
    "arrays in arrays": [b"Z1\x01\xff\x1f" + b"\xdc\x1f\x00" * 2730 + b"\x00"],
    "a thousand frames": [b"x"] * 1000,
    "a megabyte of nothing": [bytes(1024 * 1024)],
}


@pytest.mark.parametrize("title", GARBAGE)
def test_garbage_is_answered_nosession_and_counted(world: World, title: str) -> None:
    stranger = world.peer()
    stranger.raw(*GARBAGE[title])
    assert stranger.hear(wire.NoSession) == wire.NoSession()
    assert world.dropped["malformed"] == 1
    stranger.hello()


@pytest.mark.parametrize("title", [title for title in COMMANDS if not title.startswith("hello")])
def test_without_hello_every_command_is_answered_nosession_and_not_applied(world: World, title: str) -> None:
    stranger = world.peer()
    stranger.say(COMMANDS[title])
    stranger.hear(wire.NoSession)
    assert world.dropped == {"no-session": 1} and set(world.machine.core.queues) == {"honest"}


def test_a_put_before_hello_is_not_stored_even_if_hello_follows_at_once(world: World) -> None:
    peer = world.peer()
    peer.put(1)
    peer.hello()
    assert peer.ask("info", queue="q")["ready"] == 0


def test_a_put_behind_hello_that_does_not_wait_for_welcome_is_taken_once(world: World) -> None:
    peer = world.peer()
    peer.say(wire.Hello([1], peer.client, 1, b"", 0))
    peer.put(1)
    peer.put(1)
    assert [peer.hear(wire.Confirm).qseq, peer.hear(wire.Confirm).qseq] == [1, 1]


def test_an_unknown_version_is_refused_in_words(world: World) -> None:
    peer = world.peer()
    peer.say(wire.Hello([7, 8], peer.client, 1, b"", 0))
    refused = peer.hear(wire.Refused)
    assert (refused.command, refused.code) == (wire.Kind.HELLO, wire.Code.VERSION) and "version 1" in refused.text


def test_a_flood_of_garbage_is_answered_once_a_second(world: World) -> None:
    stranger = world.peer()
    for _ in range(20_000):
        stranger.raw(b"garbage")
    stranger.say(wire.Hello([1], stranger.client, 1, b"", 0))
    answers = 0
    while not isinstance(framing.decode(stranger.socket.recv_multipart()), wire.Welcome):
        answers += 1
    assert world.dropped["malformed"] == 20_000 and 1 <= answers <= 5


def test_mutated_commands_from_a_member_do_no_harm(world: World) -> None:
    rng = random.Random(3)
    commands = [as_bytes(framing.encode(command)) for command in COMMANDS.values()]
    peer = world.peer()
    for link in range(1, 150):
        peer.say(wire.Hello([1], peer.client, link, b"", 0))
        for _ in range(20):
            frames = mutate(rng, rng.choice(commands))
            if frames and sum(map(len, frames)):
                peer.raw(*frames)
    assert world.member().ask("info", queue="honest")["ready"] > 0
    world.settled()


# -- links ---------------------------------------------------------------------------------------------------------------


def test_a_second_hello_of_one_link_is_ignored_and_the_first_session_goes_on(world: World) -> None:
    peer = world.member()
    peer.say(wire.Hello([1], peer.client, 2, b"", 0), wire.Hello([1], os.urandom(16), 1, b"", 0))
    peer.put(1)
    assert peer.hear(wire.Confirm).first == 1 and world.dropped["late-hello"] == 2


def test_an_older_link_of_the_same_client_is_a_stranger(world: World) -> None:
    old, new, late = world.member(), world.peer(), world.peer()
    new.client = late.client = old.client
    new.hello(link=2)
    old.put(1)
    old.hear(wire.NoSession)
    late.say(wire.Hello([1], old.client, 1, b"", 0), wire.Ask(1, 1, "info", {"queue": "q"}))
    late.hear(wire.NoSession)
    assert world.dropped == {"no-session": 2, "late-hello": 1} and "q" not in world.machine.core.queues


def test_garbage_ends_the_session_and_a_new_link_resumes_it(world: World) -> None:
    peer = world.member()
    peer.put(1)
    peer.hear(wire.Confirm)
    peer.raw(b"garbage")
    peer.hear(wire.NoSession)
    again = world.peer()
    again.client = peer.client
    again.hello(link=2)
    again.put(1)
    assert again.hear(wire.Confirm).qseq == 1


def test_a_nodes_own_commands_from_a_client_end_its_session(world: World) -> None:
    for title in ("welcome", "nosession", "confirm", "refused", "echo", "lease", "answer", "told"):
        peer = world.member()
        peer.say(COMMANDS[title])
        peer.hear(wire.NoSession)
    assert world.dropped == {"wrong-way": 8}


# -- limits ---------------------------------------------------------------------------------------------------------------


def test_a_frame_over_the_limit_ends_the_link_and_nothing_of_it_arrives(world: World) -> None:
    peer = world.member()
    peer.raw(*as_bytes(framing.encode(COMMANDS["ask"]))[:1], bytes(sockets.FRAME_BYTES_MAX + 1))
    assert peer.disconnected()
    assert not world.dropped


def test_the_largest_message_there_is_arrives(world: World) -> None:
    peer = world.member()
    peer.put(1, body=bytes(1024 * 1024))
    assert peer.hear(wire.Confirm).first == 1


def test_a_message_of_a_hundred_thousand_frames_is_malformed(world: World) -> None:
    peer = world.member()
    peer.raw(*[b"x"] * 100_000)
    peer.hear(wire.NoSession)
    assert world.dropped == {"malformed": 1}


def test_a_list_of_tokens_beyond_the_limit_is_malformed(world: World) -> None:
    peer = world.member()
    frame = as_bytes(framing.encode(wire.Done(False, [])))[0] + bytes(16 * (wire.ENTRIES_MAX + 1))
    peer.raw(frame)
    peer.hear(wire.NoSession)


def test_tokens_that_nobody_granted_are_stale_or_revoked(world: World) -> None:
    peer = world.member()
    tokens = [2**64 - 1 - index for index in range(wire.ENTRIES_MAX)]
    peer.say(wire.Ready(1, 2**64 - 1, [], 0, [wire.Held(token, 2**32 - 1, 1e9) for token in tokens]))
    assert peer.hear(wire.Echo).revoked == tokens
    peer.say(wire.Done(True, [(token, 2**32 - 1, 2**32 - 1) for token in tokens]))
    assert {verdict for *_, verdict in peer.hear(wire.Answer).ranges} == {wire.Verdict.STALE}
    peer.say(wire.Back(tokens[0], 2**32 - 1, 4096, 0, 1e10, "x"), wire.Save(tokens[0], 2**32 - 1, bytes(wire.BLOB_BYTES_MAX)))
    assert peer.ask("info", queue="honest")["leased"] == 0


def test_ranges_outside_a_lease_settle_nothing(world: World) -> None:
    peer = world.member()
    peer.put(1)
    peer.say(wire.Ready(1, 0, [wire.Window("q", 1, 0.0)], 0, []))
    token = peer.hear(wire.Lease).token
    absurd = [(token, 0, 0), (token, 0, 2), (token, 1, 1), (token, 2**32 - 1, 1), (token, 0, 2**32 - 1), (token + 1, 0, 1)]
    peer.say(wire.Done(True, absurd))
    assert [verdict for *_, verdict in peer.hear(wire.Answer).ranges] == [wire.Verdict.STALE] * len(absurd)
    assert peer.ask("info", queue="q")["leased"] == 1


def test_two_readies_full_of_unknown_tokens_do_not_end_the_node(world: World) -> None:
    peer = world.member()
    for beat in range(1, 50):
        peer.say(wire.Ready(beat, 0, [], 0, [wire.Held(2**60 + 1000 * beat + index, 1, 0.0) for index in range(wire.ENTRIES_MAX)]))
    while peer.hear(wire.Echo).beat < 49:
        pass


def test_a_window_of_four_thousand_million_takes_what_there_is(world: World) -> None:
    peer = world.member()
    peer.put(1)
    peer.say(wire.Ready(1, 0, [wire.Window("q", 2**32 - 1, 1e10)], 0, []))
    assert peer.hear(wire.Lease).count == 1


def test_as_many_windows_as_a_header_holds_are_served(world: World) -> None:
    peer = world.member()
    names = [f"{index:x}" for index in range(400)]
    peer.say(wire.Ready(1, 0, [wire.Window(name, 2**32 - 1, 0.0) for name in names], 0, []))
    peer.hear(wire.Echo)
    assert set(names) < set(world.machine.core.queues)
    with pytest.raises(ValueError, match="header"):
        framing.encode(wire.Ready(1, 0, [wire.Window(f"{index:x}", 1, 0.0) for index in range(1000)], 0, []))


def test_there_is_a_last_queue_and_behind_it_a_refusal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.machines.core.QUEUES_MAX", 5)
    peer = world.member()
    for number in range(4):
        peer.ask("declare", queue=f"q{number}", policy={})
    assert peer.ask("declare", queue="more", policy={})["error"] == wire.Code.QUOTA
    peer.put(1, queue="more")
    assert peer.hear(wire.Refused).code == wire.Code.QUOTA
    peer.say(wire.Ready(1, 0, [wire.Window("more", 1, 0.0)], 0, []))
    assert peer.hear(wire.Echo).beat == 1 and "more" not in world.machine.core.queues


# -- asks -----------------------------------------------------------------------------------------------------------------

VERBS = ("declare", "info", "list", "peek", "purge", "pause", "resume", "delete", "dead_list", "redrive", "drop", "no such verb")
ABSURD: list[Any] = [None, -1, 2**64 - 1, 1.5, True, "x" * 60_000, b"q", [], [1.0], {}, {"a": []}]


@pytest.mark.parametrize("verb", VERBS)
def test_absurd_questions_get_an_answer(world: World, verb: str) -> None:
    peer = world.member()
    assert peer.ask(verb, **{f"a{index}": index for index in range(500)}).keys() >= {"text"} or verb == "list"
    for name in ("queue", "state", "count", "policy", "seqs"):
        for value in ABSURD:
            result = peer.ask(verb, **{"queue": "q", "state": "ready", "count": 1, name: value})
            assert result.get("error", wire.Code.MALFORMED) == wire.Code.MALFORMED and len(result.get("text", "")) < 1000
    peer.put(1)
    assert peer.hear(wire.Confirm).first == 1


def test_a_number_that_was_used_is_answered_as_before_and_done_once(world: World) -> None:
    peer = world.member()
    peer.say(wire.Ask(1, 1, "pause", {"queue": "q"}), wire.Ask(1, 1, "resume", {"queue": "q"}), wire.Ask(2, 1, "info", {"queue": "q"}))
    results = [peer.hear(wire.Told).result for _ in range(3)]
    assert results[0] == results[1] == {} and results[2]["paused"]


def test_a_peek_that_is_repeated_when_its_messages_are_gone_is_answered(world: World) -> None:
    peer = world.member()
    peer.put(1)
    peer.hear(wire.Confirm)
    look = wire.Ask(1, 1, "peek", {"queue": "q", "state": "ready", "count": 10})
    peer.say(look, wire.Ask(2, 1, "purge", {"queue": "q"}), look)
    assert [len(peer.hear(wire.Told).result.get("rows", [])) for _ in range(3)] == [1, 0, 0]


# -- connections ------------------------------------------------------------------------------------------------------------


def frame(data: bytes, more: bool = False) -> bytes:
    return bytes([2 + more]) + struct.pack(">Q", len(data)) + data


RAW: dict[str, bytes] = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "noise": random.Random(4).randbytes(65536),
    "a whole handshake at once": b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x04\x06\x05READY" + bytes(4000),
}
BEHIND_THE_HANDSHAKE: dict[str, bytes] = {
    "a frame of eight exabytes": b"\x02\x7f" + b"\xff" * 7,
    "a frame of four gigabytes": b"\x02" + struct.pack(">Q", 2**32),
    "a message over the limit": frame(bytes(sockets.FRAME_BYTES_MAX + 1)),
    "a second READY": b"\x04\x06\x05READY",
}


@pytest.mark.parametrize("title", RAW)
def test_bytes_that_are_no_zeromq_end_their_own_connection_only(world: World, title: str) -> None:
    stranger = world.tcp()
    stranger.sendall(RAW[title])
    read_until(stranger, never)
    world.settled()


@pytest.mark.parametrize("title", BEHIND_THE_HANDSHAKE)
def test_frames_that_are_none_end_their_own_connection_only(world: World, title: str) -> None:
    stranger = world.zmtp()
    stranger.sendall(frame(as_bytes(framing.encode(wire.Hello([1], os.urandom(16), 1, b"", 0)))[0]))
    assert b"Z1\x02" in read_until(stranger, lambda data: b"Z1\x02" in data), "it is welcome so far"
    try:
        stranger.sendall(BEHIND_THE_HANDSHAKE[title])
    except ConnectionError:
        pass  # the node has hung up already
    if title != "a second READY":  # libzmq passes over commands it does not expect
        read_until(stranger, never)
    world.settled()


def test_a_browser_is_no_peer(world: World) -> None:
    """Its first byte makes libzmq take it for a ZeroMQ 2 peer, which is never hung up upon; no frame of it is a command."""
    stranger = world.tcp()
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
    world.settled()


def test_many_mute_connections_cost_nobody_else_anything_and_are_closed(world: World) -> None:
    strangers = [world.tcp() for _ in range(500)]
    world.honest.serve(50)
    late = world.member()
    late.put(1)
    assert late.hear(wire.Confirm).first == 1
    read_until(strangers[0], never)


def test_a_message_without_end_is_never_seen_and_goes_with_its_connection(world: World) -> None:
    stranger = world.zmtp()
    for _ in range(200):
        stranger.sendall(frame(b"x" * 1000, more=True) * 100)
    world.honest.serve(50)
    stranger.close()
    world.settled()
    assert not world.dropped


def test_nobody_speaks_as_a_handle_in_the_node_s_own_process(world: World) -> None:
    """Links inside the process have routing ids too; over TCP a peer may choose its own."""
    stranger = world.zmtp(identity=b"\0local" + (1).to_bytes(4, "little"))
    hello = frame(as_bytes(framing.encode(wire.Hello([1], os.urandom(16), 1, b"", 0)))[0])
    stranger.sendall(hello)
    other = world.zmtp(identity=b"an id of its own")
    other.sendall(hello)
    assert b"Z1\x02" in read_until(other, lambda data: b"Z1\x02" in data)
    world.settled()
    assert world.dropped == {"forged-id": 1}


def test_a_peer_that_asks_and_never_reads_disturbs_nobody(world: World) -> None:
    peer = world.member()
    peer.put(1, body=bytes(900_000))
    assert peer.hear(wire.Confirm).first == 1
    look, arguments = as_bytes(framing.encode(wire.Ask(1, 1, "peek", {"queue": "q", "state": "ready", "count": 1})))
    stranger = world.zmtp()
    stranger.sendall(frame(as_bytes(framing.encode(wire.Hello([1], os.urandom(16), 1, b"", 0)))[0]))
    stranger.sendall((frame(look, more=True) + frame(arguments)) * 100)
    world.settled()
    assert peer.ask("info", queue="q")["ready"] == 1
