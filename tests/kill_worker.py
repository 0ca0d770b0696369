"""A worker for the kill rounds, in a process of its own: ENDPOINT LOG.

It writes one line before it begins a message and one when it is done with it, before its ack, each with one system call, so that
SIGKILL leaves an honest record: `start SEQ TOKEN BODY`, `done SEQ TOKEN BODY`.
"""

from __future__ import annotations

import os
import sys

import zmqkit


def main(endpoint: str, log: str) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with zmqkit.connect(endpoint, lazy=True) as mq:
        for delivery in mq.queue("work").consume(on_stale=lambda _: None):
            words = f"{delivery.seq} {delivery.token} {delivery.body}\n"
            os.write(fd, b"start " + words.encode())
            os.write(fd, b"done " + words.encode())  # before the ack: a kill between the two must not hide a message that is settled
            delivery.ack()


if __name__ == "__main__":
    main(*sys.argv[1:])
