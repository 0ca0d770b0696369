"""The client's machine as a caller: how many calls are under way, calls that are given up, and what is left of them."""

from __future__ import annotations

from math import inf

from test_client_calls import CallWorld, up

from zmqkit import wire
from zmqkit.machines.calling import WINDOW_CALLS
from zmqkit.machines.events import Outcome
from zmqkit.wire import Status

# -- the window ------------------------------------------------------------------------------------------------------------------


def test_no_more_calls_are_under_way_than_the_window_and_ends_make_room() -> None:
    world = up()
    for index in range(4):
        world.call(f"{index}", 4096, turn=False)
    assert [call.first for call in world.turn().of(wire.Call)] == [1, 4097] and WINDOW_CALLS == 8192
    world.reply((1, 1, Status.OK))
    assert [call.first for call in world.of(wire.Call)] == [8193]
    world.relink()
    assert [(call.first, call.count) for call in world.of(wire.Call)] == [(2, 4095), (4097, 4096), (8193, 4096)]
    world.reply((2, 4000, Status.OK))
    assert world.of(wire.Call) == []
    world.machine.cancel("1", 0)
    world.reply((4098, 95 + 4000, Status.OK))
    assert [call.first for call in world.of(wire.Call)] == [12289]


def test_what_waits_for_the_window_at_its_deadline_was_not_sent() -> None:
    world = up()
    for index in range(3):
        world.call(f"{index}", 4096, 1.0, turn=False)
    world.turn()
    world.echoing(1.1)
    assert ("2", 0, 4096, Outcome.NOT_SENT) in world.outcomes


# -- cancelling -------------------------------------------------------------------------------------------------------------------


def test_a_call_cancelled_before_it_was_sent_is_never_sent() -> None:
    world = up()
    world.call("a", 3, turn=False)
    world.machine.cancel("a", 1)
    calls = world.turn().of(wire.Call)
    assert [(call.first, call.count) for call in calls] == [(1, 1), (3, 1)] and world.of(wire.Cancel) == []


def test_a_call_cancelled_later_is_cancelled_at_the_node_and_has_no_outcome() -> None:
    world = up()
    world.call("a", 2)
    world.machine.cancel("a", 1)
    assert world.turn().of(wire.Cancel) == [wire.Cancel(2, 0, 1)]
    world.machine.cancel("a", 1)
    world.machine.cancel("a", 0)
    assert world.turn().of(wire.Cancel) == [wire.Cancel(1, 0, 1)]
    world.reply((1, 2, Status.OK))
    world.wait(11.0)
    assert world.outcomes == [] and not world.machine.calling.flights


def test_a_cancellation_is_said_again_until_a_later_beat_proves_that_it_arrived() -> None:
    world = up()
    world.call("a", seconds=inf)
    world.machine.cancel("a", 0)
    world.turn()
    world.relink()
    assert [type(word) for word in world.said] == [wire.Ready, wire.Cancel]
    world.echo()
    world.relink()
    assert len(world.of(wire.Cancel)) == 1  # that beat was sent before it
    world.call("b", seconds=inf)
    world.echoing(2.0)
    world.relink()
    assert world.of(wire.Cancel) == []
    world.machine.lost(world.now, "cut")
    world.machine.cancel("b", 0)
    world.relink()
    assert world.of(wire.Cancel) == [wire.Cancel(2, 0, 1)] and world.of(wire.Call) == []
    world.relink(epoch=4)
    assert world.of(wire.Cancel) == []


def test_fleeing_gives_up_what_may_be_made_elsewhere_and_leaves_the_rest() -> None:
    world = up()
    world.call("sent")
    world.call("keyed", key="k")
    world.machine.lost(world.now, "cut")
    world.call("unsent")
    world.machine.flee()
    world.turn()
    assert world.outcomes == [("keyed", 0, 1, Outcome.MAYBE_EXECUTED), ("unsent", 0, 1, Outcome.NOT_SENT)]
    world.up()
    assert [call.first for call in world.of(wire.Call)] == [1]


# -- memory -----------------------------------------------------------------------------------------------------------------------


def test_calls_that_end_while_the_link_is_down_leave_nothing_behind() -> None:
    world = CallWorld()
    world.machine.start(world.now)
    for index in range(20_000):
        world.call(f"{index}", turn=False)
        world.machine.cancel(f"{index}", 0)
    calling = world.machine.calling
    assert not calling.flights and len(calling.unsent) < 2000 and len(calling._due) < 2000
    assert not any(len(flight.parcel.body) for flight in calling.unsent)


def test_a_stop_waits_for_the_outcomes_of_calls() -> None:
    world = up()
    world.call("a")
    world.machine.stop(world.now)
    assert world.turn().of(wire.Bye) == []
    world.reply((1, 1, Status.OK))
    assert len(world.of(wire.Bye)) == 1
