"""What libzmq tells of a connection on its way: why it is in doubt, and whether the key shown on it was taken.

Whether a failed handshake is a mismatch of mechanisms or a mere end depends on who of the two looks first. So the reasons that say less
name all that it may be, and one that says more is remembered (`Reasons`).
"""

from __future__ import annotations

from collections.abc import Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

NEVER_UP = "connection refused"
NO_ZEROMQ = "the handshake failed: it asks for keys, or is no ZeroMQ peer"
WRONG_PROTOCOL = "the handshake failed: wrong protocol"
NOT_TRUSTED = "this key is not trusted there"
WANTS_KEYS = "the node there asks for keys"
WANTS_NONE = "what is there does not speak CURVE"
OTHER_KEY = "the node there has another key than the one known for it"
NO_KEY = "it hangs up in the handshake: it has another key than the one known for it, does not speak CURVE, or is no ZeroMQ peer"
IN_DOUBT = {
    zmq.EVENT_CLOSED: NEVER_UP,
    zmq.EVENT_DISCONNECTED: "the connection was closed by the other side",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: NO_ZEROMQ,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: WRONG_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: NOT_TRUSTED,
    zmq.EVENT_CLOSE_FAILED: "the connection failed",
}
_MISMATCH = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
_WITH_KEYS = {_MISMATCH: WANTS_NONE, int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): OTHER_KEY}
_WITHOUT_KEYS = {_MISMATCH: WANTS_KEYS}
_SURE, _UNSURE = (NOT_TRUSTED, WANTS_KEYS, WANTS_NONE, OTHER_KEY), (NO_ZEROMQ, NO_KEY)


def doubt(monitor: zmq.Socket[bytes], with_keys: bool = False) -> str | None:
    """Why this connection is in doubt, if its monitor says so: the first reason, for the next ones follow from it."""
    first = None
    for event, value in _events(monitor):
        first = first or _reason(event, value, with_keys)
    return first


LET_IN, REFUSED = "was let in", "was refused"


def verdict(monitor: zmq.Socket[bytes]) -> str:
    """What became of a key, told by a monitor of EVENT_HANDSHAKE_SUCCEEDED: LET_IN, REFUSED, something else; "" for not yet."""
    for event, value in _events(monitor):
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return LET_IN
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return REFUSED
        return f"got no answer ({_reason(event, value, with_keys=True)})"
    return ""


class Reasons:
    """Of one attempt after the other to reach one endpoint."""

    __slots__ = ("_sure", "_with_keys")

    def __init__(self, with_keys: bool) -> None:
        self._with_keys, self._sure = with_keys, ""

    def latest(self, monitor: zmq.Socket[bytes]) -> str | None:
        """As `doubt`, or what was certain a while ago if this time it is not."""
        reason = doubt(monitor, self._with_keys)
        if reason in _UNSURE:
            return self._sure or reason
        if reason is not None:
            self._sure = reason if reason in _SURE else ""
        return reason


def _events(monitor: zmq.Socket[bytes]) -> Iterator[tuple[int, int]]:
    while True:
        try:
            message = recv_monitor_message(monitor, zmq.NOBLOCK)
        except zmq.Again:
            return
        yield message["event"], message["value"]


def _reason(event: int, value: int, with_keys: bool) -> str | None:
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return (_WITH_KEYS if with_keys else _WITHOUT_KEYS).get(value, WRONG_PROTOCOL)
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and with_keys:
        return NO_KEY
    return IN_DOUBT.get(zmq.Event(event))
