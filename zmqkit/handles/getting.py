"""get and get_many: a window for as long as somebody waits, and the question whether there is anything now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from zmqkit.errors import fresh
from zmqkit.handles.hand import Part
from zmqkit.handles.intake import Convert, D, Intake, News
from zmqkit.handles.waiting import Steps
from zmqkit.reactor import now
from zmqkit.wire import BackKind

R = TypeVar("R")
PROBE_SECONDS = 1.0  # `get(timeout=0)` waits so long at most for the node's "nothing there"


def get(inbox: Intake, kind: type[D], timeout: float | None, convert: Convert) -> Steps[D | None]:
    """One message within `timeout`; with 0, one that is there now."""
    return _seek(inbox, 1, timeout, timeout == 0, lambda asked: inbox.take(kind, convert))


def get_many(inbox: Intake, most: int, timeout: float | None, convert: Convert) -> Steps[tuple[list[Part], list[Any]]]:
    """What is there, up to `most`; if nothing is, what comes first within `timeout`."""
    parts: list[Part] = []
    bodies: list[Any] = []

    def look(asked: bool) -> bool | None:
        more_parts, more_bodies = inbox.take_many(most - len(bodies), convert)
        parts.extend(more_parts)
        bodies.extend(more_bodies)
        for hand, _, count in more_parts:
            hand.inbox.took_by_get(hand, count)
        return (bool(bodies) and (asked or len(bodies) == most)) or None

    try:
        yield from _seek(inbox, most, timeout, True, look)
    except BaseException:
        for hand, first, count in parts:
            hand.inbox.say(hand.inbox.back, hand, first, count, True, BackKind.UNSTARTED, -1.0, "")
        raise
    return parts, bodies


def _seek(inbox: Intake, count: int, timeout: float | None, probe: bool, look: Callable[[bool], R | None]) -> Steps[R | None]:
    """`look` until it finds something, or `timeout`. With `probe` the nodes are asked what they have now: True once they have answered."""
    nodes = inbox.nodes
    nodes.admit()
    if inbox.stale:
        raise inbox.stale.popleft()
    seen = inbox.news
    found = look(not nodes.is_up)
    if found is not None:
        return found
    deadline = None if timeout is None else now() + (timeout or PROBE_SECONDS)
    with inbox.lock:
        bars, question = inbox.bars, inbox.seek(count, probe)
    try:
        while (deadline is None or now() < deadline) and not (timeout == 0 and (question.happened or not nodes.is_up)):
            yield News(inbox, seen), None if deadline is None else max(0.0, deadline - now())
            nodes.admit()
            if inbox.bars != bars:
                raise fresh(inbox.barred)
            seen = inbox.news
            found = look(question.happened)
            if found is not None:
                return found
        return look(True)
    finally:
        with inbox.lock:
            inbox.sought(count if inbox.bars == bars else 0, question)  # barred, nobody is said to wait any more
