"""A node's machine on its host, with a log in memory whose disk syncs when a test says so. Microseconds per step.

Frames go through the real wire in both directions, and after every step the machine's counts are checked against its
containers. Times are seconds; the clock moves only by `wait` and `sleep`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from zmqkit import framing, records, wire
from zmqkit.host import Host
from zmqkit.journal.log import Entry, Item
from zmqkit.machines.node import NodeMachine
from zmqkit.parcel import Parcel
from zmqkit.rights import ANYBODY, Access
from zmqkit.simulator.invariants import check_node

NODE = b"N" * 16
C = TypeVar("C")


def name(letter: str) -> bytes:
    """A client id."""
    return letter.encode() * 16


class ManualLog:
    """Durable as far as the test says. `keep` of a log that was left behind is what a crash leaves."""

    node, durability = NODE, "disk"
    full = wants_checkpoint = False

    def __init__(
        self, kept: Sequence[tuple[int, bytes, bool]] = (), epoch: int = 1, snapshot: Sequence[tuple[int, bytes]] = (), start: int = 0
    ) -> None:
        self.items, self.epoch, self.snapshot, self.from_ = list(kept), epoch, snapshot, start
        self.durable = self.last
        self.released: set[int] = set()
        self.waited = False

    @property
    def last(self) -> int:
        return len(self.items)

    def start(self, on_durable: Any, on_failed: Any) -> None:
        pass

    def replay(self) -> Iterator[Entry]:
        for kind, payload in self.snapshot:
            yield Entry(0, kind, memoryview(payload))
        for position, (kind, payload, _) in enumerate(self.items, 1):
            if position > self.from_:
                yield Entry(position, kind, memoryview(payload))

    def retain(self, positions: Iterable[int]) -> None:
        wanted = set(positions)
        assert all(self.items[position - 1][2] for position in wanted), "a body is wanted that is none"
        self.released = {position for position, item in enumerate(self.items, 1) if item[2]} - wanted

    def append(self, items: Sequence[Item], waited: bool) -> int:
        self.items += [(item.kind, b"".join(item.chunks), item.body) for item in items]
        self.waited |= waited
        return self.last

    def read(self, position: int) -> memoryview:
        assert position not in self.released, f"body {position} was released"
        return memoryview(self.items[position - 1][1])

    def release(self, positions: Iterable[int]) -> None:
        for position in positions:
            assert self.items[position - 1][2] and position not in self.released, f"released twice, or no body: {position}"
            self.released.add(position)

    def checkpoint(self, items: Sequence[Item]) -> None:
        raise AssertionError("not asked for")

    def stragglers(self) -> None:
        return None

    def close(self) -> None:
        self.durable = self.last

    def records(self) -> list[records.Record]:
        found = [records.decode(kind, payload) for kind, payload, _ in self.items]
        return [record for record in found if record is not None]


class Bench:
    """One node. `say` is a frame that arrives, `hear` takes what was sent to a peer."""

    def __init__(self, log: ManualLog | None = None, now: float = 1000.0, jitter: float = 0.0, access: Access | None = None) -> None:
        self.now, self.access = now, access or Access()
        self.users: dict[bytes, str] = {}  # by peer, of those who are not anybody
        self.log = log or ManualLog()
        self.machine = NodeMachine(NODE, self.log.epoch, name="bench", durability="disk", jitter=lambda: jitter, access=self.access)
        self.host = Host(self.machine, self.log, self._deliver, lambda: None)
        self.sent: dict[bytes, list[wire.Command]] = {}
        self.ended: list[tuple[int, int, int, str]] = []  # token, first, count, cause
        self.gone: set[bytes] = set()  # sends to these fail
        self.auto_sync = self.checked = True
        self.asked = 9000
        take = self.machine.take

        def spy() -> Any:
            output = take()
            self.ended += [(e.token, e.first, e.count, e.cause) for e in output.events if hasattr(e, "cause")]
            return output

        self.machine.take = spy  # type: ignore[method-assign]
        self.host.recover(now)
        self.check()

    def check(self) -> None:
        if self.checked:
            check_node(self.machine)

    def _deliver(self, peer: bytes, command: wire.Command) -> str | None:
        if peer in self.gone:
            return "unreachable"
        self.sent.setdefault(peer, []).append(framing.decode(framing.encode(command)))
        return None

    # -- time and disk --------------------------------------------------------------------------------------------------

    def turn(self, drained: bool = True) -> None:
        if self.auto_sync:
            self.log.durable = self.log.last
        self.host.turn(self.now, drained)
        if self.auto_sync and self.log.durable < self.log.last:
            self.sync()
        self.check()

    def sync(self, position: int | None = None) -> None:
        """The disk has caught up (so far)."""
        self.log.durable = self.log.last if position is None else position
        self.host.turn(self.now)
        while position is None and self.log.durable < self.log.last and self.auto_sync:
            self.log.durable = self.log.last
            self.host.turn(self.now)
        self.check()

    def sleep(self, seconds: float) -> None:
        """The node does not run meanwhile."""
        self.now += seconds

    def wait(self, seconds: float) -> None:
        """The node runs, and wakes up when its machine wants to."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, max(self.now + 0.001, self.machine.deadline))
            self.turn()

    # -- the peers ------------------------------------------------------------------------------------------------------

    def say(self, peer: bytes, *commands: wire.Command, turn: bool = True) -> None:
        for command in commands:
            frames = [bytes(frame) for frame in framing.encode(command)]
            self.machine.receive(peer, frames, self.now, self.users.get(peer, ANYBODY))
            self.check()
        if turn:
            self.turn()

    def hear(self, peer: bytes, kind: type[C]) -> list[C]:
        """What was sent to this peer of that kind, since the last time."""
        heard = self.sent.get(peer, [])
        self.sent[peer] = [command for command in heard if not isinstance(command, kind)]
        return [command for command in heard if isinstance(command, kind)]

    def order(self, peer: bytes) -> list[str]:
        return [type(command).__name__.upper() for command in self.sent.get(peer, [])]

    def hello(self, peer: bytes, client: bytes, link: int = 1, **more: Any) -> None:
        self.say(peer, wire.Hello([1], client, link, b"", 0), **more)

    def put(self, peer: bytes, first: int, count: int = 1, base: int | None = None, queue: str = "q", size: int = 1, **more: Any) -> None:
        parcel = Parcel.of([str(first + i).encode().ljust(size, b".") for i in range(count)])
        self.say(peer, wire.Put(queue, first, count, first if base is None else base, parcel), **more)

    def ready(
        self, peer: bytes, window: int, beat: int = 1, seen: int = 0, held: Sequence[tuple[int, int]] = (),
        queue: str = "q", lease: float = 0.0, **more: Any,
    ) -> None:  # fmt: skip
        listed = [wire.Held(token, messages, 0.0) for token, messages in held]
        self.say(peer, wire.Ready(beat, seen, [wire.Window(queue, window, lease)], 0, listed), **more)

    def done(self, peer: bytes, token: int, offset: int = 0, count: int = 1, wait: bool = True, **more: Any) -> None:
        self.say(peer, wire.Done(wait, [(token, offset, count)]), **more)

    def back(self, peer: bytes, token: int, offset: int = 0, count: int = 1, kind: int = 0, delay: float = 0.0, **more: Any) -> None:
        self.say(peer, wire.Back(token, offset, count, kind, delay, "boom"), **more)

    def ask(self, peer: bytes, number: int, verb: str, base: int | None = None, **arguments: Any) -> Any:
        self.say(peer, wire.Ask(number, base or number, verb, arguments))
        told = self.hear(peer, wire.Told)
        return told[-1].result if told else None

    def declare(self, peer: bytes, queue: str = "q", **policy: Any) -> None:
        self.asked += 1
        self.say(peer, wire.Ask(self.asked, self.asked, "declare", {"queue": queue, "policy": policy}))
        told = self.hear(peer, wire.Told)
        assert "policy" in told[-1].result, told

    # -- shorthands -----------------------------------------------------------------------------------------------------

    def connect(self, letter: str, window: int | None = None, link: int = 1, **more: Any) -> bytes:
        """A client with a link (its routing id is returned), and with a window into "q" if one is given."""
        peer = f"{letter}{link}".encode()
        self.hello(peer, name(letter), link)
        if window is not None:
            self.ready(peer, window, **more)
        return peer

    def one_lease(self, peer: bytes) -> wire.Lease:
        leases = self.hear(peer, wire.Lease)
        assert len(leases) == 1, leases
        return leases[0]

    def verdicts(self, peer: bytes) -> list[tuple[int, int, int, str]]:
        answers = self.hear(peer, wire.Answer)
        return [(token, offset, count, wire.Verdict(verdict).name) for answer in answers for token, offset, count, verdict in answer.ranges]

    def info(self, queue: str = "q") -> dict[str, Any]:
        q = self.machine.core.queues[queue]
        counts = {state: sum(count for _, count, _, _ in q.runs(state)) for state in ("ready", "leased", "delayed", "returning", "dead")}
        return {state: count for state, count in counts.items() if count}

    # -- restarts -------------------------------------------------------------------------------------------------------

    def crash(self, kept: int | None = None, down: float = 0.1) -> Bench:
        """The node dies; the log keeps what is durable (or the first `kept` records); another process starts on it."""
        kept = self.log.durable if kept is None else kept
        return Bench(ManualLog(self.log.items[:kept], self.log.epoch + 1), self.now + down, access=self.access)

    def snapshot(self) -> list[tuple[int, bytes]]:
        return [(kind, b"".join(chunks)) for kind, chunks, _ in map(records.encode, self.machine.snapshot())]

    def restart_from_checkpoint(self, down: float = 0.1) -> Bench:
        """A clean checkpoint at the end of the log, and nothing replayed but that."""
        log = ManualLog(self.log.items, self.log.epoch + 1, self.snapshot(), self.log.last)
        return Bench(log, self.now + down, access=self.access)
