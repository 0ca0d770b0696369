"""Our links outwards on real sockets at the textbook's queue and broker, whose flaws they have to survive."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest
import zmq
from fake_desk import FakeDesk
from link_driver import DrivenLink, NotYet
from textbook.lpclient import LazyPirateClient
from textbook.mdbroker import MajordomoBroker
from textbook.mdclient import MajordomoClient
from textbook.mdworker import MajordomoWorker
from textbook.peer import Raw
from textbook.ppqueue import PirateQueue
from textbook.ppworker import PirateWorker

from zmqkit.gateways.desk import Frames
from zmqkit.gateways.mdp_link import MdpClientLink, MdpWorkerLink
from zmqkit.gateways.outward import OutwardLink
from zmqkit.gateways.ppp_link import PppClientLink, PppWorkerLink

QUICK = 0.1


def quick_pirate(desk: FakeDesk) -> OutwardLink:
    numbers = count(1)
    return PppWorkerLink(desk, "echo", lambda: b"link-%d" % next(numbers), beat_seconds=QUICK, backoff_seconds=QUICK)


def test_a_lazy_pirate_is_served_through_a_textbook_queue_by_our_link() -> None:
    with (
        PirateQueue(beat_seconds=QUICK) as queue,
        DrivenLink(queue.backend, quick_pirate, lambda body: body) as link,
        LazyPirateClient(queue.frontend) as client,
    ):
        assert [client.ask() for _ in range(20)] == list(range(20))
        assert client.tried == 20
        link.seen("opened")


def test_an_idle_link_stays_with_a_textbook_queue_that_beats_only_to_who_beats() -> None:
    with PirateQueue(beat_seconds=QUICK) as queue, DrivenLink(queue.backend, quick_pirate, lambda body: body):
        for _ in range(12):
            assert queue.seen("ready") == ("ready", b"link-1")


def test_a_long_request_brings_no_second_one_and_no_new_socket_at_a_textbook_queue() -> None:
    beat_seconds, began = 0.3, list[float]()  # so long that no heartbeat crosses the request

    def slow(body: Frames) -> Frames:
        if body == [b"slow"]:
            began.append(time.monotonic())
            if began[-1] < began[0] + 4 * beat_seconds:
                raise NotYet
            assert len(link.desk.asked) == 1
        return body

    def make(desk: FakeDesk) -> OutwardLink:
        return PppWorkerLink(desk, "echo", lambda: b"the only one", beat_seconds=beat_seconds)

    with PirateQueue(beat_seconds=beat_seconds) as queue, Raw(queue.frontend) as client, DrivenLink(queue.backend, make, slow) as link:
        client.send(b"", b"slow")
        client.send(b"", b"next")
        assert client.receive() == [b"", b"slow"]
        assert client.receive() == [b"", b"next"]
        link.seen("opened")
        with pytest.raises(AssertionError):
            link.seen("opened", within=0)


def test_our_link_comes_back_to_a_textbook_queue_that_was_restarted() -> None:
    with PirateQueue(beat_seconds=QUICK) as first, DrivenLink(first.backend, quick_pirate, lambda body: body):
        first.seen("ready", b"link-1")
        endpoint = first.backend
        first.stop()
        with PirateQueue(backend=endpoint, beat_seconds=QUICK) as second, LazyPirateClient(second.frontend) as client:
            assert client.ask() == 0


def test_our_caller_is_answered_by_a_textbook_worker_through_its_queue_and_by_a_bare_rep() -> None:
    with (
        PirateQueue() as queue,
        PirateWorker(queue.backend, bytes.upper),
        DrivenLink(queue.frontend, lambda desk: PppClientLink(desk, "echo"), lambda body: None) as link,
    ):
        jobs = [link.ask("echo", b"a%d" % n) for n in range(5)]
        assert [link.seen("settled", job)[2].frames for job in jobs] == [[b"A%d" % n] for n in range(5)]
    context: zmq.Context[Any] = zmq.Context()
    rep = context.socket(zmq.REP)
    rep.bind("tcp://127.0.0.1:0")
    with DrivenLink(rep.get_string(zmq.LAST_ENDPOINT).rstrip("\0"), lambda desk: PppClientLink(desk, "echo"), lambda body: None) as link:
        job = link.ask("echo", b"hello")
        assert rep.recv_multipart() == [b"hello"]
        rep.send(b"world")
        assert link.seen("settled", job)[2].frames == [b"world"]
    context.destroy(linger=0)


def quick_majordomo(desk: FakeDesk) -> OutwardLink:
    return MdpWorkerLink(desk, "echo", beat_seconds=QUICK, reconnect_seconds=QUICK)


def test_a_majordomo_client_is_served_through_a_textbook_broker_by_our_link() -> None:
    with (
        MajordomoBroker(beat_seconds=QUICK) as broker,
        DrivenLink(broker.endpoint, quick_majordomo, lambda body: [body[0].upper()]) as link,
        MajordomoClient(broker.endpoint) as client,
    ):
        assert [client.send(b"echo", b"a%d" % n) for n in range(20)] == [[b"A%d" % n] for n in range(20)]
        link.seen("opened")


def test_no_answer_and_a_departure_do_not_kill_a_textbook_broker() -> None:
    def moody(body: Frames) -> Frames | None:
        return None if body == [b"unanswerable"] else body

    with MajordomoBroker(beat_seconds=QUICK) as broker:
        with DrivenLink(broker.endpoint, quick_majordomo, moody) as link, MajordomoClient(broker.endpoint, 4 * QUICK, tries=2) as client:
            assert client.send(b"echo", b"unanswerable") is None
            assert client.send(b"echo", b"answerable") == [b"answerable"]
            for _ in range(3):
                link.seen("opened")
        assert broker.seen("expired")  # where a goodbye would have ended it
        with MajordomoWorker(broker.endpoint, b"echo"), MajordomoClient(broker.endpoint) as client:
            assert client.send(b"echo", b"still there") == [b"still there"]


def test_our_caller_is_answered_by_a_textbook_worker_through_its_broker() -> None:
    with (
        MajordomoBroker() as broker,
        MajordomoWorker(broker.endpoint, b"shout", lambda body: [body[0].upper()]),
        DrivenLink(broker.endpoint, lambda desk: MdpClientLink(desk, "echo", foreign="shout"), lambda body: None) as link,
    ):
        jobs = [link.ask("echo", b"a%d" % n) for n in range(5)]
        assert [link.seen("settled", job)[2].frames for job in jobs] == [[b"A%d" % n] for n in range(5)]
