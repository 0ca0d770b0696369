"""The client's machine, against hand-written answers of a node: links, heartbeats, asks, stop."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from zmqkit import framing, wire
from zmqkit.machines import events as ev
from zmqkit.machines.consumer import windows_fit
from zmqkit.machines.link import ClientMachine
from zmqkit.machines.output import Dropped
from zmqkit.machines.phases import Phase
from zmqkit.parcel import Parcel

NODE, OTHER = b"N" * 16, b"O" * 16


def welcome(node: bytes = NODE, epoch: int = 3, version: int = 1, **limits: Any) -> wire.Welcome:
    return wire.Welcome(version, node, epoch, 1.0, 3.0, limits)


class World:
    """A machine and what came out of it, by kind."""

    def __init__(self, jitter: float = 0.5) -> None:
        self.machine = ClientMachine(b"C" * 16, lambda: jitter)
        self.now = 100.0
        self.connects: list[int] = []
        self.said: list[Any] = []
        self.events: list[Any] = []
        self.closed = False

    def turn(self) -> World:
        out = self.machine.take()
        if out.connect is not None:
            self.connects.append(out.connect)
        self.said, self.events, self.closed = out.sends, out.events, self.closed or out.close
        return self

    def up(self, **given: Any) -> World:
        if self.machine.phase is Phase.IDLE:
            self.machine.start(self.now)
            self.turn()
        return self.hear(welcome(**given))

    def hear(self, *commands: Any) -> World:
        for command in commands:
            self.machine.hear(command, self.now)
        return self.turn()

    def echo(self, revoked: list[int] | None = None) -> World:
        return self.hear(wire.Echo(self.machine.beats.number, False, revoked or []))

    def wait(self, seconds: float) -> World:
        """Time passes in steps of a beat at most, as the driver's deadline would have it."""
        while seconds > 0:
            step = min(seconds, 0.5)
            self.now, seconds = self.now + step, seconds - step
            self.machine.tick(self.now)
        return self.turn()

    def of(self, kind: type) -> list[Any]:
        return [value for value in [*self.said, *self.events] if isinstance(value, kind)]


def lease(token: int, count: int = 1, beat: int = 1, **given: Any) -> wire.Lease:
    fields = {"queue": "q", "qseq": 1, "attempt": 1, "lease": 30.0, "grace": 2.0, **given}
    return wire.Lease(fields["queue"], token, fields["qseq"], count, fields["attempt"], fields["lease"], fields["grace"], beat,
                      None, Parcel.of([b"\x01"] * count))  # fmt: skip


def test_hello_is_the_first_and_only_word_before_welcome() -> None:
    world = World()
    world.machine.start(world.now)
    world.machine.asks.add("list", {}, "ticket")
    assert world.turn().said == [wire.Hello([1], b"C" * 16, 1, b"", 0)]
    assert world.connects == [1]
    assert world.wait(1.0).said == []


def test_what_comes_before_welcome_is_not_applied() -> None:
    world = World()
    world.machine.start(world.now)
    world.turn()
    world.machine.consumers.of("q").fixed = 1
    world.hear(lease(1))
    assert not world.machine.holdings.leases and world.of(Dropped)


def test_after_welcome_ready_comes_first_then_words_then_asks_then_puts() -> None:
    world = World().up()
    world.echo()
    world.machine.consumers.of("q").fixed = 5
    world.hear(lease(7))
    world.machine.done(world.machine.holdings.leases[7], 0, 1)
    world.machine.asks.add("info", {"queue": "q"}, "ticket")
    world.machine.put("q", Parcel.of([b"\x01"]), "put")
    world.turn()
    world.machine.lost(world.now, "cut")
    world.turn()
    world.hear(welcome())
    assert [type(word) for word in world.said] == [wire.Ready, wire.Done, wire.Ask, wire.Put]


def test_the_first_retry_is_at_once_then_the_wait_doubles_to_a_second() -> None:
    world = World().up()
    world.echo()
    waits = []
    for _ in range(7):
        world.machine.lost(world.now, "refused")
        world.turn()
        waits.append(0.0 if world.machine.phase is Phase.GREETING else round(world.machine.deadline - world.now, 3))
        if waits[-1]:
            world.now = world.machine.deadline
            world.machine.tick(world.now)
            world.turn()
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 0.05), (1.0, 0.15)])
def test_waits_are_spread_by_half(jitter: float, wait: float) -> None:
    world = World(jitter)
    world.machine.start(world.now)
    world.machine.lost(world.now, "refused")
    world.machine.lost(world.now, "refused")
    world.turn()
    assert world.machine.deadline - world.now == pytest.approx(wait)


def test_only_an_echo_makes_the_next_retry_immediate_again() -> None:
    world = World().up()
    world.machine.lost(world.now, "cut")
    world.turn()
    world.up()  # WELCOME, but no echo
    world.machine.lost(world.now, "cut")
    assert world.machine.phase is Phase.WAITING


def test_no_welcome_within_two_seconds_is_another_try() -> None:
    world = World()
    world.machine.start(world.now)
    world.turn()
    world.wait(1.9)
    assert world.connects == [1]
    world.wait(0.2)
    assert world.connects == [1, 2] and world.of(ev.Down)


def test_link_numbers_rise() -> None:
    world = World().up()
    world.machine.lost(world.now, "cut")
    world.turn()
    assert world.connects == [1, 2]
    assert world.of(wire.Hello)[0] == wire.Hello([1], b"C" * 16, 2, NODE, 3)


def test_no_echo_for_the_patience_is_doubt() -> None:
    world = World().up()
    world.wait(2.9)
    assert world.machine.up
    world.wait(0.2)
    assert not world.machine.up and "heartbeat" in world.of(ev.Down)[0].reason


def test_a_pause_of_our_own_is_not_the_nodes_silence() -> None:
    world = World().up()
    world.now += 60.0  # this process was stopped
    world.machine.tick(world.now)
    assert world.machine.up


def test_a_repeated_echo_proves_nothing() -> None:
    world = World().up()
    world.echo()
    proven = world.machine.beats.proven
    for _ in range(8):  # the node repeats the echo of the first beat; our later READYs do not arrive
        world.wait(0.5)
        world.hear(wire.Echo(1, False, []))
    assert world.machine.beats.proven == proven
    world.wait(2.0)
    assert not world.machine.up


def test_an_idle_client_beats_every_two_and_a_half_seconds_and_a_busy_one_each_second() -> None:
    world = World().up()
    world.echo()
    assert world.machine.deadline == pytest.approx(world.now + 2.5)
    world.machine.asks.add("list", {}, "ticket")
    assert world.machine.deadline == pytest.approx(world.now + 1.0)


def test_a_link_the_node_does_not_know_is_given_up() -> None:
    world = World().up()
    world.hear(wire.NoSession())
    assert world.connects == [1, 2]


def test_an_old_copy_of_the_node_is_not_ours() -> None:
    world = World().up(epoch=3)
    world.echo()
    world.machine.lost(world.now, "cut")
    world.turn()
    world.hear(welcome(epoch=2))
    assert not world.machine.up and "old copy" in world.of(ev.Down)[0].reason
    world.wait(1.0)
    world.hear(welcome(epoch=4))
    assert world.machine.up


def test_another_version_is_not_ours() -> None:
    world = World()
    world.machine.start(world.now)
    world.turn()
    world.hear(welcome(version=9))
    assert not world.machine.up and "version 9" in world.of(ev.Down)[0].reason


def test_another_node_ends_every_lease_and_leaves_acks_in_doubt() -> None:
    world = World().up()
    world.machine.consumers.of("q").fixed = 5
    world.hear(lease(7), lease(8, 3))
    seven, eight = world.machine.holdings.leases[7], world.machine.holdings.leases[8]
    world.machine.done(eight, 0, 2)
    world.turn()
    world.machine.lost(world.now, "cut")
    world.turn()
    world.hear(welcome(node=OTHER, epoch=1))
    assert [event.lease for event in world.of(ev.Revoked)] == [seven, eight]
    assert world.of(ev.Judged) == [ev.Judged(eight, 0, 2, wire.Verdict.SETTLED)]
    assert world.of(wire.Ready)[0].held == [] and world.of(wire.Ready)[0].seen == 0
    assert seven.starts_until == -inf


def test_asks_are_repeated_on_a_new_link_until_told_once() -> None:
    world = World().up()
    world.machine.asks.add("info", {"queue": "q"}, "one")
    world.machine.asks.add("list", {}, "two")
    assert [ask.number for ask in world.turn().of(wire.Ask)] == [1, 2]
    world.hear(wire.Told(1, {"name": "q"}))
    assert world.of(ev.Replied) == [ev.Replied("one", {"name": "q"})]
    world.machine.lost(world.now, "cut")
    world.turn()
    world.hear(welcome())
    assert world.of(wire.Ask) == [wire.Ask(2, 2, "list", {})]
    assert world.hear(wire.Told(1, {})).events == []


def test_a_forgotten_ask_is_answered_to_nobody() -> None:
    world = World().up()
    world.machine.asks.add("list", {}, "ticket")
    world.turn()
    world.machine.asks.forget("ticket")
    assert not world.hear(wire.Told(1, {})).of(ev.Replied)


def test_stop_waits_for_what_runs_and_for_answers_and_then_says_bye() -> None:
    world = World().up()
    world.machine.consumers.of("q").fixed = 5
    world.hear(lease(7))
    world.machine.put("q", Parcel.of([b"\x01"]), "put")
    world.turn()
    world.machine.stop(world.now)
    assert world.turn().of(wire.Ready)[0].windows == [wire.Window("q", 0, 0.0)]
    world.machine.done(world.machine.holdings.leases[7], 0, 1)
    assert not world.turn().of(wire.Bye)
    world.hear(wire.Answer([(7, 0, 1, 0)]))
    assert not world.of(wire.Bye)
    world.hear(wire.Confirm("q", 1, 1, 1, "disk"))
    assert world.of(wire.Bye)
    world.hear(wire.Bye())
    assert world.closed and world.of(ev.Left)


def test_a_lease_that_crosses_the_stop_goes_back_and_one_that_crosses_the_bye_is_ignored() -> None:
    world = World().up()
    world.machine.consumers.of("q").fixed = 5
    world.hear(lease(7))
    world.machine.stop(world.now)
    world.hear(lease(8))
    assert world.of(wire.Back) == [wire.Back(8, 0, 1, wire.BackKind.UNSTARTED, -1.0, "")] and not world.of(ev.Granted)
    world.machine.leave(world.now)
    assert world.turn().of(wire.Bye)
    assert world.hear(lease(9)).events == [] and 9 not in world.machine.holdings.leases


def test_a_goodbye_without_answer_ends_by_itself() -> None:
    world = World().up()
    world.machine.stop(world.now)
    assert world.turn().of(wire.Bye)
    world.wait(2.1)
    assert world.closed


def test_what_is_no_command_is_counted_and_dropped() -> None:
    world = World().up()
    world.machine.receive([b"rubbish"], world.now)
    assert world.turn().of(Dropped)[0].reason == "malformed" and world.machine.up


def test_all_queues_that_fit_one_link_fit_one_heartbeat() -> None:
    queues: list[str] = []
    while windows_fit([*queues, f"queue-{len(queues)}"]):
        queues.append(f"queue-{len(queues)}")
    ready = wire.Ready(1, 0, [wire.Window(name, 2**32 - 1, 30.0) for name in queues], 0, [])
    assert len(queues) > 200 and len(framing.encode(ready)[0]) < wire.HEADER_BYTES_MAX
