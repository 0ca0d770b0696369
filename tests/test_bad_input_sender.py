"""What the wire cannot carry is refused to the caller, in words, before anything is sent: else the node would refuse the same on every
link, for ever, or the I/O thread would end on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import zmqkit
from zmqkit.parcel import MESSAGE_HEADERS_BYTES_MAX


@pytest.fixture(params=["over TCP", "in the node's process"])
def mq(request: pytest.FixtureRequest) -> Iterator[Any]:
    node = zmqkit.Node("tcp://127.0.0.1:0")
    peer = zmqkit.connect(node.endpoint) if request.param == "over TCP" else node
    yield peer
    assert peer.queue("after").put(b"still served", timeout=1.0).seq == 1
    if peer is not node:
        peer.close()
    node.close()


BAD = [{"a": {1: 2}}, {"a": [0] * 5000}, {"a": {b"x": 1}}, {1: 2}, {"a": object()}, {"a": "\ud800"}, {"a": 2**64}]


@pytest.mark.parametrize("headers", BAD, ids=range(len(BAD)))
def test_headers_that_a_node_would_refuse_are_refused_here(mq: Any, headers: Any) -> None:
    with pytest.raises(zmqkit.Unencodable):
        mq.queue("q").put(b"x", headers=headers)


def test_headers_of_any_size_either_arrive_or_are_too_large(mq: Any) -> None:
    q = mq.queue("q")
    room = MESSAGE_HEADERS_BYTES_MAX - 20
    with pytest.raises(zmqkit.MessageTooLarge):
        q.put(b"x", headers={"a": "x" * 2 * room})
    futures = [q.put_soon(b"x", headers={"a": "x" * 60}) for _ in range(900)]
    futures += [q.put_soon(b"x", headers={"a": "x" * room}) for _ in range(5)]
    assert [future.result(5.0).seq for future in futures] == list(range(1, 906))


def test_a_reason_with_half_a_letter_and_of_any_length_is_told_as_far_as_it_goes(mq: Any) -> None:
    q = mq.queue("q")
    q.put(b"x")
    q.get().reject("\udcff" + "no " * 5000)
    mq.flush()
    (letter,) = q.dead.list()
    assert letter.reason.startswith("?no no") and len(letter.reason) <= 2000


def test_a_duration_of_ages_is_three_centuries(mq: Any) -> None:
    q = mq.queue("q")
    q.put(b"x")
    delivery = q.get()
    delivery.extend(1e300)
    delivery.snooze(1e300)
    mq.flush()
    assert q.info().delayed == 1


def test_dead_letters_can_be_named_in_any_number(mq: Any) -> None:
    q = mq.queue("q")
    q.put(b"x")
    q.get().reject("no")
    mq.flush()
    assert len(q.dead.list(seqs=range(1, 10_000))) == 1
    assert q.dead.redrive(range(1, 10_000)) == 1 and q.dead.drop(seqs=[]) == 0
