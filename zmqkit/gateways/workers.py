"""Foreign workers of one gateway: who is there, who is ready for what, and who holds which job.

Rule 1  There is who was heard within `expiry_seconds`, counted in time in which we listened: a pause of our own is not their silence.
        But the Guide's worker is mute while it works, and the Guide's brokers let no busy worker expire. So its silence counts only
        after it has shown, with this very request, that it beats while it works: something that is no answer was heard of it at
        least half a beat after the request left. Until then a busy worker stays until its connection is gone (our own heartbeats
        find out), or rule 6 gives it up.
Rule 2  Ready is another thing: who said READY, or answered what it was given. It takes one request at a time, and a heartbeat
        of a busy worker asks for no second one.
Rule 3  A request goes to who has been ready longest. The desk is offered as many as there are ready workers, no more.
Rule 4  Of a worker that is gone the job is lost, for it may have been executed. Only if its REQUEST never left, it goes back.
Rule 5  An answer counts only under the envelope that went out with the request, and no envelope is used twice: `salt` tells
        ours from those of an earlier process, whose workers may still be answering.
Rule 6  Who was not heard of a job for `OVERDUE_SECONDS` after nobody waits for it any more is given up. Its REQUEST may have been
        lost with a connection that came back under the same routing id; it would wait for work, and we for its answer, for ever.
Rule 7  Who says READY with a request in hand has begun anew and lost it, or says twice what it said before. So the request stays its own,
        and its answer counts; it gets no other until then. If no answer has come after `expiry_seconds`, and it beats, it holds nothing.
        If it is mute it works, for who waits for work beats.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Any

from zmqkit.gateways.desk import Desk, Frames, Request

WORKERS_MAX = 10_000  # of one gateway
OVERDUE_SECONDS = 30.0


class Worker:
    __slots__ = ("awaited", "beats", "cid", "job", "left", "peer", "seen", "service", "tongue")

    def __init__(self, peer: bytes, service: str, tongue: Any) -> None:
        self.peer, self.service = peer, service
        self.tongue = tongue  # the version of the protocol that it speaks
        self.seen = 0.0  # heard time
        self.cid = b""  # envelope of the request it holds; b"": it is ready
        self.job: Any = None
        self.awaited = False  # does the desk still wait for that job?
        self.left = inf  # heard time at which its request left, or at which it came to it; inf: it has none
        self.beats = False  # while it works on this one


class Pool:
    """Workers of one service."""

    __slots__ = ("members", "ready")

    def __init__(self) -> None:
        self.members: dict[bytes, Worker] = {}
        self.ready: OrderedDict[bytes, Worker] = OrderedDict()  # the one that has been ready longest comes first


class Workers:
    """Call `listen` at the start of each verb of the gateway, and `restate` at its end."""

    def __init__(self, desk: Desk, salt: bytes, beat_seconds: float, expiry_seconds: float) -> None:
        self._desk, self._salt = desk, salt
        self._beat_seconds, self._expiry_seconds = beat_seconds, expiry_seconds
        self._now, self._heard, self._beat_at = 0.0, 0.0, inf
        self._before = 0.0  # heard time when we listened last: what is heard now came later than that
        self._known: dict[bytes, Worker] = {}
        self._expiring: OrderedDict[bytes, Worker] = OrderedDict()  # whose silence counts; who has been silent longest comes first
        self._pools: dict[str, Pool] = {}
        self._jobs: dict[Any, Worker] = {}  # what the desk waits for
        self._touched: dict[str, None] = {}  # services whose offer is to be restated
        self._fresh: dict[bytes, Frames] = {}  # requests that leave with the next `take`
        self._left: dict[bytes, None] = {}  # to whom one left with the last `take`: `gone` may still tell that it did not
        self._overdue: OrderedDict[bytes, float] = OrderedDict()  # who holds what nobody waits for, and when it is given up
        self._doubted: OrderedDict[bytes, float] = OrderedDict()  # rule 7: who said READY when busy, and when that is decided
        self._number = 0

    # -- time ---------------------------------------------------------------------------------------------------------

    def listen(self, now: float) -> None:
        if now > self._now:
            self._before = self._heard
            self._heard += min(now - self._now, self._beat_seconds)
            self._now = now

    @property
    def deadline(self) -> float:
        at = min(next(iter(self._overdue.values()), inf), next(iter(self._doubted.values()), inf))
        if self._known:
            at = min(at, self._beat_at)
        if self._expiring:
            at = min(at, self._expires_at(self._oldest))
        return at

    @property
    def _oldest(self) -> Worker:
        return next(iter(self._expiring.values()))

    def _expires_at(self, worker: Worker) -> float:
        """If we listen until then."""
        return self._now + (worker.seen + self._expiry_seconds - self._heard)

    def due_beats(self) -> list[Worker]:
        """Everybody, busy or not, if it is time: send each a heartbeat."""
        if not self._known or self._now < self._beat_at:
            return []
        self._beat_at += self._beat_seconds
        if self._beat_at <= self._now:
            self._beat_at = self._now + self._beat_seconds
        return list(self._known.values())

    def expire(self) -> None:
        """Rule 1."""
        while self._expiring:
            oldest = self._oldest
            if self._now < self._expires_at(oldest):
                return
            self.forget(oldest, f"its worker was silent for {self._expiry_seconds:g} s")

    def decide(self) -> None:
        """Rule 7. Expire before."""
        while self._doubted:
            peer, at = next(iter(self._doubted.items()))
            if self._now < at:
                return
            del self._doubted[peer]
            worker = self._known[peer]
            if worker.beats:
                self._end(worker, "its worker began anew")
                self._rest(worker)
            else:
                self._doubted[peer] = self._now + self._expiry_seconds

    def overdue(self) -> Worker | None:
        """Rule 6: forget this one, then ask again."""
        for peer, at in self._overdue.items():
            return self._known[peer] if at <= self._now else None
        return None

    # -- coming and going ---------------------------------------------------------------------------------------------

    def find(self, peer: bytes) -> Worker | None:
        return self._known.get(peer)

    def serves(self, service: str) -> bool:
        return service in self._pools

    def enlist(self, peer: bytes, service: str, tongue: Any = None) -> Worker | None:
        """A new worker, ready; None: there are too many."""
        if len(self._known) >= WORKERS_MAX:
            return None
        if not self._known:
            self._beat_at = self._now + self._beat_seconds
        worker = self._known[peer] = Worker(peer, service, tongue)
        pool = self._pools.get(service)
        if pool is None:
            pool = self._pools[service] = Pool()
        pool.members[peer] = worker
        self._hear(worker)
        self._rest(worker)
        return worker

    def see(self, worker: Worker) -> None:
        """It said something that is no answer."""
        self._hear(worker)
        if not worker.beats and self._before >= worker.left + self._beat_seconds / 2:
            worker.beats = True
            self._expiring[worker.peer] = worker

    def _hear(self, worker: Worker) -> None:
        worker.seen = self._heard
        if worker.peer in self._expiring:
            self._expiring.move_to_end(worker.peer)

    def forget(self, worker: Worker, reason: str, unsent: bool = False) -> None:
        del self._known[worker.peer]
        self._expiring.pop(worker.peer, None)
        pool = self._pools[worker.service]
        del pool.members[worker.peer]
        pool.ready.pop(worker.peer, None)
        self._overdue.pop(worker.peer, None)
        self._doubted.pop(worker.peer, None)
        if not pool.members:
            del self._pools[worker.service]
        self._touched[worker.service] = None
        self._end(worker, reason, unsent)

    def gone(self, peer: bytes) -> None:
        """A send to that peer did not leave."""
        worker = self._known.get(peer)
        if worker is not None:
            self.forget(worker, "the connection of its worker is gone", unsent=peer in self._left)

    def greet(self, worker: Worker) -> None:
        """It says READY again. If it holds nothing, it keeps its place, and a request that has not left yet leaves for it all the same."""
        if worker.left < inf and worker.peer not in self._doubted:
            self._doubted[worker.peer] = self._now + self._expiry_seconds
            worker.left = self._heard  # whether it beats from now on is what tells
        self.see(worker)

    def _end(self, worker: Worker, reason: str, unsent: bool = False) -> None:
        """Rule 4."""
        unsent = self._fresh.pop(worker.peer, None) is not None or unsent
        if worker.awaited:
            worker.awaited = False
            del self._jobs[worker.job]
            if unsent:
                self._desk.back(worker.job)
            else:
                self._desk.lost(worker.job, reason)

    def _rest(self, worker: Worker) -> None:
        worker.cid, worker.job, worker.awaited, worker.left, worker.beats = b"", None, False, inf, False
        self._expiring.setdefault(worker.peer, worker)  # it is there already, or was heard just now
        self._overdue.pop(worker.peer, None)
        self._doubted.pop(worker.peer, None)
        self._pools[worker.service].ready[worker.peer] = worker
        self._touched[worker.service] = None

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def hand(self, request: Request) -> None:
        """Rule 3. The desk's own count of what it may hand to us is one less now, so it is told again."""
        self._touched[request.service] = None
        pool = self._pools.get(request.service)
        if pool is None or not pool.ready:
            self._desk.back(request.job)
            return
        peer, worker = pool.ready.popitem(last=False)
        self._number += 1
        worker.cid, worker.job, worker.awaited = self._salt + self._number.to_bytes(8, "big"), request.job, True
        self._jobs[request.job] = worker
        self._fresh[peer] = [worker.cid, b"", *(request.frames or [b""])]  # no protocol knows a request without a body

    def refuse(self, request: Request, reason: str) -> None:
        self._touched[request.service] = None
        self._desk.lost(request.job, reason)

    def withdraw(self, job: Any) -> None:
        """The worker stays busy until it answers, for it cannot be told; unless the request has not left yet."""
        worker = self._jobs.pop(job, None)
        if worker is None:
            return
        worker.awaited = False
        if self._fresh.pop(worker.peer, None) is not None:
            self._rest(worker)
            self._pools[worker.service].ready.move_to_end(worker.peer, last=False)
        else:
            self._overdue[worker.peer] = self._now + OVERDUE_SECONDS

    def answer(self, worker: Worker, cid: bytes, frames: Frames, last: bool = True) -> str:
        """Rule 5. Returns why it was dropped; "": the desk has it."""
        self._hear(worker)
        if worker.left == inf or worker.cid != cid:
            if worker.left < inf:
                worker.left = self._heard  # it was busy with something older, and comes to its request only now
            return "stray-reply"
        job, awaited = worker.job, worker.awaited
        if last:
            self._jobs.pop(job, None)
            self._rest(worker)
        if not awaited:
            return "late-reply"
        if last:
            self._desk.reply(job, frames)
        else:
            self._desk.part(job, frames)
        return ""

    # -- what leaves --------------------------------------------------------------------------------------------------

    def take(self) -> list[tuple[Worker, Frames]]:
        """Requests, as envelope, empty frame, body. Send them last: then whatever fails to leave tells about the request too."""
        fresh, self._fresh = self._fresh, {}
        self._left = dict.fromkeys(fresh)
        for peer in fresh:
            self._known[peer].left = self._heard
            self._expiring.pop(peer, None)
        return [(self._known[peer], frames) for peer, frames in fresh.items()]

    def restate(self) -> None:
        for service in self._touched:
            pool = self._pools.get(service)
            self._desk.offer(service, len(pool.ready) if pool is not None else 0)
        self._touched.clear()
