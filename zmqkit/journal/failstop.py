"""Fail-stop: the first error of the disk is the journal's last word.

After a failed sync the kernel may drop the unwritten pages, mark them clean and report success the next time, and they read
back well until the cache is gone. So nothing is retried: no sync, no write, no confirmation after the first error.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from ..errors import JournalFailed


class FailStop:
    """Shared by all threads of one journal."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = Lock()
        self._tell: Callable[[Exception], None] | None = None
        self.error: JournalFailed | None = None

    def tell(self, on_failed: Callable[[Exception], None]) -> None:
        """Whom to tell, once."""
        self._tell = on_failed

    def fail(self, cause: BaseException) -> None:
        with self._lock:
            if self.error is not None:
                return
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else repr(cause)
            error = JournalFailed(self._path, f"{reason}: nothing more is written or confirmed; start again once the disk is well")
            error.__cause__ = cause
            self.error = error
        if self._tell is not None:
            self._tell(error)

    def check(self) -> None:
        """Raises JournalFailed once there was an error: a new one each time, so that tracebacks do not pile up in it."""
        if self.error is not None:
            error = JournalFailed(self._path, str(self.error).removeprefix(f"{self._path}: "))
            raise error from self.error.__cause__
