"""A subscription of ours at somebody else's Clone server (12/CHP): what that server says, in the words of a node to its subscriber.

Rule 1  Subscribe, see that the subscription stands, and only then ask for the snapshot; what comes meanwhile waits, and of it counts what
        has a higher seq. The Guide's clients ask at once, and miss what is told between the two. HUGZ, or any update, is the proof. A
        server that says neither within a second and a half (some know no HUGZ) is asked all the same.
Rule 2  A connection that ends, or a server that has said HUGZ and is silent for five seconds, is given up with all that it said. On the
        next one everything begins anew, and the subscriber is told that it may have missed something.
Rule 3  All updates of a server have one count. Who follows everything sees in it that one is lost, and begins anew; who follows a part
        cannot see that, for numbers are missing there anyhow.
Rule 4  A subscriber that is slower than its window gets no more; what waits for it here is bounded, and behind that is rule 2.
Rule 5  A ttl is the server's to end: its clock is not ours.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum
from math import inf

from zmqkit.gateways import chp
from zmqkit.gateways.chp import HUGZ, ICANHAZ, KTHXBAI, Malformed, Pair
from zmqkit.parcel import Parcel
from zmqkit.updates import ALL, PIECE_KEYS, UPDATES_BYTES_MAX, message, pieces, plain_value
from zmqkit.wire import FRAME_COST, At, Chunk, Live, Reset, Scope, Start, Sub

SNAPSHOTS, UPDATES = 0, 1  # doors
EPOCH = 1  # these servers have one count, and no word for a new one
PROOF_SECONDS = 1.5
ANSWER_SECONDS = 5.0  # without a word of the snapshot
SILENCE_SECONDS = 5.0
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.1, 2.0
CALM_SECONDS = 5.0  # a connection that held so long was a good one: the next is opened at once
WAITING_BYTES_MAX = 64 * 1024 * 1024  # of updates that wait for a snapshot, or for the subscriber

Told = Reset | Chunk | Live | At


class Phase(Enum):
    CLOSED = 0
    PROVING = 1
    ASKING = 2
    FOLLOWING = 3


class CloneLink:
    """Verbs of its driver: receive cut tick, `wants_new_sockets` before `take`, and `deadline`. `tell` speaks to the subscriber."""

    def __init__(self, sub: Sub, tell: Callable[[Told], None], now: float) -> None:
        self.dropped: dict[str, int] = Counter()
        self.prefixes = narrowest(sub.prefixes)
        self._sub, self._tell = sub, tell
        self._whole = self.prefixes == ALL
        self._seq = sub.seq if sub.start == Start.POSITION else 0  # what the subscriber has
        self._began = sub.start == Start.POSITION  # it has heard of us before
        self._head = 0  # its newest update, where that is all we ask
        self._phase, self._at = Phase.CLOSED, now
        self._wants = False
        self._backoff, self._loaded_at = 0.0, now
        self._hugs, self._heard_at = False, now  # it says HUGZ
        self._out: list[list[bytes]] = []
        self._entries: dict[str, bytes] = {}  # of the snapshot under way
        self._seqs: dict[str, int] = {}  # of the snapshots that are complete, by prefix
        self._live: list[tuple[str, Pair]] = []  # that waits for them
        self._live_bytes = 0
        self._waiting: deque[Told] = deque()  # for room in the window
        self._waiting_bytes = 0
        self._sent = self._taken = 0

    # -- the driver -----------------------------------------------------------------------------------------------------

    def receive(self, door: int, frames: Sequence[bytes], now: float) -> None:
        if self._phase is Phase.CLOSED:
            return
        try:
            if door == UPDATES:
                self._heard_at = now
                self._update(chp.read(frames), now)
            elif self._phase is Phase.ASKING:
                self._entry(chp.read(frames), now)
        except Malformed as malformed:
            self.dropped[str(malformed)] += 1

    def cut(self, now: float) -> None:
        """The connection is gone, or never was."""
        if self._phase is not Phase.CLOSED:
            self._close(now)

    def taken(self, size: int, now: float) -> None:
        """So many bytes in all has the subscriber taken."""
        if self._taken < size <= self._sent:
            self._taken = size
            self._pass_on()

    def tick(self, now: float) -> None:
        if now < self.deadline:
            return
        if self._phase is Phase.CLOSED:
            self._open(now)
        elif self._phase is Phase.PROVING and now >= self._at:
            self._ask(now)
        else:
            self._close(now)

    @property
    def deadline(self) -> float:
        if self._phase is Phase.CLOSED:
            return inf if self._waiting else self._at  # what it has not taken first
        silent = self._heard_at + SILENCE_SECONDS if self._hugs else inf
        return min(self._at, silent)

    def wants_new_sockets(self) -> bool:
        """True once for each pair."""
        wants, self._wants = self._wants, False
        return wants

    def take(self) -> list[list[bytes]]:
        """What is to be sent for snapshots."""
        out, self._out = self._out, []
        return out

    # -- connections ----------------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        self._phase, self._at, self._wants = Phase.PROVING, now + PROOF_SECONDS, True
        self._hugs, self._heard_at = False, now

    def _close(self, now: float) -> None:
        """Rule 2."""
        if self._phase is Phase.FOLLOWING and now >= self._loaded_at + CALM_SECONDS:
            self._backoff = 0.0
        self._phase, self._at = Phase.CLOSED, now + self._backoff
        self._backoff = min(max(2 * self._backoff, BACKOFF_SECONDS), BACKOFF_SECONDS_MAX)
        self._out.clear()
        self._entries, self._live, self._live_bytes = {}, [], 0
        self._seqs.clear()

    def _ask(self, now: float) -> None:
        """For what is missing of the snapshot, a subtree at a time."""
        missing = [prefix for prefix in self.prefixes if prefix not in self._seqs]
        if self._only_new:
            self._load({}, now)
        elif missing:
            self._phase, self._at = Phase.ASKING, now + ANSWER_SECONDS
            self._out.append([ICANHAZ, missing[0].encode()])
        else:
            self._load(self._entries, now)

    # -- what it says ---------------------------------------------------------------------------------------------------

    def _entry(self, pair: Pair, now: float) -> None:
        """KVSYNC, or KTHXBAI."""
        self._at = now + ANSWER_SECONDS
        if pair.key == KTHXBAI:
            self._seqs[next(prefix for prefix in self.prefixes if prefix not in self._seqs)] = pair.seq
            self._ask(now)
        elif fits(key := chp.key_of(pair), pair):
            self._entries[key] = pair.value
        else:
            raise Malformed("value-too-large")

    def _update(self, pair: Pair, now: float) -> None:
        """KVPUB, or HUGZ."""
        if pair.key == HUGZ:
            self._hugs = True
            if self._only_new and self._phase is Phase.PROVING:
                self._head = pair.seq
                self._live = [(key, old) for key, old in self._live if old.seq > pair.seq]
            if self._phase is Phase.FOLLOWING and pair.seq > self._seq:
                if self._whole:
                    return self._close(now)  # rule 3
                self._seq = pair.seq
                self._put(At(self._sub.number, EPOCH, pair.seq), 0)
        else:
            key = chp.key_of(pair)
            if not fits(key, pair):
                raise Malformed("value-too-large")
            if self._phase is Phase.FOLLOWING:
                self._follow(key, pair, now)
            else:
                self._live.append((key, pair))
                self._live_bytes += len(pair.value) + FRAME_COST
                if self._live_bytes > WAITING_BYTES_MAX:
                    return self._close(now)
        if self._phase is Phase.PROVING and (self._hugs or not self._only_new):
            self._ask(now)

    @property
    def _only_new(self) -> bool:
        """No snapshot is wanted. An update is no proof then: some servers tell the newest ones again, and HUGZ tells which these are."""
        return self._sub.start == Start.NOW and not self._began

    def _load(self, entries: dict[str, bytes], now: float) -> None:
        """The snapshot is complete."""
        number, seq = self._sub.number, max(self._seqs.values(), default=self._head)
        missed = (self._seq + 1, seq) if self._began and seq > self._seq else (1, 0)
        self._put(Reset(number, EPOCH, seq, *missed, Scope.ALL), 0)
        keys = [key for key, value in entries.items() if value]
        for start in range(0, len(keys), PIECE_KEYS):
            some = keys[start : start + PIECE_KEYS]
            for parcel in pieces(some, [plain_value(entries[key]) for key in some]):
                self._put(Chunk(number, seq, 1, parcel), len(parcel.body) + FRAME_COST)
        self._put(At(number, EPOCH, seq), 0)
        live, self._live, self._live_bytes = self._live, [], 0
        self._entries = {}
        self._seq, self._began, self._loaded_at = seq, True, now
        self._phase, self._at = Phase.FOLLOWING, inf
        for key, pair in live:
            if self._phase is Phase.FOLLOWING:
                self._follow(key, pair, now)

    def _follow(self, key: str, pair: Pair, now: float) -> None:
        known = next((seq for prefix, seq in self._seqs.items() if key.startswith(prefix)), 0)
        if pair.seq <= max(known, self._seq if self._whole else 0):
            return
        if self._whole and self._seqs and pair.seq > self._seq + 1:
            return self._close(now)  # rule 3
        parcel = Parcel.of([message(key, plain_value(pair.value) if pair.value else None)])
        # Updates that a snapshot of another subtree is ahead of have a lower number than what was told last.
        prev, self._seq = self._seq, max(self._seq, pair.seq)
        self._put(Live(self._sub.number, prev, self._seq, 1, b"", 1, parcel), len(parcel.body) + FRAME_COST)
        if self._waiting_bytes > WAITING_BYTES_MAX:
            self._close(now)  # rule 4

    # -- the subscriber -------------------------------------------------------------------------------------------------

    def _put(self, told: Told, size: int) -> None:
        self._waiting.append(told)
        self._waiting_bytes += size
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting and self._sent - self._taken < self._sub.window:
            told = self._waiting.popleft()
            size = len(told.parcel.body) + FRAME_COST if isinstance(told, Chunk | Live) else 0
            self._waiting_bytes -= size
            self._sent += size
            self._tell(told)


def narrowest(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Without those that lie under another."""
    return tuple(prefix for prefix in prefixes if not any(prefix != other and prefix.startswith(other) for other in prefixes))


def fits(key: str, pair: Pair) -> bool:
    return len(pair.value) + 4 * len(key) + FRAME_COST <= UPDATES_BYTES_MAX
