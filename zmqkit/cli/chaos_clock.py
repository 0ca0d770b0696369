"""A process whose wall clock jumps: SIGUSR1 sets it a day ahead, SIGUSR2 a day back. `python -m zmqkit.cli.chaos_clock COMMAND…` is
`zmqkit COMMAND…` with such a clock.

Nobody may set the machine's clock without being root, so `time.time` and `time.time_ns` are replaced; the clocks that a set clock
leaves alone (monotonic, boot time) stay as they are.
"""

from __future__ import annotations

import os
import signal
import time

DAY_SECONDS = 86400
JUMPED = "clock jumped"


def let_jump() -> None:
    """Each jump is told on stderr once it has happened."""
    right, right_ns, ahead = time.time, time.time_ns, 0

    def jump(number: int, frame: object) -> None:
        nonlocal ahead
        ahead += DAY_SECONDS if number == signal.SIGUSR1 else -DAY_SECONDS
        os.write(2, f"{JUMPED}, it is {ahead:+} s from the right time\n".encode())

    vars(time).update(time=lambda: right() + ahead, time_ns=lambda: right_ns() + ahead * 1_000_000_000)
    signal.signal(signal.SIGUSR1, jump)
    signal.signal(signal.SIGUSR2, jump)


if __name__ == "__main__":
    from zmqkit.cli.main import main

    let_jump()
    main()
