"""What the parts of a node's machine share: its records, its clocks, its queues and clients, and what it wants sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from zmqkit import records
from zmqkit.machines.account import Account
from zmqkit.machines.leases import Lease
from zmqkit.machines.output import Dropped, Output, Send
from zmqkit.machines.parts import Row, Waiting
from zmqkit.machines.policy import QueuePolicy
from zmqkit.machines.queue import Queue
from zmqkit.machines.service import Service
from zmqkit.machines.session import Client, Stream
from zmqkit.machines.topic import Landing, Topic
from zmqkit.rights import Access
from zmqkit.wire import SERVICE_MARK, TOPIC_MARK, Code, Command, Refused

BEAT = 1.0  # seconds between READYs of a client that holds or awaits something
PATIENCE = 3.0  # without READY: no new lease
LEASES_MAX = 512  # open tokens of one client: what one READY can list
QUEUES_MAX = 10_000
SERVICES_MAX = 10_000
STREAMS_MAX = 100_000
CLIENT_STREAMS_MAX = 10_000  # of one client: no single one uses up what there is for all
CLIENTS_MAX = 50_000
PARTED_MAX = 1000  # streams of one client in queues that were deleted
COUNTED = {Code.FORBIDDEN: "forbidden", Code.QUOTA: "quota"}  # refusals that tell of a user who may not, or has too much


class Identity(NamedTuple):
    node: bytes  # 16 bytes
    epoch: int
    name: str
    durability: str


class Core:
    def __init__(self, identity: Identity, jitter: Callable[[], float], access: Access) -> None:
        self.identity = identity
        self.access = access
        self.accounts: dict[str | None, Account] = {}  # by user; None: of clients that did not come back yet
        self.jitter = jitter  # 0..1
        self.last = 0  # position of the newest record
        self.now = 0.0
        self.heard = 0.0  # `now` less the time in which the node did not listen: nobody was silent then
        self.stopping = False
        self.disk_full = False
        self.out = Output()
        self.queues: dict[str, Queue] = {}
        self.services: dict[str, Service] = {}
        self.by_number: dict[int, Queue | Service] = {}  # services have numbers below 0
        self.next_number = 1
        self._services_made, self._services_looked = 0, 0.0
        self.clients: dict[bytes, Client] = {}
        self.streams = 0  # of all clients; the simulator counts them after every turn
        self.leases: dict[int, Lease] = {}
        self.waiting: Waiting = deque()
        self.hungry: dict[int, Queue | Service] = {}  # in which a lease may be granted now
        self.delaying: dict[int, Queue] = {}  # queues with messages that wait for their time
        self.logged_token = 0  # highest token the recovered log knows
        self.forgotten_token = 0  # tokens up to here may belong to clients that were forgotten
        self.dropped: dict[str, int] = {}  # counted by reason

    def hear(self, now: float) -> None:
        """A call of the driver: time moves on."""
        if now > self.now:
            if self.now:
                self.heard += min(now - self.now, BEAT)
            else:
                self.heard = now
            self.now = now

    def record(self, record: records.Record, waited: bool = True) -> int:
        """Persist; returns the record's position."""
        self.last += 1
        self.out.records.append(record)
        self.out.waited |= waited
        return self.last

    def send(self, peer: bytes, command: Command, after: int = 0) -> None:
        if peer:
            self.out.sends.append(Send(peer, command, after))

    def drop(self, reason: str, peer: bytes, detail: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.out.events.append(Dropped(reason, peer, detail))

    def refuse(self, peer: bytes, refused: Refused, after: int = 0) -> None:
        self.count_refusal(peer, refused.code, refused.text)
        self.send(peer, refused, after)

    def count_refusal(self, peer: bytes, code: int, text: str) -> None:
        reason = COUNTED.get(code)  # type: ignore[call-overload]
        if reason is not None:
            self.drop(reason, peer, text)

    # -- users --------------------------------------------------------------------------------------------------------

    def account(self, user: str | None) -> Account:
        account = self.accounts.get(user)
        if account is None:
            account = self.accounts[user] = Account(user, None if user is None else self.access.of(user))
        return account

    def client(self, client_id: bytes, user: str | None = None) -> Client:
        """Of `user`, unless it is known as that of another one. None: the log knows it, and nobody has come for it yet."""
        client = self.clients.get(client_id)
        if client is None:
            client = self.clients[client_id] = Client(client_id, self.account(user))
            client.account.clients[client_id] = client
            client.doubt = self.forgotten_token
        elif user is not None and client.account.user is None:
            held = sum(consumer.open for consumer in client.consumers.values())
            client.account.in_flight -= held
            del client.account.clients[client_id]
            client.account = self.account(user)
            client.account.in_flight += held
            client.account.clients[client_id] = client
        return client

    def forget_client(self, client: Client) -> None:
        account = client.account
        del self.clients[client.id], account.clients[client.id]
        if not (account.clients or account.owned):
            del self.accounts[account.user]

    def release(self, account: Account, count: int) -> None:
        """So many messages or calls are in flight no more. If that was all the user may have, its other consumers have room, too."""
        was_full = account.in_flight >= account.limits.in_flight
        account.in_flight -= count
        if was_full:
            for client in account.clients.values():
                self.hungry.update((number, self.by_number[number]) for number in client.consumers)

    def own(self, user: str, number: int) -> None:
        """A queue or topic came into being by this user."""
        self.account(user).owned[number] = None

    def disown(self, user: str, number: int) -> None:
        self.account(user).owned.pop(number, None)

    def no_room(self, account: Account) -> str:
        """Why there is no further queue, topic or stream for it."""
        if len(account.owned) >= account.limits.queues:
            return f"{account.who} has {len(account.owned):,} queues and topics, as many as it may: delete some, or ask the node's admin"
        return "the node has as many queues, topics, services or producers as it takes"

    # -- queues -------------------------------------------------------------------------------------------------------

    def queue(self, name: str, account: Account) -> Queue | None:
        """The queue of that name, made at its first use, for this user. None: there are too many."""
        queue = self.queues.get(name)
        if queue is None and len(self.queues) < QUEUES_MAX and len(account.owned) < account.limits.queues:
            policy, owner = QueuePolicy(), account.user or ""
            self.record(records.Queue(self.next_number, name, policy.to_wire(), False, False, owner))
            queue = self.add_queue(self.next_number, name, policy, owner)
        return queue

    def service(self, title: str) -> Service | None:
        """The service of that name. None: there are too many."""
        service = self.services.get(title)
        if service is None and len(self.services) >= SERVICES_MAX and self.now >= self._services_looked + 1.0:
            self.forget_services()  # at most once a second: it looks at all of them
        if service is None and len(self.services) < SERVICES_MAX:
            self._services_made += 1
            service = self.services[title] = Service(-self._services_made, SERVICE_MARK + title)
            self.by_number[service.number] = service
        return service

    def forget_services(self) -> None:
        """Those that nobody serves, and of which no call waits or runs."""
        self._services_looked = self.now
        used = {lease.queue for lease in self.leases.values()}
        for client in self.clients.values():
            if not client.peer:  # it states its windows anew when it comes back
                client.consumers = {number: consumer for number, consumer in client.consumers.items() if consumer.open}
            used.update(client.consumers)
        for service in [service for service in self.services.values() if not service.ready and service.number not in used]:
            del self.services[service.title], self.by_number[service.number]
            self.hungry.pop(service.number, None)

    def queue_of(self, lease: Lease) -> Queue:
        queue = self.by_number[lease.queue]
        assert isinstance(queue, Queue), "a lease of messages, not of calls"
        return queue

    def source(self, name: str, account: Account) -> Queue | Service | None:
        """What a window of this user's is into: a queue, or a service by its marked name. None: there are too many, or it is a topic."""
        if name.startswith(SERVICE_MARK):
            return self.service(name[1:])
        return None if name.startswith(TOPIC_MARK) else self.queue(name, account)

    def add_queue(self, number: int, name: str, policy: QueuePolicy, owner: str) -> Queue:
        queue = Queue(number, name, policy, self.waiting, owner)
        self.queues[name] = self.by_number[number] = queue
        self.own(owner, number)
        self.next_number = max(self.next_number, number + 1)
        return queue

    def remove_queue(self, queue: Queue) -> None:
        del self.queues[queue.name], self.by_number[queue.number]
        self.disown(queue.owner, queue.number)
        self.delaying.pop(queue.number, None)
        self.hungry[queue.number] = queue  # whoever ran dry for its suspects need not any more
        self.part(queue)
        for lease in [lease for lease in self.leases.values() if lease.queue == queue.number]:
            client = self.clients[lease.client]
            client.doubt = max(client.doubt, lease.token)  # it was revoked: a DONE of it must not be told OK
            self.forget_lease(lease)
        for client in self.clients.values():
            client.consumers.pop(queue.number, None)

    def part(self, queue: Queue | Topic) -> None:
        """It is deleted. Nothing that waits becomes ready any more; bodies of new messages go once the deletion is durable."""
        bodies = [what.position for _, owner, what in self.waiting if owner is queue and isinstance(what, Row | Landing)]
        kept = [entry for entry in self.waiting if entry[1] is not queue or isinstance(entry[2], int)]
        self.waiting.clear()
        self.waiting.extend(kept)
        self.waiting.extend((self.last, queue, position) for position in bodies)
        for client in self.clients.values():
            stream = client.streams.pop(queue.number, None)
            if stream is not None:
                self.streams -= 1
                if len(client.parted) < PARTED_MAX:
                    client.parted[queue.name] = stream

    def stream(self, client: Client, queue: Queue | Topic) -> Stream | None:
        """None: there are too many."""
        stream = client.streams.get(queue.number)
        if stream is None:
            if self.streams >= STREAMS_MAX or len(client.streams) >= CLIENT_STREAMS_MAX:
                return None
            stream = self.open_stream(client, queue)
        stream.seen = self.now
        return stream

    def open_stream(self, client: Client, queue: Queue | Topic) -> Stream:
        """A producer of a queue that was deleted does not know yet, and goes on: its numbers do, too."""
        stream = client.parted.pop(queue.name) if queue.name in client.parted else Stream()
        client.streams[queue.number] = stream
        self.streams += 1
        return stream

    def forget_streams(self, client: Client, before: float) -> None:
        """Of a producer that was not heard of since then."""
        for number in [number for number, stream in client.streams.items() if stream.seen < before]:
            del client.streams[number]
            self.streams -= 1
        for name in [name for name, stream in client.parted.items() if stream.seen < before]:
            del client.parted[name]

    def forget_lease(self, lease: Lease) -> None:
        self.leases.pop(lease.token, None)
        self.clients[lease.client].leases.pop(lease.token, None)
