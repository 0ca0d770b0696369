"""A client's process: the real client machine, driven as the reactor drives it, with an application on top of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Protocol

from zmqkit import framing
from zmqkit.machines import events as ev
from zmqkit.machines.link import ClientMachine
from zmqkit.simulator.checks import Oracle
from zmqkit.simulator.clock import Clock, Scheduler
from zmqkit.simulator.net import HEARTBEAT, Link, Net
from zmqkit.simulator.nodes import brief

STOP_US = 10_000_000


class Application(Protocol):
    """What runs in the process. It may change the machine in all of these, and names when it wants to be asked again."""

    def pump(self, now: float) -> None: ...

    def handle(self, event: Any, now: float) -> None: ...

    @property
    def deadline(self) -> float: ...


class ClientProcess:
    """`applications` are made with the machine; `over` is called when the process has ended by itself."""

    def __init__(self, scheduler: Scheduler, net: Net, oracle: Oracle, name: str, drift: float, over: Callable[[], None]) -> None:
        self.scheduler, self.net, self.oracle, self.name = scheduler, net, oracle, name
        self.random = scheduler.random(f"client {name}")
        self.client = self.random.randbytes(16)
        self.clock = Clock(scheduler, drift)
        self.machine = ClientMachine(self.client, self.random.random)
        self.applications: list[Application] = []
        self.alive, self.paused = True, False
        self.awake_since = scheduler.now
        self.link: Link | None = None
        self._inbox: list[list[bytes] | str] = []  # of the present link: frames, or why it ended
        self._over = over
        self._stopped = 0
        self._turn_at: int | None = None

    def start(self) -> None:
        self.scheduler.note(f"{self.name} starts")
        self.machine.start(self.clock.now())
        self.turn_by(self.scheduler.now)

    # -- faults ---------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        if self.alive:
            self.scheduler.note(f"{self.name} is killed")
            self._end()

    def _end(self) -> None:
        self.alive = False
        self.oracle.calls.abandoned(self.client)
        if self.link is not None:
            self.net.client_died(self.link)
        self._over()

    def pause(self) -> None:
        if self.alive and not self.paused:
            self.scheduler.note(f"{self.name} is stopped")
            self.paused = True
            self._stopped += 1
            if self.link is not None:
                self.scheduler.after(self.random.randint(*HEARTBEAT), partial(self._missed, self.link, self._stopped))

    def _missed(self, link: Link, stopped: int) -> None:
        """The node's end hears no ZMTP heartbeat."""
        if self.paused and self._stopped == stopped:
            self.net.kill(link)

    def resume(self) -> None:
        if self.paused:
            self.scheduler.note(f"{self.name} goes on")
            self.paused, self.awake_since = False, self.scheduler.now
            self.turn_by(self.scheduler.now)

    def stop(self, hasty: bool) -> None:
        """Goodbye: after what is in hand, or now."""
        if self.alive and not self.paused:
            self.scheduler.note(f"{self.name} {'leaves' if hasty else 'stops'}")
            (self.machine.leave if hasty else self.machine.stop)(self.clock.now())
            self.turn_by(self.scheduler.now)
            if not hasty:
                self.scheduler.after(STOP_US, lambda: self.stop(hasty=True))  # like any polite program, not for ever

    # -- the net's calls ------------------------------------------------------------------------------------------------

    def heard(self, link: Link, frames: list[bytes]) -> None:
        if self.alive and link is self.link:
            self._inbox.append(frames)
            self.turn_by(self.scheduler.now + self.random.randint(1, 200))

    def link_lost(self, link: Link, reason: str) -> None:
        if self.alive and link is self.link:
            self._inbox.append(reason)
            self.turn_by(self.scheduler.now + 1)

    # -- turns ----------------------------------------------------------------------------------------------------------

    def turn_by(self, moment: int | None) -> None:
        if moment is None or (self._turn_at is not None and self._turn_at <= moment):
            return
        self._turn_at = at = max(moment, self.scheduler.now)
        self.scheduler.at(at, lambda: self._turn(at))

    def _turn(self, at: int) -> None:
        if self._turn_at != at:
            return
        self._turn_at = None
        if self.paused or not self.alive:
            return
        machine, now = self.machine, self.clock.now()
        inbox, self._inbox = self._inbox, []
        for what in inbox:
            if isinstance(what, str):
                machine.lost(now, what)
            else:
                machine.receive(what, now)
        machine.tick(now)
        self._flush(now)
        if self.alive:
            wanted = min([machine.deadline, *(application.deadline for application in self.applications)], default=inf)
            self.turn_by(max(self.clock.moment(wanted) or 0, self.scheduler.now + 1) if wanted < inf else None)

    def _flush(self, now: float) -> None:
        for application in self.applications:
            application.pump(now)
            if not self.alive:
                return
        output = self.machine.take()
        if output.connect is not None:
            if self.link is not None:
                self.net.close(self.link, linger=False)
            self._inbox.clear()
            self.link = self.net.connect(self)
        for command in output.sends:
            self.scheduler.note(f"{self.name} -> node {brief(command)}")
            if self.link is not None:
                self.net.send_up(self.link, framing.encode(command))
        if output.close and self.link is not None:
            self.net.close(self.link, linger=True)
            self.link = None
        for event in output.events:
            self._event(event, now)
        if output.events or output.sends:
            self.turn_by(self.scheduler.now + 1)

    def _event(self, event: Any, now: float) -> None:
        if isinstance(event, ev.Left):
            self.scheduler.note(f"{self.name} has left")
            self.alive = False
            self.oracle.calls.abandoned(self.client)
            self._over()
            return
        for application in self.applications:
            application.handle(event, now)
