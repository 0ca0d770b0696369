"""What a node remembers: a machine restored from its records, or from a checkpoint and later records, is the same machine.

Random command sequences are played on a live node. Then three nodes start on its log: one replays everything, one starts
from a checkpoint taken at the end, one from a checkpoint taken in the middle and the records after it. All must hold the
same messages in the same places, know the same streams and leases, and answer the same questions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from node_bench import Bench, ManualLog, name

from zmqkit import records, wire
from zmqkit.machines import checkpoint
from zmqkit.machines.core import Core
from zmqkit.machines.node import NodeMachine
from zmqkit.machines.session import Client, Stream
from zmqkit.parcel import Parcel

QUEUES = ("q", "r")
PRODUCERS, CONSUMERS = "pr", "cd"


@pytest.fixture(autouse=True, scope="module")
def _short_backlogs() -> Iterator[None]:
    """A backlog stands in records of at most so many rows: here of so few that every story has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "BACKLOG_ROWS", 2)
        yield


class Player:
    """A node with two producers and two consumers that behave, and are unlucky."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.links = dict.fromkeys(PRODUCERS + CONSUMERS, 0)
        self.next: dict[tuple[str, str], int] = {}
        self.base: dict[tuple[str, str], int] = {}
        self.held: dict[str, dict[int, wire.Lease]] = {letter: {} for letter in CONSUMERS}
        self.seen = dict.fromkeys(CONSUMERS, 0)
        self.beat = self.asked = 0
        self.middle: tuple[int, list[tuple[int, bytes]]] = (0, [])
        for letter in PRODUCERS + CONSUMERS:
            self.connect(letter)

    def peer(self, letter: str) -> bytes:
        return f"{letter}{self.links[letter]}".encode()

    def connect(self, letter: str) -> None:
        self.links[letter] += 1
        self.bench.hello(self.peer(letter), name(letter), self.links[letter])

    def collect(self) -> None:
        for letter in CONSUMERS:
            for lease in self.bench.hear(self.peer(letter), wire.Lease):
                self.held[letter][lease.token] = lease
                self.seen[letter] = lease.token
            for echo in self.bench.hear(self.peer(letter), wire.Echo):
                for token in echo.revoked:
                    self.held[letter].pop(token, None)

    # -- what may happen ------------------------------------------------------------------------------------------------

    def put(self, letter: str, queue: str, count: int, turn: bool) -> None:
        first = self.next.get((letter, queue), 1)
        self.next[letter, queue] = first + count
        parcel = Parcel.of([f"{letter}{queue}{first + i}".encode() for i in range(count)])
        self.bench.say(self.peer(letter), wire.Put(queue, first, count, self.base.get((letter, queue), 1), parcel), turn=turn)

    def learn(self, letter: str, queue: str) -> None:
        """All confirmed so far: the base moves on."""
        self.base[letter, queue] = self.next.get((letter, queue), 1)

    def ready(self, letter: str, window: int, forget: bool) -> None:
        self.collect()
        self.beat += 1
        if forget and self.held[letter]:
            self.held[letter].pop(next(iter(self.held[letter])))
        held = [wire.Held(token, lease.count, 0.0) for token, lease in self.held[letter].items()]
        windows = [wire.Window(queue, window, 0.0) for queue in QUEUES]
        self.bench.say(self.peer(letter), wire.Ready(self.beat, self.seen[letter], windows, 0, held))

    def finish(self, letter: str, offset: int, count: int, kind: int, delay: float) -> None:
        self.collect()
        if not self.held[letter]:
            return
        token, lease = next(iter(self.held[letter].items()))
        offset = min(offset, lease.count - 1)
        count = min(count, lease.count - offset)
        if kind == 5:
            self.bench.done(self.peer(letter), token, offset, count)
        elif kind == 6:
            self.bench.say(self.peer(letter), wire.Save(token, offset, b"saved"))
        else:
            self.bench.back(self.peer(letter), token, offset, count, kind, delay)
        if offset == 0 and count == lease.count and kind != 6:
            del self.held[letter][token]

    def relink(self, letter: str, bye: bool) -> None:
        if bye:
            self.bench.say(self.peer(letter), wire.Bye())
            self.held.get(letter, {}).clear()
        else:
            self.bench.machine.lost(self.peer(letter), self.bench.now)
        self.connect(letter)

    def ask(self, verb: str, queue: str) -> None:
        self.asked += 1
        arguments: dict[str, Any] = {"queue": queue}
        if verb == "declare":
            on_full = ("drop_oldest", "dead_letter", "block")[self.asked % 3]
            arguments["policy"] = {"max_attempts": 2, "max_messages": 12, "on_full": on_full}
        self.bench.ask(self.peer("p"), self.asked, verb, **arguments)

    def wait(self, seconds: float) -> None:
        self.bench.wait(seconds)

    def copy(self) -> None:
        """The journal wants its oldest bodies moved."""
        last = self.bench.log.last
        self.bench.machine.copy(1, last // 2)
        self.bench.turn()

    def stall(self, stalled: bool) -> None:
        """The disk syncs nothing until it is well again."""
        self.bench.auto_sync = not stalled
        self.bench.turn()

    def checkpoint(self) -> None:
        self.bench.turn()
        self.middle = self.bench.log.last, self.bench.snapshot()


letters, queues = st.sampled_from(PRODUCERS), st.sampled_from(QUEUES)
consumers = st.sampled_from(CONSUMERS)
DELAYS = st.sampled_from([-1.0, 0.0, 3.0])
STEP = st.one_of(
    st.tuples(st.just(Player.put), letters, queues, st.integers(1, 5), st.booleans()),
    st.tuples(st.just(Player.put), letters, st.just("q"), st.integers(1, 5), st.booleans()),
    st.tuples(st.just(Player.learn), letters, queues),
    st.tuples(st.just(Player.ready), consumers, st.integers(0, 6), st.booleans()),
    st.tuples(st.just(Player.ready), consumers, st.integers(2, 6), st.just(False)),
    st.tuples(st.just(Player.finish), consumers, st.integers(0, 4), st.integers(1, 5), st.integers(0, 6), DELAYS),
    st.tuples(st.just(Player.finish), consumers, st.integers(0, 4), st.integers(1, 5), st.just(5), st.just(0.0)),
    st.tuples(st.just(Player.relink), st.sampled_from(PRODUCERS + CONSUMERS), st.booleans()),
    st.tuples(st.just(Player.ask), st.sampled_from(["declare", "purge", "pause", "resume", "redrive", "drop", "delete"]), queues),
    st.tuples(st.just(Player.wait), st.sampled_from([0.1, 1.0, 3.0, 70.0])),
    st.tuples(st.just(Player.copy)),
    st.tuples(st.just(Player.stall), st.booleans()),
    st.tuples(st.just(Player.checkpoint)),
)


def streams_by_name(core: Core, client: Client) -> list[tuple[str, Stream]]:
    """Also those whose queue was deleted: the producer's next put finds them."""
    return [*client.parted.items(), *((core.by_number[number].name, stream) for number, stream in client.streams.items())]


def state(machine: NodeMachine) -> dict[str, Any]:
    """All that must be the same in a restored machine, with what waits for durability counted where it will land."""
    core = machine.core
    found: dict[str, Any] = {}
    for queue in core.queues.values():
        batches = [
            (b.qseq, b.count, b.position, b.size, b.at, b.fresh, b.back | b.delayed | b.returning, b.leased, b.dead)
            for b in queue.batches
            if b.fresh != (1 << b.count) - 1 or b.suspect
        ]
        whole = [(row.qseq, row.count, row.position, row.size, row.at) for row in queue.backlog.rows()]
        whole += [(b.qseq, b.count, b.position, b.size, b.at) for b in queue.batches if b.fresh == (1 << b.count) - 1 and not b.suspect]
        found[queue.name] = (
            queue.number, queue.policy, queue.paused, queue.next_qseq if queue.messages else None, queue.messages, queue.bytes,
            batches, sorted(whole), queue.failed, queue.errors, queue.saved, queue.dead,
        )  # fmt: skip
    found["leases"] = {t: (x.queue, x.client, x.qseq, x.count, x.open, x.revoked) for t, x in core.leases.items() if x.open}
    found["streams"] = {
        (client.id, name): stream.answers[-1].first + stream.answers[-1].count
        for client in core.clients.values() for name, stream in streams_by_name(core, client) if stream.answers
    }  # fmt: skip
    return found


def assert_alike(found: dict[str, Any], live: dict[str, Any], log: ManualLog) -> None:
    """Of answers to producers, those that the live node still owes: it learned by a base that others had arrived. And where a
    queue was deleted, its producers' streams may be known on one side only: the next put brings what is needed."""
    ours, theirs = dict(live["streams"]), dict(found["streams"])
    if any(isinstance(record, records.Queue) and record.deleted for record in log.records()):
        ours = {key: end for key, end in ours.items() if key in theirs}
    theirs = {key: end for key, end in theirs.items() if key in ours}
    assert {**found, "streams": theirs} == {**live, "streams": ours}


def due(machine: NodeMachine) -> dict[tuple[str, int], float]:
    """Of messages whose time is still to come."""
    found = {}
    for queue in machine.core.queues.values():
        for when, qseq, mask in queue.delayed:
            batch = queue.batches.find(qseq)
            for first, count in records.ranges_of(mask & batch.delayed if batch else 0, qseq):
                found.update({(queue.name, number): when for number in range(first, first + count) if when > machine.core.now})
    return found


def play(steps: list[tuple[Callable[..., None], ...]]) -> Player:
    player = Player()
    for step, *arguments in steps:
        step(player, *arguments)
    player.stall(False)
    player.bench.sync()
    return player


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, min_size=5, max_size=60))
def test_a_restored_machine_is_the_machine_that_was(steps: list[Any]) -> None:
    player = play(steps)
    live = player.bench
    middle, taken = player.middle
    replayed = live.crash()
    later = Bench(ManualLog(live.log.items, 2, taken, middle), live.now + 0.1)
    fresh = live.restart_from_checkpoint()
    expected, times = state(live.machine), due(live.machine)
    for other in (replayed, later, fresh):
        assert_alike(state(other.machine), expected, live.log)
        assert due(other.machine) == {key: when for key, when in times.items() if when > other.now}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, min_size=5, max_size=40), st.randoms(use_true_random=False))
def test_a_log_cut_anywhere_restores_and_a_checkpoint_of_it_restores_the_same(steps: list[Any], random: Any) -> None:
    player = play(steps)
    kept = random.randint(0, player.bench.log.last)
    cut = player.bench.crash(kept=kept)
    again = cut.restart_from_checkpoint()
    assert_alike(state(again.machine), state(cut.machine), cut.log)
    assert due(again.machine) == due(cut.machine)


def delayed_and_leased() -> tuple[Bench, int]:
    """A message that was delayed, whose time came, and that is leased again: bench, token."""
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.back(consumer, bench.one_lease(consumer).token, delay=1.0)
    bench.wait(1.1)
    return bench, bench.one_lease(consumer).token


def test_a_delayed_message_that_was_leased_again_is_leased_after_a_restart_and_nothing_else() -> None:
    bench, token = delayed_and_leased()
    after = bench.crash()
    assert after.info() == {"leased": 1}
    consumer = after.connect("c", link=2)
    after.ready(consumer, 9, beat=9, seen=token, held=[(token, 1)])
    assert not after.hear(consumer, wire.Lease)


def test_a_second_delay_is_not_cut_short_by_the_first_after_a_restart() -> None:
    bench, token = delayed_and_leased()
    bench.back(b"c1", token, delay=50.0)
    after = bench.crash(down=5.0)
    after.turn()
    assert after.info() == {"delayed": 1}


def test_a_producer_of_a_deleted_queue_has_its_answer_after_a_checkpoint_and_a_restart() -> None:
    """It put 1, the queue was deleted, it put 2, the confirms were lost; the checkpoint was taken in between."""
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1)
    bench.ask(bench.connect("a"), 1, "delete", queue="q")
    middle, taken = bench.log.last, bench.snapshot()
    bench.put(peer, 2, base=1)
    after = Bench(ManualLog(bench.log.items, 2, taken, middle), bench.now)
    peer = after.connect("p", link=2)
    after.put(peer, 1)
    after.put(peer, 2, base=2)
    assert [(c.first, c.count) for c in after.hear(peer, wire.Confirm)] == [(1, 1), (2, 1)]


def test_a_copied_message_is_moved_and_never_added() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.put(producer, 1, 2)
    bench.machine.copy(1, bench.log.last)
    bench.turn()
    for after in (bench.crash(), bench.restart_from_checkpoint()):
        consumer = after.connect("c", window=9)
        assert [lease.count for lease in after.hear(consumer, wire.Lease)] == [2]
        assert after.info() == {"leased": 2}


def test_a_message_settled_before_its_copy_does_not_come_back() -> None:
    """The copy was decided, then the DONE came, then the copy was written."""
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    put = next(record for record in bench.log.records() if isinstance(record, records.Put))
    position = bench.log.records().index(put) + 1
    bench.done(consumer, bench.one_lease(consumer).token)
    kind, chunks, body = records.encode(records.Copy(put.queue, put.qseq, position, put.count, put.parcel))
    after = Bench(ManualLog([*bench.log.items, (kind, b"".join(chunks), body)], 2), bench.now)
    assert after.info() == {} and after.machine.core.queues["q"].messages == 0


def test_a_body_that_was_moved_is_read_at_its_new_place() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c")
    bench.put(producer, 1, 2)
    bench.machine.copy(1, bench.log.last)
    bench.turn()
    bench.turn()
    assert bench.log.released == {2}
    bench.ready(consumer, 2)
    assert [bytes(m) for m in bench.one_lease(consumer).parcel.messages()] == [b"1", b"2"]


def test_a_lease_that_was_taken_back_and_whose_messages_are_settled_survives_a_checkpoint() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2, lease=2.0)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.wait(2.5)
    bench.done(consumer, bench.one_lease(consumer).token)
    after = bench.restart_from_checkpoint()
    new = after.connect("c", link=2)
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "STALE")]


def test_numbers_of_a_queue_are_not_given_twice_after_a_checkpoint() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.done(consumer, bench.one_lease(consumer).token)
    after = bench.restart_from_checkpoint()
    peer = after.connect("p", link=2)
    after.put(peer, 2, base=2)
    assert after.hear(peer, wire.Confirm)[0].qseq == 2


def test_attempts_and_suspects_survive_a_checkpoint() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2)
    bench.put(producer, 1, 2)
    bench.machine.lost(consumer, bench.now)
    bench.wait(2.5)
    after = bench.restart_from_checkpoint()
    worker = after.connect("w", window=9)
    assert after.one_lease(worker).count == 1
    after.machine.lost(worker, after.now)
    after.wait(2.5)
    last = after.restart_from_checkpoint()
    found = [(lease.qseq, lease.attempt) for letter in "xy" for lease in last.hear(last.connect(letter, window=1), wire.Lease)]
    assert sorted(found) == [(1, 2), (2, 1)]


def marks(bench: Bench) -> list[records.Marks]:
    return [record for kind, payload in bench.snapshot() if isinstance(record := records.decode(kind, payload), records.Marks)]


def test_any_number_of_dead_letters_is_checkpointed_in_records_that_the_log_can_take() -> None:
    bench = Bench()
    bench.checked = False
    producer, consumer = bench.connect("p"), bench.connect("c", window=4096)
    for batch in range(6):
        bench.put(producer, 1 + 4096 * batch, 4096, base=1 + 4096 * batch)
        lease = bench.one_lease(consumer)
        bench.say(consumer, wire.Back(lease.token, 0, 4096, wire.BackKind.REJECT, 0.0, "no " * 100))
    parts = marks(bench)
    assert bench.info() == {"dead": 24576} and len(parts) > 3
    for part in parts:
        assert sum(map(len, part[1:])) <= checkpoint.MARKS_MAX
        assert len(b"".join(records.encode(part)[1])) < 2 * checkpoint.MARKS_BYTES_MAX
    assert state(bench.restart_from_checkpoint().machine) == state(bench.machine)


def test_all_that_messages_have_collected_survives_a_checkpoint_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MARKS_MAX", 2)
    bench = Bench()
    bench.declare(bench.connect("a"), max_attempts=2)
    producer, consumer = bench.connect("p"), bench.connect("c", window=9)
    bench.put(producer, 1, 9)
    token = bench.one_lease(consumer).token
    for offset in range(9):
        bench.say(consumer, wire.Save(token, offset, b"saved %d" % offset))
        kind, delay = (wire.BackKind.REJECT, 0.0) if offset < 4 else (wire.BackKind.NACK, 50.0 + offset)
        bench.say(consumer, wire.Back(token, offset, 1, kind, delay, f"error {offset}"))
    assert len(marks(bench)) == -(-(9 + 5 + 9 + 9 + 4) // 2)
    after = bench.restart_from_checkpoint()
    queue, before = after.machine.core.queues["q"], bench.machine.core.queues["q"]
    assert state(after.machine) == state(bench.machine) and due(after.machine) == due(bench.machine)
    assert queue.saved_bytes == before.saved_bytes == 63 and len(queue.failed) == len(queue.saved) == len(queue.errors) == 9
    assert len(queue.dead) == 4 and len(due(after.machine)) == 5


def test_saved_states_do_not_make_a_record_that_the_log_cannot_take() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=40)
    bench.put(producer, 1, 40)
    token = bench.one_lease(consumer).token
    for offset in range(40):
        bench.say(consumer, wire.Save(token, offset, bytes(60_000)))
    assert len(marks(bench)) == 3
    assert state(bench.restart_from_checkpoint().machine)["q"] == state(bench.machine)["q"]
