"""The simulator: the second driver of the very same machines, with one seed, virtual time, and faults of every kind.

`python -m zmqkit.simulator --seeds 1-100` looks for a schedule that loses, doubles or stalls a message.
docs/simulator.md says what is simulated and what is checked.
"""
