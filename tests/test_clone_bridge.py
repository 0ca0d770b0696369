"""The bridge of a Clone server between its doors and its topic: what waits is bounded, and what the topic refuses is counted."""

from __future__ import annotations

from typing import Any

import pytest
from clone_world import COLLECTOR, Update, ready, seq

from zmqkit import clone_bridge, codec
from zmqkit.clone_bridge import CloneBridge
from zmqkit.gateways import zmtp
from zmqkit.gateways.zmtp import GREETING
from zmqkit.machines import events as ev
from zmqkit.machines.following import Changes
from zmqkit.parcel import FULL_BYTES, PARCEL_MESSAGES_MAX, Parcel
from zmqkit.updates import UPDATES_BYTES_MAX, Updates


class Doors:
    def __init__(self) -> None:
        self.paused = False

    def pause(self, door: int, paused: bool) -> None:
        assert door == COLLECTOR
        self.paused = paused

    def unread(self, door: int, peer: bytes) -> int:
        return 0

    def deliver(self, door: int, peer: bytes, frames: Any) -> None:
        pass


class Bench:
    def __init__(self) -> None:
        self.bridge = CloneBridge("t", lambda: None, 0, 1)
        self.bridge.doors = self.doors = Doors()  # type: ignore[assignment]
        self.room = 0
        self.puts: list[tuple[Parcel, Any]] = []
        self.bridge.machine.has_room = lambda queue, full: self.room > len(self.puts)  # type: ignore[method-assign]
        self.bridge.machine.put = lambda queue, parcel, ticket: self.puts.append((parcel, ticket))  # type: ignore[method-assign]
        self.say(b"")
        self.say(GREETING + ready("PUSH"))

    def say(self, data: bytes) -> None:
        self.bridge.receive(COLLECTOR, b"p", [data], 1000.0)

    def set(self, key: bytes, value: bytes) -> None:
        self.say(zmtp.message([key, seq(0), b"", b"", value]))

    def pump(self) -> None:
        self.bridge.pump(1000.0)


def test_while_the_topic_takes_nothing_the_collector_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone_bridge, "WAITING_BYTES_MAX", 3_000)
    bench = Bench()
    bench.set(b"k", b"x" * 2_000)
    bench.pump()
    assert not bench.doors.paused
    bench.set(b"k", b"x" * 2_000)
    bench.pump()
    assert bench.doors.paused
    bench.room = 2
    bench.pump()
    assert bench.doors.paused and [parcel.count for parcel, _ in bench.puts] == [2], "what is under way counts until it is stored"
    bench.bridge.handle([ev.Stored(bench.puts[0][1], 1, "disk")], 1000.0)
    assert not bench.doors.paused and not bench.bridge.dropped


def test_what_the_topic_refuses_is_counted() -> None:
    bench = Bench()
    bench.room = 1
    bench.set(b"a", b"1")
    bench.set(b"b", b"2")
    bench.pump()
    bench.bridge.handle([ev.Rejected(bench.puts[0][1], 2, 1.0, "the node's disk is full")], 1000.0)
    assert bench.bridge.dropped == {"not-stored": 2} and not bench.bridge._flying


def test_what_clients_set_goes_into_the_topic_in_order_and_in_batches_that_fit() -> None:
    bench = Bench()
    values = [b"%d" % number for number in range(2 * PARCEL_MESSAGES_MAX)] + [b"x" * (UPDATES_BYTES_MAX - 100)] * 2 + [b"y" * FULL_BYTES]
    for value in values:
        bench.set(b"k", value)
    bench.set(b"k", b"x" * (UPDATES_BYTES_MAX - 10))
    bench.room = 1000
    bench.pump()
    found = [codec.unpack(held) for parcel, _ in bench.puts for held in Updates.read(parcel).values]  # type: ignore[arg-type]
    assert found == values and bench.bridge.dropped == {"value-too-large": 1}


def test_what_no_client_could_read_is_told_as_a_deletion_and_counted() -> None:
    bench = Bench()
    told: list[Update] = []
    bench.bridge._clone.update = lambda update, now: told.append(update)  # type: ignore[method-assign]
    bench.bridge._values.news = [Changes(["a", "b"], [b"\xc1", codec.packer()(b"v")], range(1, 3), 1, 0, True, False, True)]
    bench.bridge.handle([ev.News([bench.bridge._values])], 1000.0)
    assert told == [Update(b"a", 1, None), Update(b"b", 2, b"v")] and bench.bridge.dropped == {"undecodable-value": 1}
