"""`python -m zmqkit.simulator --seed N`: run seeds, and show how to run a failing one again."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter

from zmqkit.simulator.clock import Scheduler
from zmqkit.simulator.config import FAULTS, TOPIC_FAULTS, Config
from zmqkit.simulator.invariants import Violation
from zmqkit.simulator.shrink import shrink
from zmqkit.simulator.world import Outcome, run_seed


def parser() -> argparse.ArgumentParser:
    about = "Look for a schedule that loses, doubles or stalls a message, a call or an update."
    parser = argparse.ArgumentParser(prog="python -m zmqkit.simulator", description=about)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", metavar="A-B", default="1-100", help="run all from A to B (default: 1-100)")
    parser.add_argument("--topics", action="store_true", help="worlds of topics; without, of queues and calls")
    parser.add_argument("--trace", action="store_true", help="print every event of it")
    parser.add_argument(
        "--without", metavar="FAULT", action="append", default=[], choices=sorted(FAULTS | TOPIC_FAULTS), help="leave a kind of fault out"
    )
    parser.add_argument("--shrink", action="store_true", help="of a failing seed: find fewer faults that still make it fail")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first failure")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    first, _, last = (str(options.seed) if options.seed is not None else options.seeds).partition("-")
    hits, counts, events, failed = Counter[str](), Counter[str](), 0, list[int]()
    seeds = range(int(first), int(last or first) + 1)
    for seed in seeds:
        outcome = run(seed, options)
        hits, counts = hits + outcome.world.scheduler.hits, counts + outcome.world.oracle.counts
        events += outcome.world.scheduler.events
        if outcome.failure is not None:
            failed.append(seed)
            tell(outcome, options)
            if not options.keep_going:
                break
    print(f"{len(seeds)} seeds, {events:,} events; failed: {failed or 'none'}")
    print("faults: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(hits.items())))
    print("seen: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items())))
    return 1 if failed else 0


def run(seed: int, options: argparse.Namespace) -> Outcome:
    config = (Config.draw_topics if options.topics else Config.draw)(Scheduler(seed))
    config.faults = tuple(kind for kind in config.faults if kind not in options.without)
    return run_seed(seed, config, print if options.trace else None)


def tell(outcome: Outcome, options: argparse.Namespace) -> None:
    failure, world = outcome.failure, outcome.world
    if not options.trace:
        print("\n".join(list(world.scheduler.tail)[-60:]))
    if not isinstance(failure, Violation):
        traceback.print_exception(failure)
    without = " --topics" * options.topics + "".join(f" --without {kind!r}" for kind in options.without)
    print(f"\nseed {outcome.seed} failed after {world.scheduler.now / 1e6:.3f} s: {failure}")
    print(f"config: {world.config}")
    print(f"again:  {sys.executable} -m zmqkit.simulator --seed {outcome.seed}{without} --trace")
    if options.shrink:
        config, faults = shrink(outcome.seed, world.config)
        print(f"fewest: {config}\n        {faults}")


if __name__ == "__main__":
    sys.exit(main())
