"""MDP 0.1, MDP 0.2 and MMI: clients and workers of the Majordomo Protocol at a desk, on one door. Frame for frame as in the RFCs.

How workers work, break the rules, fall silent and go is in test_gateway_mdp_workers.py.
"""

from __future__ import annotations

from math import inf

import pytest
from fake_desk import Settled
from hypothesis import given, strategies as st
from mdp_world import C1, C2, FIRST, FITS, LONG, SALT, W1, W2, Broker, both_versions, disconnect
from test_wire_golden import written

from zmqkit.gateways import clients, mdp, workers
from zmqkit.gateways.desk import Frames
from zmqkit.gateways.mdp import DOOR, ONE, Tongue

# -- frames --------------------------------------------------------------------------------------------------------------


def conversation() -> dict[str, Frames]:
    """Every message there is, of both versions, in both directions, without routing ids."""
    broker = Broker()
    told: dict[str, Frames] = {}

    def hear(title: str, peer: bytes, *frames: bytes) -> None:
        told[title] = list(frames)
        broker.say(DOOR, peer, *frames)

    def see(title: str, peer: bytes) -> None:
        [told[title]] = broker.sent(DOOR, peer)

    hear("0.1 worker to broker: READY", b"v", b"", b"MDPW01", b"\1", b"echo")
    hear("0.2 worker to broker: READY", b"w", b"MDPW02", b"\1", b"echo")
    hear("0.1 client to broker: REQUEST", b"c", b"", b"MDPC01", b"echo", b"Hello", b"world")
    hear("0.2 client to broker: REQUEST", b"d", b"MDPC02", b"\1", b"echo", b"Hello", b"world")
    broker.give("first", b"Hello", b"world")
    broker.give("second", b"Hello", b"world")
    see("0.1 broker to worker: REQUEST", b"v")
    see("0.2 broker to worker: REQUEST", b"w")
    second = FIRST[:-1] + b"\2"
    hear("0.2 worker to broker: PARTIAL", b"w", b"MDPW02", b"\3", second, b"", b"Hello")
    hear("0.1 worker to broker: REPLY", b"v", b"", b"MDPW01", b"\3", FIRST, b"", b"Hello", b"world")
    hear("0.2 worker to broker: FINAL", b"w", b"MDPW02", b"\4", second, b"", b"world")
    assert broker.desk.settled == {"first": Settled("reply", [b"Hello", b"world"], ""), "second": Settled("reply", [b"world"], "")}
    assert broker.desk.parts == {"second": [[b"Hello"]]}
    broker.tell(broker.desk.answer(1, b"Hello", b"world"), broker.desk.more(2, b"Hello"))
    see("0.1 broker to client: REPLY", b"c")
    see("0.2 broker to client: PARTIAL", b"d")
    broker.tell(broker.desk.answer(2, b"world"))
    see("0.2 broker to client: FINAL", b"d")
    hear("0.1 worker to broker: HEARTBEAT", b"v", b"", b"MDPW01", b"\4")
    hear("0.2 worker to broker: HEARTBEAT", b"w", b"MDPW02", b"\5")
    broker.wait(2.5)
    see("0.1 broker to worker: HEARTBEAT", b"v")
    see("0.2 broker to worker: HEARTBEAT", b"w")
    hear("0.1 worker to broker: DISCONNECT", b"v", b"", b"MDPW01", b"\5")
    hear("0.2 worker to broker: DISCONNECT", b"w", b"MDPW02", b"\6")
    assert broker.free == 0 and not broker.dropped and broker.nothing_sent()
    broker.say(DOOR, b"v", b"", b"MDPW01", b"\4")
    broker.say(DOOR, b"w", b"MDPW02", b"\5")
    see("0.1 broker to worker: DISCONNECT", b"v")
    see("0.2 broker to worker: DISCONNECT", b"w")
    hear("0.1 client to broker: mmi.service", b"c", b"", b"MDPC01", b"mmi.service", b"echo")
    see("0.1 broker to client: mmi.service, none", b"c")
    broker.ready(ONE, b"v")
    hear("0.2 client to broker: mmi.service", b"d", b"MDPC02", b"\1", b"mmi.service", b"echo")
    see("0.2 broker to client: mmi.service, some", b"d")
    hear("0.1 client to broker: unknown mmi", b"c", b"", b"MDPC01", b"mmi.weather", b"today")
    see("0.1 broker to client: unknown mmi", b"c")
    return told


def test_every_message_in_both_directions_has_these_bytes() -> None:
    assert conversation() == written("mdp", conversation())


# -- clients -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "reply"), [(C1, C1), (C2, (b"MDPC02", b"\3"))], ids=["0.1", "0.2"])
def test_a_clients_request_is_a_call_and_the_answer_echoes_header_and_service(head: Frames, reply: Frames) -> None:
    broker = Broker()
    ticket = broker.ask(b"c", *head, b"echo", b"a", b"", b"b")
    assert broker.desk.open[ticket][:5] == ("echo", [b"a", b"", b"b"], ticket, clients.REQUEST_SECONDS, True)
    broker.tell(broker.desk.answer(ticket, b"x", b"y"))
    assert broker.sent(DOOR, b"c") == [[*reply, b"echo", b"x", b"y"]]


@pytest.mark.parametrize("head", [C1, C2], ids=["0.1", "0.2"])
def test_an_answer_without_frames_has_an_empty_body(head: Frames) -> None:
    broker = Broker()
    broker.tell(broker.desk.answer(broker.ask(b"c", *head, b"echo", b"a")))
    assert broker.sent(DOOR, b"c")[0][-2:] == [b"echo", b""]


def test_a_client_of_the_first_version_wants_its_answer_in_one_message() -> None:
    broker = Broker()
    assert not broker.desk.open[broker.ask(b"c", *C1, b"tail", b"a")].stream


def test_a_client_of_the_second_version_gets_parts_as_they_come_and_one_final() -> None:
    broker = Broker()
    ticket = broker.ask(b"c", *C2, b"tail", b"a")
    assert broker.desk.open[ticket].stream
    broker.tell(broker.desk.more(ticket, b"1"))
    broker.tell(broker.desk.more(ticket))
    broker.tell(broker.desk.answer(ticket, b"3"))
    assert broker.sent(DOOR, b"c") == [
        [b"MDPC02", b"\2", b"tail", b"1"], [b"MDPC02", b"\2", b"tail", b""], [b"MDPC02", b"\3", b"tail", b"3"],
    ]  # fmt: skip


def test_a_call_that_fails_is_answered_with_silence_and_counted() -> None:
    broker = Broker()
    broker.tell(broker.desk.refuse(broker.ask(b"c", *C1, b"echo", b"a")))
    assert broker.nothing_sent() and broker.dropped == {"no-answer": 1}


def test_requests_expire_after_the_seconds_that_were_chosen() -> None:
    broker = Broker(request_seconds=60.0)
    broker.ask(b"c", *C1, b"echo", b"a")
    assert broker.desk.asked[-1].seconds == 60.0


def test_who_is_gone_waits_for_nothing() -> None:
    broker = Broker()
    first, second = broker.ask(b"c", *C1, b"echo", b"1"), broker.ask(b"c", *C1, b"echo", b"2")
    broker.gone[DOOR, b"c"] = None
    broker.tell(broker.desk.answer(first, b"1"))
    assert broker.desk.cancelled == [second] and not broker.desk.open


def test_a_hundred_thousand_requests_at_once_are_all_asked_in_order() -> None:
    """The Guide's asynchronous client sends so many before it reads the first answer."""
    broker, count = Broker(), 100_000
    for number in range(count):
        broker.gateway.receive(DOOR, b"c", [*C1, b"echo", b"%d" % number], broker.now)
    answered = 0
    while broker.desk.open:
        assert len(broker.desk.open) <= clients.WINDOW
        broker.gateway.hear([broker.desk.answer(ticket, call.frames[0]) for ticket, call in list(broker.desk.open.items())], broker.now)
        for send in broker.gateway.take():
            assert send.frames[-1] == b"%d" % answered
            answered += 1
    assert answered == count and not broker.dropped


BAD_REQUESTS = [
    ((*C1,), "bad-request"), ((*C1, b"echo"), "bad-request"), ((*C2, b"echo"), "bad-request"), ((b"MDPC02",), "bad-request"),
    ((b"MDPC02", b"\2", b"echo", b"a"), "bad-request"), ((b"MDPC02", b"echo", b"a"), "bad-request"),
    ((*C1, b"", b"a"), "bad-service"), ((*C1, b"\xff\xfe", b"a"), "bad-service"), ((*C2, LONG, b"a"), "bad-service"),
    ((), "not-mdp"), ((b"",), "not-mdp"), ((b"MDPC01",), "not-mdp"), ((b"MDPC01", b"echo", b"a"), "not-mdp"),
    ((b"", b"MDPC02", b"\1", b"echo", b"a"), "not-mdp"), ((b"", b"", *C1[1:], b"echo", b"a"), "not-mdp"),
    ((b"x", *C1, b"echo", b"a"), "not-mdp"), ((b"", b"MDPX01", b"echo", b"a"), "not-mdp"), ((b"", b"MDPW01"), "not-mdp"),
    ((b"MDPW02",), "not-mdp"),
]  # fmt: skip


@pytest.mark.parametrize(("frames", "reason"), BAD_REQUESTS)
def test_a_bad_request_is_dropped_and_counted(frames: tuple[bytes, ...], reason: str) -> None:
    broker = Broker()
    broker.say(DOOR, b"c", *frames)
    assert not broker.desk.asked and broker.nothing_sent() and broker.dropped == {reason: 1}


def test_a_service_may_have_the_longest_name_there_is() -> None:
    broker = Broker()
    broker.ask(b"c", *C1, FITS, b"a")
    broker.ready(ONE, b"w", FITS)
    assert broker.desk.asked[-1].service == FITS.decode() and broker.desk.offers == {FITS.decode(): 1}


# -- MMI -----------------------------------------------------------------------------------------------------------------


def managed(broker: Broker, service: bytes, *body: bytes) -> bytes:
    """The code that both versions of client are told."""
    broker.say(DOOR, b"c", *C1, service, *body)
    broker.say(DOOR, b"d", *C2, service, *body)
    [[*head, one]], [[*head_of_two, two]] = broker.heard(b"c"), broker.heard(b"d")
    assert head == [*C1, service] and head_of_two == [b"MDPC02", b"\3", service] and one == two
    return one


def test_mmi_knows_a_service_with_a_worker_of_ours_also_while_it_is_busy() -> None:
    broker = Broker()
    assert managed(broker, b"mmi.service", b"echo") == b"404"
    broker.ready(ONE, b"w")
    assert managed(broker, b"mmi.service", b"echo") == b"200"
    broker.give("job")
    broker.heard(b"w")
    assert managed(broker, b"mmi.service", b"echo") == b"200"
    broker.work(ONE, b"w", ONE.disconnect)
    assert managed(broker, b"mmi.service", b"echo") == b"404"


def test_mmi_does_not_know_a_service_that_was_only_asked_for() -> None:
    broker = Broker()
    broker.ask(b"c", *C1, b"echo", b"a")
    assert managed(broker, b"mmi.service", b"echo") == b"404"


def test_mmi_knows_what_others_serve() -> None:
    broker = Broker()
    broker.desk.services["price"] = True
    assert managed(broker, b"mmi.service", b"price") == b"200"


@pytest.mark.parametrize("name", [b"", b"\xff", LONG, b"mmi.service"])
def test_mmi_does_not_know_a_name_that_is_none(name: bytes) -> None:
    assert managed(Broker(), b"mmi.service", name) == b"404"


@pytest.mark.parametrize("service", [b"mmi.", b"mmi.services", b"mmi.\xc3\xa4"])
def test_any_other_mmi_is_not_implemented(service: bytes) -> None:
    broker = Broker()
    assert managed(broker, service, b"echo") == b"501" and not broker.desk.asked


def test_mmi_answers_when_the_desk_knows() -> None:
    broker = Broker()
    broker.desk.services["price"] = None
    broker.say(DOOR, b"c", *C1, b"mmi.service", b"price")
    broker.say(DOOR, b"d", *C2, b"mmi.service", b"echo")
    assert broker.sent(DOOR, b"c") == [] and broker.sent(DOOR, b"d")[0][-1] == b"404"
    broker.wait(0.5)
    broker.desk.services["price"] = True
    broker.wait(mdp.MMI_RETRY_SECONDS)
    assert broker.sent(DOOR, b"c") == [[*C1, b"mmi.service", b"200"]] and broker.gateway.deadline == inf


def test_mmi_does_not_wait_longer_for_the_desk_than_the_client_does_for_mmi() -> None:
    broker = Broker()
    broker.desk.services["price"] = None
    broker.say(DOOR, b"c", *C1, b"mmi.service", b"price")
    broker.wait(mdp.MMI_SECONDS + mdp.MMI_RETRY_SECONDS)
    assert broker.sent(DOOR, b"c") == [[*C1, b"mmi.service", b"404"]] and mdp.MMI_SECONDS + mdp.MMI_RETRY_SECONDS < 2.5


def test_more_open_questions_than_there_may_be_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdp, "MMI_WAITING_MAX", 2)
    broker = Broker()
    broker.desk.services["price"] = None
    for number in range(4):
        broker.say(DOOR, b"c%d" % number, *C1, b"mmi.service", b"price")
    assert broker.dropped == {"too-many-questions": 2}
    broker.wait(3.0)
    broker.say(DOOR, b"c3", *C1, b"mmi.service", b"price")
    assert broker.dropped == {"too-many-questions": 2}


# -- limits and noise ----------------------------------------------------------------------------------------------------


def test_more_workers_than_there_may_be_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKERS_MAX", 2)
    broker = Broker()
    for number in range(4):
        broker.ready(ONE, b"w%d" % number)
    assert broker.free == 2 and broker.dropped == {"too-many-workers": 2} and broker.nothing_sent()
    broker.work(ONE, b"w3", ONE.heartbeat)
    assert broker.heard(b"w3") == [disconnect(ONE)]
    broker.work(ONE, b"w0", ONE.disconnect)
    broker.ready(ONE, b"w3")
    assert broker.free == 2


def test_a_flood_of_heartbeats_from_a_stranger_is_answered_once_a_turn() -> None:
    broker = Broker()
    for _ in range(10_000):
        broker.gateway.receive(DOOR, b"w", [*W1, b"\4"], broker.now)
    broker.turn()
    assert broker.heard(b"w") == [disconnect(ONE)]
    broker.work(ONE, b"w", ONE.heartbeat)
    assert broker.heard(b"w") == [disconnect(ONE)]


def test_services_leave_nothing_behind_when_their_workers_go() -> None:
    broker = Broker()
    for number in range(1000):
        broker.ready(ONE, b"w%d" % number, b"service %d" % number)
    broker.wait(8.0)
    table = broker.gateway._workers
    assert not (table._known or table._pools or table._jobs or table._touched or table._fresh or table._overdue)
    assert set(broker.desk.offers.values()) == {0}


TOKENS = [
    b"", b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02", *(bytes([number]) for number in range(8)), b"echo", b"mmi.service", b"mmi.x",
    FIRST, SALT, b"honest", b"\xff\xfe", b"x" * 300,
]  # fmt: skip
FRAMES = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=12), max_size=8)
HEADED = st.tuples(st.sampled_from([C1, C2, W1, W2]), FRAMES).map(lambda pair: [*pair[0], *pair[1]])
NOISE = st.lists(
    st.tuples(st.just("say"), st.sampled_from([b"one", b"two", b"\0three"]), FRAMES | HEADED)
    | st.tuples(st.just("gone"), st.sampled_from([b"one", b"two", b"\0three"]), st.just([]))
    | st.tuples(st.just("give"), st.just(b""), FRAMES)
    | st.tuples(st.just("wait"), st.just(b""), st.just([])),
    max_size=40,
)  # fmt: skip


@both_versions
@given(noise=NOISE)
def test_noise_raises_nothing_and_does_not_change_what_honest_peers_exchange(
    tongue: Tongue, noise: list[tuple[str, bytes, Frames]]
) -> None:
    broker, head = Broker(), C1 if tongue is ONE else C2
    broker.ready(tongue, b"honest worker")
    ticket = broker.ask(b"honest client", *head, b"echo", b"question")
    broker.give("honest job", b"question")
    [request] = broker.heard(b"honest worker")
    for number, (what, peer, frames) in enumerate(noise):
        if what == "say":
            broker.say(DOOR, peer, *frames)
        elif what == "gone":
            broker.gateway.gone(DOOR, peer, broker.now)
            broker.turn()
        elif what == "give" and broker.free:
            broker.give(f"noise {number}", *frames)
        else:
            broker.wait_with(1, (tongue, b"honest worker"))
    assert broker.heard(b"honest worker") == [] and broker.sent(DOOR, b"honest client") == []
    broker.reply(tongue, b"honest worker", b"answer", cid=request[-3])
    assert broker.desk.settled["honest job"] == Settled("reply", [b"answer"], "")
    broker.tell(broker.desk.answer(ticket, b"answer"))
    [sent] = broker.sent(DOOR, b"honest client")
    assert sent[-2:] == [b"echo", b"answer"]
