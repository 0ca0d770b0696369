"""The client's machine as a worker, against hand-written words of a node: when a call may start, and how its answer arrives."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from test_client_calls import CallWorld, up
from test_client_link import OTHER

from zmqkit import wire
from zmqkit.machines import events as ev
from zmqkit.machines.holdings import MARGIN, HeldLease
from zmqkit.parcel import Parcel
from zmqkit.wire import BackKind, Status, Verdict

MARKED = wire.SERVICE_MARK + "s"


def calls(token: int, count: int = 1, beat: int = 1, seconds: float = 10.0, allowed: int = 0) -> wire.Lease:
    terms = wire.Terms(seconds, "", allowed)
    return wire.Lease(MARKED, token, 1, count, 1, 30.0, 2.0, beat, terms, Parcel.of([b"\x01"] * count))


def working(credit: int = 10) -> CallWorld:
    world = up()
    world.machine.consumers.of(MARKED).fixed = credit
    world.turn()
    world.echo()
    return world


def hold(world: CallWorld, token: int = 7, count: int = 1, **given: Any) -> HeldLease:
    world.hear(calls(token, count, world.machine.beats.number, **given))
    return world.machine.holdings.leases[token]


def bodies(*texts: str) -> Parcel:
    return Parcel.of([text.encode() for text in texts])


# -- R-C5: the gate ------------------------------------------------------------------------------------------------------


def test_a_worker_asks_for_calls_with_a_window_into_the_marked_name() -> None:
    world = up()
    world.machine.consumers.of(MARKED).fixed = 3
    assert world.turn().of(wire.Ready)[0].windows == [wire.Window(MARKED, 3, 0.0)]


def test_a_call_may_start_while_its_lease_and_its_deadline_allow() -> None:
    world = working()
    sent = world.machine.beats.sent_at
    lease = hold(world, seconds=1.0)
    assert lease.ends_at == pytest.approx(sent + MARGIN * 1.0)
    assert lease.starts_until == lease.ends_at
    assert world.of(ev.Granted) == [ev.Granted(lease)]
    other = hold(world, 8, seconds=100.0)
    assert other.starts_until == pytest.approx(sent + MARGIN * 2.0)  # grace is shorter


def test_the_deadline_counts_from_the_beat_so_a_slow_delivery_moves_nothing() -> None:
    """The LEASE lay in the socket of a process that was stopped."""
    world = working()
    sent, beat = world.now, world.machine.beats.number
    world.now += 4.0
    world.machine.tick(world.now)
    world.hear(calls(7, 1, beat, seconds=5.0))
    lease = world.machine.holdings.leases[7]
    assert lease.ends_at <= sent + 5.0
    world.echo()
    assert world.now < lease.starts_until <= sent + 5.0


def test_no_beat_moves_the_deadline() -> None:
    world = working()
    lease = hold(world, seconds=3.0)
    ends_at = lease.ends_at
    world.echoing(2.5)
    assert lease.starts_until == lease.ends_at == ends_at


def test_a_call_that_arrives_after_its_deadline_goes_back_at_once() -> None:
    world = working()
    beat = world.machine.beats.number
    world.now += 4.0
    world.machine.tick(world.now)
    world.hear(calls(7, 2, beat, seconds=3.9))
    assert world.of(wire.Back) == [wire.Back(7, 0, 2, BackKind.UNSTARTED, -1.0, "")] and world.of(ev.Granted) == []


def test_a_lease_after_a_long_silence_waits_for_the_echo_of_a_beat_that_the_node_has_seen_since() -> None:
    world = working()
    beat = world.machine.beats.number
    world.now += 1.5
    world.machine.tick(world.now)
    world.hear(calls(7, 1, beat))
    lease = world.machine.holdings.leases[7]
    assert lease.starts_until == -inf and len(world.of(wire.Ready)) == 1
    world.echo()
    assert lease.starts_until > world.now


# -- replies -------------------------------------------------------------------------------------------------------------


def test_replies_of_one_turn_leave_together_and_the_answer_ends_them() -> None:
    world = working()
    first, second = hold(world, 7, 3), hold(world, 8)
    assert world.machine.reply(first, 0, 2, Status.OK, bodies("a", "b")) == 2
    assert world.machine.reply(second, 0, 1, Status.ERROR, bodies("c")) == 1
    (reply,) = world.turn().of(wire.Reply)
    assert reply == wire.Reply(0, [(7, 0, 2, Status.OK), (8, 0, 1, Status.ERROR)], 3, bodies("a", "b", "c"))
    assert world.machine.consumers.of(MARKED).open == 1
    world.hear(wire.Answer([(7, 0, 2, Verdict.OK), (8, 0, 1, Verdict.OK)]))
    assert list(world.machine.holdings.leases) == [7] and world.of(ev.Judged) == []


def test_a_call_is_answered_once_whatever_the_application_says_after() -> None:
    world = working()
    lease = hold(world, 7, 3)
    world.machine.reply(lease, 1, 1, Status.OK, bodies("b"))
    assert world.machine.reply(lease, 0, 3, Status.ERROR, bodies("x", "y", "z")) == 2
    assert world.machine.reply(lease, 0, 3, Status.OK, bodies("1", "2", "3")) == 0
    (reply,) = world.turn().of(wire.Reply)
    assert reply.ranges == [(7, 1, 1, Status.OK), (7, 0, 1, Status.ERROR), (7, 2, 1, Status.ERROR)]
    assert reply.parcel == bodies("b", "x", "z")


def test_an_unanswered_reply_is_said_again_on_a_new_link_behind_a_ready_that_lists_its_token() -> None:
    world = working()
    lease = hold(world, 7, 2)
    world.machine.reply(lease, 0, 1, Status.OK, bodies("a"))
    world.turn()
    world.hear(wire.Answer([(7, 0, 1, Verdict.OK)]))
    world.machine.reply(lease, 1, 1, Status.OK, bodies("b"))
    world.turn()
    world.relink()
    assert [type(word) for word in world.said] == [wire.Ready, wire.Reply]
    assert world.of(wire.Ready)[0].held == [wire.Held(7, 0, 0.0)]
    assert world.of(wire.Reply) == [wire.Reply(0, [(7, 1, 1, Status.OK)], 1, bodies("b"))]
    world.hear(wire.Answer([(7, 1, 1, Verdict.OK)]))
    world.relink()
    assert world.of(wire.Reply) == [] and not world.machine.holdings.leases


def test_a_reply_to_a_lease_that_is_over_is_judged_stale() -> None:
    world = working()
    lease = hold(world)
    world.machine.reply(lease, 0, 1, Status.OK, bodies("a"))
    world.turn()
    world.hear(wire.Answer([(7, 0, 1, Verdict.STALE)]))
    assert world.of(ev.Judged) == [ev.Judged(lease, 0, 1, Verdict.STALE)]


def test_replies_too_many_for_one_frame_leave_in_several() -> None:
    world = working(1000)
    for lease in [hold(world, token) for token in range(1, 301)]:
        world.machine.reply(lease, 0, 1, Status.OK, Parcel.of([b"x" * 5000]))
    replies = world.turn().of(wire.Reply)
    assert [len(reply.ranges) for reply in replies] == [209, 91] and sum(reply.count for reply in replies) == 300


def test_one_long_call_holds_up_no_memory_of_the_others_answers() -> None:
    world = working(4096)
    lease = hold(world, 7, 4096)
    for offset in range(4095):
        world.machine.reply(lease, offset, 1, Status.OK, bodies("x"))
        world.hear(wire.Answer([(7, offset, 1, Verdict.OK)]))
    assert len(lease.replies) < 50


def test_another_node_leaves_the_answers_in_doubt() -> None:
    world = working()
    lease, running = hold(world), hold(world, 8)
    world.machine.reply(lease, 0, 1, Status.OK, bodies("a"))
    world.turn()
    world.relink(node=OTHER)
    ends = [event for event in world.all if isinstance(event, ev.Judged | ev.Revoked)]
    assert sorted(ends, key=str) == sorted([ev.Revoked(running), ev.Judged(lease, 0, 1, Verdict.SETTLED)], key=str)
    assert not world.machine.holdings.leases


def test_that_nobody_waits_any_more_is_told_while_a_call_is_in_hand() -> None:
    world = working()
    lease = hold(world, 7, 3)
    assert world.hear(wire.Cancel(7, 1, 2)).of(ev.Cancelled) == [ev.Cancelled(lease, 1, 2)]
    assert world.hear(wire.Cancel(9, 0, 1)).of(ev.Cancelled) == []
    world.machine.reply(lease, 0, 3, Status.OK, bodies("a", "b", "c"))
    assert world.hear(wire.Cancel(7, 1, 2)).of(ev.Cancelled) == []


# -- streams -----------------------------------------------------------------------------------------------------------------------


def parts(first: int, count: int = 1, number: int = 1) -> wire.Part:
    return wire.Part(number, 0, first, count, Parcel.of([b"p%d" % (first + i) for i in range(count)]))


def taken(world: CallWorld) -> list[str]:
    return [bytes(body).decode() for event in world.of(ev.Parts) for body in event.parcel.messages()]


def test_parts_come_in_order_and_once_whatever_is_told_again() -> None:
    world = up()
    world.call("a", parts=16)
    assert world.of(wire.Call)[0].parts == 16
    assert taken(world.hear(parts(1, 2), parts(2, 3))) == ["p1", "p2", "p3", "p4"]  # type: ignore[arg-type]
    assert taken(world.hear(parts(1, 4), parts(6), parts(9, number=5))) == []  # type: ignore[arg-type]
    world.machine.more("a", 20, 4)
    assert world.turn().of(wire.More) == [wire.More(1, 0, 20, 4)]
    world.relink()
    assert [type(word) for word in world.said] == [wire.Ready, wire.Call, wire.More]
    assert world.of(wire.More) == [wire.More(1, 0, 20, 4)]
    assert taken(world.hear(parts(4, 2))) == ["p5"]  # type: ignore[arg-type]
    world.reply((1, 1, Status.END))
    assert world.outcomes == [("a", 0, 1, Status.END)]
    assert taken(world.hear(parts(6))) == []  # type: ignore[arg-type]


def test_parts_of_an_answer_are_numbered_and_said_again_on_a_new_link_before_its_end() -> None:
    world = working()
    lease = hold(world, allowed=4)
    assert lease.terms is not None and lease.terms.parts == 4
    world.machine.part(lease, 0, bodies("a", "b"))
    world.machine.part(lease, 0, bodies("c"))
    assert [(part.number, part.first, part.count) for part in world.turn().of(wire.Part)] == [(7, 1, 2), (7, 3, 1)]
    world.hear(wire.More(7, 0, 8, 2))
    assert world.of(ev.Allowed) == [ev.Allowed(lease, 0, 8)]
    world.machine.reply(lease, 0, 1, Status.END, bodies("3"))
    world.turn()
    world.relink()
    assert [type(word) for word in world.said] == [wire.Ready, wire.Part, wire.Reply]
    assert [(part.first, part.count) for part in world.of(wire.Part)] == [(3, 1)]


def test_no_part_follows_the_end() -> None:
    world = working()
    lease = hold(world, allowed=4)
    world.machine.reply(lease, 0, 1, Status.END, bodies("0"))
    world.machine.part(lease, 0, bodies("a"))
    assert world.turn().of(wire.Part) == []
