"""connect: a client of a node, of several, or of somebody else's broker."""

from __future__ import annotations

from collections.abc import Sequence

from zmqkit.errors import Error
from zmqkit.handles.client import Client, chosen
from zmqkit.handles.clone import CloneClient
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.finding import is_mdns
from zmqkit.handles.foreign import Foreign
from zmqkit.handles.gateways import is_foreign
from zmqkit.security import Keys


def connect(*endpoints: str | None, timeout: Duration | None = 5.0, lazy: bool = False, spread: bool = False,
            keys: str | None = None, mdns_interface: str | None = None) -> Client:  # fmt: skip
    """A client of the node at that endpoint (else $ZMQKIT_ENDPOINT, else tcp://127.0.0.1:5555).

    Raises Unreachable if no node answers within `timeout` seconds, and at once for what is no address. `lazy` connects at first
    use instead. A link that is lost later is mended for ever; calls wait meanwhile, inside their timeouts.

    Of several endpoints (or one text with commas between) puts and calls go to the first that is up, or (`spread`) round those that are;
    consumers take fairly from all. One that answers is enough to begin. docs/several.md has the rest.

    mdns: is every node that mDNS finds and whose key is known (without `keys`: that asks for none), mdns:NAME those of that name; they
    come and go while the client runs, and puts and calls go round. `mdns_interface` is where to look: a name such as eth0, or an address;
    else $ZMQKIT_MDNS_INTERFACE, else everywhere.

    `keys` is a key directory (`zmqkit keys new`): the links are encrypted, this client shows the key in it, and expects of the node the key
    that is known for its endpoint there, or else the same one. Raises KeysError for a directory that cannot be used.

    mdp://HOST:PORT and ppp://HOST:PORT are brokers of 7/MDP and 6/PPP: their services can be called, and ours offered there.
    clone://HOST:PORT is a server of 12/CHP (Clone), the port that of its snapshots: a topic can be followed there, and published into.
    They answer no greeting, so `connect` waits for nothing.
    """
    return made(endpoints, patience(timeout), lazy, spread, keys, mdns_interface)


def made(endpoints: Sequence[str | None], timeout: float | None, lazy: bool, spread: bool, keys: str | None,
         interface: str | None) -> Client:  # fmt: skip
    wanted = chosen(endpoints)
    foreign = [endpoint for endpoint in wanted if is_foreign(str(endpoint))]
    if foreign and len(wanted) > 1:
        raise Error(f"{foreign[0]} is somebody else's: connect to it alone")
    if len(wanted) > 1 and any(is_mdns(endpoint) for endpoint in wanted):
        raise Error("mdns: finds several nodes by itself: connect to it alone")
    if foreign and keys is not None:
        raise Error(f"{foreign[0]} is somebody else's, whose protocol knows no keys: leave keys out there")
    if foreign:
        return (CloneClient if foreign[0].startswith("clone:") else Foreign)(foreign[0], lazy)
    return Client(wanted, timeout, lazy, spread, Keys(keys) if keys is not None else None, interface)
