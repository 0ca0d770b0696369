"""What a consumer holds, when it may start it, what it says, and how its window follows its work."""

from __future__ import annotations

from math import inf

import pytest
from test_client_link import World, lease, welcome

from zmqkit import wire
from zmqkit.machines import events as ev
from zmqkit.machines.consumer import ConsumerState
from zmqkit.wire import BackKind, Held, Verdict, Window


def consumer(credit: int = 10) -> World:
    """Connected, one echo heard, a window of `credit` into q."""
    world = World().up()
    world.echo()
    world.machine.consumers.of("q").fixed = credit
    return world.turn()


# -- READY ----------------------------------------------------------------------------------------------------------------


def test_a_window_is_said_at_once_when_it_changes_and_with_every_beat() -> None:
    world = consumer(10)
    assert world.of(wire.Ready)[0].windows == [Window("q", 10, 0.0)]
    world.echo()
    assert world.wait(2.5).of(wire.Ready)[0].windows == [Window("q", 10, 0.0)]


def test_a_window_that_closes_is_said_once_more_as_nothing() -> None:
    world = consumer(10)
    world.machine.consumers.of("q").fixed = 0
    assert world.turn().of(wire.Ready)[0].windows == [Window("q", 0, 0.0)]
    world.echo()
    assert world.wait(2.5).of(wire.Ready)[0].windows == []


def test_what_a_settled_message_makes_room_for_comes_before_the_echo_that_says_what_there_is() -> None:
    world = consumer(1)
    world.hear(lease(7))
    world.machine.done(world.machine.holdings.leases[7], 0, 1)
    world.machine.hurry()
    assert [type(word) for word in world.turn().said] == [wire.Done, wire.Ready]
    assert world.echo().of(ev.Echoed)[0].behind


def test_a_window_that_shrinks_is_said_before_the_word_that_makes_room_in_it() -> None:
    world = consumer(1)
    world.hear(lease(7))
    world.machine.done(world.machine.holdings.leases[7], 0, 1)
    world.machine.consumers.of("q").fixed = 0
    world.machine.hurry()
    assert [type(word) for word in world.turn().said] == [wire.Ready, wire.Done, wire.Ready]
    world.hear(wire.Echo(world.machine.beats.number - 1, False, []))
    assert not world.of(ev.Echoed)[0].behind


def test_ready_lists_what_is_in_hand_and_what_is_settled_without_an_answer() -> None:
    world = consumer()
    world.hear(lease(7, 3), lease(8, 2), lease(9))
    held = world.machine.holdings.leases
    world.machine.done(held[7], 0, 1)
    world.machine.done(held[8], 0, 2)
    world.turn()
    ready = world.wait(1.0).of(wire.Ready)[0]
    assert ready.seen == 9 and ready.held == [Held(7, 2, 0.0), Held(9, 1, 0.0), Held(8, 0, 0.0)]
    world.hear(wire.Answer([(8, 0, 2, 0)]))
    world.echo()
    assert [entry.token for entry in world.wait(1.0).of(wire.Ready)[0].held] == [7, 9]


def test_ready_lists_at_most_512_tokens_first_those_in_hand_then_those_settled_last() -> None:
    world = consumer(2000)
    world.hear(*[lease(token) for token in range(1, 513)])
    for token in [*range(101, 201), *range(1, 101)]:
        world.machine.done(world.machine.holdings.leases[token], 0, 1)
    world.turn()
    world.hear(*[lease(token) for token in range(513, 663)])
    world.machine.hurry()
    held = [entry.token for entry in world.turn().of(wire.Ready)[0].held]
    assert len(held) == 512 and held[:462] == list(range(201, 663)) and held[462:] == list(range(100, 50, -1))


def test_seen_is_the_highest_token_over_all_links() -> None:
    world = consumer()
    world.hear(lease(9), lease(7))
    for token in (9, 7):
        world.machine.done(world.machine.holdings.leases[token], 0, 1)
    world.turn()
    world.hear(wire.Answer([(9, 0, 1, 0), (7, 0, 1, 0)]))
    world.machine.lost(world.now, "cut")
    world.turn()
    assert world.hear(welcome()).of(wire.Ready)[0].seen == 9


# -- the gate -------------------------------------------------------------------------------------------------------------


def test_a_message_starts_only_within_the_grace_of_the_newest_echoed_beat() -> None:
    world = consumer()
    world.echo()
    sent = world.now
    world.hear(lease(7, beat=2, grace=2.0))
    assert world.of(ev.Granted)[0].lease.starts_until == pytest.approx(sent + 1.9)


def test_a_message_starts_only_within_the_lease_of_the_beat_that_began_it() -> None:
    world = consumer()
    world.echo()
    sent = world.now
    world.hear(lease(7, beat=2, grace=3600.0, lease=10.0))
    held = world.of(ev.Granted)[0].lease
    assert held.starts_until == pytest.approx(sent + 9.5)
    world.wait(1.0)
    sent = world.now
    world.wait(0.2)
    world.echo()
    assert held.starts_until == pytest.approx(sent + 9.5)  # by its sending, not by its echo


def test_an_echo_renews_only_what_its_ready_listed() -> None:
    world = consumer()
    world.machine.hurry()
    world.turn()
    sent = world.machine.beats.sent_at
    world.wait(0.4)
    world.hear(lease(7, beat=2, grace=3600.0, lease=10.0))  # after that READY was sent
    world.echo()
    assert world.machine.holdings.leases[7].starts_until == pytest.approx(sent + 9.5)


def test_after_a_long_silence_a_lease_is_answered_by_ready_and_starts_when_that_is_echoed() -> None:
    world = consumer()
    world.echo()
    world.wait(1.4)
    world.hear(lease(7, beat=2))
    held = world.of(ev.Granted)[0].lease
    assert held.starts_until == -inf and world.of(wire.Ready)[0].held == [Held(7, 1, 0.0)]
    world.echo()
    assert held.starts_until == pytest.approx(world.now + 1.9)


def test_a_lease_of_an_unknown_beat_starts_only_after_a_beat_that_lists_it() -> None:
    world = consumer()
    world.echo()
    world.hear(lease(7, beat=99))
    held = world.of(ev.Granted)[0].lease
    assert held.starts_until == -inf
    world.wait(1.0)
    world.echo()
    assert held.starts_until > world.now


def test_a_revoked_lease_starts_nothing_any_more() -> None:
    world = consumer()
    world.echo()
    world.hear(lease(7, 2))
    held = world.machine.holdings.leases[7]
    world.wait(1.0)
    world.echo(revoked=[7])
    assert held.starts_until == -inf and [event.lease for event in world.of(ev.Revoked)] == [held]
    assert world.wait(1.0).of(wire.Ready)[0].held == [Held(7, 2, 0.0)]  # it may still run: it takes up room
    world.machine.drop(held, 0, 2)
    world.echo()
    assert world.wait(2.5).of(wire.Ready)[0].held == []


def test_a_client_with_512_tokens_takes_no_more() -> None:
    world = consumer(2000)
    world.hear(*[lease(token) for token in range(1, 513)])
    for token in range(1, 101):  # settled without an answer: these are not in hand
        world.machine.done(world.machine.holdings.leases[token], 0, 1)
    world.hear(*[lease(token) for token in range(513, 614)])
    assert [word.token for word in world.of(wire.Back)] == [613]


def test_a_token_is_granted_once() -> None:
    world = consumer()
    world.hear(lease(7), lease(7))
    assert len(world.of(ev.Granted)) == 1 and world.machine.consumers.of("q").open == 1


# -- words ----------------------------------------------------------------------------------------------------------------


def test_done_names_only_what_was_open() -> None:
    world = consumer()
    world.hear(lease(7, 5))
    held = world.machine.holdings.leases[7]
    world.machine.done(held, 1, 1)
    world.machine.done(held, 0, 5)
    assert world.turn().of(wire.Done) == [wire.Done(False, [(7, 1, 1), (7, 0, 1), (7, 2, 3)])]
    world.machine.done(held, 0, 5)
    assert world.turn().of(wire.Done) == []


def test_unanswered_dones_are_sent_again_on_a_new_link_and_listed_there() -> None:
    world = consumer()
    world.hear(lease(7, 5))
    world.machine.done(world.machine.holdings.leases[7], 0, 3)
    world.turn()
    world.hear(wire.Answer([(7, 0, 1, 0)]))
    world.machine.lost(world.now, "cut")
    world.turn()
    world.hear(welcome())
    assert world.of(wire.Ready)[0].held == [Held(7, 2, 0.0)]
    assert world.of(wire.Done) == [wire.Done(False, [(7, 1, 2)])]


def test_a_verdict_other_than_ok_is_always_told() -> None:
    world = consumer()
    world.hear(lease(7, 3))
    held = world.machine.holdings.leases[7]
    world.machine.done(held, 0, 3)
    world.turn()
    world.hear(wire.Answer([(7, 0, 1, 0), (7, 1, 1, 1), (7, 2, 1, 2)]))
    assert world.events == [ev.Judged(held, 1, 1, Verdict.STALE), ev.Judged(held, 2, 1, Verdict.SETTLED)]


def test_ok_is_told_where_somebody_watches() -> None:
    world = consumer()
    world.hear(lease(7))
    held = world.machine.holdings.leases[7]
    held.watched = True
    world.machine.done(held, 0, 1, wait=True)
    assert world.turn().of(wire.Done)[0].wait
    assert world.hear(wire.Answer([(7, 0, 1, 0)])).events == [ev.Judged(held, 0, 1, Verdict.OK)]


def test_words_without_an_answer_are_repeated_until_a_later_beat_comes_back() -> None:
    world = consumer()
    world.hear(lease(7, 2))
    held = world.machine.holdings.leases[7]
    world.machine.holdings.save(held, 0, b"x")
    world.machine.back(held, 0, 1, BackKind.NACK, 2.0, "why")
    words = [wire.Save(7, 0, b"x"), wire.Back(7, 0, 1, BackKind.NACK, 2.0, "why")]
    assert world.turn().said == words
    world.echo()  # of the READY before them
    world.machine.lost(world.now, "cut")
    world.turn()
    assert world.hear(welcome()).said[1:] == words
    world.wait(1.0)
    world.echo()
    world.machine.lost(world.now, "cut")
    world.turn()
    assert world.hear(welcome()).said[1:] == []


def test_what_a_repeated_word_is_about_is_listed_before_it() -> None:
    world = consumer()
    world.hear(lease(7))
    world.machine.back(world.machine.holdings.leases[7], 0, 1, BackKind.REJECT, -1.0, "bad")
    world.turn()
    world.machine.lost(world.now, "cut")
    world.turn()
    world.hear(welcome())
    assert world.of(wire.Ready)[0].held == [Held(7, 0, 0.0)]
    assert world.wait(1.0).of(wire.Ready)[0].held == []


def test_extend_asks_for_a_longer_lease_at_once() -> None:
    world = consumer()
    world.hear(lease(7))
    world.machine.extend(world.machine.holdings.leases[7], 60.0)
    assert world.turn().of(wire.Ready)[0].held == [Held(7, 1, 60.0)]


def test_insist_asks_again_for_every_missing_answer_with_haste() -> None:
    world = consumer()
    world.hear(lease(7, 3))
    world.machine.done(world.machine.holdings.leases[7], 0, 3)
    world.turn()
    world.machine.holdings.insist()
    assert world.turn().of(wire.Done) == [wire.Done(True, [(7, 0, 3)])]


# -- windows --------------------------------------------------------------------------------------------------------------


class Work:
    """A ConsumerState with credit "auto", and the messages it would receive."""

    def __init__(self) -> None:
        self.state, self.now, self.handed = ConsumerState("q"), 0.0, 0
        self.state.autos = 1

    def receive(self, count: int) -> None:
        self.state.open += count
        self.state.granted(count)
        self.report()

    def take(self, count: int) -> None:
        self.handed += count
        self.report(self.state.buffered - count)

    def report(self, buffered: int | None = None) -> None:
        self.state.report(self.handed, self.state.buffered if buffered is None else buffered, self.now)

    def work(self, count: int, seconds: float) -> None:
        """Take and settle so many, one after the other."""
        self.take(count)
        self.now += count * seconds
        self.state.settled(count)
        self.report()

    def grow(self) -> list[int]:
        found = []
        for _ in range(14):
            self.state.echoed()
            found.append(self.state.ahead)
        return found


def test_auto_starts_with_one_message_beyond_what_was_taken() -> None:
    work = Work()
    work.report()
    assert work.state.window == 1
    work.receive(1)
    work.take(1)
    assert work.state.window == 2


def test_auto_doubles_per_echo_up_to_a_tenth_of_a_second_of_work() -> None:
    work = Work()
    work.receive(100)
    work.work(100, 0.001)
    assert work.state.ahead == 2 and work.grow()[:7] == [4, 8, 16, 32, 64, 100, 100]


def test_auto_grows_with_the_work_and_not_with_the_heartbeat() -> None:
    work = Work()
    work.state.stated = 1
    work.receive(10)
    work.work(10, 0.0001)
    assert work.state.ahead == 2 and work.state.must_restate(clocked=True)  # no beat was due
    work.receive(10)
    work.work(10, 0.0001)
    assert work.state.ahead == 2  # once per echo


def test_auto_measures_work_and_not_waiting() -> None:
    work = Work()
    for _ in range(50):
        work.receive(1)
        work.work(1, 0.001)
        work.now += 0.3  # nothing there
        work.report()
    assert work.grow()[-1] == pytest.approx(100, rel=0.1)


def test_auto_shrinks_when_work_becomes_slower() -> None:
    work = Work()
    work.receive(1000)
    work.work(900, 0.0001)
    assert work.grow()[-1] > 900
    work.receive(1000)
    for _ in range(20):
        work.work(10, 0.01)
    assert work.grow()[-1] < 30


def test_nothing_waits_behind_handlers_that_have_all_run_over_a_second() -> None:
    work = Work()
    work.receive(3)
    work.take(1)
    assert work.state.excess == 0
    work.now += 1.01
    work.report()
    assert work.state.window == 1 and work.state.excess == 2 and work.state.must_restate(clocked=False)
    work.state.settled(1)
    work.report()
    assert work.state.window == 1  # one ahead again


def test_what_auto_wants_more_is_said_once_per_echo() -> None:
    work = Work()
    work.report()
    work.state.stated = 1
    work.receive(1)
    work.take(1)
    assert work.state.must_restate(clocked=True) and not work.state.must_restate(clocked=False)


def test_small_changes_of_a_large_automatic_window_wait_for_the_next_beat() -> None:
    work = Work()
    work.state.ahead = work.state.stated = 1000
    work.receive(100)
    work.take(100)
    assert not work.state.must_restate(clocked=True)


def test_a_get_adds_what_it_waits_for_and_what_it_took() -> None:
    state = ConsumerState("q")
    state.fixed, state.waiting = 10, 1
    assert state.window == 11
    state.waiting, state.got = 0, 1
    assert state.window == 11


def test_messages_nobody_waits_for_any_more_are_excess() -> None:
    state = ConsumerState("q")
    state.waiting = 1
    state.open += 1
    state.granted(1)
    state.report(0, 1, 0.0)
    assert state.excess == 0
    state.waiting = 0
    assert state.excess == 1
