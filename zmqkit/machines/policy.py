"""What a queue promises its users: retries, leases, limits. Declared by anybody, kept in the journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

SECONDS_MAX = 100 * 366 * 86400.0  # a longer lease or wait could not be told to a client, or would overflow its clock
ON_FULL = ("reject", "block", "drop_oldest", "dead_letter")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds until the next attempt: `initial`, doubling, at most `maximum`; each between half and all of that."""

    initial: float = 1.0
    maximum: float = 600.0

    def delay(self, failed: int, jitter: float) -> float:
        """After the failed-th failure; `jitter` in 0..1 spreads a crowd that failed together."""
        full = min(self.maximum, self.initial * 2.0 ** min(failed - 1, 60))
        return full * (0.5 + 0.5 * jitter)


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Durations in seconds. None: no limit.

    max_attempts  after so many failures a message goes to the dead letters
    backoff       the wait between attempts when a nack names none
    lease         how long a consumer keeps a message without renewing it (it renews by itself)
    on_full       "reject" (QueueFull), "block", "drop_oldest" or "dead_letter" once max_messages or max_bytes is reached;
                  leased messages are never dropped
    grace         a consumer whose link is lost keeps its messages so long after its last heartbeat
    max_run       the longest a lease is renewed
    """

    max_attempts: int = 8
    backoff: Backoff = field(default_factory=Backoff)
    lease: float = 30.0
    max_messages: int | None = None
    max_bytes: int | None = None
    on_full: Literal["reject", "block", "drop_oldest", "dead_letter"] = "reject"
    grace: float = 2.0
    max_run: float | None = None

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise ValueError(f"max_attempts={self.max_attempts!r}: give a whole number of at least 1")
        if self.on_full not in ON_FULL:
            raise ValueError(f"on_full={self.on_full!r}: give one of {', '.join(ON_FULL)}")
        for name in ("lease", "grace"):
            if not _positive(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: give seconds above 0, and at most a hundred years")
        for name in ("max_messages", "max_bytes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}={value!r}: give a whole number of at least 1, or None for no limit")
        if self.max_run is not None and not _positive(self.max_run):
            raise ValueError(f"max_run={self.max_run!r}: give seconds above 0, or None for no limit")
        if not (_positive(self.backoff.initial) and _positive(self.backoff.maximum)):
            raise ValueError(f"backoff={self.backoff!r}: give seconds above 0, and at most a hundred years")

    def to_wire(self) -> dict[str, Any]:
        return {**asdict(self), "backoff": [self.backoff.initial, self.backoff.maximum]}

    @classmethod
    def from_wire(cls, given: dict[str, Any]) -> QueuePolicy:
        """Raises ValueError or TypeError for what is no policy. Fields that are not given take their defaults."""
        known = {name: given[name] for name in (f.name for f in fields(cls)) if name in given}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"this node knows no policy field {unknown[0]!r}")
        if "backoff" in known:
            initial, maximum = known["backoff"]
            known["backoff"] = Backoff(initial, maximum)
        return cls(**known)


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """What a topic keeps. None: no limit.

    durability    "memory": updates are confirmed and told before they are on the disk, also where the node has one; None: as the node
    keep_values   the last value of each key is kept, so that a late joiner gets a snapshot
    max_messages  updates that are kept as history, for those who lag behind or ask for them; whole batches
    max_bytes     the same, in bytes of their bodies
    max_age       the same, in seconds
    """

    durability: Literal["disk", "os", "memory"] | None = None
    keep_values: bool = True
    max_messages: int | None = 100_000
    max_bytes: int | None = None
    max_age: float | None = None

    def __post_init__(self) -> None:
        if self.durability not in (None, "disk", "os", "memory"):
            raise ValueError(f'durability={self.durability!r}: give "disk", "os", "memory", or None for that of the node')
        if type(self.keep_values) is not bool:
            raise ValueError(f"keep_values={self.keep_values!r}: give True or False")
        for name in ("max_messages", "max_bytes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}={value!r}: give a whole number of at least 1, or None for no limit")
        if self.max_age is not None and not _positive(self.max_age):
            raise ValueError(f"max_age={self.max_age!r}: give seconds above 0, or None for no limit")

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_wire(cls, given: dict[str, Any]) -> TopicPolicy:
        """Raises ValueError or TypeError for what is no policy. Fields that are not given take their defaults."""
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"this node knows no policy field {unknown[0]!r}")
        return cls(**given)


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= SECONDS_MAX
