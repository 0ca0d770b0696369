"""Every error zmqkit raises, in one tree, so that `except zmqkit.Error` is enough.

An error says what happened, why, and what to do next. Those that a standard exception also describes are that
too: `Unreachable` is a ConnectionError, `Timeout` a TimeoutError, `MessageTooLarge` a ValueError, `Unencodable` a
TypeError. This file imports nothing of zmqkit: everybody may import it.
"""

from __future__ import annotations


class Error(Exception):
    """Base of all errors of zmqkit."""


class Unreachable(Error, ConnectionError):
    """No node answered at `endpoint` in time; `reason` says why (refused, wrong protocol, silent, no address at all)."""

    def __init__(self, endpoint: str, reason: str, todo: str = "") -> None:
        todo = todo or f"start one with `zmqkit broker --bind {endpoint}` or check the address"
        super().__init__(f"no zmqkit node at {endpoint if endpoint.isprintable() else repr(endpoint)}: {reason}; {todo}")
        self.endpoint, self.reason = endpoint, reason


class Timeout(Error, TimeoutError):
    """The outcome did not come in time.

    `maybe_executed` False: it was withdrawn and will never happen. True: it may have happened or may still happen.
    `confirmed`: of a `put_many`, how many of the first messages are safely stored.
    """

    def __init__(self, text: str, *, maybe_executed: bool = False, confirmed: int = 0) -> None:
        super().__init__(text)
        self.maybe_executed, self.confirmed = maybe_executed, confirmed


class NotSent(Timeout):
    """The request never left this process."""


class Closed(Error):
    """The handle, its client or its node is closed, or this is a forked child: make a new one."""


class AddressInUse(Error, OSError):
    """Another process listens at `endpoint`: choose another port, or stop the other process."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"{endpoint} is in use by another process: choose another port (0 takes a free one) or stop that process")
        self.endpoint = endpoint


class MessageTooLarge(Error, ValueError):
    """One message is larger than the node takes; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size:,} bytes is over the node's limit of {limit:,}: send a reference to it, or split it")
        self.size, self.limit = size, limit


class Unencodable(Error, TypeError):
    """A body is none of the kinds msgpack carries (None, bool, int, float, str, bytes, list, dict), or not of the handle's type."""


class Refused(Error):
    """The node refused for want of room; nothing was stored. Try again after `retry_after` seconds."""

    def __init__(self, text: str, *, retry_after: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class QueueFull(Refused):
    """The queue holds as many messages or bytes as its policy allows."""


class DiskFull(Refused):
    """The journal's disk is full: puts are refused, acks are still taken."""


class QuotaExceeded(Refused):
    """A user's or a node's limit is reached."""


class Forbidden(Error):
    """This key may not do that here, and nothing of it was done. The text names the role that the node's admin has to grant."""


class StaleLease(Error):
    """The lease had ended: the message was not settled by this call. Its next holder decides."""


class NoWorker(Error):
    """Nobody serves that name."""


class RemoteError(Error):
    """The other side's handler or the node reported a failure: `kind`, `message`, `traceback` are its own words."""

    def __init__(self, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.traceback = kind, message, traceback


class Insecure(Error):
    """An endpoint that other machines can reach, where nobody has to show a key: give the node keys, or say that you mean it."""


class KeysError(Error):
    """The key directory cannot be used: `path` names it, or the file in it."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path


class JournalError(Error):
    """The journal cannot be used; `path` names the file or directory."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path


class JournalLocked(JournalError):
    """Another process holds this journal."""

    def __init__(self, path: str, pid: int, host: str) -> None:
        super().__init__(path, f"locked by process {pid} on {host}: stop that process or choose another directory")
        self.pid, self.host = pid, host


class JournalCorrupt(JournalError):
    """Bytes that were proven durable do not read back. Nothing was changed; fewer messages are never served in silence."""

    def __init__(self, file: str, offset: int, lsn: int, text: str = "bytes that were durable do not match their checksum") -> None:
        todo = "restore a copy, or save what is left with `zmqkit journal salvage`"
        super().__init__(file, f"{text} (offset {offset}, record {lsn}): {todo}")
        self.file, self.offset, self.lsn = file, offset, lsn


class JournalFormat(JournalError):
    """Written by a newer zmqkit, or not a journal."""


class JournalFailed(JournalError):
    """Writing or syncing failed. Nothing is confirmed after it; start the node again once the disk is well."""


def fresh(error: Exception) -> Exception:
    """The same error without another thread's traceback."""
    again = error.__class__.__new__(error.__class__)
    again.__dict__.update(error.__dict__)
    again.args = error.args
    return again
