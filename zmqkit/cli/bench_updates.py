"""The load of `zmqkit bench topic`: numbered updates of random keys, and what a topic holds after the first so many of them.

The same numbers give the same load in every process, so that who publishes and who compares need not talk.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from zmqkit.cli.bench_load import STAMP, bodies

Truth = dict[str, int]  # key: the number of its last update


def names(keys: int) -> list[str]:
    return [f"k{number:07}" for number in range(keys)]


def sequence(keys: int, messages: int, seed: int = 1) -> list[str]:
    """The key of each update."""
    return random.Random(seed).choices(names(keys), k=messages)


def updates(order: Sequence[str], size: int) -> Iterator[tuple[str, bytes]]:
    """One for each key of `order`; the values are numbered from 0, and say when they were made."""
    return zip(order, bodies(len(order), size), strict=True)


def truth(order: Iterable[str]) -> Truth:
    return {key: number for number, key in enumerate(order)}


def wrong(state: Mapping[str, bytes], expected: Truth) -> int:
    """So many keys do not hold what they should."""
    held = {key: STAMP.unpack_from(value)[0] for key, value in state.items()}
    return 0 if held == expected else sum(held.get(key) != expected.get(key) for key in held.keys() | expected.keys())
