"""Damage: bytes that were durable and changed since. A start refuses, or what changed did not matter; it never gives back less."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from journal_disk import Disk, User

from zmqkit import errors
from zmqkit.journal import Journal
from zmqkit.journal.record import OVERHEAD_BYTES, SEAL, Source
from zmqkit.journal.segment import START_BYTES, Start

SEGMENT_BYTES = 2048
FIRST = "00000000000000000001-00000001.log"


def open_journal(disk: Disk) -> Journal:
    return Journal("/sim", directory=disk.open, segment_bytes=SEGMENT_BYTES, cache_bytes=0)


def read_all(disk: Disk) -> tuple[list[tuple[int, bytes]], list[bytes]]:
    """Replay, and read every body that a file should hold."""
    user = User(open_journal(disk))
    positions = range(1, user.journal.last + 1)
    user.journal.retain(positions)
    return user.history, [bytes(user.journal.read(position)) for position in positions]


def closed_journal() -> tuple[Disk, list[tuple[int, bytes]]]:
    """Three sessions, the last without a clean stop but for its SEAL's sake settled; two checkpoints, five segments."""
    disk = Disk()
    for session in range(3):
        user = User(open_journal(disk)).start()
        user.put(b"%d first" % session, b"second" * 20)
        if session:
            user.checkpoint()
            user.put(b"after the checkpoint")
        assert user.settle()
        user.journal.close()
    return disk, user.history


def flips(disk: Disk, names: list[str]) -> list[tuple[str, int, Disk]]:
    cases = []
    for name in names:
        for offset in range(len(disk.names[name].data)):
            cases.append((name, offset, disk))
    return cases


def test_a_flipped_bit_anywhere_in_a_closed_journal_is_refused_or_harmless() -> None:
    disk, history = closed_journal()
    refused = harmless = 0
    for name, offset, _ in flips(disk, sorted(disk.names)):
        left = disk.after_kill()
        left.names[name].data[offset] ^= 1 << offset % 8
        try:
            recovered, bodies = read_all(left)
        except (errors.JournalCorrupt, errors.JournalFormat):
            refused += 1
            continue
        harmless += 1
        assert recovered == history, (name, offset)
        assert bodies == [payload for _, payload in history], (name, offset)
    assert refused > 500 and harmless > 100  # checkpoints have a second copy, indexes can be made again


def test_a_flipped_bit_in_any_but_the_last_batch_of_a_killed_process_is_refused() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    for number in range(6):
        user.put(b"batch %d" % number * 5)
        assert user.settle()
    data = disk.names[FIRST].data
    last_batch = data.index(b"batch 5") - 32
    for offset in range(START_BYTES, last_batch):
        left = disk.after_kill()
        left.names[FIRST].data[offset] ^= 1 << offset % 8
        before = {name: bytes(file.data) for name, file in left.names.items()}
        with pytest.raises(errors.JournalCorrupt) as caught:
            read_all(left)
        assert caught.value.file == f"/sim/{FIRST}" and caught.value.offset <= offset
        assert {name: bytes(file.data) for name, file in left.names.items()} == before, offset


def test_after_a_second_of_quiet_the_last_batch_is_proven_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.journal.writer.SEAL_AFTER_SECONDS", 0.01)
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"the last batch")
    assert user.settle()
    start = Start(1, 1, user.journal.node)

    def seals() -> int:
        with Source(disk.open("/sim"), FIRST) as source:
            return [record.kind for record in source.records(START_BYTES, start.stamp, 0)].count(SEAL)

    while not seals():
        time.sleep(0)  # only to give the interpreter away; the test's own time limit ends this
    assert user.put(b"next") == 2  # a SEAL takes no number
    assert user.settle()
    offset = disk.names[FIRST].data.index(b"last batch")
    left = disk.after_kill()
    left.names[FIRST].data[offset] ^= 1
    with pytest.raises(errors.JournalCorrupt):
        read_all(left)
    assert len(read_all(disk.after_kill())[0]) == 2


def test_a_seal_that_rotted_is_not_taken_for_the_torn_end_of_the_record_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.journal.writer.SEAL_AFTER_SECONDS", 0.01)
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"one")
    assert user.settle()
    sealed_at = disk.names[FIRST].data.index(b"one") + 3 + 4
    while not disk.names[FIRST].data[sealed_at]:
        time.sleep(0)
    user.put(b"two")
    assert user.settle()
    left = disk.after_kill()
    left.names[FIRST].data[sealed_at + 10] ^= 1
    with pytest.raises(errors.JournalCorrupt):
        read_all(left)


Surgery = Callable[[dict[str, bytearray]], None]


def zero_a_block(files: dict[str, bytearray]) -> None:
    data = files[FIRST]
    data[60:120] = bytes(60)


def repeat_a_record(files: dict[str, bytearray]) -> None:
    data = files[FIRST]
    size = OVERHEAD_BYTES + len(b"record 1" * 10)
    data[START_BYTES + 2 * size : START_BYTES + 3 * size] = data[START_BYTES + size : START_BYTES + 2 * size]


def cut_a_sealed_segment(files: dict[str, bytearray]) -> None:
    del files[FIRST][90:]


def empty_a_sealed_segment(files: dict[str, bytearray]) -> None:
    del files[FIRST][:]


def lose_the_first_segment(files: dict[str, bytearray]) -> None:
    del files[FIRST]


def lose_the_last_segment(files: dict[str, bytearray]) -> None:
    del files[max(name for name in files if name.endswith(".log"))]


def lose_one_between(files: dict[str, bytearray]) -> None:
    del files[sorted(name for name in files if name.endswith(".log"))[1]]


def swap_two_segments(files: dict[str, bytearray]) -> None:
    one, two = sorted(name for name in files if name.endswith(".log"))[:2]
    files[one], files[two] = files[two], files[one]


def lose_meta(files: dict[str, bytearray]) -> None:
    del files["meta"]


@pytest.mark.parametrize(
    "surgery",
    [
        zero_a_block,
        repeat_a_record,
        cut_a_sealed_segment,
        empty_a_sealed_segment,
        lose_the_first_segment,
        lose_the_last_segment,
        lose_one_between,
        swap_two_segments,
        lose_meta,
    ],
)
def test_surgery_on_files_is_noticed(surgery: Surgery) -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    for number in range(40):
        user.put(b"record %d" % number * 10)
        assert user.settle()
        if number % 10 == 9:
            user.journal.checkpoint([])  # no use as a state here: every checkpoint file is removed below
    user.journal.close()
    for name in [name for name in disk.names if name.endswith(".checkpoint")]:
        del disk.names[name]
    assert len(read_all(disk.after_kill())[0]) == 40
    files = {name: file.data for name, file in disk.names.items()}

    surgery(files)

    left = disk.after_kill()
    left.names = {name: file for name, file in left.names.items() if name in files}
    for name, data in files.items():
        left.names[name].data = bytearray(data)
    with pytest.raises(errors.JournalCorrupt):
        read_all(left)


def test_a_lost_last_segment_is_noticed_after_a_crash_too() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"one")
    user.journal.close()
    user = User(open_journal(disk)).start()
    user.put(b"two")
    assert user.settle()
    left = disk.after_kill()
    del left.names["00000000000000000002-00000002.log"]
    with pytest.raises(errors.JournalCorrupt, match="missing"):
        read_all(left)


def test_even_a_damaged_checkpoint_tells_how_far_the_log_had_been_durable() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    for number in range(2):
        user.put(b"record %d" % number)
        user.checkpoint()
        assert user.settle(user.put(b"after"))
    user.journal.close()
    for name in sorted(name for name in disk.names if name.endswith(".log"))[1:]:
        del disk.names[name]
    disk.names[FIRST].data[-60] ^= 1  # END: that another segment followed
    del disk.names[FIRST].data[-16:]
    newest = max(name for name in disk.names if name.endswith(".checkpoint"))
    disk.names[newest].data[-1] ^= 1
    with pytest.raises(errors.JournalCorrupt, match="up to 3 were durable"):
        read_all(disk)


def test_in_mode_os_a_power_cut_looks_torn_not_corrupt() -> None:
    """What was written but never synced was never proven: the disk may keep the second record without the first."""
    disk = Disk()
    user = User(Journal("/sim", "os", directory=disk.open, segment_bytes=SEGMENT_BYTES)).start()
    for number in range(5):
        assert user.settle(user.put(b"record %d" % number))
    left = disk.after_kill()
    left.names[FIRST].data[START_BYTES + 5] ^= 1
    assert read_all(left) == ([], [])


def test_a_segment_of_another_journal_is_refused() -> None:
    one, two = closed_journal()[0], closed_journal()[0]
    one.names[FIRST] = two.names[FIRST]
    with pytest.raises(errors.JournalCorrupt, match="another journal"):
        read_all(one)


def test_a_payload_that_holds_a_journal_proves_nothing_about_the_one_it_is_in() -> None:
    """A queue may carry backups of journals. Torn in front of one, the end must not look like damage to durable records."""
    other, _ = closed_journal()
    backup = b"".join(bytes(file.data) for name, file in other.names.items() if name.endswith(".log"))
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"kept")
    assert user.settle()
    at = len(bytes(disk.names[FIRST].data).rstrip(b"\0"))
    user.put(b"torn", backup)
    assert user.settle()
    left = disk.after_kill()
    left.names[FIRST].data[at] ^= 1
    assert read_all(left)[0] == user.history[:1]
