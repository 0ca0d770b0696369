"""A producer's stream: dense numbers, base, resending, refusals."""

from __future__ import annotations

import pytest

from zmqkit.machines.events import Postponed, Rejected, Stored
from zmqkit.machines.producer import WINDOW_BATCHES, ProducerStream
from zmqkit.parcel import Parcel
from zmqkit.wire import Code, Confirm, Kind, Refused


def stream(*counts: int) -> ProducerStream:
    """A stream with batches of so many messages offered; the ticket of each is its place."""
    made = ProducerStream("q")
    for place, count in enumerate(counts):
        made.offer(Parcel.of([b"\x01"] * count), place)
    return made


def puts(made: ProducerStream, now: float = 0.0) -> list[tuple[int, int, int]]:
    return [(put.first, put.count, put.base) for put in made.sends(now)]


def refused(first: int, code: Code = Code.FULL, text: str = "full", after: float = 0.5) -> Refused:
    return Refused(Kind.PUT, "q", first, 1, code, after, text)


def test_numbers_are_dense_and_counted_in_messages() -> None:
    assert puts(stream(3, 1, 2)) == [(1, 3, 1), (4, 1, 1), (5, 2, 1)]


def test_base_is_the_lowest_number_without_an_answer() -> None:
    made = stream(3, 1)
    puts(made)
    assert made.confirmed(Confirm("q", 1, 3, 10, "disk")) == [Stored(0, 10, "disk")]
    made.offer(Parcel.of([b"\x01"]), 2)
    assert puts(made) == [(5, 1, 4)]


def test_one_confirm_may_cover_several_batches() -> None:
    made = stream(3, 1, 2)
    puts(made)
    assert made.confirmed(Confirm("q", 1, 4, 10, "os")) == [Stored(0, 10, "os"), Stored(1, 13, "os")]
    assert made.base == 5


def test_a_confirm_of_something_else_confirms_nothing() -> None:
    made = stream(3)
    puts(made)
    assert made.confirmed(Confirm("q", 4, 1, 10, "disk")) == [] and made.base == 1


def test_a_new_link_resends_from_base_in_order_the_first_alone_until_answered() -> None:
    made = stream(3, 1, 2)
    puts(made)
    made.confirmed(Confirm("q", 1, 3, 10, "disk"))
    made.resume()
    assert puts(made) == [(4, 1, 4)]
    assert puts(made) == []
    assert not made.has_room(full=True)
    made.confirmed(Confirm("q", 4, 1, 13, "disk"))
    assert puts(made) == [(5, 2, 5)]


def test_a_repeated_confirm_may_cover_what_was_not_resent_yet() -> None:
    made = stream(3, 1, 2)
    puts(made)
    made.resume()
    puts(made)
    assert made.confirmed(Confirm("q", 1, 6, 10, "disk")) == [Stored(0, 10, "disk"), Stored(1, 13, "disk"), Stored(2, 14, "disk")]
    assert puts(made) == [] and made.has_room(full=True)


def test_a_sent_batch_is_never_changed() -> None:
    made = stream(2)
    first = made.sends(0.0)[0]
    made.resume()
    assert made.sends(0.0)[0] == first


def test_a_refusal_fails_the_base_batch_and_what_was_behind_it_is_sent_again_above_it() -> None:
    made = stream(3, 1, 2)
    puts(made)
    assert made.refused(refused(1), 0.0) == Rejected(0, Code.FULL, 0.5, "full")
    assert puts(made) == [(4, 1, 4)]  # alone: the next may be refused as well
    made.confirmed(Confirm("q", 4, 1, 10, "disk"))
    assert puts(made) == [(5, 2, 5)]


def test_a_refusal_of_another_than_the_base_batch_says_nothing() -> None:
    made = stream(3, 1)
    puts(made)
    assert made.refused(refused(4), 0.0) is None and made.base == 1


@pytest.mark.parametrize("answer", [refused(1, Code.WAIT), refused(1, Code.STOPPING)])
def test_where_the_policy_is_to_wait_the_same_numbers_are_offered_again_after_retry_after(answer: Refused) -> None:
    made = stream(3, 1)
    puts(made)
    assert made.refused(answer, 10.0) == (Postponed("q") if answer.code is Code.STOPPING else None)
    assert puts(made, 10.4) == [] and made.waits_until == 10.5
    assert puts(made, 10.5) == [(1, 3, 1)]


def test_what_a_stopping_node_refused_may_be_taken_back_and_its_numbers_are_passed_over() -> None:
    made = stream(3, 1)
    puts(made)
    made.refused(refused(1, Code.STOPPING), 0.0)
    assert [(flight.ticket, flight.count) for flight in made.take_back()] == [(0, 3), (1, 1)]
    assert made.take_back() == [] and puts(made, 10.0) == [] and made.has_room(full=False)
    made.offer(Parcel.of([b"\x01"]), 2)
    assert puts(made) == [(5, 1, 5)]


def test_what_is_in_doubt_is_not_taken_back() -> None:
    made = stream(3, 1)
    puts(made)
    assert made.take_back() == []
    made.refused(refused(1, Code.STOPPING), 0.0)
    puts(made, 10.0)  # the first again, alone
    made.resume()
    assert made.take_back() == []
    made.confirmed(Confirm("q", 1, 3, 10, "disk"))
    assert made.take_back() == [] and puts(made) == [(4, 1, 4)]
    made.confirmed(Confirm("q", 4, 1, 13, "disk"))
    made.offer(Parcel.of([b"\x01"]), 2)
    assert [flight.ticket for flight in made.take_back()] == [2]  # it never left


def test_a_partial_batch_leaves_only_while_fewer_than_two_are_under_way() -> None:
    made = stream(1)
    assert made.has_room(full=False)
    made.offer(Parcel.of([b"\x01"]), 1)
    assert not made.has_room(full=False) and made.has_room(full=True)


def test_the_window_is_64_batches_or_8_mebibytes() -> None:
    assert not stream(*[1] * WINDOW_BATCHES).has_room(full=True)
    made = ProducerStream("q")
    for _ in range(8):
        assert made.has_room(full=True)
        made.offer(Parcel.of([bytes(1024 * 1024)]), 0)
    assert not made.has_room(full=True)
