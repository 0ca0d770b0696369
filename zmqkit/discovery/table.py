"""Which nodes there are, by what records say, and what has to be asked. Pure: records and moments come in, questions and nodes come out.

Rule 1  Memory and work are bounded, whoever says how much: so many instances, so many addresses of each, so many questions a second.
Rule 2  What is known and answers is never put out by what is new. When all places are taken, what is new is refused and counted; it gets
        the place of one that never got whole, or does not answer any more.
Rule 3  A node that the application holds on to is never put out, and gets a place again when it comes back.
Rule 4  What makes no sense is refused, counted, and changes nothing of what is known.
Rule 5  An instance ends by its goodbye, or with the shortest life of its records. Before that it is asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from math import inf
from typing import NamedTuple

from zmqkit.discovery.found import Found, Refused, Text, read_text, short

ENTRIES_MAX = 256
ADDRESSES_MAX = 8  # of one host
NAME_BYTES_MAX = 253  # of an instance or a host
LIFE_SECONDS_MAX = 4500.0
WHOLE_SECONDS = 5.0  # an instance of which not all has come by then is forgotten
CHANCE_SECONDS = 1.0  # and from then on, another may take its place
PIECES_ASKED_AFTER = (0.1, 1.0, 3.0)  # seconds; what lacks mostly comes by itself, in the same packet or the next
REFRESHED_AFTER = (0.8, 0.9, 0.95)  # of a life (RFC 6762, 5.2)
SILENT_ASKED = 2  # who was asked so often in vain may be put out
BROWSE_SECONDS_MAX = 60.0  # between two questions for all; it begins with 1 s and doubles
ASKED_AT_ONCE = 16
ASK_SECONDS = 0.25
FULL_SECONDS = 0.25  # how long nobody looks for room again after none was found: looking costs
FLUSH_SECONDS = 1.0  # addresses older than that end when a host says that its new ones are all (RFC 6762, 10.2)


class Pointer(NamedTuple):
    """There is such an instance. `seconds` here and below: how long that holds; 0: no more."""

    instance: str
    seconds: float


class Service(NamedTuple):
    instance: str
    server: str
    port: int
    seconds: float


class Words(NamedTuple):
    instance: str
    raw: bytes
    seconds: float


class Address(NamedTuple):
    server: str
    packed: bytes
    seconds: float
    flush: bool = False


Record = Pointer | Service | Words | Address


class Question(NamedTuple):
    kind: str  # "PTR", "SRV", "TXT", "A"
    name: str  # of an instance or a server; "" for all instances


class _Entry:
    __slots__ = ("asked", "heard", "instance", "pointer_seconds", "pointer_until", "port", "server", "service_seconds", "service_until",
                 "text", "text_until", "wanting")  # fmt: skip

    def __init__(self, instance: str, now: float) -> None:
        self.instance, self.heard = instance, now
        self.wanting: float | None = now  # since when something of it lacks
        self.asked = 0  # since then, or since its service was heard last
        self.server, self.port, self.service_seconds, self.service_until = "", 0, 0.0, inf
        self.pointer_seconds, self.pointer_until = 0.0, inf
        self.text: Text | None = None
        self.text_until = inf

    @property
    def until(self) -> float:
        return min(self.pointer_until, self.service_until, self.text_until, inf if self.wanting is None else self.wanting + WHOLE_SECONDS)

    @property
    def ask_at(self) -> float:
        after = REFRESHED_AFTER if self.wanting is None else PIECES_ASKED_AFTER
        if self.asked >= len(after):
            return inf
        if self.wanting is not None:
            return self.wanting + after[self.asked]
        return self.service_until - self.service_seconds * (1.0 - after[self.asked])

    def may_go(self, now: float) -> bool:
        return self.asked >= SILENT_ASKED if self.wanting is None else now >= self.wanting + CHANCE_SECONDS


class Table:
    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.held: frozenset[str] = frozenset()  # ids of nodes that the application holds on to; replaced as a whole
        self.touched = False  # since `found` was asked
        self._entries: dict[str, _Entry] = {}
        self._servers: dict[str, dict[bytes, tuple[float, float]]] = {}  # of those: address -> when it was heard, and until when it holds
        self._full_until = self._asked_at = -inf
        self._browse_at, self._browse_seconds = -inf, 1.0

    # -- what comes in ------------------------------------------------------------------------------------------------

    def hear(self, records: Iterable[Record], now: float) -> None:
        """All that one packet said."""
        order: dict[type[Record], list[Record]] = {Pointer: [], Service: [], Words: [], Address: []}
        for record in records:
            order[type(record)].append(record)
        for kind in order.values():  # an address means something once its host's instance is known
            for record in kind:
                try:
                    self._hear(record, now)
                except Refused as reason:
                    self.dropped[str(reason)] += 1

    def _hear(self, record: Record, now: float) -> None:
        if isinstance(record, Address):
            self._hear_address(record, now)
            return
        key = record.instance.lower()
        entry, until = self._entries.get(key), now + min(record.seconds, LIFE_SECONDS_MAX)
        if record.seconds <= 0:
            if entry is not None and _says(entry, record):
                self._forget(key)
            return
        if isinstance(record, Pointer):
            entry = entry or self._admit(key, record.instance, now)
            entry.pointer_seconds, entry.pointer_until = until - now, until
            return
        if entry is None:
            return  # a service of somebody else, or one for which there was no place
        try:
            self._take(entry, record, until, now)
        except Refused:
            if entry.text is None or not entry.port:  # it was never believed
                self._forget(key)
            raise
        entry.heard = now
        self._weigh(entry, now)

    def _take(self, entry: _Entry, record: Service | Words, until: float, now: float) -> None:
        """Raises Refused, and then nothing has changed."""
        if isinstance(record, Words):
            entry.text, entry.text_until = read_text(record.raw), until
            return
        if not 1 <= record.port <= 65535:
            raise Refused("absurd port")
        _check_name(record.server)
        entry.port, entry.service_seconds, entry.service_until = record.port, until - now, until
        self._move(entry, record.server.lower())
        if entry.wanting is None:
            entry.asked = 0

    def _hear_address(self, record: Address, now: float) -> None:
        known = self._servers.get(record.server.lower())
        if known is None:
            return
        if record.seconds <= 0:
            known.pop(record.packed, None)
        else:
            address = IPv4Address(record.packed)
            if address.is_multicast or address.is_unspecified or address.is_reserved:
                raise Refused("absurd address")
            if record.flush:
                for other, (heard, _) in list(known.items()):
                    if heard < now - FLUSH_SECONDS:
                        del known[other]
            if record.packed not in known and len(known) >= ADDRESSES_MAX:
                raise Refused("too many addresses")
            known[record.packed] = now, now + min(record.seconds, LIFE_SECONDS_MAX)
        for entry in self._entries.values():
            if entry.server == record.server.lower():
                self._weigh(entry, now)

    def _weigh(self, entry: _Entry, now: float) -> None:
        """Is all of it there?"""
        self.touched = True
        if entry.port and entry.text is not None and self._servers.get(entry.server):
            if entry.wanting is not None:
                entry.wanting, entry.asked = None, 0
        elif entry.wanting is None:
            entry.wanting, entry.asked = now, 0

    def _move(self, entry: _Entry, server: str) -> None:
        before, entry.server = entry.server, server
        self._servers.setdefault(server, {})
        if before != server:
            self._leave(before)

    def _leave(self, server: str) -> None:
        if all(entry.server != server for entry in self._entries.values()):
            self._servers.pop(server, None)

    def _forget(self, key: str) -> None:
        self._leave(self._entries.pop(key).server)
        self.touched = True
        self._full_until = -inf

    # -- room ---------------------------------------------------------------------------------------------------------

    def _admit(self, key: str, instance: str, now: float) -> _Entry:
        _check_name(instance)
        if len(self._entries) >= ENTRIES_MAX:
            self._make_room(key, now)
        entry = self._entries[key] = _Entry(instance, now)
        return entry

    def _make_room(self, key: str, now: float) -> None:
        """Raises Refused."""
        returns = self._returns(key)
        if now >= self._full_until or returns:
            strangers = [other for other, entry in self._entries.items() if entry.text is None or entry.text.node not in self.held]
            going = [other for other in strangers if self._entries[other].may_go(now)] or (strangers if returns else [])
            if going:
                self._forget(min(going, key=lambda other: self._entries[other].heard))
                return
            self._full_until = now + FULL_SECONDS
        raise Refused("no room")

    def _returns(self, key: str) -> bool:
        """Is that the instance of a node that is held and has none?"""
        ids = [short(node) for node in self.held if short(node) in key]
        return bool(ids) and not any(node in other for node in ids for other in self._entries)

    # -- what goes out ------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        for server, known in self._servers.items():
            for address in [address for address, (_, until) in known.items() if until <= now]:
                self._hear_address(Address(server, address, 0.0), now)
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            self._forget(key)

    def found(self, rank: Callable[[str], int]) -> tuple[Found, ...]:
        """Every node of which all is known, by name. Of several instances with one id that counts which was heard last.

        rank: of an address; the lower, the likelier it can be reached
        """
        self.touched = False
        nodes: dict[str, Found] = {}
        for entry in sorted(self._entries.values(), key=lambda entry: entry.heard):
            if entry.wanting is None and entry.text is not None:
                known = self._servers[entry.server]
                addresses = [str(IPv4Address(packed)) for packed in sorted(known, key=known.__getitem__, reverse=True)]  # the newest first
                endpoints = tuple(f"tcp://{address}:{entry.port}" for address in sorted(addresses, key=rank))
                text = entry.text
                nodes[text.node] = Found(text.name, endpoints[0], text.fingerprint, text.node, text.version, endpoints)
        return tuple(sorted(nodes.values(), key=lambda found: (found.name, found.node)))

    def browse(self, now: float) -> None:
        """Ask for all instances, now and then later and later."""
        self._browse_at, self._browse_seconds = now, 1.0

    def questions(self, now: float) -> list[Question]:
        """What to ask now; it counts as asked."""
        asked: list[Question] = []
        if now >= self._browse_at:
            asked.append(Question("PTR", ""))
            self._browse_at = now + self._browse_seconds
            self._browse_seconds = min(2 * self._browse_seconds, BROWSE_SECONDS_MAX)
        if now >= self._asked_at + ASK_SECONDS:
            due = [entry for entry in self._entries.values() if entry.ask_at <= now]
            due.sort(key=lambda entry: entry.wanting is not None)  # what is known first
            for entry in due[:ASKED_AT_ONCE]:
                asked += self._lacking(entry)
                entry.asked += 1
                self._asked_at = now
        return asked

    def _lacking(self, entry: _Entry) -> list[Question]:
        if entry.wanting is None or not entry.port:
            lacks = [Question("SRV", entry.instance)]
        else:
            lacks = [] if self._servers[entry.server] else [Question("A", entry.server)]
        return lacks if entry.text is not None else [*lacks, Question("TXT", entry.instance)]

    def known(self, now: float) -> list[tuple[str, float]]:
        """Instances that need not be told again, and for how many seconds they hold (RFC 6762, 7.1)."""
        pointers = [(entry.instance, entry.pointer_until - now, entry.pointer_seconds) for entry in self._entries.values()]
        return [(instance, left) for instance, left, life in pointers if left > life / 2]

    @property
    def deadline(self) -> float:
        """When to call `expire` and `questions` again."""
        moments = [self._browse_at]
        for entry in self._entries.values():
            moments += entry.until, max(entry.ask_at, self._asked_at + ASK_SECONDS)
        return min(moments)


def _check_name(name: str) -> None:
    if not name.isprintable() or len(name.encode(errors="replace")) > NAME_BYTES_MAX:
        raise Refused("absurd name")


def _says(entry: _Entry, record: Pointer | Service | Words) -> bool:
    """Does the entry stand on this record? What it replaced meanwhile may end."""
    if isinstance(record, Service):
        return (entry.server, entry.port) == (record.server.lower(), record.port)
    return isinstance(record, Pointer)
