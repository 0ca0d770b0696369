"""A node whose calls are plain functions in this process, for tests of what Titanic does with its queues, whatever calls are like."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import zmqkit


class Offer:
    def __init__(self, end: Callable[[], None]) -> None:
        self.close = self.stop = end


class StandIn:
    """A real node's queues, and calls as far as Titanic uses them."""

    def __init__(self, node: zmqkit.Node) -> None:
        self.queue, self.queues, self.declare = node.queue, node.queues, node.declare
        self.asked: list[tuple[str, Any, str]] = []  # service, body, key
        self.serving = 0
        self._offered: dict[str, Callable[[Any], Any]] = {}
        self._answers: dict[str, Any] = {}  # by key, as a node keeps them
        self._lock = threading.Lock()

    def service(self, name: str, function: Callable[[Any], Any]) -> Offer:
        self._offered[name] = function
        return Offer(lambda: self._offered.pop(name, None) and None)

    def serve(self, threads: int, block: bool) -> Offer:
        assert threads > 0 and not block
        self.serving += 1

        def stop() -> None:
            self.serving -= 1

        return Offer(stop)

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
