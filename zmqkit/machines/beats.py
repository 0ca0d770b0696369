"""A client's heartbeats: which are out, which came back, and when each was sent.

Rule 1 (R-L7)  An echo counts once. A repetition says nothing new, so it proves nothing.
Rule 2 (R-L2)  Doubt begins `patience` after a READY without echo, counted in time in which we listened: a pause of our own
               is not the node's silence.
"""

from __future__ import annotations

from math import inf


class Beat:
    """A READY that has not come back."""

    __slots__ = ("behind", "heard", "listed", "number", "sent")

    def __init__(self, number: int, sent: float, heard: float, listed: list[int], behind: bool) -> None:
        self.number, self.sent, self.heard, self.listed = number, sent, heard, listed
        self.behind = behind  # all words of its turn


class Beats:
    def __init__(self) -> None:
        self.number = 0  # of the last one sent; rises over all links
        self.sent_at = -inf
        self.echoed, self.proven = 0, -inf  # the newest that came back, and when it was sent
        self.out: list[Beat] = []  # on this link
        self._sending: dict[int, float] = {}  # sending times, from the newest echoed on

    def send(self, now: float, heard: float, listed: list[int], behind: bool) -> None:
        self.number += 1
        self.out.append(Beat(self.number, now, heard, listed, behind))
        self._sending[self.number] = self.sent_at = now

    def echo(self, number: int) -> Beat | None:
        """The beat that this echo answers for the first time."""
        beat = next((beat for beat in self.out if beat.number == number), None)
        if beat is not None:
            self.out = [later for later in self.out if later.number > number]
            self.echoed, self.proven = number, beat.sent
            self._sending = {n: at for n, at in self._sending.items() if n >= number}
        return beat

    def sending(self, number: int) -> float:
        """When that beat was sent; -inf if it is too old to matter."""
        return self._sending.get(number, -inf)

    def waits(self, number: int) -> bool:
        """Is it out, so that its echo may still come?"""
        return any(beat.number == number for beat in self.out)

    def silent(self, heard: float) -> float:
        """How long the oldest one has been out, in time that we listened."""
        return heard - self.out[0].heard if self.out else -inf
