"""Late joiners on zmqkit: snapshot and updates come on one link, in one order.

`python patterns/late_joiner/mended.py [JOINS]`. Looks at both that an application may follow: the state that zmqkit keeps, and a plain
fold of the events.
"""

from __future__ import annotations

from functools import partial
from multiprocessing.connection import Connection

from workload import begun, paced, run, truth, update

import zmqkit

UPDATES_SEEN = 10  # after the snapshot; then the joiner is compared


def serve(ready: Connection) -> None:
    """A node that publishes."""
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        topic = node.topic("map")
        ready.send(node.endpoint)
        for number in paced():
            key, value = update(number)
            topic.delete_soon(key) if value is None else topic.publish_soon(key, value)


def join(endpoint: str) -> tuple[bool, bool, int]:
    """A client that has just joined, as `run` wants it."""
    fold: dict[str, int] = {}
    unbroken, last, seen = True, 0, 0
    with zmqkit.connect(endpoint) as mq, mq.topic("map").subscribe() as sub:
        for event in sub:
            fold.pop(event.key, None)
            if not event.deleted:
                fold[event.key] = event.value
            if not event.from_snapshot:
                unbroken &= event.gap is not None or not last or event.seq == last + 1
                seen += 1
            last = event.seq
            if seen == UPDATES_SEEN:
                break
    # The link has ended: what `state` and `seq` say changes no more.
    return sub.state.copy() == truth(sub.seq) and fold == truth(last), unbroken, last


if __name__ == "__main__":
    run(partial(join, begun(serve)))
