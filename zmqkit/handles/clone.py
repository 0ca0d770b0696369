"""A client of somebody else's Clone server: clone://HOST:PORT (12/CHP). It has one topic, whatever it is called here.

Handles, states and events are those of every topic. Where a client speaks with its node, each subscription has a link of its own to
that server, which says what a node would say.
"""

from __future__ import annotations

from typing import Any

from zmqkit import wire
from zmqkit.clone_outward import TRY_SECONDS, Follower, Setter
from zmqkit.errors import Error
from zmqkit.handles import gateways
from zmqkit.handles.calling import Calls, CallTicket
from zmqkit.handles.foreign import ForeignClient
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.outcome import Ticket
from zmqkit.handles.session import Session
from zmqkit.handles.topic import Topic
from zmqkit.handles.waiting import Steps
from zmqkit.machines import events as ev
from zmqkit.machines.following import Following
from zmqkit.parcel import Parcel
from zmqkit.reactor import now
from zmqkit.updates import Updates
from zmqkit.wire import Code, Kind, Start

STARTS = (Start.SNAPSHOT, Start.NOW, Start.POSITION)  # a position means nothing there: it is answered with a gap, and the snapshot


class Links(Following):
    """A client's subscriptions, with a link for each. On the I/O thread."""

    def __init__(self, session: CloneSession, endpoint: str) -> None:
        super().__init__()
        self._session, self._endpoint = session, endpoint
        self._followers: dict[int, Follower] = {}  # by number of their SUB
        self._setter: Setter | None = None

    def sends(self) -> list[wire.Command]:
        for command in super().sends():
            self._say(command)
        return []  # there is no node that would want to know

    def _say(self, command: wire.Command) -> None:
        reactor = self._session.reactor
        if isinstance(command, wire.Sub):
            if command.name or command.start not in STARTS:
                text = 'a Clone server keeps no history and no positions: start="snapshot" or "now", without a name'
                self.refused(wire.Refused(Kind.SUB, command.topic, command.number, 1, Code.MALFORMED, 0.0, text))
                return
            follower = self._followers[command.number] = Follower(command, self._heard, now())
            gateways.link_follower(reactor, self._endpoint, follower)
        elif isinstance(command, wire.Unsub) and command.number in self._followers:
            gone = self._followers.pop(command.number)
            reactor.call(lambda moment: gone.leave())
        elif isinstance(command, wire.Seen) and command.number in self._followers:
            self._followers[command.number].link.taken(command.taken, now())
            reactor.wake()

    def _heard(self, told: Any) -> None:
        self.hear(told, now())
        self._session.reactor.wake()

    # -- publishing -----------------------------------------------------------------------------------------------------

    def has_room(self, queue: str, full: bool) -> bool:
        """As the machine's: for a batch, once the connection stands."""
        if self._setter is None:
            self._setter = Setter(self._sent)
            gateways.link_setter(self._session.reactor, self._endpoint, self._setter)
        if self._setter.has_room:
            return True
        self._session.machine.remind(now() + TRY_SECONDS)
        return False

    def put(self, queue: str, parcel: Parcel, ticket: Any) -> None:
        """As the machine's."""
        assert self._setter is not None, "ask has_room first"
        self._setter.put(Updates.read(parcel), ticket)
        self._session.reactor.wake()

    def _sent(self, ticket: Any) -> None:
        self._session.handle([ev.Stored(ticket, 0, "sent")], now())

    @property
    def flying(self) -> list[Ticket]:
        return self._setter.tickets if self._setter is not None else []

    @property
    def trouble(self) -> str:
        found = [link.trouble for link in (self._setter, *self._followers.values()) if link is not None and link.trouble]
        return found[0] if found else ""


class CloneSession(Session):
    def __init__(self, nodes: Nodes, endpoint: str | None) -> None:
        super().__init__(nodes, None)
        assert endpoint, "its server's"
        self._server = endpoint
        self.machine.following = self.links = links = Links(self, endpoint)
        self.machine.has_room, self.machine.put = links.has_room, links.put  # type: ignore[method-assign]

    @property
    def flying(self) -> list[Ticket]:
        return self.links.flying

    def why(self) -> str:
        trouble = self.links.trouble
        return f"no Clone server at {self._server}: {trouble}" if trouble else f"no answer from {self._server}"

    def asking(self, verb: str, arguments: dict[str, Any], timeout: float | None) -> Steps[dict[str, Any]]:
        raise Error("a Clone server answers no questions")


class NoCalls(Calls):
    def begin(self, *arguments: Any) -> CallTicket:
        raise Error("a Clone server has no services: connect to a broker or a node for those")


class CloneClient(ForeignClient):
    """Made by `connect`. Values are bytes; what is published as a text goes out as UTF-8, anything else as JSON."""

    def __init__(self, endpoint: str, lazy: bool) -> None:
        super().__init__(endpoint, lazy, CloneSession, NoCalls)

    def topic(self, name: str, type: Any = None) -> Topic[Any]:
        """A handle on what the server has, by any name. `publish` returns once the update has left; nobody confirms it."""
        return super().topic(name, type)

    @property
    def _hosts(self) -> Nodes:
        raise Error(f"{self.endpoint} has one topic and nothing else: connect to a node of zmqkit for queues and services")
