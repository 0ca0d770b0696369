"""`zmqkit.current()`: what a running handler may know of the call that it answers."""

from __future__ import annotations

from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any

from zmqkit.errors import Error
from zmqkit.reactor import now

if TYPE_CHECKING:
    from zmqkit.handles.requests import CallHand

AGES = 1e8  # seconds; a caller without a timeout says more than this


class Current:
    """One call in a handler's hands.

    deadline   as time.time() counts; inf if the caller waits for ever. `remaining`: seconds left until then, 0.0 after
    cancelled  True as soon as nobody waits for the answer, or the call is not this worker's any more: look at it now and then
    headers    what the caller sent beside the body
    key        the caller's idempotency key, to store with the effect; "" if there is none
    attempt    1 at first; more if a keyed call has cost other workers their lives
    user       the name of who called, if the node asks for keys; else None
    token      of the lease, as the node's log names it where one ended; it only rises (to fence with)
    """

    __slots__ = ("hand", "index")

    def __init__(self, hand: CallHand, index: int) -> None:
        self.hand, self.index = hand, index

    @property
    def service(self) -> str:
        return self.hand.inbox.queue[1:]

    @property
    def deadline(self) -> float:
        return inf if self.hand.terms.seconds > AGES else self.hand.lease.ends_at

    @property
    def remaining(self) -> float:
        return max(0.0, self.deadline - now())

    @property
    def cancelled(self) -> bool:
        return self.hand.gone(self.index)

    @property
    def headers(self) -> dict[str, Any]:
        return self.hand.column("headers", self.index) or {}

    @property
    def key(self) -> str:
        return self.hand.terms.key

    @property
    def user(self) -> str | None:
        return self.hand.terms.user or None

    @property
    def attempt(self) -> int:
        return self.hand.lease.attempt

    @property
    def token(self) -> int:
        return self.hand.lease.token

    def __repr__(self) -> str:
        return f"<Current call of {self.service!r}>"


CURRENT: ContextVar[Current | None] = ContextVar("zmqkit.current", default=None)


def current() -> Current:
    """The call that this handler answers. Raises Error outside of one."""
    call = CURRENT.get()
    if call is None:
        raise Error("no call is being answered here: current() is for the handlers of services")
    return call
