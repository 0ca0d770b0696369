"""The directory of a journal, and everything the journal asks of the operating system.

All file access goes through one `Directory`, so that a test can put a disk below the journal that fails, fills up or
loses power. Files are opened relative to the directory's descriptor: one that is moved away or replaced while we run is
noticed (`holds`) instead of being written half here, half there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence

from ..errors import JournalError, JournalLocked
from .log import Buffer

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # a full disk, a quota, RLIMIT_FSIZE: all may pass
PARTS_MAX = 1024  # of one pwritev: IOV_MAX
TEMPORARY = ".tmp"  # a name that ends so was not published: any start may remove it
LOCK = "lock"

_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves the data in the drive's cache


class Directory:
    """One directory, opened. Descriptors are plain ints; errors are plain OSErrors."""

    def __init__(self, path: str, make: bool = True) -> None:
        self.path = path
        if make:
            _make(os.path.abspath(path))
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = -1

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    # -- the lock ------------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Take the directory for this process. flock, not lockf: that one is lost when *any* descriptor of the file is closed.

        Raises JournalLocked: another process has it.
        """
        fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _parse_owner(os.pread(fd, 512, 0))
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise JournalLocked(self.path, *(owner or (0, "an unknown host"))) from None
        self._lock = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)

    def owner(self) -> tuple[int, str] | None:
        """(pid, host) of the process that holds the lock, as far as its file tells; takes no lock, so disturbs no start."""
        with contextlib.suppress(OSError):
            fd = os.open(LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._fd)
            try:
                owner = _parse_owner(os.pread(fd, 512, 0))
            finally:
                os.close(fd)
            if owner and (owner[1] != socket.gethostname() or _alive(owner[0])):
                return owner
        return None

    def leave(self) -> None:
        """Give the lock back and close the directory."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):  # the name in it is only for people to read
                os.ftruncate(self._lock, 0)
        self.drop()

    def drop(self) -> None:
        """Close the descriptors and write nothing: what a forked child does; the lock stays its parent's."""
        for fd in (self._lock, self._fd):
            if fd >= 0:
                os.close(fd)
        self._lock = self._fd = -1

    # -- names ---------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(os.listdir(self._fd))

    def create(self, name: str) -> int:
        """A new, empty file, open for reading and writing. It may be lost until `sync_names`."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._fd)

    def open(self, name: str, write: bool = False) -> int:
        return os.open(name, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._fd)

    def sync_names(self) -> None:
        """Every name made, changed or removed before this call stays so."""
        os.fsync(self._fd)

    def holds(self, name: str, fd: int) -> bool:
        """Whether `path/name` still is the file behind `fd`, and `path` still this directory."""
        try:
            here, there = os.stat(self.path), os.fstat(self._fd)
            now, then = os.stat(name, dir_fd=self._fd, follow_symlinks=False), os.fstat(fd)
        except FileNotFoundError:
            return False
        return os.path.samestat(here, there) and os.path.samestat(now, then)

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """`size` bytes, fewer only at the end of the file."""
        data = os.pread(fd, size, offset)
        while 0 < len(data) < size:
            more = os.pread(fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        """Returns the number of bytes written, which may be fewer than given. At most PARTS_MAX parts."""
        return os.pwritev(fd, parts, offset)

    def allocate(self, fd: int, size: int) -> None:
        """Give the file `size` bytes of real room, zeros where nothing was written. Where the file system cannot promise
        room, the file only gets its length, and a full disk shows in `write`."""
        try:
            os.posix_fallocate(fd, 0, size)
        except AttributeError:
            os.ftruncate(fd, max(size, self.size(fd)))
        except OSError as error:
            if error.errno not in _CANNOT_ALLOCATE:
                raise
            os.ftruncate(fd, max(size, self.size(fd)))

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """The file's bytes and its length survive a power cut. After an error nobody knows which bytes do: never repeat it."""
        if _FULL_SYNC is not None:
            fcntl.fcntl(fd, _FULL_SYNC)
        else:
            os.fdatasync(fd)

    def forget(self, fd: int) -> None:
        """Drop the file's cached pages, so that the next read asks the disk."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self, fd: int) -> None:
        os.close(fd)


def write_all(directory: Directory, fd: int, parts: Sequence[Buffer], offset: int) -> None:
    """Write every byte of `parts` from `offset` on. On an OSError some of them may stand in the file."""
    for at in range(0, len(parts), PARTS_MAX):
        group = parts[at : at + PARTS_MAX]
        size, written = size_of(group), directory.write(fd, group, offset)
        if written < size:
            _write_rest(directory, fd, b"".join(group), written, offset)
        offset += size


def _write_rest(directory: Directory, fd: int, data: bytes, done: int, offset: int) -> None:
    """Go on after a short write: the next one tells why it was short, or succeeds."""
    while done < len(data):
        written = directory.write(fd, [memoryview(data)[done:]], offset + done)
        if written <= 0:
            raise OSError(errno.ENOSPC, "the disk took no more bytes")
        done += written


def size_of(chunks: Sequence[Buffer]) -> int:
    """Bytes, also of a memoryview whose items are wider than one."""
    size = 0
    for chunk in chunks:
        size += chunk.nbytes if type(chunk) is memoryview else len(chunk)
    return size


def publish(directory: Directory, name: str, data: bytes) -> None:
    """Put a whole small file in place of `name`: after a crash it is the old or the new one."""
    with contextlib.suppress(FileNotFoundError):
        directory.unlink(name + TEMPORARY)
    fd = directory.create(name + TEMPORARY)
    try:
        write_all(directory, fd, [data], 0)
        directory.sync(fd)
    finally:
        directory.close(fd)
    directory.rename(name + TEMPORARY, name)
    directory.sync_names()


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """What the operating system says inside, as a JournalError of one line."""
    try:
        yield
    except JournalError:
        raise
    except OSError as error:
        name = f"{error.filename}: " if isinstance(error.filename, str) and error.filename != path else ""
        raise JournalError(path, f"{name}{error.strerror or error}") from error


def _make(path: str) -> None:
    """Make the directory (0700) and those above it; each new name is synced, or a power cut could take all of it."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _parse_owner(text: bytes) -> tuple[int, str] | None:
    pid, _, host = text.decode(errors="replace").strip().partition(" ")
    return (int(pid), host) if pid.isdecimal() and host else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
