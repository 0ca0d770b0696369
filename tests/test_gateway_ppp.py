"""PPP: Lazy Pirate clients and Paranoid Pirate workers at a desk. The peers are those of the Guide, frame for frame.

How workers come, fall silent and go is in test_gateway_ppp_workers.py.
"""

from __future__ import annotations

import pytest
from fake_desk import Bench, FakeDesk, Settled
from hypothesis import given, strategies as st
from ppp_world import FIRST, SALT, Queue
from test_wire_golden import written

from zmqkit.gateways import clients, workers
from zmqkit.gateways.desk import Frames
from zmqkit.gateways.ppp import BACKEND, FRONTEND, HEARTBEAT, READY, Ppp

# -- frames --------------------------------------------------------------------------------------------------------------


def conversation() -> dict[str, Frames]:
    """Every message there is, in both directions, without routing ids."""
    queue = Queue()
    told: dict[str, Frames] = {}

    def hear(title: str, door: int, peer: bytes, *frames: bytes) -> None:
        told[title] = list(frames)
        queue.say(door, peer, *frames)

    def see(title: str, door: int, peer: bytes) -> None:
        [told[title]] = queue.sent(door, peer)

    hear("worker to queue: READY", BACKEND, b"w", b"\x01")
    hear("client to queue: REQUEST of a REQ socket", FRONTEND, b"c", b"", b"0")
    hear("client to queue: REQUEST with an address stack", FRONTEND, b"d", b"\x00abc", b"number", b"", b"1")
    queue.give("job", b"0")
    see("queue to worker: REQUEST", BACKEND, b"w")
    hear("worker to queue: HEARTBEAT", BACKEND, b"w", b"\x02")
    queue.wait(1.0)
    see("queue to worker: HEARTBEAT", BACKEND, b"w")
    hear("worker to queue: REPLY", BACKEND, b"w", FIRST, b"", b"0")
    assert queue.desk.settled["job"] == Settled("reply", [b"0"], "")
    queue.tell(*(queue.desk.answer(ticket, *asked.frames) for ticket, asked in list(queue.desk.open.items())))
    see("queue to client: REPLY to a REQ socket", FRONTEND, b"c")
    see("queue to client: REPLY with an address stack", FRONTEND, b"d")
    assert not queue.dropped and queue.nothing_sent()
    return told


def test_every_message_in_both_directions_has_these_bytes() -> None:
    assert conversation() == written("ppp", conversation())


# -- clients -------------------------------------------------------------------------------------------------------------


def test_a_clients_request_is_a_call_of_one_service_and_its_answer_comes_under_its_envelope() -> None:
    queue = Queue()
    ticket = queue.ask(b"c", b"0")
    assert queue.desk.open[ticket][:5] == ("ppp", [b"0"], ticket, clients.REQUEST_SECONDS, True)
    queue.tell(queue.desk.answer(ticket, b"0"))
    assert queue.sent(FRONTEND, b"c") == [[b"", b"0"]] and queue.keeps_nothing_of_clients()


def test_the_service_has_the_name_it_is_given() -> None:
    desk = FakeDesk()
    queue = Bench(Ppp(desk, salt=SALT, service="pirates", request_seconds=2.0), desk)
    queue.say(FRONTEND, b"c", b"", b"0")
    queue.say(BACKEND, b"w", READY)
    assert desk.asked[-1].service == "pirates" and desk.asked[-1].seconds == 2.0 and desk.offers == {"pirates": 1}


def test_a_body_of_many_frames_is_passed_as_it_is() -> None:
    queue = Queue()
    ticket = queue.ask(b"c", b"a", b"", b"b")
    assert queue.desk.open[ticket].frames == [b"a", b"", b"b"]
    queue.tell(queue.desk.answer(ticket, b"x", b"y"))
    assert queue.sent(FRONTEND, b"c") == [[b"", b"x", b"y"]]


def test_an_answer_without_frames_is_an_empty_one() -> None:
    queue = Queue()
    queue.tell(queue.desk.answer(queue.ask(b"c", b"0")))
    assert queue.sent(FRONTEND, b"c") == [[b"", b""]]


def test_a_client_wants_its_answer_in_one_message() -> None:
    queue = Queue()
    assert not queue.desk.open[queue.ask(b"c", b"0")].stream


def test_a_call_that_fails_is_answered_with_silence_and_counted() -> None:
    queue = Queue()
    queue.tell(queue.desk.refuse(queue.ask(b"c", b"0")))
    assert queue.nothing_sent() and queue.dropped == {"no-answer": 1}


@pytest.mark.parametrize("frames", [(), (b"",), (b"0",), (b"a", b"b"), (b"a", b"")])
def test_a_request_without_delimiter_or_body_is_dropped(frames: tuple[bytes, ...]) -> None:
    queue = Queue()
    queue.say(FRONTEND, b"c", *frames)
    assert not queue.desk.asked and queue.dropped == {"bad-request": 1}


def test_who_is_gone_waits_for_nothing() -> None:
    queue = Queue()
    first, second = queue.ask(b"c", b"0"), queue.ask(b"c", b"1")
    other = queue.ask(b"d", b"2")
    queue.gone[FRONTEND, b"c"] = None
    queue.tell(queue.desk.answer(first, b"0"))
    assert queue.desk.cancelled == [second] and list(queue.desk.open) == [other]


# -- many clients --------------------------------------------------------------------------------------------------------


def test_one_client_has_only_so_many_requests_with_the_desk_and_the_others_follow_in_order() -> None:
    queue = Queue()
    for number in range(clients.WINDOW + 50):
        queue.say(FRONTEND, b"c", b"", b"%d" % number)
    assert len(queue.desk.open) == clients.WINDOW
    queue.ask(b"d", b"at once")
    assert queue.desk.asked[-1].frames == [b"at once"]
    for _ in range(50):
        queue.tell(queue.desk.answer(next(iter(queue.desk.open)), b""))
    asked = [call.frames for call in queue.desk.asked if call.frames != [b"at once"]]
    assert asked == [[b"%d" % number] for number in range(clients.WINDOW + 50)] and not queue.dropped


def test_what_still_waits_here_goes_with_its_client() -> None:
    queue = Queue()
    for number in range(clients.WINDOW + 50):
        queue.say(FRONTEND, b"c", b"", b"%d" % number)
    queue.gone[FRONTEND, b"c"] = None
    queue.tell(queue.desk.answer(1, b""))
    assert not queue.desk.open and len(queue.desk.asked) <= clients.WINDOW + 1
    assert queue.keeps_nothing_of_clients()


def test_a_client_that_asks_without_end_meets_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CLIENT_REQUESTS_MAX", 3)
    monkeypatch.setattr(clients, "WINDOW", 2)
    queue = Queue()
    for _ in range(5):
        queue.ask(b"c", b"0")
    assert len(queue.desk.open) == 2 and queue.dropped == {"too-many-requests-of-one": 2}
    queue.ask(b"d", b"0")
    assert len(queue.desk.open) == 3


SIZE = 1000 + 2 * clients.FRAME_BYTES  # of a request of a thousand bytes, with its envelope


def test_a_client_that_asks_without_end_for_much_meets_its_own_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CLIENT_BYTES_MAX", 3 * SIZE)
    queue = Queue()
    for _ in range(5):
        queue.say(FRONTEND, b"c", b"", bytes(1000))
    assert len(queue.desk.open) == 3 and queue.dropped == {"too-many-requests-of-one": 2}
    queue.tell(queue.desk.answer(1, b""))
    queue.say(FRONTEND, b"c", b"", bytes(1000))
    assert len(queue.desk.open) == 3 and queue.dropped == {"too-many-requests-of-one": 2}


def test_large_requests_of_one_client_are_with_the_desk_a_few_at_a_time_and_a_larger_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "WINDOW_BYTES", 3 * SIZE)
    queue = Queue()
    for size in (1000, 1000, 1000, 1000, 10_000, 1000):
        queue.say(FRONTEND, b"c", b"", bytes(size))
    under_way = list[list[int]]()
    while queue.desk.open:
        under_way.append([len(asked.frames[0]) for asked in queue.desk.open.values()])
        queue.tell(queue.desk.answer(next(iter(queue.desk.open)), b""))
    assert under_way == [[1000] * 3, [1000] * 3, [1000] * 2, [1000], [10_000], [1000]] and queue.keeps_nothing_of_clients()


@pytest.mark.parametrize(("limit", "value"), [("REQUESTS_MAX", 8), ("REQUESTS_BYTES_MAX", 8 * SIZE)])
def test_clients_that_fill_the_room_of_all_leave_some_to_who_waits_for_nothing_yet(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(clients, limit, value)
    queue = Queue()
    for _ in range(5):
        for peer in (b"greedy", b"greedy too"):
            queue.say(FRONTEND, peer, b"", bytes(1000))
    assert len(queue.desk.open) == 6 and queue.dropped == {"too-many-requests": 4}
    queue.say(FRONTEND, b"modest", b"", bytes(1000))
    queue.say(FRONTEND, b"modest", b"", bytes(1000))
    assert len(queue.desk.open) == 7 and queue.dropped == {"too-many-requests": 5}


@pytest.mark.parametrize(("limit", "value"), [("REQUESTS_MAX", 3), ("REQUESTS_BYTES_MAX", 3 * (1000 + 3 * clients.FRAME_BYTES))])
def test_all_clients_together_meet_a_limit_which_answers_make_room_under(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(clients, limit, value)
    queue = Queue()
    for number in range(5):
        queue.say(FRONTEND, b"c%d" % number, b"", bytes(1000))
    assert len(queue.desk.open) == 3 and queue.dropped == {"too-many-requests": 2}
    queue.tell(queue.desk.answer(next(iter(queue.desk.open)), b""))
    queue.say(FRONTEND, b"d", b"", bytes(1000))
    assert len(queue.desk.open) == 3 and queue.dropped == {"too-many-requests": 2}


def test_a_long_address_stack_counts_like_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "REQUESTS_BYTES_MAX", 1000)
    queue = Queue()
    queue.say(FRONTEND, b"c", bytes(1000), b"", b"0")
    assert not queue.desk.open and queue.dropped == {"too-many-requests": 1}


# -- readiness -----------------------------------------------------------------------------------------------------------


def test_ready_offers_one_more_and_a_request_one_less() -> None:
    queue = Queue()
    for number, peer in enumerate((b"v", b"w"), 1):
        queue.work(peer, READY)
        assert queue.free == number
    queue.give("job")
    assert queue.free == 1
    queue.work(b"v", FIRST, b"", b"done")
    assert queue.free == 2 and queue.desk.settled == {"job": Settled("reply", [b"done"], "")}


def test_a_request_reaches_its_worker_as_exactly_three_frames() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job", b"body")
    assert queue.sent(BACKEND, b"w") == [[FIRST, b"", b"body"]]


def test_a_busy_worker_that_heartbeats_is_given_no_second_request() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.work(b"w", HEARTBEAT)
    assert queue.free == 0
    queue.heard(b"w")
    queue.give("second")
    assert queue.heard(b"w") == [] and queue.desk.settled["second"].how == "back" and queue.free == 0


def test_who_has_been_ready_longest_is_next() -> None:
    queue = Queue()
    for peer in (b"a", b"b", b"c"):
        queue.work(peer, READY)
    queue.work(b"a", HEARTBEAT)
    queue.work(b"b", READY)  # again: it changes no place
    order = []
    for number in range(5):
        queue.give(f"job {number}")
        [(peer, [request])] = [(peer, sent) for peer in (b"a", b"b", b"c") if (sent := queue.heard(peer))]
        order.append(peer)
        queue.work(peer, *request)
    assert order == [b"a", b"b", b"c", b"a", b"b"]


def test_a_worker_may_answer_with_many_frames() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.work(b"w", FIRST, b"", b"a", b"", b"b")
    assert queue.desk.settled["job"].frames == [b"a", b"", b"b"]


@pytest.mark.parametrize("body", [(b"a", b"b"), ()])
def test_a_request_of_other_than_one_frame_fails_and_costs_no_worker(body: tuple[bytes, ...]) -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.tell(queue.desk.request("ppp", "job", *body))
    assert queue.desk.settled["job"] == Settled("lost", [], "a PPP worker takes one body frame")
    assert queue.nothing_sent() and queue.free == 1


def test_requests_beyond_the_ready_workers_go_back() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.tell(*(queue.desk.request("ppp", f"job {number}", b"body") for number in range(3)))
    assert {job: settled.how for job, settled in queue.desk.settled.items()} == {"job 1": "back", "job 2": "back"}
    assert queue.free == 0 and len(queue.heard(b"w")) == 1


# -- limits and noise ----------------------------------------------------------------------------------------------------


def test_more_workers_than_there_may_be_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKERS_MAX", 2)
    queue = Queue()
    for number in range(4):
        queue.work(b"w%d" % number, READY)
    assert queue.free == 2 and queue.dropped == {"too-many-workers": 2}
    queue.wait(3.5)
    queue.work(b"w3", READY)
    assert queue.free == 1


def test_a_flood_of_heartbeats_changes_nothing_and_is_not_answered() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    for _ in range(10_000):
        queue.gateway.receive(BACKEND, b"w", [HEARTBEAT], queue.now)
    queue.turn()
    assert queue.free == 1 and queue.nothing_sent() and not queue.dropped


TOKENS = [b"", READY, HEARTBEAT, FIRST, SALT, b"0", b"honest client", b"honest worker", b"\xff\xfe", b"x" * 300]
FRAMES = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=12), max_size=6)
STRANGERS = st.sampled_from([b"one", b"two", b"\0three"])
NOISE = st.lists(
    st.tuples(st.just("say"), st.sampled_from([FRONTEND, BACKEND]), STRANGERS, FRAMES)
    | st.tuples(st.just("gone"), st.sampled_from([FRONTEND, BACKEND]), STRANGERS, st.just([]))
    | st.tuples(st.just("give"), st.just(BACKEND), st.just(b""), FRAMES)
    | st.tuples(st.just("wait"), st.just(0), st.just(b""), st.just([])),
    max_size=40,
)  # fmt: skip


@given(NOISE)
def test_noise_raises_nothing_and_does_not_change_what_honest_peers_exchange(noise: list[tuple[str, int, bytes, Frames]]) -> None:
    queue = Queue()
    queue.work(b"honest worker", READY)
    ticket = queue.ask(b"honest client", b"question")
    queue.give("honest job", b"question")
    [request] = queue.heard(b"honest worker")
    for number, (what, door, peer, frames) in enumerate(noise):
        if what == "say":
            queue.say(door, peer, *frames)
        elif what == "gone":
            queue.gateway.gone(door, peer, queue.now)
            queue.turn()
        elif what == "give" and queue.free:
            queue.give(f"noise {number}", *frames)
        else:
            queue.wait_with(1, b"honest worker")
    assert queue.heard(b"honest worker") == [] and queue.sent(FRONTEND, b"honest client") == []
    queue.work(b"honest worker", *request[:2], b"answer")
    assert queue.desk.settled["honest job"] == Settled("reply", [b"answer"], "")
    queue.tell(queue.desk.answer(ticket, b"answer"))
    assert queue.sent(FRONTEND, b"honest client") == [[b"", b"answer"]]
