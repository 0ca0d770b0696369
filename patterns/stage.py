"""The stage of the catalogue: processes that may die on it, a link that comes up late, and the table at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PATIENCE_SECONDS = 60.0  # for what must happen; a busy machine takes its time
PROCESSES = get_context("forkserver")  # clean children, also while our own threads run
PROCESSES.set_forkserver_preload(["zmq", "zmqkit"])


class Told(NamedTuple):
    """What came of one half: how many were sent, of these how many came to nothing, effects beyond the first, seconds of the slowest."""

    sent: int
    lost: int
    doubled: int
    slowest: float

    @property
    def slowest_text(self) -> str:
        return f"{self.slowest:.2f} s" if self.lost < self.sent else "-"


def told(sent: int, took: dict[int, float], effects: Iterable[int] = ()) -> Told:
    """`took`: seconds by number, of those that came to an end. `effects`: the number of each effect that anybody had."""
    effects = list(effects)
    return Told(sent, sent - len(took), len(effects) - len(set(effects)), max(took.values(), default=0.0))


Half = Callable[["Stage"], Told]


class Actor:
    """A process that plays one role, and what it says."""

    def __init__(self, role: Callable[..., None], *arguments: Any) -> None:
        self.said, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=_play, args=(role, theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self) -> Any:
        """The next word. Raises EOFError when it has died and all is heard, TimeoutError when it says nothing."""
        if not self.said.poll(PATIENCE_SECONDS):
            raise TimeoutError("it says nothing")
        return self.said.recv()

    def rest(self) -> Iterator[Any]:
        """What it has said and nobody has heard yet."""
        with contextlib.suppress(EOFError):
            while self.said.poll():
                yield self.said.recv()

    def kill(self) -> None:
        """SIGKILL: no handler runs, no buffer is flushed, no goodbye is said."""
        self.process.kill()
        self.wait()

    def wait(self) -> None:
        """Until it has died."""
        self.process.join(PATIENCE_SECONDS)
        assert self.process.exitcode is not None, "it should have died"


def _play(role: Callable[..., None], say: Connection, *arguments: Any) -> None:
    try:
        role(say, *arguments)
    except Exception as error:
        print(f"{role.__name__} ended: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


class Stage:
    """Who plays here, and an end for all of them."""

    def __init__(self) -> None:
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def start(self, role: Callable[..., None], *arguments: Any) -> Actor:
        """`role(say, *arguments)` in a process of its own; it speaks by `say.send(word)`."""
        actor = Actor(role, *arguments)
        self._ends.callback(actor.kill)
        return actor

    def late_link(self, endpoint: str, seconds: float) -> str:
        """Another endpoint for the same: whoever connects there is connected so much later."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._ends.callback(listener.close)
        self._ends.callback(listener.shutdown, socket.SHUT_RDWR)  # first: it wakes `accept`
        threading.Thread(target=_accept, args=(listener, urlsplit(endpoint), seconds), daemon=True).start()
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def words(*actors: Actor) -> Iterator[Any]:
    """What any of them says, as it comes. Raises TimeoutError when none says anything."""
    by_pipe = {actor.said: actor for actor in actors}
    while True:
        ready = wait(list(by_pipe), PATIENCE_SECONDS)
        if not ready:
            raise TimeoutError("nobody says anything")
        for pipe in ready:
            yield by_pipe[pipe].hear()


def until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < end, "it should have happened"
        time.sleep(0.01)


def die() -> None:
    """By kill -9, here and now."""
    os.kill(os.getpid(), signal.SIGKILL)


def play(what: str, bare: Half, mended: Half) -> list[Told]:
    """Both halves, and the table. `what`: what is counted."""
    print(f"{what:<12}{'sent':>8}{'lost':>8}{'doubled':>9}{'slowest':>10}")
    halves = []
    for half in (bare, mended):
        with Stage() as stage:
            halves.append(half(stage))
        sent, lost, doubled, _ = halves[-1]
        print(f"{half.__name__:<12}{sent:>8}{lost:>8}{doubled:>9}{halves[-1].slowest_text:>10}", flush=True)
    return halves


def _accept(listener: socket.socket, target: Any, seconds: float) -> None:
    with contextlib.suppress(OSError):  # closed
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_forward, args=(near, (target.hostname, target.port), seconds), daemon=True).start()


def _forward(near: socket.socket, target: tuple[str, int], seconds: float) -> None:
    time.sleep(seconds)
    with near, contextlib.suppress(OSError), socket.create_connection(target) as far:
        other = {near: far, far: near}
        while True:
            for source in select.select([near, far], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                other[source].sendall(data)
