"""Streamed answers at the node: parts, how many may be on their way, and links that break between."""

from __future__ import annotations

from calls_bench import CallBench

from zmqkit import wire
from zmqkit.machines import calls
from zmqkit.machines.calls import PARTS_AHEAD_MAX
from zmqkit.parcel import Parcel
from zmqkit.wire import BackKind, Status


def part(bench: CallBench, worker: bytes, token: int, first: int, count: int = 1, offset: int = 0, size: int = 1) -> None:
    bodies = [b"p%d" % (first + index) if size == 1 else b"x" * size for index in range(count)]
    bench.say(worker, wire.Part(token, offset, first, count, Parcel.of(bodies)))


def more(bench: CallBench, caller: bytes, number: int, parts: int, got: int) -> None:
    bench.say(caller, wire.More(number, 0, parts, got))


def heard(bench: CallBench, caller: bytes) -> list[str]:
    return [bytes(body).decode() for command in bench.hear(caller, wire.Part) for body in command.parcel.messages()]


def stream(parts: int = 4) -> tuple[CallBench, bytes, bytes, int]:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 9, parts=parts, seconds=100.0)
    return bench, caller, worker, bench.one_lease(worker).token


def test_parts_go_on_at_once_under_the_callers_number_and_the_end_behind_them() -> None:
    bench, caller, worker, token = stream()
    part(bench, worker, token, 1, 2)
    part(bench, worker, token, 3)
    assert bench.hear(caller, wire.Part) == [
        wire.Part(9, 0, 1, 2, Parcel.of([b"p1", b"p2"])), wire.Part(9, 0, 3, 1, Parcel.of([b"p3"])),
    ]  # fmt: skip
    bench.answer(worker, token, 0, 1, Status.END, b"3")
    assert bench.told(caller) == [(9, "END", b"3")]


def test_a_worker_learns_how_many_parts_it_may_send_and_no_more_are_taken() -> None:
    bench, caller, worker, token = stream(parts=2)
    part(bench, worker, token, 1, 2)
    part(bench, worker, token, 3)
    assert heard(bench, caller) == ["p1", "p2"] and bench.machine.core.dropped == {"wrong-part": 1}
    more(bench, caller, 9, 4, 2)
    assert bench.hear(worker, wire.More) == [wire.More(token, 0, 4, 2)]
    part(bench, worker, token, 3, 2)
    assert heard(bench, caller) == ["p3", "p4"]


def test_a_worker_learns_on_its_new_link_what_may_have_died_with_the_old_one() -> None:
    bench, caller, worker, token = stream(parts=2)
    part(bench, worker, token, 1, 2)
    more(bench, caller, 9, 4, 2)
    bench.hear(worker, wire.More)
    again = bench.serve("w", link=2, seen=token, held=[(token, 1)])
    assert bench.hear(again, wire.More) == [wire.More(token, 0, 4, 2)]
    bench.ready(again, 1, 2, token, [(token, 1)], queue=wire.SERVICE_MARK + "s")
    assert bench.hear(again, wire.More) == []


def test_a_caller_cannot_let_the_node_keep_more_parts_than_its_limit() -> None:
    bench = CallBench()
    caller, worker = bench.connect("c"), bench.serve("w")
    bench.call(caller, 1, parts=10**6, seconds=100.0)
    lease = bench.one_lease(worker)
    assert lease.terms is not None and lease.terms.parts == PARTS_AHEAD_MAX
    more(bench, caller, 1, 10**6, 0)
    assert bench.hear(worker, wire.More) == [wire.More(lease.token, 0, PARTS_AHEAD_MAX, 0)]
    part(bench, worker, lease.token, 1, 100)
    more(bench, caller, 1, 10**6, 10**6)
    assert bench.hear(worker, wire.More) == [wire.More(lease.token, 0, PARTS_AHEAD_MAX + 100, 100)]


def test_a_hole_in_the_parts_is_not_taken() -> None:
    bench, caller, worker, token = stream()
    part(bench, worker, token, 2)
    assert heard(bench, caller) == [] and bench.machine.core.dropped == {"wrong-part": 1}


def test_parts_that_the_caller_may_lack_are_told_again_on_its_new_link_before_the_end() -> None:
    bench, caller, worker, token = stream(parts=10)
    part(bench, worker, token, 1, 2)
    part(bench, worker, token, 3, 2)
    more(bench, caller, 9, 12, 2)
    again = bench.connect("c", link=2)
    part(bench, worker, token, 5)
    bench.answer(worker, token, 0, 1, Status.END, b"5")
    assert heard(bench, again) == [] and bench.told(again) == []
    bench.beat(again, 1)
    assert bench.order(again) == ["WELCOME", "PART", "PART", "REPLY", "ECHO"]
    assert heard(bench, again) == ["p3", "p4", "p5"] and bench.told(again) == [(9, "END", b"5")]


def test_parts_that_come_again_from_a_worker_on_a_new_link_go_on_once() -> None:
    bench, caller, worker, token = stream(parts=10)
    part(bench, worker, token, 1, 3)
    worker = bench.serve("w", link=2, beat=2, seen=token, held=[(token, 1)])
    part(bench, worker, token, 1, 3)
    part(bench, worker, token, 2, 3)
    assert heard(bench, caller) == ["p1", "p2", "p3", "p4"] and bench.machine.core.dropped == {}


def test_parts_of_a_cancelled_stream_go_nowhere_even_when_its_caller_is_forgotten() -> None:
    bench, caller, worker, token = stream(parts=10)
    part(bench, worker, token, 1)
    bench.say(caller, wire.Bye())
    assert bench.hear(worker, wire.Cancel) == [wire.Cancel(token, 0, 1)]
    for beat in range(2, 130):
        bench.wait(1.0)
        bench.serve("w", beat=beat, seen=token, held=[(token, 1)])
    assert b"c" * 16 not in bench.machine.core.clients
    part(bench, worker, token, 2)
    assert heard(bench, caller) == ["p1"]


def test_whoever_has_sent_parts_has_begun_so_the_stream_goes_to_nobody_else() -> None:
    bench, caller, worker, token = stream()
    other = bench.serve("v")
    part(bench, worker, token, 1)
    bench.back(worker, token, kind=BackKind.UNSTARTED)
    assert bench.leases(other) == [] and bench.ends(caller) == [(9, "MAYBE_EXECUTED")]


def test_parts_that_nobody_reads_end_their_stream_before_they_fill_the_node(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("zmqkit.machines.answering.ANSWERS_BYTES_MAX", 1000)
    assert calls.ANSWERS_BYTES_MAX > calls.CALLS_BYTES_MAX
    bench, caller, worker, token = stream(parts=10)
    part(bench, worker, token, 1, size=600)
    part(bench, worker, token, 2, size=600)
    assert bench.ends(caller) == [(9, "MAYBE_EXECUTED")] and bench.hear(worker, wire.Cancel) == [wire.Cancel(token, 0, 1)]
    bench.beat(caller, 1, replied=1)
    assert bench.empty()


def test_a_stream_takes_no_key() -> None:
    bench = CallBench()
    caller = bench.connect("c")
    bench.call(caller, 1, parts=4, key="k")
    assert bench.refusals(caller) == [(1, 1, "MALFORMED")]


def test_words_about_what_is_no_stream_change_nothing() -> None:
    bench = CallBench()
    caller, worker, foreign = bench.connect("c"), bench.serve("w", window=10), bench.connect("f")
    bench.call(caller, 1)
    bench.call(caller, 2, parts=4)
    plain, streamed = bench.hear(worker, wire.Lease)
    more(bench, caller, 1, 5, 0)
    more(bench, caller, 77, 5, 0)
    more(bench, foreign, 2, 5, 0)
    part(bench, worker, plain.token, 1)
    part(bench, foreign, streamed.token, 1)
    part(bench, worker, streamed.token, 1, offset=3)
    part(bench, worker, 12345, 1)
    assert heard(bench, caller) == [] and bench.hear(worker, wire.More) == []
    part(bench, worker, streamed.token, 1)
    assert heard(bench, caller) == ["p1"]


def test_the_parts_of_a_stream_that_is_over_are_forgotten() -> None:
    bench, caller, worker, token = stream()
    part(bench, worker, token, 1, 4)
    bench.answer(worker, token, 0, 1, Status.END, b"4")
    assert not bench.empty()
    bench.beat(caller, 1, replied=1)
    assert bench.empty()


def test_a_worker_learns_on_its_new_link_that_nobody_waits_any_more() -> None:
    """It may stand there waiting until it may send more."""
    bench, caller, worker, token = stream()
    bench.machine.lost(worker, bench.now)
    bench.cancel(caller, 9)
    again = bench.serve("w", link=2, beat=2, seen=token, held=[(token, 1)])
    assert bench.hear(again, wire.Cancel) == [wire.Cancel(token, 0, 1)]
    bench.serve("w", link=2, beat=3, seen=token, held=[(token, 1)])
    assert bench.hear(again, wire.Cancel) == []
