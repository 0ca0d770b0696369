"""Which node a call goes to, and what is done with one that came back: the client of several nodes (RFC 10, Freelance).

Rule 1  A call that was certainly not executed may be made again, inside its deadline. One that may have been goes to another
        node only if it has a key.
Rule 2  Every node that is up is asked once, whatever `retries` says. After that a round is as good as a retry.
Rule 3  Where the link is down, what has not left waits only while no other node is up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from zmqkit.handles.nodes import Nodes
from zmqkit.handles.session import Session
from zmqkit.machines.events import Outcome

if TYPE_CHECKING:
    from zmqkit.handles.calling import CallTicket

BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.05, 1.0
NOT_EXECUTED = (Outcome.NOT_SENT, Outcome.NO_WORKER, Outcome.STOPPING, Outcome.QUOTA)


class Again(NamedTuple):
    """A call is made once more."""

    at: float
    tried: tuple[Session, ...]  # nodes it is not given to: they have sent it back in this round
    tries: int
    rounds: int


class Route:
    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._turn = 0

    def pick(self, tried: Sequence[Session] = ()) -> Session:
        """The first that is up and was not tried, or the next one (`spread`); if there is none, one for it to wait at."""
        nodes = self._nodes
        sessions = nodes.sessions
        if nodes.single:
            return sessions[0]
        if nodes.spread and sessions:
            self._turn = turn = (self._turn + 1) % len(sessions)
            sessions = tuple(sorted(sessions[turn:] + sessions[:turn], key=lambda session: session.calls_open))
        live = [session for session in sessions if session.is_up]
        return next((session for session in live if session not in tried), (live or [*sessions, nodes.nowhere])[0])

    def again(self, ticket: CallTicket, outcome: Outcome, retry_after: float, moment: float) -> Again | None:
        """What follows from this outcome; None: it is the last word."""
        in_doubt = outcome is Outcome.MAYBE_EXECUTED
        if moment >= ticket.deadline or not (outcome in NOT_EXECUTED or (in_doubt and ticket.key and not self._nodes.single)):
            return None
        if outcome is Outcome.NO_WORKER and self._nodes.single:
            return None  # the node has waited for one as long as it may
        last = ticket.tries + 1 >= ticket.lane.attempts
        tried = (*ticket.tried, ticket.session)
        if not (in_doubt and last) and self._others(tried):
            return Again(moment, tried, ticket.tries + in_doubt, ticket.rounds)
        counts = in_doubt or outcome is Outcome.QUOTA
        if ticket.lane.attempts == 1 or (counts and last):
            return None
        at = moment + max(retry_after, _backoff(ticket.rounds))
        return Again(at, (), ticket.tries + counts, ticket.rounds + 1) if at < ticket.deadline else None

    def _others(self, tried: Sequence[Session]) -> bool:
        return any(session.is_up and session not in tried for session in self._nodes.sessions)


def _backoff(rounds: int) -> float:
    """0.05 s, doubling to 1 s, ± 50 %."""
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * float(2 ** min(rounds, 10))) * (0.5 + os.urandom(1)[0] / 255)
