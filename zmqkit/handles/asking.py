"""Questions to all nodes of a client, and policies that hold at each: also at one that comes up later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from zmqkit.errors import Timeout, Unreachable
from zmqkit.handles.durations import left
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Reply, Steps
from zmqkit.reactor import now
from zmqkit.wire import TOPIC_MARK

if TYPE_CHECKING:
    from zmqkit.handles.nodes import Nodes

R = TypeVar("R")
Ask = tuple[str, dict[str, Any]]  # verb and arguments

log = logging.getLogger("zmqkit.client")


class Asking:
    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._declared: dict[str, Ask] = {}  # by the marked name

    def each(self, ask: Callable[[Session, float | None], Steps[R]], timeout: float | None) -> Steps[list[tuple[Session, R]]]:
        """What each node that is up answers. One that goes down before it has answered is passed over."""
        nodes = self._nodes
        nodes.admit()
        if nodes.single:
            return [(nodes.sessions[0], (yield from ask(nodes.sessions[0], timeout)))]
        deadline = None if timeout is None else now() + timeout
        try:
            yield from nodes.rising(timeout)
        except Unreachable as error:
            raise Timeout(f"{error} within {timeout:g} s") from None
        answers: list[tuple[Session, R]] = []
        failure = None
        for session in [session for session in nodes.sessions if session.is_up]:
            try:
                answers.append((session, (yield from ask(session, left(deadline)))))
            except Unreachable as error:
                failure = error
        if not answers:
            raise failure or nodes.unreachable()
        return answers

    def told(self, verb: str, arguments: dict[str, Any], timeout: float | None) -> Steps[list[tuple[Session, dict[str, Any]]]]:
        """One plain question to each."""
        if verb in ("delete", "topic_delete"):
            self._declared.pop(_name(arguments), None)
        return (yield from self.each(lambda session, left: session.asking(verb, arguments, left), timeout))

    def declaring(self, verb: str, arguments: dict[str, Any], timeout: float | None) -> Steps[dict[str, Any]]:
        """The first one's answer. From now on it is told to each node that comes up."""
        name, ask = _name(arguments), (verb, arguments)
        if not self._nodes.single:
            self._declared[name] = ask

        def declare(session: Session, timeout: float | None) -> Steps[dict[str, Any]]:
            answer = yield from session.asking(verb, arguments, timeout)
            session.declared[name] = ask
            return answer

        return (yield from self.each(declare, timeout))[0][1]

    def restate(self, session: Session) -> None:
        """It is up: tell it what it does not know. On the I/O thread."""
        for name, ask in self._declared.items():
            if session.declared.get(name) != ask:
                self._restate(session, name, ask)

    def _restate(self, session: Session, name: str, ask: Ask) -> None:
        def answered(reply: Reply) -> None:
            if isinstance(reply.value, dict) and "error" not in reply.value:
                session.declared[name] = ask
            elif isinstance(reply.value, dict):
                log.warning("%s refuses the policy of %s: %s", session.endpoint, name.lstrip(TOPIC_MARK), reply.value.get("text"))

        reply = Reply()
        reply.listen(answered)
        session.put_question(*ask, reply)


def _name(arguments: dict[str, Any]) -> str:
    return str(arguments["queue"]) if "queue" in arguments else TOPIC_MARK + str(arguments["topic"])
