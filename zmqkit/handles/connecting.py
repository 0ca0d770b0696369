"""connect: a client of a node, of several, or of somebody else's broker."""

from __future__ import annotations

from collections.abc import Sequence

from zmqkit.errors import Error
from zmqkit.handles.client import Client, chosen
from zmqkit.handles.clone import CloneClient
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.foreign import Foreign
from zmqkit.handles.gateways import is_foreign


def connect(*endpoints: str | None, timeout: Duration | None = 5.0, lazy: bool = False, spread: bool = False) -> Client:
    """A client of the node at that endpoint (else $ZMQKIT_ENDPOINT, else tcp://127.0.0.1:5555).

    Raises Unreachable if no node answers within `timeout` seconds, and at once for what is no address. `lazy` connects at first
    use instead. A link that is lost later is mended for ever; calls wait meanwhile, inside their timeouts.

    Of several endpoints (or one text with commas between) puts and calls go to the first that is up, or (`spread`) round those that are;
    consumers take fairly from all. One that answers is enough to begin. docs/several.md has the rest.

    mdp://HOST:PORT and ppp://HOST:PORT are brokers of 7/MDP and 6/PPP: their services can be called, and ours offered there.
    clone://HOST:PORT is a server of 12/CHP (Clone), the port that of its snapshots: a topic can be followed there, and published into.
    They answer no greeting, so `connect` waits for nothing.
    """
    return made(endpoints, patience(timeout), lazy, spread)


def made(endpoints: Sequence[str | None], timeout: float | None, lazy: bool, spread: bool) -> Client:
    wanted = chosen(endpoints)
    foreign = [endpoint for endpoint in wanted if is_foreign(str(endpoint))]
    if foreign and len(wanted) > 1:
        raise Error(f"{foreign[0]} is somebody else's: connect to it alone")
    if foreign:
        return (CloneClient if foreign[0].startswith("clone:") else Foreign)(foreign[0], lazy)
    return Client(wanted, timeout, lazy, spread)
