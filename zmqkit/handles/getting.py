"""get and get_many: a window for as long as somebody waits, and the question whether there is anything now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmqkit.handles.delivery import Delivery, Got
from zmqkit.handles.hand import Part
from zmqkit.handles.inbox import Convert, Inbox
from zmqkit.handles.waiting import Reply
from zmqkit.reactor import now
from zmqkit.wire import BackKind

PROBE_SECONDS = 1.0  # `get(timeout=0)` waits so long at most for the node's "nothing there"


def get(inbox: Inbox, timeout: float | None, convert: Convert) -> Delivery[Any] | None:
    """One message within `timeout`; with 0, one that is there now."""
    for _ in _tries(inbox, 1, timeout, probe=timeout == 0):
        found = inbox.take(Got, convert)
        if found is not None:
            return found
    return None


def get_many(inbox: Inbox, most: int, timeout: float | None, convert: Convert) -> tuple[list[Part], list[Any]]:
    """What is there, up to `most`; if nothing is, what comes first within `timeout`."""
    parts: list[Part] = []
    bodies: list[Any] = []
    try:
        for asked in _tries(inbox, most, timeout, probe=True):
            more_parts, more_bodies = inbox.take_many(most - len(bodies), convert)
            parts, bodies = parts + more_parts, bodies + more_bodies
            for hand, _, count in more_parts:
                inbox.took_by_get(hand, count)
            if bodies and (asked or len(bodies) == most):
                break
    except BaseException:
        for part in parts:
            inbox.say(inbox.back, *part, True, BackKind.UNSTARTED, -1.0, "")
        raise
    return parts, bodies


def _tries(inbox: Inbox, count: int, timeout: float | None, probe: bool) -> Iterator[bool]:
    """Moments to look, until `timeout`. With `probe` the node is asked what it has now: True once it has answered."""
    session = inbox.session
    session.admit()
    if inbox.stale:
        raise inbox.stale.popleft()
    seen = inbox.news
    yield not session.is_up
    deadline = None if timeout is None else now() + (timeout or PROBE_SECONDS)
    question = Reply()
    with inbox.changed:
        inbox.waiting += count
        if probe:
            inbox.probes[question] = None
    inbox.restate()
    try:
        while (deadline is None or now() < deadline) and not (timeout == 0 and (question.given or not session.is_up)):
            inbox.wait(seen, None if deadline is None else max(0.0, deadline - now()))
            session.admit()
            seen = inbox.news
            yield question.given
        yield True
    finally:
        with inbox.changed:
            inbox.waiting -= count
            inbox.probes.pop(question, None)
        inbox.restate()
