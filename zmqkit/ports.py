"""What hangs on a reactor: applications on their links, and gateways with doors for foreign peers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from logging import getLogger
from math import inf
from typing import Any, Protocol

from zmqkit import framing, wire
from zmqkit.gateways.clients import FRAME_BYTES, size_of
from zmqkit.machines.link import ClientMachine
from zmqkit.monitors import NEVER_UP, Reasons, doubt
from zmqkit.security import LinkKeys
from zmqkit.sockets import DOES_NOT_READ, FOREIGN_FRAMES_MAX, Socket, close_dealer, deliver, readable, receive, writable

TURN_MESSAGES_MAX = 256  # read from one socket in one turn; then the others, the clock and the log have theirs
# Of a foreign door less: who floods one door would be heard a hundred times between a worker's answer and its next request.
DOOR_MESSAGES_MAX = 32
DOOR_BYTES_MAX = 256 * 1024
UNREAD_BYTES_MAX = 16 * 1024 * 1024  # what waits for a foreign peer that does not read; libzmq and the kernel hold some more
ALL_UNREAD_BYTES_MAX = 256 * 1024 * 1024  # of one gateway's peers
RETRY_SECONDS, RETRY_SECONDS_MAX = 0.001, 0.2  # until it is tried again whether they read; later and later while none does
RETRY_PEERS_MAX = 100  # at once; then the next ones

log = getLogger("zmqkit.gateway")


class Application(Protocol):
    """What lives on a client's machine. All is called on the I/O thread; an exception ends this application, and nobody else."""

    machine: ClientMachine

    def pump(self, now: float) -> None:
        """Let the machine tick, and feed it, before its output is taken."""

    def handle(self, events: list[Any], now: float) -> None: ...

    def closed(self, error: Exception | None) -> None:
        """It ends, with the reactor or by an exception of its own: fail all that waits."""


class Gateway(Application, Protocol):
    """A gateway: an application that also speaks with foreign peers."""

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None: ...

    def drop(self, reason: str, messages: int = 1) -> None:
        """Count so many that have not left."""

    def gone(self, door: int, peer: bytes, now: float) -> None:
        """What waited for that peer cannot leave any more."""

    def cut(self, was_up: bool, now: float) -> None:
        """The connection to its broker is gone, or never was."""


class Unread:
    """What waits for a peer that does not read."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages: deque[tuple[Sequence[bytes], int]] = deque()  # and their sizes
        self.bytes = 0


class Drops:
    """What foreign peers said in vain, counted by reason: here, and by the machine that hears them. A new reason is in the log, once."""

    def __init__(self, name: str, by_machine: Callable[[], dict[str, int]]) -> None:
        self._name, self._by_machine = name, by_machine
        self._here: dict[str, int] = Counter()  # before the machine saw it
        self._reasons, self._reported = 0, set[str]()  # how many there were, here and there; those that are in the log

    def add(self, reason: str, messages: int = 1) -> None:
        if messages:
            self._here[reason.replace(" ", "-")] += messages

    @property
    def all(self) -> dict[str, int]:
        return {**self._by_machine(), **self._here}

    def report(self) -> None:
        reasons = len(self._by_machine()) + len(self._here)
        if reasons == self._reasons:
            return
        self._reasons = reasons
        for reason in self.all.keys() - self._reported:
            self._reported.add(reason)
            log.info("%s: dropped, and counted from now on: %s", self._name, reason)


class Doors:
    """The foreign sockets of a gateway: such as are bound and know their peers; or some on a connection, whose only peer is b"".

    A ROUTER never tells that a peer reads again, so what waits for one is tried from time to time.
    """

    def __init__(self, gateway: Gateway, listen: Callable[[Socket, bool], None]) -> None:
        self.gateway = gateway
        self._listen = listen  # be told when that socket can be read, or no more
        self._deaf: dict[int, None] = {}
        self._unread: dict[tuple[int, bytes], Unread] = {}
        self._unread_bytes = 0
        self._retry_seconds = RETRY_SECONDS
        self.retry_at = inf
        self.sockets: list[Socket] = []
        self.monitor: Socket | None = None  # of the last one, where they are on their way to somebody
        self.connected = False  # it was heard, and not cut since

    def drain(self, heard: dict[Any, int], moment: float) -> bool:
        """Hand on what is there, up to a bound. Was there anything?"""
        spoke = self.retry_at <= moment and self._retry(moment)
        for door, socket in enumerate(self.sockets):
            if socket not in heard:
                continue
            spoke = self.connected = True
            size = 0
            for _ in range(DOOR_MESSAGES_MAX):
                frames = receive(socket, FOREIGN_FRAMES_MAX + 2)  # with a routing id, and one more, so that it is known for too long
                size += sum(map(len, frames))
                peer = frames.pop(0) if self.monitor is None else b""
                self.gateway.receive(door, peer, frames, moment)
                if size > DOOR_BYTES_MAX or not readable(socket):
                    break
        if self.monitor is not None and self.monitor in heard:
            spoke, reason = True, doubt(self.monitor)
            if reason is not None:
                self.connected = False
                self.gateway.cut(reason != NEVER_UP, moment)
        return spoke

    def pause(self, door: int, paused: bool) -> None:
        """Read nothing there meanwhile, so that its peers have to wait."""
        if paused != (door in self._deaf):
            self._listen(self.sockets[door], not paused)
            if paused:
                self._deaf[door] = None
            else:
                del self._deaf[door]

    def writable(self) -> bool:
        """Of a connection: something can be sent by it."""
        return bool(self.sockets) and writable(self.sockets[0])

    def unread(self, door: int, peer: bytes) -> int:
        """Bytes that wait for this peer to read."""
        unread = self._unread.get((door, peer))
        return unread.bytes if unread is not None else 0

    def close(self, linger_ms: int = 0) -> None:
        """What was said last may still go out for so long, if there is a connection to go by."""
        for door in list(self._deaf):
            self.pause(door, False)
        for socket in [*self.sockets, *([self.monitor] if self.monitor is not None else [])]:
            self._listen(socket, False)
        for socket in self.sockets:
            if self.monitor is not None and socket is self.sockets[-1]:
                close_dealer(socket, self.monitor, linger_ms if self.connected else 0)
            else:
                socket.close()
        self.sockets, self.monitor, self.connected = [], None, False
        self._unread.clear()
        self._unread_bytes, self.retry_at = 0, inf

    def deliver(self, door: int, peer: bytes, frames: Sequence[bytes]) -> str | None:
        """Send, or keep for a while; the reason if neither can be."""
        if self.monitor is not None:
            return deliver(self.sockets[door], frames)
        place = door, peer
        unread = self._unread.get(place)
        if unread is None:
            reason = deliver(self.sockets[door], [peer, *frames])
            if reason != DOES_NOT_READ:
                return reason
            unread = self._unread[place] = Unread()
            self.retry_at, self._retry_seconds = -inf, RETRY_SECONDS  # most just have not had the time yet
        size = size_of(frames) + FRAME_BYTES  # and the message itself
        unread.messages.append((frames, size))
        unread.bytes += size
        self._unread_bytes += size
        if unread.bytes <= UNREAD_BYTES_MAX and self._unread_bytes <= ALL_UNREAD_BYTES_MAX:
            return None
        return self._give_up(place, unread, DOES_NOT_READ, untold=len(unread.messages) - 1)

    def _give_up(self, place: tuple[int, bytes], unread: Unread, reason: str, untold: int) -> str:
        del self._unread[place]
        self._unread_bytes -= unread.bytes
        self.gateway.drop(reason, untold)
        return reason

    def _send_unread(self, place: tuple[int, bytes], unread: Unread) -> str | None:
        """What can be sent now; the reason if something is left."""
        door, peer = place
        while unread.messages:
            frames, size = unread.messages[0]
            reason = deliver(self.sockets[door], [peer, *frames])
            if reason is not None:
                return reason
            unread.messages.popleft()
            unread.bytes -= size
            self._unread_bytes -= size
        del self._unread[place]
        return None

    def _retry(self, moment: float) -> bool:
        """Has anybody gone, or read all?"""
        before, peers = self._unread_bytes, len(self._unread)
        for place in list(islice(self._unread, RETRY_PEERS_MAX)):
            unread = self._unread[place]
            reason = self._send_unread(place, unread)
            if reason == DOES_NOT_READ:
                del self._unread[place]
                self._unread[place] = unread  # behind the others
            elif reason is not None:
                self._give_up(place, unread, reason, untold=len(unread.messages))
                self.gateway.gone(*place, moment)
        self._retry_seconds = RETRY_SECONDS if self._unread_bytes < before else min(2 * self._retry_seconds, RETRY_SECONDS_MAX)
        self.retry_at = moment + self._retry_seconds if self._unread else inf
        return len(self._unread) < peers


class Port:
    """One application's link: a DEALER to an endpoint, or (endpoint None) a pair of deques to the host in this reactor."""

    def __init__(self, application: Application, endpoint: str | None, keys: LinkKeys | None = None) -> None:
        self.application = application
        self.endpoint, self.keys = endpoint, keys
        self.reasons = Reasons(keys is not None)
        self.socket: Socket | None = None
        self.monitor: Socket | None = None
        self.peer = b""  # of a local link: its routing id at the host
        self.inbox: deque[wire.Command] = deque()  # of a local link
        self.deadline = -inf  # of its machine, when it was last asked


class GatewayPort(Port):
    """A gateway's link to the host in this reactor, and its doors."""

    def __init__(self, gateway: Gateway, listen: Callable[[Socket, bool], None]) -> None:
        self.doors = Doors(gateway, listen)
        super().__init__(gateway, None)

    @property
    def deadline(self) -> float:
        return min(self._deadline, self.doors.retry_at)

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._deadline = deadline


# What an application had checked when it said it, and nobody changes any more. All else (reasons, questions, answers) is read as if it had
# come by a socket: half a letter becomes a whole one, and no list is shared.
_PASSED_ON = (
    wire.Put, wire.Confirm, wire.Lease, wire.Done, wire.Answer, wire.Ready, wire.Echo,
    wire.Call, wire.Reply, wire.Part, wire.More, wire.Cancel,
)  # fmt: skip


def as_sent(command: wire.Command) -> wire.Command:
    """A command on a link inside the process."""
    return command if isinstance(command, _PASSED_ON) else framing.decode(framing.encode(command))
