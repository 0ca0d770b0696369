"""The inboxes of one queue at several nodes, as one: each has its turn, so none of them is served more than another that has as much.

They share what belongs to loops and gets (who consumes, who waits, what is stale); leases, words and windows are each one's own.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import Any

from zmqkit.errors import Closed, Error
from zmqkit.handles.hand import Part
from zmqkit.handles.inbox import Inbox
from zmqkit.handles.intake import Convert, D, Intake, log
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Reply
from zmqkit.machines.consumer import SLOW_SECONDS, ConsumerState
from zmqkit.machines.holdings import HeldLease
from zmqkit.reactor import now

ASK_AGAIN_SECONDS = 5.0  # after so long a node that opened no window is asked again, for those who go on taking from others


class Portion(ConsumerState):
    """Of the work ahead: at each node as much as at the one that needs most, for whoever runs dry misses its turn, and then gets even
    less. None anywhere while every handler is slow, whichever node its message came from."""

    def __init__(self, whole: Inboxes) -> None:
        super().__init__(whole.queue)
        self._whole = whole

    @property
    def window(self) -> int:
        if self.barred:
            return 0
        return self.window_with(max(state.ahead for state in self._whole.states) if self.ahead else 0)

    @property
    def slow_at(self) -> float:
        waits = self.autos and self.ahead and self._whole.taken and not self.idle_handlers
        return self._whole.taken_at + SLOW_SECONDS if waits else inf

    def report(self, handed: int, buffered: int, now: float) -> None:
        whole = self._whole
        if handed != self._handed:
            whole.taken_at = now
        self._taken_at = whole.taken_at
        super().report(handed, buffered, now)
        if whole.taken and not self.idle_handlers and now >= whole.taken_at + SLOW_SECONDS:
            self.ahead = 0


class Share(Inbox):
    """The inbox at one of them."""

    def __init__(self, session: Session, whole: Inboxes) -> None:
        super().__init__(session, whole.queue)
        self._whole = whole
        self.state = Portion(whole)
        self.lock, self.changed, self.demands, self.stale = whole.lock, whole.changed, whole.demands, whole.stale
        self.waiting = whole.waiting
        self.opened = False  # the last time it was asked, it opened a window
        self.anew = False  # for the I/O thread: somebody has come who has not been refused yet
        self._ask_at = inf
        self._told = ""  # why it opens none, as it is in the log

    @property
    def idle(self) -> int:
        return self._whole.idle

    def _notify(self, count: int | None) -> None:
        self._whole._notify(count)

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    def pump(self, moment: float) -> bool:
        state = self.state
        if state.barred and moment >= self._ask_at:
            state.barred = False
        elif state.barred:
            self.session.machine.remind(self._ask_at)
        return super().pump(moment)

    def _restate(self) -> None:
        if self.anew:
            self.anew = self.state.barred = False
        super()._restate()

    def echoed(self, beat: int, behind: bool) -> None:
        if self.state.stated and not self.state.barred:  # a refusal comes before the echo
            self.opened, self._told = True, ""
        super().echoed(beat, behind)

    def granted(self, lease: HeldLease) -> None:
        self.opened, self.state.barred = True, False  # a refusal that met a new question on its way is past
        super().granted(lease)

    def bar(self, error: Error) -> None:
        self.state.barred, self.state.stated, self.opened = True, 0, False
        self._ask_at = now() + ASK_AGAIN_SECONDS
        self.session.machine.remind(self._ask_at)
        self._whole.barred_at(self, error)

    def report_bar(self, error: Error) -> None:
        if str(error) != self._told:
            self._told = str(error)
            log.warning("nothing is taken from %s: %s", self.session.endpoint, error)


class Asked:
    """A get's question to each node."""

    def __init__(self, replies: list[tuple[Share, Reply]]) -> None:
        self.replies = replies

    @property
    def happened(self) -> bool:
        return all(reply.happened or not share.session.is_up for share, reply in self.replies)


class Inboxes(Intake):
    def __init__(self, nodes: Nodes, queue: str) -> None:
        super().__init__(nodes, queue)
        self._shares: tuple[Share, ...] = ()  # replaced and never changed: any thread may look
        self._turn = 0
        self.taken_at = -inf  # when a handler last took one, of any node; the I/O thread's
        for session in nodes.sessions:
            self.include(session)

    # -- any thread -----------------------------------------------------------------------------------------------------

    def take(self, kind: type[D], convert: Convert) -> D | None:
        for share in self._in_turn():
            delivery = share.take(kind, convert)
            if delivery is not None:
                return delivery
        return None

    def take_many(self, most: int, convert: Convert) -> tuple[list[Part], list[Any]]:
        parts: list[Part] = []
        bodies: list[Any] = []
        for share in self._in_turn():
            more_parts, more_bodies = share.take_many(most - len(bodies), convert)
            parts += more_parts
            bodies += more_bodies
            if len(bodies) == most:
                break
        return parts, bodies

    def _in_turn(self) -> tuple[Share, ...]:
        shares = self._shares
        self._turn = turn = (self._turn + 1) % len(shares) if shares else 0
        return shares[turn:] + shares[:turn]

    def seek(self, count: int, probe: bool) -> Asked:
        with self.lock:
            self.waiting += count
            replies = []
            for share in self._shares:
                share.anew, share.waiting = True, self.waiting
                if probe:
                    reply = Reply()
                    share.probes[reply] = None
                    replies.append((share, reply))
        self.restate()
        return Asked(replies)

    def sought(self, count: int, question: Asked) -> None:
        with self.lock:
            self.waiting -= count
            for share in self._shares:
                share.waiting = self.waiting
            for share, reply in question.replies:
                share.probes.pop(reply, None)
        self.restate()

    @property
    def unsaid(self) -> bool:
        return any(share.words for share in self._shares)

    def restate(self) -> None:
        for share in self._shares:
            share.restated = True
        self.nodes.reactor.wake()
        if not self._shares:  # nobody but us tells who waits
            with suppress(Closed):
                self.nodes.reactor.call(lambda moment: self.tell(None))

    @property
    def states(self) -> list[ConsumerState]:
        return [share.state for share in self._shares]

    @property
    def taken(self) -> int:
        """Messages in handlers' hands."""
        return sum(state.taken for state in self.states)

    def barred_at(self, share: Share, error: Error) -> None:
        """That node opens no window. Only where none does is anybody told."""
        if self.others_open(share):
            share.report_bar(error)
            return
        self.bar(error)
        for other in self._shares:
            other.waiting, other.state.barred = 0, False  # who asks later, asks anew

    def others_open(self, share: Share) -> bool:
        """Another node may open a window: it is up or on its way, or did so before its link ended."""
        others = (other for other in self._shares if other is not share and not other.state.barred)
        return any(other.session.is_up or other.opened or not other.session.tried for other in others)

    # -- the I/O thread, or before anybody takes --------------------------------------------------------------------------

    def include(self, session: Session) -> None:
        share: Any = session.inbox(self.queue, lambda: Share(session, self))
        with self.lock:
            if share not in self._shares:
                share.waiting = self.waiting
                self._shares = (*self._shares, share)
        share.restate()

    def exclude(self, session: Session) -> None:
        with self.lock:
            self._shares = tuple(share for share in self._shares if share.session is not session)
            self._notify(None)
