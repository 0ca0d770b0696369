"""Make a failing seed smaller: leave out kinds of faults, then single faults, then clients, as long as it still fails."""

from __future__ import annotations

from zmqkit.simulator.config import Config
from zmqkit.simulator.world import Fault, World

LEAST = {
    "producers": 1, "workers": 1, "queues": 1, "both": False, "batched": False, "drift": 0.0,
    "callers": 0, "services": 1, "call_batch": 1, "keyed": 0.0, "streams": 0.0, "cancelled": 0.0,
    "publishers": 1, "readers": 1, "topics": 1, "updates_batch": 1, "deletions": 0.0, "ttls": 0.0, "named": 0.0, "take_every": 0.0,
}  # fmt: skip


def fails(seed: int, config: Config, faults: list[Fault] | None = None) -> bool:
    world = World(seed, config)
    world.faults = faults
    try:
        world.run()
    except Exception:
        return True
    return False


def shrink(seed: int, config: Config) -> tuple[Config, list[Fault]]:
    for kind in config.faults:
        smaller = config.changed(faults=tuple(other for other in config.faults if other != kind))
        config = smaller if fails(seed, smaller) else config
    for name, least in LEAST.items():
        smaller = config.changed(**{name: least})
        config = smaller if fails(seed, smaller) else config
    faults = World(seed, config).plan()
    for fault in list(faults):
        fewer = [other for other in faults if other is not fault]
        faults = fewer if fails(seed, config, fewer) else faults
    return config, faults
