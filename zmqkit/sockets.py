"""Every ZeroMQ socket zmqkit opens, with the options of each and their reasons. Nobody else sets an option.

The options exist because of what libzmq does by default: it drops in silence, reconnects without telling, waits for ever
at exit, and takes a frame of any size.
"""

from __future__ import annotations

import os
import re
import resource
import threading
from collections.abc import Iterable, Sequence

import zmq
from zmq.backend import Socket as PlainSocket, zmq_poll

from zmqkit.errors import AddressInUse, Error, Unreachable
from zmqkit.monitors import IN_DOUBT
from zmqkit.parcel import Buffer
from zmqkit.rights import ANYBODY
from zmqkit.security import LinkKeys, Pair, zap
from zmqkit.wire import FRAME_BYTES_MAX

LIBZMQ_MIN = 4, 3, 4  # before it a stranger's bytes could overflow buffers, also with CURVE (CVE-2019-13132, CVE-2020-36400)


def check_libzmq(version: tuple[int, ...]) -> None:
    """Raises ImportError for one that lets strangers in by their bytes alone."""
    if version < LIBZMQ_MIN:
        have, need = (".".join(map(str, numbers)) for numbers in (version, LIBZMQ_MIN))
        raise ImportError(f"libzmq {have} has known holes: zmqkit needs {need} or newer (pip install -U pyzmq brings one)")


check_libzmq(zmq.zmq_version_info())

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

FOREIGN_HWM_MESSAGES = 64  # each of them may be 1 MiB or more: what is not read yet waits at us, where its bytes are counted
CLONE_TRIES = 20  # to find three free ports in a row
STREAM_STALL_MS = 30_000
CLONE_HWM_MESSAGES = 100_000  # more than that behind, and we begin anew
DOES_NOT_READ = "the peer does not read"
ROUTING_ID_BYTES = 16  # of chance: nobody guesses them
HWM_MESSAGES = 4096  # more than any window lets be in flight: so reaching it means that the peer does not read
ROUTER_LINGER_MS = 500  # at the end the last confirms still leave
DESCRIPTORS = 65_536  # that a process with a node may have, as far as its hard limit allows: most begin with 1,024
NO_USER = "?"  # who said it is not known, where everybody has to show a key: nobody has that name


def _set_limits(socket: Socket) -> None:
    socket.sndhwm = socket.rcvhwm = HWM_MESSAGES
    socket.maxmsgsize = FRAME_BYTES_MAX  # a larger frame ends the link: without a limit one header reserves gigabytes
    socket.handshake_ivl = 3000  # the default lets a mute stranger hold a descriptor for 30 s
    socket.sndtimeo = 0  # nothing may block the one I/O thread
    socket.backlog = 1024
    socket.linger = 0


def _set_common(socket: Socket) -> None:
    _set_limits(socket)
    # A half-open connection (cable, sleep, firewall) ends when what was said on it is not received for so long; the kernel alone would
    # take minutes. Whoever waits for anything here says something at least once a second.
    socket.tcp_maxrt = 1500


def open_router(context: Context, endpoints: Iterable[str], keys: Pair | None = None) -> tuple[Socket, list[str]]:
    """A bound ROUTER and the endpoints it really has (port 0 asks for a free one). Raises AddressInUse, Error.

    With `keys` everybody has to show one, and the gate has to be open already: without it, nobody comes in.
    """
    _raise_descriptors()
    socket = context.socket(zmq.ROUTER)
    _set_common(socket)
    if keys is not None:
        socket.curve_server = True
        socket.curve_secretkey = keys.secret.encode()
        # CURVE alone encrypts, for anybody with any key. Only a domain makes libzmq ask who that is, and only this second option makes
        # no answer a no.
        socket.zap_domain = zap.DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.linger = ROUTER_LINGER_MS
    return _bound(socket, endpoints)


def open_gate(context: Context) -> Socket:
    """Where libzmq asks, of every connection to a ROUTER of this context that was opened with keys, whether its key may come in."""
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.sndtimeo = 0
    return _bound(socket, [zap.ENDPOINT])[0]


def _raise_descriptors() -> None:
    """Out of descriptors, libzmq's listener spins and lets nobody in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _bound(socket: Socket, endpoints: Iterable[str]) -> tuple[Socket, list[str]]:
    socket.router_mandatory = True  # a peer that is gone is an error (EHOSTUNREACH), not a silent drop
    socket.router_handover = False  # nobody takes over another's routing id
    return socket, [_bind(socket, endpoint) for endpoint in endpoints]


def _bind(socket: Socket, endpoint: str) -> str:
    """Where it really is."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            raise AddressInUse(endpoint) from None
        todo = "give an address of this machine, like tcp://127.0.0.1:5555"
        raise Error(f"cannot listen at {endpoint}: {error.strerror}; {todo}") from None
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def open_foreign_routers(context: Context, endpoints: Iterable[str]) -> list[tuple[Socket, str]]:
    """A door for each endpoint, and where it really is. Raises as `open_router`."""
    opened: list[tuple[Socket, str]] = []
    try:
        for endpoint in endpoints:
            opened.append(open_foreign_router(context, endpoint))
    except Error:
        _close_all(opened)
        raise
    return opened


def open_clone_doors(context: Context, endpoint: str) -> list[tuple[Socket, str]]:
    """A ROUTER there, and connections of any kind at the next two ports. Raises as `open_router`."""
    host, _, port = endpoint.rpartition(":")
    for tries_left in reversed(range(CLONE_TRIES)):
        opened = [open_foreign_router(context, endpoint)]
        first = int(opened[0][1].rpartition(":")[2])
        try:
            for number in (first + 1, first + 2):
                opened.append(open_stream(context, f"{host}:{number}"))
            return opened
        except Error:
            _close_all(opened)
            if port != "0" or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _close_all(opened: Iterable[tuple[Socket, str]]) -> None:
    for socket, _ in opened:
        socket.close(linger=0)


def open_stream(context: Context, endpoint: str) -> tuple[Socket, str]:
    """TCP without ZeroMQ on it, for peers to whom we speak ZMTP by hand. Raises as `open_router`."""
    socket = context.socket(zmq.STREAM)
    _set_limits(socket)
    socket.sndhwm = socket.rcvhwm = FOREIGN_HWM_MESSAGES
    socket.linger = ROUTER_LINGER_MS
    socket.tcp_maxrt = STREAM_STALL_MS  # nothing but that ends the connection of a peer whose buffers are full
    real = _bind(socket, endpoint)
    return socket, real


def open_foreign_router(context: Context, endpoint: str) -> tuple[Socket, str]:
    """For peers of another protocol, with its own heartbeats: old libraries take those of ZMTP for an error. Raises as `open_router`."""
    socket = context.socket(zmq.ROUTER)
    _set_limits(socket)
    socket.sndhwm = socket.rcvhwm = FOREIGN_HWM_MESSAGES
    socket.linger = ROUTER_LINGER_MS
    socket, bound = _bound(socket, [endpoint])
    return socket, bound[0]


def open_foreign_dealer(context: Context, endpoint: str, routing_id: bytes) -> tuple[Socket, Socket]:
    """The same, on its way to a broker of another protocol; and its monitor. `routing_id` b"": ZeroMQ chooses."""
    socket = context.socket(zmq.DEALER)
    _set_limits(socket)
    if routing_id:
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
    return _connected(socket, endpoint)


def open_foreign_link(context: Context, endpoint: str, routing_id: bytes) -> tuple[list[Socket], Socket]:
    """That alone."""
    dealer, monitor = open_foreign_dealer(context, endpoint, routing_id)
    return [dealer], monitor


def open_clone_follower(context: Context, address: str, prefixes: Iterable[bytes]) -> tuple[list[Socket], Socket]:
    """On their way to a Clone server: a DEALER for snapshots, a SUB for updates, and the monitor of the SUB."""
    dealer, monitor = open_foreign_dealer(context, address, b"")
    dealer.disable_monitor()
    monitor.close(linger=0)
    updates = context.socket(zmq.SUB)
    _set_limits(updates)
    updates.rcvhwm = CLONE_HWM_MESSAGES
    for prefix in prefixes:
        updates.subscribe(prefix)
    updates, monitor = _connected(updates, next_port(address, 1))
    return [dealer, updates], monitor


def open_clone_setter(context: Context, address: str, publishes: bool) -> tuple[list[Socket], Socket]:
    """On its way to a Clone server's collector, which is a PULL, or a SUB for who `publishes`; and its monitor."""
    setter = context.socket(zmq.XPUB if publishes else zmq.PUSH)  # an XPUB learns when the collector has subscribed
    _set_limits(setter)
    if publishes:
        setter.xpub_nodrop = True  # what finds no room is to wait here, not to vanish
    setter, monitor = _connected(setter, next_port(address, 2), immediate=True)
    return [setter], monitor


def next_port(address: str, step: int) -> str:
    head, _, port = address.rpartition(":")
    return f"{head}:{int(port) + step}"


_TCP = re.compile(r"tcp://(\[[^\[\]\s]+\]|[^\[\]\s/@*:]+):([0-9]{1,5})")


def check_address(endpoint: str) -> None:
    """Could there be a node? Asked before a link is tried again and again. Raises Unreachable."""
    tcp, path = _TCP.fullmatch(endpoint), endpoint.removeprefix("ipc://")
    if tcp is not None and 1 <= int(tcp[2]) <= 65535 and endpoint.isascii():
        return
    if path != endpoint and 1 <= len(os.fsencode(path)) <= zmq.IPC_PATH_MAX_LEN and "\0" not in path:
        return
    raise Unreachable(endpoint, "that is no address", "give one like tcp://127.0.0.1:5555 or ipc:///run/zmqkit")


def open_dealer(context: Context, endpoint: str, keys: LinkKeys | None = None, events: int = 0) -> tuple[Socket, Socket]:
    """A DEALER on its way to `endpoint`, and the monitor that tells of doubts, and of more `events`. Raises Error for no address."""
    socket = context.socket(zmq.DEALER)
    _set_common(socket)
    # Of its own choice a ROUTER counts. Whoever guessed the number of a link that has ended without a word could come by it, and hear
    # what the node still tells that one.
    socket.setsockopt(zmq.ROUTING_ID, b"Z" + os.urandom(ROUTING_ID_BYTES))
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.pair.public.encode(), keys.pair.secret.encode()
        socket.curve_serverkey = keys.server.encode()
    # A process that is stopped, while its kernel goes on receiving: ZMTP's heartbeat finds it, at both ends, though one asks. Often would
    # cost too much: a thousand idle peers at two a second, both ways, take a tenth of a core.
    socket.heartbeat_ivl, socket.heartbeat_timeout, socket.heartbeat_ttl = 2500, 7500, 7500
    return _connected(socket, endpoint, events=events)


def _connected(socket: Socket, endpoint: str, immediate: bool = False, events: int = 0) -> tuple[Socket, Socket]:
    # LINGER 0 stays: in doubt nothing of a link may leave any more, the next link says it again.
    # A link is one connection: a DEALER that reconnects alone sends on, without the lost part. Long before this hour is over the monitor
    # has told of the end, and the socket is closed. Not -1: then libzmq throws away what came before that end and was not read yet.
    socket.reconnect_ivl = 3_600_000
    socket.immediate = immediate  # HELLO may wait in the one pipe there is; there is no other peer it could belong to
    monitor = socket.get_monitor_socket(sum(IN_DOUBT) | events)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        close_dealer(socket, monitor)
        raise Error(f"{endpoint!r} is no address: {error.strerror}; give one like tcp://127.0.0.1:5555 or ipc:///run/zmqkit") from None
    return socket, monitor


def close_dealer(socket: Socket, monitor: Socket, linger_ms: int = 0) -> None:
    socket.disable_monitor()
    monitor.close(linger=0)
    socket.close(linger=linger_ms)


# pyzmq's flags are enums whose arithmetic in Python costs more than the call; its multipart helpers do it per frame.
_POLLIN, _POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_send = PlainSocket.send  # pyzmq's own adds what drafts of ZeroMQ need
_FRAMES_MAX = 8  # of one message that are kept: no command has more, so what has is refused by its number
FOREIGN_FRAMES_MAX = 1000  # of a message in another protocol


def writable(socket: Socket) -> bool:
    """A message would leave, or wait in a pipe to somebody."""
    return bool(zmq_poll([(socket, _POLLOUT)], 0))


def readable(socket: Socket) -> bool:
    """A whole message is there. Asking costs half of what being refused one costs."""
    return bool(zmq_poll([(socket, _POLLIN)], 0))  # its option EVENTS says the same, but looks its number up in an enum first


def receive_from(router: Socket) -> tuple[bytes, list[bytes], str]:
    """Who sent the next message, its frames, and ANYBODY as its user. Raises zmq.Again when there is none."""
    peer = router.recv(_NOBLOCK)
    return peer, receive(router), ANYBODY  # a ROUTER gives no peer without a message


def receive_from_user(router: Socket) -> tuple[bytes, list[bytes], str]:
    """The same where everybody has to show a key: the user is the key of the connection by which this message came.

    A peer chooses its routing id, which so proves nothing; the user's id is written on every message by libzmq, as the gate has said it.
    """
    frame = router.recv(_NOBLOCK, False)
    try:
        user = str(frame.get("User-Id"))
    except zmq.ZMQError:
        user = NO_USER
    return frame.bytes, receive(router), user


def receive(socket: Socket, frames_max: int = _FRAMES_MAX) -> list[bytes]:
    """The next message's frames, no more than so many. Raises zmq.Again when there is none."""
    frame = socket.recv(_NOBLOCK, False)  # a Frame knows whether there are more; asking the socket would cost more than that
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(_NOBLOCK, False)
        if len(frames) < frames_max:
            frames.append(frame.bytes)
    return frames


def send(socket: Socket, frames: Sequence[Buffer]) -> None:
    """One message, whole or not at all. Raises zmq.Again: the peer does not read; EHOSTUNREACH: it is gone."""
    for frame in frames[:-1]:
        _send(socket, frame, _MORE)
    _send(socket, frames[-1], _NOBLOCK)


def deliver(socket: Socket, frames: Sequence[Buffer]) -> str | None:
    """Send by a ROUTER or DEALER; the reason if it did not leave."""
    try:
        send(socket, frames)
    except zmq.Again:
        return DOES_NOT_READ
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return "the peer is gone"
        raise
    return None


class Waker:
    """Wakes the I/O thread out of its poll: one descriptor, readable once somebody has called.

    A thread that is about to wake us may be late, and find us closed: then its eight bytes must not go to whoever has our number now.
    The lock can be taken twice by one thread, for a signal handler may wake us too.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open = True
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def wake(self) -> None:
        with self._lock:
            if self._open:
                try:
                    os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
                except BlockingIOError:
                    return  # it is awake already

    def clear(self) -> None:
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        with self._lock:
            self._open = False
            for fd in {self.fd, self._write_fd}:
                os.close(fd)
