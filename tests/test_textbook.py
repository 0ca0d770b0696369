"""The textbook peers among themselves, on real sockets: they work as the book says, and have each flaw a gateway has to live with."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
import zmq
from textbook import md2worker, mdbroker, mdworker, ppworker
from textbook.lpclient import LazyPirateClient, ServerOffline
from textbook.md2client import Majordomo2Client
from textbook.md2worker import Majordomo2Worker
from textbook.mdbroker import MajordomoBroker
from textbook.mdclient import MajordomoClient
from textbook.mdclient_dealer import MajordomoDealerClient
from textbook.mdworker import MajordomoWorker
from textbook.peer import Raw
from textbook.ppqueue import PirateQueue
from textbook.ppworker import PirateWorker
from textbook.ticlient import TitanicClient

QUICK = 0.1  # a heartbeat: three of them are missed only by who is dead, also on a busy machine
SHORT = 0.04  # where nothing goes wrong if one is missed


# -- pirates ----------------------------------------------------------------------------------------------------------


def test_a_lazy_pirate_is_answered_through_the_queue_by_a_worker() -> None:
    with PirateQueue() as queue, PirateWorker(queue.backend) as worker, LazyPirateClient(queue.frontend) as client:
        assert [client.ask() for _ in range(3)] == [0, 1, 2]
        assert worker.seen("request", b"2")
        assert client.tried == 3


def test_a_lazy_pirate_asks_the_same_on_new_sockets_and_then_gives_up() -> None:
    with Raw(kind=zmq.ROUTER) as mute, LazyPirateClient(mute.endpoint, timeout_seconds=SHORT) as client:
        with pytest.raises(ServerOffline):
            client.ask()
        asked = [mute.receive() for _ in range(3)]
        assert [frames[1:] for frames in asked] == [[b"", b"0"]] * 3
        assert len({frames[0] for frames in asked}) == 3
        assert mute.heard(0) is None


def test_a_lazy_pirate_takes_no_answer_to_another_number() -> None:
    with Raw(kind=zmq.ROUTER) as liar, LazyPirateClient(liar.endpoint, timeout_seconds=QUICK, tries=1) as client:

        def lie() -> None:
            liar.send(liar.receive()[0], b"", b"7")

        lying = threading.Thread(target=lie)
        lying.start()
        with pytest.raises(ServerOffline):
            client.ask()
        lying.join()
        assert client.malformed == [b"7"]


def test_a_worker_answers_three_frames_and_no_other_number() -> None:
    with Raw(kind=zmq.ROUTER) as queue, PirateWorker(queue.endpoint, bytes.upper) as worker:
        name, ready = queue.receive()
        assert ready == ppworker.READY
        queue.send(name, b"client", b"")
        queue.send(name, b"client", b"", b"two", b"bodies")
        worker.seen("invalid", [b"client", b"", b"two", b"bodies"])
        queue.send(name, b"client", b"", b"body")
        assert queue.receive() == [name, b"client", b"", b"BODY"]


def test_a_worker_that_hears_nothing_comes_back_under_a_new_name_later_and_later() -> None:
    with (
        Raw(kind=zmq.ROUTER) as queue,
        PirateWorker(queue.endpoint, beat_seconds=SHORT, backoff_seconds=SHORT, backoff_seconds_max=3 * SHORT) as worker,
    ):
        waits = [worker.seen("silence")[1] for _ in range(4)]
        assert waits == [SHORT, 2 * SHORT, 3 * SHORT, 3 * SHORT]
        said = [queue.receive() for _ in range(9)]
        names = [name for name, frame in said if frame == ppworker.READY]
        assert len(set(names)) >= 3
        assert {frame for _, frame in said} == {ppworker.READY, ppworker.HEARTBEAT}


def test_a_worker_that_is_set_to_crash_or_stall_begins_after_three_requests() -> None:
    with Raw(kind=zmq.ROUTER) as queue, PirateWorker(queue.endpoint, stall_seconds=0.0, chaos=random.Random(1)) as worker:
        name, _ = queue.receive()
        for _ in range(100):
            queue.send(name, b"client", b"", b"x")
        assert isinstance(worker.death(), ppworker.Crashed)
        answers = 0
        while queue.heard(0.05) is not None:
            answers += 1
        assert answers >= 3


def test_whatever_a_worker_sends_makes_it_ready() -> None:
    with PirateQueue() as queue:
        for said in ([b"\x01"], [b"\x02"], [b"rubbish"], [b"nobody", b"", b"an answer"]):
            with Raw(queue.backend) as worker, Raw(queue.frontend) as client:
                worker.send(*said)
                client.send(b"", b"body")
                assert worker.receive()[1:] == [b"", b"body"], said


def test_a_busy_worker_that_beats_gets_a_second_request() -> None:
    with PirateQueue() as queue, Raw(queue.backend, identity=b"busy") as worker, Raw(queue.frontend) as client:
        worker.send(ppworker.READY)
        client.send(b"", b"one")
        assert worker.receive()[2] == b"one"
        client.send(b"", b"two")
        assert worker.heard(QUICK) is None
        worker.send(ppworker.HEARTBEAT)
        assert worker.receive()[2] == b"two"


def test_the_queue_beats_only_while_workers_do() -> None:
    with PirateQueue(beat_seconds=QUICK) as queue, Raw(queue.backend) as worker:
        worker.send(ppworker.READY)  # too early for a heartbeat, and later nothing comes that would lead to one
        assert worker.heard(5 * QUICK) is None
        for _ in range(3):
            worker.send(ppworker.HEARTBEAT)
            while (frames := worker.heard(1.2 * QUICK)) is None:
                worker.send(ppworker.HEARTBEAT)
            assert frames == [ppworker.HEARTBEAT]


def test_the_queue_does_not_beat_to_a_busy_worker() -> None:
    with (
        PirateQueue(beat_seconds=QUICK) as queue,
        Raw(queue.backend) as busy,
        Raw(queue.backend) as idle,
        Raw(queue.frontend) as client,
    ):
        busy.send(ppworker.READY)
        client.send(b"", b"body")
        busy.receive()
        for _ in range(6):
            idle.send(ppworker.HEARTBEAT)
            idle.heard(QUICK)
        assert busy.heard(0) is None


def test_a_worker_that_is_silent_for_three_beats_gets_nothing_more() -> None:
    with PirateQueue(beat_seconds=SHORT) as queue, Raw(queue.backend, identity=b"silent") as silent, Raw(queue.frontend) as client:
        silent.send(ppworker.READY)
        queue.seen("ready", b"silent")
        while (frames := silent.heard(6 * SHORT)) is not None:  # one beat, if the queue was late to hear READY
            assert frames == [ppworker.HEARTBEAT]
        client.send(b"", b"body")
        assert silent.heard(QUICK) is None
        silent.send(ppworker.HEARTBEAT)  # and until somebody is ready again the request has waited at the frontend
        while (frames := silent.receive()) == [ppworker.HEARTBEAT]:
            pass
        assert frames[1:] == [b"", b"body"]


def test_a_request_dies_with_its_worker_and_the_clients_retry_finds_another() -> None:
    with PirateQueue() as queue, LazyPirateClient(queue.frontend, timeout_seconds=3 * QUICK, tries=9) as client:
        with Raw(queue.backend, identity=b"dies") as dies:
            dies.send(ppworker.READY)
            queue.seen("ready", b"dies")
            asking = threading.Thread(target=client.ask)
            asking.start()
            dies.receive()
        with PirateWorker(queue.backend) as worker:
            asking.join(5)
            assert worker.seen("request", b"0")
        assert client.tried > 1


# -- Majordomo 0.1 ----------------------------------------------------------------------------------------------------


def test_a_client_is_answered_through_the_broker_by_a_worker() -> None:
    with (
        MajordomoBroker() as broker,
        MajordomoClient(broker.endpoint) as client,
        MajordomoWorker(broker.endpoint, b"echo", lambda body: [b"got", *body]),
    ):
        assert client.send(b"echo", b"a", b"b") == [b"got", b"a", b"b"]
        assert client.send(b"echo", b"") == [b"got", b""]
        assert client.tried == 2


def test_a_request_waits_for_its_first_worker() -> None:
    with MajordomoBroker() as broker, MajordomoDealerClient(broker.endpoint) as client:
        client.send(b"echo", b"early")
        with MajordomoWorker(broker.endpoint, b"echo"):
            assert client.receive() == [b"early"]


def test_a_client_that_does_not_wait_gets_its_answers_in_order() -> None:
    with MajordomoBroker() as broker, MajordomoDealerClient(broker.endpoint) as client, MajordomoWorker(broker.endpoint, b"echo"):
        for n in range(5):
            client.send(b"echo", b"%d" % n)
        assert [client.receive() for _ in range(5)] == [[b"%d" % n] for n in range(5)]


def test_a_client_gives_up_after_its_tries() -> None:
    with Raw(kind=zmq.ROUTER) as mute, MajordomoClient(mute.endpoint, timeout_seconds=SHORT) as client:
        assert client.send(b"echo", b"x") is None
        asked = [mute.receive() for _ in range(3)]
        assert [frames[1:] for frames in asked] == [[b"", b"MDPC01", b"echo", b"x"]] * 3
        assert len({frames[0] for frames in asked}) == 3


def test_a_client_refuses_the_answer_of_another_service() -> None:
    with Raw(kind=zmq.ROUTER) as broker, MajordomoClient(broker.endpoint) as client:

        def answer() -> None:
            name, *_ = broker.receive()
            broker.send(name, b"", b"MDPC01", b"other", b"x")

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(AssertionError):
            client.send(b"echo", b"x")
        answering.join()


def test_a_worker_keeps_the_broker_by_heartbeats_and_is_kept() -> None:
    with MajordomoBroker(beat_seconds=QUICK) as broker, MajordomoWorker(broker.endpoint, b"echo", beat_seconds=QUICK) as worker:
        for _ in range(4):
            worker.seen("heartbeat")
        broker.seen("worker", mdworker.HEARTBEAT)
        with MajordomoClient(broker.endpoint) as client:
            assert client.send(b"echo", b"still there") == [b"still there"]


def test_a_worker_is_mute_while_its_handler_runs() -> None:
    go = threading.Event()

    def slow(body: list[bytes]) -> list[bytes]:
        assert go.wait(5)
        return body

    with Raw(kind=zmq.ROUTER) as broker, MajordomoWorker(broker.endpoint, b"slow", slow, beat_seconds=SHORT, liveness=1000):
        name, *ready = broker.receive()
        assert ready == [b"", b"MDPW01", b"\x01", b"slow"]
        broker.send(name, b"", b"MDPW01", b"\x02", b"client", b"", b"body")
        while (frames := broker.heard(4 * SHORT)) is not None:
            assert frames == [name, b"", b"MDPW01", b"\x04"]  # from before the request came
        go.set()
        assert broker.receive() == [name, b"", b"MDPW01", b"\x03", b"client", b"", b"body"]


def test_a_worker_that_is_sent_away_comes_back_on_a_new_connection() -> None:
    with Raw(kind=zmq.ROUTER) as broker, MajordomoWorker(broker.endpoint, b"echo"):
        first, *_ = broker.receive()
        broker.send(first, b"", b"MDPW01", b"\x05")
        second, *said = broker.receive()
        assert said == [b"", b"MDPW01", b"\x01", b"echo"]
        assert second != first


def test_a_worker_that_hears_nothing_comes_back_without_a_goodbye() -> None:
    with Raw(kind=zmq.ROUTER) as broker, MajordomoWorker(broker.endpoint, b"echo", beat_seconds=SHORT, reconnect_seconds=SHORT) as worker:
        worker.seen("silence")
        worker.seen("connected")
        said = [broker.receive() for _ in range(6)]
        assert len({name for name, *_ in said}) >= 2
        assert {frames[2] for _, *frames in said} == {mdworker.READY, mdworker.HEARTBEAT}


def ready(worker: Raw, broker: MajordomoBroker, service: bytes = b"echo") -> None:
    worker.send(b"", b"MDPW01", mdworker.READY, service)
    broker.seen("worker", mdworker.READY)


@pytest.mark.parametrize("again", [[mdworker.DISCONNECT], [mdworker.READY, b"echo"]], ids=["polite DISCONNECT", "READY twice"])
def test_the_broker_dies_when_a_worker_that_left_politely_would_have_expired(again: list[bytes]) -> None:
    with MajordomoBroker(beat_seconds=QUICK) as broker, Raw(broker.endpoint) as worker:
        ready(worker, broker)
        worker.send(b"", b"MDPW01", *again)
        broker.seen("worker", again[0])
        assert isinstance(broker.death(), ValueError)


def test_the_broker_dies_at_once_when_a_busy_worker_says_goodbye() -> None:
    with MajordomoBroker() as broker, Raw(broker.endpoint) as worker, MajordomoDealerClient(broker.endpoint) as client:
        ready(worker, broker)
        client.send(b"echo", b"x")
        worker.receive()
        worker.send(b"", b"MDPW01", mdworker.DISCONNECT)
        assert isinstance(broker.death(1.0), ValueError)


@pytest.mark.parametrize(
    ("frames", "error"), [([b"full", b"MDPC01", b"echo", b"x"], AssertionError), ([b""], IndexError)], ids=["no empty frame", "one frame"]
)
def test_the_broker_dies_of_a_message_of_the_wrong_shape(frames: list[bytes], error: type[Exception]) -> None:
    with MajordomoBroker() as broker, Raw(broker.endpoint) as stranger:
        stranger.send(*frames)
        assert isinstance(broker.death(1.0), error)


def test_a_request_is_lost_with_its_worker() -> None:
    with MajordomoBroker(beat_seconds=SHORT) as broker, MajordomoDealerClient(broker.endpoint, timeout_seconds=10 * SHORT) as client:
        with Raw(broker.endpoint) as vanishes:
            ready(vanishes, broker)
            client.send(b"echo", b"lost")
            vanishes.receive()
        with MajordomoWorker(broker.endpoint, b"echo", beat_seconds=SHORT, liveness=1000):
            assert client.receive() is None
            client.send(b"echo", b"later")
            assert client.receive() == [b"later"]


def test_the_broker_takes_a_heartbeat_of_a_busy_worker_and_gives_it_nothing() -> None:
    with MajordomoBroker() as broker, Raw(broker.endpoint) as worker, MajordomoDealerClient(broker.endpoint) as client:
        ready(worker, broker)
        client.send(b"echo", b"one")
        client.send(b"echo", b"two")
        assert worker.receive()[-1] == b"one"
        worker.send(b"", b"MDPW01", mdworker.HEARTBEAT)
        broker.seen("worker", mdworker.HEARTBEAT)
        assert worker.heard(QUICK) is None


def test_the_broker_answers_mmi_itself_and_knows_whatever_was_asked_for() -> None:
    with MajordomoBroker() as broker, MajordomoClient(broker.endpoint) as client, MajordomoDealerClient(broker.endpoint) as asks:
        assert client.send(b"mmi.service", b"echo") == [b"404"]
        assert client.send(b"mmi.other", b"echo") == [b"501"]
        asks.send(b"echo", b"nobody serves that")
        asks.send(b"mmi.service", b"echo")
        assert asks.receive() == [b"200"]


def test_the_broker_sends_away_who_beats_before_ready_or_offers_mmi() -> None:
    with MajordomoBroker() as broker, Raw(broker.endpoint) as early, Raw(broker.endpoint) as internal:
        early.send(b"", b"MDPW01", mdworker.HEARTBEAT)
        assert early.receive() == [b"", b"MDPW01", b"\x05"]
        internal.send(b"", b"MDPW01", mdworker.READY, b"mmi.x")
        assert internal.receive() == [b"", b"MDPW01", b"\x05"]
        assert mdbroker.INTERNAL == b"mmi."


# -- Majordomo 0.2, Titanic -------------------------------------------------------------------------------------------


def test_a_client_of_version_2_hears_parts_and_the_last() -> None:
    with Raw(kind=zmq.ROUTER) as broker, Majordomo2Client(broker.endpoint) as client:
        client.send(b"count", b"2", b"")
        name, *frames = broker.receive()
        assert frames == [b"MDPC02", b"\x01", b"count", b"2", b""]
        broker.send(name, b"MDPC02", b"\x02", b"count", b"one")
        broker.send(name, b"MDPC02", b"\x02", b"count")
        broker.send(name, b"MDPC02", b"\x03", b"count", b"two", b"2")
        assert list(client.parts(b"count")) == [[b"one"], [], [b"two", b"2"]]


def test_a_worker_of_version_2_answers_in_parts_beats_comes_back_and_says_goodbye() -> None:
    with (
        Raw(kind=zmq.ROUTER) as broker,
        Majordomo2Worker(broker.endpoint, b"count", lambda body: [[b"one"], [b"two", *body]], beat_seconds=QUICK, liveness=1000) as worker,
    ):
        first, *said = broker.receive()
        assert said == [b"MDPW02", b"\x01", b"count"]
        broker.send(first, b"MDPW02", b"\x02", b"client", b"", b"2")
        beat, heard = [first, b"MDPW02", b"\x05"], list[list[bytes]]()
        while beat not in heard or len(heard) - heard.count(beat) < 2:
            heard.append(broker.receive())
        assert [frames for frames in heard if frames != beat] == [
            [first, b"MDPW02", b"\x03", b"client", b"", b"one"],
            [first, b"MDPW02", b"\x04", b"client", b"", b"two", b"2"],
        ]
        broker.send(first, b"MDPW02", md2worker.DISCONNECT2)
        while (second := broker.receive())[0] == first:
            pass
        assert second[1:] == [b"MDPW02", b"\x01", b"count"]
        worker.stop()
        while (last := broker.receive())[2] == md2worker.HEARTBEAT2:
            pass
        assert last == [second[0], b"MDPW02", b"\x06"]


def test_a_worker_of_version_2_that_hears_nothing_takes_a_new_connection() -> None:
    with Raw(kind=zmq.ROUTER) as broker, Majordomo2Worker(broker.endpoint, b"x", beat_seconds=SHORT, reconnect_seconds=SHORT) as worker:
        worker.seen("silence")
        worker.seen("connected")
        said = [broker.receive() for _ in range(5)]
        assert len({name for name, *_ in said}) == 2


def titanic(endpoint: str) -> list[MajordomoWorker]:
    """The three services, in memory; everything but `never` is done at once, in upper case."""
    kept: dict[bytes, tuple[bytes, list[bytes]]] = {}

    def request(body: list[bytes]) -> list[bytes]:
        uuid = b"%032x" % (len(kept) + 1)
        kept[uuid] = body[0], [frame.upper() for frame in body[1:]]
        return [b"200 OK", uuid]

    def reply(body: list[bytes]) -> list[bytes]:
        service, answer = kept.get(body[0], (b"", []))
        return [b"400"] if not service else [b"300 pending"] if service == b"never" else [b"200", *answer]

    def close(body: list[bytes]) -> list[bytes]:
        kept.pop(body[0], None)
        return [b"200"]

    handlers: dict[bytes, Callable[[list[bytes]], list[bytes]]] = {b"request": request, b"reply": reply, b"close": close}
    return [MajordomoWorker(endpoint, b"titanic." + name, handler) for name, handler in handlers.items()]


def test_a_titanic_client_hands_over_asks_and_closes() -> None:
    with MajordomoBroker() as broker, TitanicClient(broker.endpoint) as client:
        one, two, three = titanic(broker.endpoint)
        with one, two, three:
            done, pending = client.request(b"echo", b"a", b"b"), client.request(b"never", b"c")
            assert client.reply(done) == (200, [b"A", b"B"]) == client.reply(done)
            assert client.reply(pending) == (300, [])
            assert client.finish(done) == 200 == client.finish(done)
            assert client.reply(done) == (400, [])
