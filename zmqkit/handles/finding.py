"""Finding nodes: once, by `discover`; and as they come and go, for a client of `mdns:`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from zmqkit.discovery.found import Found, Text, announced_name
from zmqkit.errors import Error, Unreachable
from zmqkit.handles.durations import Duration, seconds

if TYPE_CHECKING:
    from zmqkit.discovery.announcement import Announcement

SCHEME = "mdns:"


def discover(timeout: Duration = 2.0, interface: str | None = None) -> list[Found]:
    """The nodes that answer within `timeout` seconds, by name. What they say of themselves is a hint: only their key proves it.

    timeout    who was asked by somebody else just now may take more than a second
    interface  where to ask: a name such as eth0, or an address; else $ZMQKIT_MDNS_INTERFACE, else everywhere

    Raises Error where mDNS is not possible.
    """
    from zmqkit.discovery.browser import Browser  # zeroconf takes its time, and most processes never look for anybody

    limit = seconds(timeout)
    with Browser(interface=interface, patience=False) as browser:
        browser.tried.wait()
        if browser.failure is not None:
            raise browser.failure
        threading.Event().wait(limit)
        return list(browser.found)


def check_announceable(endpoints: Sequence[str]) -> None:
    """Raises Error for a node that nobody could find, whatever it said."""
    if not any(endpoint.startswith("tcp://") for endpoint in endpoints):
        raise Error("a node that is to be announced needs an endpoint that others can reach: give one like tcp://127.0.0.1:5555")


def announced(name: str, fingerprint: str, node: str, endpoints: Sequence[str], interface: str | None) -> Announcement:
    """Announce a node at its real endpoints until that is closed. `fingerprint` "": it asks for no keys."""
    from zmqkit.discovery.announcement import Announcement

    return Announcement(Text(name, fingerprint, node), endpoints, interface)


def is_mdns(endpoint: str) -> bool:
    return endpoint.startswith(SCHEME)


def wanted_name(endpoint: str) -> str | None:
    """Of mdns:NAME; None for mdns: alone, which is every node. Raises Unreachable for what is neither."""
    if not is_mdns(endpoint) or endpoint.startswith(SCHEME + "//"):
        raise Unreachable(endpoint, "that is no address", "give mdns: for every node, or mdns:NAME")
    return endpoint.removeprefix(SCHEME) or None


class Follower:
    """Turns what is found into what to do. It holds a node's place in the client's mind: `come`, then any number of `moved`, then `gone`.

    endpoint  mdns: for every node, mdns:NAME for all nodes of that name
    allowed   whom to connect to at all; asked anew at each `see`
    come      a node is there that was not
    moved     what is known of it changed: an address, a port, its name or key. Whoever has a link to it that lives keeps that link, for
              anybody may say so; the news is for when there is none
    gone      nobody says any more that it is there: the same holds

    Each is called exactly once per change, in the thread that calls `see`.
    """

    def __init__(self, endpoint: str, allowed: Callable[[Found], bool], come: Callable[[Found], None], moved: Callable[[Found], None],
                 gone: Callable[[str], None]) -> None:  # fmt: skip
        name = wanted_name(endpoint)
        self._name = name if name is None else announced_name(name)
        self._allowed, self._come, self._moved, self._gone = allowed, come, moved, gone
        self.nodes: dict[str, Found] = {}  # by id: who has come and not gone

    def see(self, found: Iterable[Found]) -> None:
        """All that is found now."""
        now = {one.node: one for one in found if self._name in (None, one.name) and self._allowed(one)}
        before, self.nodes = self.nodes, now
        for node in before:
            if node not in now:
                self._gone(node)
        for node, one in now.items():
            if node not in before:
                self._come(one)
            elif one != before[node]:
                self._moved(one)
