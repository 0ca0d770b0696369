"""What must be true of a node's machine between any two calls, whatever happened before.

Every count that a machine keeps for speed is computed here again from the containers, and compared. `check_node` is
called by the simulator after every turn and by the unit tests after every step; it reads and never changes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NoReturn

from zmqkit.machines.leases import Lease
from zmqkit.machines.node import NodeMachine
from zmqkit.machines.parts import Batch, Row
from zmqkit.machines.queue import Queue
from zmqkit.records import ranges_of


class Violation(AssertionError):
    """A promise was broken. The text says which, and of which message or lease."""


def require(truth: bool, text: str) -> None:
    if not truth:
        raise Violation(text)


def fail(text: str) -> NoReturn:
    raise Violation(text)


def check_node(machine: NodeMachine) -> None:
    """Raises Violation."""
    core = machine.core
    positions = [position for position, _, _ in core.waiting]
    if positions != sorted(positions):
        fail(f"what waits for durability stands out of order: {positions}")
    _check_leases(machine)
    _check_accounts(machine)
    if core.streams != sum(len(client.streams) for client in core.clients.values()):
        fail(f"the node counts {core.streams} streams, its clients have others")
    for queue in core.queues.values():
        if core.by_number.get(queue.number) is not queue:
            fail(f"queue {queue.name} is not found by its number")
        batches = list(queue.batches)
        for batch in batches:
            _check_batch(queue, batch)
        _check_counts(machine, queue, batches)
        _check_indexes(queue, batches)


def _check_accounts(machine: NodeMachine) -> None:
    core, owned = machine.core, dict[str | None, set[int]]()
    for owner, number in [*((queue.owner, queue.number) for queue in core.queues.values()),
                          *((hosted.topic.owner, number) for number, hosted in machine.topics.by_number.items())]:  # fmt: skip
        owned.setdefault(owner, set()).add(number)
    for user, account in core.accounts.items():
        if account.user != user or any(client.account is not account for client in account.clients.values()):
            fail(f"the account of {user!r} is not itself, or has another user's clients")
        callers = [caller for client_id in account.clients if (caller := machine.calls.callers.get(client_id))]
        flying = sum(consumer.open for client in account.clients.values() for consumer in client.consumers.values())
        flying += sum(caller.open for caller in callers)
        if account.in_flight != flying:
            fail(f"{user!r} is said to have {account.in_flight} in flight, it has {flying}")
        if account.owned.keys() != owned.pop(user, set()):
            fail(f"{user!r} does not own what came into being by it")
    if owned or sum(len(account.clients) for account in core.accounts.values()) != len(core.clients):
        fail("a client, queue or topic is in nobody's account")


def _check_leases(machine: NodeMachine) -> None:
    core = machine.core
    masks: dict[int, int] = {}
    listed: dict[int, Lease] = {}
    for client in core.clients.values():
        listed.update(client.leases)
        opened: dict[int, int] = {}
        for token, lease in client.leases.items():
            if lease.token != token or lease.client != client.id or lease.open & lease.revoked:
                fail(f"lease {token} is not itself, or open and revoked at once")
            if lease.open:
                opened[lease.queue] = opened.get(lease.queue, 0) + lease.open.bit_count()
                mask, before = lease.open << lease.offset, masks.get(id(lease.batch), 0)
                if mask & before:
                    fail(f"lease {token} shares a message with another one")
                masks[id(lease.batch)] = mask | before
            elif not lease.revoked:
                fail(f"lease {token} is over and was kept")
        for number, consumer in client.consumers.items():
            held = opened.pop(number, 0)
            if consumer.open != held:
                fail(f"consumer.open is {consumer.open}, its leases hold {held}")
        if opened:
            fail("an open lease without a consumer")
        alone = core.leases.get(client.alone_token)
        if client.alone_token and (alone is None or not alone.open):
            fail("alone with a lease that is over")
    if listed != core.leases:
        fail("the leases by client are not the leases of the node")
    _check_calls(machine, masks)
    for queue in core.queues.values():
        for batch in queue.batches:
            if batch.leased != masks.pop(id(batch), 0):
                fail(f"batch {batch.qseq} of {queue.name}: leased messages without a lease")
    if masks:
        fail("an open lease of messages that are in no queue")


def _check_calls(machine: NodeMachine, masks: dict[int, int]) -> None:
    """`masks`: what is leased, by id of the job or batch. Those of the jobs are taken out."""
    core, calls = machine.core, machine.calls
    jobs = {id(job): job for caller in calls.callers.values() for job in caller.jobs.values()}
    runs = [entry.run for entry in calls.keys.entries.values() if entry.run is not None]
    jobs.update((id(run), run) for run in runs)
    jobs.update((id(lease.batch), lease.batch) for lease in core.leases.values() if lease.queue < 0)  # type: ignore[misc]
    waits: dict[int, int] = {}
    for service in core.services.values():
        if core.by_number.get(service.number) is not service:
            fail(f"service {service.title} is not found by its number")
        lined: dict[int, int] = {}
        for job, offset, count in service.line:
            mask = ((1 << count) - 1) << offset & job.pending
            if mask & lined.get(id(job), 0):
                fail(f"{service.title}: a call of {job.first} stands in line twice")
            lined[id(job)], waits[id(job)] = lined.get(id(job), 0) | mask, waits.get(id(job), 0) | mask
        if service.ready != sum(mask.bit_count() for mask in lined.values()):
            fail(f"{service.title} says that {service.ready} calls wait, its line holds others")
        if service.consumers and any(number not in core.clients for number in service.consumers):
            fail(f"{service.title}: a worker that is no client")
    used = 0
    for job in jobs.values():
        leased = masks.pop(id(job), 0)
        if job.pending != waits.get(id(job), 0) or job.pending & ~job.open or job.pending & leased:
            fail(f"job {job.first}: what waits is not in line, or over, or leased")
        if job.open & ~job.pending & ~leased and not (job.key and job.caller):
            fail(f"job {job.first}: an open call that neither waits nor runs")
        if sum(lease.open << lease.offset for lease in job.leases) != leased:
            fail(f"job {job.first} does not know its leases")
        used += len(job.parcel.body) + len(job.parcel.columns or b"")
        used += sum(len(part.parcel.body) for part in job.stream.parts) if job.stream is not None else 0
    for caller in calls.callers.values():
        if caller.open != sum(job.open.bit_count() for job in caller.jobs.values()):
            fail(f"a caller's count of open calls is {caller.open}, its jobs have others")
        if caller.unread != sum(told.reply.count for told in caller.kept):
            fail("a caller's count of what it may not have read is wrong")
        over = [job.first for job in caller.jobs.values() if not job.open and job.serial <= caller.replied]
        if over or [first for first in caller._firsts] != sorted(caller.jobs):
            fail(f"jobs {over} are over and were kept, or jobs are not found by number")
        used += sum(len(told.reply.parcel.body) for told in caller.kept) + sum(len(parcel.body) for *_, parcel in caller.answers)
        for job in caller.jobs.values():
            if job.key and job.open and sum(job in run.waiters for run in runs) != 1:
                fail(f"keyed call {job.first} waits for no key, or for two")
    if calls.budget.used != used:
        fail(f"calls are said to hold {calls.budget.used} bytes, they hold {used}")
    if calls.keys.bytes != sum(len(entry.body.body) for entry in calls.keys.entries.values()):
        fail("the keys' bytes are not those of their answers")


def _check_batch(queue: Queue, batch: Batch) -> None:
    places = (batch.fresh, batch.back, batch.delayed, batch.leased, batch.returning, batch.dead)
    together = batch.unsettled
    if sum(place.bit_count() for place in places) != together.bit_count():
        fail(f"batch {batch.qseq} of {queue.name}: a message is in two of fresh, back, delayed, leased, returning, dead")
    if together.bit_length() > batch.count:
        fail(f"batch {batch.qseq} of {queue.name} holds more than its {batch.count} messages")
    if not together:
        fail(f"batch {batch.qseq} of {queue.name} is settled and was kept")


def _check_counts(machine: NodeMachine, queue: Queue, batches: list[Batch]) -> None:
    backlog = queue.backlog
    counts, sizes = backlog.counts[backlog.head :], backlog.sizes[backlog.head :]
    rows = [what for _, owner, what in queue.waiting if owner is queue and isinstance(what, Row)]
    merging = [parcel for client in machine.core.clients.values()
               if (stream := client.streams.get(queue.number)) for parcel in stream.merging]  # fmt: skip
    ready = sum(counts) + sum(batch.ready.bit_count() for batch in batches)
    messages = ready - sum(batch.ready.bit_count() for batch in batches)
    messages += sum(row.count for row in rows) + sum(parcel.count for parcel in merging)
    messages += sum((batch.unsettled & ~batch.dead).bit_count() for batch in batches)
    size = sum(sizes) + sum(row.size for row in rows) + sum(len(parcel.body) for parcel in merging) + sum(b.size for b in batches)
    if (backlog.messages, queue.ready, queue.messages, queue.bytes) != (sum(counts), ready, messages, size):
        found = f"backlog {sum(counts)}, ready {ready}, messages {messages}, bytes {size}"
        fail(f"{queue.name} says {backlog.messages}, {queue.ready}, {queue.messages}, {queue.bytes}; its containers hold {found}")
    positions = [batch.position for batch in batches] + backlog.positions[backlog.head :].tolist()
    if len(positions) != len(set(positions)):
        fail(f"{queue.name}: two parcels at one position")
    spans = sorted([(batch.qseq, batch.count) for batch in batches] + [(row.qseq, row.count) for row in rows])
    if backlog.messages:
        spans = sorted([*spans, (backlog.qseq, backlog.messages)])
    for (first, count), (second, _) in pairwise(spans):
        if first + count > second:
            fail(f"{queue.name}: message {second} is in two parcels")
    if spans and sum(spans[-1]) > queue.next_qseq:
        fail(f"{queue.name}: a number was not given yet")


def _check_indexes(queue: Queue, batches: list[Batch]) -> None:
    dead, due = set[int](), dict[int, int]()
    for _, qseq, mask in queue.delayed:
        due[qseq] = due.get(qseq, 0) | mask
    begun = [batch.qseq for batch in queue.begun]
    for batch in batches:
        if batch.dead:
            dead.update(_numbers(batch, batch.dead))
        if batch.back and batch.qseq not in queue.returned:
            fail(f"{queue.name}: {batch.qseq} has returned and nobody looks for it")
        if batch.fresh and batch.qseq not in begun:
            fail(f"{queue.name}: {batch.qseq} is begun and nobody looks for it")
        if batch.delayed & ~due.get(batch.qseq, 0):
            fail(f"{queue.name}: {batch.qseq} is delayed for ever")
    if queue.returned != sorted(queue.returned) or begun != sorted(begun):
        fail(f"{queue.name}: returned or begun batches out of order")
    if queue.dead.keys() != dead:
        fail(f"{queue.name}: dead letters {sorted(queue.dead)}, the containers hold {sorted(dead)}")
    if queue.failed or queue.errors or queue.saved:
        unsettled = {qseq for batch in batches for qseq in _numbers(batch, batch.unsettled)}
        for name in ("failed", "errors", "saved"):
            stray = getattr(queue, name).keys() - unsettled
            if stray:
                fail(f"{queue.name}: {name} of messages that are settled: {sorted(stray)}")


def _numbers(batch: Batch, mask: int) -> list[int]:
    return [qseq for first, count in ranges_of(mask, batch.qseq) for qseq in range(first, first + count)]
