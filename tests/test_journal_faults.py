"""A disk that fails, is full, is slow, or is taken away while the journal runs."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from journal_disk import Disk, SimDirectory, User

from zmqkit import errors
from zmqkit.journal import Item, Journal
from zmqkit.journal.directory import Directory, write_all

SEGMENT_BYTES = 16384


def open_journal(disk: Disk, directory: Callable[[str], Directory] | None = None) -> Journal:
    return Journal("/sim", directory=directory or disk.open, segment_bytes=SEGMENT_BYTES, cache_bytes=0)


def wait_until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0)  # only to give the interpreter away; the test's own time limit ends this


# -- it fails ----------------------------------------------------------------------------------------------------------


class FailsOnce(SimDirectory):
    """One call fails, and all later ones succeed: what a kernel does after it has dropped the pages it could not write."""

    def __init__(self, disk: Disk, path: str, call: str, error: int) -> None:
        super().__init__(disk, path)
        self.call, self.error, self.armed = call, error, False
        self.calls: list[str] = []

    def _maybe(self, call: str) -> None:
        self.calls.append(call)
        if self.armed and call == self.call:
            self.armed = False
            raise OSError(self.error, os.strerror(self.error))

    def sync(self, fd: int) -> None:
        self._maybe("sync")
        super().sync(fd)

    def write(self, fd: int, parts: Sequence[bytes | bytearray | memoryview], offset: int) -> int:
        self._maybe("write")
        return super().write(fd, parts, offset)

    def sync_names(self) -> None:
        self._maybe("sync_names")
        super().sync_names()


@pytest.mark.parametrize(
    ("call", "error"),
    [("sync", errno.EIO), ("sync", errno.ENOSPC), ("write", errno.EIO), ("write", errno.EROFS), ("sync_names", errno.EIO)],
)
def test_after_one_error_nothing_is_synced_confirmed_or_taken_any_more(call: str, error: int) -> None:
    disk = Disk()
    directory = FailsOnce(disk, "/sim", call, error)
    user = User(open_journal(disk, lambda path: directory)).start()
    assert user.settle(user.put(b"before"))

    directory.armed = True
    position = user.put(b"during")
    if call == "sync_names":
        user.checkpoint()
    user.settle()
    wait_until(lambda: user.failure is not None)

    calls = list(directory.calls)
    durable = user.journal.durable
    assert durable == (position if call == "sync_names" else 1)
    for _ in range(2):
        with pytest.raises(errors.JournalFailed, match=os.strerror(error)) as caught:
            user.put(b"after")
        assert isinstance(caught.value.__cause__, OSError)
    user.journal.close()
    assert directory.calls == calls and user.journal.durable == durable
    assert isinstance(user.failure, errors.JournalFailed) and user.failures == 1


def test_a_failure_on_the_way_to_a_clean_stop_is_raised_by_close() -> None:
    disk = Disk()
    directory = FailsOnce(disk, "/sim", "sync", errno.EIO)
    user = User(open_journal(disk, lambda path: directory))
    user.put(b"one")
    directory.armed = True
    with pytest.raises(errors.JournalFailed):
        user.journal.close()


def test_an_error_of_the_other_thread_stops_the_sync_that_was_to_come() -> None:
    disk = Disk()
    directory = FailsOnce(disk, "/sim", "nothing", 0)
    user = User(open_journal(disk, lambda path: directory)).start()
    assert user.settle(user.put(b"before"))
    syncs = directory.calls.count("sync")
    real = directory.write

    def write_while_upkeep_fails(fd: int, parts: Sequence[bytes | bytearray | memoryview], offset: int) -> int:
        user.journal._failstop.fail(OSError(errno.EIO, "a checkpoint could not be synced"))
        return real(fd, parts, offset)

    directory.write = write_while_upkeep_fails  # type: ignore[method-assign]
    user.put(b"during")
    user.settle()
    user.journal.close()
    assert directory.calls.count("sync") == syncs and user.journal.durable == 1


SCRIPT = """
import sys, threading
from zmqkit.errors import JournalFailed
from zmqkit.journal import Journal, Item
moved = threading.Condition()
failed = []
def on_failed(error):
    with moved:
        failed.append(error); moved.notify_all()
def on_durable():
    with moved:
        moved.notify_all()
journal = Journal(sys.argv[1])
list(journal.replay())
journal.start(on_durable, on_failed)
try:
    for _ in range(50):
        position = journal.append([Item(1, [b"x" * 100])], waited=True)
        with moved:
            moved.wait_for(lambda: failed or journal.durable >= position)
        if failed:
            break
        print(position, flush=True)
    journal.append([], waited=True)
except JournalFailed as error:
    print(error, flush=True)
journal.close()
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_with_a_real_eio_the_kernel_sees_no_sync_after_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    inject = ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync:error=EIO:when=5"]
    command = ["strace", "-f", "-qq", "-o", str(trace), *inject, os.path.realpath(sys.executable), "-c", SCRIPT, str(tmp_path / "j")]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=50)
    if "ptrace" in done.stderr:
        pytest.skip("no ptrace here")
    *confirmed, error = done.stdout.splitlines()
    calls = [line for line in trace.read_text().splitlines() if "sync(" in line and "resumed" not in line]
    assert "INJECTED" in calls[-1] and "Input/output error" in error, done
    assert 1 <= len(confirmed) < 10
    assert len(list(Journal(str(tmp_path / "j")).replay())) >= len(confirmed)


def test_a_directory_taken_away_is_noticed_when_the_segment_ends(tmp_path: Path) -> None:
    user = User(Journal(str(tmp_path / "j"))).start()
    assert user.settle(user.put(b"one"))
    (tmp_path / "j").rename(tmp_path / "elsewhere")
    (tmp_path / "j").mkdir()
    user.checkpoint()
    wait_until(lambda: user.failure is not None)
    assert "moved, replaced or deleted" in str(user.failure)
    user.journal.close()


def test_a_segment_deleted_or_replaced_is_noticed_when_it_ends(tmp_path: Path) -> None:
    for number, replace in enumerate((False, True)):
        path = tmp_path / str(number)
        user = User(Journal(str(path))).start()
        assert user.settle(user.put(b"one"))
        (segment,) = path.glob("*.log")
        data = segment.read_bytes()
        segment.unlink()
        if replace:
            segment.write_bytes(data)
        user.checkpoint()
        wait_until(lambda user=user: user.failure is not None)  # type: ignore[misc]
        user.journal.close()


def test_an_unreadable_file_at_a_start_is_an_error_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = User(Journal(str(tmp_path))).start()
    user.put(b"one")
    user.journal.close()
    monkeypatch.setattr(Directory, "read", lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(errors.JournalError, match=f"{tmp_path}: Input/output error"):
        Journal(str(tmp_path))


# -- it is full --------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_met_between_segments_refuses_bodies_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.journal.upkeep.RETRY_SECONDS", 0.01)
    disk = Disk()
    user = User(open_journal(disk)).start()
    disk.room = disk.used() + 100
    upkeep = user.journal._upkeep
    while not user.journal.full:
        assert user.settle(user.put(b"body" * 100))
        if upkeep._asked:  # a segment here is so small that it, reserve and all, can fill up before that thread has a turn
            wait_until(lambda: upkeep.starved)
    assert not user.journal.wants_checkpoint

    for _ in range(20):  # the reserve takes these
        assert user.settle(user.put(b"ack", body=False))
    assert user.journal.full and user.failure is None

    disk.room = None
    wait_until(lambda: not user.journal.full)
    assert user.journal.wants_checkpoint
    user.checkpoint()
    assert user.settle(user.put(b"body again"))
    user.journal.close()
    assert User(open_journal(disk)).history == user.history


def test_with_the_reserve_gone_too_records_wait_in_memory_and_are_confirmed_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.journal.upkeep.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("zmqkit.journal.writer.RETRY_SECONDS", 0.01)
    disk = Disk()
    user = User(open_journal(disk)).start()
    disk.room = disk.used() + 100
    while not user.journal._writer.stalled:
        user.put(b"stubborn" * 100)
    waiting = user.put(b"waiting")
    assert user.journal.full and user.journal.durable < waiting

    disk.room = None
    assert user.settle(waiting)
    assert user.failure is None
    user.journal.close()
    assert User(open_journal(disk)).history == user.history


def test_closing_on_a_full_disk_confirms_nothing_that_was_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.journal.writer.RETRY_SECONDS", 0.01)
    disk = Disk()
    user = User(open_journal(disk)).start()
    disk.room = disk.used() + 100
    while not user.journal._writer.stalled:
        user.put(b"stubborn" * 100)
    with pytest.raises(errors.JournalFailed, match="full"):
        user.journal.close()
    disk.room = None
    recovered = User(open_journal(disk)).history
    assert recovered == user.history[: len(recovered)] and len(recovered) >= user.journal.durable


def test_a_start_on_a_full_disk_still_takes_what_frees_room() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(*[b"body" * 200] * 10)
    user.journal.close()
    disk.room = disk.used() + 2000
    user = User(open_journal(disk)).start()
    assert user.journal.full
    assert user.settle(user.put(b"ack", body=False))
    user.journal.close()
    disk.room = None
    assert User(open_journal(disk)).history == user.history


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_and_no_rubbish() -> None:
    disk = Disk()
    user = User(open_journal(disk)).start()
    user.put(b"one")
    user.journal._upkeep.prepare_spare()
    wait_until(lambda: user.journal._upkeep.has_spare)
    disk.room = disk.used() + 100
    user.journal.checkpoint([Item(1, [b"large" * 20_000])])
    user.put(b"two")
    user.journal.close()
    disk.room = None
    assert not [name for name in disk.names if name.endswith((".tmp", ".checkpoint"))]
    assert User(open_journal(disk)).history == user.history


def test_half_a_record_is_taken_back_before_anything_else_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot promise room: the write itself is short, and then fails."""
    monkeypatch.setattr("zmqkit.journal.writer.RETRY_SECONDS", 0.01)
    monkeypatch.setattr(Directory, "allocate", lambda self, fd, size: None)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
            user = User(Journal(str(tmp_path))).start()
            for _ in range(4):
                assert user.settle(user.put(b"fits" * 250))
            user.put(b"does not" * 200)
            wait_until(lambda: user.journal._writer.stalled)
            (segment,) = tmp_path.glob("*.log")
            assert segment.stat().st_size == 40 + 4 * 1036
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert user.settle()
            os.kill(os.getpid(), 9)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 9
    assert [len(entry.payload) for entry in Journal(str(tmp_path)).replay()] == [1000] * 4 + [1600]


def test_a_short_write_is_continued_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(str(tmp_path))
    fd = directory.create("file")
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, offset: real(fd, [b"".join(parts)[:7]], offset))
    parts = [b"%d" % n for n in range(1500)]
    write_all(directory, fd, parts, 3)
    assert directory.read(fd, 100_000, 3) == b"".join(parts)
    directory.close(fd)
    directory.drop()


def test_where_a_file_system_cannot_preallocate_the_journal_works_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    user = User(Journal(str(tmp_path), segment_bytes=SEGMENT_BYTES)).start()
    for _ in range(50):
        user.put(b"body" * 200)
        if user.journal.wants_checkpoint:
            user.checkpoint()
    user.journal.close()
    assert User(Journal(str(tmp_path))).history == user.history


# -- it is slow --------------------------------------------------------------------------------------------------------


class Stalls(SimDirectory):
    def __init__(self, disk: Disk, path: str) -> None:
        super().__init__(disk, path)
        self.go_on = threading.Event()
        self.go_on.set()
        self.stalled = threading.Event()

    def sync(self, fd: int) -> None:
        if not self.go_on.is_set():
            self.stalled.set()
        self.go_on.wait()
        super().sync(fd)


def test_a_sync_that_hangs_holds_up_neither_append_nor_read_nor_a_promise() -> None:
    disk = Disk()
    directory = Stalls(disk, "/sim")
    user = User(open_journal(disk, lambda path: directory)).start()
    assert user.settle(user.put(b"before"))
    directory.go_on.clear()
    user.put(b"first of the stall")
    assert directory.stalled.wait(10)

    last = 0
    for number in range(200):  # twelve segments' worth
        last = user.put(b"%d" % number * 300)
        assert user.journal.read(last) == user.history[-1][1]
    assert user.journal.durable == 1

    directory.go_on.set()
    assert user.settle(last)
    user.journal.close()
    assert User(open_journal(disk)).history == user.history


def test_what_gathers_during_a_sync_goes_out_as_one_group() -> None:
    disk = Disk()
    directory = Stalls(disk, "/sim")
    user = User(open_journal(disk, lambda path: directory)).start()
    directory.go_on.clear()
    user.put(b"one")
    assert directory.stalled.wait(10)
    for _ in range(100):
        user.put(b"more")
    operations = disk.operations
    directory.go_on.set()
    assert user.settle()
    assert disk.operations == operations + 3  # the sync that hung, one write, one sync
    user.journal.close()
