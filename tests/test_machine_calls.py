"""Calls, as the node passes them on and ends them: the rules of dispatch, deadlines, and what a caller is told."""

from __future__ import annotations

import pytest
from calls_bench import MARKED, CallBench
from node_bench import ManualLog

from zmqkit import wire
from zmqkit.wire import Status

# -- one call ------------------------------------------------------------------------------------------------------------


def test_a_call_goes_to_a_worker_and_its_answer_to_the_caller() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 7)
    lease = bench.one_lease(worker)
    assert (lease.queue, lease.qseq, lease.count, lease.attempt) == (MARKED, 7, 1, 1)
    assert [bytes(body) for body in lease.parcel.messages()] == [b"7"]  # type: ignore[union-attr]
    bench.answer(worker, lease.token, body=b"seven")
    assert bench.told(caller) == [(7, "OK", b"seven")]
    bench.wait(0.1)
    assert bench.verdicts(worker) == [(lease.token, 0, 1, "OK")]
    assert bench.log.items == []  # calls leave nothing on the disk


def test_many_calls_travel_as_one_and_end_one_by_one() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, 4)
    lease = bench.one_lease(worker)
    assert (lease.qseq, lease.count) == (1, 4)
    bench.answer(worker, lease.token, 2, 1, Status.ERROR, b"boom")
    assert bench.told(caller) == [(3, "ERROR", b"boom")]
    bench.answer(worker, lease.token, 0, 2)
    bench.answer(worker, lease.token, 3)
    assert bench.told(caller) == [(1, "OK", b"a0"), (2, "OK", b"a1"), (4, "OK", b"a3")]


def test_answers_of_one_turn_leave_as_one_reply() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, turn=False)
    bench.call(caller, 2)
    for lease in bench.hear(worker, wire.Lease):
        bench.answer(worker, lease.token, turn=False)
    bench.turn()
    (reply,) = bench.replies(caller)
    assert reply.ranges == [(1, 0, 2, Status.OK)]


# -- R-C1: a number runs once --------------------------------------------------------------------------------------------


def test_a_number_that_comes_again_is_not_dispatched_again() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, 3)
    lease = bench.one_lease(worker)
    bench.answer(worker, lease.token, 1)
    again = bench.connect("c", link=2)
    bench.beat(again, 1)
    bench.call(again, 1)
    bench.call(again, 3)
    assert bench.leases(worker) == []
    bench.answer(worker, lease.token, 0, 3)
    assert bench.ends(again) == [(2, "OK"), (1, "OK"), (3, "OK")]


def test_a_number_whose_answer_the_caller_lacks_is_not_dispatched_again_when_another_of_its_batch_is_cancelled() -> None:
    """The answers of a turn are not sent yet when the cancellation is read."""
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, 2)
    bench.answer(worker, bench.one_lease(worker).token, 0, 1, turn=False)
    bench.cancel(caller, 2)
    again = bench.connect("c", link=2)
    bench.beat(again, 1)
    bench.call(again, 1)
    assert bench.leases(worker) == [] and bench.ends(again) == [(1, "OK")]


def test_a_number_that_was_never_heard_of_is_dispatched_when_it_comes_again() -> None:
    bench = CallBench()
    bench.connect("c")
    worker = bench.serve("w")
    again = bench.connect("c", link=2)
    bench.beat(again, 1)
    bench.call(again, 1, epoch=1)
    assert bench.leases(worker) == [(1, 1)]


# -- R-C2: a restart ------------------------------------------------------------------------------------------------------


def test_after_a_restart_a_call_without_a_key_that_was_sent_before_is_refused_as_perhaps_executed() -> None:
    bench = CallBench()
    bench.call(bench.connect("c"), 1)
    bench = CallBench(bench.crash().log, bench.now)
    caller, worker = bench.connect("c", link=2), bench.serve("w", window=5)
    bench.call(caller, 1, epoch=1)
    assert bench.leases(worker) == [] and bench.refusals(caller) == [(1, 1, "MAYBE_EXECUTED")]
    bench.call(caller, 2, epoch=2)
    bench.call(caller, 3, epoch=0)
    bench.call(caller, 4, epoch=1, key="k")
    assert bench.leases(worker) == [(2, 1), (3, 1), (4, 1)] and bench.refusals(caller) == []


def test_that_a_node_stops_is_no_reason_to_say_that_an_older_call_was_not_executed() -> None:
    bench = CallBench(ManualLog(epoch=2))
    caller = bench.connect("c")
    bench.machine.stop(bench.now)
    bench.call(caller, 1, epoch=1)
    bench.call(caller, 2)
    assert bench.refusals(caller) == [(1, 1, "MAYBE_EXECUTED"), (2, 1, "STOPPING")]


# -- R-C3: who may get it after a worker ----------------------------------------------------------------------------------


def test_what_came_back_unstarted_goes_to_another_worker_as_the_first_attempt() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(first).token
    second = bench.serve("v")
    bench.serve("w", window=0, beat=2, seen=token, held=[(token, 1)])
    bench.back(first, token, kind=wire.BackKind.UNSTARTED)
    lease = bench.one_lease(second)
    assert (lease.qseq, lease.attempt) == (1, 1) and bench.told(caller) == []


def test_what_could_not_be_sent_goes_to_another_worker() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.gone.add(first)
    bench.call(caller, 1)
    second = bench.serve("v")
    assert bench.leases(second) == [(1, 1)] and bench.told(caller) == []


def test_what_its_worker_never_received_goes_to_another_one() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    second = bench.serve("v")
    bench.hello(b"w2", b"w" * 16, 2)
    bench.ready(b"w2", 0, beat=2, seen=0, queue=MARKED)
    assert bench.leases(second) == [(1, 1)] and bench.told(caller) == [] and bench.leases(first) == [(1, 1)]


def test_what_its_worker_received_and_does_not_hold_any_more_may_have_been_executed() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(first).token
    second = bench.serve("v")
    bench.serve("w", beat=2, seen=token)
    assert bench.leases(second) == [] and bench.ends(caller) == [(1, "MAYBE_EXECUTED")]


def test_no_report_of_a_start_proves_nothing_so_a_lost_call_goes_to_nobody_else() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    second = bench.serve("v")
    bench.machine.lost(first, bench.now)
    bench.wait(1.9)
    assert bench.told(caller) == []
    bench.wait(0.2)
    ((number, status, text),) = bench.told(caller)
    assert (number, status) == (1, "MAYBE_EXECUTED") and b"link-lost" in text
    assert bench.leases(second) == []


def test_a_worker_that_comes_back_within_grace_answers_as_if_nothing_had_been() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(first).token
    bench.machine.lost(first, bench.now)
    bench.wait(1.0)
    worker = bench.serve("w", link=2, beat=2, seen=token, held=[(token, 1)])
    bench.wait(5.0)
    bench.answer(worker, token)
    assert bench.ends(caller) == [(1, "OK")]


def test_a_worker_that_leaves_with_a_call_in_hand_may_have_executed_it() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    bench.say(first, wire.Bye())
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED")] and len(bench.hear(first, wire.Bye)) == 1


def test_a_call_that_its_worker_refuses_is_over() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    bench.back(worker, bench.one_lease(worker).token, kind=wire.BackKind.REJECT)
    ((_, status, text),) = bench.told(caller)
    assert status == "MAYBE_EXECUTED" and b"boom" in text


def test_a_late_answer_to_a_lost_call_is_stale_and_told_to_nobody() -> None:
    bench = CallBench()
    caller, first = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(first).token
    bench.machine.lost(first, bench.now)
    bench.wait(3.0)
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED")]
    worker = bench.connect("w", link=2)
    bench.answer(worker, token)
    bench.wait(0.1)
    assert bench.told(caller) == [] and bench.verdicts(worker) == [(token, 0, 1, "STALE")]


# -- R-C5: deadlines ------------------------------------------------------------------------------------------------------


def test_a_call_that_nobody_serves_ends_at_its_deadline_as_no_worker() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, seconds=2.0)
    bench.wait(1.99)
    assert bench.told(caller) == []
    bench.wait(0.02)
    assert bench.ends(caller) == [(1, "NO_WORKER")]


def test_a_call_that_no_busy_worker_took_ends_at_its_deadline_as_undispatched_and_is_never_handed_out() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(worker).token
    bench.call(caller, 2, seconds=1.0)
    bench.wait(1.0)
    assert bench.ends(caller) == [(2, "UNDISPATCHED")]
    bench.answer(worker, token)
    assert bench.leases(worker) == []


def test_a_call_that_a_worker_has_at_its_deadline_may_be_executed_and_the_worker_is_told_that_nobody_waits() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, 3, seconds=1.0)
    token = bench.one_lease(worker).token
    bench.answer(worker, token, 1)
    bench.told(caller)
    bench.wait(1.0)
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED"), (3, "MAYBE_EXECUTED")]
    assert bench.hear(worker, wire.Cancel) == [wire.Cancel(token, 0, 1), wire.Cancel(token, 2, 1)]
    bench.answer(worker, token, 0, 3)
    bench.wait(0.1)
    assert bench.told(caller) == [] and bench.verdicts(worker) == [(token, 1, 1, "OK"), (token, 0, 3, "OK")]


def test_a_lease_says_how_long_its_calls_may_wait_counted_from_the_beat_that_it_names() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", beat=5)
    bench.wait(2.0)
    bench.call(caller, 1, seconds=10.0)
    lease = bench.one_lease(worker)
    assert lease.beat == 5 and lease.terms is not None and abs(lease.terms.seconds - 12.0) < 0.01


def test_a_caller_that_waits_for_ever_gets_a_lease_that_its_worker_understands() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.wait(2.0)
    bench.call(caller, 1, seconds=1e10)
    lease = bench.one_lease(worker)  # it came through the decoder
    assert lease.terms is not None and lease.terms.seconds > 3e9


def test_a_call_that_comes_again_with_less_time_left_was_long_on_its_way_the_first_time() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1, 2, seconds=5.0)
    assert bench.leases(worker) == [(1, 1)]
    again = bench.connect("c", link=2)
    bench.beat(again, 1)
    bench.call(again, 1, 2, seconds=1.0)
    bench.call(again, 1, 2, seconds=9.0)
    bench.wait(1.1)
    assert bench.ends(again) == [(2, "UNDISPATCHED"), (1, "MAYBE_EXECUTED")]


def test_with_one_attempt_a_call_that_nobody_serves_ends_at_once() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, attempts=1)
    assert bench.ends(caller) == [(1, "NO_WORKER")]
    worker = bench.serve("w", window=1)
    bench.call(caller, 2, 2, attempts=1)
    assert bench.leases(worker) == [(2, 1)] and bench.told(caller) == []  # the other one waits: somebody serves the name


def test_with_one_attempt_a_call_that_comes_back_unstarted_ends_at_once_if_nobody_serves_it_any_more() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1, attempts=1)
    token = bench.one_lease(worker).token
    bench.serve("w", window=0, beat=2, seen=token, held=[(token, 1)])
    bench.back(worker, token, kind=wire.BackKind.UNSTARTED)
    assert bench.ends(caller) == [(1, "NO_WORKER")]


@pytest.mark.parametrize("leaves", ["says so", "loses its link"])
def test_with_one_attempt_a_call_that_waits_ends_when_the_last_worker_leaves(leaves: str) -> None:
    bench = CallBench()
    caller, first, last = bench.connect("c"), bench.serve("v"), bench.serve("w")
    bench.call(caller, 1, 4, attempts=1)
    bench.call(caller, 5)
    bench.call(caller, 6, key="k", attempts=1)
    tokens = [bench.one_lease(worker).token for worker in (first, last)]
    bench.machine.lost(first, bench.now)
    bench.turn()
    assert bench.ends(caller) == []  # there is one worker left
    if leaves == "says so":
        bench.serve("w", window=0, beat=2, seen=tokens[1], held=[(tokens[1], 1)])
    else:
        bench.machine.lost(last, bench.now)
        bench.turn()
    assert bench.ends(caller) == [(3, "NO_WORKER"), (4, "NO_WORKER"), (6, "NO_WORKER")]
    assert bench.leases(bench.serve("u", window=5)) == [(5, 1)]  # it may wait for another worker


def test_a_worker_that_has_been_silent_for_patience_serves_nothing() -> None:
    bench = CallBench()
    caller, _ = bench.connect("c"), bench.serve("w")
    for beat in range(1, 5):  # the node listens all the time
        bench.wait(0.8)
        bench.beat(caller, beat)
    bench.call(caller, 1, attempts=1)
    assert bench.ends(caller) == [(1, "NO_WORKER")]


# -- who gets it ------------------------------------------------------------------------------------------------------------


def test_the_worker_that_waited_longest_comes_first() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    workers = [bench.serve(letter, window=4) for letter in "uvw"]
    for number in range(1, 7):
        bench.call(caller, number)
    assert [bench.leases(worker) for worker in workers] == [[(1, 1), (4, 1)], [(2, 1), (5, 1)], [(3, 1), (6, 1)]]


def test_what_waits_is_shared_among_those_who_have_room() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    for letter in "uvw":
        bench.connect(letter)
    bench.call(caller, 1, 9, turn=False)
    bench.serve("u", window=10, turn=False)
    bench.serve("v", window=2, turn=False)
    bench.serve("w", window=10)
    got = {letter: sum(count for _, count in bench.leases(f"{letter}1".encode())) for letter in "uvw"}
    assert got == {"u": 4, "v": 2, "w": 3}


def test_a_worker_without_room_gets_nothing_while_others_are_free() -> None:
    bench = CallBench()
    caller, slow, fast = bench.connect("c"), bench.serve("s"), bench.serve("f")
    bench.call(caller, 1)
    assert bench.leases(slow) == [(1, 1)]
    for number in (2, 3, 4):
        bench.call(caller, number)
        lease = bench.one_lease(fast)
        bench.answer(fast, lease.token)
    assert bench.leases(slow) == [] and bench.ends(caller) == [(2, "OK"), (3, "OK"), (4, "OK")]


def test_what_came_back_waits_in_front_in_its_order() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=3)
    bench.call(caller, 1, 3)
    token = bench.one_lease(worker).token
    bench.call(caller, 4)
    bench.serve("w", window=0, beat=2, seen=token, held=[(token, 3)])
    bench.back(worker, token, 2, kind=wire.BackKind.UNSTARTED)
    bench.back(worker, token, 0, kind=wire.BackKind.UNSTARTED)
    bench.serve("w", window=4, beat=3, seen=token, held=[(token, 1)])
    assert bench.leases(worker) == [(1, 1), (3, 1), (4, 1)]


# -- what a caller does not want any more -----------------------------------------------------------------------------------


def test_a_cancelled_call_that_waits_is_never_handed_out() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, 3)
    bench.cancel(caller, 2)
    worker = bench.serve("w", window=10)
    assert bench.leases(worker) == [(1, 1), (3, 1)]
    assert bench.told(caller) == []


def test_a_cancelled_call_that_runs_is_cancelled_at_its_worker_and_its_answer_told_to_nobody() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, 3)
    token = bench.one_lease(worker).token
    bench.cancel(caller, 2, 5)
    assert bench.hear(worker, wire.Cancel) == [wire.Cancel(token, 1, 2)]
    bench.answer(worker, token, 0, 3)
    assert bench.ends(caller) == [(1, "OK")]


def test_a_cancelled_call_that_its_worker_hands_back_is_over() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(worker).token
    bench.cancel(caller, 1)
    bench.back(worker, token, kind=wire.BackKind.UNSTARTED)
    assert bench.leases(worker) == [] and bench.told(caller) == [] and bench.empty() is False
    bench.beat(caller, 1)
    assert bench.empty()


def test_a_caller_that_leaves_takes_its_calls_with_it() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1, 3)
    token = bench.one_lease(worker).token
    bench.say(caller, wire.Bye())
    assert bench.hear(worker, wire.Cancel) == [wire.Cancel(token, 0, 1)] and bench.empty()
    bench.answer(worker, token)
    assert bench.leases(worker) == [] and bench.empty()
