"""PPP outwards (RFC 6): a worker and a caller of ours at a queue that somebody else runs, such as the Guide's.

    worker   READY [0x01]   HEARTBEAT [0x02]   REQUEST [client · '' · body…]   REPLY [client · '' · body]
    caller   REQUEST ['' · body]               REPLY ['' · body…]

Rule 1  The Guide's queue takes whatever a worker sends for "ready for work", a heartbeat too. So a busy worker is mute. A heartbeat that
        crosses a request brings a second one all the same; that is asked for as well, and until both are done we are mute.
Rule 2  So being ready again after a request that got no answer is said by READY. The client will ask again; PPP has no word for it.
Rule 3  The queue is given up after three silent seconds, when we are idle: a new socket under a new routing id, for the old one may
        still stand there as another's, after 1 s, doubling to 32 s until anything is heard. If it speaks in the meantime, it was only
        slow: we stay, say READY again, and what it handed to us is not lost.
Rule 4  A body is one frame: the Guide's worker takes messages of exactly three, and its client reads one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from zmqkit.gateways.clients import REQUEST_SECONDS
from zmqkit.gateways.desk import Desk, Frames
from zmqkit.gateways.outward import BACKOFF_SECONDS, BACKOFF_SECONDS_MAX, TRY_SECONDS, ClientLink, WorkerLink
from zmqkit.gateways.ppp import BEAT_SECONDS, HEARTBEAT, READY

CALLS_MAX = 16  # one, or two by rule 1; a queue that hands out more than that does not wait for answers


class PppWorkerLink(WorkerLink):
    """`new_routing_id` is chance from outside: never the same twice, at no worker of that queue."""

    def __init__(
        self, desk: Desk, service: str, new_routing_id: Callable[[], bytes], *, beat_seconds: float = BEAT_SECONDS,
        call_seconds: float = REQUEST_SECONDS, backoff_seconds: float = BACKOFF_SECONDS, backoff_seconds_max: float = BACKOFF_SECONDS_MAX,
    ) -> None:  # fmt: skip
        super().__init__(
            desk, service, beat_seconds=beat_seconds, call_seconds=call_seconds, calls_max=CALLS_MAX, body_frames_max=1,
            backoff_seconds=backoff_seconds, backoff_seconds_max=backoff_seconds_max,
        )  # fmt: skip
        self._new_routing_id = new_routing_id

    def _opened(self, now: float) -> None:
        self.routing_id = self._new_routing_id()
        self._ready(now)

    def _read(self, frames: Frames, now: float) -> str:
        is_request = len(frames) > 2 and frames[0] != b"" and frames[1] == b""
        if not is_request and frames != [HEARTBEAT]:
            return "bad-message"
        if self._waiting:
            self._opens_at = inf
            self._ready(now)
        self._heard(now)
        if not is_request:
            return ""
        # Rule 1, and what was about to leave would have said "ready" too.
        self._beat_at = inf
        self._out = [waits for waits in self._out if waits not in ([HEARTBEAT], [READY])]
        return self._call(frames[0], frames[2:])

    def _ready(self, now: float) -> None:
        self._out.append([READY])
        self._beat_at = now + self._beat_seconds
        self._heard(now)

    def _beat(self) -> None:
        self._out.append([HEARTBEAT])

    def _answer(self, client: bytes, body: Frames, now: float) -> None:
        self._out.append([client, b"", *body])
        if not self._calls:
            self._beat_at = now + self._beat_seconds

    def _unanswered(self, now: float) -> None:
        if not self._calls:
            self._ready(now)  # rule 2


class PppClientLink(ClientLink):
    """At a queue's frontend, or at any REP or ROUTER that answers what a REQ asks.

    `tries` above 1 makes it a Lazy Pirate, which asks again, each time on a new socket. Nobody there knows that it is the same request.
    """

    def __init__(
        self, desk: Desk, service: str, *, tries: int = 1, try_seconds: float = TRY_SECONDS,
        backoff_seconds: float = BACKOFF_SECONDS, backoff_seconds_max: float = BACKOFF_SECONDS_MAX,
    ) -> None:  # fmt: skip
        super().__init__(
            desk, service, [b""], tries=tries, try_seconds=try_seconds, body_frames_max=1,
            backoff_seconds=backoff_seconds, backoff_seconds_max=backoff_seconds_max,
        )  # fmt: skip
