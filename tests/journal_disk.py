"""A disk in memory that can lose power, for the journal's tests; and a user of the journal who remembers what was promised.

Unsynced writes survive a power cut in any subset of their 512-byte sectors, unsynced names in any subset; a killed process
loses nothing it wrote. After the operation on which a `Disk` is told to break, every operation fails, so that what a
process does after its crash cannot matter.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from random import Random

from zmqkit.errors import JournalLocked
from zmqkit.journal import Item, Journal
from zmqkit.journal.directory import Directory

SECTOR = 512


class File:
    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, bytes) or (size, None)

    def change(self, offset: int, data: bytes | None) -> None:
        self.pending.append((offset, data))
        apply(self.data, offset, data)

    def sync(self) -> None:
        self.durable, self.pending = bytes(self.data), []

    def after_power_cut(self, random: Random) -> File:
        left = File()
        left.data = bytearray(self.durable)
        for offset, data in self.pending:
            fate = random.choice(("kept", "lost", "some"))
            if data is None:
                if fate != "lost":
                    apply(left.data, offset, None)
                continue
            # A sector is whole or not at all; the first one of a write may begin in the middle of a sector.
            at = 0
            while at < len(data):
                step = SECTOR - (offset + at) % SECTOR
                if fate == "kept" or (fate == "some" and random.random() < 0.5):
                    apply(left.data, offset + at, data[at : at + step])
                at += step
        left.durable = bytes(left.data)
        return left

    def after_kill(self) -> File:
        left = File()
        left.data = bytearray(self.data)
        left.durable, left.pending = self.durable, list(self.pending)
        return left


def apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self.durable_names: dict[str, File] = {}
        self.pending_names: list[tuple[str, File | None]] = []
        self.operations = 0
        self.breaks_at: int | None = None  # the number of the operation that fails, and all after it
        self.room: int | None = None  # bytes that all files together may take
        self.broken = False
        self.syncs_after_error = 0

    def open(self, path: str) -> SimDirectory:
        return SimDirectory(self, path)

    def after_kill(self) -> Disk:
        left, twins = Disk(), {}
        for _, file in [*self.names.items(), *self.durable_names.items(), *self.pending_names]:
            if file is not None and id(file) not in twins:
                twins[id(file)] = file.after_kill()
        left.names = {name: twins[id(file)] for name, file in self.names.items()}
        left.durable_names = {name: twins[id(file)] for name, file in self.durable_names.items()}
        left.pending_names = [(name, twins[id(file)] if file else None) for name, file in self.pending_names]
        return left

    def after_power_cut(self, random: Random) -> Disk:
        left = Disk()
        names = dict(self.durable_names)
        all_or_some = random.choice((0.0, 0.5, 1.0))
        for name, file in self.pending_names:
            if random.random() < all_or_some:
                if file is None:
                    names.pop(name, None)
                else:
                    names[name] = file
        left.names = {name: file.after_power_cut(random) for name, file in names.items()}
        left.durable_names = dict(left.names)
        return left

    def used(self) -> int:
        return sum(len(file.data) for file in set(self.names.values()))


class SimDirectory(Directory):
    def __init__(self, disk: Disk, path: str) -> None:
        self.path = path
        self._disk = disk
        self._files: dict[int, File] = {}
        self._next = 1000
        self._mutex = threading.RLock()

    def _step(self) -> None:
        disk = self._disk
        disk.operations += 1
        if disk.broken or (disk.breaks_at is not None and disk.operations >= disk.breaks_at):
            disk.broken = True
            raise OSError(errno.EIO, "the disk broke")

    def _room_for(self, file: File, size: int) -> None:
        disk = self._disk
        if disk.room is not None and size > len(file.data) and disk.used() + size - len(file.data) > disk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _handle(self, file: File) -> int:
        self._next += 1
        self._files[self._next] = file
        return self._next

    def lock(self) -> None:
        if any(file is None for file in self._disk.names.values()):
            raise JournalLocked(self.path, 1, "sim")

    def owner(self) -> tuple[int, str] | None:
        return None

    def leave(self) -> None:
        self.drop()

    def drop(self) -> None:
        pass

    def names(self) -> list[str]:
        return sorted(self._disk.names)

    def create(self, name: str) -> int:
        with self._mutex:
            self._step()
            if name in self._disk.names:
                raise FileExistsError(errno.EEXIST, "exists", name)
            file = self._disk.names[name] = File()
            self._disk.pending_names.append((name, file))
            return self._handle(file)

    def open(self, name: str, write: bool = False) -> int:
        with self._mutex:
            if name not in self._disk.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", name)
            return self._handle(self._disk.names[name])

    def rename(self, old: str, new: str) -> None:
        with self._mutex:
            self._step()
            file = self._disk.names.pop(old)
            self._disk.names[new] = file
            self._disk.pending_names += [(old, None), (new, file)]

    def unlink(self, name: str) -> None:
        with self._mutex:
            if name not in self._disk.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", name)
            self._step()
            del self._disk.names[name]
            self._disk.pending_names.append((name, None))

    def sync_names(self) -> None:
        with self._mutex:
            self._step()
            self._disk.durable_names = dict(self._disk.names)
            self._disk.pending_names = []

    def holds(self, name: str, fd: int) -> bool:
        return self._disk.names.get(name) is self._files[fd]

    def size(self, fd: int) -> int:
        return len(self._files[fd].data)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        with self._mutex:
            return bytes(self._files[fd].data[offset : offset + size])

    def write(self, fd: int, parts: Sequence[bytes | bytearray | memoryview], offset: int) -> int:
        with self._mutex:
            data = b"".join(parts)
            try:
                self._step()
            except OSError:
                if not self._disk.operations > (self._disk.breaks_at or 0):  # the crash is in the middle of this write
                    self._files[fd].change(offset, data[: len(data) // 2])
                raise
            self._room_for(self._files[fd], offset + len(data))
            self._files[fd].change(offset, data)
            return len(data)

    def allocate(self, fd: int, size: int) -> None:
        with self._mutex:
            self._step()
            self._room_for(self._files[fd], size)
            self._files[fd].change(max(size, self.size(fd)), None)

    def truncate(self, fd: int, size: int) -> None:
        with self._mutex:
            self._step()
            self._files[fd].change(size, None)

    def sync(self, fd: int) -> None:
        with self._mutex:
            if self._disk.broken:
                self._disk.syncs_after_error += 1
            self._step()
            self._files[fd].sync()

    def forget(self, fd: int) -> None:
        pass

    def close(self, fd: int) -> None:
        self._files.pop(fd, None)


class User:
    """Appends records, takes checkpoints of all it appended, and knows what a restart must give back."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.history: list[tuple[int, bytes]] = []  # every record that was ever appended
        for entry in journal.replay():
            if entry.position:
                assert entry.position == len(self.history) + 1
            self.history.append((entry.kind, bytes(entry.payload)))
        assert journal.last == len(self.history)
        self._moved = threading.Condition()
        self.failure: Exception | None = None
        self.failures = 0

    def start(self) -> User:
        self.journal.start(self._on_durable, self._on_failed)
        return self

    def put(self, *payloads: bytes, body: bool = True, waited: bool = True) -> int:
        items = [Item(len(payload) % 7, [payload[:3], payload[3:]], body) for payload in payloads]
        position = self.journal.append(items, waited)
        self.history += [(item.kind, payload) for item, payload in zip(items, payloads, strict=True)]
        return position

    def settle(self, position: int | None = None) -> bool:
        """Wait until all up to `position` is durable; False if the journal failed."""
        position = self.journal.last if position is None else position
        with self._moved:
            assert self._moved.wait_for(lambda: self.failure is not None or self.journal.durable >= position, 10)
        return self.journal.durable >= position

    def checkpoint(self) -> None:
        self.journal.checkpoint([Item(kind, [payload]) for kind, payload in self.history])

    def _on_durable(self) -> None:
        with self._moved:
            self._moved.notify_all()

    def _on_failed(self, error: Exception) -> None:
        with self._moved:
            self.failure = error
            self.failures += 1
            self._moved.notify_all()
