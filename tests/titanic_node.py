"""A node with Titanic aboard, in a process of its own: ENDPOINT JOURNAL. It says `ready ENDPOINT` and serves until it is killed."""

from __future__ import annotations

import sys
import threading

import zmqkit
from zmqkit.handles.titanic import Titanic


def main(endpoint: str, journal: str) -> None:
    with zmqkit.Node(endpoint, journal=journal) as node, Titanic(node):
        print("ready", node.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
