"""A client of somebody else's broker: mdp://HOST:PORT (7/MDP) or ppp://HOST:PORT (6/PPP).

It is a node in memory, at no address, with links to that broker: what is called here is asked there, and what is served here
is offered there. So deadlines, outcomes and cancellation are those of every other call; what a link cannot know (did the
worker there begin?) is told as "may have been executed".
"""

from __future__ import annotations

from functools import partial
from typing import Any

from zmqkit.errors import Error
from zmqkit.handles import gateways
from zmqkit.handles.answers import CallFuture
from zmqkit.handles.client import Client
from zmqkit.handles.hand import Credit
from zmqkit.handles.node import Node
from zmqkit.handles.serving import Serving
from zmqkit.handles.session import Session
from zmqkit.handles.streaming import Stream
from zmqkit.handles.waiting import Reply

CALLS_AT_ONCE = 4  # of one service: a link carries one request at a time, for no number tells whose answer comes
LINK_SECONDS = 10.0


class Foreign(Client):
    """Made by `connect`. Bodies are bytes, or a list of bytes for several frames."""

    def __init__(self, endpoint: str) -> None:
        gateways.foreign_address(endpoint)
        self._node = Node(name=endpoint)
        self.endpoints = [endpoint]
        self._session, self._calls = self._node._session, self._node._calls
        self._asked: dict[str, None] = {}  # services that have links to the broker
        self._served: dict[str, None] = {}
        self._handlers = 0  # of all that serve

    @property
    def _alone(self) -> Session:
        raise Error(f"{self.endpoint} has no queues: connect to a node of zmqkit for those")

    def call(self, service: str, *arguments: Any, **more: Any) -> Any:
        self._ask(service)
        return super().call(service, *arguments, **_patient(more))

    def call_soon(self, service: str, *arguments: Any, **more: Any) -> CallFuture:
        self._ask(service)
        return super().call_soon(service, *arguments, **_patient(more))

    def stream(self, service: str, *arguments: Any, **more: Any) -> Stream[Any]:
        raise Error("7/MDP and 6/PPP answer in one piece: use call()")

    def service(self, name: str, function: Any = None, *, type: Any = None) -> Any:
        made = self._node.service(name, function, type=type)
        self._served.setdefault(name)
        self._offer(name, self._handlers)
        return made

    def serve(self, threads: int = 4, block: bool = True, credit: Credit = "auto") -> Serving:
        for name in self._served:
            self._offer(name, threads)
        self._handlers += threads
        return self._node.serve(threads, block, credit)

    def _ask(self, service: str) -> None:
        """There are links by which that service is asked, from its first use on."""
        if service not in self._asked:
            self._asked[service] = None
            for _ in range(CALLS_AT_ONCE):
                self._on_io(partial(gateways.link_client, self._session.reactor, self.endpoint, service))

    def _offer(self, service: str, workers: int) -> None:
        """So many workers more at the broker: one that has a request gets no other."""
        for _ in range(workers):
            self._on_io(partial(gateways.link_worker, self._session.reactor, self.endpoint, service))

    def _on_io(self, link: partial[None]) -> None:
        done = Reply()
        self._session.admit()

        def act(moment: float) -> None:
            link()
            done.set(None)

        self._session.reactor.call(act)
        done.wait(LINK_SECONDS)

    def __enter__(self) -> Foreign:
        return self

    def __repr__(self) -> str:
        return f"<Client of {self.endpoint}>"


def _patient(more: dict[str, Any]) -> dict[str, Any]:
    """Whether somebody serves the name, only the broker knows: `retries=0` cannot ask."""
    return {**more, "retries": max(1, more.get("retries", 1))}
