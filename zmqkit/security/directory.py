"""The key directory: `key.secret`, `key.public`, `trusted`, `known_nodes`.

Rule 1  Others can neither read the secret nor write anything here, and nothing here is a link: else it is refused, with what to do.
Rule 2  A key trusts itself: the directory's own may do everything, and is expected of every node that has no line in `known_nodes`.
        So a directory that is copied to all machines makes a team.
Rule 3  A file is replaced as a whole, or not at all; what cannot be read changes nothing.
Rule 4  A secret is in no argument, variable, log, error or repr.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from zmqkit.errors import KeysError
from zmqkit.rights import EVERYTHING, Rights
from zmqkit.security import trusted
from zmqkit.security.identity import LinkKeys, Pair, check_key, fingerprint

SECRET, PUBLIC, TRUSTED, KNOWN = "key.secret", "key.public", "trusted", "known_nodes"
FILE_BYTES_MAX = 16 * 1024 * 1024
TRUSTED_HEAD = "# KEY NAME ROLE:NAMES… (publish consume call serve subscribe admin), or all; limit=connections:10,bytes:1000000\n"
KNOWN_HEAD = "# ENDPOINT-OR-NAME KEY\n"
T = TypeVar("T")
Stamp = tuple[int, int, int, int] | None  # of a file: another one whenever it was changed


class Keys:
    """A key directory that was read. `users` does not contain the directory's own key; `reread` brings it up to date."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises KeysError: there is none, it is not as safe as it must be, or a file in it cannot be understood."""
        self.path = os.path.abspath(os.path.expanduser(path))
        with _opened(self.path) as directory:
            secret = _read(self.path, directory, SECRET, private=True)
            if secret is None:
                raise KeysError(self.path, "there is no key in it: make one with `zmqkit keys new`, or copy that of your team")
            self.pair = self._parsed(SECRET, secret.strip(), Pair)
            public = _read(self.path, directory, PUBLIC)
            if public is not None and public.strip() != self.pair.public:
                raise KeysError(self.path, f"{PUBLIC} does not belong to {SECRET}: copy both again, or remove {PUBLIC}")
            known = _read(self.path, directory, KNOWN) or ""
            self.nodes: Mapping[str, str] = self._parsed(KNOWN, known, trusted.parse_known)
        self._stamp: Stamp = None
        self.users: Mapping[str, Rights] = {}
        self.reread()

    def __repr__(self) -> str:
        return f"<Keys {self.path} {self.pair.fingerprint}>"

    # -- who may come in -------------------------------------------------------------------------------------------------

    @property
    def everyone(self) -> dict[str, Rights]:
        """The users by their keys, with our own."""
        return {**self.users, self.pair.public: Rights("own", EVERYTHING.grants)}

    def changed(self) -> bool:
        """`trusted` is not the file any more that was read last, be that good or bad."""
        return _stamp_of(os.path.join(self.path, TRUSTED)) != self._stamp

    def reread(self) -> None:
        """Read `trusted` again. Raises KeysError, and changes nothing then."""
        stamp = _stamp_of(os.path.join(self.path, TRUSTED))  # before reading: what comes later is seen the next time
        with _opened(self.path) as directory:
            text = _read(self.path, directory, TRUSTED) or ""
        self._stamp = stamp
        self.users = self._parsed(TRUSTED, text, lambda text: trusted.parse_trusted(text, self.pair.public))

    # -- who is expected there -------------------------------------------------------------------------------------------

    def link(self, endpoint: str) -> LinkKeys:
        """For a link to that endpoint."""
        return LinkKeys(self.pair, self.nodes.get(endpoint, self.pair.public))

    def key_of(self, shown: str) -> str | None:
        """The key with that fingerprint that a node may have: our own, or one in `known_nodes`.

        One in `trusted` is not enough: whoever may come in here could pose as a node.
        """
        return next((key for key in (self.pair.public, *self.nodes.values()) if fingerprint(key) == shown), None)

    def trusted(self, shown: str) -> bool:
        """Of a fingerprint: may a node have that key?"""
        return self.key_of(shown) is not None

    # -- changes ---------------------------------------------------------------------------------------------------------

    @classmethod
    def make(cls, path: str | os.PathLike[str]) -> Keys:
        """A directory with a new pair of keys. Raises KeysError, also if there is one already: no key is ever overwritten."""
        path, pair = os.path.abspath(os.path.expanduser(path)), Pair.new()
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            with _opened(path) as directory, _locked(directory):
                if SECRET in os.listdir(directory):
                    raise KeysError(path, "there is a key in it already: show it with `zmqkit keys show`, or name another directory")
                _replace(directory, PUBLIC, pair.public + "\n")
                for name, text in ((TRUSTED, TRUSTED_HEAD), (KNOWN, KNOWN_HEAD)):
                    if name not in os.listdir(directory):
                        _replace(directory, name, text)
                _replace(directory, SECRET, pair.secret + "\n")  # the last: without it, all of this may be done again
        except OSError as error:
            raise KeysError(path, f"no keys can be made here: {error.strerror}") from None
        return cls(path)

    def trust(self, key: str, rights: Rights) -> None:
        """Let this key in, with these rights instead of those it had. Raises ValueError, KeysError."""
        check_key(key)
        self._change(TRUSTED, lambda line: _first(line) != key, trusted.line_of(key, rights))

    def pin(self, where: str, key: str) -> None:
        """Expect this key of the node there, instead of any other. Raises ValueError, KeysError."""
        check_key(key)
        if where.split() != [where] or where == "#":
            raise ValueError(f"{where!r} is neither an endpoint nor a node's name")
        self._change(KNOWN, lambda line: _first(line) != where, f"{where} {key}")

    def lines(self, who: str) -> tuple[list[str], list[str]]:
        """Of a key, a user's name, or where a node is: the keys of users, and where nodes are, that are meant by it."""
        users = [key for key, rights in self.users.items() if who in (key, rights.name)]
        return users, [where for where, key in self.nodes.items() if who in (where, key)]

    def forget(self, users: Collection[str], nodes: Collection[str]) -> None:
        """Take these lines out. Raises KeysError."""
        if users:
            self._change(TRUSTED, lambda line: _first(line) not in users)
        if nodes:
            self._change(KNOWN, lambda line: _first(line) not in nodes)

    def _change(self, name: str, stays: Callable[[str], bool], more: str = "") -> None:
        """The lines of a file that `stay`, and one more. Two who change it at once do so one after the other."""
        try:
            with _opened(self.path) as directory, _locked(directory):
                # By "\n" alone, as it is read: any other end of a line would make one of what stands behind it in a comment.
                lines = [line for line in (_read(self.path, directory, name) or "").rstrip("\n").split("\n") if stays(line)]
                text = "".join(line + "\n" for line in [*lines, *([more] if more else [])]).lstrip("\n")
                if name == TRUSTED:
                    trusted.parse_trusted(text, self.pair.public)
                else:
                    trusted.parse_known(text)
                _replace(directory, name, text)
        except OSError as error:
            raise KeysError(os.path.join(self.path, name), f"it cannot be changed: {error.strerror}") from None

    def _parsed(self, name: str, text: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise KeysError(os.path.join(self.path, name), f"{error}; mend it, or copy it again") from None


def _first(line: str) -> str:
    return (line.split() or [""])[0]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Its descriptor: what is done by it is done in this very directory. Raises KeysError, also for one that is not ours alone."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeysError(path, "there is no such directory: make one with `zmqkit keys new`, or copy that of your team") from None
    except OSError as error:
        text = "it is a link: name the directory itself" if os.path.islink(path) else (error.strerror or str(error))
        raise KeysError(path, text) from None
    try:
        _check(path, os.fstat(directory), 0o077, "700")
        yield directory
    finally:
        os.close(directory)


def _check(path: str, found: os.stat_result, forbidden: int, mode: str) -> None:
    """Raises KeysError unless it is ours, and closed to others as far as must be."""
    if found.st_uid != os.geteuid():
        raise KeysError(path, f"it belongs to user {found.st_uid}, and this process is user {os.geteuid()}: chown {os.geteuid()} {path}")
    if found.st_mode & forbidden:
        open_to = "read or change" if forbidden & 0o044 else "change"
        raise KeysError(path, f"others may {open_to} it (mode {stat.S_IMODE(found.st_mode):04o}): chmod {mode} {path}")


@contextlib.contextmanager
def _locked(directory: int) -> Iterator[None]:
    fcntl.flock(directory, fcntl.LOCK_EX)  # until it is closed
    yield


def _read(path: str, directory: int, name: str, private: bool = False) -> str | None:
    """A file of the directory; None if there is none. Raises KeysError."""
    path = os.path.join(path, name)
    try:
        # Not to block where somebody has put a pipe.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        text = "it is a link: put the file itself there" if os.path.islink(path) else (error.strerror or str(error))
        raise KeysError(path, text) from None
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise KeysError(path, "it is no file")
        _check(path, found, 0o077 if private else 0o022, "600")
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise KeysError(path, f"it has more than {FILE_BYTES_MAX:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise KeysError(path, "it is no text (UTF-8); mend it, or copy it again") from None


def _replace(directory: int, name: str, text: str) -> None:
    """Raises OSError."""
    temporary = f".{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)  # of a process that had our number, and ended in here
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def _stamp_of(path: str) -> Stamp:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
