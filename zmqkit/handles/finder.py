"""What mDNS finds becomes a client's nodes: who comes is connected to, who goes is left.

Rule 1  A record is a hint. With keys only a node is connected to whose announced key is known, and its link is held to that key; without
        keys only one that asks for none.
Rule 2  A link that lives is kept, whatever records say. Once it ends, they count.
Rule 3  A node that turns out to be another one than was announced is left: it has a record of its own, or wants none.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from zmqkit.discovery.found import Found
from zmqkit.errors import Closed
from zmqkit.handles.finding import Follower
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.session import Session
from zmqkit.reactor import now
from zmqkit.security import Keys, LinkKeys

if TYPE_CHECKING:
    from zmqkit.discovery.browser import Browser

SETTLE_SECONDS = 1.3  # mDNS lets nobody repeat an answer within a second
TOLD_MAX = 1000  # nodes that were passed over, and said to be: names come from outside

log = logging.getLogger("zmqkit.discovery")


class Finder:
    """Of a client of `endpoint`, which is mdns: or mdns:NAME."""

    def __init__(self, nodes: Nodes, endpoint: str, keys: Keys | None, interface: str | None) -> None:
        self._nodes, self._keys, self._interface = nodes, keys, interface
        self._follower = Follower(endpoint, self._allowed, self._connect, self._connect, self._gone)
        self._sessions: dict[str, Session] = {}  # by the id that was announced, and is no more where only the link still lives
        self._told: set[str] = set()
        self.settled_at = inf  # whoever was there at the beginning has answered by then
        self.todo = "start one with `zmqkit broker --announce`; `zmqkit ls` shows who is there"
        self._browser: Browser | None = None

    def begin(self) -> None:
        from zmqkit.discovery.browser import Browser  # zeroconf takes its time, and most clients never look for anybody

        self._browser, self.settled_at = Browser(self._changed, self._interface), now() + SETTLE_SECONDS

    def end(self) -> None:
        """Look no more. Does not wait for that."""
        if self._browser is not None:
            self._browser.end()

    def _changed(self, found: tuple[Found, ...]) -> None:
        """On the browser's thread."""
        with suppress(Closed):
            self._nodes.reactor.call(lambda moment: self._see(found))

    # -- on the I/O thread ----------------------------------------------------------------------------------------------

    def _see(self, found: tuple[Found, ...]) -> None:
        with suppress(Closed):
            self._follower.see(found)
        if self._browser is not None:
            self._browser.hold(self._sessions)

    def up(self, session: Session) -> None:
        """It was reached."""
        announced = self._announced(session)
        if announced not in ("", session.node):
            log.warning("at %s is another node than was announced there: it is left", session.endpoint)
            self._leave(announced)

    def down(self, session: Session, was_up: bool) -> None:
        """Its link has ended, or an attempt has failed: then the next one goes to another of its addresses, if there are several."""
        node = self._announced(session)
        found = self._follower.nodes.get(node)
        if node and found is None:
            self._leave(node)
        elif found is not None and not was_up:
            endpoints = found.endpoints
            tried = endpoints.index(session.endpoint) if session.endpoint in endpoints else -1
            self._nodes.move(session, endpoints[(tried + 1) % len(endpoints)], session.keys)

    def _announced(self, session: Session) -> str:
        """The id under which it was; "" if it was left."""
        return next((node for node, known in self._sessions.items() if known is session), "")

    def _connect(self, found: Found) -> None:
        """It has come, or is elsewhere now."""
        self._sessions[found.node] = self._nodes.add(found.endpoint, found.name, found.node, self._link(found))

    def _gone(self, node: str) -> None:
        session = self._sessions.get(node)
        if session is not None and not session.is_up:
            self._leave(node)

    def _leave(self, node: str) -> None:
        session = self._sessions.pop(node)
        self._nodes.reactor.call(lambda moment: self._nodes.remove(session))  # perhaps one of its own events is being handled

    # -- trust ----------------------------------------------------------------------------------------------------------

    def _allowed(self, found: Found) -> bool:
        """Rule 1."""
        if self._keys is None:
            known, todo = not found.fingerprint, "connect with keys=DIR (--keys DIR)"
        else:
            known = bool(found.fingerprint) and self._keys.trusted(found.fingerprint)
            todo = f"compare that with `zmqkit keys show` there, and run `zmqkit keys trust 'KEY' --node {found.name}` here"
            if not found.fingerprint:
                todo = "start it with --keys DIR, or connect without keys if you trust everybody in between"
        if not known:
            key = f"key {found.fingerprint}" if found.fingerprint else "no key"
            reason = f"{found.name} at {found.endpoint} was found, with {key}"
            self._nodes.nowhere.reason, self.todo, text = reason, todo, f"{reason}: {todo}"
            if text not in self._told and len(self._told) < TOLD_MAX:
                self._told.add(text)
                log.warning("%s", text)
        return known

    def _link(self, found: Found) -> LinkKeys | None:
        if self._keys is None:
            return None
        key = self._keys.key_of(found.fingerprint)
        assert key is not None, "it is allowed"
        return LinkKeys(self._keys.pair, key)
