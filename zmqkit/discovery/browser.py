"""Browser: the nodes that mDNS knows, now and as they come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from zeroconf import (
    DNSAddress,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    DNSService,
    DNSText,
    RecordUpdate,
    RecordUpdateListener,
    Zeroconf,
)

from zmqkit.discovery.found import SERVICE, Found
from zmqkit.discovery.interfaces import Local, chosen, distance
from zmqkit.discovery.mdns import WATCH_SECONDS, Mdns, log, opened
from zmqkit.discovery.table import Address, Pointer, Question, Record, Service, Table, Words
from zmqkit.errors import Error

LOOK_SECONDS = 0.05  # between two looks at what has come: a flood of records costs no more looks than that
QUERY = 0  # the flags of a DNS header
CLASS_IN = 1
TYPES = {"A": 1, "PTR": 12, "TXT": 16, "SRV": 33}

Changed = Callable[[tuple[Found, ...]], None]


class Browser(Mdns):
    """Follows all nodes from now on, until `close`. `found` may be read by any thread.

    changed    called with the new `found` after each change, on the browser's own thread: it must only wake somebody
    interface  where to listen; see `interfaces.chosen`
    patience   where mDNS is not possible, that is in the log, and tried again and again; False: it is in `failure`, and all is over
    """

    def __init__(self, changed: Changed | None = None, interface: str | None = None, service: str = SERVICE, patience: bool = True) -> None:
        self.found: tuple[Found, ...] = ()
        self._changed, self._interface, self._service = changed, interface, service
        self._table, self._told = Table(), set[str]()
        super().__init__("zmqkit-browse", patience)

    @property
    def dropped(self) -> dict[str, int]:
        """Records that were refused, by reason."""
        return dict(self._table.dropped)

    def hold(self, nodes: Iterable[str]) -> None:
        """These nodes are in use: while others flood the net, they keep their places, and get one again when they come back."""
        self._table.held = frozenset(nodes)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- on its thread ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        here = chosen(self._interface)
        async with opened(str(local.address) for local in here) as zeroconf:
            self._well()
            ear = _Ear(self._service, self._table, asyncio.Event())
            zeroconf.async_add_listener(ear, None)
            watch_at = self._loop.time() + WATCH_SECONDS
            self._table.browse(self._loop.time())
            while True:
                now = self._loop.time()
                if now >= watch_at:
                    watch_at = now + WATCH_SECONDS
                    here = await self._watch(zeroconf, here, now)
                self._table.expire(now)
                self._publish(here)
                self._ask(zeroconf, self._table.questions(now), now)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(self._table.deadline, watch_at)):
                        await ear.heard.wait()
                await asyncio.sleep(LOOK_SECONDS)
                ear.heard.clear()

    async def _watch(self, zeroconf: Zeroconf, before: list[Local], now: float) -> list[Local]:
        try:
            here = chosen(self._interface)
        except Error:
            return before  # no address is left: they come back, or others
        if here != before:
            await zeroconf.async_update_interfaces([str(local.address) for local in here])
            self._table.browse(now)
        return here

    def _publish(self, here: list[Local]) -> None:
        for reason in self._table.dropped.keys() - self._told:
            self._told.add(reason)
            log.warning("mDNS: a record was refused: %s; more of this kind are only counted", reason)
        if not self._table.touched:
            return
        found = self._table.found(lambda address: distance(address, here))
        if found != self.found:
            self.found = found
            if self._changed is not None:
                try:
                    self._changed(found)
                except Exception:
                    log.exception("while telling what mDNS found")

    def _ask(self, zeroconf: Zeroconf, questions: list[Question], now: float) -> None:
        if not questions:
            return
        out = DNSOutgoing(QUERY)
        for kind, name in questions:
            out.add_question(DNSQuestion(name or self._service, TYPES[kind], CLASS_IN))
            if kind == "PTR":
                for instance, seconds in self._table.known(now):
                    out.add_answer_at_time(DNSPointer(self._service, TYPES["PTR"], CLASS_IN, int(seconds), instance), 0)
        zeroconf.async_send(out)


class _Ear(RecordUpdateListener):
    """Gives the table what concerns it of each packet. zeroconf's own browser would remember, and ask again, for all that ever came."""

    def __init__(self, service: str, table: Table, heard: asyncio.Event) -> None:
        self.heard = heard
        self._service, self._suffix, self._table = service, "." + service, table

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """`now` in milliseconds of the loop's clock."""
        ours = [ours for update in records if (ours := self._read(update.new, now)) is not None]
        if ours:
            self._table.hear(ours, now / 1000)
            self.heard.set()

    def _read(self, record: DNSRecord, now: float) -> Record | None:
        seconds = 0.0 if record.is_expired(now) else float(record.ttl)
        if isinstance(record, DNSAddress):
            if record.type == TYPES["A"] and len(record.address) == 4:
                return Address(record.name, record.address, seconds, record.unique)
        elif isinstance(record, DNSPointer):
            if record.name.lower() == self._service and record.alias.lower().endswith(self._suffix):
                return Pointer(record.alias, seconds)
        elif record.name.lower().endswith(self._suffix):
            if isinstance(record, DNSService):
                return Service(record.name, record.server, record.port, seconds)
            if isinstance(record, DNSText):
                return Words(record.name, record.text, seconds)
        return None
