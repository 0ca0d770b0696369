"""MDP 0.1 outwards (RFC 7): a worker and a caller of ours at a broker that somebody else runs, such as the Guide's.

    worker   READY ['' · MDPW01 · 1 · service]             REQUEST    ['' · MDPW01 · 2 · client · '' · body…]
             REPLY ['' · MDPW01 · 3 · client · '' · body]  HEARTBEAT  ['' · MDPW01 · 4]
                                                           DISCONNECT ['' · MDPW01 · 5]  heard, never said
    caller   REQUEST ['' · MDPC01 · service · body]        REPLY      ['' · MDPC01 · service · body…]

Rule 1  The Guide's broker dies of a worker's DISCONNECT, at once if that worker is busy, and of a second READY on one connection. So we
        say neither: READY is the first word on a socket and nowhere else, and who leaves is silent. The RFC allows both.
Rule 2  A heartbeat means presence and nothing else, so it leaves every 2.5 s, busy or idle.
Rule 3  A request that got no answer leaves us busy in the broker's books for ever, for only REPLY ends it, and an empty REPLY would be a
        lie to the client. So the socket is given up without a word and READY said on a new one, which is a new worker. The price: the
        Guide's broker keeps the old one in memory, one entry for each such request.
Rule 4  DISCONNECT, or silence for 7.5 s when we are idle: a new socket, at once, but no two within 2.5 s, since a broker that never
        wants us (for a service `mmi.…`) would keep both of us busy with it.
Rule 5  A body is one frame unless `body_frames_max` says more. The RFC allows any number; many workers and clients read only one.
"""

from __future__ import annotations

from zmqkit.gateways.clients import REQUEST_SECONDS
from zmqkit.gateways.desk import Desk, Frames
from zmqkit.gateways.mdp import BEAT_SECONDS, ONE
from zmqkit.gateways.outward import BACKOFF_SECONDS, BACKOFF_SECONDS_MAX, TRY_SECONDS, ClientLink, WorkerLink

RECONNECT_SECONDS = 2.5


class MdpWorkerLink(WorkerLink):
    """`foreign`: the service's name there, if it is another one than here."""

    def __init__(
        self, desk: Desk, service: str, *, foreign: str = "", beat_seconds: float = BEAT_SECONDS,
        call_seconds: float = REQUEST_SECONDS, reconnect_seconds: float = RECONNECT_SECONDS, body_frames_max: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(
            desk, service, beat_seconds=beat_seconds, call_seconds=call_seconds, calls_max=1,  # "one request at a time"
            body_frames_max=body_frames_max, backoff_seconds=reconnect_seconds, backoff_seconds_max=reconnect_seconds,
        )  # fmt: skip
        self._name = (foreign or service).encode()
        self._reconnect_seconds = reconnect_seconds

    def _opened(self, now: float) -> None:
        self._say(ONE.ready, self._name)
        self._beat_at = now + self._beat_seconds
        self._heard(now)

    def _read(self, frames: Frames, now: float) -> str:
        if self._waiting:
            return "old-socket"
        if len(frames) < 3 or frames[:2] != [*ONE.lead, ONE.worker]:
            return "not-mdp"
        command, *rest = frames[2:]
        if command == ONE.disconnect:
            self._give_up(now)
            return ""
        if command == ONE.request:
            if len(rest) < 3 or not rest[0] or rest[1]:
                return "bad-frames"
            return self._call(rest[0], rest[2:])
        if command != ONE.heartbeat:
            return "unknown-command"
        self._heard(now)
        return ""

    def _open_later(self, now: float) -> None:
        self._opens_at = max(now, self._opened_at + self._reconnect_seconds)  # rule 4

    def _beat(self) -> None:
        self._say(ONE.heartbeat)

    def _answer(self, client: bytes, body: Frames, now: float) -> None:
        self._say(ONE.final, client, b"", *body)

    def _unanswered(self, now: float) -> None:
        self._give_up(now)  # rule 3

    def _say(self, command: bytes, *frames: bytes) -> None:
        self._out.append(ONE.for_worker(command, *frames))


class MdpClientLink(ClientLink):
    """`foreign`: the service's name there. `tries` above 1: as the Guide's client, each try on a new socket and perhaps executed."""

    def __init__(
        self, desk: Desk, service: str, *, foreign: str = "", tries: int = 1, try_seconds: float = TRY_SECONDS, body_frames_max: int = 1,
        backoff_seconds: float = BACKOFF_SECONDS, backoff_seconds_max: float = BACKOFF_SECONDS_MAX,
    ) -> None:  # fmt: skip
        super().__init__(
            desk, service, [*ONE.lead, ONE.client, (foreign or service).encode()], tries=tries, try_seconds=try_seconds,
            body_frames_max=body_frames_max, backoff_seconds=backoff_seconds, backoff_seconds_max=backoff_seconds_max,
        )  # fmt: skip
