"""What calls may cost a node, what is left of them when they are over or the node stops, and rubbish."""

from __future__ import annotations

import pytest
from calls_bench import MARKED, CallBench
from node_bench import name

from zmqkit import wire
from zmqkit.machines import calls, core, settling
from zmqkit.machines.calls import CALLS_MAX
from zmqkit.parcel import PARCEL_BYTES_MAX, Parcel
from zmqkit.wire import BackKind, Status

# -- replies, kept until they have come --------------------------------------------------------------------------------------


def test_replies_are_numbered_and_those_the_caller_lacks_are_told_again_on_its_new_link() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, 4)
    token = bench.one_lease(worker).token
    for offset in range(3):
        bench.answer(worker, token, offset)
    assert [reply.serial for reply in bench.replies(caller)] == [1, 2, 3]
    again = bench.connect("c", link=2)
    bench.answer(worker, token, 3)
    assert bench.replies(again) == []  # nobody knows yet where this link goes on
    bench.beat(again, 1, replied=2)
    assert [(reply.serial, reply.ranges) for reply in bench.replies(again)] == [(3, [(3, 0, 1, 0)]), (4, [(4, 0, 1, 0)])]
    bench.beat(again, 2, replied=2)
    assert bench.replies(again) == []  # once on a link


def test_a_call_says_too_which_replies_have_come() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1)
    bench.answer(worker, bench.one_lease(worker).token)
    bench.call(caller, 2, replied=1)
    again = bench.connect("c", link=2)
    bench.beat(again, 1, replied=1)
    assert bench.replies(again) == [] and list(bench.machine.calls.callers[name("c")].jobs) == [2]


def test_a_caller_that_was_forgotten_goes_on_where_it_was() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    for number, replied in ((1, 0), (2, 1)):
        bench.call(caller, number, replied=replied)
        bench.answer(worker, bench.one_lease(worker).token)
    bench.beat(caller, 1, replied=2)
    assert bench.empty()
    bench.call(caller, 3, replied=2)
    bench.answer(worker, bench.one_lease(worker).token)
    assert [reply.serial for reply in bench.replies(caller)] == [1, 2, 3]


def test_one_long_call_keeps_no_answers_of_others() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1)
    bench.one_lease(worker)
    for number in range(2, 50):
        bench.call(caller, number, replied=number - 2)
        bench.answer(worker, bench.one_lease(worker).token)
    known = bench.machine.calls.callers[name("c")]
    assert list(known.jobs) == [1, 49] and len(known.kept) == 1


def test_more_answers_than_fit_a_reply_leave_in_several() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10_000)
    for number in range(1, 601, 2):  # not neighbours
        bench.call(caller, number, turn=False)
    bench.turn()
    leases = bench.hear(worker, wire.Lease)
    bench.serve("w", window=10_000, beat=2, seen=leases[-1].token, held=[(lease.token, 1) for lease in leases])
    for lease in leases:
        bench.answer(worker, lease.token, body=b"x" * 5000, turn=False)
    bench.turn()
    replies = bench.replies(caller)
    assert [len(reply.ranges) for reply in replies] == [209, 91] and [reply.serial for reply in replies] == [1, 2]


def test_a_long_reason_told_of_many_calls_still_fits_a_reply() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=5000)
    bench.call(caller, 1, 4096)
    token = bench.one_lease(worker).token
    bench.say(worker, wire.Back(token, 0, 4096, BackKind.NACK, 0.0, "x" * 2000))
    (reply,) = bench.replies(caller)
    assert reply.count == 4096 and len(reply.parcel.body) <= PARCEL_BYTES_MAX


# -- limits ------------------------------------------------------------------------------------------------------------------


def test_a_caller_may_have_so_many_calls_without_an_answer_that_it_has_read_and_no_more() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=2)
    for first in range(1, CALLS_MAX, 4096):
        bench.call(caller, first, 4096)
    bench.call(caller, CALLS_MAX + 1)
    assert bench.refusals(caller) == [(CALLS_MAX + 1, 1, "QUOTA")]
    bench.answer(worker, bench.one_lease(worker).token, 0, 2)
    bench.call(caller, CALLS_MAX + 1)
    assert bench.refusals(caller) == [(CALLS_MAX + 1, 1, "QUOTA")]  # their answers may not have come
    bench.call(caller, CALLS_MAX + 1, replied=1)
    bench.call(bench.connect("d"), 1)
    assert bench.refusals(caller) == []


def test_the_bodies_of_calls_and_of_answers_that_nobody_read_fill_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALLS_BYTES_MAX", 1000)
    bench = CallBench()
    one, two, worker = bench.connect("c"), bench.connect("d"), bench.serve("w", window=10)
    bench.call(one, 1, size=600)
    bench.call(two, 1, size=600)
    assert bench.refusals(two) == [(1, 1, "QUOTA")]
    bench.answer(worker, bench.one_lease(worker).token, body=b"x" * 700)
    bench.call(two, 2, size=600)
    assert bench.refusals(two) == [(2, 1, "QUOTA")]
    bench.beat(one, 1, replied=1)
    bench.call(two, 3, size=600)
    assert bench.refusals(two) == [] and bench.leases(worker) == [(3, 1)]


def test_headers_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALLS_BYTES_MAX", 1000)
    bench = CallBench()
    caller = bench.connect("c")
    parcel = Parcel.of([b"x"], {"headers": [{"trace": "x" * 1000}]})
    bench.say(caller, wire.Call("s", 1, 1, 5.0, 4, 0, "", 0, 0, parcel))
    assert bench.refusals(caller) == [(1, 1, "QUOTA")]


def test_answers_that_no_caller_reads_are_not_kept_beyond_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "ANSWERS_BYTES_MAX", 1000)
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=10)
    bench.call(caller, 1, 3)
    token = bench.one_lease(worker).token
    for offset in range(3):
        bench.answer(worker, token, offset, body=b"x" * 500)
    assert bench.ends(caller) == [(1, "OK"), (2, "MAYBE_EXECUTED"), (3, "MAYBE_EXECUTED")]


def test_services_that_nobody_uses_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "SERVICES_MAX", 2)
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1, service="one", seconds=1.0)
    bench.call(caller, 2, service="two")
    assert bench.refusals(caller) == [(2, 1, "QUOTA")]
    bench.wait(1.1)
    bench.call(caller, 3, service="two")
    assert bench.refusals(caller) == [] and sorted(bench.machine.core.services) == ["s", "two"]
    bench.call(caller, 4)
    assert bench.leases(worker) == [(4, 1)]


@pytest.mark.parametrize("use", ["a worker", "a call that waits", "a call that runs"])
def test_a_service_that_is_used_is_kept(use: str) -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.connect("w")
    if use != "a call that waits":
        bench.serve("w")
    if use != "a worker":
        bench.call(caller, 1, seconds=300.0)
    if use == "a call that runs":
        token = bench.one_lease(worker).token
        bench.serve("w", window=0, beat=2, seen=token, held=[(token, 1)])
    bench.wait(61.0)
    assert "s" in bench.machine.core.services


def test_a_service_is_forgotten_with_its_last_worker() -> None:
    bench = CallBench()
    worker = bench.serve("w")
    bench.machine.lost(worker, bench.now)
    bench.wait(61.0)
    assert not bench.machine.core.services and list(bench.machine.core.by_number) == []
    caller = bench.connect("c")
    bench.call(caller, 1)
    again = bench.serve("w", link=2, beat=2)
    assert bench.leases(again) == [(1, 1)]


# -- memory --------------------------------------------------------------------------------------------------------------------


def test_nothing_is_left_of_calls_that_are_over() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=4)
    ends = ("answered", "cancelled", "late", "unserved", "keyless worker lost", "handed back")
    for first, end in enumerate(ends):
        number = 1 + 10 * first
        bench.call(caller, number, 3, seconds=1.0, service="nobody" if end == "unserved" else "s")
        token = bench.hear(worker, wire.Lease)[0].token if end != "unserved" else 0
        if end == "answered":
            bench.answer(worker, token, 0, 3)
        elif end == "cancelled":
            bench.answer(worker, token, 0)
            bench.cancel(caller, number, 3)
            bench.beat(caller, 1, replied=2)
            bench.answer(worker, token, 0, 3)
        elif end == "late":
            bench.wait(1.1)
            bench.back(worker, token, 0, 3, kind=BackKind.UNSTARTED)
        elif end == "unserved":
            bench.wait(1.1)
        elif end == "handed back":
            bench.back(worker, token, 0, 3, kind=BackKind.UNSTARTED)
            bench.wait(1.1)
            lease = bench.one_lease(worker)
            bench.answer(worker, lease.token, 0, 3)
        else:
            bench.machine.lost(worker, bench.now)
            bench.wait(3.0)
            worker = bench.serve("w", window=4, link=2, beat=2, seen=token)
    bench.told(caller)
    bench.beat(caller, 9, replied=100)
    bench.serve("w", window=0, link=2, beat=9, seen=bench.machine._leasing.newest_token)
    assert bench.empty() and not bench.machine.core.leases
    bench.wait(2.0)
    assert bench.machine.calls.deadline == float("inf")


def test_a_reply_is_not_needed_any_more_after_a_cancellation_of_the_rest() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=4)
    bench.call(caller, 1, 2)
    bench.answer(worker, bench.one_lease(worker).token)
    bench.beat(caller, 1, replied=1)
    bench.cancel(caller, 2)
    bench.beat(caller, 2, replied=1)
    assert bench.empty()


def test_calls_that_nobody_serves_leave_no_line_behind() -> None:
    bench = CallBench()
    bench.checked = False
    caller = bench.connect("c")
    for number in range(1, 5000):
        bench.call(caller, number, turn=False)
        bench.cancel(caller, number, turn=False)
    bench.turn()
    assert len(bench.machine.core.services["s"].line) < 1100 and len(bench.machine.calls._due) < 3000


def test_a_call_that_goes_back_and_forth_stands_in_line_once() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1, 10)
    for beat in range(2, 50):
        token = bench.one_lease(worker).token
        bench.back(worker, token, kind=BackKind.UNSTARTED, turn=False)
        bench.serve("w", beat=beat, seen=token)
    assert len(bench.machine.core.services["s"].line) < 5


def test_a_caller_that_stays_away_is_forgotten_with_its_answers() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=4)
    bench.call(caller, 1)
    bench.call(caller, 2, seconds=1e6)
    bench.answer(worker, bench.hear(worker, wire.Lease)[0].token)
    bench.machine.lost(caller, bench.now)
    for beat in range(2, 1320):
        bench.wait(1.0)
        seen = bench.machine._leasing.newest_token
        bench.serve("w", window=4, beat=beat, seen=seen, held=[(seen, 1)])
        if beat == 1200:
            assert len(bench.machine.calls.callers[name("c")].kept) == 1
    assert bench.empty() and name("c") not in bench.machine.core.clients


# -- the end of a node ------------------------------------------------------------------------------------------------------


def test_a_node_that_stops_refuses_what_waits_and_takes_answers_to_what_runs() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1, 3)
    token = bench.one_lease(worker).token
    bench.machine.stop(bench.now)
    bench.turn()
    assert bench.refusals(caller) == [(2, 2, "STOPPING")]
    bench.call(caller, 4)
    assert bench.refusals(caller) == [(4, 1, "STOPPING")]
    bench.answer(worker, token)
    assert bench.ends(caller) == [(1, "OK")] and bench.leases(worker) == []


def test_what_comes_back_unstarted_to_a_node_that_stops_is_refused_at_once() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(worker).token
    bench.machine.stop(bench.now)
    bench.back(worker, token, kind=wire.BackKind.UNSTARTED)
    assert bench.refusals(caller) == [(1, 1, "STOPPING")]


# -- rubbish -------------------------------------------------------------------------------------------------------------------


def test_a_reply_under_a_token_of_somebody_else_is_stale() -> None:
    bench = CallBench()
    caller, worker, foreign = bench.connect("c"), bench.serve("w"), bench.serve("f", window=0)
    bench.call(caller, 1)
    token = bench.one_lease(worker).token
    for wrong in (token, token + 1):
        bench.answer(foreign, wrong)
    bench.wait(0.1)
    assert bench.told(caller) == []
    assert bench.verdicts(foreign) == [(token, 0, 1, "STALE"), (token + 1, 0, 1, "STALE")]
    bench.answer(worker, token)
    assert bench.ends(caller) == [(1, "OK")]


def test_a_reply_that_is_none_ends_nothing() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=5)
    bench.connect("p")
    bench.put(b"p1", 1)
    bench.say(worker, wire.Ready(2, 0, [wire.Window(MARKED, 5, 0.0), wire.Window("q", 5, 0.0)], 0, []))
    message = bench.one_lease(worker)
    bench.call(caller, 1, 2)
    token = bench.one_lease(worker).token
    bench.answer(worker, token, 1, 5)  # more than there are
    bench.answer(worker, token, 0, 1, Status.NO_WORKER)  # not a worker's to say
    bench.answer(worker, message.token)  # no call
    bench.done(worker, token)  # no message
    bench.wait(0.1)
    verdicts = bench.verdicts(worker)
    assert [verdict for *_, verdict in verdicts] == ["STALE"] * 4 and bench.told(caller) == []
    assert bench.info() == {"leased": 1}


def test_a_reply_to_a_token_of_an_earlier_epoch_is_in_doubt() -> None:
    """It may have been passed on before the restart: nothing of calls is in the log."""
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1)
    token = bench.one_lease(worker).token
    bench = CallBench(bench.crash().log, bench.now)
    again = bench.connect("w", link=2)
    bench.answer(again, token)
    bench.wait(0.1)
    assert bench.verdicts(again) == [(token, 0, 1, "SETTLED")]


def test_so_many_replies_in_one_turn_that_their_answers_would_fill_the_node_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "ANSWERS_MAX", 10)
    bench = CallBench()
    worker = bench.connect("w")
    for token in range(1, 20):
        bench.answer(worker, token, turn=False)
    bench.turn()
    assert bench.machine.core.dropped == {"too-many-answers": 8}


def test_a_caller_that_claims_to_have_read_what_nobody_said_harms_itself_alone() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w", window=5)
    bench.call(caller, 1, replied=2**64 - 1)
    bench.answer(worker, bench.one_lease(worker).token)
    bench.beat(caller, 1, replied=2**64 - 1)
    bench.call(caller, 2, replied=2**62 - 1)
    bench.answer(worker, bench.one_lease(worker).token)
    assert [number for number, _ in bench.ends(caller)] == [1, 2]


def test_what_nobody_has_called_cannot_be_cancelled() -> None:
    bench = CallBench()
    caller, worker, other = bench.connect("c"), bench.serve("w"), bench.connect("d")
    bench.call(caller, 5)
    token = bench.one_lease(worker).token
    bench.cancel(other, 5)
    bench.cancel(caller, 1, 4)
    bench.cancel(caller, 6, 4096)
    assert bench.hear(worker, wire.Cancel) == []
    bench.answer(worker, token)
    assert bench.ends(caller) == [(5, "OK")]
