"""Checkpoints, and which files may go."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from random import Random

import pytest
from journal_disk import Disk, SimDirectory, User

from zmqkit import errors
from zmqkit.journal import Entry, Item, Journal

SEGMENT_BYTES = 8192


def open_journal(disk: Disk) -> Journal:
    return Journal("/sim", directory=disk.open, segment_bytes=SEGMENT_BYTES, cache_bytes=0)


def files(disk: Disk, suffix: str) -> list[str]:
    return sorted(name for name in disk.names if name.endswith(suffix))


def fill(user: User) -> list[int]:
    """Bodies until a checkpoint is wanted; their positions."""
    positions = []
    while not user.journal.wants_checkpoint:
        positions.append(user.put(b"body %d " % user.journal.last * 30))
        assert user.settle()
    return positions


def turn(user: User) -> list[int]:
    """A full segment and its checkpoint."""
    positions = fill(user)
    last = user.journal.last
    user.checkpoint()
    assert user.put(b"next segment", body=False) == last + 1
    assert user.settle()
    wait_until(lambda: newest_checkpoint(user) == last)
    return positions


def newest_checkpoint(user: User) -> int:
    return max((lsn for lsn, _ in user.journal._upkeep._checkpoints), default=0)


def wait_until(true: object) -> None:
    while not true():  # type: ignore[operator]
        time.sleep(0)  # only to give the interpreter away; the test's own time limit ends this


def test_replay_begins_with_the_newest_checkpoint_and_goes_on_right_after_it() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    turn(user)
    expected = user.journal.last - 1
    user.journal.close()

    entries = list(open_journal(disk).replay())

    assert [entry.position for entry in entries] == [0] * expected + [expected + 1]
    assert [(entry.kind, bytes(entry.payload)) for entry in entries] == user.history


def test_an_append_without_the_wanted_checkpoint_begins_a_new_segment_all_the_same() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    for _ in range(3):
        fill(user)
        user.put(b"no checkpoint came")
    user.journal.close()
    assert len(files(disk, ".log")) == 4 and not files(disk, ".checkpoint")
    assert User(open_journal(disk)).history == user.history


def test_a_checkpoint_of_large_and_of_many_items_comes_back_whole() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"x")
    items = [Item(7, [b"large" * 1_000_000]), *(Item(n % 200, [b"%d" % n, b"", b"."]) for n in range(20_000)), Item(9, [])]
    user.journal.checkpoint(items)
    user.journal.close()
    back = list(open_journal(disk).replay())
    assert back == [Entry(0, item.kind, memoryview(b"".join(item.chunks))) for item in items]


def test_a_checkpoint_right_after_another_or_of_an_empty_log_is_nothing_new() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.checkpoint()
    user.put(b"one")
    user.checkpoint()
    user.checkpoint()
    user.journal.close()
    assert len(files(disk, ".checkpoint")) == 1 and len(files(disk, ".log")) == 2
    user = User(open_journal(disk)).start()
    user.checkpoint()
    user.journal.close()
    assert User(open_journal(disk)).history == user.history == [(3, b"one")]


def damage(disk: Disk, name: str, at: int | None = None) -> None:
    data = disk.names[name].data
    data[len(data) // 2 if at is None else at] ^= 1


def test_when_the_newest_checkpoint_is_damaged_the_older_one_and_a_longer_log_give_the_same() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    for _ in range(4):
        user.journal.release(turn(user))
    user.journal.close()
    assert files(disk, ".log")[0] != "00000000000000000001-00000001.log"
    older, newest = files(disk, ".checkpoint")
    for at in range(0, len(disk.names[newest].data), 37):
        left = disk.after_kill()
        damage(left, newest, at)
        again = User(open_journal(left))
        assert again.history == user.history
        assert newest in again.journal.notes[0] and newest + ".damaged" in left.names

    damage(disk, newest)
    damage(disk, older)
    with pytest.raises(errors.JournalCorrupt):
        User(open_journal(disk))


def test_a_truncated_checkpoint_is_not_taken_for_a_whole_one() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"one", b"two" * 50)
    user.checkpoint()
    user.put(b"three")
    user.journal.close()
    (name,) = files(disk, ".checkpoint")
    for length in range(len(disk.names[name].data)):
        left = disk.after_kill()
        del left.names[name].data[length:]
        assert User(open_journal(left)).history == user.history, length  # the log still goes back to its beginning


def test_two_checkpoints_are_kept() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    for _ in range(5):
        turn(user)
        newest = files(disk, ".checkpoint")[-1]
        assert disk.durable_names[newest].durable == disk.names[newest].data
    user.journal.close()
    assert len(files(disk, ".checkpoint")) == 2


def test_a_segment_goes_when_it_ends_before_the_older_checkpoint_and_none_of_its_bodies_is_needed() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    first, second = turn(user), turn(user)
    one, two, _ = files(disk, ".log")

    user.journal.release(first[1:])
    user.put(b"x")
    assert user.settle() and one in disk.names  # a body is still needed
    assert user.journal.read(first[0])[:4] == b"body"
    user.journal.release(first[:1])
    wait_until(lambda: one not in disk.names)

    user.journal.release(second)
    user.put(b"x")
    assert user.settle() and two in disk.names  # only the newest checkpoint is past it
    turn(user)
    user.put(b"x")
    wait_until(lambda: two not in disk.names)
    user.journal.close()
    assert User(open_journal(disk)).history == user.history


def test_a_release_frees_no_file_before_two_checkpoints_are_past_it() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    name = "00000000000000000001-00000001.log"
    first = turn(user)
    user.journal.release(first)
    user.put(b"x")
    assert user.settle()
    user.journal.close()
    assert name in disk.names
    (newest,) = files(disk, ".checkpoint")
    damage(disk, newest)
    assert User(open_journal(disk)).history == user.history


def test_retain_after_a_restart_says_what_is_needed_and_the_rest_goes() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    kept = turn(user)[0]
    turn(user)
    turn(user)
    user.journal.close()
    assert len(files(disk, ".log")) == 4

    user = User(open_journal(disk))
    user.journal.retain([kept])
    user.start()
    turn(user)
    user.put(b"x")
    user.journal.close()

    assert files(disk, ".log")[0] == "00000000000000000001-00000001.log"  # for one body
    assert len(files(disk, ".log")) == 4  # the second session's two, and one that only the newest checkpoint is past
    user = User(open_journal(disk))
    assert user.journal.read(kept) == user.history[kept - 1][1]


def test_a_needed_body_whose_segment_is_gone_is_refused_at_start() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    first = turn(user)[0]
    turn(user)
    turn(user)
    user.journal.close()
    del disk.names["00000000000000000001-00000001.log"]
    journal = open_journal(disk)
    assert len(list(journal.replay())) == len(user.history)
    with pytest.raises(errors.JournalCorrupt, match="missing"):
        journal.retain([first])


def test_stragglers_names_the_oldest_mostly_released_segment_once_disk_use_matters() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    full = turn(user)
    sparse = turn(user)
    for _ in range(2):
        turn(user)
    assert user.journal.stragglers() is None  # too little disk
    for _ in range(3):
        turn(user)
    user.put(b"x")
    assert user.journal.stragglers() is None  # all needed
    user.journal.release(sparse[1:])

    assert user.journal.stragglers() == (full[-1] + 1, sparse[-1])

    body = bytes(user.journal.read(sparse[0]))
    moved = user.put(body)
    assert user.settle()
    user.journal.release([sparse[0]])
    assert user.journal.stragglers() is None
    assert user.journal.read(moved) == body
    user.journal.close()


def three_checkpoints(disk: Disk) -> tuple[list[tuple[int, bytes]], int]:
    user = User(open_journal(disk)).start()
    with suppress(errors.JournalError):
        for number in range(3):
            user.put(b"%d" % number * 100, b"second" * 50)
            user.checkpoint()
            if not user.settle(user.put(b"after")):
                break
            user.journal.release(range(1, 3 * number))  # as if a DONE were durable: it is in no state here
    with suppress(errors.JournalError):
        user.journal.close()
    return user.history, user.journal.durable


def test_a_crash_at_any_step_of_publishing_and_removing_leaves_a_whole_history() -> None:
    disk = Disk()
    begin = Disk()
    User(open_journal(begin))
    three_checkpoints(disk)
    for breaks_at in range(begin.operations + 1, disk.operations + 3):
        disk = Disk()
        disk.breaks_at = breaks_at
        appended, durable = three_checkpoints(disk)
        for seed, left in enumerate([disk.after_kill(), *(disk.after_power_cut(Random(seed)) for seed in range(10))]):
            recovered = User(open_journal(left)).history
            assert recovered == appended[: len(recovered)] and len(recovered) >= durable, (breaks_at, seed)


class StallsInSeal(SimDirectory):
    """Only a seal truncates."""

    def __init__(self, disk: Disk, path: str) -> None:
        super().__init__(disk, path)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def truncate(self, fd: int, size: int) -> None:
        self.reached.set()
        self.go_on.wait()
        super().truncate(fd, size)


def test_no_checkpoint_is_published_before_its_segment_is_sealed_and_synced() -> None:
    disk = Disk()
    directory = StallsInSeal(disk, "/sim")
    user = User(Journal("/sim", directory=lambda path: directory, segment_bytes=SEGMENT_BYTES)).start()
    user.put(b"one")
    user.checkpoint()
    assert directory.reached.wait(10)
    upkeep_is_through = threading.Event()
    user.journal._upkeep._jobs.put(upkeep_is_through.set)
    assert upkeep_is_through.wait(10)

    assert not files(disk, ".checkpoint")

    directory.go_on.set()
    user.journal.close()
    assert len(files(disk, ".checkpoint")) == 1


def test_in_mode_os_no_file_goes_on_the_word_of_a_record_that_a_power_cut_could_take_back() -> None:
    disk = Disk()
    user = User(Journal("/sim", "os", directory=disk.open, segment_bytes=SEGMENT_BYTES)).start()
    first = turn(user)
    turn(user)
    user.put(b"x")
    assert user.settle(user.put(b"done with the first", body=False))
    user.journal.release(first)
    name = files(disk, ".log")[0]
    through = threading.Event()
    user.journal._upkeep._jobs.put(through.set)
    assert through.wait(10) and name in disk.names
    turn(user)  # syncs
    user.put(b"x")
    wait_until(lambda: name not in disk.names)
    user.journal.close()


def test_a_disk_that_gives_back_other_bytes_than_it_took_is_not_trusted_with_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    monkeypatch.setattr("journal_disk.SimDirectory.forget", lambda self, fd: damage_last_byte(self._files[fd].data))
    user.put(b"one")
    user.journal.checkpoint([Item(1, [b"state"])])
    wait_until(lambda: user.failure is not None)
    with pytest.raises(errors.JournalFailed, match="other bytes"):
        user.put(b"two")
    assert not files(disk, ".checkpoint")


def damage_last_byte(data: bytearray) -> None:
    data[-1] ^= 1
