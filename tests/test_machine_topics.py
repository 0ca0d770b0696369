"""Topics at a node, through the wire and over restarts: what is confirmed is there again, and the state is the fold of the log."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from node_bench import Bench, ManualLog, name

from zmqkit import records, wire
from zmqkit.machines import keeping, topics
from zmqkit.machines.topic import Topic
from zmqkit.machines.topics import Topics
from zmqkit.parcel import Parcel
from zmqkit.updates import Updates, message, unpacked

MARKED = wire.TOPIC_MARK + "t"
Pairs = Iterable[tuple[str, bytes | None]]


class TopicNode(Bench):
    numbers: dict[bytes, int]

    def publish(self, peer: bytes, first: int, *pairs: tuple[str, bytes | None], ttl: float | None = None, base: int = 0) -> None:
        parcel = Parcel.of([message(key, value, ttl if value is not None else None) for key, value in pairs])
        self.say(peer, wire.Put(MARKED, first, parcel.count, base or first, parcel))

    def sub(self, peer: bytes, number: int = 1, start: wire.Start = wire.Start.SNAPSHOT, **more: object) -> None:
        given = {"prefixes": [""], "fresh": [], "epoch": 0, "seq": 0, "time": 0.0, "name": "", "window": 1 << 20, **more}
        order = [given[field] for field in ("prefixes", "fresh")], [given[field] for field in ("epoch", "seq", "time", "name", "window")]
        self.say(peer, wire.Sub(number, "t", *order[0], start, *order[1]))  # type: ignore[arg-type]

    @property
    def topics(self) -> Topics:
        return self.machine.topics

    @property
    def topic(self) -> Topic:
        return self.topics.hosted[MARKED].topic

    def state(self) -> dict[str, bytes]:
        return {key: value if isinstance(value, bytes) else value[0] for key, value in self.topic.values.items()}

    def again(self, kept: int | None = None, snapshot: bool = False) -> TopicNode:
        """The node dies and comes back, from a checkpoint or from the whole log."""
        kept = self.log.durable if kept is None else kept
        log = ManualLog(self.log.items[:kept], self.log.epoch + 1, self.snapshot() if snapshot else (), kept if snapshot else 0)
        log.released = {position for position in self.log.released if position <= kept}
        return TopicNode(log, self.now + 0.1)


def fold(log: ManualLog) -> dict[str, bytes]:
    """What the records say, without the machine."""
    state: dict[str, bytes] = {}
    for record in log.records():
        if isinstance(record, records.Put):
            updates = Updates.read(record.parcel)
            for key, value in zip(updates.keys, updates.values, strict=True):
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = value[0] if isinstance(value, list) else value
    return state


def test_an_update_is_confirmed_like_a_put_and_told_once_it_is_durable() -> None:
    bench = TopicNode()
    bench.auto_sync = False
    producer, reader = bench.connect("p"), bench.connect("r")
    bench.sub(reader, start=wire.Start.NOW)
    bench.sync()
    bench.hear(reader, wire.Reset)
    bench.publish(producer, 1, ("a", b"1"), ("b", b"2"))
    assert bench.hear(producer, wire.Confirm) == [] and bench.hear(reader, wire.Live) == []
    bench.sync()
    assert bench.hear(producer, wire.Confirm) == [wire.Confirm(MARKED, 1, 2, 1, "disk")]
    (live,) = bench.hear(reader, wire.Live)
    assert (live.prev, live.first, live.span, live.count) == (0, 1, 2, 2)
    bench.publish(producer, 1, ("a", b"1"), ("b", b"2"))  # again, for its confirm was lost
    bench.sync()
    assert bench.hear(producer, wire.Confirm) == [wire.Confirm(MARKED, 1, 2, 1, "disk")] and bench.hear(reader, wire.Live) == []


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"\xa1a",
        b"\xa0\xc4\x01x",
        b"\x01\xc4\x01x",
        b"\xa1a\x05",
        b"\xa1a\x92\xc4\x01x\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xa1a\x92\xc4\x01x\xc0",
        b"\xa1a\x93\xc4\x01x\xc0\xc4\x00",
        b"\xa1a\x93\xc4\x01x\xc0\xc0",
        b"\xa1a\x93\xc0\xc0\xc4\x01n",
        b"\xa1a\x94\xc4\x01x\x01\xc4\x01n\xc0",
    ],
)
def test_what_are_no_updates_is_refused_and_harms_nobody(body: bytes) -> None:
    bench = TopicNode()
    producer, reader = bench.connect("p"), bench.connect("r")
    bench.sub(reader)
    bench.say(producer, wire.Put(MARKED, 1, 1, 1, Parcel.of([body])))
    (refused,) = bench.hear(producer, wire.Refused)
    assert (refused.queue, refused.first, refused.code) == (MARKED, 1, wire.Code.MALFORMED)
    bench.publish(producer, 2, ("a", b"1"), base=2)
    assert bench.state() == {"a": b"1"} and len(bench.hear(reader, wire.Live)) == 1


def test_a_ttl_ends_with_a_deletion_that_everybody_is_told() -> None:
    bench = TopicNode()
    producer, reader = bench.connect("p"), bench.connect("r")
    bench.publish(producer, 1, ("a", b"1"), ("b", b"2"), ttl=5.0)
    bench.publish(producer, 3, ("b", b"3"))
    bench.wait(2.0)
    bench.sub(reader)
    (chunk,) = bench.hear(reader, wire.Chunk)
    assert unpacked(chunk.parcel) == (["a", "b"], [[b"1", pytest.approx(3.0)], b"3"], False)
    bench.wait(3.1)
    (live,) = bench.hear(reader, wire.Live)
    assert Updates.read(live.parcel).keys == ["a"] and bench.state() == {"b": b"3"} == fold(bench.log)
    assert bench.again().state() == {"b": b"3"}


def test_a_ttl_that_ends_while_the_node_is_down_ends_when_it_is_back() -> None:
    bench = TopicNode()
    bench.publish(bench.connect("p"), 1, ("a", b"1"), ttl=5.0)
    bench.now += 60.0
    back = bench.again()
    back.wait(0.2)
    assert back.state() == {}


def test_a_note_is_told_with_its_value_also_late_and_after_a_restart_and_goes_with_it() -> None:
    bench = TopicNode()
    producer, early = bench.connect("p"), bench.connect("e")
    bench.sub(early)
    messages = [message("a", b"1", None, b"note"), message("b", b"2", 5.0, b"more"), message("c", b"3", 5.0)]
    bench.say(producer, wire.Put(MARKED, 1, 3, 1, Parcel.of(messages)))
    (live,) = bench.hear(early, wire.Live)
    assert Updates.read(live.parcel).values == [[b"1", None, b"note"], [b"2", 5.0, b"more"], [b"3", 5.0]]
    bench.wait(2.0)
    back = bench.again()
    late = back.connect("l")
    back.sub(late)
    (chunk,) = back.hear(late, wire.Chunk)
    left = pytest.approx(2.9)
    assert unpacked(chunk.parcel)[:2] == (["a", "b", "c"], [[b"1", None, b"note"], [b"2", left, b"more"], [b"3", left]])
    back.wait(3.1)
    assert back.state() == {"a": b"1"}
    back.publish(back.connect("q"), 1, ("a", b"2"))
    assert back.topic.values == {"a": b"2"}


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_restart_keeps_state_history_positions_names_and_streams(snapshot: bool) -> None:
    bench = TopicNode()
    producer, reader = bench.connect("p"), bench.connect("r")
    bench.publish(producer, 1, ("a", b"1"), ("b", b"2"))
    bench.publish(producer, 3, ("a", None), ("c", b"3"))
    bench.sub(reader, name="ui")
    bench.say(reader, wire.Pos(1, 1, 3))
    back = bench.again(snapshot=snapshot)
    producer, reader = back.connect("p", link=2), back.connect("r", link=2)
    assert back.state() == {"b": b"2", "c": b"3"}
    back.publish(producer, 3, ("a", None), ("c", b"3"))  # its confirm was lost
    assert back.hear(producer, wire.Confirm) == [wire.Confirm(MARKED, 3, 2, 3, "disk")]
    back.publish(producer, 5, ("d", b"4"), base=5)
    back.sub(reader, name="ui")
    assert [(r.epoch, r.seq, r.scope) for r in back.hear(reader, wire.Reset)] == [(2, 3, wire.Scope.NONE)]
    assert [live.first for live in back.hear(reader, wire.Live)] == [3, 5]


def test_a_position_beyond_what_survived_a_crash_is_told_a_gap_even_when_its_number_is_given_again() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bench.publish(producer, 1, ("a", b"1"))
    kept = bench.log.last
    bench.publish(producer, 2, ("a", b"lost"))
    back = bench.again(kept)
    back.publish(back.connect("p", link=2), 2, ("b", b"2"), ("c", b"3"))
    reader = back.connect("r")
    back.sub(reader, 1, wire.Start.POSITION, epoch=1, seq=2)
    back.sub(reader, 2, wire.Start.POSITION, epoch=1, seq=1)
    resets = back.hear(reader, wire.Reset)
    assert [(r.number, r.seq, r.first, r.last, r.scope) for r in resets] == [(1, 3, 1, 0, wire.Scope.ALL), (2, 1, 1, 0, wire.Scope.NONE)]


def test_a_policy_is_declared_looked_at_and_kept() -> None:
    bench = TopicNode()
    peer = bench.connect("p")
    told = bench.ask(peer, 1, "topic_declare", topic="t", policy={"max_messages": 2, "keep_values": False})
    assert told["policy"] == {"durability": None, "keep_values": False, "max_messages": 2, "max_bytes": None, "max_age": None}
    for number in range(1, 6):
        bench.publish(peer, number, (f"k{number}", b"v"))
    bench.sub(peer)
    assert bench.hear(peer, wire.Chunk) == [] and len(bench.hear(peer, wire.At)) == 1  # no values, so an empty snapshot
    back = bench.again()
    peer = back.connect("p", link=2)
    info = back.ask(peer, 2, "topic_info", topic="t")
    assert {name: info[name] for name in ("name", "seq", "floor", "messages", "keys", "subscribers")} == {
        "name": "t", "seq": 5, "floor": 4, "messages": 2, "keys": 0, "subscribers": 0
    }  # fmt: skip
    assert [topic["name"] for topic in back.ask(peer, 3, "topic_list")["topics"]] == ["t"]
    assert back.ask(peer, 4, "topic_info", topic="nobody's")["seq"] == 0 and len(back.topics.hosted) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"topic": "\1t", "policy": {}}, {"topic": "t", "policy": {"max_age": 0}}, {"topic": "t", "policy": {"x": 1}}, {"topic": "t"}],
)
def test_a_policy_that_is_none_is_told_and_makes_no_topic(arguments: dict[str, object]) -> None:
    bench = TopicNode()
    assert bench.ask(bench.connect("p"), 1, "topic_declare", **arguments)["error"] == wire.Code.MALFORMED and not bench.topics.hosted


def test_old_updates_leave_the_history_by_age() -> None:
    bench = TopicNode()
    peer = bench.connect("p")
    bench.ask(peer, 1, "topic_declare", topic="t", policy={"max_age": 10.0})
    bench.publish(peer, 1, ("a", b"1"))
    bench.wait(6.0)
    bench.publish(peer, 2, ("b", b"2"), base=2)
    bench.wait(6.0)
    assert bench.topic.history.floor == 2 and bench.state() == {"a": b"1", "b": b"2"} == bench.again().state()


def test_updates_in_memory_are_confirmed_and_told_before_the_disk_has_them() -> None:
    bench = TopicNode()
    peer, reader = bench.connect("p"), bench.connect("r")
    bench.ask(peer, 1, "topic_declare", topic="t", policy={"durability": "memory"})
    bench.sub(reader, start=wire.Start.NOW)
    bench.auto_sync = False
    bench.publish(peer, 1, ("a", b"1"))
    assert bench.hear(peer, wire.Confirm) == [wire.Confirm(MARKED, 1, 1, 1, "memory")] and len(bench.hear(reader, wire.Live)) == 1


def test_a_confirm_from_memory_does_not_overtake_one_of_its_stream_that_waits() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bench.ask(producer, 1, "topic_declare", topic="t", policy={"durability": "memory"})
    bench.publish(producer, 1, ("a", b"1"))
    back = bench.again()
    back.auto_sync = False
    producer, other = back.connect("p", link=2), back.connect("q")
    back.say(other, wire.Put("q", 1, 1, 1, Parcel.of([b"x"])))  # its confirm waits for the disk, and what waits leaves in order
    back.publish(producer, 1, ("a", b"1"))  # again, for its confirm was lost
    back.publish(producer, 2, ("b", b"2"), base=1)
    assert back.hear(producer, wire.Confirm) == []
    back.sync()
    assert [confirm.first for confirm in back.hear(producer, wire.Confirm)] == [1, 2]


def test_a_confirm_that_is_repeated_as_durable_waits_for_the_disk_though_it_was_given_in_memory() -> None:
    bench = TopicNode()
    producer = bench.connect("p")
    bench.ask(producer, 1, "topic_declare", topic="t", policy={"durability": "memory"})
    bench.auto_sync = False
    bench.publish(producer, 1, ("a", b"1"))
    assert [confirm.durability for confirm in bench.hear(producer, wire.Confirm)] == ["memory"]
    bench.say(producer, wire.Ask(2, 2, "topic_declare", {"topic": "t", "policy": {"durability": "disk"}}))
    bench.publish(producer, 1, ("a", b"1"))
    assert bench.hear(producer, wire.Confirm) == []
    bench.sync()
    assert [confirm.durability for confirm in bench.hear(producer, wire.Confirm)] == ["disk"]


@pytest.mark.parametrize("seed", range(60))
def test_the_state_is_the_fold_of_the_log_whatever_is_trimmed_swept_moved_or_crashes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(keeping, "SWEEP_BYTES", chance.choice([50, 500, 10**9]))
    monkeypatch.setattr(keeping, "PIECE_KEYS", 7)
    monkeypatch.setattr(topics, "PIECES_A_TURN", chance.choice([1, 8]))
    bench = TopicNode()
    sent = {"p": 1, "q": 1}
    links = {"p": 1, "q": 1}
    most = chance.choice([1, 10, 100])
    peers = {letter: bench.connect(letter) for letter in sent}
    bench.ask(peers["p"], 1, "topic_declare", topic="t", policy={"max_messages": most})
    for _ in range(80):
        match chance.randrange(10):
            case 0 | 1 | 2 | 3 | 4:
                letter = chance.choice("pq")
                keys = [f"k{chance.randrange(40)}" for _ in range(chance.randrange(1, 9))]
                pairs = [(key, chance.choice([b"x" * chance.randrange(20), None])) for key in keys]
                bench.publish(peers[letter], sent[letter], *pairs, ttl=chance.choice([None, None, 2.0]))
                sent[letter] += len(pairs)
            case 5:
                bench.wait(chance.random())
            case 6 if MARKED in bench.topics.hosted:
                places = [place[3] for place in bench.topics.places()]
                if places:
                    at = chance.choice(places)
                    bench.machine.copy(at, at)
                    bench.turn()
            case 7:
                bench = bench.again(snapshot=chance.random() < 0.5)
                for letter in links:
                    links[letter] += 1
                    peers[letter] = bench.connect(letter, link=links[letter])
            case _:
                bench.turn()
        if MARKED in bench.topics.hosted:
            assert bench.state() == fold(bench.log)
            needed = set(bench.topics.positions())
            assert not needed & bench.log.released, "a body that is needed was released"
    bench.wait(0.5)
    bodies = {position for position, item in enumerate(bench.log.items, 1) if item[2]}
    assert bodies - bench.log.released == set(bench.topics.positions()), "a body that nobody needs was kept"


def test_a_topic_that_lives_long_keeps_no_more_of_the_log_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SWEEP_BYTES", 1000)
    bench = TopicNode()
    producer = bench.connect("p")
    bench.ask(producer, 1, "topic_declare", topic="t", policy={"max_messages": 50})
    for number in range(2000):
        bench.publish(producer, 10 * number + 1, *[(f"k{(number * 7 + i) % 100}", b"v" * 20) for i in range(10)])
    kept = sum(len(bench.log.items[position - 1][1]) for position in bench.topics.positions())
    assert kept < 15_000  # 100 keys of 20 bytes, once or twice, beside the history and what has retired since the last sweep
    assert bench.again(snapshot=True).state() == fold(bench.log) and name("p") in bench.machine.core.clients
