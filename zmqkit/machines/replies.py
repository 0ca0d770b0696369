"""REPLYs: as many answers as fit one, from a worker or to a caller."""

from __future__ import annotations

from collections.abc import Iterable

from zmqkit.parcel import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX, Parcel
from zmqkit.wire import REPLY_RANGES_MAX, Reply

Answer = tuple[int, int, int, int, Parcel]  # number or token, offset, count, status; their bodies


def gathered(serial: int, answers: Iterable[Answer], joins: bool) -> tuple[Reply, int]:
    """The first so many answers as one REPLY; at least one. `joins`: numbers that follow one another and ended alike are one range."""
    ranges: list[tuple[int, int, int, int]] = []
    parcels: list[Parcel] = []
    total = size = 0
    for number, offset, count, status, parcel in answers:
        more = len(parcel.body)
        if parcels and (len(ranges) == REPLY_RANGES_MAX or total + count > PARCEL_MESSAGES_MAX or size + more > PARCEL_BYTES_MAX):
            break
        before = ranges[-1] if joins and ranges else (0, 0, 0, -1)
        if before[0] + before[2] == number and before[3] == status:
            ranges[-1] = before[0], 0, before[2] + count, status
        else:
            ranges.append((number, offset, count, status))
        total, size = total + count, size + more
        parcels.append(parcel)
    # Merged, also if it is but one: a slice would keep the batch that it came in.
    return Reply(serial, ranges, total, Parcel.merge(parcels)), len(parcels)


def texts(text: str, count: int) -> Parcel:
    """The same for each of so many calls; together they must fit a REPLY."""
    return Parcel.of([text.encode()[: PARCEL_BYTES_MAX // count]] * count)
