"""The reactor: the one I/O thread, which drives the machines on real sockets, clocks and logs.

A turn: drain the sockets (without waiting, bounded) · run what other threads asked for · tick · for each machine: persist
its records, then send. "Persist, then send" is ordered here and nowhere else: a send whose position is not durable yet is
held in one queue, in issue order, and leaves when the log reports so far. A slow disk stops neither heartbeats nor reads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from logging import getLogger
from math import ceil, inf
from typing import Any

import zmq
from zmq.backend import zmq_poll

from zmqkit import framing, wire
from zmqkit.errors import Closed
from zmqkit.gate import Gate
from zmqkit.host import Host
from zmqkit.journal.log import Log
from zmqkit.machines.node import NodeMachine
from zmqkit.ports import TURN_MESSAGES_MAX, Application, Gateway, GatewayPort, Port, as_sent
from zmqkit.security import Keys, LinkKeys
from zmqkit.sockets import (
    Context,
    Socket,
    Waker,
    close_dealer,
    deliver,
    open_dealer,
    open_router,
    readable,
    receive,
    receive_from,
    receive_from_user,
    send,
)  # fmt: skip

SLEEP_SECONDS_MAX = 60.0
GOODBYE_LINGER_MS = 500
LOCAL = b"\0local"  # begins the routing ids of links inside this process

log = getLogger("zmqkit.reactor")

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # it counts sleep, and never jumps
_START = time.time() - time.clock_gettime(_CLOCK)


def now() -> float:
    """Unix time at the start of the process + the boot-time clock since: never jumps, and records may hold it."""
    return _START + time.clock_gettime(_CLOCK)


class HostFailed(Exception):
    """Not the application whose turn it was is broken, but the node in this reactor."""


class Reactor:
    def __init__(self, name: str = "zmqkit") -> None:
        self.pid = os.getpid()
        self.closed = False
        self._context: Context = zmq.Context()
        self._poller = zmq.Poller()
        self._waker = Waker()
        self._poller.register(self._waker.fd, zmq.POLLIN)
        self._calls: deque[Callable[[float], None]] = deque()
        # To do once, as the last thing before we sleep: what goes to asyncio's loops goes together, and a thread that we wake
        # earlier would meet us at the interpreter's lock.
        self.turn_ends: deque[Callable[[], None]] = deque()
        self._ports: list[Port] = []
        self._host: Host | None = None
        self._router: Socket | None = None
        self._receive = receive_from
        self._gate: Gate | None = None
        self._local: dict[bytes, Port] = {}
        self._mail: dict[Port, None] = {}  # of those: something waits there
        self._heard = False  # the host heard something by one of them, or of its end, since its last turn
        self._links = 0
        self._awake = True
        self._wanted = False
        self._stop_at = inf
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # -- for any thread -----------------------------------------------------------------------------------------------

    def call(self, function: Callable[[float], None]) -> None:
        """Run `function(now)` on the I/O thread, in its next turn. Raises Closed."""
        if self.closed or self.pid != os.getpid():
            raise Closed("this connection is closed, or belongs to the parent process: make a new one")
        self._calls.append(function)
        self.wake()

    def wake(self) -> None:
        """The next turn comes now. Costs nothing while the reactor is awake."""
        self._wanted = True
        if not self._awake:
            self._awake = True
            self._waker.wake()

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """End the loop: what the applications and the host still have to say leaves first, for at most `timeout` seconds."""
        if self.closed or self.pid != os.getpid():
            return
        if not self._thread.is_alive():
            self._finish(None)
            return
        self._stop_at = now() + timeout
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout + 10.0)

    @property
    def on_io_thread(self) -> bool:
        return threading.current_thread() is self._thread

    # -- before start, or on the I/O thread ---------------------------------------------------------------------------

    def attach(self, application: Application, endpoint: str | None, keys: LinkKeys | None = None) -> Port:
        self._ports.append(port := Port(application, endpoint, keys))
        return port

    def attach_gateway(self, gateway: Gateway, opened: Callable[[Context], list[tuple[Socket, str]]]) -> tuple[GatewayPort, list[str]]:
        """Give it doors for foreign peers. Returns where they really are, too. Raises AddressInUse, Error."""
        port = self.attach_outward(gateway)
        doors = opened(self._context)
        for socket, _ in doors:
            port.doors.sockets.append(socket)
            self._listen(socket, True)
        return port, [endpoint for _, endpoint in doors]

    def _listen(self, socket: Socket, wanted: bool) -> None:
        if wanted:
            self._poller.register(socket, zmq.POLLIN)
        else:
            self._poller.unregister(socket)

    def attach_outward(self, gateway: Gateway) -> GatewayPort:
        """One that connects to a foreign broker, by `reopen`."""
        port = GatewayPort(gateway, self._listen)
        self._ports.append(port)
        gateway.machine.start(now())
        return port

    def reopen(self, port: GatewayPort, opened: Callable[[Context], tuple[list[Socket], Socket]]) -> None:
        """Leave the foreign peer, if it is there, and come back by these sockets and their monitor. On the I/O thread."""
        port.doors.close()
        port.doors.sockets, port.doors.monitor = opened(self._context)
        for socket in (*port.doors.sockets, port.doors.monitor):
            self._listen(socket, True)

    def detach(self, port: Port) -> None:
        """This application ends: what a gateway said last still goes out. On the I/O thread, by `call`."""
        if port in self._ports:
            self._put_away(port, None, 0)

    def host(self, machine: NodeMachine, log: Log, endpoints: list[str], keys: Keys | None = None) -> list[str]:
        """Serve `machine` on `log` at `endpoints`; by `keys`, if given. Returns the real ones. Raises AddressInUse, JournalError."""
        self._host = Host(machine, log, self._deliver, self.wake)
        self._host.recover(now())
        if not endpoints:
            return []
        if keys is not None:
            self._gate, self._receive = Gate(self._context, keys, machine.core), receive_from_user
            self._listen(self._gate.socket, True)
        self._router, bound = open_router(self._context, endpoints, keys.pair if keys else None)
        self._listen(self._router, True)
        if self._gate is not None:
            self._gate.prove(bound[0], now)
        return bound

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: Exception | None = None
        try:
            while self._stop_at == inf or now() < self._stop_at or not self._drained():
                self._turn(self._sleep())
                if self._host is not None and self._host.failed is not None:
                    raise self._host.failed
                if self._stop_at < inf and (self._drained() or now() > self._stop_at):
                    break
            self._end_turn()
        except Exception as caught:
            error = caught
            log.error("the reactor ends: %s", caught, exc_info=self._host is None or self._host.failed is None)
        self._finish(error)

    def _drained(self) -> bool:
        """Nothing waits for the disk, and nobody's call is left."""
        return (self._host is None or self._host.quiet) and not self._calls

    def _sleep(self) -> dict[Any, int]:
        """Until something is to be done; the sockets that can be read."""
        deadline = self._stop_at
        for port in self._ports:
            if port.deadline < deadline:
                deadline = port.deadline
        if self._host is not None:
            deadline = min(deadline, self._host.machine.deadline, self._gate.look_at if self._gate else inf)
        if self.turn_ends:
            self._end_turn()
        self._awake = False
        seconds = 0.0 if self._wanted or self._calls or self._mail else min(deadline - now(), SLEEP_SECONDS_MAX)
        heard = dict(zmq_poll(self._poller.sockets, ceil(1000 * seconds) if seconds > 0 else 0))
        self._awake = True
        if self._waker.fd in heard:
            self._waker.clear()
        return heard

    def _turn(self, heard: dict[Any, int]) -> None:
        host, moment = self._host, now()
        if host is not None:
            host.settle(moment)
        if self._gate is not None:
            self._gate.turn(self._gate.socket in heard, moment)
        drained = self._drain_router(moment) if self._router in heard else True
        everyone, self._wanted = self._wanted, False  # somebody called or woke us: any application may have work
        while self._calls:
            self._calls.popleft()(moment)
        for port in list(self._ports):
            self._serve(port, heard, moment, everyone)
        if host is not None:
            host.turn(moment, drained)
            self._heard = False
            for port in list(self._mail):
                self._serve(port, {}, moment, False)
            if self._heard:
                host.turn(moment, drained)

    def _serve(self, port: Port, heard: dict[Any, int], moment: float, anyway: bool) -> None:
        """Its part of a turn, if it has one."""
        try:
            speaks = port.socket in heard or port.monitor in heard or bool(port.inbox)
            speaks |= isinstance(port, GatewayPort) and port.doors.drain(heard, moment)
            if speaks:
                moment = self._drain_port(port, heard, moment)
            if speaks or anyway or port.deadline <= moment:
                self._flush_port(port, moment)
        except HostFailed as failed:
            assert failed.__cause__ is not None
            raise failed.__cause__ from None
        except Exception as error:
            self._expel(port, error)

    def _expel(self, port: Port, error: Exception) -> None:
        """This application is broken: it ends. Whoever else is here goes on."""
        log.error("%s ends: %s", type(port.application).__name__, error, exc_info=True)
        self._put_away(port, error, 0)
        if not self._ports and self._host is None:
            self._stop_at = now()

    def _end_turn(self) -> None:
        while self.turn_ends:
            self.turn_ends.popleft()()

    # -- the host's sockets ---------------------------------------------------------------------------------------------

    def _drain_router(self, moment: float) -> bool:
        """Read what is there, up to a bound. False: there may be more."""
        router, host = self._router, self._host
        assert router is not None and host is not None
        for _ in range(TURN_MESSAGES_MAX):
            peer, frames, user = self._receive(router)
            if peer.startswith(LOCAL):
                host.machine.core.drop("forged-id", peer, "a routing id of this process, from outside")
            else:
                host.machine.receive(peer, frames, moment, user)
            if not readable(router):
                return True
        return False

    def _deliver(self, peer: bytes, command: wire.Command) -> str | None:
        """Send to a peer of the host; the reason if it did not leave."""
        port = self._local.get(peer)
        if port is not None:
            port.inbox.append(as_sent(command))
            self._mail[port] = None
            return None
        if self._router is None:
            return "the peer is gone"
        return deliver(self._router, [peer, *framing.encode(command)])

    # -- client links ---------------------------------------------------------------------------------------------------

    def _drain_port(self, port: Port, heard: dict[Any, int], moment: float) -> float:
        """Returns the moment at which the last message came."""
        machine = port.application.machine
        if port.inbox:
            for _ in range(min(len(port.inbox), TURN_MESSAGES_MAX)):
                machine.hear(port.inbox.popleft(), moment)
            if not port.inbox:
                self._mail.pop(port, None)
        reason = port.reasons.latest(port.monitor) if port.monitor is not None and port.monitor in heard else None
        # What came before the end of a connection counts, though the poll may have told of its end alone.
        if port.socket is not None and (port.socket in heard or (reason is not None and readable(port.socket))):
            for _ in range(TURN_MESSAGES_MAX):
                frames, moment = receive(port.socket), now()  # a ttl counts from here, and where threads abound a turn may last
                machine.receive(frames, moment)
                if not readable(port.socket):
                    break
        if reason is not None:
            machine.lost(moment, reason)
        return moment

    def _flush_port(self, port: Port, moment: float) -> None:
        application = port.application
        application.pump(moment)
        output = application.machine.take()
        if output.connect is not None:
            self._connect(port, moment)
        for command in output.sends:
            if not self._send(port, command, moment):
                application.machine.lost(moment, "the node does not read")
                break
        if output.close:
            self._disconnect(port)  # the node has answered the goodbye, or will not
        if output.events:
            application.handle(output.events, moment)
        port.deadline = application.machine.deadline

    def _connect(self, port: Port, moment: float) -> None:
        self._disconnect(port)
        if port.endpoint is None:
            self._links += 1
            port.peer = LOCAL + self._links.to_bytes(4, "little")
            self._local[port.peer] = port
            return
        try:
            port.socket, port.monitor = open_dealer(self._context, port.endpoint, port.keys)
        except Exception as error:
            port.application.machine.lost(moment, str(error))
            return
        self._poller.register(port.socket, zmq.POLLIN)
        self._poller.register(port.monitor, zmq.POLLIN)

    def _disconnect(self, port: Port, linger_ms: int = 0) -> None:
        if port.socket is not None and port.monitor is not None:
            self._poller.unregister(port.socket)
            self._poller.unregister(port.monitor)
            close_dealer(port.socket, port.monitor, linger_ms)
        if port.peer:
            del self._local[port.peer]
            if self._host is not None:
                self._host.machine.lost(port.peer, now())
                self._heard = True
        port.socket = port.monitor = None
        port.peer = b""
        port.inbox.clear()
        self._mail.pop(port, None)

    def _send(self, port: Port, command: wire.Command, moment: float) -> bool:
        if port.peer and self._host is not None:
            try:
                self._host.machine.hear(port.peer, as_sent(command), moment)
                self._heard = True
            except Exception as error:
                raise HostFailed from error
            return True
        if port.socket is None:
            return True  # the link was just given up; the machine knows
        try:
            send(port.socket, framing.encode(command))
        except zmq.Again:
            return False
        return True

    # -- the end --------------------------------------------------------------------------------------------------------

    def _finish(self, error: Exception | None) -> None:
        self.closed = True
        for port in list(self._ports):
            self._put_away(port, error, GOODBYE_LINGER_MS if port.application.machine.up else 0)
        if self._host is not None:
            self._host.close(now())
        for socket in (self._router, self._gate.socket if self._gate else None):
            if socket is not None:
                socket.close()
        self._waker.close()
        self._context.term()
        self._end_turn()

    def _put_away(self, port: Port, error: Exception | None, linger_ms: int) -> None:
        self._ports.remove(port)
        try:
            port.application.closed(error)
        except Exception:
            log.exception("while closing")
        self._disconnect(port, linger_ms)
        if isinstance(port, GatewayPort):
            port.doors.close(GOODBYE_LINGER_MS)
