"""Many simulated worlds at once: which of them failed, and what happened in them; and the same one in other processes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from zmqkit.simulator.world import Outcome

Run = Callable[[int], Outcome]


def _one(run: Run, seed: int) -> tuple[int, str, Counter[str]]:
    outcome = run(seed)
    seen = outcome.world.scheduler.hits + outcome.world.oracle.counts
    return seed, f"{type(outcome.failure).__name__}: {outcome.failure}" if outcome.failure else "", seen


def failures_and_hits(run: Run, seeds: Iterable[int], option: str = "") -> tuple[list[str], Counter[str]]:
    """`run` must be known by its name in its module; `option` is what the command line needs to run it again."""
    failed, hits = list[str](), Counter[str]()
    with ProcessPoolExecutor(2) as pool:
        for seed, text, found in pool.map(partial(_one, run), seeds, chunksize=4):
            hits += found
            if text:
                failed.append(f"{text}\n    again: python -m zmqkit.simulator {option}--seed {seed} --trace")
    return failed, hits


def digests(program: str) -> set[str]:
    """What it prints, in processes with different seeds for hashes."""
    found = set()
    for hash_seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    return found
