"""Failure schedules of calls as stories: a node, real client machines, and one unlucky moment each.

The oracle watches every story: one outcome for each call by its deadline, a true one, and no start that is not explained.
"""

from __future__ import annotations

import pytest
from call_stage import CallStage

from zmqkit.wire import BackKind, Status

WORDS = (" CALL", " LEASE", " REPLY", " starts ", " CANCEL", " REFUSED", " BACK")


def test_a_call_and_its_answer() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller, seconds=5.0)
    worker.answer(1)
    stage.run(0.2)
    assert stage.told(*WORDS) == [
        "caller -> node CALL s0 1+1 for 5.000 s",
        "node -> worker LEASE service s0 1.1 1+1 attempt 1",
        "worker starts call 1",
        "worker -> node REPLY 0 1.1:0+1=OK",
        "node -> caller REPLY 1 1+1=OK",
    ]
    assert stage.outcomes(caller) == ["OK"] and worker.verdicts == ["OK"]


# -- workers that die --------------------------------------------------------------------------------------------------------


def test_rc3_a_worker_that_dies_before_its_lease_arrives_may_have_started_for_all_the_node_knows() -> None:
    """Nothing proves that it did not: it was sent on a link that stood."""
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller, run=0.0018)  # the LEASE is on its way
    assert stage.told(" LEASE") and not worker.started
    worker.process.kill()
    other = stage.server("other", run=5.0)
    assert stage.outcomes(caller) == ["MAYBE_EXECUTED"] and other.started == []


def test_rc3_a_call_to_a_worker_whose_death_the_node_notices_in_time_goes_to_another_one() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    worker.process.kill()
    other = stage.server("other")
    stage.call(caller)
    assert other.started == [1] and stage.ends in ({}, {"unsent": 1})
    other.answer(1)
    stage.run(0.2)
    assert stage.outcomes(caller) == ["OK"]


def test_rc3_a_worker_that_dies_during_a_call_ends_it_as_perhaps_executed_within_grace() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller)
    other = stage.server("other")
    worker.process.kill()
    stage.run(2.5)
    assert stage.outcomes(caller) == ["MAYBE_EXECUTED"] and other.started == [] and stage.ends == {"link-lost": 1}


def test_a_worker_that_dies_right_after_its_reply_was_sent_has_answered() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller)
    worker.answer(1)
    stage.run(0.0015)  # the REPLY has arrived
    worker.process.kill()
    stage.run(3.0)
    assert stage.outcomes(caller) == ["OK"] and stage.ends == {}


def test_a_reply_that_died_with_its_link_is_said_again_and_counts() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller)
    link = worker.process.link
    assert link is not None
    worker.answer(1)
    stage.run(0.0005)
    link.up.allowed = link.up.arrived
    stage.cut_link(worker.process)
    stage.run(1.0)
    assert stage.told("REPLY 0") == ["worker -> node REPLY 0 1.1:0+1=OK"] * 2
    assert stage.outcomes(caller) == ["OK"] and worker.verdicts == ["OK"] and worker.started == [1]


def test_rc3_a_keyed_call_whose_worker_dies_runs_again_and_the_log_says_why() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller, key="k")
    worker.process.kill()
    other = stage.server("other", run=3.0)
    assert other.started == [1] and stage.ends == {"link-lost": 1}
    assert stage.told(" LEASE")[-1] == "node -> other LEASE service s0 1.2 1+1 attempt 2"
    other.answer(1)
    stage.run(0.2)
    assert stage.outcomes(caller) == ["OK"] and stage.oracle.counts["keys executed again"] == 1


# -- the node restarts -------------------------------------------------------------------------------------------------------


def test_rc2_after_a_restart_a_call_without_a_key_is_not_made_again() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller)
    stage.restart()
    stage.run(2.0)
    assert stage.outcomes(caller) == ["MAYBE_EXECUTED"] and worker.started == [1]
    worker.answer(1)
    stage.run(1.0)
    assert worker.verdicts == ["SETTLED"]  # nobody knows whether it was passed on before


def test_rc2_after_a_restart_a_call_with_a_key_is_made_again_and_has_its_answer() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server(handlers=2, credit=2)
    stage.call(caller, key="k")
    stage.restart()
    stage.run(2.0)
    assert stage.outcomes(caller) == ["-"] and worker.started == [1, 1]
    worker.answer(1)
    stage.run(0.2)
    assert stage.outcomes(caller) == ["OK"]


def test_a_call_that_was_not_sent_yet_does_not_mind_a_restart() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.node.crash(power=False)
    stage.run(0.5)  # it knows that its link is gone
    stage.call(caller, run=1.0)
    stage.node.start()
    stage.run(2.0)
    worker.answer(1)
    stage.run(0.2)
    assert stage.outcomes(caller) == ["OK"] and worker.started == [1]


# -- links ---------------------------------------------------------------------------------------------------------------------


def test_rc1_a_call_that_is_repeated_on_a_new_link_runs_once_and_its_answer_comes_there() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller)
    stage.cut_link(caller.process)
    worker.answer(1)
    stage.run(1.0)
    assert len(stage.told(" CALL")) == 2 and len(stage.told(" LEASE")) == 1
    assert stage.outcomes(caller) == ["OK"]


def test_rc6_a_reply_that_died_with_its_link_is_told_again_under_its_number() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller)
    worker.answer(1)
    stage.run(0.0015)  # the REPLY to the caller is on its way
    link = caller.process.link
    assert link is not None
    link.down.allowed = link.down.arrived
    stage.cut_link(caller.process)
    stage.run(1.0)
    assert stage.told("REPLY 1") == ["node -> caller REPLY 1 1+1=OK"] * 2 and stage.outcomes(caller) == ["OK"]
    stage.call(caller)
    worker.answer(2)
    stage.run(0.2)
    assert stage.told("REPLY 2") == ["node -> caller REPLY 2 2+1=OK"]


def test_on_a_half_open_link_of_the_caller_the_answer_waits_for_the_next_link() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller)
    stage.cut_link(caller.process, silent=True)
    worker.answer(1)
    stage.run(0.5)
    assert stage.outcomes(caller) == ["-"]
    stage.run(4.0)
    assert stage.outcomes(caller) == ["OK"]


def test_on_a_half_open_link_of_the_worker_nothing_is_started_after_grace_and_the_caller_knows() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server(credit=2)
    stage.call(caller, 2)
    assert worker.started == [1]
    stage.net.unreachable["worker"] = stage.scheduler.now + 20_000_000
    stage.cut_link(worker.process, silent=True)
    stage.run(2.5)
    worker.running.pop(1)
    stage.run(5.0)
    assert worker.started == [1]
    assert stage.outcomes(caller) == ["MAYBE_EXECUTED", "MAYBE_EXECUTED"]


def test_rc5_a_worker_that_wakes_up_after_the_deadline_starts_nothing() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    worker.process.pause()
    stage.call(caller, seconds=1.0)
    stage.run(1.2)
    assert stage.told(" LEASE") and stage.outcomes(caller) == ["MAYBE_EXECUTED"]
    worker.process.resume()
    stage.run(1.0)
    assert worker.started == []


def test_rc5_a_worker_that_wakes_up_shortly_before_the_deadline_does_not_start_after_it() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server(handlers=0)
    worker.process.pause()
    stage.call(caller, seconds=1.5)
    stage.run(1.0)
    worker.process.resume()
    stage.run(0.02)
    lease, _ = worker.waiting[0]
    assert lease.starts_until > worker.process.clock.now()  # it has heard from the node, and might
    stage.net.unreachable["worker"] = stage.scheduler.now + 10_000_000
    stage.cut_link(worker.process, silent=True)  # so no CANCEL gets through
    stage.run(0.4)
    worker.handlers = 1
    worker.process.turn_by(stage.scheduler.now)
    stage.run(0.1)
    assert worker.started == [] and stage.outcomes(caller) == ["MAYBE_EXECUTED"]


# -- keys ------------------------------------------------------------------------------------------------------------------------


def test_rc4_a_retry_with_its_key_after_an_unclear_end_gets_the_first_answer() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller, seconds=0.5, key="k")
    stage.run(1.0)
    assert stage.outcomes(caller) == ["MAYBE_EXECUTED"]
    stage.call(caller, key="k")
    assert worker.started == [1]  # joined: it still runs
    worker.answer(1)
    stage.run(0.2)
    stage.call(caller, key="k")
    assert stage.outcomes(caller) == ["MAYBE_EXECUTED", "OK", "OK"] and worker.started == [1]


def test_rc4_two_callers_of_one_key_share_one_execution() -> None:
    stage = CallStage()
    one, two, worker = stage.caller("one"), stage.caller("two"), stage.server(credit=5, handlers=5)
    stage.call(one, key="k")
    stage.call(two, key="k")
    worker.answer(1, Status.ERROR)
    stage.run(0.2)
    assert stage.outcomes(one) == stage.outcomes(two) == ["ERROR"] and worker.started == [1]


# -- who works ---------------------------------------------------------------------------------------------------------------------


def test_a_slow_worker_among_fast_ones_holds_up_nothing_but_what_it_has() -> None:
    stage = CallStage()
    caller, slow, fast = stage.caller(), stage.server("slow"), stage.server("fast")
    stage.call(caller, seconds=60.0)
    (mine,) = slow.started or fast.started
    slow, fast = (slow, fast) if slow.started else (fast, slow)
    for number in range(2, 12):
        stage.call(caller)
        fast.answer(number)
        stage.run(0.01)
    stage.run(0.1)
    assert slow.started == [mine] and fast.started == list(range(2, 12))
    assert stage.outcomes(caller) == ["-"] + ["OK"] * 10
    stage.run(40.0)  # longer than a lease: it heartbeats
    slow.answer(mine)
    stage.run(0.2)
    assert stage.outcomes(caller)[0] == "OK"


def test_what_a_worker_hands_back_goes_to_another_one_and_is_no_execution() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server(credit=2)
    stage.call(caller, 2)
    other = stage.server("other")
    lease, index = worker.waiting.pop()
    worker.credit = 1
    worker.process.machine.back(lease, index, 1, BackKind.UNSTARTED)
    worker.process.turn_by(stage.scheduler.now)
    stage.run(0.2)
    assert worker.started == [1] and other.started == [2]
    worker.answer(1)
    other.answer(2)
    stage.run(0.2)
    assert stage.outcomes(caller) == ["OK", "OK"]


@pytest.mark.parametrize("stage_of_it", ["waits at the node", "waits at the worker", "runs"])
def test_a_cancelled_call_has_no_outcome_and_its_worker_knows(stage_of_it: str) -> None:
    stage = CallStage()
    caller = stage.caller()
    worker = stage.server(credit=0 if stage_of_it == "waits at the node" else 1, handlers=int(stage_of_it == "runs"))
    stage.call(caller)
    caller.cancel(caller.batches[0], 0)
    caller.process.turn_by(stage.scheduler.now)
    stage.run(0.2)
    worker.credit = worker.handlers = 1
    stage.run(2.0)
    assert worker.started == ([1] if stage_of_it == "runs" else [])
    assert worker.cancelled == ([] if stage_of_it == "waits at the node" else [1])
    if stage_of_it == "runs":
        worker.answer(1)
    stage.run(3.0)
    assert stage.outcomes(caller) == ["-"] and not stage.told("REPLY 1")
    assert stage.node.machine is not None and not stage.node.machine.calls.callers and not stage.node.machine.core.leases


def test_a_cancellation_that_died_with_the_link_arrives_on_the_next() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server()
    stage.call(caller, seconds=1000.0)
    link = caller.process.link
    assert link is not None
    link.up.allowed = link.up.arrived
    caller.cancel(caller.batches[0], 0)
    caller.process.turn_by(stage.scheduler.now)
    stage.run(0.01)
    stage.cut_link(caller.process)
    stage.run(1.0)
    assert worker.cancelled == [1]


# -- nobody there --------------------------------------------------------------------------------------------------------------------


def test_a_call_that_nobody_serves_ends_at_its_deadline_or_at_once_if_it_may_not_wait() -> None:
    stage = CallStage()
    caller = stage.caller()
    stage.call(caller, seconds=1.0, attempts=1)
    stage.call(caller, seconds=1.0)
    assert stage.outcomes(caller) == ["NO_WORKER", "-"]
    stage.run(1.1)
    assert stage.outcomes(caller) == ["NO_WORKER", "NO_WORKER"]


def test_a_caller_that_cannot_reach_the_node_knows_that_its_call_was_not_sent() -> None:
    stage = CallStage()
    caller = stage.caller()
    stage.node.crash(power=False)
    stage.run(0.5)
    stage.call(caller, seconds=1.0)
    stage.run(1.0)
    assert stage.outcomes(caller) == ["NOT_SENT"]


def test_a_node_that_sleeps_over_a_deadline_hands_nothing_out_late() -> None:
    stage = CallStage()
    caller, worker = stage.caller(), stage.server(credit=0)
    stage.call(caller, seconds=2.0)
    stage.node.pause()
    worker.credit = 1
    worker.process.turn_by(stage.scheduler.now)
    stage.run(2.5)
    stage.node.resume()
    stage.run(3.0)
    assert stage.outcomes(caller) == ["MAYBE_EXECUTED"] and worker.started == []
