"""get and get_many: a window for as long as somebody waits, and the question whether there is anything now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from zmqkit.errors import fresh
from zmqkit.handles.hand import News, Part
from zmqkit.handles.inbox import Convert, D, Inbox
from zmqkit.handles.waiting import Reply, Steps
from zmqkit.reactor import now
from zmqkit.wire import BackKind

R = TypeVar("R")
PROBE_SECONDS = 1.0  # `get(timeout=0)` waits so long at most for the node's "nothing there"


def get(inbox: Inbox, kind: type[D], timeout: float | None, convert: Convert) -> Steps[D | None]:
    """One message within `timeout`; with 0, one that is there now."""
    return _seek(inbox, 1, timeout, timeout == 0, lambda asked: inbox.take(kind, convert))


def get_many(inbox: Inbox, most: int, timeout: float | None, convert: Convert) -> Steps[tuple[list[Part], list[Any]]]:
    """What is there, up to `most`; if nothing is, what comes first within `timeout`."""
    parts: list[Part] = []
    bodies: list[Any] = []

    def look(asked: bool) -> bool | None:
        more_parts, more_bodies = inbox.take_many(most - len(bodies), convert)
        parts.extend(more_parts)
        bodies.extend(more_bodies)
        for hand, _, count in more_parts:
            inbox.took_by_get(hand, count)
        return (bool(bodies) and (asked or len(bodies) == most)) or None

    try:
        yield from _seek(inbox, most, timeout, True, look)
    except BaseException:
        for part in parts:
            inbox.say(inbox.back, *part, True, BackKind.UNSTARTED, -1.0, "")
        raise
    return parts, bodies


def _seek(inbox: Inbox, count: int, timeout: float | None, probe: bool, look: Callable[[bool], R | None]) -> Steps[R | None]:
    """`look` until it finds something, or `timeout`. With `probe` the node is asked what it has now: True once it has answered."""
    session = inbox.session
    session.admit()
    if inbox.stale:
        raise inbox.stale.popleft()
    seen = inbox.news
    found = look(not session.is_up)
    if found is not None:
        return found
    deadline = None if timeout is None else now() + (timeout or PROBE_SECONDS)
    question = Reply()
    with inbox.changed:
        bars = inbox.bars
        inbox.waiting += count
        if probe:
            inbox.probes[question] = None
    inbox.restate()
    try:
        while (deadline is None or now() < deadline) and not (timeout == 0 and (question.happened or not session.is_up)):
            yield News(inbox, seen), None if deadline is None else max(0.0, deadline - now())
            session.admit()
            if inbox.bars != bars:
                raise fresh(inbox.barred)
            seen = inbox.news
            found = look(question.happened)
            if found is not None:
                return found
        return look(True)
    finally:
        with inbox.changed:
            if inbox.bars == bars:  # else nobody is said to wait any more
                inbox.waiting -= count
            inbox.probes.pop(question, None)
        inbox.restate()
