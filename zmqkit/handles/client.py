"""Client: a connection to a node, or several; and the part that a Node shares with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from zmqkit.errors import Error
from zmqkit.handles.admin import Policy, QueueInfo, TopicInfo, declaring, listing
from zmqkit.handles.answers import CallFuture, Waiter
from zmqkit.handles.calling import CALL_SECONDS, RETRIES, Calls
from zmqkit.handles.crew import Crew, Service
from zmqkit.handles.durations import Duration, patience, seconds
from zmqkit.handles.hand import Credit
from zmqkit.handles.producer import Headers
from zmqkit.handles.queue import ASK_SECONDS, Queue
from zmqkit.handles.routing import Route
from zmqkit.handles.serving import Serving
from zmqkit.handles.session import Session
from zmqkit.handles.streaming import Parts, Stream
from zmqkit.handles.topic import Topic
from zmqkit.handles.waiting import run
from zmqkit.reactor import Reactor
from zmqkit.sockets import check_address

if TYPE_CHECKING:
    from zmqkit.aio.peer import Client as AsyncClient

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Any], Any])
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"


class Peer:
    """What Client and Node have in common."""

    _session: Session  # the first, if there are several
    _calls: Calls

    @property
    def _alone(self) -> Session:
        """The one session. Raises Error for a client of several nodes."""
        if not self._calls.route.single:
            raise Error("a client of several nodes can call, and follow topics: for queues and services connect to one of them")
        return self._session

    @property
    def _server(self) -> Session:
        """Whose services ours are."""
        return self._alone

    @overload
    def queue(self, name: str) -> Queue[Any]: ...
    @overload
    def queue(self, name: str, type: type[T]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, type: Any) -> Queue[Any]: ...
    def queue(self, name: str, type: Any = None) -> Queue[Any]:
        """A handle on that queue. With `type` (a dataclass, TypedDict, msgspec or pydantic type) bodies are checked at both ends."""
        return Queue(self._alone, name, type)

    def topic(self, name: str, type: Any = None) -> Topic[Any]:
        """A handle on that topic. With `type` (a dataclass, TypedDict, msgspec or pydantic type) values are checked at both ends."""
        return Topic(self._calls.route.sessions, name, type)

    def queues(self, timeout: Duration | None = ASK_SECONDS) -> list[QueueInfo]:
        """All queues of the node."""
        return run(listing(self._alone, "list", "queues", QueueInfo, timeout))

    def topics(self, timeout: Duration | None = ASK_SECONDS) -> list[TopicInfo]:
        """All topics of the node."""
        return run(listing(self._alone, "topic_list", "topics", TopicInfo, timeout))

    def declare(self, name: str, policy: Policy, timeout: Duration | None = ASK_SECONDS) -> Policy:
        """Make the queue, or with a TopicPolicy the topic, or change its policy. Returns what holds from now on."""
        return run(declaring(self._alone, name, policy, timeout))

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
        session = self._server
        return session.crew(side, lambda: Crew(session))

    # -- the end ----------------------------------------------------------------------------------------------------------

    def flush(self, timeout: Duration | None = 5.0) -> None:
        """Wait until every put and ack so far has its answer. Raises the first failure that nobody was told of, or Timeout."""
        self._session.flush(patience(timeout))

    def stop(self) -> None:
        """Every consumer and `serve` ends after what it has in hand, the rest goes back. May be called in a signal handler."""
        self._session.stop()

    def close(self, timeout: Duration = 5.0) -> None:
        """Confirm what is under way, for at most `timeout` seconds, and say goodbye: what is still in hand goes back, uncounted.

        Calls that have no answer by then end with Closed. Raises the first failure that nobody was told of.
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

    def __init__(self, endpoints: Sequence[str], timeout: float | None, lazy: bool, spread: bool) -> None:
        for endpoint in endpoints:
            check_address(str(endpoint))
        self.endpoints = list(endpoints)
        reactor = Reactor("zmqkit-client")
        sessions = [Session(reactor, endpoint) for endpoint in endpoints]
        self._session, self._calls = sessions[0], Calls(Route(sessions, spread))
        if not lazy:
            self._session.begin()
            try:
                run(self._calls.route.rising(timeout))
            except BaseException:
                self._close(0.0)
                raise

    @property
    def endpoint(self) -> str:
        """The first one."""
        return self.endpoints[0]

    def __enter__(self) -> Client:
        return self

    def __repr__(self) -> str:
        return f"<Client of {', '.join(self.endpoints)}>"


def chosen(endpoints: Sequence[str | None]) -> list[str]:
    """Those that were given, or the usual one."""
    return [endpoint for endpoint in endpoints if endpoint] or [os.environ.get("ZMQKIT_ENDPOINT") or DEFAULT_ENDPOINT]
