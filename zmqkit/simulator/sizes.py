"""Sizes that a topic has outside of the simulator are a thousand keys and megabytes; here they are small, so that they are met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from zmqkit.machines import fanout, keeping, topic, topics


class TopicSizes(NamedTuple):
    sweep_bytes: int = 300
    piece_keys: int = 4
    pieces_a_turn: int = 1
    recent_bytes: int = 500


@contextmanager
def small(sizes: TopicSizes) -> Iterator[None]:
    """While this lasts, all topics of this process are so."""
    given: list[tuple[object, str, int]] = [
        (keeping, "SWEEP_BYTES", sizes.sweep_bytes), (keeping, "PIECE_KEYS", sizes.piece_keys), (fanout, "PIECE_KEYS", sizes.piece_keys),
        (topics, "PIECES_A_TURN", sizes.pieces_a_turn), (topic, "RECENT_BYTES", sizes.recent_bytes),
    ]  # fmt: skip
    before = [(module, name, getattr(module, name)) for module, name, _ in given]
    try:
        for module, name, size in given:
            setattr(module, name, size)
        yield
    finally:
        for module, name, size in before:
            setattr(module, name, size)
