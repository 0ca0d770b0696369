"""Rights: what a user may do here, to which names, and how much of it. Pure values: `security` reads them from files, machines ask.

Rule 1  What no grant covers is refused.
Rule 2  A user is a CURVE key, in Z85: what a peer calls itself counts for nothing.
Rule 3  Rights are asked when a command comes, by the user of its link: a reload holds for links that are up, and takes back what
        was given under rights that are gone.
Rule 4  Where nobody has to show a key there is one user, ANYBODY, who may do everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from math import inf
from typing import NamedTuple

ANYBODY = ""  # the user of every link where no keys are asked for, and of links inside the process


class Role(StrEnum):
    PUBLISH = "publish"  # put messages into queues, updates into topics
    CONSUME = "consume"  # take messages, settle them, look at a queue
    CALL = "call"
    SERVE = "serve"
    SUBSCRIBE = "subscribe"
    ADMIN = "admin"  # declare, purge, pause, delete, redrive, bind


class Grant(NamedTuple):
    role: Role
    names: str  # a glob: `orders.*`


class Limits(NamedTuple):
    """What one user may have at a time, over all its links."""

    connections: float = inf  # clients with a link
    in_flight: float = inf  # messages and calls leased to it, and calls of its own
    bytes: float = inf  # a second, published
    queues: float = inf  # and topics, that came into being by it
    subscriptions: float = inf


class Rights:
    """`name` is for people: logs, listings, `zmqkit.current().user`."""

    __slots__ = ("_known", "free", "grants", "limits", "name")

    def __init__(self, name: str, grants: tuple[Grant, ...], limits: Limits = Limits()) -> None:  # noqa: B008 - a value
        self.name, self.grants, self.limits = name, grants, limits
        self.free = limits == Limits() and all(Grant(role, "*") in grants for role in Role)  # whoever may do all need not be asked
        self._known: dict[tuple[Role, str], bool] = {}

    def may(self, role: Role, name: str) -> bool:
        known = self._known.get((role, name))
        if known is None:
            known = any(grant.role is role and fnmatchcase(name, grant.names) for grant in self.grants)
            if len(self._known) < KNOWN_MAX:
                self._known[role, name] = known
        return known

    def sees(self, name: str) -> bool:
        """In listings: what it has any role on."""
        return any(fnmatchcase(name, grant.names) for grant in self.grants)


KNOWN_MAX = 1000  # answers of one user's that are remembered: names come from outside
EVERYTHING = Rights("", tuple(Grant(role, "*") for role in Role))


class Access:
    """Who may connect at all, and with what rights. `users` is replaced as a whole when the files change; the node's machine notices
    at its next command or tick.

    ANYBODY belongs there also where keys are asked for: it is the user of links inside the process, and no peer's."""

    def __init__(self, users: Mapping[str, Rights] | None = None) -> None:
        self.users: Mapping[str, Rights] = {ANYBODY: EVERYTHING} if users is None else users

    def of(self, user: str) -> Rights | None:
        """None: a stranger."""
        return self.users.get(user)
