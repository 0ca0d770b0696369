"""Where a node may listen, and what to do about a node that does not let us in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from zmqkit.errors import Error, Insecure, Unreachable
from zmqkit.monitors import NO_KEY, NO_ZEROMQ, NOT_TRUSTED, OTHER_KEY, WANTS_KEYS, WANTS_NONE
from zmqkit.security import LinkKeys

_LOCAL_TRANSPORTS = ("ipc", "inproc")
_AMONG_US = "bind to 127.0.0.1 or ipc://PATH, or say insecure=True (--insecure) if everybody in that network may put and take messages"


def refuse_strangers(endpoints: Iterable[str], foreign: Iterable[str], keys: bool) -> None:
    """Of a node, and of its gateways, whose peers know nothing of keys. Raises Insecure for what other machines can reach, unguarded."""
    endpoints, foreign = list(endpoints), list(foreign)
    for endpoint in (*endpoints, *foreign):
        if endpoint.startswith("tcp://") and not re.fullmatch(r"tcp://[^\s,]+:([0-9]+|\*)", endpoint):
            raise Error(f"{endpoint!r} is no address to listen at: give one like tcp://127.0.0.1:5555, and of several each by itself")
    for endpoint in endpoints:
        if not keys and not is_local(endpoint):
            raise Insecure(
                f"{endpoint} can be reached from other machines, and nobody would have to show a key there: "
                f"give the node keys (keys=DIR, --keys DIR; `zmqkit keys new` makes them), {_AMONG_US}"
            )
    for endpoint in foreign:
        if not is_local(endpoint):
            raise Insecure(f"{endpoint} can be reached from other machines, and peers of that protocol show no keys: {_AMONG_US}")


def is_local(endpoint: str) -> bool:
    """Only this machine reaches it. A wildcard, an interface or a host's name: from elsewhere, for all we know. What is no address is
    reached by nobody."""
    transport, found, address = endpoint.partition("://")
    if not found or transport in _LOCAL_TRANSPORTS:
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return transport == "tcp" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def unreachable(endpoint: str | None, reason: str, keys: LinkKeys | None) -> Unreachable:
    """With what to do about that reason."""
    where = endpoint or "this process"
    todo = ""
    if reason == NOT_TRUSTED and keys is not None:
        todo = f"run `zmqkit keys trust '{keys.pair.public}' --all` on the node's side, or with the roles that it needs instead of --all"
    elif reason == WANTS_KEYS:
        todo = "connect with keys=DIR (--keys DIR)"
    elif reason == WANTS_NONE:
        todo = "start the node there with --keys DIR, or connect without keys if you trust everybody in between"
    elif reason in (OTHER_KEY, NO_KEY):
        known = f"run `zmqkit keys trust 'KEY' --node {where}` here, with the key that `zmqkit keys show` prints there"
        todo = f"it may be an impostor; if it is right, {known}"
    elif reason == NO_ZEROMQ:
        todo = f"`zmqkit probe {where}` says which; connect with keys=DIR (--keys DIR), or check the address"
    return Unreachable(where, reason, todo)
