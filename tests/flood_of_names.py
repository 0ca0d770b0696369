"""One honest node and ten thousand strangers, on a loopback interface where nobody else is. Says `known` when all is as it should be."""

from __future__ import annotations

import os
from itertools import count

from handle_world import eventually
from mdns_world import LOOPBACK, Voice, Watch, new_node, records, stranger

from zmqkit.cli.processes import peak_memory_bytes
from zmqkit.discovery.announcement import Announcement
from zmqkit.discovery.found import SERVICE, Text, label
from zmqkit.discovery.table import ENTRIES_MAX

FLOOD, STEP = 10_000, 500  # more at a step than there is room for
MEMORY_BYTES_MAX = 64 * 1024 * 1024


def main() -> None:
    honest = Text("honest", "fp", new_node())
    with Watch() as watch, Voice() as voice:
        announcement = Announcement(honest, ["tcp://127.0.0.1:4711"], interface=LOOPBACK)
        watch.until(lambda found: honest.node in found)
        before = peak_memory_bytes(os.getpid())
        for first in range(0, FLOOD, STEP):
            refused = watch.browser.dropped.get("no room", 0)
            for number in range(first, first + STEP):
                voice.say(stranger(SERVICE, number, seconds=10))
            # The kernel throws away what nobody reads in time; so what has come is read before there is more.
            eventually(lambda refused=refused: watch.browser.dropped.get("no room", 0) > refused)
        assert len(watch.browser.found) <= ENTRIES_MAX
        assert honest.node in {one.node for one in watch.browser.found}
        assert peak_memory_bytes(os.getpid()) - before < MEMORY_BYTES_MAX
        lies = (records(SERVICE, label(honest.name, honest.node), 0, bytes([number])) for number in count(1))
        eventually(lambda: voice.say(next(lies)) or "absurd port" in watch.browser.dropped)  # then all that came before has been read
        announcement.close()
        watch.until(lambda found: honest.node not in found)
    print("known")


if __name__ == "__main__":
    main()
