"""What all textbook peers share: a thread with a context of its own, an end by signal, notes for the test, and a death that is seen."""

from __future__ import annotations

import queue
import threading
from time import monotonic
from types import TracebackType
from typing import Any

import zmq

Socket = zmq.Socket[bytes]
LOOPBACK = "tcp://127.0.0.1:0"


class Stopped(Exception):
    """The test has seen enough."""


class Peer:
    """`loop` is the example's main loop. Its sockets come from `open` and `bind`; it waits in `wait` only, so that it can be stopped."""

    def __init__(self) -> None:
        self.name = type(self).__name__
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.context: zmq.Context[Socket] = zmq.Context()
        self.died: Exception | None = None
        self._mourned = False
        self._sockets: list[Socket] = []
        self._notes: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._signal, self._stop_signal = self.context.socket(zmq.PAIR), self.context.socket(zmq.PAIR)
        self._signal.bind("inproc://stop")
        self._stop_signal.connect("inproc://stop")

    # -- for the example ----------------------------------------------------------------------------------------------

    def loop(self) -> None:
        raise NotImplementedError

    def open(self, kind: int, endpoint: str, identity: bytes = b"") -> Socket:
        socket = self.context.socket(kind)
        socket.linger = 0
        if identity:
            socket.routing_id = identity
        socket.connect(endpoint)
        self._sockets.append(socket)
        return socket

    def bind(self, endpoint: str) -> tuple[Socket, str]:
        """A ROUTER, and where it really listens."""
        socket = self.context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.bind(endpoint)
        self._sockets.append(socket)
        return socket, socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def wait(self, seconds: float, *sockets: Socket) -> list[Socket]:
        """Which of them can be read, within `seconds`. With none it is a sleep."""
        poller = zmq.Poller()
        for socket in (self._stop_signal, *sockets):
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(max(0.0, seconds) * 1000))
        if self._stop_signal in ready:
            raise Stopped
        return [socket for socket in sockets if socket in ready]

    def note(self, *what: Any) -> None:
        self._notes.put(what)

    # -- for the test -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.loop()
        except Stopped:
            pass
        except Exception as error:  # a textbook peer may die of what it is sent: the test asks
            self.died = error
        finally:
            for socket in self._sockets:
                socket.close(linger=0)

    def seen(self, *what: Any, within: float = 5.0) -> tuple[Any, ...]:
        """Wait for the next note that begins so; the earlier ones are passed over."""
        end = monotonic() + within
        while True:
            try:
                note = self._notes.get(timeout=max(0.0, end - monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.name} did not see {what} within {within:g} s") from None
            if note[: len(what)] == what:
                return note

    def death(self, within: float = 5.0) -> Exception:
        """Wait until it dies; of what?"""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"{self.name} still lives after {within:g} s"
        assert self.died is not None, f"{self.name} was stopped, it did not die"
        self._mourned = True
        return self.died

    def stop(self) -> None:
        """It vanishes: no goodbye, nothing lingers."""
        if self._thread.is_alive():
            self._signal.send(b"")
            self._thread.join(10)
            assert not self._thread.is_alive(), f"{self.name} does not stop: does its handler wait for something?"
        self.context.destroy(linger=0)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if self.died is not None and error is None and not self._mourned:
            raise self.died  # nobody expected that


class Raw:
    """A socket in the hand of the test, to say anything: DEALER by default, or a ROUTER that binds."""

    def __init__(self, endpoint: str = LOOPBACK, kind: int = zmq.DEALER, identity: bytes = b"") -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.linger = 0
        self.prepare()
        if identity:
            self.socket.routing_id = identity
        if kind == zmq.ROUTER:
            self.socket.bind(endpoint)
        else:
            self.socket.connect(endpoint)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def prepare(self) -> None:
        """More options, before it binds or connects."""

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive(self, within: float = 5.0) -> list[bytes]:
        frames = self.heard(within)
        assert frames is not None, f"nothing came within {within:g} s"
        return frames

    def heard(self, within: float) -> list[bytes] | None:
        """The next message, or None when that time has passed."""
        return self.socket.recv_multipart() if self.socket.poll(within * 1000) else None

    def close(self) -> None:
        self.context.destroy(linger=0)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
