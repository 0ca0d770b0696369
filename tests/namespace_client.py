"""What one does on another machine: find the node NAME by INTERFACE and use it. A line tells of each step; two wait for one on stdin."""

from __future__ import annotations

import queue
import sys

import zmqkit
from zmqkit.discovery.browser import Browser


def find(interface: str, name: str) -> str:
    endpoints: queue.SimpleQueue[str] = queue.SimpleQueue()

    def look(found: tuple[zmqkit.Found, ...]) -> None:
        for one in found:
            if one.name == name:
                endpoints.put(one.endpoint)

    with Browser(look, interface=interface):
        return endpoints.get()


def lose(mq: zmqkit.Client) -> str:
    while True:
        try:
            mq.queue("q").put("lost?", timeout=0.5)
        except zmqkit.Timeout as error:
            if "no node at" in str(error):  # not just no answer: its link is given up
                return "lost"


def main(interface: str, name: str) -> None:
    endpoint = find(interface, name)
    print("found", endpoint, flush=True)
    with zmqkit.connect(endpoint) as mq:
        print("put", mq.queue("q").put("first").seq, flush=True)
        sys.stdin.readline()
        print(lose(mq), flush=True)
        sys.stdin.readline()
        mq.queue("q").put("last", timeout=60.0)
        while (d := mq.queue("q").get(timeout=10.0)) is not None and d.body != "last":
            d.ack()
        print("recovered", find(interface, name), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
