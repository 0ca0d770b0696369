"""The node's machine: five verbs in, records and sends out.

    receive(peer, frames, now)   lost(peer, now)   durable(position, now)   tick(now, drained)   take() -> Output
    restore(position, record) … begin(now)         snapshot() -> records

Rule 1: HELLO is the first command of every routing id; all else from a stranger is answered NOSESSION, never applied.
Rule 2: the newest link number of a client is its link; older links are strangers.
Rule 3: a command changes state and adds records and sends to one Output; the driver persists, then sends.
Rule 4: whose link it is, its HELLO has said; what its user may say, and how much, is asked before anything is done (`permits`).
Rule 5: `restore` of a snapshot's records, then of every record after it, gives the state; nothing else is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from zmqkit import framing, records, wire
from zmqkit.machines.account import Account
from zmqkit.machines.admin import Admin
from zmqkit.machines.answering import Answering
from zmqkit.machines.calls import Calls
from zmqkit.machines.core import BEAT, CLIENTS_MAX, LEASES_MAX, PATIENCE, Core, Identity
from zmqkit.machines.followers import Followers
from zmqkit.machines.leases import STOPPED, UNSENT
from zmqkit.machines.leasing import Leasing
from zmqkit.machines.memory import Memory
from zmqkit.machines.output import Output, Send
from zmqkit.machines.permits import why_not
from zmqkit.machines.publishing import WINDOW_BATCHES, Publishing
from zmqkit.machines.queue import Queue
from zmqkit.machines.session import Client
from zmqkit.machines.settling import Settling
from zmqkit.machines.topic import Landing
from zmqkit.machines.topics import Topics
from zmqkit.parcel import PARCEL_BYTES_MAX, Buffer
from zmqkit.rights import ANYBODY, Access, Rights

WINDOW_BYTES = 8 * 1024 * 1024
STRANGERS_MAX = 1000  # NOSESSIONs a second in all; one a second to each
FORGET_AFTER = 60.0  # a client that is away so long and holds and publishes nothing
SILENCE = 2 * PATIENCE  # after which a client gives way to others of its user
STREAM_RETENTION = 7 * 86400.0


class NodeMachine:
    def __init__(
        self, node: bytes, epoch: int, *, name: str = "", durability: str = "memory", last: int = 0, jitter: Callable[[], float],
        access: Access | None = None,
    ) -> None:  # fmt: skip
        self.core = core = Core(Identity(node, epoch, name, durability), jitter, access or Access())
        self._users: Mapping[str, Rights] = core.access.users  # as they were when they were last looked at
        core.last = last
        self._leasing = Leasing(core)
        self.topics = Topics(core)
        self._followers = followers = Followers(core, self.topics)
        self._publishing = Publishing(core, self.topics)
        self._settling = Settling(core, self._leasing)
        self.calls = Calls(core)
        self._answering = Answering(core, self.calls, self._leasing, self._settling)
        self._admin = Admin(core, self._publishing, self._leasing, self.topics)
        self._memory = memory = Memory(core, self._leasing, self.topics)
        self.snapshot, self.positions = memory.snapshot, memory.positions
        self._hears: dict[type, Callable[[Client, Any], None]] = {
            wire.Put: self._publishing.put, wire.Ready: self._ready, wire.Ask: self._admin.ask, wire.Bye: self._bye,
            wire.Done: self._settling.done, wire.Back: self._settling.back, wire.Save: self._settling.save,
            wire.Call: self.calls.call, wire.Cancel: self.calls.cancel, wire.More: self.calls.more,
            wire.Reply: self._answering.reply, wire.Part: self._answering.part,
            wire.Sub: followers.subscribe, wire.Unsub: followers.unsubscribe, wire.Seen: followers.seen, wire.Pos: followers.mark,
        }  # fmt: skip
        self._refuses: dict[type, Callable[[Client, Any, str], None]] = {  # what has an answer; it is told why
            wire.Put: self._publishing.put, wire.Call: self.calls.call, wire.Ask: self._admin.ask, wire.Sub: followers.subscribe,
        }  # fmt: skip
        self._peers: dict[bytes, Client] = {}
        self._turn: dict[bytes, Client] = {}  # who was heard since the last take
        self._strangers: dict[bytes, None] = {}
        self._strangers_until = 0.0
        self._next_forget = 0.0

    # -- in ---------------------------------------------------------------------------------------------------------

    def receive(self, peer: bytes, frames: Sequence[Buffer], now: float, user: str = ANYBODY) -> None:
        try:
            command = framing.decode(frames)
        except framing.Malformed as error:
            self.core.hear(now)
            self._reject(peer, "malformed", str(error))
        else:
            self.hear(peer, command, now, user)

    def hear(self, peer: bytes, command: wire.Command, now: float, user: str = ANYBODY) -> None:
        """A peer, which has proven to be this user, said this."""
        core = self.core
        core.hear(now)
        if core.access.users is not self._users:
            self._entitle()
        client = self._peers.get(peer)
        hears = self._hears.get(type(command))
        if client is not None and (account := client.account).user != user:
            self._reject(peer, "other-user", type(command).__name__)  # the link that had this routing id has ended
        elif client is not None and hears is not None:
            if account.free or not (why := why_not(account, command)):
                hears(client, command)
            elif type(command) in self._refuses:
                self._refuses[type(command)](client, command, why)
            else:
                core.drop("forbidden", peer, why)
            self._turn[client.id] = client
        elif isinstance(command, wire.Hello):
            self._hello(peer, command, user)
        else:
            self._reject(peer, "no-session" if client is None else "wrong-way", type(command).__name__)

    def _entitle(self) -> None:
        """The users, or their rights, have changed: what was given under rights that are gone is taken back."""
        core = self.core
        self._users = core.access.users
        for account in core.accounts.values():
            account.entitle(core.access.of(account.user) if account.user is not None else None)
        for client in list(core.clients.values()):
            if client.account.rights is not None:
                self._take_back(client)
            elif client.peer:
                self._reject(client.peer, "no-rights", client.account.user or "")
        core.hungry.update(core.by_number)  # some may have more now

    def _take_back(self, client: Client) -> None:
        if client.account.free:
            return
        self._leasing.take_back(client)
        self._followers.take_back(client)

    def _ready(self, client: Client, command: wire.Ready) -> None:
        self._leasing.ready(client, command)
        self.calls.ready(client, command.replied)
        self._followers.beat(client)

    def _hello(self, peer: bytes, command: wire.Hello, user: str) -> None:
        core = self.core
        if peer in self._peers:
            core.drop("late-hello", peer, f"link {command.link} on one that is in use")
            return
        code, text = self._refusal(command, user)
        if code:
            core.refuse(peer, wire.Refused(wire.Kind.HELLO, "", 0, 0, code, FORGET_AFTER, text))
            return
        client = core.client(command.client, user)
        if command.link <= client.link:
            core.drop("late-hello", peer, f"link {command.link}, the newest is {client.link}")
            return
        if client.peer:
            self._peers.pop(client.peer, None)
            self._lose(client)
        client.peer, client.link, client.last_ready = peer, command.link, core.heard
        for consumer in client.consumers.values():
            consumer.window = 0  # until its READY: it may not want any more what it wanted on the old link
        self._take_back(client)  # what the log says it has, its user may have no right to any more
        self._peers[peer] = client
        self.calls.relinked(client)
        limits = {
            "message_bytes": PARCEL_BYTES_MAX, "window_batches": WINDOW_BATCHES, "window_bytes": WINDOW_BYTES, "tokens": LEASES_MAX,
            "durability": core.identity.durability, "name": core.identity.name,
        }  # fmt: skip
        core.send(peer, wire.Welcome(wire.VERSION, core.identity.node, core.identity.epoch, BEAT, PATIENCE, limits))

    def _refusal(self, command: wire.Hello, user: str) -> tuple[int, str]:
        core, known, rights = self.core, self.core.clients.get(command.client), self.core.access.of(user)
        if wire.VERSION not in command.versions:
            text = f"this node speaks ZMK1 version {wire.VERSION}, the client {command.versions}: upgrade the older one"
            return wire.Code.VERSION, text
        if rights is None:
            return wire.Code.FORBIDDEN, "this node does not trust this key: ask its admin"
        if known is not None and known.account.user not in (None, user):
            return wire.Code.FORBIDDEN, "this client id is that of another user"
        if known is None and len(core.clients) >= CLIENTS_MAX and not self._make_room():
            return wire.Code.QUOTA, f"this node knows {CLIENTS_MAX:,} clients, as many as it takes"
        account = core.accounts.get(user) or Account(user, rights)
        if account.limits.connections < inf and not self._has_link_left(account, command.client):
            return wire.Code.QUOTA, f"{account.who} has {account.limits.connections:,} clients here, as many as it may: close some"
        return 0, ""

    def _has_link_left(self, account: Account, client_id: bytes) -> bool:
        """For a client of this user. Of those that have been silent too long the longest gives way."""
        linked = [client for client in account.clients.values() if client.peer and client.id != client_id]
        if len(linked) < account.limits.connections:
            return True
        silent = min(linked, key=lambda client: client.last_ready, default=None)
        if silent is None or self.core.heard - silent.last_ready <= SILENCE:
            return False
        self.lost(silent.peer, self.core.now)
        return len(linked) <= account.limits.connections

    def _make_room(self) -> bool:
        """Strangers who said no more than HELLO give way before anybody is refused."""
        core = self.core
        if core.now >= self._next_forget - FORGET_AFTER + 1.0:  # at most once a second: it looks at all of them
            self._next_forget = core.now + FORGET_AFTER
            self._forget_absent(core.now, PATIENCE)
        return len(core.clients) < CLIENTS_MAX

    def _reject(self, peer: bytes, reason: str, detail: str) -> None:
        """A stranger, or rubbish: it has no session here from now on, and is told so at most once a second."""
        core = self.core
        core.drop(reason, peer, detail)
        if peer in self._peers:
            self.lost(peer, core.now)
        if core.now >= self._strangers_until:
            self._strangers, self._strangers_until = {}, core.now + 1.0
        if peer not in self._strangers and len(self._strangers) < STRANGERS_MAX:
            self._strangers[peer] = None
            core.send(peer, wire.NoSession())

    def _bye(self, client: Client, _: wire.Bye) -> None:
        core = self.core
        self._settling.answer(all_peers=True)
        self.calls.leave(client)
        for lease in list(client.leases.values()):
            self._leasing.end(lease, lease.open, STOPPED)
        self._publishing.flush()
        core.send(client.peer, wire.Bye(), core.last)
        self._leave(client)

    def _leave(self, client: Client) -> None:
        self._peers.pop(client.peer, None)
        self._followers.lost(client)
        client.peer = b""
        for number, consumer in client.consumers.items():
            consumer.window = 0
            self.core.by_number[number].consumers.pop(client.id, None)

    def lost(self, peer: bytes, now: float) -> None:
        """Nothing can be sent to this peer any more."""
        self.core.hear(now)
        client = self._peers.pop(peer, None)
        if client is not None:
            self._lose(client)

    def _lose(self, client: Client) -> None:
        """Its link has ended."""
        self._leasing.lost(client)
        self._followers.lost(client)

    def unsent(self, send: Send, now: float) -> None:
        """This send did not leave: the peer is gone, or does not read. A lease in it comes back unstarted."""
        command = send.command
        if isinstance(command, wire.Lease):
            lease = self.core.leases.get(command.token)
            if lease is not None:
                self._leasing.end(lease, lease.open, UNSENT)
        self.lost(send.peer, now)

    def durable(self, position: int, now: float) -> None:
        """Every record up to `position` survives. What waited for it becomes ready, or needs its body no more."""
        core = self.core
        core.hear(now)
        waiting = core.waiting
        while waiting and waiting[0][0] <= position:
            _, owner, what = waiting.popleft()
            if isinstance(what, int):
                core.out.released.append(what)
            elif isinstance(what, Landing):
                self.topics.land(owner.number, what)
            else:
                assert isinstance(owner, Queue)
                owner.land(what)
                core.hungry[owner.number] = owner
                if owner.delayed:
                    core.delaying[owner.number] = owner

    def tick(self, now: float, drained: bool = True) -> None:
        """Time has passed, after the drain. `drained` False: more waits to be read, so those just heard are spared."""
        core = self.core
        core.hear(now)
        if core.access.users is not self._users:
            self._entitle()
        if core.heard >= self._leasing.next_scan:
            self._leasing.tick({} if drained else self._turn)
        self.calls.tick()
        self.topics.tick()
        for queue in list(core.delaying.values()) if core.delaying else ():
            if queue.wake_delayed(now):
                core.hungry[queue.number] = queue
            if not queue.delayed:
                del core.delaying[queue.number]
        if now >= self._next_forget:
            self._next_forget = now + FORGET_AFTER
            self._forget_absent(now)

    @property
    def deadline(self) -> float:
        """When `tick` is due next."""
        soonest = min(self._leasing.deadline, self._settling.late, self.calls.deadline, self.topics.deadline)
        if self.core.delaying:
            soonest = min([soonest, *[queue.delayed[0][0] for queue in self.core.delaying.values() if queue.delayed]])
        return soonest

    def serves(self, title: str) -> bool:
        """Does a worker offer this service?"""
        service = self.core.services.get(title)
        return service is not None and self.calls.serves(service)

    def stop(self, now: float) -> None:
        """No more puts and leases; clients learn it from an ECHO. What they hold waits in the journal for them."""
        core = self.core
        core.hear(now)
        core.stopping = True
        self._settling.answer(all_peers=True)
        self.calls.stop()
        for client in self._peers.values():
            self._leasing.owe_echo(client)

    def copy(self, first: int, last: int) -> None:
        """Bodies that stand in records first…last are wanted elsewhere: append them again."""
        core = self.core
        for queue in core.queues.values():
            for qseq, count, position in [place for place in queue.places() if first <= place[2] <= last]:
                record = records.Copy(queue.number, qseq, position, count, wire.Slice(position, 0, count))
                queue.copy(record, core.record(record, waited=False))
        for number, seq, count, position in [place for place in self.topics.places() if first <= place[3] <= last]:
            record = records.Copy(number, seq, position, count, wire.Slice(position, 0, count))
            self.topics.copy(record, core.record(record, waited=False))

    # -- out --------------------------------------------------------------------------------------------------------

    def take(self) -> Output:
        """What is to be persisted, then sent. Empty when there is nothing to do."""
        core = self.core
        self._publishing.flush()
        self._settling.answer()
        if core.hungry:
            self._leasing.dispatch()
        self.topics.serve()
        if self.calls.answering:
            self.calls.flush()
        if self._leasing.echoes:
            self._leasing.echo()
        self._turn = {}
        output, core.out = core.out, Output()
        return output

    @property
    def has_more(self) -> bool:
        """Another `take` would give something."""
        out = self.core.out
        return bool(self.core.hungry or self.topics.busy or out.records or out.sends or out.released or out.events)

    # -- memory -----------------------------------------------------------------------------------------------------

    def restore(self, position: int, record: records.Record) -> None:
        """Apply a record of the log, or (position 0) of a checkpoint. All of them are durable."""
        self._memory.restore(position, record)
        self.durable(position, self.core.now)
        self.core.out.released.clear()

    def begin(self, now: float) -> None:
        """All is restored; the node serves from now on."""
        core = self.core
        core.hear(now)
        core.hungry.clear()
        core.delaying = {queue.number: queue for queue in core.queues.values() if queue.delayed}
        self.topics.begin()
        self._leasing.begin()

    def _forget_absent(self, now: float, after: float = FORGET_AFTER) -> None:
        core = self.core
        core.forget_services()
        for client in list(core.clients.values()):
            core.forget_streams(client, before=now - STREAM_RETENTION)
            away = core.heard - client.last_ready > after
            if not away or client.holds_any() or self.calls.busy(client, core.heard - client.last_ready):
                continue
            client.doubt = max([client.doubt, *client.leases])
            for lease in list(client.leases.values()):
                core.forget_lease(lease)
            if not client.streams and not client.parted:
                core.forgotten_token = max(core.forgotten_token, client.doubt)
                self._leave(client)
                core.forget_client(client)
