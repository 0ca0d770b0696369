"""A watch on a client's nodes, for asyncio."""

from __future__ import annotations

from zmqkit.aio.bell import Bell
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.watching import NodeEvent


class Watch:
    """Made by `aio.Client.watch()`. Begins with the nodes that are there, and ends with its client, or by `close`."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes, self._twin = nodes, nodes.watch()

    def close(self) -> None:
        """Whoever waits for events is told that none will come."""
        self._twin.close()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> NodeEvent:
        """Cancelled, it has taken nothing."""
        event = await Bell.of(self._nodes).drive(self._twin.taking())
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()
