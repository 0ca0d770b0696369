"""zmqkit for asyncio: the same names, and what may wait is awaited.

    async with zmqkit.aio.connect("tcp://127.0.0.1:5555") as mq:
        q = mq.queue("emails")
        await q.put({"to": "ada@example.org"})
        async for d in q.consume():
            async with d:
                await send(d.body)

A twin has no I/O of its own: it is another face of the same link, and any number of loops may use it beside any number of
threads. `mq.aio` and `q.aio` are the twins of handles that exist; `Delivery` and its like come out of the twins only.
"""

from zmqkit.aio.calling import Answer, Stream
from zmqkit.aio.consumer import BatchConsumer, Consumer, Work
from zmqkit.aio.delivery import Batch, Delivery
from zmqkit.aio.peer import Client, Node, connect, discover
from zmqkit.aio.putting import Confirm
from zmqkit.aio.queue import DeadLetters, Queue
from zmqkit.aio.serving import Serving
from zmqkit.aio.topic import Subscription, Topic
from zmqkit.aio.watching import Watch
from zmqkit.handles import client, node, queue, topic

__all__ = ["connect", "discover", "Client", "Node", "Queue", "DeadLetters", "Confirm", "Consumer", "BatchConsumer", "Work", "Delivery",
           "Batch", "Answer", "Stream", "Serving", "Topic", "Subscription", "Watch"]  # fmt: skip

# The floor below knows no asyncio: the twins hang themselves onto its handles.
client.Client.aio = property(lambda twin: Client(twin, None, lazy=True))  # type: ignore[assignment]
node.Node.aio = property(Node.of)  # type: ignore[assignment]
queue.Queue.aio = property(Queue)  # type: ignore[assignment, misc]
topic.Topic.aio = property(Topic)  # type: ignore[assignment, misc]
