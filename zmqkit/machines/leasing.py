"""Granting and ending leases.

Rule 1: room = window - open messages - messages of revoked tokens that the client lists, or will. Windows are absolute.
Rule 2: what the client's READY lists is renewed; what it does not list, and must have received or can no longer receive,
        goes back at once without an attempt.
Rule 3: a lost link brings the deadline forward to the last READY + grace; the same client adopts by listing the token.
Rule 4: leases end by the time the node has listened (`heard`), after the drain of a turn.
Rule 5: a suspect is leased by itself, to a client that holds nothing else, nor still runs what was taken from it.
Rule 6: beyond what its user may have in flight, over all its clients, a client is granted nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from zmqkit import records
from zmqkit.machines import permits
from zmqkit.machines.core import BEAT, LEASES_MAX, PATIENCE, Core
from zmqkit.machines.leases import EXPIRED, LOST, ORPHANED, REJECT, TOKEN_COUNTER_BITS, UNLISTED, UNRECEIVED, WITHDRAWN, Cause, Lease
from zmqkit.machines.output import Ended
from zmqkit.machines.parts import Batch, Row
from zmqkit.machines.queue import Queue
from zmqkit.machines.service import Service
from zmqkit.machines.session import Client, Consumer
from zmqkit.records import ranges_of
from zmqkit.wire import Code, Echo, Kind, Lease as LeaseCommand, Ready, Refused, Slice

ECHO_AFTER = 1.5 * BEAT  # silence after which a client that holds leases is sent its ECHO again
ECHO_EVERY = 0.5 * BEAT
RETRY_SECONDS = 5.0  # a consumer that was refused may ask again after that


class Leasing:
    def __init__(self, core: Core) -> None:
        self._core = core
        # Of leases of calls, set by Answering: what becomes of them at their end, and what is said on a new link.
        self.end_calls: Callable[[Lease, int, Cause, str], None]
        self.adopt_calls: Callable[[Client, Lease], None]
        self.unserved: Callable[[Service], None]
        self.counter = 0  # of the newest token of this epoch
        self.next_scan = inf  # in heard time: `tick` is due then
        self.echoes: dict[bytes, Client] = {}  # who is owed an answer to its READY
        self._drying: dict[int, bytes] = {}  # queue -> client that is let run dry for its suspects

    @property
    def newest_token(self) -> int:
        """Of this epoch; 0: none yet."""
        return self._core.identity.epoch << TOKEN_COUNTER_BITS | self.counter if self.counter else 0

    # -- granting ---------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Grant what can be granted in the queues where something changed."""
        core = self._core
        while core.hungry:
            queue = core.hungry.pop(next(iter(core.hungry)))
            if queue.ready and not queue.paused and not core.stopping and queue.consumers:
                self._dispatch(queue)
            elif self._drying:
                self._feed_again(queue)

    def _dispatch(self, queue: Queue | Service) -> None:
        suspects = bool(queue.returned) and queue.has_ready_suspects()
        while queue.ready:
            takers = [
                (consumer, room) for consumer in queue.consumers.values() if (room := consumer.room) > 0 and self._listens(queue, consumer)
            ]
            share = -(-queue.ready // len(takers)) if takers else 0  # no consumer takes what another could begin now
            granted = False
            for consumer, room in takers:
                alone = suspects and not consumer.client.runs_any()
                if queue.ready and self._grant(queue, consumer, min(share, room), alone):
                    granted = True
            if not granted:
                break
        if suspects and queue.ready and queue.has_ready_suspects():
            self._let_one_run_dry(queue)
        elif self._drying:
            self._feed_again(queue)

    def _listens(self, queue: Queue | Service, consumer: Consumer) -> bool:
        client = consumer.client
        if client.alone_token or len(client.leases) >= LEASES_MAX or client.account.in_flight >= client.account.limits.in_flight:
            return False
        if self._drying and (dry_for := self._dries_for(client)) and (queue.number not in dry_for or client.runs_any()):
            return False
        return self._works(consumer)

    def _works(self, consumer: Consumer) -> bool:
        client = consumer.client
        return bool(client.peer) and consumer.window > 0 and self._core.heard - client.last_ready <= PATIENCE

    def _grant(self, queue: Queue | Service, consumer: Consumer, room: int, alone: bool) -> bool:
        core, client = self._core, consumer.client
        account = client.account
        if account.limits.in_flight < inf and (room := min(room, int(account.room))) <= 0:
            return False  # another one of this user's took it in this very round
        picked = queue.pick(room, alone)
        if picked is None:
            return False
        batch: Any
        batch, offset, count = picked
        self.counter += 1
        token = self.newest_token
        lease = Lease(token, queue.number, client.id, client.link, batch, offset, count)
        lease.granted = core.heard
        lease.seconds = consumer.lease_seconds or queue.policy.lease
        lease.deadline = core.heard + lease.seconds
        if batch.suspect >> offset & 1:
            client.alone_token = token
            self._feed_again(queue)
        queue.lease(lease)
        core.leases[token] = client.leases[token] = lease
        consumer.open += count
        account.in_flight += count
        self.next_scan = min(self.next_scan, lease.deadline, client.next_echo)
        queue.consumers[client.id] = queue.consumers.pop(client.id)  # the next one's turn
        if isinstance(queue, Service):
            core.send(client.peer, queue.command(lease, client))
        else:
            core.record(records.Lease(queue.number, token, client.id, batch.qseq + offset, count), waited=False)
            core.send(client.peer, self._command(queue, lease, client.beat))
        return True

    @staticmethod
    def _command(queue: Queue, lease: Lease, beat: int) -> LeaseCommand:
        qseq, batch = lease.qseq, lease.batch
        columns = {}
        for name, marks in (("error", queue.errors), ("saved", queue.saved)):
            if marks:
                values = [marks.get(number) for number in range(qseq, qseq + lease.count)]
                if any(value is not None for value in values):
                    columns[name] = [value[-1] if isinstance(value, list) else value for value in values]
        body = Slice(batch.position, lease.offset, lease.count, columns or None)
        attempt = queue.failed.get(qseq, 0) + 1 if queue.failed else 1
        return LeaseCommand(queue.name, lease.token, qseq, lease.count, attempt, lease.seconds, queue.policy.grace, beat, None, body)

    def _let_one_run_dry(self, queue: Queue | Service) -> None:
        """All consumers are busy and suspects wait: one gets nothing more, from any queue, until it holds nothing."""
        chosen = queue.consumers.get(self._drying.get(queue.number, b""))
        if chosen is not None and self._works(chosen):
            return
        self._feed_again(queue)
        busy = [consumer for consumer in queue.consumers.values() if self._works(consumer) and not self._dries_for(consumer.client)]
        if busy:
            self._drying[queue.number] = min(busy, key=lambda consumer: consumer.open).client.id

    def _dries_for(self, client: Client) -> list[int]:
        return [number for number, client_id in self._drying.items() if client_id == client.id]

    def _feed_again(self, queue: Queue | Service) -> None:
        """Nobody needs to run dry for this queue any more."""
        core, client_id = self._core, self._drying.pop(queue.number, None)
        if client_id in core.clients:
            core.hungry.update((number, core.by_number[number]) for number in core.clients[client_id].consumers)

    # -- ending -----------------------------------------------------------------------------------------------------

    def end(self, lease: Lease, mask: int, cause: Cause, error: str = "", delay: float | None = None) -> None:
        """The open messages of `mask` are taken from the lease: back to the queue, or dead. `delay` None: as the cause
        and the policy say."""
        mask &= lease.open
        if not mask:
            return
        core, queue = self._core, self._core.by_number[lease.queue]
        if isinstance(queue, Service):
            self.end_calls(lease, mask, cause, error)
        else:
            self._put_back(queue, lease, mask, cause, error, delay)
        if cause.unasked:  # until its next READY tells, they run
            client = core.clients[lease.client]
            client.stray += mask.bit_count()
            client.consumers[lease.queue].revoked += mask.bit_count()
        self.ended(lease, mask)
        if cause.logged:
            core.out.events += [Ended(queue.name, lease.token, first, count, cause.name) for first, count in ranges_of(mask, lease.qseq)]

    def _put_back(self, queue: Queue, lease: Lease, mask: int, cause: Cause, error: str, delay: float | None) -> None:
        core = self._core
        counted = cause.counts and not (cause.only_single and lease.count > 1)
        ranges = ranges_of(mask)
        failed = queue.failed.get(lease.qseq + ranges[0][0], 0) + counted
        if cause is REJECT or (counted and failed >= queue.policy.max_attempts):
            reason = error if cause is REJECT else f"failed {failed} times, the last time: {error or cause.name}"
            dead = records.Dead(queue.number, lease.token, ranges, reason, core.now, counted, error or cause.name)
            core.record(dead)
            queue.bury(lease, dead)
        else:
            if delay is None:
                delay = queue.policy.backoff.delay(failed, core.jitter()) if cause.backoff else 0.0
            due = core.now + delay if delay > 0 else 0.0
            suspect = cause.suspect and not counted and lease.count > 1
            error = error or (cause.name if counted else "")
            back = records.Back(queue.number, lease.token, ranges, cause.name, counted, suspect, due, error)
            queue.back(lease, back, core.record(back))

    def ended(self, lease: Lease, mask: int) -> None:
        """Bookkeeping of every end, DONE included: the client has room again."""
        core = self._core
        client = core.clients[lease.client]
        client.consumers[lease.queue].open -= mask.bit_count()
        core.release(client.account, mask.bit_count())
        if not lease.open:
            if client.alone_token == lease.token:
                client.alone_token = 0
                core.hungry.update((number, core.by_number[number]) for number in client.consumers)
            if self._drying:
                core.hungry.update((number, core.by_number[number]) for number in self._dries_for(client))
            if not lease.revoked:
                core.forget_lease(lease)
        core.hungry[lease.queue] = core.by_number[lease.queue]

    def lost(self, client: Client) -> None:
        """Its link has ended. It may come back and list what it holds."""
        client.peer = b""
        for number in client.consumers:
            self._leave(self._core.by_number[number], client)  # until it restates its window
        for lease in client.leases.values():
            grace = self._core.by_number[lease.queue].policy.grace
            if lease.open and client.last_ready + grace < lease.deadline:
                lease.deadline = client.last_ready + grace
                lease.lost = True
                self.next_scan = min(self.next_scan, lease.deadline)

    # -- READY ------------------------------------------------------------------------------------------------------

    def ready(self, client: Client, command: Ready) -> None:
        core = self._core
        client.beat, client.seen, client.last_ready, client.beat_at = command.beat, command.seen, core.heard, core.now
        client.next_echo = core.heard + ECHO_AFTER
        client.revoke = []  # the newest READY restates all; so one ECHO is never about more tokens than one READY lists
        self.echoes[client.id] = client
        revoked: dict[int, int] = {}  # messages by queue (0: unknown) of tokens that are listed but not valid
        held = {entry.token: entry for entry in command.held}
        for token, entry in held.items():
            lease = client.leases.get(token)
            if lease is not None and lease.open:
                self._renew(client, lease, entry.seconds)
            else:
                client.revoke.append(token)
                number = lease.queue if lease is not None else 0
                revoked[number] = revoked.get(number, 0) + entry.open
        for lease in list(client.leases.values()):
            if lease.token in held or not (lease.token <= command.seen or lease.link != client.link):
                continue  # named, or still on its way
            if lease.open:
                # One that it never received was not begun by anybody, which matters for calls. Kept until the next READY: a DONE may
                # stand behind this one.
                self.end(lease, lease.open, UNLISTED if lease.token <= command.seen else UNRECEIVED)
            else:
                core.forget_lease(lease)  # nobody will name it again
        client.stray = sum(revoked.values())
        self._set_windows(client, command, revoked)
        if client.leases:
            self.next_scan = min(self.next_scan, client.next_echo)

    def _renew(self, client: Client, lease: Lease, seconds: float) -> None:
        policy = self._core.by_number[lease.queue].policy
        if lease.link != client.link and lease.queue < 0:
            self.adopt_calls(client, lease)
        lease.link, lease.lost = client.link, False
        lease.deadline = self._core.heard + max(lease.seconds, seconds)
        if policy.max_run is not None:
            lease.deadline = min(lease.deadline, lease.granted + policy.max_run)

    def _set_windows(self, client: Client, command: Ready, revoked: dict[int, int]) -> None:
        core = self._core
        wanted = {window.queue: window for window in command.windows if window.messages and self._opens(client, window.queue)}
        for number, consumer in client.consumers.items():
            queue = core.by_number[number]
            window = wanted.get(queue.name)
            consumer.window = window.messages if window else 0
            consumer.lease_seconds = window.lease if window else 0.0
            consumer.revoked = revoked.get(number, 0) + revoked.get(0, 0)
            if window:
                queue.consumers.setdefault(client.id, consumer)
            else:
                self._leave(queue, client)
            core.hungry[number] = queue  # there is more room, or whoever ran dry for its suspects has left it
        client.consumers = {number: consumer for number, consumer in client.consumers.items() if consumer.window or consumer.open}

    def _opens(self, client: Client, name: str) -> bool:
        """Its window into that counts. If not, whoever waits by it is told why."""
        core, account = self._core, client.account
        code, why = Code.FORBIDDEN, permits.why_no_window(account, name)
        if not why:
            queue = core.source(name, account)
            if queue is not None:
                if queue.number not in client.consumers:
                    client.consumers[queue.number] = Consumer(client)
                return True
            code, why = Code.QUOTA, core.no_room(account)
        self._bar(client, name, code, why)
        return False

    def _bar(self, client: Client, name: str, code: Code, why: str) -> None:
        self._core.refuse(client.peer, Refused(Kind.READY, name, 0, 0, code, RETRY_SECONDS, why))

    def take_back(self, client: Client) -> None:
        """What its user's rights cover no more."""
        for number, consumer in client.consumers.items():
            queue = self._core.by_number[number]
            why = permits.why_no_window(client.account, queue.name)
            if why:
                if consumer.window:
                    self._bar(client, queue.name, Code.FORBIDDEN, why)
                consumer.window = 0
                self._leave(queue, client)
                for lease in [lease for lease in client.leases.values() if lease.queue == number]:
                    self.end(lease, lease.open, WITHDRAWN)

    def _leave(self, queue: Queue | Service, client: Client) -> None:
        left = queue.consumers.pop(client.id, None)
        if left is not None and not queue.consumers and isinstance(queue, Service):
            self.unserved(queue)

    def owe_echo(self, client: Client) -> None:
        self.echoes[client.id] = client

    def echo(self) -> None:
        """Answer the READYs of this turn, after the leases they made possible."""
        core = self._core
        for client in self.echoes.values():
            core.send(client.peer, Echo(client.beat, core.stopping, client.revoke))
            client.revoke = []
        self.echoes.clear()

    # -- time -------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """At least once a beat while anything is held: what is longer than that counts as time in which nobody listened."""
        if self.next_scan == inf:
            return inf
        return min(self.next_scan + (self._core.now - self._core.heard), self._core.now + BEAT)

    def tick(self, spare: dict[bytes, Client]) -> None:
        """At `next_scan`: end what has run out. `spare`: clients (by id) from whom there may be more to read."""
        core = self._core
        self.next_scan = inf
        for client in core.clients.values():
            if not client.leases:
                continue
            for lease in [lease for lease in client.leases.values() if lease.open]:
                if lease.deadline <= core.heard and client.id not in spare:
                    self.end(lease, lease.open, LOST if lease.lost else EXPIRED if lease.link else ORPHANED)
                else:
                    self.next_scan = min(self.next_scan, max(lease.deadline, core.heard + 0.01))
            if client.peer and client.holds_any():
                if client.next_echo <= core.heard:
                    core.send(client.peer, Echo(client.beat, core.stopping, []))
                    client.next_echo = core.heard + ECHO_EVERY
                self.next_scan = min(self.next_scan, client.next_echo)

    def adopt(self, record: records.Lease | records.Held) -> Lease:
        """A lease of the recovered log: an orphan until its holder lists it."""
        core, queue = self._core, self._core.by_number[record.queue]
        assert isinstance(queue, Queue), "calls are never in the log"
        batch = queue.find(record.qseq)
        if batch is None:  # of a checkpoint: all is settled by now, but some was revoked, and its holder does not know yet
            assert isinstance(record, records.Held) and not any(record.open), f"lease {record.token} of a message that is not there"
            batch = Batch(Row(record.qseq, record.count, 0, 0, 0.0))
        client = core.client(record.client)
        lease = Lease(record.token, record.queue, record.client, 0, batch, record.qseq - batch.qseq, record.count)
        if isinstance(record, records.Held):
            lease.open = int.from_bytes(record.open, "little")
            lease.revoked = int.from_bytes(record.revoked, "little")
        core.leases[lease.token] = client.leases[lease.token] = lease
        client.consumers.setdefault(record.queue, Consumer(client)).open += lease.open.bit_count()
        client.account.in_flight += lease.open.bit_count()
        core.logged_token = max(core.logged_token, record.token)
        return lease

    def begin(self) -> None:
        """The node serves from now on: orphans wait for their holders as long as a lost link would."""
        core = self._core
        for client in core.clients.values():
            client.last_ready = core.heard  # nobody is absent yet: what was revoked is remembered as long as for a lost link
        for lease in core.leases.values():
            policy = core.by_number[lease.queue].policy
            lease.granted, lease.seconds = core.heard, policy.lease
            lease.deadline = core.heard + policy.grace
            if lease.open and lease.batch.suspect >> lease.offset & 1:
                core.clients[lease.client].alone_token = lease.token
            self.next_scan = min(self.next_scan, lease.deadline)

