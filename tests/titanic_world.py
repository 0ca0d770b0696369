"""Nodes for the tests of Titanic: a real one that notes what its services are asked, and one whose calls are plain functions.

With plain functions it is Titanic alone that is tested, whatever calls are like.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import zmqkit
from zmqkit.handles.current import current


class Real:
    """A node as it is."""

    def __init__(self, node: zmqkit.Node) -> None:
        self.queue, self.queues, self.declare, self._serve_apart = node.queue, node.queues, node.declare, node._serve_apart
        self.call, self.call_soon = node.call, node.call_soon
        self.asked: list[tuple[str, Any, str]] = []  # service, body, key
        self._node = node
        node.serve(threads=4, block=False)  # the test's services, until the node closes

    def service(self, name: str, function: Callable[[Any], Any]) -> Any:
        def noted(body: Any) -> Any:
            self.asked.append((name, body, current().key))
            return function(body)

        return self._node.service(name, noted)


class Offer:
    def __init__(self, end: Callable[[], None]) -> None:
        self.close = self.stop = end


class StandIn:
    """A real node's queues, and calls as far as Titanic uses them."""

    def __init__(self, node: zmqkit.Node) -> None:
        self.queue, self.queues, self.declare = node.queue, node.queues, node.declare
        self.asked: list[tuple[str, Any, str]] = []
        self._offered: dict[str, Callable[[Any], Any]] = {}
        self._answers: dict[str, Any] = {}  # by key, as a node keeps them
        self._lock = threading.Lock()

    def service(self, name: str, function: Callable[[Any], Any]) -> Offer:
        self._offered[name] = function
        return Offer(lambda: self._offered.pop(name, None) and None)

    def _serve_apart(self, side: str, offers: dict[str, Callable[[Any], Any]], threads: int) -> tuple[list[Offer], Offer]:
        assert side and threads > 0
        return [self.service(name, function) for name, function in offers.items()], Offer(lambda: None)

    def call(self, service: str, body: Any, timeout: float = 1.0, retries: int = 3, idempotency_key: str | None = None) -> Any:
        function = self._offered.get(service)
        if function is None:
            raise zmqkit.NoWorker(service)
        with self._lock:
            known = self._answers.get(idempotency_key or "")
            if known is None:
                self.asked.append((service, body, idempotency_key or ""))
        if known is None:
            try:
                known = True, function(body)
            except zmqkit.Error:
                raise
            except Exception as error:
                known = False, zmqkit.RemoteError(type(error).__name__, str(error))
            if idempotency_key:
                self._answers[idempotency_key] = known
        good, answer = known
        if not good:
            raise answer
        return answer

    def call_soon(self, *arguments: Any, **options: Any) -> Future[Any]:
        """Done when it is returned."""
        future: Future[Any] = Future()
        try:
            future.set_result(self.call(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future
