"""What a client wants, of every queue and every service: the windows in its READYs."""

from __future__ import annotations

from math import inf

from zmqkit.machines.consumer import ConsumerState
from zmqkit.wire import Window


class Windows(dict[str, ConsumerState]):
    """By the name of a queue, or the marked one of a service."""

    def of(self, name: str) -> ConsumerState:
        state = self.get(name)
        if state is None:
            state = self[name] = ConsumerState(name)
        return state

    def close(self) -> None:
        """Nothing more is wanted of any."""
        for state in self.values():
            state.fixed = state.autos = state.waiting = 0

    def stated(self) -> list[Window]:
        """All of them, as a READY says them now."""
        said = [Window(state.queue, state.window, state.lease) for state in self.values() if state.window or state.stated]
        for state in self.values():
            state.stated = state.window
        return said

    def shrinks(self) -> bool:
        for state in self.values():  # noqa: SIM110 — asked every turn: `any` would cost more than what it asks
            if not (state.autos and state.ahead) and state.window < state.stated:  # what "auto" wants is said when an echo has come
                return True
        return False

    def must_restate(self, clocked: bool) -> bool:
        for state in self.values():  # noqa: SIM110
            if state.must_restate(clocked):
                return True
        return False

    def echoed(self) -> None:
        for state in self.values():
            state.echoed()

    @property
    def slow_at(self) -> float:
        """When one of them will have to be restated, if nothing else happens."""
        soonest = inf
        for state in self.values():
            if state.open and (at := state.slow_at) < soonest:
                soonest = at
        return soonest
