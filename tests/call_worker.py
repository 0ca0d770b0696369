"""A worker for the timing of calls, in a process of its own: ENDPOINT LOG.

Its service "hold" writes one line, `begun ATTEMPT PID`. A first attempt is held until the process is killed; a later one answers
with its pid.
"""

from __future__ import annotations

import os
import sys
import threading

import zmqkit


def main(endpoint: str, log: str) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with zmqkit.connect(endpoint, timeout=30.0) as mq:

        @mq.service("hold")
        def hold(body: object) -> int:
            attempt = zmqkit.current().attempt
            os.write(fd, f"begun {attempt} {os.getpid()}\n".encode())
            if attempt == 1:
                threading.Event().wait(60.0)
            return os.getpid()

        mq.serve(threads=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
