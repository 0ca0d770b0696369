"""Client: a connection to a node, or several; and the part that a Node shares with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from zmqkit.handles.admin import Policy, QueueInfo, TopicInfo, declaring, listing
from zmqkit.handles.answers import CallFuture, Waiter
from zmqkit.handles.calling import CALL_SECONDS, RETRIES, Calls
from zmqkit.handles.crew import Crew, Service
from zmqkit.handles.durations import Duration, patience, seconds
from zmqkit.handles.finder import Finder
from zmqkit.handles.finding import is_mdns
from zmqkit.handles.hand import Credit
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.producer import Headers
from zmqkit.handles.queue import ASK_SECONDS, Queue
from zmqkit.handles.serving import Serving
from zmqkit.handles.session import Session
from zmqkit.handles.streaming import Parts, Stream
from zmqkit.handles.topic import Topic
from zmqkit.handles.waiting import run
from zmqkit.handles.watching import NodeInfo, Watch
from zmqkit.reactor import Reactor
from zmqkit.security import Keys
from zmqkit.sockets import check_address

if TYPE_CHECKING:
    from zmqkit.aio.peer import Client as AsyncClient

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Any], Any])
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"


class Peer:
    """What Client and Node have in common."""

    _nodes: Nodes
    _calls: Calls

    @property
    def _session(self) -> Session:
        """That with the first node."""
        return self._nodes.sessions[0]

    @property
    def _hosts(self) -> Nodes:
        """Where queues and policies are. Raises Error for a client of what has none."""
        return self._nodes

    @property
    def _servers(self) -> Nodes:
        """Where services are offered. Raises Error for a client of what has none."""
        return self._hosts

    @overload
    def queue(self, name: str) -> Queue[Any]: ...
    @overload
    def queue(self, name: str, type: type[T]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, type: Any) -> Queue[Any]: ...
    def queue(self, name: str, type: Any = None) -> Queue[Any]:
        """A handle on that queue. With `type` (a dataclass, TypedDict, msgspec or pydantic type) bodies are checked at both ends."""
        return Queue(self._hosts, name, type)

    def topic(self, name: str, type: Any = None) -> Topic[Any]:
        """A handle on that topic. With `type` (a dataclass, TypedDict, msgspec or pydantic type) values are checked at both ends."""
        return Topic(self._nodes, name, type)

    def queues(self, timeout: Duration | None = ASK_SECONDS) -> list[QueueInfo]:
        """All queues. Those of one name at several nodes are told as one."""
        return run(listing(self._hosts, "list", "queues", QueueInfo, timeout))

    def topics(self, timeout: Duration | None = ASK_SECONDS) -> list[TopicInfo]:
        """All topics. Those of one name at several nodes are told as one."""
        return run(listing(self._hosts, "topic_list", "topics", TopicInfo, timeout))

    def declare(self, name: str, policy: Policy, timeout: Duration | None = ASK_SECONDS) -> Policy:
        """Make the queue, or with a TopicPolicy the topic, or change its policy. Returns what holds from now on.

        Of several nodes at all that are up, and at each that comes up later.
        """
        return run(declaring(self._hosts, name, policy, timeout))

    # -- calls ------------------------------------------------------------------------------------------------------------

    def call(self, service: str, body: Any = None, timeout: Duration | None = CALL_SECONDS, retries: int = RETRIES,
             idempotency_key: str | None = None, headers: Headers | None = None, type: Any = None) -> Any:  # fmt: skip
        """The answer of some worker that serves this name, within `timeout` seconds for all.

        retries          so many workers more may be tried, as far as nothing runs twice by that; 0: raise NoWorker at once
        idempotency_key  the same key gives the same answer for ten minutes; a call with one is made again if its worker dies
        type             what the answer is made into, and checked against

        Raises RemoteError (the handler's words), NoWorker, Timeout (`maybe_executed` tells), NotSent, QuotaExceeded, Forbidden,
        MessageTooLarge, Unencodable. Interrupted, the call is cancelled.
        """
        waiter = Waiter()
        try:
            self._calls.threads.add(waiter, service, body, timeout, retries, idempotency_key, headers, type)
            return waiter.value()
        except BaseException:  # an interrupt may come anywhere in here
            waiter.abandon()
            raise

    def call_soon(self, service: str, body: Any = None, timeout: Duration | None = CALL_SECONDS, retries: int = RETRIES,
                  idempotency_key: str | None = None, headers: Headers | None = None, type: Any = None) -> CallFuture:  # fmt: skip
        """A future of the answer. Cancelling it reaches the worker."""
        future = CallFuture()
        self._calls.threads.add(future, service, body, timeout, retries, idempotency_key, headers, type)
        return future

    def stream(self, service: str, body: Any = None, timeout: Duration | None = None, headers: Headers | None = None, type: Any = None,
               window: int = 16, retries: int = 0) -> Stream[Any]:  # fmt: skip
        """The parts of an answer, one by one as they come, from a service that is a generator.

        The worker is at most `window` parts ahead. `timeout` is for the whole stream. `with` the stream, or `close()` it, to end it
        early; so does dropping it.
        """
        parts = Parts(self._calls, window)
        self._calls.threads.add(parts, service, body, timeout, retries, None, headers, type, window)
        return Stream(parts)

    @overload
    def service(self, name: str, function: None = None, *, type: Any = None) -> Callable[[F], F]: ...
    @overload
    def service(self, name: str, function: Callable[[Any], Any], *, type: Any = None) -> Service: ...
    def service(self, name: str, function: Any = None, *, type: Any = None) -> Any:
        """Answer calls of that name with `function(body)`, as soon and as long as `serve` runs: `@mq.service("price")`, which
        leaves the function as it is, or `mq.service("price", function)`, which gives a Service to close. A generator streams.
        `type`: what bodies are made into, and checked against."""
        return self._crew().register(name, function, type)

    def serve(self, threads: int = 4, block: bool = True, credit: Credit = "auto") -> Serving:
        """Run all services of this client, also those that come, in `threads` threads.

        Ends by SIGTERM or SIGINT (in the main thread), `stop()` of this client, or of the returned handle (`block=False`): what
        runs is finished, the rest goes to other workers.
        """
        serving = Serving(self._crew(), threads, credit)
        if block:
            serving.run_until_stopped()
        else:
            serving.start()
        return serving

    def _serve_apart(self, side: str, offers: dict[str, Callable[[Any], Any]], threads: int) -> tuple[list[Service], Serving]:
        """These services, in threads that run no others; nor does `serve` run these."""
        crew = self._crew(side)
        services = [crew.add(name, function, None) for name, function in offers.items()]
        serving = Serving(crew, threads, "auto")
        serving.start()
        return services, serving

    def _crew(self, side: str = "threads") -> Crew:
        nodes = self._servers
        return nodes.crew(side, lambda: Crew(nodes))

    def nodes(self) -> list[NodeInfo]:
        """Those that are this client's now, up or not."""
        return [session.info for session in self._nodes.sessions]

    def watch(self) -> Watch:
        """Nodes that come, are up, are down, and go: an iterator that begins with those there are, and ends when the client is closed.
        It keeps the last 1,000 events that nobody took."""
        return self._nodes.watch()

    # -- the end ----------------------------------------------------------------------------------------------------------

    def flush(self, timeout: Duration | None = 5.0) -> None:
        """Wait until every put and ack so far has its answer. Raises the first failure that nobody was told of, or Timeout."""
        run(self._nodes.flushing(patience(timeout)))

    def stop(self) -> None:
        """Every consumer and `serve` ends after what it has in hand, the rest goes back. May be called in a signal handler."""
        self._nodes.stop()

    def close(self, timeout: Duration = 5.0) -> None:
        """Confirm what is under way, for at most `timeout` seconds, and say goodbye: what is still in hand goes back, uncounted.

        Calls that have no answer by then end with Closed. Raises the first failure that nobody was told of.
        """
        self._close(seconds(timeout))
        self._nodes.raise_unseen()

    def _close(self, timeout: float) -> None:
        run(self._nodes.closing(timeout))
        self._nodes.reactor.close(timeout)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close(5.0)
        if error is None:
            self._nodes.raise_unseen()


class Client(Peer):
    """Made by `connect`."""

    aio: AsyncClient  # its twin for asyncio, on the same link; set by zmqkit.aio

    def __init__(
        self, endpoints: Sequence[str], timeout: float | None, lazy: bool, spread: bool, keys: Keys | None = None,
        interface: str | None = None,
    ) -> None:  # fmt: skip
        self.endpoints = list(dict.fromkeys(endpoints))
        finds = len(self.endpoints) == 1 and is_mdns(self.endpoints[0])
        self._nodes = nodes = Nodes(Reactor("zmqkit-client"), len(self.endpoints) == 1 and not finds, spread or finds)
        self._calls = Calls(nodes)
        if finds:
            nodes.nowhere.name = self.endpoint
            nodes.finder = Finder(nodes, self.endpoint, keys, interface)
        else:
            for endpoint in self.endpoints:
                check_address(str(endpoint))
                nodes.add(endpoint, keys=keys.link(endpoint) if keys else None)
        if not lazy:
            nodes.begin()
            try:
                run(nodes.rising(timeout))
            except BaseException:
                self._close(0.0)
                raise

    @property
    def endpoint(self) -> str:
        """The first one; "" if none was given."""
        return self.endpoints[0] if self.endpoints else ""

    def __enter__(self) -> Client:
        return self

    def __repr__(self) -> str:
        return f"<Client of {', '.join(self.endpoints)}>"


def chosen(endpoints: Sequence[str | None]) -> list[str]:
    """Those that were given, or the usual one; each may be several, with commas between."""
    given = [endpoint for endpoint in endpoints if endpoint] or [os.environ.get("ZMQKIT_ENDPOINT") or DEFAULT_ENDPOINT]
    parts = [part for endpoint in given for part in str(endpoint).split(",")]
    return parts if len(parts) == 1 else [part.strip() for part in parts if part.strip()]
