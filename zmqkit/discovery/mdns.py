"""zeroconf in a thread of its own, for as long as it is wanted. Where mDNS is not possible, that is said once and tried again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable
from logging import getLogger

from zeroconf import Error as ZeroconfError, IPVersion, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from zmqkit.errors import Error

RETRY_SECONDS = 30.0
WATCH_SECONDS = 15.0  # between two looks at the machine's addresses
CLOSE_SECONDS_MAX = 5.0

log = getLogger("zmqkit.discovery")


class Mdns:
    """What lives on zeroconf. `_work` runs until it is cancelled, and begins again when it fails; without `patience` that is the end."""

    def __init__(self, name: str, patience: bool = True) -> None:
        self.failure: Error | None = None  # why mDNS is not possible now
        self.tried = threading.Event()  # once or more often: `failure` says with what success
        self._patience = patience
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop  # once it has begun
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """What was announced is withdrawn. May be called twice, and does nothing in a forked child, where no thread lives on."""
        self.end()
        self._thread.join(CLOSE_SECONDS_MAX)

    def end(self) -> None:
        """The same, and does not wait for it."""
        if not self._thread.is_alive():
            return
        self._begun.wait()
        with contextlib.suppress(RuntimeError, AttributeError):  # its loop has just ended, or there never was one
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(self._live())
        except OSError as error:  # not even a loop: the process is out of descriptors
            self._fail(Error(f"mDNS is not possible here: {error.strerror}; close some files, or raise the limit (ulimit -n)"))
        finally:
            self._begun.set()

    async def _live(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._loop, self._task = asyncio.get_running_loop(), task
        self._begun.set()
        while True:
            try:
                await self._work()
            except (Error, OSError, RuntimeError, ZeroconfError) as error:
                self._fail(error if isinstance(error, Error) else Error(f"mDNS failed: {error or type(error).__name__}"))
            if not self._patience:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _work(self) -> None:
        raise NotImplementedError

    def _well(self) -> None:
        self.failure = None
        self.tried.set()

    def _fail(self, error: Error) -> None:
        if self.failure is None and self._patience:
            log.warning("%s (this is tried again every %.0f s)", error, RETRY_SECONDS)
        self.failure = error
        self.tried.set()


@contextlib.asynccontextmanager
async def opened(addresses: Iterable[str]) -> AsyncIterator[Zeroconf]:
    """zeroconf on the interfaces with these addresses; at the end everything is withdrawn. Raises Error."""
    try:
        zeroconf = Zeroconf(list(addresses), ip_version=IPVersion.V4Only)
        outer = AsyncZeroconf(zc=zeroconf)
        try:
            await zeroconf.async_wait_for_start()
            if not zeroconf.engine.senders:
                raise OSError("no interface takes multicasts")
            yield zeroconf
        finally:
            await outer.async_close()
    except OSError as error:
        todo = "let UDP port 5353 be shared (avahi: disallow-other-stacks=no) and multicast pass, or choose an interface that has it"
        raise Error(f"mDNS is not possible here: {error.strerror or error}; {todo}") from error
