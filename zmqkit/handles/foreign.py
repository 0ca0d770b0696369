"""A client of somebody else's broker: mdp://HOST:PORT (7/MDP) or ppp://HOST:PORT (6/PPP).

It is a node in memory, at no address, with links to that broker: what is called here is asked there, and what is served here
is offered there. So deadlines, outcomes and cancellation are those of every other call; what a link cannot know (did the
worker there begin?) is told as "may have been executed".
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from zmqkit.bridge import OutwardBridge
from zmqkit.errors import Error
from zmqkit.handles import gateways
from zmqkit.handles.calling import Calls, CallTicket, Lane
from zmqkit.handles.client import Client
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.producer import Headers
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import run
from zmqkit.journal import MemoryLog
from zmqkit.machines.events import Failed, Outcome
from zmqkit.machines.node import NodeMachine
from zmqkit.parcel import Parcel
from zmqkit.reactor import Reactor

CALLS_AT_ONCE = 4  # of one service: a link carries one request at a time, for no number tells whose answer comes
WORKERS_MAX = 64  # of one service: as many as its handlers, but each is a connection
START_SECONDS = 10.0


class Links:
    """To one broker: callers of what is called here, workers of what is served here. On the I/O thread.

    What is called has another name in this process than what is served: a call goes to the broker, also if we would be its worker.
    """

    def __init__(self, session: Session, endpoint: str) -> None:
        self._session, self._endpoint = session, endpoint
        self._names: dict[str, str] = {}  # of services that are called
        self._callers: dict[str, list[OutwardBridge]] = {}  # by those
        self._workers: dict[str, list[OutwardBridge]] = {}  # by service
        self._call = session.machine.call

    def call(
        self, service: str, parcel: Parcel, ticket: Any, deadline: float, attempts: int, key: str = "", parts: int = 0
    ) -> None:
        """As the machine's: there are links by which that service is asked, from its first use on."""
        name = self._names.get(service)
        if name is None:
            # A pirate queue knows no names.
            name = self._names[service] = f">{len(self._names) if self._endpoint.startswith('mdp') else ''}"
        if name not in self._callers:
            link = partial(gateways.link_client, self._session.reactor, self._endpoint, name, service)
            self._callers[name] = [link() for _ in range(CALLS_AT_ONCE)]
            self._session.reactor.wake()
        # Whether somebody serves the name, only the broker knows: nobody can be asked for a worker that is there at once.
        self._call(name, parcel, ticket, deadline, max(2, attempts), key, parts)

    def follow(self) -> None:
        """One worker at the broker for each handler of a service: who has a request gets no other."""
        wanted: Counter[str] = Counter()
        for crew in list(self._session.nodes.crews.values()):
            wanted.update(crew.offers())
        for service in [*wanted, *(self._workers.keys() - wanted.keys())]:
            links, count = self._workers.setdefault(service, []), min(WORKERS_MAX, wanted[service])
            if len(links) < count:
                links += [gateways.link_worker(self._session.reactor, self._endpoint, service) for _ in range(count - len(links))]
                self._session.reactor.wake()
            for surplus in [bridge for bridge in links if bridge.link.idle][: max(0, len(links) - count)]:
                links.remove(surplus)
                self._session.reactor.call(partial(_leave, surplus))
            if not links:
                del self._workers[service]

    def trouble(self, service: str) -> str:
        """Why that service cannot be asked; "": it can."""
        reasons = [bridge.trouble for bridge in self._callers.get(self._names.get(service, ""), [])]
        return reasons[0] if all(reasons) and reasons else ""


def _leave(bridge: OutwardBridge, moment: float) -> None:
    bridge.leave()


class ForeignSession(Session):
    def __init__(self, nodes: Nodes, endpoint: str | None) -> None:
        super().__init__(nodes, None)
        assert endpoint, "its broker's"
        self.links = Links(self, endpoint)
        self.machine.call = self.links.call
        self._broker, self._trouble = endpoint, ""

    def why(self) -> str:
        return f"no broker at {self._broker}: {self._trouble}" if self._trouble else f"no answer from {self._broker}"

    def pump(self, moment: float) -> None:
        super().pump(moment)
        self.links.follow()

    def handle(self, events: list[Any], moment: float) -> None:
        super().handle([self._explained(event) if type(event) is Failed else event for event in events], moment)

    def _explained(self, event: Failed) -> Failed:
        """No link had room for this call: because the broker is not there?"""
        ticket: CallTicket = event.ticket
        self._trouble = self.links.trouble(ticket.lane.service)
        if self._trouble and event.outcome in (Outcome.NO_WORKER, Outcome.UNDISPATCHED):
            return event._replace(outcome=Outcome.NOT_SENT)
        return event


class ForeignCalls(Calls):
    def begin(self, lane: Lane, size: int, key: str | None, headers: Headers | None, parts: int) -> CallTicket:
        if parts:
            raise Error("7/MDP and 6/PPP answer in one piece: use call()")
        if headers:
            raise Error("7/MDP and 6/PPP carry no headers: put them into the body")
        return super().begin(lane, size, key, headers, parts)


class ForeignClient(Client):
    """A client of what is no node of ours: a node in this process, that nobody else sees, stands between, and it has links to there."""

    def __init__(self, endpoint: str, lazy: bool, session: Callable[[Nodes, str | None], Session], calls: Callable[[Nodes], Calls]) -> None:
        gateways.foreign_address(endpoint)
        self.endpoints = [endpoint]
        log, reactor = MemoryLog(), Reactor("zmqkit-foreign")
        self._nodes = Nodes(reactor, make=session)
        self._calls = calls(self._nodes)
        self._nodes.add(endpoint)
        reactor.host(NodeMachine(log.node, log.epoch, name=endpoint, durability=log.durability, jitter=random.random), log, [])
        if not lazy:
            self._nodes.begin()
            try:
                run(self._nodes.rising(START_SECONDS))
            except BaseException:
                self._close(0.0)
                raise


class Foreign(ForeignClient):
    """Made by `connect`. Bodies are bytes, or a list of bytes for several frames."""

    def __init__(self, endpoint: str, lazy: bool) -> None:
        super().__init__(endpoint, lazy, ForeignSession, ForeignCalls)

    @property
    def _hosts(self) -> Nodes:
        raise Error(f"{self.endpoint} has no queues: connect to a node of zmqkit for those")

    @property
    def _servers(self) -> Nodes:
        return self._nodes
