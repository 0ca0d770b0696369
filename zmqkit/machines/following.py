"""A client's subscriptions: what is wanted of which topic, how far each is, and the state that its updates add up to.

Rule 1  Every SUB has a new number; what still comes under an older one is not heard. So a subscription begins anew on a new link,
        or with other prefixes, without a word about what was under way.
Rule 2 (R-T1)  Pieces and updates are applied in the order of the link. A snapshot that its link did not finish is asked for again.
Rule 3 (R-T4)  LIVE must follow what we know. If it does not, something was lost: we subscribe anew from where we are.
Rule 4  After a RESET of all, what neither the snapshot nor an update named by its end does not exist any more: it is deleted, and
        that is told like every deletion, so that a plain fold of the events stays right.
"""

from __future__ import annotations

from typing import NamedTuple

from zmqkit import wire
from zmqkit.updates import ALL, Held, Updates, Value, kept, unpacked
from zmqkit.wire import Scope, Start

WINDOW_BYTES = 8 * 1024 * 1024
NO_POSITION = 0, 1  # epochs begin with 1

class Changes(NamedTuple):
    """Updates of one batch, in order. `numbers`: the seq of each, or of all together."""

    keys: list[str]
    values: list[Held]
    numbers: range | list[int] | int
    epoch: int
    size: int  # bytes that the window takes them for
    plain: bool  # every one has a value, without an end
    snapshot: bool
    whole: bool  # nothing of a snapshot comes behind it: who has it has all before it


class Gap(NamedTuple):
    """What was missed, and is in nobody's history any more; `first` > `last`: nobody can tell how much."""

    first: int
    last: int


class Loaded(NamedTuple):
    """The state is complete from here on."""


class Subscription:
    def __init__(
        self, topic: str, prefixes: tuple[str, ...] = ALL, start: Start = Start.SNAPSHOT, epoch: int = 0, seq: int = 0, time: float = 0.0,
        name: str = "",
    ) -> None:  # fmt: skip
        self.topic, self.prefixes, self.name = topic, prefixes, name
        self.start, self.time = start, time  # POSITION once it was loaded: from then on whoever misses something is told
        self.number = 0  # of its newest SUB
        self.epoch, self.seq = epoch, seq  # how far we are
        self.based = False  # a RESET has said what that means
        self.scope = Scope.NONE  # of the snapshot under way
        self.fresh: tuple[str, ...] = ()  # FRESH: of which prefixes
        self.received = self.taken = self.told = 0  # bytes: came, taken by the application, and what the node was told of that
        self.stale: dict[str, None] = {}  # keys that the snapshot under way has not named yet
        self.state: dict[str, Value] = {}
        self.states = [self.state]  # all that the updates are folded into: also one of several topics, where the last word counts
        self.kept: tuple[int, int] | None = None  # the position that the node is to keep under the name
        self.news: list[Changes | Gap | Loaded | wire.Refused] = []

    @property
    def loaded(self) -> bool:
        return self.based and not self.scope

    def matches(self, key: str) -> bool:
        return key.startswith(self.prefixes)

    def _apply(self, changes: Changes, now: float) -> None:
        for state in self.states:
            _fold(state, changes, now)
        stale = self.stale
        if stale:
            for key in changes.keys:
                stale.pop(key, None)
        self.news.append(changes)

    # -- hearing ------------------------------------------------------------------------------------------------------

    def reset(self, reset: wire.Reset) -> None:
        if reset.scope == Scope.ALL and (reset.first <= reset.last or self.start == Start.POSITION):
            self.news.append(Gap(reset.first, reset.last))
        self.epoch, self.seq, self.based = reset.epoch, reset.seq, True
        self.scope = Scope(reset.scope)
        if self.scope == Scope.ALL:
            self.fresh, self.stale = (), dict.fromkeys(self.state)
            return
        self.start = Start.POSITION
        if not self.scope:
            self.news.append(Loaded())

    def chunk(self, chunk: wire.Chunk, now: float) -> None:
        """Raises ValueError for what are no updates."""
        keys, values, plain = unpacked(chunk.parcel)
        self._came(Changes(keys, values, chunk.seq, self.epoch, _size(chunk), plain, True, False), now)

    def live(self, live: wire.Live, now: float) -> bool:
        """False: it does not follow what we know (rule 3). Raises ValueError for what are no updates."""
        if not self.based or live.prev != self.seq:
            return False
        updates = Updates.read(live.parcel)
        numbers: range | list[int] = range(live.first, live.first + live.span)
        if live.mask:
            mask = int.from_bytes(live.mask, "little")
            numbers = [number for index, number in enumerate(numbers) if mask >> index & 1]
        self._came(Changes(updates.keys, updates.values, numbers, self.epoch, _size(live), updates.plain, False, self.loaded), now)
        self.seq = live.first + live.span - 1  # last: a thread that reads it finds as much in the state
        return True

    def at(self, at: wire.At, now: float) -> None:
        self.epoch, self.seq = at.epoch, at.seq
        if self.scope:
            self.scope, self.fresh, self.start = Scope.NONE, (), Start.POSITION
            gone, self.stale = list(self.stale), {}
            if gone:
                self._apply(Changes(gone, [None] * len(gone), at.seq, self.epoch, 0, False, True, False), now)
            self.news.append(Loaded())

    def _came(self, changes: Changes, now: float) -> None:
        self.received += changes.size
        self._apply(changes, now)

    # -- speaking -----------------------------------------------------------------------------------------------------

    def command(self, number: int, window: int) -> wire.Sub:
        """Where we are, said anew."""
        self.number = number
        self.taken -= self.received  # what came before and is still to be taken is no part of this window
        self.received = self.told = 0
        start = Start.POSITION if self.based else self.start
        # A snapshot that was not finished is asked for anew, by a position that nobody holds: any other, or the name's, is no base.
        epoch, seq = NO_POSITION if self.based and self.scope == Scope.ALL else (self.epoch, self.seq)
        return wire.Sub(number, self.topic, list(self.prefixes), list(self.fresh), start, epoch, seq, self.time, self.name, window)

    def change(self, prefixes: tuple[str, ...]) -> None:
        """Other prefixes: of new ones there is to be a snapshot, of those that went there is nothing any more."""
        added = [prefix for prefix in prefixes if not prefix.startswith(self.prefixes)]
        self.prefixes = prefixes
        for key in [key for key in self.state if not key.startswith(prefixes)]:
            for state in self.states:
                state.pop(key, None)
            self.stale.pop(key, None)
        if self.scope != Scope.ALL:
            missing = [*self.fresh, *added]
            # Of a missing prefix and a wanted one under each other the narrower, which is the greater.
            both = [max(one, other) for one in missing for other in prefixes if one.startswith(other) or other.startswith(one)]
            self.fresh = tuple(dict.fromkeys(both))
            if len(self.fresh) > wire.PREFIXES_MAX or sum(map(len, self.fresh)) > sum(map(len, prefixes)):
                self.fresh = prefixes  # a SUB has room for no more than them, twice
            self.scope = Scope.FRESH if self.fresh else Scope.NONE


def _fold(state: dict[str, Value], changes: Changes, now: float) -> None:
    if changes.plain:
        state.update(zip(changes.keys, changes.values, strict=True))  # type: ignore[arg-type]
        return
    for key, value in zip(changes.keys, changes.values, strict=True):
        if value is None:
            state.pop(key, None)
        else:
            state[key] = kept(value, now) if type(value) is list else value  # type: ignore[assignment]


def _size(command: wire.Chunk | wire.Live) -> int:
    return len(command.parcel.body) + wire.FRAME_COST


class Following:
    """All of a client."""

    def __init__(self, window: int = WINDOW_BYTES) -> None:
        self.subscriptions: list[Subscription] = []
        self._window = window
        self._by_number: dict[int, Subscription] = {}
        self._number = 0
        self._unsaid: list[Subscription] = []  # of which a SUB is to be sent
        self._words: list[wire.Command] = []
        self.changed: dict[Subscription, None] = {}  # there is news
        self._taken: dict[Subscription, None] = {}

    # -- the handles --------------------------------------------------------------------------------------------------

    def add(self, subscription: Subscription) -> None:
        self.subscriptions.append(subscription)
        self._unsaid.append(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
            self._forget_number(subscription)

    def change(self, subscription: Subscription, prefixes: tuple[str, ...]) -> None:
        """Other prefixes from now on: of new ones there is a snapshot, of those that went there is nothing any more."""
        subscription.change(prefixes)
        self._again(subscription)

    def take(self, subscription: Subscription, size: int) -> None:
        """The application has taken so many bytes more."""
        subscription.taken += size
        self._taken[subscription] = None

    def keep(self, subscription: Subscription, epoch: int, seq: int) -> None:
        """R-T5: it has taken all up to here. Said again behind each SUB, for the word may be lost with its link."""
        subscription.kept = epoch, seq
        if subscription.number in self._by_number:
            self._words.append(wire.Pos(subscription.number, epoch, seq))

    def take_changed(self) -> list[Subscription]:
        """Those with news since the last time."""
        found = list(self.changed)
        self.changed.clear()
        return found

    # -- the link -----------------------------------------------------------------------------------------------------

    def resume(self, changed: bool) -> None:
        """On a new link; `changed`: to another node, whose count is another one."""
        if changed:
            for subscription in self.subscriptions:
                subscription.epoch, subscription.kept = 0, None
        self._by_number.clear()
        self._words.clear()
        self._unsaid = list(self.subscriptions)

    @property
    def speechless(self) -> bool:
        return not (self._unsaid or self._words or self._taken)

    def sends(self) -> list[wire.Command]:
        sends = self._words
        self._words = []
        for subscription in self._unsaid:
            self._number += 1
            self._by_number[self._number] = subscription
            sends.append(subscription.command(self._number, self._window))
            if subscription.kept is not None:
                sends.append(wire.Pos(self._number, *subscription.kept))
        self._unsaid = []
        for subscription in self._taken:
            untold = subscription.taken - subscription.told
            if untold >= self._window // 4 or (untold and subscription.taken == subscription.received):
                subscription.told = subscription.taken
                sends.append(wire.Seen(subscription.number, subscription.told))
        self._taken.clear()
        return sends

    def hear(self, command: wire.Reset | wire.Chunk | wire.Live | wire.At, now: float) -> str:
        """Why it was dropped; "": it was not."""
        subscription = self._by_number.get(command.number)
        if subscription is None:
            return "old-subscription"
        try:
            if isinstance(command, wire.Reset):
                subscription.reset(command)
            elif isinstance(command, wire.Chunk):
                subscription.chunk(command, now)
            elif isinstance(command, wire.At):
                subscription.at(command, now)
            elif not subscription.live(command, now):
                self._again(subscription)
                return "update-out-of-order"
        except ValueError as error:
            self._again(subscription)
            return f"no-updates: {error}"
        self.changed[subscription] = None
        return ""

    def refused(self, refused: wire.Refused) -> None:
        """The node does not take that subscription: it is over."""
        subscription = self._by_number.pop(refused.first, None)
        if subscription is not None:
            self.subscriptions.remove(subscription)
            subscription.news.append(refused)
            self.changed[subscription] = None

    def _again(self, subscription: Subscription) -> None:
        """Rule 1."""
        self._forget_number(subscription)
        if subscription not in self._unsaid:
            self._unsaid.append(subscription)

    def _forget_number(self, subscription: Subscription) -> None:
        if self._by_number.pop(subscription.number, None) is not None:
            self._words.append(wire.Unsub(subscription.number))
        if subscription in self._unsaid:
            self._unsaid.remove(subscription)
