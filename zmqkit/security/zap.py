"""ZAP 1.0 (RFC 27): libzmq asks whether a key may come in, and hears nothing but our answer. Pure: frames in, frames out.

Rule 1  Whatever is odd about a question is answered 400, and never let in.
Rule 2  The texts are constant: a stranger learns nothing from them.
Rule 3  The user's id is the key itself: libzmq writes it on every message of that connection, where no peer can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zmqkit.security.identity import KEY_BYTES, key_text

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"zmqkit"
VERSION = b"1.0"
OK, REFUSED, FAILED = (b"200", b"OK"), (b"400", b"refused"), (b"500", b"failed")
FRAMES = 7  # version, request id, domain, address, routing id, mechanism, key
ID_BYTES_MAX = 255


class Question:
    """The frames behind the empty one. `key` "" where the question is odd, and the answer is no."""

    __slots__ = ("address", "id", "key")

    def __init__(self, frames: Sequence[bytes]) -> None:
        """Raises ValueError for what cannot even be answered."""
        if len(frames) < 2 or len(frames[1]) > ID_BYTES_MAX:
            raise ValueError("no question of ZAP")
        self.id = frames[1]
        self.key = self.address = ""
        if len(frames) == FRAMES:
            version, _, domain, address, _, mechanism, key = frames
            if (version, domain, mechanism, len(key)) == (VERSION, DOMAIN, b"CURVE", KEY_BYTES):
                self.key, self.address = key_text(key), address[:ID_BYTES_MAX].decode("ascii", "replace")

    def answer(self, admitted: Callable[[str], bool]) -> list[bytes]:
        """The frames to go behind an empty one."""
        try:
            verdict = OK if self.key and admitted(self.key) else REFUSED
        except Exception:  # whoever looks the key up is broken: that lets nobody in
            verdict = FAILED
        return [VERSION, self.id, *verdict, self.key.encode() if verdict is OK else b"", b""]
