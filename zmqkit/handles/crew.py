"""The services of one client, at each of its nodes, the handlers that are free for them, and who takes which call."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from zmqkit.errors import Closed, Error, fresh
from zmqkit.handles.answers import Load
from zmqkit.handles.calling import loader
from zmqkit.handles.current import Current
from zmqkit.handles.hand import Credit, Demand
from zmqkit.handles.names import service_name
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.requests import CallHand, Requests
from zmqkit.handles.session import Session
from zmqkit.wire import SERVICE_MARK

Function = Callable[[Any], Any]
EVERYBODY = 2**32

log = logging.getLogger("zmqkit.work")


class Service:
    """A function under a name, for all callers of the nodes. `close` takes the name back."""

    def __init__(self, crew: Crew, name: str, function: Function, load: Load) -> None:
        self._crew, self.name, self.function, self.load = crew, name, function, load

    def close(self) -> None:
        """Take no more calls: what runs is finished, the rest goes to other workers. The name may be used again."""
        self._crew.close(self)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Service {self.name!r}>"


class Handlers(Protocol):
    """Threads or tasks that answer the calls of all services of a crew."""

    count: int
    credit: Credit
    demands: dict[str, Demand]  # by service
    error: Error | None  # why the node ended it

    def stop(self) -> None: ...

    def ring(self) -> None:
        """Something came. With the crew's lock held, perhaps on the I/O thread."""


class Crew:
    """`lock` is that of the crew and all its inboxes."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.lock = threading.RLock()
        self.news = 0
        self.sleepers: deque[threading.Lock] = deque()  # one of each thread that waits; what a Condition does, with fewer steps
        self._called = 0  # so many are to be called when this turn of the I/O thread ends
        self.taken, self.taken_at = 0, -inf  # calls in handlers' hands, and when one last was taken; of the I/O thread
        self._line: tuple[Requests, ...] = ()  # where something waits
        self._turn = 0
        self._lock = threading.Lock()
        self._services: dict[str, tuple[Service, list[Requests]]] = {}  # with an inbox at each node
        self._pools: list[Handlers] = []
        self._handlers = 0
        self.watchers: list[Callable[[CallHand], None]] = []  # told of calls for which nobody waits any more; on the I/O thread

    # -- any thread: who serves what --------------------------------------------------------------------------------------

    def add(self, name: str, function: Function, wanted: Any) -> Service:
        """Raises Error if this client serves that name already."""
        service_name(name)
        if not callable(function):
            raise TypeError(f"a service is a function of one body, not {function!r}")
        if self.nodes.error is not None:
            raise fresh(self.nodes.error)
        service = Service(self, name, function, loader(wanted))
        with self._lock:
            if name in self._services:
                raise Error(f"this client serves {name!r} already: close that service first")
            inboxes = [self._inbox(service, session) for session in self.nodes.sessions]
            self._services[name] = service, inboxes
            for pool in self._pools:
                self._begin(pool, name, inboxes)
        return service

    def register(self, name: str, function: Function | None, wanted: Any) -> Any:
        """A Service for a function, or a decorator that leaves its function as it is."""
        if function is not None:
            return self.add(name, function, wanted)

        def decorate(function: Function) -> Function:
            self.add(name, function, wanted)
            return function

        return decorate

    def _inbox(self, service: Service, session: Session) -> Requests:
        while True:
            inbox = session.inbox(SERVICE_MARK + service.name, lambda: Requests(self, session, service.name))
            assert isinstance(inbox, Requests), "marked names are those of services"
            if inbox.crew is not self:
                raise Error(f"this client serves {service.name!r} already: close that service first")
            inbox.service = service
            if session.holds(inbox):  # else it was cleared away, as one that is closed
                return inbox

    def close(self, service: Service) -> None:
        with self._lock:
            known = self._services.get(service.name)
            if known is None or known[0] is not service:
                return
            del self._services[service.name]
            demands = [pool.demands.pop(service.name) for pool in self._pools if service.name in pool.demands]  # else it was barred
            for inbox in known[1]:
                inbox.service = None
                for demand in demands:
                    inbox.end(demand)
                inbox.restate()

    def bar(self, inbox: Requests, error: Error) -> None:
        """This node does not let us serve that name. Who serves nothing else, there or anywhere, ends. On the I/O thread."""
        log.warning("%s", error)
        with self._lock:
            inbox.demands.clear()
            inbox.restate()
            known = self._services.get(inbox.name)
            if known is not None and any(other.demands for other in known[1]):
                return
            for pool in list(self._pools):
                demand = pool.demands.pop(inbox.name, None)
                if demand is not None:
                    demand.ended = True
                    if not pool.demands:
                        pool.error = error
                        pool.stop()

    def join(self, pool: Handlers) -> None:
        """From now on these handlers serve all there is, and what comes."""
        self.nodes.admit()
        with self._lock:
            self._pools.append(pool)
            self._handlers += pool.count
            for name, (_, inboxes) in self._services.items():
                self._begin(pool, name, inboxes)

    def _begin(self, pool: Handlers, name: str, inboxes: list[Requests]) -> None:
        demand = pool.demands[name] = Demand(pool.credit, 0.0)
        for inbox in inboxes:
            inbox.demands.append(demand)
            inbox.restate()

    # -- the I/O thread: the set of nodes changes ---------------------------------------------------------------------------

    def include(self, session: Session) -> None:
        """All is served at this node, too."""
        with self._lock:
            for name, (service, inboxes) in self._services.items():
                inbox = self._inbox(service, session)
                if inbox not in inboxes:  # else `add` has met it
                    inboxes.append(inbox)
                    inbox.demands += [pool.demands[name] for pool in self._pools if name in pool.demands]
                    inbox.restate()

    def exclude(self, session: Session) -> None:
        """It is put away."""
        with self._lock:
            for _, inboxes in self._services.values():
                inboxes[:] = [inbox for inbox in inboxes if inbox.session is not session]

    # -- any thread: the end ------------------------------------------------------------------------------------------------

    def leave(self, pool: Handlers) -> None:
        """They take nothing more. No lock is taken: a signal handler may call it."""
        try:
            self._pools.remove(pool)
        except ValueError:
            return  # they have left already
        self._handlers -= pool.count
        for name, demand in list(pool.demands.items()):
            demand.ended = True  # also where there is no node
            for inbox in known[1] if (known := self._services.get(name)) is not None else ():
                inbox.end(demand)
        try:
            self.nodes.reactor.call(lambda moment: self.wake())
        except Closed:
            pass  # `fail` has woken them

    def offers(self) -> dict[str, int]:
        """Each service, and how many handlers there are for it."""
        handlers = self._handlers
        return dict.fromkeys(list(self._services), handlers) if handlers else {}

    def stop(self) -> None:
        for pool in list(self._pools):
            pool.stop()

    def fail(self) -> None:
        """The client is over."""
        self.stop()
        self.wake()

    # -- any thread: taking -----------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Handlers that could begin something now."""
        return max(0, self._handlers - self.taken)

    @property
    def waits(self) -> int:
        """Calls that could be taken now, or so."""
        return sum(inbox.waits() for inbox in self._line)

    def take(self) -> Current | None:
        """A call that may be started now; of several services each has its turn."""
        line = self._line
        self._turn = turn = self._turn + 1  # that two threads may count as one does no harm
        for place in range(len(line)):
            inbox = line[(turn + place) % len(line)]
            call = inbox.take_call() if inbox.waits() else None
            if call is not None:
                return call
            with self.lock:
                if inbox.lined and not inbox.waits():
                    inbox.lined = False
                    self._line = tuple(other for other in self._line if other is not inbox)
        return None

    def wait(self, seen: int, ended: Callable[[], bool]) -> None:
        """For a thread: until there is news after `seen`, or its pool has ended."""
        gate = threading.Lock()
        gate.acquire()
        with self.lock:
            if self.news != seen or ended():
                return
            self.sleepers.append(gate)
        gate.acquire()

    def notify(self, inbox: Requests, count: int | None) -> None:
        """With the lock held, on the I/O thread. `count` None: for all."""
        self.news += 1
        if not inbox.lined and inbox.waits():
            inbox.lined = True
            self._line = (*self._line, inbox)
        if not self._called:
            self.nodes.reactor.turn_ends.append(self._call)
        self._called += EVERYBODY if count is None else count
        for pool in self._pools:
            pool.ring()

    def _call(self) -> None:
        with self.lock:
            called, self._called = min(self._called, len(self.sleepers)), 0
            for _ in range(called):
                self.sleepers.popleft().release()

    def wake(self) -> None:
        with self.lock:
            self.news += 1
            self._called = EVERYBODY
            self._call()
            for pool in self._pools:
                pool.ring()

    def gone(self, hand: CallHand) -> None:
        for watcher in list(self.watchers):
            watcher(hand)
