"""PPP, the Paranoid Pirate Protocol (RFC 6): the queue between Lazy Pirate clients and Paranoid Pirate workers.

    door 0, clients   REQUEST  ['' · body…]       REPLY ['' · body…]
    door 1, workers   READY    [0x01]             HEARTBEAT [0x02], both ways
                      REQUEST  [cid · '' · body]  REPLY [cid · '' · body…]

PPP has no names: all of its workers serve one service of the node, and all of its clients ask for that.

Rule 1  Every worker is sent a HEARTBEAT each second, idle or busy: the Guide's worker takes a silent queue for a dead one.
Rule 2  A heartbeat is presence and nothing else (RFC 6). The Guide's queue takes it for "give me more", and gives a busy worker a
        second request; ours does not.
Rule 3  "The first message in any conversation MUST be W:READY" (RFC 6), but who never noticed that the queue was away, because it came
        back within three seconds, does not begin a new one. If we kept silent until it does, it would be lost to us for four seconds;
        if we greeted it and waited for READY, for ever. So from a worker that we do not know a HEARTBEAT is as good as READY, and so
        is a REPLY, whose request is not ours. The price: one that is busy for an earlier queue gets its next request early, and
        keeps it until it is done. Anything else from a stranger is dropped.
Rule 4  READY of a worker that we know is no second worker, and means that it began anew only if it goes on as one that waits for work.
Rule 5  A request has one body frame, for the Guide's worker takes messages of exactly three frames and is silent about others.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqkit.gateways.broker import Broker
from zmqkit.gateways.clients import REQUEST_SECONDS, Call, size_of
from zmqkit.gateways.desk import Desk, Frames, Request, Send

FRONTEND, BACKEND = 0, 1
READY, HEARTBEAT = b"\x01", b"\x02"
SERVICE = "ppp"
BEAT_SECONDS = 1.0
EXPIRY_SECONDS = 3.0


class Ppp(Broker):
    def __init__(
        self, desk: Desk, *, salt: bytes, service: str = SERVICE, request_seconds: float = REQUEST_SECONDS,
        beat_seconds: float = BEAT_SECONDS, expiry_seconds: float = EXPIRY_SECONDS,
    ) -> None:  # fmt: skip
        super().__init__(desk, salt, request_seconds, beat_seconds, expiry_seconds)
        self._service = service

    # -- verbs of the driver --------------------------------------------------------------------------------------------

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        self._workers.listen(now)
        if door == FRONTEND:
            self._drop(self._asked(peer, list(frames)))
        else:
            self._drop(self._worked(peer, list(frames)))
        self._workers.restate()

    def gone(self, door: int, peer: bytes, now: float) -> None:
        self._workers.listen(now)
        if door == FRONTEND:
            self._clients.gone(peer)
        else:
            self._workers.gone(peer)
        self._workers.restate()

    def tick(self, now: float) -> None:
        self._workers.listen(now)
        self._workers.expire()
        self._workers.decide()
        while (worker := self._workers.overdue()) is not None:
            # Its next HEARTBEAT makes it ready again (rule 3). If it does run that job still, it keeps the next one until then.
            self._workers.forget(worker, "")
        self._out += [Send(BACKEND, worker.peer, [HEARTBEAT]) for worker in self._workers.due_beats()]
        self._workers.restate()

    def take(self) -> list[Send]:
        out, self._out = self._out, []
        return out + [Send(BACKEND, worker.peer, frames) for worker, frames in self._workers.take()]

    @property
    def deadline(self) -> float:
        return self._workers.deadline

    # -- what peers say: each returns why it was dropped, or "" ---------------------------------------------------------

    def _asked(self, peer: bytes, frames: list[bytes]) -> str:
        """RFC 6: "an optional address stack with null terminator, followed by a message content of 1 or more parts"."""
        if b"" not in frames[:-1]:
            return "bad-request"
        body = frames.index(b"") + 1
        return self._clients.ask(peer, self._service, frames[body:], frames[:body], kept=size_of(frames[:body]))

    def _worked(self, peer: bytes, frames: list[bytes]) -> str:
        worker = self._workers.find(peer)
        signal = frames[0] if len(frames) == 1 else b""
        is_reply = len(frames) > 2 and frames[0] != b"" and frames[1] == b""
        if worker is None:
            if signal not in (READY, HEARTBEAT) and not is_reply:
                return "stranger"
            if self._workers.enlist(peer, self._service) is None:
                return "too-many-workers"
            return "stray-reply" if is_reply else ""
        if is_reply:
            return self._workers.answer(worker, frames[0], frames[2:])
        if signal == READY:
            self._workers.greet(worker)
            return ""
        self._workers.see(worker)  # whatever it says, it is there
        return "" if signal == HEARTBEAT else "bad-message"

    # -- what the desk says -----------------------------------------------------------------------------------------------

    def _hand(self, request: Request) -> None:
        if len(request.frames) == 1:
            self._workers.hand(request)
        else:
            self._workers.refuse(request, "a PPP worker takes one body frame")

    def _tell(self, call: Call, frames: Frames, last: bool) -> None:
        self._out.append(Send(FRONTEND, call.peer, [*call.head, *(frames or [b""])]))
