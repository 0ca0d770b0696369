"""MDP's workers: jobs and answers, what is unexpected, who is silent, and what becomes of the job of one that goes."""

from __future__ import annotations

from math import inf

import pytest
from fake_desk import Settled
from mdp_world import FIRST, HEADS, LONG, W1, W2, Broker, both_versions, disconnect

from zmqkit.gateways import workers
from zmqkit.gateways.desk import Withdrawn
from zmqkit.gateways.mdp import DOOR, ONE, TWO, Tongue

# -- workers -------------------------------------------------------------------------------------------------------------


@both_versions
def test_ready_offers_a_request_is_given_and_the_reply_offers_again(tongue: Tongue) -> None:
    broker = Broker()
    broker.ready(tongue, b"w")
    assert broker.free == 1 and broker.nothing_sent()
    broker.give("job", b"a", b"", b"b")
    assert broker.sent(DOOR, b"w") == [[*HEADS[tongue], b"\2", FIRST, b"", b"a", b"", b"b"]] and broker.free == 0
    broker.reply(tongue, b"w", b"x", b"y")
    assert broker.desk.settled == {"job": Settled("reply", [b"x", b"y"], "")} and broker.free == 1


def test_a_request_without_frames_has_an_empty_body() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.tell(broker.desk.request("echo", "job"))
    assert broker.heard(b"w") == [[*W1, b"\2", FIRST, b"", b""]]


def test_workers_of_both_versions_share_a_service_and_who_has_been_ready_longest_is_next() -> None:
    broker, speaks = Broker(), {b"a": ONE, b"b": TWO, b"c": ONE}
    for peer, tongue in speaks.items():
        broker.ready(tongue, peer)
    broker.work(ONE, b"a", ONE.heartbeat)
    order = []
    for number in range(6):
        broker.give(f"job {number}")
        [(peer, [request])] = [(peer, sent) for peer in speaks if (sent := broker.heard(peer))]
        order.append(peer)
        broker.reply(speaks[peer], peer, b"done", cid=request[-3])
    assert order == [b"a", b"b", b"c"] * 2 and not broker.dropped


def test_each_service_is_offered_its_own_workers() -> None:
    broker = Broker()
    broker.ready(ONE, b"v", b"tea")
    broker.ready(ONE, b"w", b"coffee")
    assert broker.desk.offers == {"tea": 1, "coffee": 1}
    broker.tell(broker.desk.request("coffee", "job", b"black"))
    assert broker.heard(b"v") == [] and len(broker.heard(b"w")) == 1


def test_a_request_without_a_ready_worker_goes_back() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.tell(*(broker.desk.request("echo", f"job {number}", b"") for number in range(2)), broker.desk.request("tea", "job 2", b""))
    assert {job: settled.how for job, settled in broker.desk.settled.items()} == {"job 1": "back", "job 2": "back"}
    assert broker.desk.offers == {"echo": 0, "tea": 0}


def test_parts_go_to_the_desk_before_the_final() -> None:
    broker = Broker()
    broker.ready(TWO, b"w")
    broker.give("job")
    for part in (b"1", b"2"):
        broker.work(TWO, b"w", TWO.partial or b"", FIRST, b"", part)
        assert broker.free == 0
    broker.reply(TWO, b"w", b"3")
    assert broker.desk.parts == {"job": [[b"1"], [b"2"]]} and broker.desk.settled["job"].frames == [b"3"] and broker.free == 1


@both_versions
def test_an_answer_under_another_envelope_is_dropped(tongue: Tongue) -> None:
    broker = Broker()
    broker.ready(tongue, b"w")
    broker.reply(tongue, b"w", b"to nothing")
    broker.give("job")
    broker.reply(tongue, b"w", b"forged", cid=b"other")
    assert not broker.desk.settled and broker.dropped == {"stray-reply": 2} and broker.free == 0
    broker.reply(tongue, b"w", b"done")
    assert broker.desk.settled["job"].frames == [b"done"]


def test_nobody_answers_what_another_was_asked() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.ready(ONE, b"x")
    broker.give("job")
    broker.reply(ONE, b"x", b"forged")
    assert not broker.desk.settled and broker.dropped == {"stray-reply": 1}


# -- what is unexpected --------------------------------------------------------------------------------------------------


@both_versions
def test_a_second_ready_is_told_disconnect_and_the_worker_forgotten(tongue: Tongue) -> None:
    broker = Broker()
    broker.ready(tongue, b"w")
    broker.give("job")
    broker.heard(b"w")
    broker.ready(tongue, b"w")
    assert broker.heard(b"w") == [disconnect(tongue)] and broker.free == 0 and broker.dropped == {"unexpected": 1}
    assert broker.desk.settled["job"] == Settled("lost", [], "its worker said READY again")
    broker.ready(tongue, b"w")
    assert broker.free == 1 and broker.nothing_sent()


@both_versions
def test_a_heartbeat_or_an_answer_before_ready_is_told_disconnect(tongue: Tongue) -> None:
    broker = Broker()
    broker.work(tongue, b"v", tongue.heartbeat)
    broker.reply(tongue, b"w", b"done")
    assert broker.heard(b"v") == [disconnect(tongue)] == broker.heard(b"w") and broker.desk.offers == {}


@both_versions
def test_a_worker_that_would_manage_is_told_disconnect(tongue: Tongue) -> None:
    broker = Broker()
    broker.ready(tongue, b"w", b"mmi.service")
    assert broker.heard(b"w") == [disconnect(tongue)] and broker.desk.offers == {}


@both_versions
def test_a_worker_may_disconnect_at_any_time(tongue: Tongue) -> None:
    broker = Broker()
    broker.work(tongue, b"w", tongue.disconnect)
    broker.ready(tongue, b"w")
    broker.work(tongue, b"w", tongue.disconnect)
    assert broker.free == 0
    broker.ready(tongue, b"w")
    broker.give("job")
    broker.heard(b"w")
    broker.work(tongue, b"w", tongue.disconnect)
    assert broker.free == 0 and broker.desk.settled["job"] == Settled("lost", [], "its worker disconnected")
    broker.wait(10.0)
    assert broker.nothing_sent() and not broker.dropped


def test_what_was_not_sent_yet_when_its_worker_disconnected_goes_back() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.gateway.hear([broker.desk.request("echo", "job", b"")], broker.now)
    broker.work(ONE, b"w", ONE.disconnect)
    assert broker.desk.settled["job"].how == "back" and broker.nothing_sent()


BAD_COMMANDS = [
    ((b"\1",), "bad-frames"), ((b"\1", b"echo", b"more"), "bad-frames"), ((b"\3",), "bad-frames"), ((b"\3", FIRST), "bad-frames"),
    ((b"\3", FIRST, b"x", b"body"), "bad-frames"), ((b"\3", b"", b"", b"body"), "bad-frames"), ((b"\4", b"more"), "bad-frames"),
    ((b"\5", b"more"), "bad-frames"), ((b"",), "unknown-command"), ((b"\0",), "unknown-command"),
    ((b"\2", FIRST, b"", b"body"), "unknown-command"), ((b"\6",), "unknown-command"), ((b"\4\4",), "unknown-command"),
    ((b"none", FIRST, b"", b"body"), "unknown-command"),
]  # fmt: skip


@pytest.mark.parametrize(("frames", "reason"), BAD_COMMANDS)
@pytest.mark.parametrize("known", [True, False])
def test_an_invalid_command_is_dropped_and_changes_nothing(known: bool, frames: tuple[bytes, ...], reason: str) -> None:
    broker = Broker()
    if known:
        broker.ready(ONE, b"w")
        broker.give("job")
        broker.heard(b"w")
    broker.work(ONE, b"w", *frames)
    assert broker.nothing_sent() and broker.dropped == {reason: 1} and not broker.desk.settled
    if known:
        broker.reply(ONE, b"w", b"done")
        assert broker.desk.settled["job"].how == "reply"


def test_an_invalid_command_is_no_sign_of_life() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    for _ in range(3):
        broker.wait(2.5)
        broker.work(ONE, b"w", b"\7")
    assert broker.free == 0


def test_an_answer_without_a_body_ends_its_job_and_the_conversation() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.give("job")
    broker.heard(b"w")
    broker.reply(ONE, b"w")
    assert broker.desk.settled["job"] == Settled("lost", [], "its worker answered without a body")
    assert broker.heard(b"w") == [disconnect(ONE)] and broker.dropped == {"bad-frames": 1}


@pytest.mark.parametrize("name", [b"", b"\xff", LONG])
def test_a_ready_for_a_name_that_is_none_is_dropped_and_told_disconnect_when_it_beats(name: bytes) -> None:
    broker = Broker()
    broker.ready(ONE, b"w", name)
    assert broker.desk.offers == {} and broker.nothing_sent() and broker.dropped == {"bad-service": 1}
    broker.work(ONE, b"w", ONE.heartbeat)
    assert broker.heard(b"w") == [disconnect(ONE)]


def test_a_worker_that_changes_its_version_is_not_understood() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.work(TWO, b"w", TWO.heartbeat)
    broker.ready(TWO, b"w")
    assert broker.dropped == {"mixed-versions": 2} and broker.free == 1 and broker.nothing_sent()


# -- presence ------------------------------------------------------------------------------------------------------------


def test_every_worker_is_sent_a_heartbeat_in_its_version_idle_or_busy() -> None:
    broker = Broker()
    broker.ready(ONE, b"v")
    broker.ready(TWO, b"w")
    broker.give("job")
    broker.heard(b"v")
    for _ in range(5):
        broker.wait_with(1, (ONE, b"v"), (TWO, b"w"))
        assert broker.sent(DOOR, b"v") == [[*W1, b"\4"]] and broker.sent(DOOR, b"w") == [[*W2, b"\5"]]


@both_versions
def test_an_idle_worker_that_was_silent_for_seven_and_a_half_seconds_is_gone(tongue: Tongue) -> None:
    broker = Broker()
    broker.ready(tongue, b"w")
    broker.wait(7.49)
    assert broker.free == 1
    broker.sent(DOOR, b"w")
    broker.wait(0.02)
    assert broker.free == 0 and broker.nothing_sent() and broker.gateway.deadline == inf


@both_versions
def test_a_worker_that_is_mute_while_it_works_may_take_its_time_and_is_sent_heartbeats(tongue: Tongue) -> None:
    """The Guide's worker."""
    broker = Broker()
    broker.ready(tongue, b"w")
    broker.give("job")
    broker.heard(b"w")
    broker.wait(60.0)
    assert not broker.desk.settled and broker.sent(DOOR, b"w") == [[*HEADS[tongue], tongue.heartbeat]] * 24
    broker.reply(tongue, b"w", b"done")
    assert broker.desk.settled["job"].how == "reply" and broker.free == 1
    broker.wait(7.51)
    assert broker.free == 0, "idle, it has its time as before"


@both_versions
def test_a_worker_that_beats_while_it_works_and_falls_silent_has_lost_its_job(tongue: Tongue) -> None:
    broker = Broker()
    broker.ready(tongue, b"w")
    broker.give("job")
    broker.wait_with(2, (tongue, b"w"))
    broker.wait(7.49)
    assert not broker.desk.settled
    broker.wait(0.02)
    assert broker.desk.settled == {"job": Settled("lost", [], "its worker was silent for 7.5 s")} and broker.gateway.deadline == inf


def test_parts_of_the_answer_do_not_show_that_their_worker_beats_while_it_works() -> None:
    broker = Broker()
    broker.ready(TWO, b"w")
    broker.give("job")
    for _ in range(3):
        broker.wait(2.5)
        broker.work(TWO, b"w", TWO.partial or b"", FIRST, b"", b"part")
    broker.wait(20.0)
    assert not broker.desk.settled
    broker.reply(TWO, b"w", b"last")
    assert broker.desk.settled["job"].how == "reply"


@both_versions
def test_any_valid_command_is_a_sign_of_life(tongue: Tongue) -> None:
    broker = Broker()
    broker.ready(tongue, b"w")
    broker.wait(7.0)
    broker.work(tongue, b"w", tongue.heartbeat)
    broker.wait(7.0)
    broker.give("job")
    broker.reply(tongue, b"w", b"stray", cid=b"other")
    broker.wait(7.0)
    if tongue.partial:
        broker.work(tongue, b"w", tongue.partial, FIRST, b"", b"part")
        broker.wait(7.0)
    broker.reply(tongue, b"w", b"done")
    broker.wait(7.0)
    assert broker.free == 1


def test_how_long_a_worker_may_be_silent_can_be_chosen() -> None:
    broker = Broker(beat_seconds=1.0, expiry_seconds=60.0)
    broker.ready(ONE, b"w")
    broker.wait(59.0)
    assert broker.free == 1 and len(broker.sent(DOOR, b"w")) == 59
    broker.wait(2.0)
    assert broker.free == 0


def test_an_answer_after_the_worker_was_given_up_is_told_disconnect() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.give("job")
    broker.wait_with(2, (ONE, b"w"))
    broker.wait(10.0)
    broker.heard(b"w")
    broker.reply(ONE, b"w", b"too late")
    assert broker.heard(b"w") == [disconnect(ONE)] and broker.desk.settled["job"].how == "lost"


def test_a_request_that_cannot_leave_goes_back_and_a_worker_that_vanishes_with_one_has_lost_it() -> None:
    broker = Broker()
    broker.ready(ONE, b"v")
    broker.ready(ONE, b"w")
    broker.give("first")
    broker.gone[DOOR, b"v"] = broker.gone[DOOR, b"w"] = None
    broker.give("second")
    assert broker.desk.settled["second"].how == "back"
    broker.wait(2.5)
    assert broker.desk.settled["first"] == Settled("lost", [], "the connection of its worker is gone") and broker.free == 0


def test_a_job_that_nobody_waits_for_keeps_its_worker_busy_and_what_it_says_of_it_is_dropped() -> None:
    broker = Broker()
    broker.ready(TWO, b"w")
    broker.give("job")
    broker.tell(broker.desk.withdraw("job"))
    assert broker.free == 0
    broker.work(TWO, b"w", TWO.partial or b"", FIRST, b"", b"late")
    broker.reply(TWO, b"w", b"late")
    assert broker.free == 1 and broker.dropped == {"late-reply": 2}


def test_a_worker_that_never_answers_what_nobody_waits_for_is_told_to_begin_anew() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.give("job")
    broker.tell(broker.desk.withdraw("job"))
    broker.heard(b"w")
    broker.wait_with(int(workers.OVERDUE_SECONDS / 2.5) - 1, (ONE, b"w"))
    assert broker.heard(b"w") == []
    broker.wait_with(1)
    assert broker.heard(b"w") == [disconnect(ONE)]
    broker.ready(ONE, b"w")
    assert broker.free == 1


def test_a_worker_that_has_answered_late_is_overdue_no_more() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.give("job")
    broker.tell(broker.desk.withdraw("job"))
    broker.reply(ONE, b"w", b"late")
    broker.heard(b"w")
    broker.wait_with(20, (ONE, b"w"))
    assert broker.heard(b"w") == [] and broker.free == 1


def test_a_job_that_is_withdrawn_after_its_answer_changes_nothing() -> None:
    broker = Broker()
    broker.ready(ONE, b"w")
    broker.give("job")
    broker.reply(ONE, b"w", b"done")
    broker.heard(b"w")
    broker.tell(Withdrawn("job"))
    broker.wait_with(20, (ONE, b"w"))
    assert broker.heard(b"w") == [] and broker.free == 1
