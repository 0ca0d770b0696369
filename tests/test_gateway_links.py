"""Our workers at queues and brokers that somebody else runs, frame by frame. Callers are in test_gateway_link_callers.py, real sockets in
test_gateway_links_textbook.py."""

from __future__ import annotations

import random
from typing import Any

import pytest
from link_driver import OPEN, LinkBench, bench, names, random_worker_life, sockets_of

from zmqkit.gateways.desk import Frames
from zmqkit.gateways.mdp_link import MdpWorkerLink
from zmqkit.gateways.ppp_link import CALLS_MAX, PppWorkerLink

READY, HEARTBEAT = [b"\x01"], [b"\x02"]
ASK = [b"C", b"", b"body"]
MD_READY = [b"", b"MDPW01", b"\x01", b"echo"]
MD_ASK = [b"", b"MDPW01", b"\x02", b"C", b"", b"body"]
MD_HEARTBEAT, MD_DISCONNECT = [b"", b"MDPW01", b"\x04"], [b"", b"MDPW01", b"\x05"]



def pirate_worker(**options: Any) -> LinkBench:
    b = bench(lambda desk: PppWorkerLink(desk, "echo", names(), **options))
    assert b.heard() == [OPEN, READY]
    return b


def majordomo_worker(**options: Any) -> LinkBench:
    b = bench(lambda desk: MdpWorkerLink(desk, "echo", **options))
    assert b.heard() == [OPEN, MD_READY]
    return b


# -- a pirate's worker ------------------------------------------------------------------------------------------------


def test_a_request_of_the_queue_is_asked_of_the_desk_and_its_answer_goes_back_in_three_frames() -> None:
    b = pirate_worker(call_seconds=7.0)
    b.say(*ASK)
    assert [(call.service, call.frames, call.seconds) for call in b.desk.asked] == [("echo", [b"body"], 7.0)]
    b.tell(b.desk.answer(1, b"BODY"))
    b.say(b"D", b"", b"two", b"frames")
    b.tell(b.desk.answer(2))
    assert b.heard() == [[b"C", b"", b"BODY"], [b"D", b"", b""]]
    assert b.desk.asked[1].frames == [b"two", b"frames"]


def test_an_idle_worker_beats_each_second_and_a_busy_one_is_mute() -> None:
    b = pirate_worker()
    for _ in range(5):
        b.wait(1.0)
        b.say(*HEARTBEAT)
    assert b.heard() == [HEARTBEAT] * 5
    b.wait(0.9)
    b.say(*ASK)
    b.wait(3600.0)
    assert b.heard() == []
    b.tell(b.desk.answer(1, b"late"))
    b.wait(0.9)
    assert b.heard() == [[b"C", b"", b"late"]]  # which says "ready" too
    b.wait(0.1)
    assert b.heard() == [HEARTBEAT]


def test_a_heartbeat_that_has_not_left_when_a_request_comes_does_not_leave() -> None:
    b = pirate_worker()
    b.now += 1.0
    b.link.tick(b.now)
    b.say(*ASK)
    assert b.heard() == []


def test_the_queues_silence_while_we_are_busy_is_not_taken_for_death() -> None:
    b = pirate_worker()
    b.say(*ASK)
    b.wait(60.0)
    b.tell(b.desk.answer(1, b"x"))
    b.wait(2.9)
    assert OPEN not in b.heard()
    assert b.desk.cancelled == []
    b.wait(1.1)  # but then it counts again
    assert OPEN in b.heard()


def test_a_second_request_that_crossed_a_heartbeat_is_answered_too_and_we_are_mute_until_both_are_done() -> None:
    b = pirate_worker()
    b.say(b"C", b"", b"one")
    b.say(b"D", b"", b"two")
    b.tell(b.desk.answer(2, b"TWO"))
    b.wait(10.0)
    assert b.heard() == [[b"D", b"", b"TWO"]]
    b.tell(b.desk.refuse(1))
    assert b.heard() == [READY]


def test_being_ready_again_after_no_answer_is_said_once_nothing_is_in_hand() -> None:
    b = pirate_worker()
    b.say(*ASK)
    b.say(b"D", b"", b"two")
    b.tell(b.desk.refuse(1, "no worker"))
    assert b.heard() == []
    b.tell(b.desk.answer(2, b"TWO"))
    assert b.heard() == [[b"D", b"", b"TWO"]]
    b.say(*ASK)
    b.tell(b.desk.refuse(3))
    assert b.heard() == [READY]
    assert b.link.dropped == {"no-answer": 2}


def test_more_requests_than_a_queue_that_waits_for_answers_can_send_are_dropped() -> None:
    b = pirate_worker()
    for _ in range(CALLS_MAX + 2):
        b.say(*ASK)
    assert len(b.desk.open) == CALLS_MAX
    assert b.link.dropped == {"too-many-requests": 2}


def test_an_answer_of_several_frames_or_parts_is_none_for_a_pirate() -> None:
    b = pirate_worker()
    b.say(*ASK)
    b.tell(b.desk.answer(1, b"two", b"frames"))
    assert b.heard() == [READY]
    b.say(*ASK)
    b.tell(b.desk.more(2, b"one"))
    assert b.heard() == []
    b.tell(b.desk.more(2, b"two"))
    assert b.heard() == [READY] and b.desk.cancelled == [2]
    b.say(*ASK)
    b.tell(b.desk.more(3, b"one"), b.desk.answer(3))
    assert b.heard() == [[b"C", b"", b"one"]]
    assert b.link.dropped == {"too-many-body-frames": 2}


def test_a_queue_that_is_silent_for_three_seconds_gets_a_new_worker_later_and_later() -> None:
    b = pirate_worker()
    opened = []
    for _ in range(7):
        before = b.now
        while OPEN not in b.heard():
            b.wait(0.5)
        opened.append(b.now - before)
    assert opened == [4.0, 5.0, 7.0, 11.0, 19.0, 35.0, 35.0]  # three of silence, then 1, 2, 4 … 32
    assert b.names == [b"W%d" % n for n in range(1, 9)]
    b.say(b"anything")
    b.wait(4.0)
    assert b.heard().count(OPEN) == 1


def test_ready_is_the_first_word_of_every_socket() -> None:
    b = pirate_worker()
    b.wait(4.0)
    assert b.heard() == [HEARTBEAT, HEARTBEAT, OPEN, READY]


def test_a_queue_that_was_only_slow_keeps_its_worker_and_what_it_handed_out() -> None:
    b = pirate_worker()
    b.wait(3.5)
    b.heard()
    b.say(*HEARTBEAT)
    assert b.heard() == [READY]  # it may have forgotten us
    b.wait(2.0)
    assert b.heard() == [HEARTBEAT] * 2
    b.wait(1.5)
    b.say(*ASK)
    assert b.heard() == []  # READY would bring a second one
    b.tell(b.desk.answer(1, b"x"))
    assert b.heard() == [[b"C", b"", b"x"]]
    assert b.names == [b"W1"]


def test_a_pause_of_our_own_is_not_the_queues_silence() -> None:
    b = pirate_worker()
    b.now += 100.0  # the process was stopped, say
    b.link.tick(b.now)
    b.turn()
    assert b.heard() == [HEARTBEAT]
    b.say(*HEARTBEAT)
    b.wait(2.9)
    assert OPEN not in b.heard()


@pytest.mark.parametrize("how", ["cut", "does not leave"])
def test_what_is_in_hand_when_the_connection_ends_is_taken_back_and_never_answered_by_another_socket(how: str) -> None:
    b = pirate_worker()
    b.say(*ASK)
    late = b.desk.answer(1, b"late")
    b.desk.open[1] = b.desk.asked[0]
    if how == "cut":
        b.cut()
    else:
        b.say(b"D", b"", b"other")
        b.stuck = True
        b.tell(b.desk.answer(2, b"x"))
        b.stuck = False
    assert b.desk.cancelled == [1]
    b.tell(late)  # the desk told it before it heard
    b.wait(1.0)
    assert b.heard() == [OPEN, READY]
    assert b.link.dropped == {"answer-without-socket": 1}


def test_an_answer_that_has_not_left_when_the_connection_ends_leaves_no_more() -> None:
    b = pirate_worker()
    b.say(*ASK)
    b.link.hear([b.desk.answer(1, b"x")], b.now)
    b.cut()
    assert b.heard() == []


def test_what_still_comes_from_the_old_socket_is_not_listened_to() -> None:
    b = pirate_worker()
    b.cut()
    b.now += 1.0
    b.link.tick(b.now)
    b.link.receive(0, b"", ASK, b.now)
    b.link.cut(b.now)
    b.turn()
    assert b.heard() == [OPEN, READY]
    assert b.link.dropped == {"old-socket": 1} and not b.desk.asked


@pytest.mark.parametrize("frames", [[b"\x03"], [b""], [b"C", b""], [b"", b"", b"x"], [b"C", b"full", b"x"], [b"\x02", b""], []])
def test_a_worker_drops_what_is_no_message_of_a_queue(frames: Frames) -> None:
    b = pirate_worker()
    b.say(*frames)
    assert b.link.dropped == {"bad-message": 1} and not b.desk.asked


# -- a Majordomo's worker ---------------------------------------------------------------------------------------------


def test_a_request_of_the_broker_is_asked_of_the_desk_and_its_answer_goes_back() -> None:
    b = majordomo_worker(call_seconds=7.0)
    b.say(*MD_ASK)
    assert [(call.service, call.frames, call.seconds) for call in b.desk.asked] == [("echo", [b"body"], 7.0)]
    b.tell(b.desk.answer(1, b"BODY"))
    assert b.heard() == [[b"", b"MDPW01", b"\x03", b"C", b"", b"BODY"]]


def test_it_beats_every_two_and_a_half_seconds_busy_or_idle_and_says_nothing_else() -> None:
    b = majordomo_worker()
    b.wait(2.5)
    b.say(*MD_ASK)
    b.wait(100.0)
    assert b.heard() == [MD_HEARTBEAT] * 41  # and its silence while we are busy is not death
    b.tell(b.desk.answer(1, b"x"))
    b.wait(7.4)
    assert OPEN not in b.heard()
    b.wait(0.1)
    assert OPEN in b.heard()


def test_a_broker_that_is_silent_gets_a_new_socket_at_once_and_no_goodbye() -> None:
    b = majordomo_worker()
    b.say(*MD_HEARTBEAT)
    b.wait(7.4)
    b.heard()
    b.wait(0.1)
    assert b.heard() == [OPEN, MD_READY]


def test_a_worker_that_is_sent_away_is_ready_on_a_new_socket_but_not_in_a_circle() -> None:
    b = majordomo_worker()
    b.wait(2.5)
    b.heard()
    b.say(*MD_DISCONNECT)
    b.wait(0.0)
    assert b.heard() == [OPEN, MD_READY]
    b.say(*MD_DISCONNECT)
    b.say(*MD_ASK)
    b.wait(2.4)
    assert b.heard() == [] and not b.desk.asked
    b.wait(0.1)
    assert b.heard() == [OPEN, MD_READY]


def test_a_request_without_an_answer_ends_in_a_new_worker_for_the_old_one_would_be_busy_for_ever() -> None:
    b = majordomo_worker()
    b.say(*MD_ASK)
    b.tell(b.desk.refuse(1, "out of time"))
    b.wait(2.4)
    assert b.heard() == []
    b.wait(0.1)
    assert b.heard() == [OPEN, MD_READY]
    b.wait(5.0)
    b.say(*MD_ASK)
    b.heard()
    b.tell(b.desk.answer(2, b"two", b"frames"))
    b.wait(0.0)
    assert b.heard() == [OPEN, MD_READY]


def test_a_busy_worker_that_is_sent_away_takes_its_question_back() -> None:
    b = majordomo_worker()
    b.say(*MD_ASK)
    b.say(*MD_DISCONNECT)
    assert b.desk.cancelled == [1]


def test_a_second_request_before_the_answer_is_the_brokers_error() -> None:
    b = majordomo_worker()
    b.say(*MD_ASK)
    b.say(*MD_ASK)
    assert len(b.desk.asked) == 1 and b.link.dropped == {"too-many-requests": 1}


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "not-mdp"),
        ([b"", b"MDPW01"], "not-mdp"),
        ([b"", b"MDPC01", b"echo", b"x"], "not-mdp"),
        ([b"MDPW02", b"\x02", b"C", b"", b"x"], "not-mdp"),
        ([b"", b"MDPW01", b"\x09"], "unknown-command"),
        ([b"", b"MDPW01", b"\x02", b"C", b""], "bad-frames"),
        ([b"", b"MDPW01", b"\x02", b"C", b"x", b"y"], "bad-frames"),
        ([b"", b"MDPW01", b"\x02", b"", b"", b"y"], "bad-frames"),
    ],
)
def test_a_majordomos_worker_drops_what_is_invalid_and_does_not_take_it_for_a_heartbeat(frames: Frames, reason: str) -> None:
    b = majordomo_worker()
    b.wait(5.0)
    b.say(*frames)
    assert b.link.dropped == {reason: 1} and not b.desk.asked
    b.wait(2.5)
    assert OPEN in b.heard()


def test_a_majordomos_worker_sends_more_body_frames_if_told_so() -> None:
    b = majordomo_worker(body_frames_max=2)
    b.say(*MD_ASK)
    b.tell(b.desk.more(1, b"two"), b.desk.answer(1, b"frames"))
    assert b.heard() == [[b"", b"MDPW01", b"\x03", b"C", b"", b"two", b"frames"]]


def test_a_service_may_have_another_name_at_the_broker() -> None:
    b = bench(lambda desk: MdpWorkerLink(desk, "echo", foreign="Écho"))
    b.say(*MD_ASK)
    assert b.heard() == [OPEN, [b"", b"MDPW01", b"\x01", b"\xc3\x89cho"]] and b.desk.asked[0].service == "echo"


# -- any order of events ----------------------------------------------------------------------------------------------


def test_a_pirates_worker_speaks_while_busy_only_to_answer_and_only_what_was_asked_on_that_socket() -> None:
    for seed in range(300):
        b = bench(lambda desk: PppWorkerLink(desk, "echo", names()))
        life = random_worker_life(b, lambda client: [client, b"", b"x"], [HEARTBEAT, [b"?"]], random.Random(seed))
        for socket in sockets_of(life):
            busy: set[bytes] = set()
            for entry in socket:
                if isinstance(entry, str):
                    busy.add(entry.split()[1].encode())
                elif len(entry) == 3:
                    assert entry[0] in busy, f"seed {seed}"
                    busy.remove(entry[0])
        assert len(set(b.names)) == len(b.names)


def test_a_majordomos_worker_says_ready_once_per_socket_and_first_and_never_disconnect() -> None:
    def asks(client: bytes) -> Frames:
        return [b"", b"MDPW01", b"\x02", client, b"", b"x"]

    for seed in range(300):
        b = bench(lambda desk: MdpWorkerLink(desk, "echo"))
        life = random_worker_life(b, asks, [MD_HEARTBEAT, MD_DISCONNECT, [b"?"]], random.Random(seed))
        for socket in sockets_of(life):
            said = [entry for entry in socket if not isinstance(entry, str)]
            asked = {entry.split()[1].encode() for entry in socket if isinstance(entry, str)}
            assert MD_READY not in said[1:] and said[:1] in ([MD_READY], []), f"seed {seed}"
            assert MD_DISCONNECT not in said
            assert {frames[3] for frames in said if frames[2] == b"\x03"} <= asked
