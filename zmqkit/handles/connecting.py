"""connect: a client of a node, of several, or of somebody else's broker."""

from __future__ import annotations

from zmqkit.handles.client import Client, chosen
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.foreign import Foreign
from zmqkit.handles.gateways import is_foreign


def connect(*endpoints: str | None, timeout: Duration | None = 5.0, lazy: bool = False, spread: bool = False) -> Client:
    """A client of the node at that endpoint (else $ZMQKIT_ENDPOINT, else tcp://127.0.0.1:5555).

    Raises Unreachable if no node answers within `timeout` seconds, and at once for what is no address. `lazy` connects at first
    use instead. A link that is lost later is mended for ever; calls wait meanwhile, inside their timeouts.

    Of several endpoints calls go to the first that is up, or (`spread`) to each in turn; one that answers is enough to begin.

    mdp://HOST:PORT and ppp://HOST:PORT are brokers of 7/MDP and 6/PPP: their services can be called, and ours offered there. They
    answer no greeting, so `connect` waits for nothing.
    """
    wanted = chosen(endpoints)
    if len(wanted) == 1 and is_foreign(str(wanted[0])):
        return Foreign(wanted[0])
    return Client(wanted, patience(timeout), lazy, spread)
