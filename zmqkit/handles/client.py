"""Client: a connection to one node, and the part that a Node shares with it."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from zmqkit.handles.admin import QueueInfo
from zmqkit.handles.durations import Duration, patience, seconds
from zmqkit.handles.queue import ASK_SECONDS, Queue
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Steps, run
from zmqkit.machines.policy import QueuePolicy
from zmqkit.reactor import Reactor
from zmqkit.sockets import check_address

if TYPE_CHECKING:
    from zmqkit.aio.peer import Client as AsyncClient

T = TypeVar("T")
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"


class Peer:
    """What Client and Node have in common."""

    _session: Session

    @overload
    def queue(self, name: str) -> Queue[Any]: ...
    @overload
    def queue(self, name: str, type: type[T]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, type: Any) -> Queue[Any]: ...
    def queue(self, name: str, type: Any = None) -> Queue[Any]:
        """A handle on that queue. With `type` (a dataclass, TypedDict, msgspec or pydantic type) bodies are checked at both ends."""
        return Queue(self._session, name, type)

    def queues(self, timeout: Duration | None = ASK_SECONDS) -> list[QueueInfo]:
        """All queues of the node."""
        return run(self._listing(timeout))

    def _listing(self, timeout: Duration | None) -> Steps[list[QueueInfo]]:
        found: list[QueueInfo] = []
        more = True
        while more:  # a node tells so many at a time as fit one answer
            after = {"after": found[-1].name} if found else {}
            told = yield from self._session.asking("list", after, patience(timeout))
            found += [QueueInfo.from_wire(info) for info in told["queues"]]
            more = told["more"]
        return found

    def declare(self, queue: str, policy: QueuePolicy, timeout: Duration | None = ASK_SECONDS) -> QueuePolicy:
        """Make the queue, or change its policy. Returns what holds from now on."""
        result = self._session.ask("declare", {"queue": queue, "policy": policy.to_wire()}, patience(timeout))
        return QueuePolicy.from_wire(result["policy"])

    def flush(self, timeout: Duration | None = 5.0) -> None:
        """Wait until every put and ack so far has its answer. Raises the first failure that nobody was told of, or Timeout."""
        self._session.flush(patience(timeout))

    def stop(self) -> None:
        """Every consumer ends after what it has in hand, the rest goes back. May be called in a signal handler."""
        self._session.stop()

    def close(self, timeout: Duration = 5.0) -> None:
        """Confirm what is under way, for at most `timeout` seconds, and say goodbye: what is still in hand goes back, uncounted.

        Raises the first failure that nobody was told of.
        """
        self._close(seconds(timeout))
        self._session.raise_unseen()

    def _close(self, timeout: float) -> None:
        self._session.close(timeout)
        self._session.reactor.close(timeout)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close(5.0)
        if error is None:
            self._session.raise_unseen()


class Client(Peer):
    """Made by `connect`."""

    aio: AsyncClient  # its twin for asyncio, on the same link; set by zmqkit.aio

    def __init__(self, endpoint: str, timeout: float | None, lazy: bool) -> None:
        check_address(str(endpoint))
        self.endpoint = endpoint
        self._session = Session(Reactor("zmqkit-client"), endpoint)
        if not lazy:
            self._session.begin()
            try:
                self._session.wait_up(timeout)
            except BaseException:
                self._close(0.0)
                raise

    def __enter__(self) -> Client:
        return self

    def __repr__(self) -> str:
        return f"<Client of {self.endpoint}>"


def connect(endpoint: str | None = None, *, timeout: Duration | None = 5.0, lazy: bool = False) -> Client:
    """A client of the node at `endpoint` (else $ZMQKIT_ENDPOINT, else tcp://127.0.0.1:5555).

    Raises Unreachable if no node answers within `timeout` seconds, and at once for what is no address. `lazy` connects at first
    use instead. A link that is lost later is mended for ever; calls wait meanwhile, inside their timeouts.
    """
    return Client(endpoint or os.environ.get("ZMQKIT_ENDPOINT") or DEFAULT_ENDPOINT, patience(timeout), lazy)
