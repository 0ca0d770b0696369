"""The load of the bench: numbered messages made fast, and the tally that finds lost and doubled ones at the other end.

Making and checking must cost little beside what is measured, so both go by slices of 512; zmqkit and plain pyzmq carry the same load.
"""

from __future__ import annotations

import base64
import time
import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from struct import Struct
from typing import Any

CHUNK_MESSAGES = 512
STAMP = Struct("<QQ")  # number, time of making in ns: the head of each body
MESSAGE_BYTES_MIN = STAMP.size
CLOCK = time.monotonic_ns  # the same clock in all processes of this machine


def chunks(messages: int, size: int) -> Iterator[list[bytes]]:
    """Bodies of `size` bytes, numbered from 0, in lists of 512. All of one list bear the time at which it was made."""
    pad = bytes(size - STAMP.size)
    for first in range(0, messages, CHUNK_MESSAGES):
        count = min(CHUNK_MESSAGES, messages - first)
        heads = Struct("8s" * count).unpack(array("Q", range(first, first + count)))
        tail = CLOCK().to_bytes(8, "little") + pad
        yield [head + tail for head in heads]


def bodies(messages: int, size: int) -> Iterator[bytes]:
    return chain.from_iterable(chunks(messages, size))


def documents(messages: int, size: int) -> Iterator[dict[str, Any]]:
    """Dicts that msgpack packs to about `size` bytes, numbered from 0."""
    pad = "x" * max(0, size - 26)
    for first in range(0, messages, 64):
        now = CLOCK()
        for number in range(first, min(first + 64, messages)):
            yield {"n": number, "at": now, "pad": pad}


class Tally:
    """Which numbers came, how often, and how long they were under way."""

    def __init__(self, messages: int) -> None:
        self._times = bytearray(messages)  # how often number n came
        self._numbers = array("Q", range(messages))
        self._latencies_ns: list[int] = []
        self.count, self.last_ns = 0, 0

    def bodies(self, batch: Sequence[bytes]) -> None:
        """Note a batch of bodies; one comparison where they are consecutive, as they mostly are."""
        first, made = STAMP.unpack_from(batch[0])
        self._latencies_ns.append(CLOCK() - made)
        size, count = len(batch[0]), len(batch)
        if size % 8 == 0:
            numbers = array("Q", b"".join(batch))[:: size // 8]
        else:
            numbers = array("Q", (STAMP.unpack_from(body)[0] for body in batch))
        if numbers == self._numbers[first : first + count] and not any(self._times[first : first + count]):
            self._times[first : first + count] = b"\1" * count
        else:
            for number in numbers:
                self._times[number] += 1
        self.count += count

    def document(self, body: dict[str, Any]) -> None:
        self._times[body["n"]] += 1
        self.count += 1
        if not self.count & 63:
            self._latencies_ns.append(CLOCK() - body["at"])

    def result(self) -> dict[str, Any]:
        """What a consumer process tells when it is done; `merge` adds those of several."""
        self.last_ns = CLOCK()
        times = base64.b64encode(zlib.compress(bytes(self._times), 1)).decode()
        return {"last_ns": self.last_ns, "times": times, **percentiles(self._latencies_ns)}


def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lost and doubled messages over all consumers, when the last was done, and the worst one's percentiles."""
    tallies = [zlib.decompress(base64.b64decode(result["times"])) for result in results]
    lost = duplicated = 0
    if len(tallies) == 1:
        lost = tallies[0].count(0)
        duplicated = sum(tallies[0]) - (len(tallies[0]) - lost)
    else:
        for times in map(sum, zip(*tallies, strict=True)):
            lost += times == 0
            duplicated += max(0, times - 1)
    worst = {key: max((r[key] for r in results if r[key] is not None), default=None) for key in ("p50_us", "p99_us")}
    return {"lost": lost, "duplicated": duplicated, "last_ns": max(result["last_ns"] for result in results), **worst}


def percentiles(times_ns: list[int]) -> dict[str, float | None]:
    if not times_ns:
        return {"p50_us": None, "p99_us": None}
    ordered = sorted(times_ns)
    return {name: round(ordered[int(part * (len(ordered) - 1))] / 1000, 1) for name, part in (("p50_us", 0.50), ("p99_us", 0.99))}
