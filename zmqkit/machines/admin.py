"""ASK: what people and programs ask of a node beside putting and taking. What changes something is a record first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zmqkit import records
from zmqkit.machines.account import Account
from zmqkit.machines.core import PATIENCE, Core
from zmqkit.machines.leases import DELETED
from zmqkit.machines.leasing import Leasing
from zmqkit.machines.ledger import Entry
from zmqkit.machines.permits import sees
from zmqkit.machines.policy import QueuePolicy, TopicPolicy
from zmqkit.machines.publishing import Publishing
from zmqkit.machines.queue import Queue
from zmqkit.machines.session import Client
from zmqkit.machines.topics import Topics
from zmqkit.updates import KEY_CHARS_MAX
from zmqkit.wire import NAME_BYTES_MAX, SERVICE_MARK, TEXT_CHARS_MAX, TOPIC_MARK, Ask, Code, Slice, Told

Result = dict[str, Any]

PEEK_MAX = 1000  # messages of one answer
PEEK_PARCELS_MAX = 64  # that are read for it
LIST_MAX = 1000  # queues of one answer
STATES = ("ready", "leased", "delayed", "dead")

# Argument -> (is it right?, what it is).
ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "queue": (
        lambda v: type(v) is str and 1 <= len(v.encode()) <= NAME_BYTES_MAX and v[0] not in (SERVICE_MARK, TOPIC_MARK),
        f"a text of 1 to {NAME_BYTES_MAX} bytes that does not begin with U+0000 or U+0001",
    ),
    "topic": (
        lambda v: type(v) is str and 1 <= len(v.encode()) < NAME_BYTES_MAX and v[0] not in (SERVICE_MARK, TOPIC_MARK),
        f"a text of 1 to {NAME_BYTES_MAX - 1} bytes that does not begin with U+0000 or U+0001",
    ),
    "prefix": (lambda v: type(v) is str and len(v) <= KEY_CHARS_MAX, f"a text of up to {KEY_CHARS_MAX} letters"),
    "policy": (lambda v: type(v) is dict, "a map of policy fields"),
    "state": (lambda v: v in STATES, f"one of {', '.join(STATES)}"),
    "count": (lambda v: type(v) is int and v >= 1, "a whole number of at least 1"),
    "seqs": (lambda v: type(v) is list and all(type(seq) is int for seq in v), "a list of whole numbers"),
    "after": (lambda v: type(v) is str, "a text"),
    "peek after": (lambda v: type(v) is int and v >= 0, "a whole number of at least 0"),  # a message; of `list` it is a name
}
OPTIONAL = ("seqs", "after")
LOOKS = {"info", "list", "peek", "dead_list", "topic_info", "topic_list"}  # verbs that tell what there is, and promise nothing


class Admin:
    def __init__(self, core: Core, publishing: Publishing, leasing: Leasing, topics: Topics) -> None:
        self._core = core
        self._topics = topics
        self._publishing = publishing
        self._leasing = leasing
        # Verb -> what does it, and the arguments it needs. They are checked before anything is done or recorded.
        self._verbs: dict[str, tuple[Callable[[Result, Account], Result], tuple[str, ...]]] = {
            "declare": (self._declare, ("queue", "policy")), "info": (self._info, ("queue",)), "list": (self._list, ()),
            "peek": (self._peek, ("queue", "state", "count")), "purge": (self._purge, ("queue",)),
            "pause": (self._pause, ("queue",)), "resume": (self._resume, ("queue",)), "delete": (self._delete, ("queue",)),
            "dead_list": (self._dead_list, ("queue", "count")), "redrive": (self._redrive, ("queue",)), "drop": (self._drop, ("queue",)),
            "topic_declare": (self._topic_declare, ("topic", "policy")), "topic_info": (self._topic_info, ("topic",)),
            "topic_list": (self._topic_list, ()), "topic_delete": (self._topic_delete, ("topic",)),
            "topic_bind": (self._topic_bind, ("topic", "prefix", "queue")),
            "topic_unbind": (self._topic_unbind, ("topic", "prefix", "queue")),
        }  # fmt: skip

    def ask(self, client: Client, command: Ask, forbidden: str = "") -> None:
        core, asks = self._core, client.asks
        asks.advance(command.base)
        entry = asks.find(command.number)
        if entry is None:
            self._publishing.flush()
            before = core.last
            if forbidden:
                result = _error(Code.FORBIDDEN, forbidden)
            elif asks.full:
                result = _error(Code.QUOTA, "too many questions: say which answers you have")
            else:
                result = self._answer(command, client.account)
            core.count_refusal(client.peer, result.get("error", 0), result.get("text", ""))
            # What changes nothing because it holds already is told when that is durable: somebody may have said it just now.
            entry = Entry(result, 0 if command.verb in LOOKS or "error" in result else core.last)
            if core.last > before:  # the bodies of a look may be gone when it is asked again; and looking changes nothing
                asks.keep(command.number, *entry)
        core.send(client.peer, Told(command.number, entry.result), entry.after)

    def _answer(self, command: Ask, asker: Account) -> Result:
        verb, needed = self._verbs.get(command.verb, (None, ()))
        if verb is None:
            return _error(Code.MALFORMED, f"this node knows no verb {command.verb!r}: is it older than the client?")
        arguments = {name: value for name, value in command.arguments.items() if value is not None}
        for name in (*needed, *(name for name in OPTIONAL if name in arguments)):
            check, what = ARGUMENTS.get(f"{command.verb} {name}") or ARGUMENTS[name]
            if name not in arguments or not check(arguments[name]):
                given = f"{arguments[name]!r:.100}" if name in arguments else "none"
                return _error(Code.MALFORMED, f"{command.verb}: {name} must be {what}, and not {given}")
        return verb(arguments, asker)

    def _named(self, arguments: Result) -> Queue | None:
        return self._core.queues.get(arguments["queue"])

    # -- queues -----------------------------------------------------------------------------------------------------

    def _declare(self, arguments: Result, asker: Account) -> Result:
        known = self._named(arguments)
        try:
            policy = QueuePolicy.from_wire({**(known.policy if known else QueuePolicy()).to_wire(), **arguments["policy"]})
        except (TypeError, ValueError) as error:
            return _error(Code.MALFORMED, str(error))
        queue = self._core.queue(arguments["queue"], asker)
        if queue is None:
            return _error(Code.QUOTA, self._core.no_room(asker))
        if policy != queue.policy:
            queue.policy = policy
            self._store_state(queue)
        return {"policy": policy.to_wire()}

    def _store_state(self, queue: Queue, deleted: bool = False) -> None:
        self._core.record(records.Queue(queue.number, queue.name, queue.policy.to_wire(), queue.paused, deleted, queue.owner))

    def _info(self, arguments: Result, asker: Account) -> Result:
        queue = self._named(arguments)
        if queue is None:  # it comes into being at its first use; asking is none
            queue = Queue(0, arguments["queue"], QueuePolicy(), self._core.waiting)
        counts = {state: sum(count for _, count, _, _ in queue.runs(state)) for state in ("leased", "delayed", "returning", "dead")}
        heard, oldest = self._core.heard, queue.oldest()
        consumers = [c for c in queue.consumers.values() if c.client.peer and heard - c.client.last_ready <= 2 * PATIENCE]
        return {
            "name": queue.name, "ready": queue.ready, "leased": counts["leased"], "delayed": counts["delayed"] + counts["returning"],
            "dead": counts["dead"], "consumers": len(consumers), "bytes": queue.bytes,
            "oldest_age": max(0.0, self._core.now - oldest) if oldest is not None else 0.0,
            "paused": queue.paused, "policy": queue.policy.to_wire(),
        }  # fmt: skip

    def _list(self, arguments: Result, asker: Account) -> Result:
        """What the asker may see, by name, at most LIST_MAX; `more` says that there are others: ask again for those `after` the last."""
        names = sorted(name for name in self._core.queues if name > arguments.get("after", "") and sees(asker, name))
        return {"queues": [self._info({"queue": name}, asker) for name in names[:LIST_MAX]], "more": len(names) > LIST_MAX}

    def _pause(self, arguments: Result, asker: Account) -> Result:
        return self._set_paused(arguments, asker, True)

    def _resume(self, arguments: Result, asker: Account) -> Result:
        return self._set_paused(arguments, asker, False)

    def _set_paused(self, arguments: Result, asker: Account, paused: bool) -> Result:
        queue = self._core.queue(arguments["queue"], asker)
        if queue is None:
            return _error(Code.QUOTA, self._core.no_room(asker))
        if queue.paused != paused:
            queue.paused = paused
            self._store_state(queue)
            self._core.hungry[queue.number] = queue
        return {}

    def _purge(self, arguments: Result, asker: Account) -> Result:
        """All ready and delayed messages, or those of `seqs`; what is leased or dead stays."""
        queue = self._named(arguments)
        return {"count": self._settle(queue, ("ready", "delayed"), arguments.get("seqs")) if queue else 0}

    def _delete(self, arguments: Result, asker: Account) -> Result:
        queue = self._named(arguments)
        if queue is None:
            return {"count": 0}
        core = self._core
        for lease in [lease for lease in core.leases.values() if lease.queue == queue.number]:
            self._leasing.end(lease, lease.open, DELETED)
        count = queue.messages + len(queue.dead)
        self._settle(queue, ("ready", "delayed", "returning", "dead"))
        self._store_state(queue, deleted=True)
        core.remove_queue(queue)
        return {"count": count}

    def _settle(self, queue: Queue, states: tuple[str, ...], seqs: list[int] | None = None) -> int:
        ranges = sorted((qseq, count) for state in states for qseq, count, _, _ in _places(queue, state, 0, seqs))
        return self._drop_ranges(queue, ranges)

    def _drop_ranges(self, queue: Queue, ranges: records.Ranges) -> int:
        if ranges:
            record = records.Drop(queue.number, _joined(ranges))
            queue.drop(record, self._core.record(record))
        return sum(count for _, count in ranges)

    # -- topics -----------------------------------------------------------------------------------------------------

    def _topic_declare(self, arguments: Result, asker: Account) -> Result:
        name, topics = TOPIC_MARK + arguments["topic"], self._topics
        known = topics.hosted[name].topic.policy if name in topics.hosted else TopicPolicy()
        try:
            policy = TopicPolicy.from_wire({**known.to_wire(), **arguments["policy"]})
        except (TypeError, ValueError) as error:
            return _error(Code.MALFORMED, str(error))
        if policy.durability in ("disk", "os") and self._core.identity.durability == "memory":
            return _error(Code.MALFORMED, f"durability={policy.durability!r}: this node keeps nothing on a disk; start it with a journal")
        declared = topics.declare(name, policy, asker)
        if declared is None:
            return _error(Code.QUOTA, self._core.no_room(asker))
        return {"policy": declared.to_wire()}

    def _topic_info(self, arguments: Result, asker: Account) -> Result:
        return self._topics.info(TOPIC_MARK + arguments["topic"])

    def _topic_list(self, arguments: Result, asker: Account) -> Result:
        """As `list` does it with queues."""
        after = TOPIC_MARK + arguments.get("after", "")
        names = sorted(name for name in self._topics.hosted if name > after and sees(asker, name))
        return {"topics": [self._topics.info(name) for name in names[:LIST_MAX]], "more": len(names) > LIST_MAX}

    def _topic_delete(self, arguments: Result, asker: Account) -> Result:
        return {"count": self._topics.delete(TOPIC_MARK + arguments["topic"])}

    def _topic_bind(self, arguments: Result, asker: Account) -> Result:
        return self._set_bound(arguments, asker, True)

    def _topic_unbind(self, arguments: Result, asker: Account) -> Result:
        return self._set_bound(arguments, asker, False)

    def _set_bound(self, arguments: Result, asker: Account, bound: bool) -> Result:
        why = self._topics.bind(TOPIC_MARK + arguments["topic"], arguments["prefix"], arguments["queue"], bound, asker)
        return _error(Code.QUOTA, why) if why else {}

    # -- messages ---------------------------------------------------------------------------------------------------

    def _peek(self, arguments: Result, asker: Account) -> Result:
        """At most PEEK_MAX; `more` says that there are others: ask again for those `after` the last."""
        queue, limit, more = self._named(arguments), min(arguments["count"], PEEK_MAX), False
        rows: list[list[int]] = []
        parcels: list[Slice] = []
        if queue is None:
            return {"rows": rows, "parcels": parcels, "more": more}
        places = _places(queue, arguments["state"], arguments.get("after", 0), arguments.get("seqs"))
        for qseq, count, position, offset in places:
            taken = min(count, limit - len(rows)) if len(parcels) < PEEK_PARCELS_MAX else 0
            more = taken < count
            if taken:
                rows += [[seq, queue.failed.get(seq, 0) + 1] for seq in range(qseq, qseq + taken)]
                parcels.append(Slice(position, offset, taken))
            if more:
                break
        return {"rows": rows, "parcels": parcels, "more": more}

    def _dead_list(self, arguments: Result, asker: Account) -> Result:
        queue = self._named(arguments)
        if queue is None:
            return {"rows": [], "parcels": []}
        rows: list[list[Any]] = []
        parcels: list[Slice] = []
        for qseq, _ in self._dead_ranges(queue, arguments)[: min(arguments["count"], PEEK_MAX)]:
            batch = queue.find(qseq)
            assert batch is not None
            reason, at = queue.dead[qseq]
            rows.append([qseq, reason, queue.failed.get(qseq, 0), at, queue.errors.get(qseq, [])])
            parcels.append(Slice(batch.position, qseq - batch.qseq, 1))
        return {"rows": rows, "parcels": parcels}

    def _dead_ranges(self, queue: Queue, arguments: Result) -> records.Ranges:
        wanted = arguments.get("seqs")
        seqs = sorted(queue.dead) if wanted is None else sorted({seq for seq in wanted if seq in queue.dead})
        return [(qseq, 1) for qseq in seqs]

    def _redrive(self, arguments: Result, asker: Account) -> Result:
        queue = self._named(arguments)
        ranges = self._dead_ranges(queue, arguments) if queue else []
        if queue and ranges:
            record = records.Redrive(queue.number, _joined(ranges))
            queue.redrive(record, self._core.record(record))
        return {"count": len(ranges)}

    def _drop(self, arguments: Result, asker: Account) -> Result:
        queue = self._named(arguments)
        return {"count": self._drop_ranges(queue, self._dead_ranges(queue, arguments)) if queue else 0}


def _places(queue: Queue, state: str, after: int, seqs: list[int] | None) -> Iterator[tuple[int, int, int, int]]:
    """(qseq, count, position, offset) of the messages in a state, lowest first: those above `after`, and of these perhaps only `seqs`."""
    if seqs is None:
        yield from queue.runs(state, after)
        return
    begun, whole = [], []
    for seq in sorted({seq for seq in seqs if seq > after}):
        batch = queue.batches.find(seq)
        if batch is None:
            whole.append(seq)
        elif getattr(batch, state) >> (seq - batch.qseq) & 1:
            begun.append((seq, 1, batch.position, seq - batch.qseq))
    yield from begun
    if state == "ready":
        yield from ((seq, 1, row.position, seq - row.qseq) for seq, row in queue.backlog.find(whole))


def _error(code: Code, text: str) -> Result:
    return {"error": int(code), "text": text[:TEXT_CHARS_MAX]}


def _joined(ranges: records.Ranges) -> records.Ranges:
    """Neighbouring ranges, which must be sorted, as one."""
    joined: records.Ranges = []
    for first, count in ranges:
        if joined and joined[-1][0] + joined[-1][1] == first:
            joined[-1] = joined[-1][0], joined[-1][1] + count
        else:
            joined.append((first, count))
    return joined
