"""The client's machine as a caller, against hand-written answers of a node: one outcome for each call, exactly once."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from test_client_link import OTHER, World

from zmqkit import wire
from zmqkit.machines import events as ev
from zmqkit.machines.calling import CUT_SECONDS, VERDICT_SECONDS
from zmqkit.machines.events import Outcome
from zmqkit.machines.phases import Phase
from zmqkit.parcel import Parcel
from zmqkit.wire import Code, Status


class CallWorld(World):
    """Tickets are texts; the outcomes are (ticket, offset, count, status or outcome), in order."""

    def __init__(self) -> None:
        super().__init__()
        self.serial = 0
        self.all: list[Any] = []

    def turn(self) -> World:
        super().turn()
        self.all += self.events
        return self

    def call(self, ticket: str, count: int = 1, seconds: float = 10.0, *, turn: bool = True, size: int = 1, **given: Any) -> None:
        parcel = Parcel.of([b"x" * size] * count)
        self.machine.call("s", parcel, ticket, self.now + seconds, **{"attempts": 4, **given})
        if turn:
            self.turn()

    def reply(self, *ranges: tuple[int, int, Status], serial: int | None = None) -> None:
        """Ranges of (number, count, status); each body is its number."""
        self.serial = self.serial + 1 if serial is None else serial
        bodies = [b"%d" % (number + i) for number, count, _ in ranges for i in range(count)]
        entries = [(number, 0, count, int(status)) for number, count, status in ranges]
        self.hear(wire.Reply(self.serial, entries, len(bodies), Parcel.of(bodies)))

    def refuse(self, first: int, code: Code, count: int = 1) -> None:
        self.hear(wire.Refused(wire.Kind.CALL, "s", first, count, code, 0.1, "no"))

    def relink(self, **given: Any) -> None:
        """The link is lost (if it is not yet), and the node answers the next one."""
        self.machine.lost(self.now, "cut")
        self.turn()
        while self.machine.phase is Phase.WAITING:
            self.wait(0.1)
        self.up(**given)

    def echoing(self, seconds: float) -> None:
        """Time passes, and the node answers every heartbeat."""
        while seconds > 0:
            step = min(seconds, 0.5)
            self.wait(step)
            self.echo()
            seconds -= step

    @property
    def outcomes(self) -> list[tuple[str, int, int, Any]]:
        kinds = {ev.Answered: lambda e: e.status, ev.Failed: lambda e: e.outcome}
        found = [(e.ticket, e.offset, e.count, kinds[type(e)](e)) for e in self.all if type(e) in kinds]
        self.all = [e for e in self.all if type(e) not in kinds]
        return found


def up() -> CallWorld:
    world = CallWorld()
    world.up()
    world.echo()
    return world


# -- one outcome -----------------------------------------------------------------------------------------------------------


def test_a_call_says_what_it_wants_and_its_answer_ends_it() -> None:
    world = up()
    world.call("a", 2, 5.0)
    (call,) = world.of(wire.Call)
    assert call == wire.Call("s", 1, 2, 5.0, 4, 0, "", 0, 0, Parcel.of([b"x", b"x"]))
    world.reply((1, 2, Status.OK))
    (answered,) = world.of(ev.Answered)
    assert [bytes(body) for body in answered.parcel.messages()] == [b"1", b"2"]
    assert world.outcomes == [("a", 0, 2, Status.OK)]
    world.wait(20.0)
    assert world.outcomes == [] and not world.machine.calling.flights and world.machine.settled


def test_numbers_go_on_over_all_calls_and_one_reply_may_end_calls_of_several() -> None:
    world = up()
    world.call("a", 2)
    world.call("b", 3)
    world.call("c")
    assert [call.first for call in world.of(wire.Call)] == [6]
    world.reply((2, 2, Status.OK), (5, 2, Status.ERROR))
    assert world.outcomes == [("a", 1, 1, Status.OK), ("b", 0, 1, Status.OK), ("b", 2, 1, Status.ERROR), ("c", 0, 1, Status.ERROR)]
    world.reply((1, 5, Status.OK))
    assert world.outcomes == [("a", 0, 1, Status.OK), ("b", 1, 1, Status.OK)]


@pytest.mark.parametrize("status", [Status.NO_WORKER, Status.UNDISPATCHED, Status.MAYBE_EXECUTED])
def test_the_nodes_own_verdicts_are_failures_with_its_words(status: Status) -> None:
    world = up()
    world.call("a")
    world.reply((1, 1, status))
    (failed,) = world.of(ev.Failed)
    assert failed == ev.Failed("a", 0, 1, Outcome[status.name], "1", 0.0)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (Code.QUOTA, Outcome.QUOTA), (Code.STOPPING, Outcome.STOPPING), (Code.MAYBE_EXECUTED, Outcome.MAYBE_EXECUTED),
        (Code.FORBIDDEN, Outcome.FORBIDDEN), (Code.MALFORMED, Outcome.MALFORMED),
    ],
)  # fmt: skip
def test_a_refusal_ends_what_it_names_and_says_when_to_try_again(code: Code, outcome: Outcome) -> None:
    world = up()
    world.call("a", 3)
    world.refuse(2, code)
    assert world.of(ev.Failed) == [ev.Failed("a", 1, 1, outcome, "no", 0.1)]
    world.reply((1, 3, Status.OK))
    assert [outcome for outcome in world.outcomes if outcome[3] is Status.OK] == [("a", 0, 1, Status.OK), ("a", 2, 1, Status.OK)]


# -- deadlines ---------------------------------------------------------------------------------------------------------------


def test_a_call_without_an_answer_ends_a_moment_after_its_deadline_and_the_node_is_told() -> None:
    world = up()
    world.call("a", 2, 5.0)
    world.reply((1, 1, Status.OK))
    assert world.outcomes == [("a", 0, 1, Status.OK)]
    world.echoing(5.0)
    assert world.outcomes == []  # the node may have a better word on its way
    world.now += VERDICT_SECONDS
    world.machine.tick(world.now)
    world.turn()
    assert world.outcomes == [("a", 1, 1, Outcome.MAYBE_EXECUTED)]
    assert world.of(wire.Cancel) == [wire.Cancel(1, 0, 2)]
    world.reply((2, 1, Status.OK))
    assert world.outcomes == []


def test_the_nodes_verdict_just_after_the_deadline_counts() -> None:
    world = up()
    world.call("a", seconds=1.0)
    world.echoing(1.0)
    world.reply((1, 1, Status.UNDISPATCHED))
    world.echoing(5.0)
    assert world.outcomes == [("a", 0, 1, Outcome.UNDISPATCHED)]


def test_the_machine_asks_to_be_called_at_the_deadline_of_the_next_call() -> None:
    world = up()
    world.call("late", seconds=0.9)
    world.call("soon", seconds=0.3)
    assert world.machine.deadline == pytest.approx(world.now + 0.3)
    world.reply((2, 1, Status.OK))
    assert world.machine.deadline == pytest.approx(world.now + 0.9)


def test_a_call_for_which_no_link_came_up_was_not_sent() -> None:
    world = CallWorld()
    world.machine.start(world.now)
    world.turn()
    world.call("a", 2, 1.0)
    world.wait(1.0)
    assert world.outcomes == [("a", 0, 2, Outcome.NOT_SENT)] and not world.machine.calling.flights
    world.up()
    assert world.of(wire.Call) == []


def test_what_was_sent_and_whose_link_is_down_at_its_deadline_ends_then() -> None:
    world = up()
    world.call("a", seconds=1.0)
    world.machine.lost(world.now, "cut")
    world.turn()
    world.wait(1.0)
    assert world.outcomes == [("a", 0, 1, Outcome.MAYBE_EXECUTED)]


def test_a_call_without_a_deadline_waits_for_ever() -> None:
    world = up()
    world.machine.call("s", Parcel.of([b"x"]), "a", inf, 4)
    (call,) = world.turn().of(wire.Call)
    assert call.seconds == 1e10
    world.echoing(1000.0)
    assert world.outcomes == []


# -- links ---------------------------------------------------------------------------------------------------------------------


def test_a_new_link_says_again_what_is_open_and_nothing_else() -> None:
    world = up()
    world.call("a", 4)
    world.call("b")
    world.reply((2, 1, Status.OK), (5, 1, Status.OK))
    world.machine.cancel("a", 3)
    world.turn()
    world.relink()
    calls = world.of(wire.Call)
    assert [(call.first, call.count, call.epoch, call.replied) for call in calls] == [(1, 1, 3, 1), (3, 1, 3, 1)]
    assert [type(word) for word in world.said] == [wire.Ready, wire.Call, wire.Call, wire.Cancel]


def test_a_ready_says_which_replies_have_come() -> None:
    world = up()
    world.call("a", 2)
    world.reply((1, 1, Status.OK))
    world.wait(1.0)
    assert [ready.replied for ready in world.of(wire.Ready)] == [1]
    world.relink()
    assert [ready.replied for ready in world.of(wire.Ready)] == [1]
    world.relink(epoch=4)
    assert [ready.replied for ready in world.of(wire.Ready)] == [0]  # another count


def test_a_reply_that_comes_twice_or_out_of_order_changes_nothing() -> None:
    world = up()
    world.call("a", 3)
    world.reply((1, 1, Status.OK))
    world.reply((2, 1, Status.OK), serial=3)
    world.reply((3, 1, Status.OK), serial=1)
    assert world.outcomes == [("a", 0, 1, Status.OK)]
    world.reply((2, 1, Status.ERROR), serial=2)
    assert world.outcomes == [("a", 1, 1, Status.ERROR)]


def test_after_a_restart_what_was_sent_without_a_key_may_have_been_executed_and_with_one_is_made_again() -> None:
    world = up()
    world.call("plain")
    world.call("keyed", key="k")
    world.relink(epoch=4)
    assert world.outcomes == [("plain", 0, 1, Outcome.MAYBE_EXECUTED)]
    assert [(call.first, call.key, call.epoch) for call in world.of(wire.Call)] == [(2, "k", 0)]
    world.reply((2, 1, Status.OK))
    assert world.outcomes == [("keyed", 0, 1, Status.OK)]


def test_another_node_is_like_a_restart_whatever_its_epoch() -> None:
    world = up()
    world.call("plain")
    world.relink(node=OTHER, epoch=3)
    assert world.outcomes == [("plain", 0, 1, Outcome.MAYBE_EXECUTED)] and world.of(wire.Call) == []


def test_what_was_never_sent_is_not_touched_by_a_restart() -> None:
    world = up()
    world.machine.lost(world.now, "cut")
    world.turn()
    world.call("a")
    world.up(epoch=4)
    assert [(call.first, call.epoch) for call in world.of(wire.Call)] == [(1, 0)] and world.outcomes == []


@pytest.mark.parametrize("end", ["deadline", "refused", "no worker", "flee"])
def test_a_key_that_an_earlier_epoch_knew_is_never_said_to_be_unexecuted(end: str) -> None:
    """Its first execution may have died with the node."""
    world = up()
    world.call("keyed", key="k", seconds=2.0)
    world.relink(epoch=4)
    if end == "refused":
        world.refuse(1, Code.STOPPING)
    elif end == "no worker":
        world.reply((1, 1, Status.NO_WORKER))
    elif end == "flee":
        world.machine.lost(world.now, "cut")
        world.machine.flee()
        world.turn()
    else:
        world.machine.calling.flights[1].epoch = 0  # as if the window were full: not said again yet
        world.echoing(3.0)
    assert world.outcomes == [("keyed", 0, 1, Outcome.MAYBE_EXECUTED)]


def test_after_too_long_a_cut_what_was_sent_is_given_up_for_the_node_may_have_forgotten_it() -> None:
    world = up()
    world.call("a", seconds=5000.0)
    world.machine.lost(world.now, "cut")
    world.turn()
    world.wait(CUT_SECONDS + 1.0)
    world.relink()
    assert world.outcomes == [("a", 0, 1, Outcome.MAYBE_EXECUTED)] and world.of(wire.Call) == []


def test_a_cut_counts_from_the_newest_beat_that_came_back_for_we_may_have_slept() -> None:
    world = up()
    world.call("a", seconds=5000.0)
    world.now += CUT_SECONDS + 1.0  # stopped, and nobody told us that the link was gone
    world.relink()
    assert world.outcomes == [("a", 0, 1, Outcome.MAYBE_EXECUTED)] and world.of(wire.Call) == []


def test_links_that_never_last_until_an_echo_are_no_cut() -> None:
    world = CallWorld()
    world.up()
    world.call("a", seconds=5000.0)
    for _ in range(10):
        world.wait(CUT_SECONDS / 9)
        world.relink()
    assert world.outcomes == [] and len(world.of(wire.Call)) == 1
