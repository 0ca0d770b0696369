"""Node: hosts queues in this process, and does all that a Client does, without a socket between."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from zmqkit.errors import JournalLocked
from zmqkit.handles.calling import Calls
from zmqkit.handles.client import Peer
from zmqkit.handles.doors import refuse_strangers
from zmqkit.handles.durations import Duration, seconds
from zmqkit.handles.finding import announced, check_announceable
from zmqkit.handles.gateways import Gateways, check, check_clone
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.titanic import Titanic
from zmqkit.handles.waiting import run
from zmqkit.journal import Journal, Log, MemoryLog
from zmqkit.machines.node import NodeMachine
from zmqkit.reactor import Reactor
from zmqkit.security import Keys

if TYPE_CHECKING:
    from zmqkit.aio.peer import Node as AsyncNode
    from zmqkit.discovery.announcement import Announcement

START_SECONDS = 10.0
NUMBER = "{n}"


class Node(Peer):
    """Hosts queues at the given endpoints (none: only for this process) from the moment it is made until `close`.

    journal     directory that keeps the messages; None keeps nothing, and every receipt says so; "data/{n}" takes the first
                number whose directory no other node holds
    durability  "disk" (a confirm waits for the disk) or "os" (survives kill -9, not a power cut); without a journal "memory"
    name        for people; the host's name if None
    mdp         an endpoint at which clients and workers of 7/MDP and 18/MDP (Majordomo) are at home
    ppp         two endpoints, for clients and for workers of 6/PPP (Paranoid Pirate)
    clone       a tcp:// endpoint at which clients of 12/CHP (Clone) ask for snapshots; updates leave at the next port, and come at the
                one behind it
    clone_topic the topic that they share
    announce    let others find it by mDNS, under its name: where it is, and its key's fingerprint; see docs/discovery.md
    mdns_interface  where: a name such as eth0, or an address; else $ZMQKIT_MDNS_INTERFACE, else everywhere
    titanic     offer 9/TSP (Titanic): three services that keep requests until they are answered, however often anybody is killed
    keys        a key directory (`zmqkit keys new`): links are encrypted, and only the keys in its file `trusted`, and its own, come in
    insecure    listen also where other machines can come in without a key; that includes mdp, ppp and clone, whose peers have none

    Raises AddressInUse, Insecure, KeysError, Error (nothing to announce), JournalLocked, JournalCorrupt, JournalFormat.
    """

    aio: AsyncNode  # its twin for asyncio, on the same link; set by zmqkit.aio

    def __init__(self, *endpoints: str, journal: str | None = None, durability: str | None = None, name: str | None = None,
                 mdp: str | None = None, ppp: tuple[str, str] | None = None, titanic: bool = False, clone: str | None = None,
                 clone_topic: str = "clone", announce: bool = False, mdns_interface: str | None = None, keys: str | None = None,
                 insecure: bool = False) -> None:  # fmt: skip
        self.name = name or socket.gethostname()
        (mdp, ppp), (clone, clone_topic) = check(mdp, ppp), check_clone(clone, clone_topic)
        if announce:
            check_announceable(endpoints)
        self._announcement: Announcement | None = None
        own = Keys(keys) if keys is not None else None
        if not insecure:
            refuse_strangers(endpoints, [*([mdp] if mdp else []), *(ppp or []), *([clone] if clone else [])], keys is not None)
        log = _open(journal, durability)
        self._reactor = Reactor("zmqkit-node")
        self._nodes = Nodes(self._reactor)
        self._calls = Calls(self._nodes)
        self._nodes.add(None, self.name)
        machine = NodeMachine(log.node, log.epoch, name=self.name, durability=log.durability, jitter=random.random)
        self._core, self._gateways = machine.core, Gateways(self._reactor, machine)
        try:
            self.endpoints: list[str] = self._reactor.host(machine, log, list(endpoints), own)
            self._gateways.open(mdp, ppp, clone, clone_topic)
        except BaseException:
            log.close()
            self._reactor.close(0.0)
            raise
        self._titanic = Titanic(self) if titanic else None
        self._nodes.begin()
        try:
            run(self._nodes.rising(START_SECONDS))
            if self._titanic is not None:
                self._titanic.start()
        except BaseException:
            self._close(0.0)
            raise
        if announce:
            self._announcement = announced(self.name, own.pair.fingerprint if own else "", log.node.hex(), self.endpoints, mdns_interface)

    @property
    def id(self) -> str:
        """What receipts, events and discovery call this node, 32 hex digits; the same after a restart on the same journal."""
        return self._core.identity.node.hex()

    @property
    def endpoint(self) -> str:
        """The first real one, with the port that was taken where 0 was asked for; "" if there is none."""
        return self.endpoints[0] if self.endpoints else ""

    @property
    def gateways(self) -> dict[str, list[str]]:
        """The real endpoints of each foreign protocol: {"mdp": [endpoint], "ppp": [of clients, of workers], "clone": [of snapshots]}."""
        return {name: list(endpoints) for name, endpoints in self._gateways.endpoints.items()}

    @property
    def dropped(self) -> dict[str, int]:
        """What peers said in vain since it began, counted by reason; that of foreign ones as "mdp:reason"."""
        return {**self._core.dropped, **self._gateways.dropped}

    @property
    def failure(self) -> Exception | None:
        """Why it serves no more: JournalFailed, or Closed after `close`. None while all is well."""
        return self._nodes.error

    def close(self, timeout: Duration = 5.0) -> None:
        """Stop serving: confirm what was taken, seal the journal. Connected clients keep their leases for their grace.

        Raises the first failure that nobody was told of.
        """
        self._close(seconds(timeout))
        self._nodes.raise_unseen()

    def _close(self, timeout: float) -> None:
        self._retire(timeout)
        super()._close(timeout)

    def _retire(self, timeout: float) -> None:
        """What lives beside the reactor ends before it."""
        if self._announcement is not None:
            self._announcement.close()
        if self._titanic is not None:
            self._titanic.close(timeout)

    def __enter__(self) -> Node:
        return self

    def __repr__(self) -> str:
        return f"<Node {self.name} at {', '.join(self.endpoints) or 'this process'}>"


def _open(journal: str | None, durability: str | None) -> Log:
    if journal is None:
        if durability not in (None, "memory"):
            raise ValueError(f'durability={durability!r} needs a journal: give journal="directory"')
        return MemoryLog()
    if durability == "memory":
        raise ValueError('durability="memory" keeps nothing: give journal=None')
    if durability not in (None, "disk", "os"):
        raise ValueError(f'durability={durability!r}: give "disk" or "os"')
    make: Callable[[str], Log] = lambda path: Journal(path, durability or "disk")  # noqa: E731
    if NUMBER not in journal:
        return make(journal)
    for number in count():
        try:
            return make(journal.replace(NUMBER, str(number)))
        except JournalLocked:
            continue
    raise AssertionError("count() never ends")
