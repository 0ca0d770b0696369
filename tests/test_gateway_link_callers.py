"""Our callers at queues and brokers that somebody else runs, frame by frame: pirates and Majordomo clients, which differ in a header."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from fake_desk import Settled
from link_driver import OPEN, LinkBench, bench, request

from zmqkit.gateways.desk import Frames
from zmqkit.gateways.mdp_link import MdpClientLink
from zmqkit.gateways.ppp_link import PppClientLink


def pirate_client(**options: Any) -> LinkBench:
    b = bench(lambda desk: PppClientLink(desk, "echo", **options))
    assert b.heard() == [OPEN] and b.desk.offers == {"echo": 1}
    return b


def majordomo_client(**options: Any) -> LinkBench:
    b = bench(lambda desk: MdpClientLink(desk, "echo", **options))
    assert b.heard() == [OPEN] and b.desk.offers == {"echo": 1}
    return b


Head = tuple[Callable[..., LinkBench], Frames]
CALLERS = {"pirate": (pirate_client, [b""]), "majordomo": (majordomo_client, [b"", b"MDPC01", b"echo"])}


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest) -> Head:
    return CALLERS[request.param]


def test_a_request_of_the_desk_goes_out_and_its_answer_back_one_at_a_time(caller: Head) -> None:
    make, head = caller
    b = make()
    job = request(b.desk, "job", b"body")
    b.desk.offers["echo"] = 1  # a desk that does not count down by itself
    b.tell(job)
    assert b.heard() == [[*head, b"body"]] and b.desk.offers == {"echo": 0}
    b.say(*head, b"an", b"answer")
    assert b.desk.settled == {"job": Settled("reply", [b"an", b"answer"], "")}
    assert b.desk.offers == {"echo": 1}
    b.tell(request(b.desk, "empty"))
    assert b.heard() == [[*head, b""]]


def test_what_was_offered_a_moment_ago_goes_back(caller: Head) -> None:
    make, head = caller
    b = make()
    b.tell(request(b.desk, 1, b"one"), request(b.desk, 2, b"two"))
    assert b.desk.settled == {2: Settled("back", [], "")}
    assert b.heard() == [[*head, b"one"]]


def test_a_request_is_said_once_and_is_lost_when_no_answer_comes(caller: Head) -> None:
    make, head = caller
    b = make()
    b.tell(request(b.desk, 1, b"one"))
    b.wait(2.5)
    assert b.heard() == [[*head, b"one"]]
    assert b.desk.settled == {1: Settled("lost", [], "no answer within 2.5 s")}
    assert b.desk.offers == {"echo": 0}
    b.say(*head, b"late")
    assert b.link.dropped == {"stray-reply": 1}
    b.wait(1.0)
    assert b.heard() == [OPEN] and b.desk.offers == {"echo": 1}


def test_a_lazy_pirate_says_it_again_on_new_sockets_as_often_as_it_may(caller: Head) -> None:
    make, head = caller
    b = make(tries=3)
    b.tell(request(b.desk, 1, b"one"))
    b.wait(7.4)
    assert b.heard() == [[*head, b"one"], OPEN, [*head, b"one"], OPEN, [*head, b"one"]]
    b.wait(0.1)
    assert b.desk.settled == {1: Settled("lost", [], "no answer within 7.5 s")}
    b.wait(1.0)
    b.tell(request(b.desk, 2, b"two"))
    b.wait(2.5)
    b.say(*head, b"TWO")
    assert b.desk.settled[2] == Settled("reply", [b"TWO"], "")


def test_who_does_not_answer_is_offered_less_and_less_until_anything_comes(caller: Head) -> None:
    make, head = caller
    b = make()
    pauses = []
    for job in range(8):
        b.tell(request(b.desk, job, b"x"))
        b.wait(2.5)
        before = b.now
        while not b.desk.offers["echo"]:
            b.wait(1.0)
        pauses.append(b.now - before)
        if job == 6:
            b.say(*head, b"stray")
    assert pauses == [1, 2, 4, 8, 16, 32, 32, 1]


def test_a_request_that_nobody_waits_for_takes_its_socket_with_it(caller: Head) -> None:
    make, head = caller
    b = make()
    b.tell(request(b.desk, 1, b"one"))
    b.heard()
    b.link.hear([b.desk.withdraw(1)], b.now)
    b.link.receive(0, b"", [*head, b"late"], b.now)
    b.cut()  # that was the old one
    assert b.heard() == [OPEN] and b.desk.offers == {"echo": 1}
    assert b.link.dropped == {"old-socket": 1}


def test_a_request_that_is_withdrawn_in_the_same_breath_does_not_go_out(caller: Head) -> None:
    make, head = caller
    b = make()
    asked = request(b.desk, 1, b"one")
    b.tell(asked, b.desk.withdraw(1))
    assert [*head, b"one"] not in b.heard()


def test_a_withdrawal_between_two_sockets_hurries_nothing(caller: Head) -> None:
    make, _ = caller
    b = make(tries=2)
    b.tell(request(b.desk, 1, b"one"))
    b.cut()
    b.heard()
    b.tell(b.desk.withdraw(1))
    b.wait(0.9)
    assert b.heard() == []
    b.wait(0.1)
    assert b.heard() == [OPEN]


def test_a_request_that_did_not_leave_goes_back(caller: Head) -> None:
    make, _ = caller
    b = make()
    b.stuck = True
    b.tell(request(b.desk, 1, b"one"))
    assert b.desk.settled == {1: Settled("back", [], "")}
    assert b.heard() == [] and b.desk.offers == {"echo": 0}
    b.stuck = False
    b.wait(1.0)
    assert b.heard() == [OPEN] and b.desk.offers == {"echo": 1}


def test_a_request_that_can_have_left_is_lost_with_its_connection_and_any_other_goes_back(caller: Head) -> None:
    make, _ = caller
    for was_up, taken, how in ((True, True, "lost"), (False, True, "back"), (True, False, "back")):
        b = make()
        b.link.hear([request(b.desk, 1, b"one")], b.now)
        if taken:
            b.turn()
        b.cut(was_up)
        assert b.desk.settled[1].how == how
        assert len(b.heard()) == taken
        b.wait(1.0)
        assert b.heard() == [OPEN]


def test_a_retry_that_did_not_leave_is_no_proof_that_nothing_did(caller: Head) -> None:
    make, _ = caller
    b = make(tries=2)
    b.tell(request(b.desk, 1, b"one"))
    b.stuck = True
    b.wait(2.5)
    assert b.desk.settled[1].how == "lost"


def test_a_try_that_ends_with_its_connection_is_followed_by_the_next_when_it_is_time_for_another(caller: Head) -> None:
    make, head = caller
    b = make(tries=2, backoff_seconds=8.0)
    b.tell(request(b.desk, 1, b"one"))
    b.cut()
    b.cut()
    assert b.desk.settled == {}
    b.wait(7.9)
    assert b.heard() == [[*head, b"one"]]
    b.wait(0.1)
    assert b.heard() == [OPEN, [*head, b"one"]]


def test_an_answer_that_was_read_only_after_its_connection_was_cut_counts(caller: Head) -> None:
    make, head = caller
    b = make(tries=2)
    b.tell(request(b.desk, 1, b"one"))
    b.cut()
    b.say(*head, b"ONE")
    assert b.desk.settled[1].how == "reply" and b.desk.offers == {"echo": 0}
    b.wait(1.0)
    assert b.desk.offers == {"echo": 1}


def test_an_answer_from_before_the_request_left_is_not_its_answer(caller: Head) -> None:
    make, head = caller
    b = make()
    b.link.hear([request(b.desk, 1, b"one")], b.now)
    b.say(*head, b"the one before, doubled")
    assert b.desk.settled == {} and b.link.dropped == {"stray-reply": 1}


def test_an_idle_link_that_is_cut_offers_nothing_until_it_has_another_socket(caller: Head) -> None:
    make, _ = caller
    b = make()
    b.cut(was_up=False)
    assert b.desk.offers == {"echo": 0}
    b.tell(request(b.desk, 1, b"one"))
    assert b.desk.settled[1].how == "back"
    b.wait(1.0)
    assert b.desk.offers == {"echo": 1}


def test_a_body_of_several_frames_does_not_go_out(caller: Head) -> None:
    make, _ = caller
    b = make()
    b.tell(request(b.desk, 1, b"two", b"frames"))
    assert b.heard() == [] and b.desk.offers == {"echo": 1}
    assert b.desk.settled == {1: Settled("lost", [], "2 body frames, but 1 is all that goes there")}


@pytest.mark.parametrize("frames", [[], [b""], [b"x", b"y"], [b"", b"MDPC01", b"other", b"x"], [b"", b"MDPC01", b"echo"]])
def test_a_caller_drops_what_is_no_answer_of_its_service(frames: Frames) -> None:
    b = majordomo_client()
    b.tell(request(b.desk, 1, b"one"))
    b.say(*frames)
    assert b.link.dropped == {"bad-reply": 1} and not b.desk.settled


def test_a_majordomo_client_sends_more_body_frames_if_told_so() -> None:
    b = majordomo_client(body_frames_max=2)
    b.tell(request(b.desk, 1, b"two", b"frames"))
    assert b.heard() == [[b"", b"MDPC01", b"echo", b"two", b"frames"]]


def test_a_service_may_have_another_name_at_the_broker() -> None:
    b = bench(lambda desk: MdpClientLink(desk, "echo", foreign="Écho"))
    b.tell(request(b.desk, 1, b"x"))
    assert b.heard() == [OPEN, [b"", b"MDPC01", b"\xc3\x89cho", b"x"]]


def test_a_caller_settles_every_request_once_whatever_happens(caller: Head) -> None:
    make, head = caller
    for seed in range(300):
        chance, jobs = random.Random(seed), count(1)
        b = make(tries=chance.choice((1, 3)))
        for _ in range(80):
            draw = chance.random()
            if draw < 0.3 and b.desk.offers.get("echo", 0):
                b.tell(request(b.desk, next(jobs), b"x"))
            elif draw < 0.4 and b.desk.handed:
                b.tell(b.desk.withdraw(chance.choice(list(b.desk.handed))))
            elif draw < 0.6:
                b.say(*head, b"answer")
            elif draw < 0.65:
                b.cut(chance.random() < 0.5)
            elif draw < 0.7:
                b.stuck = not b.stuck
            else:
                b.wait(chance.choice((0.0, 0.5, 2.5, 8.0)))
            assert len(b.desk.handed) <= 1  # the desk itself insists on the rest
        b.stuck = False
        b.wait(100.0)
        assert not b.desk.handed and b.desk.offers == {"echo": 1}, f"seed {seed}"
