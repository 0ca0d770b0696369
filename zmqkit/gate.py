"""The gate: answers libzmq whose key may come in, and knows of changes to the file that says so. In the reactor's turn, on its thread.

Rule 1  Nobody comes in unless the gate says so: a ROUTER with keys refuses all while there is none, or it does not answer.
Rule 2  No question, no exception and no broken file ends it; a file that cannot be understood leaves everybody what they had.
Rule 3  A node serves only after it has seen a key that nobody knows refused, and its own taken, at its own door.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from typing import TYPE_CHECKING

import zmq
from zmq.backend import zmq_poll

from zmqkit.errors import Error, KeysError
from zmqkit.monitors import LET_IN, REFUSED, verdict
from zmqkit.rights import ANYBODY, EVERYTHING
from zmqkit.security import Keys, LinkKeys, Pair
from zmqkit.security.zap import OK, Question
from zmqkit.sockets import FOREIGN_FRAMES_MAX, Context, close_dealer, deliver, open_dealer, open_gate, readable, receive

if TYPE_CHECKING:
    from zmqkit.machines.core import Core

QUESTIONS_MAX = 64  # answered in one turn
LOOK_SECONDS = 1.0  # a change of `trusted` holds after so long
PROOF_SECONDS = 10.0
TOLD_MAX = 1000  # keys that were refused and are in the log: each of them once

log = getLogger("zmqkit.keys")


class Gate:
    def __init__(self, context: Context, keys: Keys, core: Core) -> None:
        self._context, self._keys, self._core = context, keys, core
        self._told: set[str] = set()
        self._trouble = ""  # with the file, as it is in the log
        self.look_at = 0.0
        self.socket = open_gate(context)
        self._admit()

    def turn(self, asked: bool, now: float) -> None:
        """Answer what libzmq has asked, and look whether the file has changed, if it is time."""
        if asked:
            for question in self._answer():
                self._refused(question)
        if now >= self.look_at:
            self.look_at = now + LOOK_SECONDS
            self._look()

    def _admit(self) -> None:
        """Who is trusted now. Links inside this process have no key to show."""
        self._core.access.users = {**self._keys.everyone, ANYBODY: EVERYTHING}

    def _answer(self) -> list[Question]:
        """Those whose answer was no."""
        refused = []
        for _ in range(QUESTIONS_MAX):
            peer, *frames = receive(self.socket, FOREIGN_FRAMES_MAX)
            try:
                question = Question(frames[1:])
                answer = question.answer(lambda key: self._core.access.of(key) is not None)
            except Exception as error:
                self._core.drop("odd-question", peer, str(error))
            else:
                deliver(self.socket, [peer, b"", *answer])  # a connection that is gone wants no answer
                if answer[2] != OK[0]:
                    refused.append(question)
            if not readable(self.socket):
                break
        return refused

    def _refused(self, question: Question) -> None:
        self._core.drop("untrusted-key", b"", f"{question.key} from {question.address}")
        if question.key and question.key not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(question.key)
            text = "refused a key from %s: to let it in, run: zmqkit keys trust '%s' --keys %s --role ROLE:NAMES (or --all)"
            log.info(text, question.address or "this machine", question.key, self._keys.path)

    def _look(self) -> None:
        if not self._keys.changed():
            return
        before = self._core.access.users
        try:
            self._keys.reread()
        except (KeysError, OSError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("%s; until then everybody keeps the rights they have", error)
            return
        self._trouble = ""
        self._admit()
        self._told.clear()
        gone = len(before.keys() - self._core.access.users.keys())
        log.info("read %s/trusted again: %d users, %d are gone", self._keys.path, len(self._keys.users), gone)

    # -- at the start ---------------------------------------------------------------------------------------------------

    def prove(self, endpoint: str, clock: Callable[[], float]) -> None:
        """Rule 3. Raises Error."""
        server = self._keys.pair.public
        stranger, friend = (self._knock(endpoint, LinkKeys(pair, server), clock) for pair in (Pair.new(), self._keys.pair))
        if (stranger, friend) != (REFUSED, LET_IN):
            raise Error(
                f"{endpoint} is not safe, so nothing is served: a key that nobody knows {stranger}, the node's own {friend}; "
                f"check that this machine can reach that endpoint, and which libzmq pyzmq has (this one is {zmq.zmq_version()})"
            )

    def _knock(self, endpoint: str, keys: LinkKeys, clock: Callable[[], float]) -> str:
        """What becomes of this key there."""
        dealer, monitor = open_dealer(self._context, endpoint, keys, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        until = clock() + PROOF_SECONDS
        try:
            while clock() < until:
                heard = dict(zmq_poll([(self.socket, zmq.POLLIN), (monitor, zmq.POLLIN)], 100))
                if self.socket in heard:
                    self._answer()
                seen = verdict(monitor) if monitor in heard else ""
                if seen:
                    return seen
            return f"got no answer in {PROOF_SECONDS:g} s"
        finally:
            close_dealer(dealer, monitor)
