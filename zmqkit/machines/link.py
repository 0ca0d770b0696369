"""A client's machine: one peer, the node; one link at a time; streams, holdings and asks that outlive links.

Rule 1 (R-L1, R-L2)  A link is one socket and starts with HELLO. In doubt it is given up and another one opened under a
                     higher number: at once the first time, then after 0.1 s doubling to 1 s, each ± 50 %.
Rule 2 (R-A4)        Nothing but HELLO before WELCOME; then READY, what is unanswered, PUTs from their base.
Rule 3 (R-L2, R-L7)  No echo for `patience` after a READY is doubt.
Rule 4 (R-L6)        A lower epoch of the node we know is an old copy of it: not ours. Another node ends every lease.
Rule 5 (R-A7)        A stop finishes what runs, awaits the answers, says BYE, and takes nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from zmqkit import framing, wire
from zmqkit.machines import events as ev, phases
from zmqkit.machines.asks import Asks
from zmqkit.machines.beats import Beats
from zmqkit.machines.calling import Calling
from zmqkit.machines.following import Following
from zmqkit.machines.holdings import MARGIN, HeldLease, Holdings
from zmqkit.machines.output import ClientOutput, Dropped
from zmqkit.machines.phases import UP, Phase
from zmqkit.machines.producer import WINDOW_BATCHES, WINDOW_BYTES, ProducerStream
from zmqkit.machines.windows import Windows
from zmqkit.parcel import Buffer, Parcel
from zmqkit.wire import BackKind


class ClientMachine:
    """Verbs of the driver: start receive lost tick take stop, and `deadline`. Verbs of the handles: all others."""

    def __init__(self, client: bytes, jitter: Callable[[], float]) -> None:
        self.client, self._jitter = client, jitter
        self.phase = Phase.IDLE
        self.stopping = False
        self.node, self.epoch, self.limits = b"", 0, dict[str, Any]()
        self.link = 0
        self.beats = Beats()
        self.streams: dict[str, ProducerStream] = {}
        self.consumers = Windows()
        self.holdings = Holdings()
        self.asks = Asks()
        self.calling = calling = Calling()
        self.following = Following()
        self.call, self.cancel, self.more, self.flee = calling.call, calling.cancel, calling.more, calling.flee
        self._window = WINDOW_BATCHES, WINDOW_BYTES
        self._beat, self._patience = phases.BEAT_SECONDS, phases.PATIENCE_SECONDS
        self._hurry = self._leaving = False
        self._greets = False  # WELCOME was heard, and nothing said since
        self._failures, self._at = 0, inf  # since the last echo; when the present phase has lasted long enough
        self._remind = inf
        self._now = self._heard = -inf
        self._out = ClientOutput()

    # -- the driver ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Open the first link."""
        self._clock(now)
        self._connect()

    def receive(self, frames: Sequence[Buffer], now: float) -> None:
        """Frames came in on the newest link."""
        try:
            command = framing.decode(frames)
        except framing.Malformed as error:
            self._out.events.append(Dropped("malformed", self.node, str(error)))
        else:
            self.hear(command, now)

    def hear(self, command: wire.Command, now: float) -> None:
        """A command came in on the newest link."""
        self._clock(now)
        hears = _HEARS.get(type(command))
        expected = self.phase is UP or self.phase is Phase.PARTING or (self.phase is Phase.GREETING and type(command) in _GREETINGS)
        if hears is None or not expected:
            self._out.events.append(Dropped("unexpected", self.node, type(command).__name__))
        else:
            hears(self, command)

    def lost(self, now: float, reason: str) -> None:
        """The link is in doubt, or an attempt failed: give it up. Another one is opened by itself."""
        self._clock(now)
        if self.phase is Phase.PARTING:
            self._close()
        elif self.phase in (Phase.GREETING, Phase.UP):
            self._give_up(reason)

    def tick(self, now: float) -> None:
        """Time has passed: at `deadline`, or earlier."""
        self._clock(now)
        self._remind = self._remind if now < self._remind else inf
        if self.calling.flights:
            self.calling.tick(now, self.phase is UP)
        if self.phase is UP:
            if self.beats.out and self.beats.silent(self._heard) >= self._patience:
                self._give_up(f"no heartbeat came back for {self._patience:g} s")
        elif now >= self._at:
            if self.phase is Phase.WAITING:
                self._connect()
            elif self.phase is Phase.GREETING:
                self._give_up(f"no answer within {phases.WELCOME_SECONDS:g} s")
            elif self.phase is Phase.PARTING:
                self._close()

    def take(self) -> ClientOutput:
        """What is to be done now: connect or close, sends in order, events. The driver must do all of it."""
        if self.phase is UP:
            self._speak()
        out, self._out = self._out, ClientOutput()
        if self.calling.events:
            out.events += self.calling.events
            self.calling.events.clear()
        if self.following.changed:
            out.events.append(ev.News(self.following.take_changed()))
        return out

    @property
    def deadline(self) -> float:
        """Call `tick` then at the latest; inf if time changes nothing."""
        if self._out.connect is not None or self._out.events:
            return self._now  # something has happened since the last `take`
        calls_at = self.calling.deadline if self.calling.flights or self.calling.events else inf
        if self.phase is not UP:
            return min(self._at, self._remind, calls_at)
        soonest = min(self._beat_due(), self._remind, calls_at, self.consumers.slow_at if self.consumers else inf)
        if self.beats.out:
            # At least once a beat, so that a longer pause is known to be ours and not the node's silence.
            soonest = min(soonest, self._now + min(self._beat, max(0.0, self._patience - self.beats.silent(self._heard))))
        for stream in self.streams.values():
            soonest = min(soonest, stream.waits_until)
        return soonest

    def stop(self, now: float) -> None:
        """Rule 5. What is in hand may be finished; new leases go back. `Left` is the last event."""
        self._clock(now)
        self.stopping = True
        self.consumers.close()
        if self.phase is not Phase.UP and self.phase is not Phase.PARTING:
            self._close()

    def leave(self, now: float) -> None:
        """Like `stop`, but BYE is said now: the node gives back what is in hand, and what is unanswered stays in doubt."""
        self.stop(now)
        self._leaving = True

    # -- the handles --------------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        return self.phase is UP

    @property
    def settled(self) -> bool:
        """Nothing is under way: every put, ask and ack has its answer, and nothing is in hand."""
        return not (self.asks.open or self.calling.flights or self.holdings.leases or self._flying())

    def has_room(self, queue: str, full: bool) -> bool:
        """May a batch be `put` now? A full one while the window has room, one that could grow only if the line is quiet."""
        if self.phase is not Phase.UP or self.stopping:
            return False
        stream = self.streams.get(queue)
        return stream is None or stream.has_room(full, *self._window)

    def put(self, queue: str, parcel: Parcel, ticket: Any) -> None:
        """Ask `has_room` first. From now on it may happen, whatever the caller does: `Stored` or `Rejected` tells."""
        stream = self.streams.get(queue)
        if stream is None:
            stream = self.streams[queue] = ProducerStream(queue)
        stream.offer(parcel, ticket)

    def done(self, lease: HeldLease, offset: int, count: int, wait: bool = False) -> int:
        """Settle what is open of a range; says how many that were. `wait`: the node syncs now and answers at once."""
        settled = self.holdings.done(lease, offset, count, wait)
        self.consumers[lease.queue].settled(settled)
        return settled

    def reply(self, lease: HeldLease, offset: int, count: int, status: int, parcel: Parcel) -> int:
        """End what is open of these calls, each with its body; says how many that were."""
        ended = self.holdings.reply(lease, offset, count, status, parcel)
        self.consumers[lease.queue].settled(ended)
        return ended

    def part(self, lease: HeldLease, offset: int, parcel: Parcel) -> None:
        """The next parts of a streamed answer. No more than the caller allows: the lease's terms, then `Allowed`."""
        self.holdings.part(lease, offset, parcel)

    def back(self, lease: HeldLease, offset: int, count: int, kind: BackKind, delay: float = -1.0, reason: str = "") -> int:
        """Hand back what is open of a range; says how many that were. `delay` < 0: the queue's backoff decides."""
        returned, state = self.holdings.back(lease, offset, count, kind, delay, reason), self.consumers[lease.queue]
        (state.returned if kind is BackKind.UNSTARTED else state.settled)(returned)
        return returned

    def drop(self, lease: HeldLease, offset: int, count: int) -> int:
        """Of a revoked lease: these messages are not in our hands any more; says how many were. The node is told nothing."""
        dropped = self.holdings.drop(lease, offset, count)
        self.consumers[lease.queue].returned(dropped)
        return dropped

    def extend(self, lease: HeldLease, seconds: float) -> None:
        """From the next beat on, sent now, this lease is renewed for so long each time."""
        lease.wanted, self._hurry = seconds, True
        lease.seconds = min(lease.seconds, seconds)  # the gate never believes in more than was certain

    def hurry(self) -> None:
        """Send a READY now, behind all words: the next `Echoed` with `behind`, above today's `beats.number`, has seen today's windows."""
        self._hurry = True

    def remind(self, at: float) -> None:
        """Be called again at `at`, though nothing may have happened."""
        self._remind = min(self._remind, at)

    # -- links --------------------------------------------------------------------------------------------------------

    def _clock(self, now: float) -> None:
        # A gap of over a beat between two turns was our own pause: nobody listened, so the node was not silent in it.
        if now > self._now:
            self._heard = now if self._now == -inf else self._heard + min(now - self._now, self._beat)
            self._now = now

    def _connect(self) -> None:
        self.link += 1
        self._out.connect, self._out.sends = self.link, []  # what was meant for an older link is not for this one
        self._out.sends.append(wire.Hello([wire.VERSION], self.client, self.link, self.node, self.epoch))
        self.phase, self._at = Phase.GREETING, self._now + phases.WELCOME_SECONDS

    def _give_up(self, reason: str) -> None:
        self._out.events.append(ev.Down(reason))
        self._out.sends.clear()
        self.calling.down()
        self.beats.out.clear()
        if self.stopping and (self._leaving or self.settled):
            self._close()
        elif self._failures:
            delay = min(phases.RETRY_SECONDS_MAX, phases.RETRY_SECONDS * 2 ** min(10, self._failures - 1)) * (0.5 + self._jitter())
            self.phase, self._at = Phase.WAITING, self._now + delay
        else:
            self._connect()
        self._failures += 1

    def _close(self) -> None:
        self.phase, self._at = Phase.CLOSED, inf
        self._out.close = True
        self._out.events.append(ev.Left())

    # -- speaking -----------------------------------------------------------------------------------------------------

    def _speak(self) -> None:
        """Rule 2: READY, words, asks, puts.

        READY goes before the words on a new link, where it lists the leases they are about, and if a window shrinks: else the
        room that they make would be filled by the old one. Any other goes behind them: its echo says what there was, with that room.
        """
        consumers, calling = self.consumers, self.calling
        if self._greets or (consumers and consumers.shrinks()):
            self._ready(behind=False)
        sends = self._out.sends
        if not self.holdings.speechless:
            sends.extend(self.holdings.sends(self.beats.number))
        if self._hurry or self._now >= self._beat_due() or (consumers and consumers.must_restate(clocked=not self.beats.out)):
            self._ready(behind=True)
            self._hurry = False
        if self.asks.open:
            sends.extend(self.asks.sends())
        if calling.unsent or calling.words:
            sends.extend(calling.sends(self._now, self.beats.number))
        if not self.following.speechless:
            sends.extend(self.following.sends())
        for stream in self.streams.values():
            if stream.flights:
                sends.extend(stream.sends(self._now))
        if self._leaving or (self.stopping and self.settled):
            self._out.sends.append(wire.Bye())
            self.phase, self._at = Phase.PARTING, self._now + phases.BYE_SECONDS

    def _beat_due(self) -> float:
        holdings = self.holdings
        if self.calling.flights or holdings.leases or holdings.awaited or self.asks.open or (self.streams and self._flying()):
            return self.beats.sent_at + min(self._beat, holdings.shortest / phases.BEATS_A_LEASE)
        return self.beats.sent_at + self._beat * phases.IDLE_BEATS

    def _flying(self) -> bool:
        for stream in self.streams.values():  # noqa: SIM110
            if stream.flights:
                return True
        return False

    def _ready(self, behind: bool) -> None:
        held = self.holdings.listed()
        self.beats.send(self._now, self._heard, [entry.token for entry in held], behind)
        self._out.sends.append(wire.Ready(self.beats.number, self.holdings.seen, self.consumers.stated(), self.calling.replied, held))
        self._greets = False

    # -- hearing ------------------------------------------------------------------------------------------------------

    def _welcome(self, welcome: wire.Welcome) -> None:
        if self.phase is not Phase.GREETING:
            return
        if welcome.version != wire.VERSION:
            return self._give_up(f"the node speaks version {welcome.version} of the protocol, this is version {wire.VERSION}")
        if welcome.node == self.node and welcome.epoch < self.epoch:
            return self._give_up(f"an old copy of the node answered: epoch {welcome.epoch}, but {self.epoch} is known")
        changed = self.node not in (b"", welcome.node)
        if changed:
            self._out.events.extend(self.holdings.abandon())
        self.node, self.epoch, self.limits = welcome.node, welcome.epoch, welcome.limits
        self._beat, self._patience = welcome.beat or phases.BEAT_SECONDS, welcome.patience or phases.PATIENCE_SECONDS
        self._window = int(self.limits.get("window_batches", WINDOW_BATCHES)), int(self.limits.get("window_bytes", WINDOW_BYTES))
        self.phase, self._at, self._greets = Phase.UP, inf, True
        self.holdings.resume()
        self.asks.resume()
        self.calling.resume(self.epoch, changed, self._now, self.beats.proven)
        self.following.resume(changed)
        for stream in self.streams.values():
            stream.resume()
        self._out.events.append(ev.Up(self.node, self.epoch, self.limits, changed))

    def _echo(self, echo: wire.Echo) -> None:
        beat = self.beats.echo(echo.beat)
        self._out.events.extend(self.holdings.revoke(echo.revoked))
        if beat is not None:
            self._failures = 0
            self.holdings.echoed(beat.number, beat.sent, beat.listed)
            self.calling.echoed(beat.number)
            self.consumers.echoed()
            self._out.events.append(ev.Echoed(beat.number, beat.behind))

    def _lease(self, lease: wire.Lease) -> None:
        if self.phase is Phase.PARTING or lease.token in self.holdings.leases:
            return  # rule 5; and a token is granted once
        assert isinstance(lease.parcel, Parcel), "the driver fills in what the node's log holds"
        asked = self.beats.sending(lease.beat)
        held = self.holdings.granted(lease, asked)
        if lease.terms is not None:  # R-C5: its seconds count from that beat, 5 % of what is left of them is for clocks that differ
            held.ends_at = self._now + MARGIN * (asked + lease.terms.seconds - self._now)
        state = self.consumers.of(lease.queue)
        state.open += held.count
        if self.stopping or self.holdings.in_hand > wire.ENTRIES_MAX or self._now >= held.ends_at:
            self.back(held, 0, held.count, BackKind.UNSTARTED)
            return
        # R-Q4: after a long silence the node may have given up on us already. The echo of a beat that it has seen since tells.
        if self._now <= self.beats.proven + self._beat:
            held.move_gate(self.beats.proven)
        elif not self.beats.waits(lease.beat):
            self._hurry = True
        state.granted(held.count)
        self._out.events.append(ev.Granted(held))

    def _confirm(self, confirm: wire.Confirm) -> None:
        stream = self.streams.get(confirm.queue)
        if stream is not None:
            self._out.events.extend(stream.confirmed(confirm))

    def _refused(self, refused: wire.Refused) -> None:
        stream = self.streams.get(refused.queue)
        if refused.command == wire.Kind.HELLO or self.phase is Phase.GREETING:
            self._give_up(refused.text or "the node refused the link")
        elif refused.command == wire.Kind.CALL:
            self.calling.refused(refused)
        elif refused.command == wire.Kind.SUB:
            self.following.refused(refused)
        elif refused.command == wire.Kind.READY:
            self._out.events.append(ev.Barred(refused.queue, refused.code, refused.retry_after, refused.text))
        elif refused.command == wire.Kind.PUT and stream is not None:
            event = stream.refused(refused, self._now)
            self._out.events.extend([event] if event else [])

    def _told(self, told: wire.Told) -> None:
        if (ticket := self.asks.told(told.number)) is not None:
            self._out.events.append(ev.Replied(ticket, told.result))

    def _follow(self, command: Any) -> None:
        reason = self.following.hear(command, self._now)
        if reason:
            self._out.events.append(Dropped(reason, self.node, type(command).__name__))

    def _no_session(self, _: wire.NoSession) -> None:
        self._give_up("the node does not know this link")

    def _bye(self, _: wire.Bye) -> None:
        if self.phase is Phase.PARTING:
            self._close()
        else:
            self._give_up("the node stops")


_HEARS: dict[type, Callable[[ClientMachine, Any], None]] = {
    wire.Welcome: ClientMachine._welcome, wire.NoSession: ClientMachine._no_session, wire.Confirm: ClientMachine._confirm,
    wire.Refused: ClientMachine._refused, wire.Echo: ClientMachine._echo, wire.Lease: ClientMachine._lease,
    wire.Answer: lambda machine, answer: machine._out.events.extend(machine.holdings.answered(answer)),
    wire.Told: ClientMachine._told, wire.Bye: ClientMachine._bye,
    wire.Reply: lambda machine, reply: machine.calling.replied_to(reply), wire.Part: lambda machine, part: machine.calling.part(part),
    wire.Cancel: lambda machine, cancel: machine._out.events.extend(machine.holdings.cancelled(cancel)),
    wire.Reset: ClientMachine._follow, wire.Chunk: ClientMachine._follow, wire.Live: ClientMachine._follow, wire.At: ClientMachine._follow,
    wire.More: lambda machine, more: machine._out.events.extend(machine.holdings.more(more)),
}  # fmt: skip
_GREETINGS = (wire.Welcome, wire.NoSession, wire.Refused, wire.Bye)  # rule 2: all else is not meant for this link yet
