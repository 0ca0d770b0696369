"""PPP's workers: who is there, who is silent, who says READY twice, and what becomes of the job of one that goes."""

from __future__ import annotations

from math import inf

import pytest
from fake_desk import Settled
from hypothesis import given, strategies as st
from ppp_world import FIRST, Queue

from zmqkit.gateways import workers
from zmqkit.gateways.ppp import BACKEND, HEARTBEAT, READY

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


# -- in any order --------------------------------------------------------------------------------------------------------

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
