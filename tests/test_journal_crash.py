"""Crashes: whatever the moment, and whatever part of the unsynced bytes and names a power cut leaves, a start gives back a
prefix of what was appended with all of what was durable in it, and a second start gives back the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from journal_disk import Disk, User

from zmqkit import errors
from zmqkit.journal import Journal
from zmqkit.journal.record import OVERHEAD_BYTES, Stamp, encode, salt_of
from zmqkit.journal.segment import START_BYTES

SEGMENT_BYTES = 4096
Record = tuple[int, bytes]


def open_journal(disk: Disk, durability: str = "disk") -> Journal:
    return Journal("/sim", durability, directory=disk.open, segment_bytes=SEGMENT_BYTES, cache_bytes=500)


def recover(disk: Disk) -> list[Record]:
    return User(open_journal(disk)).history


def two_sessions(disk: Disk) -> tuple[list[Record], int]:
    """Appends with and without waiting, checkpoints, a clean stop, a second start, until the disk breaks.

    Returns what was appended and how much of it was reported as durable."""
    appended: list[Record] = []
    durable = 0
    for session in range(2):
        try:
            user = User(open_journal(disk))
        except errors.JournalError:
            return appended, durable
        assert user.history == appended
        user.start()
        with suppress(errors.JournalError):
            for number in range(4):
                position = user.put(b"%d-%d" % (session, number) * 50, b"y" * (number * 300), waited=number != 2)
                if number != 2 and not user.settle(position):
                    break
                if number == 1:
                    user.checkpoint()
        with suppress(errors.JournalError):
            user.journal.close()
        appended, durable = user.history, max(durable, user.journal.durable)
        if user.failure is not None:
            break
    return appended, durable


def operations_of(story: Callable[[Disk], object]) -> int:
    disk = Disk()
    story(disk)
    return disk.operations


def survivors(disk: Disk, seeds: int) -> list[Disk]:
    return [disk.after_kill(), *(disk.after_power_cut(Random(seed)) for seed in range(seeds))]


def test_a_crash_at_any_operation_loses_nothing_durable_and_leaves_no_hole() -> None:
    for breaks_at in range(1, operations_of(two_sessions) + 5):
        disk = Disk()
        disk.breaks_at = breaks_at
        appended, durable = two_sessions(disk)
        for left in survivors(disk, seeds=6):
            once = recover(left)
            assert once == appended[: len(once)] and len(once) >= durable, breaks_at
            assert recover(left) == once, breaks_at


def test_a_crash_at_any_operation_of_a_start_changes_nothing_about_what_the_next_start_gives() -> None:
    for breaks_at in range(20, operations_of(two_sessions), 5):
        disk = Disk()
        disk.breaks_at = breaks_at
        two_sessions(disk)
        left = disk.after_power_cut(Random(breaks_at))
        expected = recover(left.after_kill())
        step = 0
        while True:
            step += 1
            again = left.after_kill()
            again.breaks_at = step
            try:
                open_journal(again)
            except errors.JournalError:
                for seed, survivor in enumerate(survivors(again, seeds=2)):
                    assert recover(survivor) == expected, (breaks_at, step, seed)
                continue
            break
        assert step > 10


def test_nothing_is_synced_after_the_first_error() -> None:
    for breaks_at in range(1, operations_of(two_sessions)):
        disk = Disk()
        disk.breaks_at = breaks_at
        two_sessions(disk)
        assert disk.syncs_after_error <= 1, breaks_at  # one may be the operation that broke


@pytest.mark.parametrize("rest", ["cut off", "zeros", "garbage"])
def test_an_end_torn_at_any_byte_is_dropped_and_all_before_it_kept(rest: str) -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"first", b"confirmed" * 5)
    assert user.settle()
    confirmed = list(user.history)
    name = "00000000000000000001-00000001.log"
    begin = len(bytes(disk.names[name].data).rstrip(b"\0"))
    batch = [b"last" * 40, b"", b"batch" * 30]
    user.put(*batch)
    assert user.settle()
    whole = bytes(disk.names[name].data)
    boundaries = [begin + sum(OVERHEAD_BYTES + len(payload) for payload in batch[:n]) for n in range(len(batch) + 1)]
    end = boundaries[-1]

    for torn_at in range(begin, end):
        left = disk.after_kill()
        filling = {"cut off": b"", "zeros": bytes(len(whole) - torn_at), "garbage": Random(torn_at).randbytes(end - torn_at)}[rest]
        left.names[name].data[:] = whole[:torn_at] + filling
        recovered = recover(left)
        assert recovered == user.history[: len(recovered)] and len(recovered) >= len(confirmed), torn_at
        torn = any((whole[:torn_at] + filling)[boundaries[len(recovered) - len(confirmed)] :])
        assert (name + ".torn" in left.names) == torn, torn_at
        assert recover(left) == recovered


def test_what_a_killed_process_left_is_moved_never_appended_to() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"one")
    assert user.settle()
    left = disk.after_kill()
    old = "00000000000000000001-00000001.log"

    user = User(open_journal(left))

    assert old not in left.names
    assert [name for name in left.names if name.endswith(".log")] == [
        "00000000000000000001-00000002.log",
        "00000000000000000002-00000002.log",
    ]


def test_of_two_segments_with_the_same_record_the_higher_epoch_wins() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"one")
    assert user.settle()
    old = disk.after_kill()
    moved = disk.after_kill()
    recover(moved)
    name = "00000000000000000001-00000001.log"
    old.names[name].data[:] = old.names[name].data.replace(b"one", b"eno")  # damaged meanwhile: nobody may look at it
    moved.names[name] = old.names[name]
    assert recover(moved) == user.history
    assert name not in moved.names


def test_bytes_that_an_earlier_epoch_left_in_the_place_of_a_record_are_none() -> None:
    disk = Disk()
    User(open_journal(disk))
    user = User(open_journal(disk)).start()
    user.put(b"new")
    assert user.settle()
    file = disk.names["00000000000000000001-00000002.log"]
    assert recover(disk.after_kill()) == user.history
    stale = b"".join(encode(Stamp(salt_of(user.journal.node), 1), 3, True, 1, 0, [b"old"], 3))
    file.data[START_BYTES : START_BYTES + len(stale)] = stale
    assert recover(disk.after_kill()) == []


def test_the_epoch_is_durable_before_anything_can_be_done_with_the_journal() -> None:
    disk = Disk()
    for epoch in range(1, 4):
        assert open_journal(disk).epoch == epoch
        assert not disk.pending_names
        assert b"epoch %d\n" % epoch in disk.durable_names["meta"].durable


# -- against a model ---------------------------------------------------------------------------------------------------

BODY, DONE = b"body", b"done"


class JournalModel(RuleBasedStateMachine):
    """A queue in small: bodies are appended, DONE records name bodies, and once those are durable the bodies are released.

    No draw depends on what a thread of the journal has got done, or a story could not be told twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.appended: list[Record] = []
        self.durable = 0

    @initialize(durability=st.sampled_from(["disk", "disk", "os"]))
    def begin(self, durability: str) -> None:
        self.durability = durability
        self.open()

    def open(self) -> None:
        self.user = User(open_journal(self.disk, self.durability))
        recovered = self.user.history
        assert recovered == self.appended[: len(recovered)]
        assert len(recovered) >= self.durable
        self.appended = recovered
        self.live = {n + 1 for n, (_, payload) in enumerate(recovered) if payload.startswith(BODY)} - self.done_in(recovered)
        self.user.journal.retain(self.live)
        self.user.start()

    @staticmethod
    def done_in(records: list[Record]) -> set[int]:
        return {int(word) for _, payload in records if payload.startswith(DONE) for word in payload[4:].split()}

    @rule(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=4), waited=st.booleans())
    def put(self, sizes: list[int], waited: bool) -> None:
        first = self.user.journal.last + 1
        self.user.put(*(BODY + b"%d" % (first + n) + b"." * size for n, size in enumerate(sizes)), waited=waited)
        self.live |= set(range(first, self.user.journal.last + 1))

    @rule(choice=st.sets(st.integers(0, 20), min_size=1))
    def settle_some(self, choice: set[int]) -> None:
        done = {position for index, position in enumerate(sorted(self.live)) if index in choice}
        self.user.put(DONE + b" ".join(b"%d" % position for position in sorted(done)), body=False, waited=True)
        assert self.user.settle()
        self.live -= done
        self.user.journal.release(done)

    @rule()
    def wait(self) -> None:
        assert self.user.settle()

    @rule()
    def checkpoint(self) -> None:
        self.user.checkpoint()

    @rule()
    def wanted_checkpoint(self) -> None:
        if self.user.journal.wants_checkpoint:
            self.user.checkpoint()

    @rule(seed=st.none() | st.integers(0, 1000))
    def crash(self, seed: int | None) -> None:
        """Without a seed the process is killed, with one the power goes."""
        self.appended = list(self.user.history)
        self.durable = self.user.journal.durable
        if self.durability == "os" and seed is not None:
            self.durable = 0  # all but sealed segments may go
        left = self.disk.after_kill() if seed is None else self.disk.after_power_cut(Random(seed))
        self.disk.broken = True
        self.disk.breaks_at = 0
        with suppress(errors.JournalError):
            self.user.journal.close()
        self.disk = left
        self.open()

    @rule()
    def stop(self) -> None:
        self.user.journal.close()
        self.appended = list(self.user.history)
        self.durable = len(self.appended)
        self.open()

    @invariant()
    def every_needed_body_can_be_read(self) -> None:
        for position in self.live:
            assert self.user.journal.read(position) == self.user.history[position - 1][1]

    def teardown(self) -> None:
        if hasattr(self, "user"):
            self.user.journal.close()


JournalModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
test_any_sequence_of_appends_checkpoints_and_crashes_agrees_with_the_model = JournalModel.TestCase
