"""What must be true of a node's machine between any two calls, whatever happened before.

Every count that a machine keeps for speed is computed here again from the containers, and compared. `check_node` is
called by the simulator after every turn and by the unit tests after every step; it reads and never changes.
"""

from __future__ import annotations

from itertools import pairwise

from zmqkit.machines.node import NodeMachine
from zmqkit.machines.parts import Batch, Row
from zmqkit.machines.queue import Queue
from zmqkit.records import ranges_of

PLACES = ("fresh", "back", "delayed", "leased", "returning", "dead")


class Violation(AssertionError):
    """A promise was broken. The text says which, and of which message or lease."""


def require(truth: bool, text: str) -> None:
    if not truth:
        raise Violation(text)


def check_node(machine: NodeMachine) -> None:
    """Raises Violation."""
    core = machine.core
    positions = [position for position, _, _ in core.waiting]
    require(positions == sorted(positions), f"what waits for durability stands out of order: {positions}")
    _check_leases(machine)
    for queue in core.queues.values():
        require(core.by_number.get(queue.number) is queue, f"queue {queue.name} is not found by its number")
        for batch in queue.batches:
            _check_batch(queue, batch)
        _check_counts(machine, queue)
        _check_indexes(queue)


def _check_leases(machine: NodeMachine) -> None:
    core = machine.core
    masks: dict[int, int] = {}
    opened: dict[tuple[bytes, int], int] = {}
    listed = {token: lease for client in core.clients.values() for token, lease in client.leases.items()}
    require(listed == core.leases, "the leases by client are not the leases of the node")
    for token, lease in core.leases.items():
        mask = lease.open << lease.offset
        require(lease.token == token and not lease.open & lease.revoked, f"lease {token} is open and revoked at once")
        require(bool(lease.open or lease.revoked), f"lease {token} is over and was kept")
        require(not mask & masks.get(id(lease.batch), 0), f"lease {token} shares a message with another one")
        masks[id(lease.batch)] = masks.get(id(lease.batch), 0) | mask
        if lease.open:
            opened[lease.client, lease.queue] = opened.get((lease.client, lease.queue), 0) + lease.open.bit_count()
    for queue in core.queues.values():
        for batch in queue.batches:
            require(batch.leased == masks.pop(id(batch), 0), f"batch {batch.qseq} of {queue.name}: leased messages without a lease")
    require(not any(masks.values()), "an open lease of messages that are in no queue")
    for client in core.clients.values():
        for number, consumer in client.consumers.items():
            held = opened.pop((client.id, number), 0)
            require(consumer.open == held, f"consumer.open is {consumer.open}, its leases hold {held}")
        alone = core.leases.get(client.alone_token)
        require(not client.alone_token or (alone is not None and alone.open != 0), "alone with a lease that is over")
    require(not any(opened.values()), "an open lease without a consumer")


def _check_batch(queue: Queue, batch: Batch) -> None:
    name = f"batch {batch.qseq} of {queue.name}"
    together = 0
    for place in PLACES:
        mask = getattr(batch, place)
        require(not together & mask, f"{name}: a message is in {place} and elsewhere")
        together |= mask
    require(together.bit_length() <= batch.count, f"{name} holds more than its {batch.count} messages")
    require(bool(together), f"{name} is settled and was kept")


def _check_counts(machine: NodeMachine, queue: Queue) -> None:
    backlog, batches = queue.backlog, list(queue.batches)
    rows = list(backlog.rows())
    rows += [what for _, owner, what in queue.waiting if owner is queue and isinstance(what, Row)]
    merging = [parcel for client in machine.core.clients.values()
               if (stream := client.streams.get(queue.number)) for parcel in stream.merging]  # fmt: skip
    require(backlog.messages == sum(row.count for row in backlog.rows()), f"{queue.name}: backlog.messages is {backlog.messages}")
    ready = backlog.messages + sum(batch.ready.bit_count() for batch in batches)
    require(queue.ready == ready, f"{queue.name}: ready is {queue.ready}, the containers hold {ready}")
    messages = sum(row.count for row in rows) + sum(parcel.count for parcel in merging)
    messages += sum((batch.unsettled & ~batch.dead).bit_count() for batch in batches)
    require(queue.messages == messages, f"{queue.name}: messages is {queue.messages}, the containers hold {messages}")
    size = sum(row.size for row in rows) + sum(len(parcel.body) for parcel in merging) + sum(batch.size for batch in batches)
    require(queue.bytes == size, f"{queue.name}: bytes is {queue.bytes}, the containers hold {size}")
    places = [position for _, _, position in queue.places()]
    require(len(places) == len(set(places)), f"{queue.name}: two parcels at one position")
    spans = sorted([(batch.qseq, batch.count) for batch in batches] + [(row.qseq, row.count) for row in rows])
    for (first, count), (second, _) in pairwise(spans):
        require(first + count <= second, f"{queue.name}: message {second} is in two parcels")
    require(not spans or sum(spans[-1]) <= queue.next_qseq, f"{queue.name}: a number was not given yet")


def _check_indexes(queue: Queue) -> None:
    dead, unsettled, due = set[int](), set[int](), dict[int, int]()
    for _, qseq, mask in queue.delayed:
        due[qseq] = due.get(qseq, 0) | mask
    for batch in queue.batches:
        dead.update(_numbers(batch, batch.dead))
        unsettled.update(_numbers(batch, batch.unsettled))
        require(not batch.back or batch.qseq in queue.returned, f"{queue.name}: {batch.qseq} has returned and nobody looks for it")
        require(not batch.fresh or batch in queue.begun, f"{queue.name}: {batch.qseq} is begun and nobody looks for it")
        require(not batch.delayed & ~due.get(batch.qseq, 0), f"{queue.name}: {batch.qseq} is delayed for ever")
    require(queue.returned == sorted(queue.returned), f"{queue.name}: returned batches out of order")
    begun = [batch.qseq for batch in queue.begun]
    require(begun == sorted(begun), f"{queue.name}: begun batches out of order")
    require(queue.dead.keys() == dead, f"{queue.name}: dead letters {sorted(queue.dead)}, the containers hold {sorted(dead)}")
    for name in ("failed", "errors", "saved"):
        stray = getattr(queue, name).keys() - unsettled
        require(not stray, f"{queue.name}: {name} of messages that are settled: {sorted(stray)}")


def _numbers(batch: Batch, mask: int) -> list[int]:
    return [qseq for first, count in ranges_of(mask, batch.qseq) for qseq in range(first, first + count)]
