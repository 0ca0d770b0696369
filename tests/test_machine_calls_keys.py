"""Idempotency keys at the node (R-C4): what runs is joined, what was answered is told again, and what that costs is bounded."""

from __future__ import annotations

import pytest
from calls_bench import CallBench

from zmqkit import wire
from zmqkit.machines import keys
from zmqkit.wire import BackKind, Status


def test_a_running_key_is_joined_and_its_answer_told_to_all() -> None:
    bench = CallBench()
    worker = bench.serve("w", window=10)
    first, second = bench.connect("c"), bench.connect("d")
    bench.call(first, 1, key="k")
    bench.call(second, 5, key="k")
    bench.call(first, 2, key="k")
    lease = bench.one_lease(worker)
    assert lease.terms is not None and lease.terms.key == "k"
    bench.answer(worker, lease.token, body=b"once")
    assert bench.told(first) == [(1, "OK", b"once"), (2, "OK", b"once")] and bench.told(second) == [(5, "OK", b"once")]


@pytest.mark.parametrize("status", [Status.OK, Status.ERROR])
def test_an_answered_key_is_never_dispatched_again_and_its_answer_told_again(status: Status) -> None:
    bench = CallBench()
    worker, caller = bench.serve("w", window=10), bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.answer(worker, bench.one_lease(worker).token, 0, 1, status, b"once")
    bench.wait(keys.KEPT_SECONDS - 20.0)
    bench.serve("w", window=10, beat=2)
    bench.told(caller)
    bench.call(caller, 2, key="k")
    bench.call(caller, 3, key="k", attempts=1)
    assert bench.told(caller) == [(2, status.name, b"once"), (3, status.name, b"once")] and bench.leases(worker) == []


def test_an_answer_is_forgotten_after_its_time() -> None:
    bench = CallBench()
    worker, caller = bench.serve("w", window=10), bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.answer(worker, bench.one_lease(worker).token)
    bench.beat(caller, 1, replied=1)
    bench.wait(keys.KEPT_SECONDS + 0.1)
    bench.serve("w", window=10, beat=2)
    bench.call(caller, 2, key="k")
    assert bench.leases(worker) == [(2, 1)]


def test_the_same_key_of_another_service_is_another_key() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.call(caller, 2, key="k", service="other")
    worker = bench.serve("w", window=10)
    assert bench.leases(worker) == [(1, 1)]


def test_a_key_outlives_the_service_that_nobody_uses() -> None:
    bench = CallBench()
    worker, caller = bench.serve("w", window=10), bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.answer(worker, bench.one_lease(worker).token, body=b"once")
    bench.beat(caller, 1, replied=1)
    bench.say(worker, wire.Bye())
    bench.wait(120.0)
    assert not bench.machine.core.services
    bench.told(caller)
    bench.call(caller, 2, key="k")
    assert bench.told(caller) == [(2, "OK", b"once")]


# -- workers that die ------------------------------------------------------------------------------------------------------


def lose(bench: CallBench, worker: bytes) -> None:
    bench.machine.lost(worker, bench.now)
    bench.wait(2.5)


def test_a_keyed_call_whose_worker_dies_goes_to_another_one_as_the_next_attempt() -> None:
    bench = CallBench()
    first, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k")
    lose(bench, first)
    second = bench.serve("v")
    lease = bench.one_lease(second)
    assert (lease.qseq, lease.attempt) == (1, 2)
    bench.answer(second, lease.token)
    assert bench.ends(caller) == [(1, "OK")]


def test_after_as_many_attempts_as_allowed_it_may_have_been_executed() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, key="k", attempts=2)
    for letter in "vw":
        assert bench.told(caller) == []
        lose(bench, bench.serve(letter))
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED")]
    worker = bench.serve("u")
    assert bench.leases(worker) == []
    bench.call(caller, 2, key="k")  # nothing is known of it: it may run
    assert bench.leases(worker) == [(2, 1)]


def test_coming_back_unstarted_is_no_attempt() -> None:
    bench = CallBench()
    worker, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k", attempts=2)
    for beat in range(2, 6):
        lease = bench.one_lease(worker)
        assert lease.attempt == 1
        bench.back(worker, lease.token, kind=BackKind.UNSTARTED)
        bench.serve("w", beat=beat, seen=lease.token)


def test_a_key_that_waits_for_its_second_worker_may_have_been_executed_when_its_deadline_comes() -> None:
    bench = CallBench()
    first, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k", seconds=5.0)
    lose(bench, first)
    bench.wait(3.0)
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED")]


def test_and_also_when_the_node_stops() -> None:
    bench = CallBench()
    first, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.call(caller, 2, key="fresh")
    bench.call(caller, 3, key="k")
    lose(bench, first)
    bench.machine.stop(bench.now)
    bench.turn()
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED"), (3, "MAYBE_EXECUTED")]
    assert bench.refusals(caller) == [(2, 1, "STOPPING")]


def test_the_answer_of_the_worker_that_was_given_up_is_stale() -> None:
    bench = CallBench()
    first, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k")
    token = bench.one_lease(first).token
    lose(bench, first)
    second = bench.serve("v")
    back = bench.connect("w", link=2)
    bench.answer(back, token, body=b"late")
    bench.answer(second, bench.one_lease(second).token, body=b"kept")
    assert bench.told(caller) == [(1, "OK", b"kept")]


# -- callers that come and go ------------------------------------------------------------------------------------------------


def test_a_key_runs_on_without_its_callers_and_its_answer_is_there_for_the_next() -> None:
    bench = CallBench()
    worker, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k")
    lease = bench.one_lease(worker)
    bench.cancel(caller, 1)
    assert bench.hear(worker, wire.Cancel) == []
    bench.answer(worker, lease.token, body=b"once")
    bench.call(caller, 2, key="k")
    assert bench.told(caller) == [(2, "OK", b"once")] and bench.leases(worker) == []


def test_each_caller_of_a_key_has_a_deadline_of_its_own() -> None:
    bench = CallBench()
    worker, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k", seconds=1.0)
    bench.call(caller, 2, key="k", seconds=5.0)
    lease = bench.one_lease(worker)
    bench.wait(2.0)
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED")]
    bench.answer(worker, lease.token)
    assert bench.ends(caller) == [(2, "OK")]


def test_a_waiting_key_is_given_up_with_its_last_caller() -> None:
    bench = CallBench()
    first, second = bench.connect("c"), bench.connect("d")
    bench.call(first, 1, key="k", seconds=1.0)
    bench.call(second, 1, key="k", seconds=2.0)
    bench.wait(1.5)
    assert bench.ends(first) == [(1, "NO_WORKER")]
    bench.wait(1.0)
    assert bench.ends(second) == [(1, "NO_WORKER")]
    worker = bench.serve("w")
    assert bench.leases(worker) == [] and not bench.machine.calls.keys.entries


def test_a_run_that_lost_its_callers_and_its_worker_is_not_given_to_another_one() -> None:
    bench = CallBench()
    worker, caller = bench.serve("w"), bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.cancel(caller, 1)
    lose(bench, worker)
    assert bench.leases(bench.serve("v")) == [] and not bench.machine.calls.keys.entries


def test_a_joined_key_runs_as_long_and_as_often_as_the_most_patient_of_its_callers_allows() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, key="k", seconds=3.0, attempts=2)
    bench.call(caller, 2, key="k", seconds=60.0, attempts=3)
    lose(bench, bench.serve("u"))
    lose(bench, bench.serve("v"))
    lease = bench.one_lease(bench.serve("w"))
    assert lease.attempt == 3 and lease.terms is not None and lease.terms.seconds > 50.0
    assert bench.ends(caller) == [(1, "MAYBE_EXECUTED")]


def test_with_one_attempt_a_key_that_waits_for_nobody_ends_at_once_for_who_joins_it() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.call(caller, 2, key="k", attempts=1)
    bench.call(caller, 3, key="other", attempts=1)
    assert bench.ends(caller) == [(2, "NO_WORKER"), (3, "NO_WORKER")]
    assert bench.leases(bench.serve("w", window=5)) == [(1, 1)]


# -- limits ------------------------------------------------------------------------------------------------------------------


def test_a_full_table_refuses_new_keys_and_knows_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEYS_MAX", 2)
    bench = CallBench()
    worker, caller = bench.serve("w", window=10), bench.connect("c")
    for number, key in ((1, "a"), (2, "b"), (3, "c"), (4, "a")):
        bench.call(caller, number, key=key)
    assert bench.refusals(caller) == [(3, 1, "QUOTA")]
    bench.answer(worker, bench.hear(worker, wire.Lease)[0].token)
    assert bench.ends(caller) == [(1, "OK"), (4, "OK")]
    bench.wait(11.0)
    bench.call(caller, 5, key="a")
    assert (5, "OK") in bench.ends(caller)
    bench.wait(keys.KEPT_SECONDS)
    bench.call(caller, 6, key="c")
    assert bench.refusals(caller) == []


def test_an_answer_that_does_not_fit_is_not_kept_but_that_there_was_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEYS_BYTES_MAX", 10)
    bench = CallBench()
    worker, caller = bench.serve("w", window=10), bench.connect("c")
    bench.call(caller, 1, key="k")
    bench.answer(worker, bench.one_lease(worker).token, body=b"x" * 11)
    assert bench.told(caller) == [(1, "OK", b"x" * 11)]
    bench.call(caller, 2, key="k")
    assert bench.ends(caller) == [(2, "MAYBE_EXECUTED")] and bench.leases(worker) == []
    bench.call(caller, 3, key="new")
    assert bench.refusals(caller) == [(3, 1, "QUOTA")]
