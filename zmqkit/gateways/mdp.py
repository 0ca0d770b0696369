"""MDP, the Majordomo Protocol 0.1 (RFC 7) and 0.2 (RFC 18), with its management interface MMI (RFC 8): the broker.

One door for clients and workers of both versions. 0.1 begins every message with an empty frame, 0.2 with its header:

                       0.1                                     0.2
    client REQUEST     ['' · MDPC01 · service · body…]         [MDPC02 · 1 · service · body…]
    client PARTIAL     -                                       [MDPC02 · 2 · service · body…]
    client REPLY       ['' · MDPC01 · service · body…]         [MDPC02 · 3 · service · body…]     (FINAL)
    worker READY       ['' · MDPW01 · 1 · service]             [MDPW02 · 1 · service]
    worker REQUEST     ['' · MDPW01 · 2 · cid · '' · body…]    [MDPW02 · 2 · cid · '' · body…]
    worker PARTIAL     -                                       [MDPW02 · 3 · cid · '' · body…]
    worker REPLY       ['' · MDPW01 · 3 · cid · '' · body…]    [MDPW02 · 4 · cid · '' · body…]    (FINAL)
    worker HEARTBEAT   ['' · MDPW01 · 4]                       [MDPW02 · 5]                       both ways
    worker DISCONNECT  ['' · MDPW01 · 5]                       [MDPW02 · 6]                       both ways

Rule 1  "The broker MUST respond to any valid but unexpected command by sending DISCONNECT" and forgets the worker: a second READY,
        anything before the first, a READY for a name that begins with `mmi.`.
Rule 2  What is invalid is dropped and changes nothing; a READY that cannot be accepted too, for the Guide's worker answers DISCONNECT
        with READY at once, and the two would go round as fast as they can. Its first heartbeat is told DISCONNECT instead.
Rule 3  Any valid command counts as a heartbeat; ours go to every worker, busy or not.
Rule 4  A worker is registered also while it is busy: `mmi.service` counts workers, not requests (RFC 8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from zmqkit.gateways.broker import Broker
from zmqkit.gateways.clients import REQUEST_SECONDS, Call, size_of
from zmqkit.gateways.desk import Desk, Frames, Send
from zmqkit.gateways.workers import Worker
from zmqkit.wire import NAME_BYTES_MAX

DOOR = 0
BEAT_SECONDS = 2.5
EXPIRY_SECONDS = 7.5
MMI = "mmi."
MMI_SECONDS = 2.0  # to find out whether a service exists; the Guide's client waits 2.5 s
MMI_RETRY_SECONDS = 0.1
MMI_WAITING_MAX = 1000


class Tongue(NamedTuple):
    """A version, as frames."""

    lead: tuple[bytes, ...]
    client: bytes
    worker: bytes
    client_request: tuple[bytes, ...]
    client_partial: tuple[bytes, ...]
    client_final: tuple[bytes, ...]
    ready: bytes
    request: bytes
    partial: bytes | None
    final: bytes
    heartbeat: bytes
    disconnect: bytes

    def for_worker(self, command: bytes, *frames: bytes) -> Frames:
        return [*self.lead, self.worker, command, *frames]


ONE = Tongue((b"",), b"MDPC01", b"MDPW01", (), (), (), b"\1", b"\2", None, b"\3", b"\4", b"\5")
TWO = Tongue((), b"MDPC02", b"MDPW02", (b"\1",), (b"\2",), (b"\3",), b"\1", b"\2", b"\3", b"\4", b"\5", b"\6")


class Address(NamedTuple):
    """Of a client's answers."""

    tongue: Tongue
    service: bytes

    def frames(self, body: Frames, last: bool = True) -> Frames:
        tongue = self.tongue
        command = tongue.client_final if last else tongue.client_partial
        return [*tongue.lead, tongue.client, *command, self.service, *(body or [b""])]  # "4 or more frames"


class Question(NamedTuple):
    """`mmi.service`, while the desk does not know the answer yet."""

    until: float
    peer: bytes
    address: Address
    name: str


def name_of(frame: bytes) -> str:
    """A service's name; "" if it is none."""
    try:
        return frame.decode() if len(frame) <= NAME_BYTES_MAX else ""
    except UnicodeDecodeError:
        return ""


class Mdp(Broker):
    def __init__(
        self, desk: Desk, *, salt: bytes, request_seconds: float = REQUEST_SECONDS,
        beat_seconds: float = BEAT_SECONDS, expiry_seconds: float = EXPIRY_SECONDS,
    ) -> None:  # fmt: skip
        super().__init__(desk, salt, request_seconds, beat_seconds, expiry_seconds)
        self._questions: deque[Question] = deque()
        self._ask_at = inf
        self._parted: dict[bytes, None] = {}  # told DISCONNECT since the last `take`: "and then no further commands"

    # -- verbs of the driver --------------------------------------------------------------------------------------------

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        self._workers.listen(now)
        self._drop(self._read(peer, list(frames), now))
        self._workers.restate()

    def gone(self, door: int, peer: bytes, now: float) -> None:
        self._workers.listen(now)
        self._clients.gone(peer)
        self._workers.gone(peer)
        self._workers.restate()

    def tick(self, now: float) -> None:
        self._workers.listen(now)
        self._workers.expire()  # "it SHOULD stop sending it messages of any type": no DISCONNECT
        while (worker := self._workers.overdue()) is not None:
            self._disconnect(worker.peer, worker.tongue)
            self._workers.forget(worker, "")
        for worker in self._workers.due_beats():
            self._send(worker.peer, worker.tongue.for_worker(worker.tongue.heartbeat))
        if now >= self._ask_at:
            self._ask_again(now)
        self._workers.restate()

    def take(self) -> list[Send]:
        out, self._out = self._out, []
        self._parted.clear()
        for worker, frames in self._workers.take():
            out.append(Send(DOOR, worker.peer, worker.tongue.for_worker(worker.tongue.request, *frames)))
        return out

    @property
    def deadline(self) -> float:
        return min(self._workers.deadline, self._ask_at)

    # -- what peers say: each returns why it was dropped, or "" ---------------------------------------------------------

    def _read(self, peer: bytes, frames: Frames, now: float) -> str:
        tongue = ONE if frames[:1] == [b""] else TWO
        frames = frames[len(tongue.lead) :]
        if frames[:1] == [tongue.client]:
            return self._asked(peer, tongue, frames[1:], now)
        if frames[:1] == [tongue.worker] and len(frames) > 1:
            return self._worked(peer, tongue, frames[1], frames[2:])
        return "not-mdp"

    def _asked(self, peer: bytes, tongue: Tongue, frames: Frames, now: float) -> str:
        command = tongue.client_request
        if tuple(frames[: len(command)]) != command or len(frames) < len(command) + 2:
            return "bad-request"
        service, *body = frames[len(command) :]
        name, address = name_of(service), Address(tongue, service)
        if not name:
            return "bad-service"
        if name.startswith(MMI):
            return self._managed(peer, address, name, body, now)
        return self._clients.ask(peer, name, body, address, kept=size_of([service]), stream=tongue is TWO)

    def _worked(self, peer: bytes, tongue: Tongue, command: bytes, frames: Frames) -> str:
        hears = _HEARS[tongue.worker].get(command)
        worker = self._workers.find(peer)
        if hears is None:
            return "unknown-command"
        if worker is not None and worker.tongue is not tongue:
            return "mixed-versions"
        return hears(self, peer, tongue, worker, frames)

    def _ready(self, peer: bytes, tongue: Tongue, worker: Worker | None, frames: Frames) -> str:
        if len(frames) != 1:
            return "bad-frames"
        name = name_of(frames[0])
        if worker is not None:
            return self._unexpected(peer, tongue, worker, "its worker said READY again")
        if name.startswith(MMI):
            return self._unexpected(peer, tongue, None)
        if not name:
            return "bad-service"
        return "" if self._workers.enlist(peer, name, tongue) is not None else "too-many-workers"

    def _heartbeat(self, peer: bytes, tongue: Tongue, worker: Worker | None, frames: Frames) -> str:
        if frames:
            return "bad-frames"
        if worker is None:
            return self._unexpected(peer, tongue, None)
        self._workers.see(worker)
        return ""

    def _final(self, peer: bytes, tongue: Tongue, worker: Worker | None, frames: Frames, last: bool = True) -> str:
        """RFC 7: "MUST contain precisely one client address frame. This frame MUST be followed by an empty (zero sized) frame." """
        if len(frames) < 2 or not frames[0] or frames[1]:
            return "bad-frames"
        if worker is None:
            return self._unexpected(peer, tongue, None)
        if len(frames) == 2:
            # Dropped alone, it would leave a worker that is done and a broker that waits. "Treating that peer as invalid" it is.
            self._unexpected(peer, tongue, worker, "its worker answered without a body")
            return "bad-frames"
        return self._workers.answer(worker, frames[0], frames[2:], last)

    def _partial(self, peer: bytes, tongue: Tongue, worker: Worker | None, frames: Frames) -> str:
        return self._final(peer, tongue, worker, frames, last=False)

    def _disconnected(self, peer: bytes, tongue: Tongue, worker: Worker | None, frames: Frames) -> str:
        """RFC 7: "The worker MAY send DISCONNECT at any time, including before READY." """
        if frames:
            return "bad-frames"
        if worker is not None:
            self._workers.forget(worker, "its worker disconnected")
        return ""

    def _unexpected(self, peer: bytes, tongue: Tongue, worker: Worker | None, reason: str = "") -> str:
        """Rule 1."""
        if worker is not None:
            self._workers.forget(worker, reason)
        self._disconnect(peer, tongue)
        return "unexpected"

    # -- MMI ------------------------------------------------------------------------------------------------------------

    def _managed(self, peer: bytes, address: Address, name: str, body: Frames, now: float) -> str:
        if name != "mmi.service":
            self._send(peer, address.frames([b"501"]))
            return ""
        question = Question(now + MMI_SECONDS, peer, address, name_of(body[-1]))
        if self._answered(question, now):
            return ""
        if len(self._questions) >= MMI_WAITING_MAX:
            return "too-many-questions"
        self._questions.append(question)
        self._ask_at = min(self._ask_at, now + MMI_RETRY_SECONDS)
        return ""

    def _answered(self, question: Question, now: float) -> bool:
        """The desk may not have heard of a worker that is busy; we know those of our own."""
        name = question.name
        served = name != "" and (self._workers.serves(name) or self._desk.served(name))
        if served is None and now < question.until:
            return False
        self._send(question.peer, question.address.frames([b"200" if served else b"404"]))
        return True

    def _ask_again(self, now: float) -> None:
        self._questions = deque(question for question in self._questions if not self._answered(question, now))
        self._ask_at = now + MMI_RETRY_SECONDS if self._questions else inf

    # -- what leaves ----------------------------------------------------------------------------------------------------

    def _tell(self, call: Call, frames: Frames, last: bool) -> None:
        self._send(call.peer, call.head.frames(frames, last=last))

    def _send(self, peer: bytes, frames: Frames) -> None:
        self._out.append(Send(DOOR, peer, frames))

    def _disconnect(self, peer: bytes, tongue: Tongue) -> None:
        if peer not in self._parted:
            self._parted[peer] = None
            self._send(peer, tongue.for_worker(tongue.disconnect))


_HEARS: dict[bytes, dict[bytes | None, Callable[[Mdp, bytes, Tongue, Worker | None, Frames], str]]] = {
    tongue.worker: {
        tongue.ready: Mdp._ready, tongue.heartbeat: Mdp._heartbeat, tongue.final: Mdp._final,
        tongue.partial: Mdp._partial, tongue.disconnect: Mdp._disconnected,
    }
    for tongue in (ONE, TWO)
}  # fmt: skip
