"""A node that announces itself, in a process of its own: ENDPOINT JOURNAL NAME LIFE.

It says `ready ENDPOINT` and serves until it is killed.
"""

from __future__ import annotations

import sys
import threading

import zmqkit
from zmqkit.discovery import announcement


def main(endpoint: str, journal: str, name: str, life: str) -> None:
    announcement.HOST_SECONDS = int(life)
    with zmqkit.Node(endpoint, journal=journal, name=name, announce=True) as node:
        print("ready", node.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
