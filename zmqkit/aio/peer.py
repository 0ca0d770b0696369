"""Node and Client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, overload

from zmqkit.aio.bell import Bell
from zmqkit.aio.calling import Answer, Stream, sender_of
from zmqkit.aio.queue import Queue
from zmqkit.aio.serving import Serving
from zmqkit.aio.topic import Topic
from zmqkit.aio.watching import Watch
from zmqkit.discovery.found import Found
from zmqkit.errors import Closed
from zmqkit.handles import client, finding, node
from zmqkit.handles.admin import Policy, QueueInfo, TopicInfo, declaring, listing
from zmqkit.handles.calling import CALL_SECONDS, RETRIES, Sender
from zmqkit.handles.connecting import made
from zmqkit.handles.crew import Crew, Service
from zmqkit.handles.durations import Duration, patience, seconds
from zmqkit.handles.hand import Credit
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.producer import Headers
from zmqkit.handles.queue import ASK_SECONDS
from zmqkit.handles.session import Session
from zmqkit.handles.streaming import Parts
from zmqkit.handles.waiting import Steps
from zmqkit.handles.watching import NodeInfo

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[[Any], Any])
END_SECONDS = 10.0  # for the I/O thread to put things away


class Peer:
    """What Client and Node have in common."""

    def __init__(self) -> None:
        self._senders: dict[asyncio.AbstractEventLoop, Sender] = {}  # of calls

    @property
    def _peer(self) -> client.Peer:
        """The twin for threads."""
        raise NotImplementedError

    @property
    def _nodes(self) -> Nodes:
        return self._peer._nodes

    @property
    def _session(self) -> Session:
        """That with the first node."""
        return self._peer._session

    @overload
    def queue(self, name: str) -> Queue[Any]: ...
    @overload
    def queue(self, name: str, type: type[T]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, type: Any) -> Queue[Any]: ...
    def queue(self, name: str, type: Any = None) -> Queue[Any]:
        """A handle on that queue. With `type` (a dataclass, TypedDict, msgspec or pydantic type) bodies are checked at both ends."""
        return Queue(self._peer.queue(name, type))

    def topic(self, name: str, type: Any = None) -> Topic[Any]:
        """A handle on that topic. With `type` (a dataclass, TypedDict, msgspec or pydantic type) values are checked at both ends."""
        return Topic(self._peer.topic(name, type))

    async def queues(self, timeout: Duration | None = ASK_SECONDS) -> list[QueueInfo]:
        """All queues. Those of one name at several nodes are told as one."""
        return await self._ask(listing(self._peer._hosts, "list", "queues", QueueInfo, timeout))

    async def topics(self, timeout: Duration | None = ASK_SECONDS) -> list[TopicInfo]:
        """All topics. Those of one name at several nodes are told as one."""
        return await self._ask(listing(self._peer._hosts, "topic_list", "topics", TopicInfo, timeout))

    async def declare(self, name: str, policy: Policy, timeout: Duration | None = ASK_SECONDS) -> Policy:
        """Make the queue, or with a TopicPolicy the topic, or change its policy. Returns what holds from now on."""
        return await self._ask(declaring(self._peer._hosts, name, policy, timeout))

    async def _ask(self, steps: Steps[R]) -> R:
        return await Bell.of(self._peer._hosts).drive(steps)

    # -- calls ------------------------------------------------------------------------------------------------------------

    async def call(self, service: str, body: Any = None, timeout: Duration | None = CALL_SECONDS, retries: int = RETRIES,
                   idempotency_key: str | None = None, headers: Headers | None = None, type: Any = None) -> Any:  # fmt: skip
        """The answer of some worker that serves this name, within `timeout` seconds for all. Options and errors as for threads.

        Cancelled, the call is cancelled too, at the worker if one has begun.
        """
        loop = asyncio.get_running_loop()
        sender = self._senders.get(loop) or self._sender(loop)
        # A stock future: a task waits for one without a detour through Python, which a subclass would cost.
        future = loop.create_future()
        sender.add(future, service, body, timeout, retries, idempotency_key, headers, type)
        try:
            return await future
        except asyncio.CancelledError:
            sender.calls.cancel(future)
            raise

    def call_soon(self, service: str, body: Any = None, timeout: Duration | None = CALL_SECONDS, retries: int = RETRIES,
                  idempotency_key: str | None = None, headers: Headers | None = None, type: Any = None) -> Answer:  # fmt: skip
        """A future of this loop. Cancelling it, or who awaits it, reaches the worker."""
        loop = asyncio.get_running_loop()
        answer = Answer(loop=loop)
        self._sender(loop).add(answer, service, body, timeout, retries, idempotency_key, headers, type)
        return answer

    def _sender(self, loop: asyncio.AbstractEventLoop) -> Sender:
        """That of the running loop."""
        for other in [other for other in self._senders if other.is_closed()]:
            del self._senders[other]
        sender = self._senders[loop] = sender_of(self._peer._calls)
        return sender

    def stream(self, service: str, body: Any = None, timeout: Duration | None = None, headers: Headers | None = None, type: Any = None,
               window: int = 16, retries: int = 0) -> Stream[Any]:  # fmt: skip
        """The parts of an answer, one by one as they come: `async for part in mq.stream(…)`. Options as for threads."""
        calls = self._peer._calls
        parts = Parts(calls, window)
        calls.threads.add(parts, service, body, timeout, retries, None, headers, type, window)
        return Stream(parts)

    @overload
    def service(self, name: str, function: None = None, *, type: Any = None) -> Callable[[F], F]: ...
    @overload
    def service(self, name: str, function: Callable[[Any], Any], *, type: Any = None) -> Service: ...
    def service(self, name: str, function: Any = None, *, type: Any = None) -> Any:
        """As for threads. The function is a coroutine function, an async generator, which streams, or a plain function that is
        quick: it runs on the loop."""
        return self._crew().register(name, function, type)

    async def serve(self, threads: int = 1000, block: bool = True, credit: Credit = "auto") -> Serving:
        """Run all services of this client, also those that come, in up to `threads` tasks.

        Ends by SIGTERM or SIGINT (in the main thread), `stop()` of this client, or of the returned handle (`block=False`): what
        runs is finished, the rest goes to other workers. Cancelled, it cancels what runs.
        """
        serving = Serving(self._crew(), threads, credit)
        if block:
            await serving.run_until_stopped()
        return serving

    def _crew(self) -> Crew:
        nodes = self._peer._servers
        return nodes.crew("asyncio", lambda: Crew(nodes))

    def nodes(self) -> list[NodeInfo]:
        """Those that are this client's now, up or not."""
        return self._peer.nodes()

    def watch(self) -> Watch:
        """`async for` nodes that come, are up, are down, and go. As for threads."""
        return Watch(self._nodes)

    # -- the end ----------------------------------------------------------------------------------------------------------

    async def flush(self, timeout: Duration | None = 5.0) -> None:
        """Wait until every put and ack so far has its answer. Raises the first failure that nobody was told of, or Timeout.

        Puts that still stand in line for room are those of this loop.
        """
        bell, limit = Bell.of(self._nodes), patience(timeout)
        begun = bell.loop.time()
        for lane in list(bell.lanes.values()):
            await lane.drained(limit)
        await bell.drive(self._nodes.flushing(None if limit is None else max(0.0, begun + limit - bell.loop.time())))

    def stop(self) -> None:
        """Every consumer and `serve` ends after what it has in hand, the rest goes back. May be called in a signal handler."""
        self._nodes.stop()

    async def close(self, timeout: Duration = 5.0) -> None:
        """Confirm what is under way, for at most `timeout` seconds, and say goodbye: what is still in hand goes back, uncounted.

        Calls that have no answer by then end with Closed. Raises the first failure that nobody was told of.
        """
        await self._close(seconds(timeout))
        self._nodes.raise_unseen()

    async def _close(self, timeout: float) -> None:
        nodes = self._nodes
        bell, reactor = Bell.of(nodes), nodes.reactor
        await bell.drive(nodes.closing(timeout))
        if not nodes.started:
            reactor.close(0.0)
            return
        try:
            reactor.call(lambda now: reactor.close(timeout))  # on its own thread it does not wait for itself
        except Closed:
            pass  # it has ended already
        await bell.wait(nodes.ended, timeout + END_SECONDS)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close(5.0)
        if error is None:
            self._nodes.raise_unseen()


class Client(Peer):
    """Made by `connect`; `async with` it, or `await` it, to be connected."""

    def __init__(self, twin: client.Client, timeout: float | None, lazy: bool) -> None:
        super().__init__()
        self._twin, self._timeout, self._lazy = twin, timeout, lazy

    @property
    def _peer(self) -> client.Client:
        return self._twin

    @property
    def endpoint(self) -> str:
        """The first one."""
        return self._twin.endpoint

    @property
    def endpoints(self) -> list[str]:
        return self._twin.endpoints

    async def _start(self) -> Client:
        if self._lazy:
            return self
        self._nodes.admit()
        try:
            await Bell.of(self._nodes).drive(self._nodes.rising(self._timeout))
        except BaseException:
            await self._close(0.0)
            raise
        return self

    def __await__(self) -> Generator[Any, None, Client]:
        return self._start().__await__()

    async def __aenter__(self) -> Client:
        return await self._start()

    def __repr__(self) -> str:
        return f"<aio.Client of {', '.join(self.endpoints)}>"


def connect(*endpoints: str | None, timeout: Duration | None = 5.0, lazy: bool = False, spread: bool = False,
            keys: str | None = None, mdns_interface: str | None = None) -> Client:  # fmt: skip
    """A client of the node at that endpoint (else $ZMQKIT_ENDPOINT, else tcp://127.0.0.1:5555): `async with` it, or `await` it.

    That raises Unreachable if no node answers within `timeout` seconds. `lazy` connects at first use instead. A link that is
    lost later is mended for ever; calls wait meanwhile, inside their timeouts. Several endpoints, keys and mdns: as in `zmqkit.connect`.
    """
    limit = patience(timeout)
    return Client(made(endpoints, limit, lazy=True, spread=spread, keys=keys, interface=mdns_interface), limit, lazy)


async def discover(timeout: Duration = 2.0, interface: str | None = None) -> list[Found]:
    """The nodes that answer within `timeout` seconds; see `zmqkit.discover`."""
    return await asyncio.get_running_loop().run_in_executor(None, finding.discover, timeout, interface)


class Node(Peer):
    """Hosts queues at the given endpoints: `async with` it, or `await` it, to begin. Arguments as those of `zmqkit.Node`.

    The journal is opened and read on another thread, for that may take its time.
    """

    def __init__(self, *endpoints: str, journal: str | None = None, durability: str | None = None, name: str | None = None,
                 mdp: str | None = None, ppp: tuple[str, str] | None = None, titanic: bool = False, clone: str | None = None,
                 clone_topic: str = "clone", announce: bool = False, mdns_interface: str | None = None, keys: str | None = None,
                 insecure: bool = False) -> None:  # fmt: skip
        super().__init__()
        self._open: Callable[[], node.Node] = partial(
            node.Node, *endpoints, journal=journal, durability=durability, name=name, mdp=mdp, ppp=ppp, titanic=titanic, clone=clone,
            clone_topic=clone_topic, announce=announce, mdns_interface=mdns_interface, keys=keys, insecure=insecure,
        )  # fmt: skip
        self._twin: node.Node | None = None

    @classmethod
    def of(cls, twin: node.Node) -> Node:
        """The twin of a node that serves already."""
        self = cls()
        self._twin = twin
        return self

    @property
    def _peer(self) -> node.Node:
        if self._twin is None:
            raise Closed("this node has not begun: `async with` it, or `await` it")
        return self._twin

    @property
    def name(self) -> str:
        return self._peer.name

    @property
    def endpoint(self) -> str:
        """The first real one, with the port that was taken where 0 was asked for; "" if there is none."""
        return self._peer.endpoint

    @property
    def endpoints(self) -> list[str]:
        return self._peer.endpoints

    @property
    def gateways(self) -> dict[str, list[str]]:
        """The real endpoints of each foreign protocol: {"mdp": [endpoint], "ppp": [of clients, of workers], "clone": [of snapshots]}."""
        return self._peer.gateways

    @property
    def dropped(self) -> dict[str, int]:
        """What peers said in vain since it began, counted by reason; that of foreign ones as "mdp:reason"."""
        return self._peer.dropped

    @property
    def failure(self) -> Exception | None:
        """Why it serves no more: JournalFailed, or Closed after `close`. None while all is well."""
        return self._peer.failure

    async def _start(self) -> Node:
        if self._twin is None:
            opening = asyncio.get_running_loop().run_in_executor(None, self._open)
            try:
                self._twin = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close_late)
                raise
        return self

    async def _close(self, timeout: float) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._peer._retire, timeout)
        await super()._close(timeout)

    def __await__(self) -> Generator[Any, None, Node]:
        return self._start().__await__()

    async def __aenter__(self) -> Node:
        return await self._start()

    def __repr__(self) -> str:
        return f"<aio.Node at {', '.join(self._twin.endpoints) or 'this process'}>" if self._twin else "<aio.Node, not begun>"


def _close_late(opening: asyncio.Future[node.Node]) -> None:
    """Nobody waits for this node any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.get_loop().run_in_executor(None, opening.result().close)
