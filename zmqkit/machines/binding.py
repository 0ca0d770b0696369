"""Bindings: updates of a topic that are also messages of a queue, never one without the other.

Rule 1  The messages stand in the log right behind their updates, in order of the bindings. So a log that lost its tail can lack only
        those of its last updates: `begin` adds them.
Rule 2  The confirm of the updates waits for the messages. A full queue refuses both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmqkit import records
from zmqkit.machines.core import Core
from zmqkit.machines.queue import Queue
from zmqkit.machines.topic import Topic
from zmqkit.parcel import Parcel
from zmqkit.updates import Held, Updates

BINDINGS_MAX = 64  # of one topic
PART = 512  # messages of one record: their headers take up to some 300 bytes each
NOBODY = b""  # the producer of what the node itself writes
DELETED = b"\xc0"  # the body that tells a deletion: msgpack's nil

Copies = Sequence[tuple[Queue, Parcel]]


class Binding:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._last: tuple[Topic, records.Put] | None = None  # the record that a replay met last, if it may lack messages
        self._found = 0  # records of messages behind it

    def copies(self, topic: Topic, updates: Updates, seq: int = 0) -> Copies | None:
        """The messages that these updates are, too; `seq`: of the first, if it has its number already. None: a queue cannot be made."""
        found: list[tuple[Queue, Parcel]] = []
        seq = seq or topic.next_qseq
        for name, prefixes in topic.bindings.items():
            chosen = [index for index, key in enumerate(updates.keys) if key.startswith(prefixes)]
            queue = self._core.queue(name, self._core.account(topic.owner)) if chosen else None
            if chosen and queue is None:
                return None
            for start in range(0, len(chosen), PART):
                assert queue is not None
                found.append((queue, _messages(topic, updates, seq, chosen[start : start + PART])))
        return found

    def store(self, copies: Copies) -> int:
        """Rule 1. The position of the last record; 0: there is none."""
        position = 0
        for queue, parcel in copies:
            queue.promise(parcel.count, len(parcel.body))
            record = records.Put(queue.number, NOBODY, 1, parcel.count, 1, queue.number_messages(parcel.count), self._core.now, parcel)
            position = self._core.record(record)
            queue.put(record, position)
        return position

    # -- memory -------------------------------------------------------------------------------------------------------

    def restored(self, owner: Queue | Topic | None, record: records.Record) -> None:
        """A replay has met this record."""
        put = record if isinstance(record, records.Put) else None
        if isinstance(owner, Topic):
            self._last, self._found = (owner, put) if put and owner.bindings else None, 0
        elif owner is not None and put and put.client == NOBODY:
            self._found += 1
        else:
            self._last = None

    def begin(self) -> None:
        """Rule 1."""
        if self._last is not None:
            topic, record = self._last
            self.store((self.copies(topic, Updates.read(record.parcel), record.qseq) or [])[self._found :])
            self._last = None


def _messages(topic: Topic, updates: Updates, seq: int, chosen: list[int]) -> Parcel:
    headers: list[dict[str, Any]] = []
    for index in chosen:
        headers.append({"topic": topic.name[1:], "key": updates.keys[index], "seq": seq + index})
        if updates.values[index] is None:
            headers[-1]["deleted"] = True
    return Parcel.of([_body(updates.values[index]) for index in chosen], {"headers": headers})


def _body(held: Held) -> bytes:
    return DELETED if held is None else held if type(held) is bytes else held[0]  # type: ignore[return-value]
