"""The host: a node's machine on its log. Here, and only here, records are persisted before what they promise is sent."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from logging import getLogger
from typing import Any

from zmqkit import framing, records, wire
from zmqkit.errors import JournalFailed
from zmqkit.fields import one_line
from zmqkit.journal.log import Item, Log
from zmqkit.machines.node import NodeMachine
from zmqkit.machines.output import Dropped, Ended, Output, Send
from zmqkit.parcel import Parcel

HELD_MAX = 4096  # answers to one peer that wait for the disk: more would not fit its pipe when they leave
PARCELS_KEPT = 64  # parsed ones, so that a parcel leased message by message is parsed once
TOLD_BYTES_MAX = 900 * 1024  # of messages and their rows in one answer; a message of 1 MiB comes alone

log = getLogger("zmqkit.node")

Deliver = Callable[[bytes, wire.Command], str | None]


class Host:
    """`deliver(peer, command)` sends and returns None, or the reason why it could not; `wake` is called by the log's thread."""

    def __init__(self, machine: NodeMachine, log: Log, deliver: Deliver, wake: Callable[[], None]) -> None:
        self.machine = machine
        self.failed: Exception | None = None
        self._log = log
        self._deliver = deliver
        self._wake = wake
        self._held: deque[Send] = deque()
        self._held_by: Counter[bytes] = Counter()
        self._durable = 0  # what the machine has been told
        self._parcels: OrderedDict[int, Parcel] = OrderedDict()
        machine.topics.read = lambda position: records.parcel_of(log.read(position))

    def recover(self, now: float) -> None:
        """Replay the log into the machine, then let it serve."""
        for position, kind, payload in self._log.replay():
            record = records.decode(kind, payload)
            if record is not None:
                self.machine.restore(position, record)
        self.machine.core.last = self._durable = self._log.last
        self._log.retain(self.machine.positions())
        self.machine.begin(now)
        core = self.machine.core
        if core.last or core.identity.epoch > 1:  # leases of calls are in no log
            # A lease is sent without waiting for its record; one whose record the kill came before is known to nobody any more.
            text = "restarted epoch=%d leases=%d: leases of earlier epochs above token=%d ended unwritten, if there were any"
            log.info(text, core.identity.epoch, len(core.leases), core.logged_token)
        self._log.start(self._wake, self._fail)

    def _fail(self, error: Exception) -> None:
        self.failed = error
        self._wake()

    @property
    def quiet(self) -> bool:
        """Nothing waits for the disk."""
        return not self._held

    def settle(self, now: float) -> bool:
        """Let go what the log has made durable meanwhile; True if there was any. The first thing in a turn: somebody waits."""
        durable = self._log.durable
        if durable <= self._durable:
            return False
        self._durable = durable
        self._release_held(now)
        self.machine.durable(durable, now)
        return True

    def turn(self, now: float, drained: bool = True) -> None:
        """Tick, then persist and send until the machine has no more to say. Raises JournalFailed."""
        machine = self.machine
        machine.core.disk_full = self._log.full
        machine.tick(now, drained)
        while True:
            output = machine.take()
            if output.records or output.events or output.released:
                self._persist(output)
            if output.sends:
                self._send(output.sends, now)
            behind = self._durable < machine.core.last
            if not (behind and self.settle(now)) and not machine.has_more:
                return

    def _persist(self, output: Output) -> None:
        for event in output.events:
            _report(event)
        if output.records:
            items = [Item(*records.encode(self._whole(record))) for record in output.records]
            position = self._log.append(items, output.waited)
            assert position == self.machine.core.last, "the machine and the log count alike"
            if self._log.wants_checkpoint:
                self._log.checkpoint([Item(*records.encode(record)) for record in self.machine.snapshot()])
                self._copy_stragglers()
        if output.released:
            self._log.release(output.released)

    def _copy_stragglers(self) -> None:
        places = self._log.stragglers()
        if places is not None:
            self.machine.copy(*places)

    def _whole(self, record: records.Record) -> records.Record:
        if isinstance(record, records.Copy) and isinstance(record.parcel, wire.Slice):
            return record._replace(parcel=self._parcel(record.parcel))
        return record

    def _send(self, sends: list[Send], now: float) -> None:
        for send in sends:
            # Behind those that wait: answers keep their order.
            if send.after and (self._held or send.after > self._log.durable):
                self._hold(send, now)
            else:
                self._let_go(send, now)

    def _hold(self, send: Send, now: float) -> None:
        if self._held_by[send.peer] >= HELD_MAX:
            # As if it did not read: its link ends, and it says everything again on the next.
            self.machine.core.drop("held-too-many", send.peer, type(send.command).__name__)
            self.machine.unsent(send, now)
            return
        self._held_by[send.peer] += 1
        self._held.append(send)

    def _release_held(self, now: float) -> None:
        while self._held and self._held[0].after <= self._durable:
            send = self._held.popleft()
            self._held_by[send.peer] -= 1
            self._let_go(send, now)
        if not self._held:
            self._held_by.clear()

    def _let_go(self, send: Send, now: float) -> None:
        command: Any = send.command
        if isinstance(command, wire.Lease):
            if not isinstance(command.parcel, Parcel):
                command = command._replace(parcel=self._parcel(command.parcel))
        elif isinstance(command, wire.Told) and "parcels" in command.result:
            command = command._replace(result=self._told(command.result))
        reason = self._deliver(send.peer, command)
        if reason is not None:
            self.machine.unsent(send, now)

    def _parcel(self, body: Parcel | wire.Slice) -> Parcel:
        if isinstance(body, Parcel):
            return body
        parcel = self._parcels.get(body.position)
        if parcel is None:
            parcel = self._parcels[body.position] = records.parcel_of(self._log.read(body.position))
            if len(self._parcels) > PARCELS_KEPT:
                self._parcels.popitem(last=False)
        parcel = parcel.split(body.offset, body.count)
        return parcel.with_columns(body.columns) if body.columns else parcel

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        """The bodies in an answer, as many as fit one frame, with their rows."""
        parcels: list[list[Any]] = []
        size = count = 0
        for place in result["parcels"]:
            parcel = self._parcel(place)
            more = _told_bytes(parcel, result["rows"][count:])
            while more > TOLD_BYTES_MAX and not parcels and (parcel.count > 1 or parcel.columns is not None):
                parcel = parcel.split(0, parcel.count // 2) if parcel.count > 1 else Parcel(1, parcel.sizes, parcel.body)
                more = _told_bytes(parcel, result["rows"])
            if parcels and size + more > TOLD_BYTES_MAX:
                break
            size, count = size + more, count + parcel.count
            parcels.append([parcel.count, [bytes(frame) for frame in parcel.frames()]])
            if parcel.count < place.count:
                break
        if count < len(result["rows"]) and "more" in result:
            result = {**result, "more": True}
        return {**result, "rows": result["rows"][:count], "parcels": parcels}

    def close(self, now: float) -> None:
        """Refuse what comes, sync what was taken, give the answers that waited for it, seal."""
        if self.failed is None:
            try:
                self.machine.stop(now)
                self.turn(now)
                self._log.close()
                self.settle(now)
                return
            except JournalFailed as error:
                self.failed = error
        self._log.close()


def _told_bytes(parcel: Parcel, rows: list[Any]) -> int:
    return sum(map(len, parcel.frames())) + framing.packed_bytes(rows[: parcel.count])


def _report(event: Ended | Dropped) -> None:
    if isinstance(event, Ended):
        last = event.first + event.count - 1
        name = one_line(event.queue.replace(wire.SERVICE_MARK, "service:", 1))
        log.info("lease ended queue=%s token=%d messages=%d-%d cause=%s", name, event.token, event.first, last, event.cause)
    else:
        log.debug("dropped reason=%s peer=%s detail=%.200r", event.reason, event.peer.hex(), event.detail)
