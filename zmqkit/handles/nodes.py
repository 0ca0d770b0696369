"""The nodes of one client, and what its sessions with them share: a set that may change while it runs.

Rule 1  What has not been handed to a session may go to any node. What was handed over stays with its own: in doubt it is sent again
        when that node is back, and nowhere else.
Rule 2  A node that refuses puts because it stops has stored none of them: these may go to another one.
Rule 3  Puts go to the first node that is up, or (`spread`) round those that are up and have room. One that is down delays nothing.
Rule 4  A consumer's credit is shared out over the nodes that are up, at least 1 for each.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from zmqkit.errors import Closed, Error, Unreachable, fresh
from zmqkit.handles.asking import Asking
from zmqkit.handles.doors import unreachable
from zmqkit.handles.durations import left
from zmqkit.handles.session import Session, log
from zmqkit.handles.shared import Shared
from zmqkit.handles.waiting import Signal, Steps
from zmqkit.handles.watching import Watch, Watches
from zmqkit.machines.link import ClientMachine
from zmqkit.parcel import PARCEL_BYTES_MAX
from zmqkit.reactor import Reactor, now

if TYPE_CHECKING:
    from zmqkit.handles.crew import Crew
    from zmqkit.handles.finder import Finder
    from zmqkit.handles.intake import Intake
    from zmqkit.security import LinkKeys

GOODBYE_SECONDS = 1.0  # for the node's answer to ours
FIRST_SECONDS = 0.5  # so long one that does not even refuse holds up who wants to know of all
LEAVE_SECONDS = 60.0  # so long a node that left is waited for, if it has not answered all

_all: weakref.WeakSet[Nodes] = weakref.WeakSet()


class Nodes(Shared):
    """`single`: it has one node, and always will. Else `add`, `move` and `remove` change the set."""

    def __init__(
        self, reactor: Reactor, single: bool = True, spread: bool = False, make: Callable[[Nodes, str | None], Session] = Session
    ) -> None:
        super().__init__(reactor, single)
        self.spread, self._make = spread, make
        self.asks = Asking(self)
        self.up, self.ended = Signal(), Signal()
        self.tried = Signal()  # each of them is up, or was found not to be
        self.started = False
        self._joins: list[Callable[[Session], bool]] = []  # what else wants to know of new nodes, until it says False
        self._watches = Watches()
        self.finder: Finder | None = None  # of mdns: it adds, moves and removes
        self.nowhere = Session(self, "")  # never up: there calls wait while there is no node at all
        self.nowhere.reason = "no node was found"
        _all.add(self)

    # -- any thread ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        with self._lock:
            if self.started:
                return
            self.started = True
            for session in self._everyone():
                self._start(session)
            self.reactor.start()
            if self.finder is not None:
                self.finder.begin()
            self.halted = self.error is not None

    @property
    def is_up(self) -> bool:
        return self.up.happened

    def rising(self, timeout: float | None) -> Steps[None]:
        """Until one node is up, and of the others it is known whether they are. Raises Unreachable with the latest reasons."""
        deadline = None if timeout is None else now() + timeout
        if not (yield self.up, timeout) or self.error is not None:
            raise fresh(self.error) if self.error else self.unreachable()
        if self.finder is not None:  # others may answer a second later
            yield self.ended, left(deadline, self.finder.settled_at - now())
        if not self.single:
            yield self.tried, left(deadline, FIRST_SECONDS)

    def unreachable(self) -> Unreachable:
        sessions = self.sessions
        if len(sessions) == 1:
            return unreachable(sessions[0].endpoint, sessions[0].reason, sessions[0].keys)
        if not sessions:
            todo = self.finder.todo if self.finder is not None else ""
            return Unreachable(self.nowhere.name or "any address", self.nowhere.reason, todo)
        reasons = "; ".join(f"{session.endpoint}: {session.reason}" for session in sessions)
        return Unreachable(", ".join(str(session.endpoint) for session in sessions), reasons)

    def why(self) -> str:
        if len(self.sessions) == 1:
            return self.sessions[0].why()
        return "no answer from the nodes" if self.is_up else str(self.unreachable())

    def share(self, session: Session, credit: int) -> int:
        """What this node may have in a consumer's hands of its credit (rule 4)."""
        if self.single or not credit:
            return credit
        if session.leaving:
            return 0
        live = [other for other in self.sessions if other.is_up or other is session]
        return max(1, credit // len(live) + (live.index(session) < credit % len(live)))

    def watch(self) -> Watch:
        """Begins with the nodes that are there."""
        self.admit()
        watch = Watch()
        self.reactor.call(lambda moment: self._watches.begin(watch, [session.info for session in self.sessions]))
        return watch

    # -- the end --------------------------------------------------------------------------------------------------------

    def closing(self, timeout: float) -> Steps[None]:
        """Say goodbye, once what was put and acked before is confirmed, or after `timeout`."""
        if self.error is not None:
            return
        self.stop()
        self.halted, self.error = True, Closed("closed: make a new one")
        everyone = self._everyone()
        for session in everyone:
            session.error, session.part_by = self.error, now() + timeout
        if self.started:
            self.reactor.wake()
            for session in everyone:
                yield session.left, timeout + GOODBYE_SECONDS

    # -- the I/O thread, or before anything begins: the set ---------------------------------------------------------------

    def add(self, endpoint: str | None, name: str = "", node: str = "", keys: LinkKeys | None = None) -> Session:
        """One node more; `node` is its id, if that is known, `keys` are for links to it. One that is there, or just leaves, is kept.

        Raises Closed.
        """
        if self.error is not None:
            raise fresh(self.error)
        for known in (*self.sessions, *self.leaving):
            same = known.node == node if node and known.node else known.endpoint == endpoint
            if same and not known.machine.stopping:
                return self._keep(known, endpoint, name, keys)
        session = self._make(self, endpoint)
        session.name, session.node, session.keys = name, node, keys
        self.sessions = (*self.sessions, session)
        if self.started:
            self.tried.clear()
            self._start(session)
            self._join(session)
        return session

    def _keep(self, session: Session, endpoint: str | None, name: str, keys: LinkKeys | None) -> Session:
        session.name = name or session.name
        self.move(session, endpoint, keys)
        if session.leaving:
            session.leaving, session.part_by = False, inf
            self.leaving = tuple(other for other in self.leaving if other is not session)
            self.sessions = (*self.sessions, session)
            self._watches.tell("came", session.info)
            if session.is_up:
                self.went_up(session, False)
        return session

    def move(self, session: Session, endpoint: str | None, keys: LinkKeys | None = None) -> None:
        """Its node is to be found there now: the next link goes there. One that lives is kept, and so is all that is under way."""
        session.endpoint, session.keys = endpoint, keys
        if session.port is not None:
            session.port.endpoint, session.port.keys = endpoint, keys

    def remove(self, session: Session) -> None:
        """It is none of ours any more. It gets nothing new, what waits of it goes back, and what is in hand may be finished; for what was
        handed over it is waited, LEAVE_SECONDS at most. Puts that it has not answered then are in doubt."""
        if session not in self.sessions:
            return
        self.sessions = tuple(other for other in self.sessions if other is not session)
        session.leaving, session.part_by = True, now() + LEAVE_SECONDS
        self._watches.tell("gone", session.info)
        if self.started:
            self.leaving = (*self.leaving, session)
            if not any(other.is_up for other in self.sessions):
                self.up.clear()
            self._flee(session)
            self._see_tried()
            self._share_anew()

    # -- the I/O thread: turns ---------------------------------------------------------------------------------------------

    def pump(self, session: Session) -> None:
        """Hand over what waits, as far as there is room. Whichever session comes first serves all: what it gives the others wakes them."""
        for producer in list(self._producers.values()):
            if producer.waits and producer.pump(self._put_to(session)) and not self.single:
                self.reactor.wake()

    def _put_to(self, session: Session) -> list[ClientMachine]:
        """Rule 3."""
        if self.single:
            return [session.machine]
        live = [other for other in self.sessions if other.is_up]
        live = [other for other in live if not other.postponed] or live
        return [other.machine for other in (live if self.spread else live[:1])]

    # -- the I/O thread: links ---------------------------------------------------------------------------------------------

    def went_up(self, session: Session, changed: bool) -> None:
        """`changed`: another node than before."""
        self._see_tried()
        self.message_bytes = min([other.message_bytes for other in self.sessions], default=PARCEL_BYTES_MAX)
        if session.leaving:
            return
        if self.finder is not None:
            self.finder.up(session)
        self.up.set()
        self._watches.tell("up", session.info)
        if self.single:
            return
        if changed:
            session.declared.clear()
        self.asks.restate(session)
        for inbox in session.inboxes:
            inbox.state.barred = False
        for other in self._everyone():
            if other is not session and (not other.is_up or other.postponed):
                self._flee(other)
        self._share_anew()

    def went_down(self, session: Session, was_up: bool) -> None:
        self._see_tried()
        if was_up:
            self._watches.tell("down", session.info)
        if self.finder is not None:
            self.finder.down(session, was_up)
        if not any(other.is_up for other in self.sessions):
            self.up.clear()
        self._flee(session)
        if was_up and not self.single:
            self._share_anew()

    def _see_tried(self) -> None:
        if not self.tried.happened and all(session.tried for session in self.sessions):
            self.tried.set()

    def postponed(self, session: Session) -> None:
        """Rule 2."""
        if any(other.is_up and not other.postponed for other in self.sessions):
            self._flee(session)
            self.reactor.wake()

    def _flee(self, session: Session) -> None:
        """What certainly has not happened there may happen elsewhere."""
        if not any(other.is_up for other in self.sessions):
            return
        if not session.is_up:
            session.machine.flee()
        for queue, stream in session.machine.streams.items():
            if flights := stream.take_back():
                self._producers[queue].came_back(flights)

    def _share_anew(self) -> None:
        for session in self._everyone():
            for inbox in session.inboxes:
                inbox.restated = True
        self.reactor.wake()

    # -- the I/O thread: what belongs to all ---------------------------------------------------------------------------------

    def follow(self, join: Callable[[Session], bool]) -> None:
        """Call it for each node that is there, and for each that comes, until it says False."""
        self._joins = [known for known in self._joins if known is not join]
        if all([join(session) for session in self.sessions]) and not self.single:
            self._joins.append(join)

    def _takers(self) -> list[Intake | Crew]:
        with self._lock:
            return [*self._intakes.values(), *self.crews.values()]

    def _everyone(self) -> list[Session]:
        return [*self.sessions, *self.leaving, *([] if self.single else [self.nowhere])]

    def _start(self, session: Session) -> None:
        if session is not self.nowhere:
            session.machine.start(now())
        session.port = self.reactor.attach(session, session.endpoint, session.keys)

    def _join(self, session: Session) -> None:
        self._watches.tell("came", session.info)
        try:
            for taker in self._takers():
                taker.include(session)
        except Error as error:
            log.warning("nothing is taken from %s: %s", session.endpoint, error)
        self._joins = [join for join in self._joins if join(session)]
        self._share_anew()

    def ends(self, session: Session, reason: Exception) -> None:
        """The reactor puts this session away. With the last one all ends; one among others leaves them to themselves."""
        self.leaving = tuple(other for other in self.leaving if other is not session)
        if all(other.ended for other in self._everyone()):
            self.error, self.halted = reason, True
        elif session in self.sessions and not self.reactor.closed:
            self.sessions = tuple(other for other in self.sessions if other is not session)
            self.went_down(session, True)

    def ended_with(self, session: Session, reason: Exception) -> None:
        """All that was this session's has failed. Was it the last?"""
        if not self.single:
            for taker in self._takers():
                taker.exclude(session)
        if self.error is None or not all(other.ended for other in self._everyone()):
            return
        self.fail(reason)
        self._watches.end()
        if self.finder is not None:
            self.finder.end()
        self.up.set()
        self.tried.set()
        self.reactor.turn_ends.append(self.ended.set)  # once the reactor has put everything away


def _forked() -> None:
    error = Closed("this is a forked child: the connection belongs to the parent, make a new one")
    for nodes in list(_all):
        nodes.halted, nodes.error = True, error
        for session in (*nodes.sessions, *nodes.leaving):
            session.error = error
            for inbox in session.inboxes:
                inbox.front = None  # what waits there is the parent's to handle


os.register_at_fork(after_in_child=_forked)
