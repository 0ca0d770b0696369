"""Subscribers of one topic at a node: each has a cursor into the history, and a window.

Rule 1  No buffer per subscriber: history is read at its cursor, and the same bytes go to all with the same prefixes.
Rule 2 (R-T1)  A piece of a snapshot is cut from the present state when it is sent, and only for a cursor at the head. So the
               state behind it is exact, whatever was updated meanwhile: before it by the piece, behind it by LIVE.
Rule 3 (R-T2)  A full window stops the cursor and drops nothing. A cursor that the floor has overtaken is told what it misses,
               and gets a new snapshot.
Rule 4 (R-T4)  LIVE names the number that its link was told of before, so what lies between is known to concern nobody there.
"""

from __future__ import annotations

from collections.abc import Callable

from zmqkit.machines.session import Client
from zmqkit.machines.topic import Topic
from zmqkit.parcel import Parcel
from zmqkit.updates import ALL, PIECE_KEYS, pieces
from zmqkit.wire import FRAME_COST, At, Chunk, Command, Live, Reset, Scope, Start, Sub

Send = Callable[[Client, Command], None]


class Round:
    """All keys there were at one moment, told in pieces. Snapshots that run at once share one, and a piece is cut once for all of
    them that are at it; who joins later begins where the others are, and goes on at the front."""

    __slots__ = ("at", "deletions", "keys", "pieces")

    def __init__(self, topic: Topic) -> None:
        self.keys = list(topic.values)
        self.deletions = topic.deletions
        self.pieces = -(-len(self.keys) // PIECE_KEYS)
        self.at = 0  # the piece that was told last

    def fits(self, topic: Topic) -> bool:
        """No key has come or gone since."""
        return len(self.keys) == len(topic.values) and self.deletions == topic.deletions


class Subscriber:
    __slots__ = (
        "client", "cursor", "left", "name", "number", "piece", "place", "prefixes", "round", "scope", "sent", "taken", "told", "window",
    )  # fmt: skip

    def __init__(self, client: Client, command: Sub) -> None:
        self.client, self.number, self.name = client, command.number, command.name
        self.prefixes = tuple(command.prefixes)
        self.window = command.window
        self.cursor = 0  # it has all up to here
        self.told = 0  # and knows that: by RESET, LIVE or AT
        self.place = 0  # of the batch that comes next
        self.round: Round | None = None  # while a snapshot is under way
        self.scope = self.prefixes  # what that is about
        self.piece = self.left = 0  # its next piece, and how many are left
        self.sent = self.taken = 0  # bytes

    @property
    def room(self) -> bool:
        return self.sent - self.taken < self.window


class Fanout:
    def __init__(self, topic: Topic, epoch: int, send: Send) -> None:
        self.topic, self._epoch, self._send = topic, epoch, send
        self.subscribers: dict[tuple[bytes, int], Subscriber] = {}
        self._named: dict[str, Subscriber] = {}  # the newest of each name
        self._round: Round | None = None  # the newest
        # Of one pass over the subscribers, so that what they have in common is made once.
        self._matches: dict[tuple[int, tuple[str, ...]], tuple[bytes, Parcel | None]] = {}
        self._cuts: dict[tuple[Round, int, tuple[str, ...]], list[Parcel]] = {}

    # -- coming and going ---------------------------------------------------------------------------------------------

    def add(self, client: Client, command: Sub) -> None:
        """Where it begins is told at once; what there is for it comes with `serve`."""
        topic, history = self.topic, self.topic.history
        subscriber = self.subscribers[client.id, command.number] = Subscriber(client, command)
        start, epoch, seq, fresh = command.start, command.epoch, command.seq, tuple(command.fresh)
        if command.name:
            self._named[command.name] = subscriber
            if command.name in topic.names and start != Start.POSITION:
                start, (epoch, seq) = Start.POSITION, topic.names[command.name]
        if start == Start.POSITION and not self._holds(epoch, seq):
            self._reset(subscriber, 0)
        elif start in (Start.POSITION, Start.SEQ) and history.floor > seq + 1:
            self._reset(subscriber, seq + 1)
        elif start == Start.SNAPSHOT:
            self._reset(subscriber, 0)
        elif start in (Start.POSITION, Start.SEQ):
            self._begin(subscriber, min(seq, topic.head), fresh)
        elif start == Start.NOW:
            self._begin(subscriber, topic.head, fresh)
        else:
            place = history.first if start == Start.BEGINNING else history.place_since(command.time)
            self._begin(subscriber, history.at(place).qseq - 1 if place < history.end else topic.head, fresh)

    def take_over(self, deleted: Fanout) -> None:
        """The subscribers of a topic that was deleted go on with the next one of its name. What they miss is told as a gap."""
        self.subscribers, self._named = deleted.subscribers, deleted._named
        for subscriber in self.subscribers.values():
            self._reset(subscriber, subscriber.cursor + 1)

    def remove(self, client: Client, number: int) -> None:
        subscriber = self.subscribers.pop((client.id, number), None)
        if subscriber is not None and self._named.get(subscriber.name) is subscriber:
            del self._named[subscriber.name]

    def take_up(self, client: Client, number: int, taken: int) -> None:
        """Flow control: it has taken so many bytes in all."""
        subscriber = self.subscribers.get((client.id, number))
        if subscriber is not None and subscriber.taken < taken <= subscriber.sent:
            subscriber.taken = taken

    def keeps(self, client: Client, number: int, epoch: int, seq: int) -> str:
        """R-T5: the name under which this position is to be kept; "": it is not."""
        subscriber = self.subscribers.get((client.id, number))
        if subscriber is None or self._named.get(subscriber.name) is not subscriber or not self._holds(epoch, seq):
            return ""
        kept = self.topic.names.get(subscriber.name)
        return subscriber.name if kept is None or not self._holds(*kept) or seq > kept[1] else ""

    def _holds(self, epoch: int, seq: int) -> bool:
        """Does this position mean anything here? One of an epoch still to come is of another node, or of this one's future."""
        return epoch <= self._epoch and self.topic.holds(epoch, seq)

    def _begin(self, subscriber: Subscriber, seq: int, fresh: tuple[str, ...]) -> None:
        """It goes on behind `seq`. What is `fresh` is told anew."""
        self._move(subscriber, seq, 1, 0, Scope.FRESH if fresh else Scope.NONE)
        if fresh:
            self._snapshot(subscriber, fresh)

    def _reset(self, subscriber: Subscriber, missing: int) -> None:
        """All anew. `missing`: the first number that it lacks, in the present count; 0: there is none that means anything."""
        head = self.topic.head
        self._move(subscriber, head, missing or 1, head if missing else 0, Scope.ALL)
        self._snapshot(subscriber, subscriber.prefixes)

    def _move(self, subscriber: Subscriber, seq: int, first: int, last: int, scope: Scope) -> None:
        subscriber.cursor = subscriber.told = seq
        subscriber.place = self.topic.history.place_of(seq + 1)
        self._send(subscriber.client, Reset(subscriber.number, self._epoch, seq, first, last, scope))

    def _snapshot(self, subscriber: Subscriber, scope: tuple[str, ...]) -> None:
        if self._round is None or not self._round.fits(self.topic):
            self._round = Round(self.topic)
        subscriber.round, subscriber.scope = self._round, scope
        subscriber.piece, subscriber.left = self._round.at, self._round.pieces

    # -- telling ------------------------------------------------------------------------------------------------------

    def serve(self, now: float) -> None:
        """Tell everybody what there is and fits its window."""
        running = False
        for subscriber in self.subscribers.values():
            self._serve(subscriber, now)
            running |= subscriber.round is self._round
        if not running:
            self._round = None
        self._matches.clear()
        self._cuts.clear()
        self.topic.forget_old()

    def _serve(self, subscriber: Subscriber, now: float) -> None:
        history = self.topic.history
        while subscriber.room and subscriber.client.peer:
            if subscriber.cursor + 1 < history.floor:
                self._reset(subscriber, subscriber.cursor + 1)
            elif subscriber.place < history.end:
                self._tell_batch(subscriber)
            elif subscriber.round is None:
                return
            elif subscriber.left:
                self._tell_piece(subscriber, subscriber.round, now)
            else:
                subscriber.round = None
                self._tell_at(subscriber)

    def _tell_batch(self, subscriber: Subscriber) -> None:
        row = self.topic.history.at(subscriber.place)
        skip = subscriber.cursor + 1 - row.qseq
        case = subscriber.place, subscriber.prefixes
        match = self._matches.get(case) if not skip else None
        if match is None:
            match = self.topic.updates_at(subscriber.place).matching(subscriber.prefixes, skip)
            if not skip:
                self._matches[case] = match
        mask, parcel = match
        subscriber.cursor = row.qseq + row.count - 1
        subscriber.place += 1
        if parcel is not None:
            self._send(subscriber.client, Live(subscriber.number, subscriber.told, row.qseq, row.count, mask, parcel.count, parcel))
            subscriber.told = subscriber.cursor
            subscriber.sent += len(parcel.body) + FRAME_COST

    def _tell_piece(self, subscriber: Subscriber, round: Round, now: float) -> None:
        """Rule 2."""
        case = round, subscriber.piece, subscriber.scope
        cut = self._cuts.get(case)
        if cut is None:
            start = subscriber.piece * PIECE_KEYS
            keys = round.keys[start : start + PIECE_KEYS]
            if subscriber.scope != ALL:
                keys = [key for key in keys if key.startswith(subscriber.scope)]
            cut = self._cuts[case] = pieces(*self.topic.held(keys, now))
        for parcel in cut:
            self._send(subscriber.client, Chunk(subscriber.number, subscriber.cursor, 1, parcel))
            subscriber.sent += len(parcel.body) + FRAME_COST
        round.at = subscriber.piece
        subscriber.piece = (subscriber.piece + 1) % round.pieces
        subscriber.left -= 1

    def _tell_at(self, subscriber: Subscriber) -> None:
        self._send(subscriber.client, At(subscriber.number, self._epoch, subscriber.cursor))
        subscriber.told = subscriber.cursor

    def beat(self, client: Client, number: int) -> None:
        """Rule 4: one to which nothing was said lately learns how far it is."""
        subscriber = self.subscribers.get((client.id, number))
        if subscriber is not None and subscriber.told < subscriber.cursor and subscriber.round is None:
            self._tell_at(subscriber)
