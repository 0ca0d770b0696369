"""What the rest of zmqkit may rely on from a log: both kinds, on a good day."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from journal_disk import Disk, User

from zmqkit import errors
from zmqkit.journal import Entry, Item, Journal, Log, MemoryLog
from zmqkit.journal.meta import EPOCH_MAX, Meta, read_meta, write_meta


@pytest.fixture
def disk() -> Disk:
    return Disk()


def open_user(disk: Disk, **options: object) -> User:
    return User(Journal("/sim", directory=disk.open, **{"segment_bytes": 1 << 16, **options}))  # type: ignore[arg-type]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_memory_log_is_durable_at_once_and_says_so() -> None:
    log: Log = MemoryLog()
    told: list[int] = []
    assert list(log.replay()) == []
    log.start(lambda: told.append(log.durable), lambda error: None)

    last = log.append([Item(1, [b"a", b"b"], body=True), Item(2, [b"c"])], waited=True)

    assert (last, log.last, log.durable, told) == (2, 2, 2, [2])
    assert (len(log.node), log.epoch, log.durability) == (16, 1, "memory")
    assert not log.full and not log.wants_checkpoint and log.stragglers() is None


def test_a_memory_log_keeps_bodies_until_they_are_released() -> None:
    log = MemoryLog()
    log.append([Item(1, [b"a", b"b"], body=True), Item(1, [b"not a body"])], waited=False)
    assert log.read(1) == b"ab" == log.read(1)
    with pytest.raises(KeyError):
        log.read(2)

    log.release([1, 1])

    with pytest.raises(KeyError):
        log.read(1)
    log.close()
    with pytest.raises(errors.Closed):
        log.append([], waited=False)


# -- append, replay, read ----------------------------------------------------------------------------------------------


def test_what_was_appended_is_replayed_in_order_after_a_clean_stop(tmp_path: Path) -> None:
    user = User(Journal(str(tmp_path / "j"))).start()
    user.put(b"one", b"", b"three" * 1000)
    user.put(memoryview(b"four"), body=False)  # type: ignore[arg-type]
    assert user.settle()
    node = user.journal.node
    user.journal.close()

    again = Journal(str(tmp_path / "j"))

    assert [(e.position, bytes(e.payload)) for e in again.replay()] == [(1, b"one"), (2, b""), (3, b"three" * 1000), (4, b"four")]
    assert (again.epoch, again.node, again.last, again.durable) == (2, node, 4, 4)
    again.close()


def test_parts_of_any_shape_are_stored_one_behind_the_other(tmp_path: Path) -> None:
    wide = memoryview(b"12345678").cast("I")
    chunks = [bytearray(b"a"), wide, b"", memoryview(b"x" * 70_000), *[b"y" * 5000] * 3]
    whole = b"a" + b"12345678" + b"x" * 70_000 + b"y" * 15_000
    journal = Journal(str(tmp_path), cache_bytes=0)
    user = User(journal).start()
    journal.append([Item(1, chunks, body=True)] * 2, waited=True)
    assert user.settle()

    assert journal.read(1) == whole
    journal.close()
    reopened = Journal(str(tmp_path))
    assert [bytes(entry.payload) for entry in reopened.replay()] == [whole, whole]
    reopened.close()


def test_thousands_of_parts_in_one_append_pass_the_limit_of_one_write(disk: Disk, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    user = User(journal).start()
    user.put(*[bytes([i % 256]) * 5000 for i in range(3000)])
    assert user.settle()
    journal.close()
    assert len(list(Journal(str(tmp_path)).replay())) == 3000


def test_bodies_pushed_out_of_the_cache_are_read_from_the_disk(disk: Disk) -> None:
    user = open_user(disk, cache_bytes=100).start()
    for number in range(50):
        user.put(b"%d" % number * 20)
    assert user.settle()
    assert [bytes(user.journal.read(n + 1)) for n in range(50)] == [b"%d" % n * 20 for n in range(50)]

    disk.names["00000000000000000001-00000001.log"].data[:] = b""
    user.put(b"newest")

    assert user.journal.read(51) == b"newest"
    with pytest.raises(errors.JournalCorrupt) as caught:
        user.journal.read(1)
    assert caught.value.lsn == 1
    user.journal.close()


def test_bodies_that_the_disk_has_not_got_stay_readable_however_small_the_cache(disk: Disk) -> None:
    user = open_user(disk, cache_bytes=0)
    user.put(b"one", b"two")
    assert user.journal.read(1) == b"one"  # the writer has not even started
    user.start()
    assert user.settle()
    user.put(b"three")
    assert [bytes(user.journal.read(n)) for n in (1, 2, 3)] == [b"one", b"two", b"three"]
    user.journal.close()


def test_a_damaged_body_is_never_handed_out(disk: Disk) -> None:
    user = open_user(disk, cache_bytes=0).start()
    user.put(b"body" * 100)
    assert user.settle()
    user.put(b"next")
    data = disk.names["00000000000000000001-00000001.log"].data
    data[data.index(b"bodybody") + 7] ^= 1

    with pytest.raises(errors.JournalCorrupt) as caught:
        user.journal.read(1)

    assert (caught.value.lsn, caught.value.offset) == (1, 40)
    user.journal.close()


def test_records_nobody_waits_for_become_durable_by_themselves(disk: Disk) -> None:
    user = open_user(disk).start()
    user.put(b"lease", waited=False)
    assert user.settle()
    user.journal.close()


def test_mode_os_is_durable_as_soon_as_written_and_syncs_nothing(disk: Disk) -> None:
    user = open_user(disk, durability="os").start()
    operations = disk.operations
    user.put(b"one")
    assert user.settle()
    assert disk.operations == operations + 1  # the write
    assert user.journal.durability == "os"
    left = disk.after_kill()
    assert open_user(left).history == user.history


def test_only_disk_and_os_are_promised() -> None:
    with pytest.raises(ValueError, match="MemoryLog"):
        Journal("/nowhere", durability="memory")


def test_an_oversized_record_is_refused_before_anything_is_counted(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.journal.journal.RECORD_BYTES_MAX", 10)
    user = open_user(disk).start()
    with pytest.raises(ValueError, match="11 bytes"):
        user.journal.append([Item(1, [b"x" * 11])], waited=True)
    assert user.journal.last == 0
    user.put(b"fits")
    assert user.settle()
    user.journal.close()


# -- the directory -----------------------------------------------------------------------------------------------------


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        user = User(Journal(str(tmp_path / "a" / "b"))).start()
        user.put(b"secret")
        user.checkpoint()
        user.put(b"more")
        user.journal.close()
    finally:
        os.umask(previous)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b").iterdir()}
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b")} == {0o700}


def test_a_symlink_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(errors.JournalError):
        Journal(str(tmp_path / "j"))
    assert (tmp_path / "target").read_text() == "precious"


HOLD = "import sys; from zmqkit.journal import Journal; j = Journal(sys.argv[1]); print(j.path, flush=True); sys.stdin.read(); j.close()"


def hold(path: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_second_process_is_told_who_holds_the_journal_and_changes_nothing(tmp_path: Path) -> None:
    process, _ = hold(str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(errors.JournalLocked) as caught:
        Journal(str(tmp_path))

    assert caught.value.pid == process.pid and caught.value.host == os.uname().nodename
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    process.communicate("")
    Journal(str(tmp_path)).close()


def test_a_lock_file_left_by_a_killed_process_locks_nothing(tmp_path: Path) -> None:
    process, _ = hold(str(tmp_path))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "lock").read_text().startswith(str(process.pid))
    Journal(str(tmp_path)).close()


def test_n_in_the_path_takes_the_first_number_nobody_holds(tmp_path: Path) -> None:
    process, taken = hold(str(tmp_path / "{n}"))
    assert taken == str(tmp_path / "1")
    second, third = Journal(str(tmp_path / "{n}")), Journal(str(tmp_path / "{n}"))
    assert (second.path, third.path) == (str(tmp_path / "2"), str(tmp_path / "3"))
    process.communicate("")
    assert Journal(str(tmp_path / "{n}")).path == taken
    second.close()
    third.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_writes_nothing_and_its_parent_goes_on(tmp_path: Path) -> None:
    user = User(Journal(str(tmp_path))).start()
    user.put(b"before")
    assert user.settle()
    child = os.fork()
    if child == 0:
        try:
            user.journal.append([Item(1, [b"child"])], waited=True)
        except errors.Closed:
            user.journal.close()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    user.put(b"after")
    assert user.settle()
    with pytest.raises(errors.JournalLocked):
        Journal(str(tmp_path))
    user.journal.close()
    assert User(Journal(str(tmp_path))).history == user.history


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path: Path) -> None:
    alive, end = os.pipe()
    ready, say = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            journal = Journal(str(tmp_path))
            if os.fork() == 0:
                os.close(end)
                os.write(say, b"forked")
                os.read(alive, 1)  # until the test is over
                os._exit(0)
            assert journal.epoch == 1
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 6) == b"forked"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)

    Journal(str(tmp_path)).close()

    for fd in (alive, end, ready, say):
        os.close(fd)


def test_a_closed_journal_takes_nothing_more(disk: Disk) -> None:
    user = open_user(disk).start()
    user.journal.close()
    user.journal.close()
    with pytest.raises(errors.Closed):
        user.put(b"late")


def test_closing_a_journal_that_never_started_keeps_what_was_appended(disk: Disk) -> None:
    user = open_user(disk)
    user.put(b"one")
    user.journal.close()
    assert open_user(disk).history == user.history


@pytest.mark.parametrize("make", ["file", "unreadable"])
def test_an_unusable_directory_is_one_readable_line(tmp_path: Path, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    if make == "file":
        path.write_text("")
    else:
        monkeypatch.setattr(os, "open", lambda *args, **kwargs: (_ for _ in ()).throw(PermissionError(13, "Permission denied", str(path))))
    with pytest.raises(errors.JournalError) as caught:
        Journal(str(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# -- meta --------------------------------------------------------------------------------------------------------------


def test_the_epoch_rises_with_each_opening_and_ends_before_25_bits(disk: Disk) -> None:
    assert [open_user(disk).journal.epoch for _ in range(3)] == [1, 2, 3]
    directory = disk.open("/sim")
    meta = read_meta(directory)
    assert meta is not None
    write_meta(directory, meta._replace(epoch=EPOCH_MAX))
    with pytest.raises(errors.JournalError, match="16777215 times"):
        open_user(disk)


def test_a_newer_format_is_refused(disk: Disk) -> None:
    open_user(disk).journal.close()
    directory = disk.open("/sim")
    meta = read_meta(directory)
    assert meta is not None
    from zmqkit.journal import meta as module

    current, module.FORMAT = module.FORMAT, 2
    try:
        write_meta(directory, meta)
    finally:
        module.FORMAT = current
    before = {name: bytes(file.data) for name, file in disk.names.items()}
    with pytest.raises(errors.JournalFormat, match="newer"):
        open_user(disk)
    assert {name: bytes(file.data) for name, file in disk.names.items()} == before


def test_a_directory_whose_meta_file_is_gone_is_not_taken_for_a_new_one(disk: Disk) -> None:
    open_user(disk).journal.close()
    del disk.names["meta"]
    with pytest.raises(errors.JournalCorrupt, match="meta"):
        open_user(disk)


def test_meta_reads_back() -> None:
    directory = Disk().open("/sim")
    meta = Meta(os.urandom(16), 77, 2**40)
    write_meta(directory, meta)
    assert read_meta(directory) == meta


def test_two_threads_of_the_log_end_with_it(disk: Disk) -> None:
    before = threading.active_count()
    user = open_user(disk).start()
    assert threading.active_count() == before + 2
    user.journal.close()
    assert threading.active_count() == before


def test_entries_are_plain_tuples() -> None:
    assert Entry(1, 2, memoryview(b"x")) == (1, 2, memoryview(b"x"))
