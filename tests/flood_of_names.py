"""One honest node and ten thousand strangers, on a loopback interface where nobody else is. Says `known` when all is as it should be."""

from __future__ import annotations

import os

from handle_world import eventually
from mdns_world import LOOPBACK, Voice, Watch, new_node, records, stranger

from zmqkit.cli.processes import peak_memory_bytes
from zmqkit.discovery.announcement import Announcement
from zmqkit.discovery.found import SERVICE, Text
from zmqkit.discovery.table import ENTRIES_MAX

FLOOD = 10_000
MEMORY_BYTES_MAX = 64 * 1024 * 1024


def main() -> None:
    honest = Text("honest", "fp", new_node())
    with Watch() as watch, Voice() as voice:
        announcement = Announcement(honest, ["tcp://127.0.0.1:4711"], interface=LOOPBACK)
        watch.until(lambda found: honest.node in found)
        before = peak_memory_bytes(os.getpid())
        for number in range(FLOOD):
            voice.say(stranger(SERVICE, number, seconds=10))
        eventually(lambda: watch.browser.dropped.get("no room", 0) > FLOOD // 4)  # the kernel may have dropped some, too
        assert len(watch.browser.found) <= ENTRIES_MAX
        assert honest.node in {one.node for one in watch.browser.found}
        assert peak_memory_bytes(os.getpid()) - before < MEMORY_BYTES_MAX
        odd = records(SERVICE, "odd", 0, b"")
        eventually(lambda: voice.say(odd) or "absurd port" in watch.browser.dropped)  # all that came before has been read
        announcement.close()
        watch.until(lambda found: honest.node not in found)
    print("known")


if __name__ == "__main__":
    main()
