"""Links outwards: one DEALER of ours towards a queue or broker that somebody else runs. What a worker and a caller there have in common.

The driver has one door, 0, and its peer is b"". Each turn, after all other verbs:

    if link.wants_new_socket():     close the socket, nothing lingers; open a DEALER under `link.routing_id` (b"": ZeroMQ chooses)
    for send in link.take():        whatever does not leave: link.gone(0, b"", now)

Rule 1  In doubt a socket is given up and another one opened. What was meant for the old one is not for the new one: an answer leaves
        through the socket that its request came by, or not at all, for on any other it could be taken for another request's.
Rule 2  The broker's silence says something only while we are idle: those of the Guide send heartbeats to nobody but workers that wait.
Rule 3  A pause of our own is not the broker's silence: however late a tick comes, it counts one interval.
Rule 4  A caller asks one thing at a time: no number tells which answer belongs to which request. When nobody waits for one any more, the
        socket goes, and the late answer with it. Who needs more opens more links, each with a desk of its own, since an offer
        replaces the one before.
Rule 5  A request is said again only where the user asked for it by `tries`: each try may be executed. Otherwise the desk hears `lost`,
        and decides; or `back`, if the request cannot have left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Any

from zmqkit.gateways.desk import Desk, Event, Frames, Part, Reply, Request, Send, Withdrawn

DOOR = 0
SILENCES_MAX = 3  # intervals in which nothing came
TRY_SECONDS = 2.5  # what the Guide's clients wait
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 1.0, 32.0


class OutwardLink(ABC):
    def __init__(self, desk: Desk, service: str, backoff_seconds: float, backoff_seconds_max: float) -> None:
        self.routing_id = b""
        self.dropped: dict[str, int] = Counter()
        self._desk, self._service = desk, service
        self._backoff_first, self._backoff_max = backoff_seconds, backoff_seconds_max
        self._backoff = backoff_seconds
        self._opens_at = -inf  # inf: the socket that there is will do
        self._opened_at = -inf
        self._wants = False
        self._out: list[Frames] = []

    # -- verbs of the driver --------------------------------------------------------------------------------------------

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        if self._wants:
            return self._drop("old-socket")
        self._backoff = self._backoff_first
        self._drop(self._read(list(frames), now))

    @abstractmethod
    def hear(self, events: Sequence[Event], now: float) -> None: ...

    @abstractmethod
    def gone(self, door: int, peer: bytes, now: float) -> None:
        """Something that the last `take` gave did not leave. Told before the next one."""

    @abstractmethod
    def cut(self, now: float, was_up: bool = True) -> None:
        """The connection is gone or in doubt. `was_up` False: there never was one, so nothing can have left by it."""

    @abstractmethod
    def tick(self, now: float) -> None: ...

    def wants_new_socket(self) -> bool:
        """Asked before each `take`; True once per socket. What `take` gives then is for the new one."""
        wants, self._wants = self._wants, False
        return wants

    def take(self) -> list[Send]:
        assert not self._wants, "ask for wants_new_socket first"
        out, self._out = self._out, []
        return [Send(DOOR, b"", frames) for frames in out]

    @property
    @abstractmethod
    def deadline(self) -> float: ...

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Nothing is asked of anybody: the link may go."""

    # -- for both kinds -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _read(self, frames: Frames, now: float) -> str:
        """Returns why it was dropped, or ""."""

    @abstractmethod
    def _opened(self, now: float) -> None:
        """The first words on a new socket."""

    @property
    def _waiting(self) -> bool:
        """For the time to open another socket."""
        return self._opens_at != inf

    def _open(self, now: float) -> None:
        self._opens_at, self._opened_at, self._wants = inf, now, True
        self._out.clear()
        self._opened(now)

    def _open_later(self, now: float) -> None:
        self._opens_at = now + self._backoff
        self._backoff = min(self._backoff * 2, self._backoff_max)

    def _drop(self, reason: str) -> None:
        if reason:
            self.dropped[reason] += 1


class Call:
    """A request of the broker, with our desk."""

    __slots__ = ("client", "parts")

    def __init__(self, client: bytes) -> None:
        self.client = client  # its envelope there
        self.parts: Frames = []


class WorkerLink(OutwardLink):
    """We are the worker. What the broker hands out, our desk is asked for."""

    def __init__(
        self, desk: Desk, service: str, *, beat_seconds: float, call_seconds: float, calls_max: int, body_frames_max: int,
        backoff_seconds: float, backoff_seconds_max: float,
    ) -> None:  # fmt: skip
        super().__init__(desk, service, backoff_seconds, backoff_seconds_max)
        self._beat_seconds, self._call_seconds = beat_seconds, call_seconds
        self._calls_max, self._body_frames_max = calls_max, body_frames_max
        self._calls: dict[int, Call] = {}  # by ticket; they came by this socket
        self._ticket = 0
        self._silences, self._listen_at, self._beat_at = 0, inf, inf

    def hear(self, events: Sequence[Event], now: float) -> None:
        for event in events:
            assert isinstance(event, Reply | Part), "a worker's link offers nothing"
            call = self._calls.get(event.ticket)
            if call is None:
                continue  # cancelled
            call.parts += event.frames or []
            if isinstance(event, Reply):
                self._end(event.ticket, event.frames is not None, now)
            elif len(call.parts) > self._body_frames_max:
                self._desk.cancel(event.ticket)
                self._end(event.ticket, True, now)

    def gone(self, door: int, peer: bytes, now: float) -> None:
        self._give_up(now)

    def cut(self, now: float, was_up: bool = True) -> None:
        self._give_up(now)

    def tick(self, now: float) -> None:
        if now >= self._opens_at:
            return self._open(now)
        if now >= self._listen_at:
            self._silences += 1
            self._listen_at = now + self._beat_seconds
            if self._silences >= SILENCES_MAX:
                return self._give_up(now)
        if now >= self._beat_at:
            self._beat_at = now + self._beat_seconds
            self._beat()

    @property
    def deadline(self) -> float:
        return min(self._opens_at, self._listen_at, self._beat_at)

    @property
    def idle(self) -> bool:
        return not self._calls

    # -- said differently in each protocol ------------------------------------------------------------------------------

    @abstractmethod
    def _beat(self) -> None: ...

    @abstractmethod
    def _answer(self, client: bytes, body: Frames, now: float) -> None: ...

    @abstractmethod
    def _unanswered(self, now: float) -> None:
        """There will be no answer, and no word for that. Become ready again."""

    # -- for both -------------------------------------------------------------------------------------------------------

    def _heard(self, now: float) -> None:
        """Something valid came, or we are idle again."""
        self._silences = 0
        self._listen_at = inf if self._calls else now + self._beat_seconds

    def _call(self, client: bytes, body: Frames) -> str:
        if len(self._calls) >= self._calls_max:
            return "too-many-requests"
        self._ticket += 1
        self._calls[self._ticket] = Call(client)
        self._listen_at = inf  # rule 2
        self._desk.call(self._service, body, self._ticket, self._call_seconds)
        return ""

    def _end(self, ticket: int, answered: bool, now: float) -> None:
        call = self._calls.pop(ticket)
        self._heard(now)
        if answered and len(call.parts) <= self._body_frames_max:
            self._answer(call.client, call.parts or [b""], now)
        else:
            self._drop("too-many-body-frames" if answered else "no-answer")
            self._unanswered(now)

    def _give_up(self, now: float) -> None:
        """Rule 1."""
        if self._wants or self._waiting:
            return  # that was about the socket before
        for ticket in self._calls:
            self._desk.cancel(ticket)
            self._drop("answer-without-socket")
        self._calls.clear()
        self._out.clear()
        self._listen_at = self._beat_at = inf
        self._open_later(now)


class ClientLink(OutwardLink):
    """We are a caller. What our desk hands out, the broker is asked for. `head`: the frames before a body, the same both ways."""

    def __init__(
        self, desk: Desk, service: str, head: Frames, *, tries: int, try_seconds: float, body_frames_max: int,
        backoff_seconds: float, backoff_seconds_max: float,
    ) -> None:  # fmt: skip
        super().__init__(desk, service, backoff_seconds, backoff_seconds_max)
        self._head, self._tries, self._try_seconds, self._body_frames_max = head, tries, try_seconds, body_frames_max
        self._job: Any = None
        self._body: Frames = []  # of the request that is out; [] if none is
        self._tried = 0  # so often it was said
        self._gives_up_at = inf

    def hear(self, events: Sequence[Event], now: float) -> None:
        for event in events:
            if isinstance(event, Request):
                self._asked(event, now)
            elif isinstance(event, Withdrawn) and self._body and event.job == self._job:
                self._end()
                if not self._waiting:
                    self._open(now)  # rule 4

    def gone(self, door: int, peer: bytes, now: float) -> None:
        self._failed("the request did not leave", now, left=False)

    def cut(self, now: float, was_up: bool = True) -> None:
        if not self._wants:
            self._failed("the connection was lost" if was_up else "there is no connection", now, left=was_up and not self._out)

    def tick(self, now: float) -> None:
        if now >= self._opens_at:
            self._open(now)
        elif now >= self._gives_up_at:
            if self._tried < self._tries:
                self._open(now)
            else:
                self._lose(f"no answer within {self._tries * self._try_seconds:g} s")
                self._open_later(now)  # who does not answer is offered less often

    @property
    def deadline(self) -> float:
        return min(self._opens_at, self._gives_up_at)

    @property
    def idle(self) -> bool:
        return not self._body

    # -- one request ----------------------------------------------------------------------------------------------------

    def _opened(self, now: float) -> None:
        if self._body:
            self._say(now)
        else:
            self._desk.offer(self._service, 1)

    def _asked(self, request: Request, now: float) -> None:
        if self._body or self._waiting:
            return self._desk.back(request.job)  # it was offered a moment ago
        if len(request.frames) > self._body_frames_max:
            self._desk.lost(request.job, f"{len(request.frames)} body frames, but {self._body_frames_max} is all that goes there")
            return self._desk.offer(self._service, 1)
        self._job, self._body, self._tried = request.job, request.frames or [b""], 0
        self._desk.offer(self._service, 0)
        self._say(now)

    def _say(self, now: float) -> None:
        self._tried += 1
        self._gives_up_at = now + self._try_seconds
        self._out.append([*self._head, *self._body])

    def _read(self, frames: Frames, now: float) -> str:
        head = len(self._head)
        if frames[:head] != self._head or len(frames) == head:
            return "bad-reply"
        if not self._body or self._out:
            return "stray-reply"  # our request, if there is one, has not even left
        self._desk.reply(self._job, frames[head:])
        self._end()
        if not self._waiting:
            self._desk.offer(self._service, 1)
        return ""

    def _failed(self, reason: str, now: float, left: bool) -> None:
        if self._waiting:
            return
        self._gives_up_at = inf
        self._out.clear()
        if self._body and not left and self._tried == 1:
            self._desk.back(self._job)
            self._end()
        elif self._body and self._tried >= self._tries:
            self._lose(reason)
        elif not self._body:
            self._desk.offer(self._service, 0)
        self._open_later(now)

    def _lose(self, reason: str) -> None:
        self._desk.lost(self._job, reason)
        self._end()

    def _end(self) -> None:
        self._job, self._body, self._gives_up_at = None, [], inf
