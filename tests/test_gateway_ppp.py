"""PPP: Lazy Pirate clients and Paranoid Pirate workers at a desk. The peers are those of the Guide, frame for frame."""

from __future__ import annotations

from math import inf

import pytest
from fake_desk import Bench, FakeDesk, Settled
from hypothesis import given, strategies as st
from test_wire_golden import written

from zmqkit.gateways import clients, workers
from zmqkit.gateways.desk import Frames
from zmqkit.gateways.ppp import BACKEND, FRONTEND, HEARTBEAT, READY, Ppp

SALT = b"salt"
FIRST = SALT + bytes(7) + b"\1"  # the first envelope


class Queue(Bench):
    def __init__(self, **options: float) -> None:
        desk = FakeDesk()
        super().__init__(Ppp(desk, salt=SALT, **options), desk)

    def ask(self, peer: bytes, *body: bytes) -> int:
        """A client's request; the ticket under which the desk was asked."""
        self.say(FRONTEND, peer, b"", *body)
        return self.desk.asked[-1].ticket

    def work(self, peer: bytes, *frames: bytes) -> None:
        self.say(BACKEND, peer, *frames)

    def give(self, job: str, *body: bytes) -> None:
        self.tell(self.desk.request("ppp", job, *(body or (b"body",))))

    def heard(self, peer: bytes) -> list[Frames]:
        """What a worker was sent since it was asked last, without heartbeats."""
        return [frames for frames in self.sent(BACKEND, peer) if frames != [HEARTBEAT]]

    def beats(self, peer: bytes) -> int:
        return self.sent(BACKEND, peer).count([HEARTBEAT])

    def wait_with(self, seconds: int, *peers: bytes) -> None:
        """These workers beat once a second meanwhile."""
        for _ in range(seconds):
            self.wait(1.0)
            for peer in peers:
                self.work(peer, HEARTBEAT)

    def keeps_nothing_of_clients(self) -> bool:
        table = self.gateway._clients
        return not (table._clients or table._peers or table._requests or table._bytes)

    @property
    def free(self) -> int:
        return self.desk.offers.get("ppp", 0)

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.gateway.dropped)


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


# -- heartbeats ----------------------------------------------------------------------------------------------------------


def test_every_worker_is_sent_a_heartbeat_each_second_idle_or_busy() -> None:
    queue = Queue()
    queue.work(b"idle", READY)
    queue.work(b"busy", READY)
    queue.give("job")
    queue.give("second")
    queue.work(b"idle", FIRST, b"", b"done")
    for _ in range(10):
        for peer in (b"idle", b"busy"):
            queue.sent(BACKEND, peer)
        queue.wait_with(1, b"idle", b"busy")
        assert queue.beats(b"idle") == 1 == queue.beats(b"busy")


def test_nobody_is_ticked_for_when_nobody_is_there() -> None:
    queue = Queue()
    assert queue.gateway.deadline == inf
    queue.work(b"w", READY)
    assert queue.gateway.deadline == queue.now + 1.0
    queue.wait(3.5)
    assert queue.gateway.deadline == inf


def test_a_tick_that_comes_late_is_followed_by_one_heartbeat_and_not_by_many() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.now += 2.7
    queue.gateway.tick(queue.now)
    queue.gateway.tick(queue.now)
    queue.turn()
    assert queue.beats(b"w") == 1 and queue.now < queue.gateway.deadline <= queue.now + 1.0


def test_a_worker_that_is_heard_of_stays_for_ever() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    for _ in range(10):
        queue.wait(2.9)
        queue.work(b"w", HEARTBEAT)
    assert queue.free == 1


def test_whatever_a_known_worker_says_keeps_it_present() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    for frames in ((b"nonsense",), (b"a", b"b"), (b"stray", b"", b"reply")):
        queue.wait(2.9)
        queue.work(b"w", *frames)
    assert queue.free == 1 and queue.dropped == {"bad-message": 2, "stray-reply": 1}


def test_an_idle_worker_that_was_silent_for_three_seconds_is_gone() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.wait(2.99)
    assert queue.free == 1
    queue.wait(0.02)
    assert queue.free == 0 and queue.gateway.deadline == inf
    queue.sent(BACKEND, b"w")
    queue.wait(5.0)
    assert queue.nothing_sent()


def test_a_worker_that_is_mute_while_it_works_may_take_its_time_and_is_sent_heartbeats() -> None:
    """The Guide's worker."""
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.wait(60.0)
    assert not queue.desk.settled and queue.beats(b"w") == 60
    queue.work(b"w", FIRST, b"", b"done")
    assert queue.desk.settled["job"].how == "reply" and queue.free == 1
    queue.wait(3.01)
    assert queue.free == 0, "idle, it has three seconds as before"


def test_a_worker_that_beats_while_it_works_and_falls_silent_has_lost_its_job() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.wait_with(3, b"w")
    queue.wait(2.99)
    assert not queue.desk.settled
    queue.wait(0.02)
    assert queue.desk.settled == {"job": Settled("lost", [], "its worker was silent for 3 s")} and queue.gateway.deadline == inf


def test_with_each_request_it_is_seen_anew_whether_a_worker_beats_while_it_works() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.wait_with(3, b"w")
    queue.work(b"w", FIRST, b"", b"done")
    queue.give("second")
    queue.wait(20.0)
    assert "second" not in queue.desk.settled
    queue.wait_with(3, b"w")
    queue.wait(3.01)
    assert queue.desk.settled["second"].how == "lost"


def test_a_heartbeat_that_met_the_request_on_its_way_does_not_show_that_its_worker_beats_while_it_works() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    for _ in range(2):
        queue.wait(0.3)
        queue.work(b"w", HEARTBEAT)  # the second left before the first was read, as far as we know
    queue.wait(20.0)
    assert not queue.desk.settled


def test_heartbeats_that_lay_in_a_buffer_while_we_were_away_show_nothing() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.now += 60.0
    for _ in range(3):
        queue.work(b"w", HEARTBEAT)
    queue.wait(20.0)
    assert not queue.desk.settled


def test_a_worker_that_had_to_finish_something_older_first_comes_to_its_request_only_then() -> None:
    queue = Queue()
    queue.work(b"w", HEARTBEAT)  # it outlived a queue, and is busy for that
    queue.give("job")
    queue.wait(2.0)
    queue.work(b"w", b"an old envelope", b"", b"done")
    queue.work(b"w", HEARTBEAT)
    queue.wait(20.0)
    assert not queue.desk.settled


def test_each_worker_has_its_own_three_seconds() -> None:
    queue = Queue()
    queue.work(b"v", READY)
    queue.wait(0.5)
    queue.work(b"w", READY)
    queue.wait(1.2)
    queue.work(b"v", HEARTBEAT)
    queue.wait(1.79)
    assert queue.free == 2
    queue.wait(0.02)
    assert queue.free == 1, "w went 3 s after its only word"
    queue.wait(1.2)
    assert queue.free == 0


def test_a_pause_of_our_own_is_not_the_workers_silence() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.now += 60.0  # the process stood still
    queue.gateway.tick(queue.now)
    queue.turn()
    assert not queue.desk.settled
    queue.work(b"w", FIRST, b"", b"done")
    assert queue.desk.settled["job"].how == "reply"


# -- coming and going ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [(HEARTBEAT,), (b"an old envelope", b"", b"reply")])
def test_a_worker_that_outlived_the_queue_is_ready_again(frames: tuple[bytes, ...]) -> None:
    queue = Queue()
    queue.work(b"w", *frames)
    assert queue.free == 1
    queue.wait(1.0)
    assert queue.beats(b"w") == 1


@pytest.mark.parametrize("frames", [(), (b"",), (b"nonsense",), (b"\x01\x02",), (b"a", b"b"), (b"", b"", b"c"), (b"a", b"b", b"c")])
def test_a_stranger_that_talks_nonsense_is_no_worker(frames: tuple[bytes, ...]) -> None:
    queue = Queue()
    queue.work(b"w", *frames)
    assert queue.desk.offers == {} and queue.dropped == {"stranger": 1} and queue.gateway.deadline == inf


def test_an_answer_to_an_earlier_queue_is_not_taken_for_one_of_ours() -> None:
    queue, earlier = Queue(), Queue()
    for each in (earlier, queue):
        each.work(b"w", READY)
    earlier.gateway._workers._salt = b"other"
    earlier.give("job")
    [old] = earlier.heard(b"w")
    queue.give("job")
    queue.work(b"w", *old)
    assert queue.dropped == {"stray-reply": 1} and not queue.desk.settled and queue.free == 0


def test_an_answer_after_the_worker_was_given_up_is_dropped_and_it_is_ready_again() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.wait_with(2, b"w")
    queue.wait(3.5)
    queue.work(b"w", FIRST, b"", b"too late")
    assert queue.desk.settled["job"].how == "lost" and queue.dropped == {"stray-reply": 1} and queue.free == 1


@pytest.mark.parametrize("signal", [HEARTBEAT, READY])
def test_a_worker_that_says_ready_with_a_job_in_hand_and_goes_on_as_an_idle_one_has_lost_it(signal: bytes) -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.work(b"w", READY)
    for _ in range(2):
        queue.wait(0.99)
        queue.work(b"w", signal)
    queue.wait(1.01)
    assert queue.free == 0 and not queue.desk.settled
    queue.wait(0.02)
    assert queue.desk.settled["job"] == Settled("lost", [], "its worker began anew") and queue.free == 1
    queue.work(b"w", FIRST, b"", b"after all")
    assert queue.dropped == {"stray-reply": 1} and queue.free == 1


def test_a_worker_that_has_said_ready_twice_is_given_one_job_and_its_answer_counts() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.work(b"w", READY)
    queue.heard(b"w")
    queue.give("second")
    assert queue.heard(b"w") == [] and queue.desk.settled["second"].how == "back" and queue.free == 0
    queue.wait_with(2, b"w")
    queue.work(b"w", FIRST, b"", b"done")
    assert queue.desk.settled["job"] == Settled("reply", [b"done"], "") and queue.free == 1
    queue.give("third")
    queue.wait_with(5, b"w")
    assert "third" not in queue.desk.settled, "what it said before that is over"


def test_a_worker_that_has_said_ready_twice_and_is_mute_may_take_its_time() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.wait(1.2)
    queue.work(b"w", READY)
    queue.wait(60.0)
    assert not queue.desk.settled and queue.free == 0
    queue.work(b"w", FIRST, b"", b"done")
    assert queue.desk.settled["job"].how == "reply" and queue.free == 1


def test_a_worker_that_begins_anew_and_is_slow_to_beat_has_lost_its_job_all_the_same() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.work(b"w", READY)
    queue.wait(5.0)
    queue.wait_with(5, b"w")
    assert queue.desk.settled["job"] == Settled("lost", [], "its worker began anew") and queue.free == 1


def test_a_worker_that_said_ready_with_a_job_in_hand_and_vanishes_has_lost_it() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.work(b"w", READY)
    queue.gone[BACKEND, b"w"] = None
    queue.wait(10.0)
    assert queue.desk.settled["job"] == Settled("lost", [], "the connection of its worker is gone") and queue.gateway.deadline == inf


def test_a_worker_that_begins_anew_with_what_nobody_waits_for_is_ready_soon_and_nothing_is_told() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.tell(queue.desk.withdraw("job"))
    queue.work(b"w", READY)
    queue.wait_with(4, b"w")
    assert queue.free == 1 and not queue.desk.settled and not queue.dropped


def test_a_second_answer_is_dropped() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    for _ in range(2):
        queue.work(b"w", FIRST, b"", b"done")
    assert queue.dropped == {"stray-reply": 1} and queue.free == 1


def test_an_answer_to_a_request_that_has_not_left_is_dropped() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.gateway.hear([queue.desk.request("ppp", "job", b"body")], queue.now)
    queue.work(b"w", FIRST, b"", b"guessed")
    assert not queue.desk.settled and queue.dropped == {"stray-reply": 1} and len(queue.heard(b"w")) == 1


def test_nobody_answers_what_another_was_asked() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.work(b"x", READY)
    queue.give("job")
    queue.work(b"x", FIRST, b"", b"forged")
    assert not queue.desk.settled and queue.dropped == {"stray-reply": 1}


def test_a_request_that_cannot_leave_goes_back() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.gone[BACKEND, b"w"] = None
    queue.give("job")
    assert queue.desk.settled["job"].how == "back" and queue.free == 0


def test_a_worker_that_vanishes_with_a_job_has_lost_it() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.gone[BACKEND, b"w"] = None
    queue.wait(1.0)  # its heartbeat does not leave
    assert queue.desk.settled["job"] == Settled("lost", [], "the connection of its worker is gone") and queue.free == 0


def test_an_idle_worker_that_vanishes_is_offered_no_more() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.gone[BACKEND, b"w"] = None
    queue.wait(1.0)
    assert queue.free == 0 and queue.gateway.deadline == inf


def test_a_heartbeat_that_cannot_leave_takes_the_request_of_the_same_turn_with_it() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.now += 1.0
    queue.gateway.tick(queue.now)
    queue.gateway.hear([queue.desk.request("ppp", "job", b"body")], queue.now)
    sends = queue.gateway.take()
    assert [send.frames for send in sends] == [[HEARTBEAT], [FIRST, b"", b"body"]]
    queue.gateway.gone(BACKEND, b"w", queue.now)
    assert queue.desk.settled["job"].how == "back" and queue.free == 0


def test_what_was_not_sent_yet_when_its_worker_said_ready_again_is_sent_to_it() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.gateway.hear([queue.desk.request("ppp", "job", b"body")], queue.now)
    queue.work(b"w", READY)
    assert queue.heard(b"w") == [[FIRST, b"", b"body"]] and queue.free == 0
    queue.wait_with(10, b"w")
    assert not queue.desk.settled


# -- what nobody waits for -----------------------------------------------------------------------------------------------


def test_a_job_that_nobody_waits_for_keeps_its_worker_busy_until_the_answer_which_is_dropped() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.tell(queue.desk.withdraw("job"))
    queue.wait_with(5, b"w")
    assert queue.free == 0
    queue.work(b"w", FIRST, b"", b"late")
    assert queue.free == 1 and queue.dropped == {"late-reply": 1} and not queue.desk.settled


def test_a_job_that_is_withdrawn_before_it_is_sent_is_not_sent() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.work(b"x", READY)
    request = queue.desk.request("ppp", "job", b"body")
    queue.tell(request, queue.desk.withdraw("job"))
    assert queue.nothing_sent() and queue.free == 2
    queue.give("next")
    assert queue.heard(b"w"), "it has kept its place"


def test_a_worker_that_never_got_its_request_is_used_again_at_last() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.tell(queue.desk.withdraw("job"))
    queue.wait_with(int(workers.OVERDUE_SECONDS) - 1, b"w")
    assert queue.free == 0
    queue.wait_with(2, b"w")
    assert queue.free == 1 and not queue.dropped


def test_a_worker_that_vanishes_with_what_nobody_waits_for_says_nothing_to_the_desk() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.tell(queue.desk.withdraw("job"))
    queue.wait(40.0)
    assert not queue.desk.settled and queue.free == 0


def test_a_mute_worker_with_what_nobody_waits_for_is_given_up_at_last() -> None:
    queue = Queue()
    queue.work(b"w", READY)
    queue.give("job")
    queue.wait(20.0)
    queue.tell(queue.desk.withdraw("job"))
    queue.wait(workers.OVERDUE_SECONDS - 0.01)
    assert queue.gateway._workers.find(b"w")
    queue.wait(0.02)
    assert queue.gateway._workers.find(b"w") is None and queue.gateway.deadline == inf


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


STEPS = st.lists(
    st.tuples(st.sampled_from(["ready", "beat", "nonsense", "answer", "stray", "gone"]), st.sampled_from([b"a", b"b", b"c"]))
    | st.tuples(st.sampled_from(["give", "give and withdraw", "withdraw"]), st.just(b""))
    | st.tuples(st.sampled_from(["0.2", "0.7", "1.5", "31"]), st.just(b"")),
    max_size=60,
)  # fmt: skip


@given(STEPS)
def test_whose_silence_counts_stands_in_the_order_in_which_they_were_heard(steps: list[tuple[str, bytes]]) -> None:
    queue, said = Queue(), {"ready": [READY], "beat": [HEARTBEAT], "nonsense": [b"nonsense"], "stray": [b"other", b"", b"x"]}
    table = queue.gateway._workers
    for number, (what, peer) in enumerate(steps):
        worker = table.find(peer)
        if what in said:
            queue.work(peer, *said[what])
        elif what == "answer":
            if worker is not None and worker.cid:
                queue.work(peer, worker.cid, b"", b"x")
        elif what == "gone":
            queue.gateway.gone(BACKEND, peer, queue.now)
            queue.turn()
        elif what.startswith("give") and queue.free:
            request = queue.desk.request("ppp", f"job {number}", b"x")
            queue.tell(request, *([queue.desk.withdraw(f"job {number}")] if "and" in what else []))
        elif what == "withdraw" and queue.desk.handed:
            queue.tell(queue.desk.withdraw(next(iter(queue.desk.handed))))
        elif what[0].isdigit():
            queue.wait(float(what))
        order = [worker.seen for worker in table._expiring.values()]
        assert order == sorted(order)
        assert table._expiring.keys() == {worker.peer for worker in table._known.values() if not worker.cid or worker.beats}
        assert queue.free == sum(not worker.cid for worker in table._known.values())
        assert queue.desk.handed.keys() == {worker.job for worker in table._known.values() if worker.awaited}
