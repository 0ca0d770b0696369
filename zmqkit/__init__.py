"""zmqkit: acknowledgements, durable queues and late-joiner snapshots on ZeroMQ, as a library.

    with zmqkit.Node("tcp://127.0.0.1:5555", journal="data") as node:      # hosts queues in this process
        node.queue("emails").put({"to": "ada@example.org"})                # returns when it is on disk

    mq = zmqkit.connect("tcp://127.0.0.1:5555")                            # any other process
    for d in mq.queue("emails").consume():
        with d:                                                            # ack on success, nack with backoff on an exception
            send(d.body)
"""

from zmqkit import aio
from zmqkit.discovery.found import Found
from zmqkit.errors import (
    AddressInUse,
    Closed,
    DiskFull,
    Error,
    Forbidden,
    Insecure,
    JournalCorrupt,
    JournalError,
    JournalFailed,
    JournalFormat,
    JournalLocked,
    KeysError,
    MessageTooLarge,
    NotSent,
    NoWorker,
    QueueFull,
    QuotaExceeded,
    RemoteError,
    StaleLease,
    Timeout,
    Unencodable,
    Unreachable,
)
from zmqkit.handles.admin import DeadLetter, DeadLetters, Peeked, QueueInfo, TopicInfo
from zmqkit.handles.answers import CallFuture
from zmqkit.handles.client import Client
from zmqkit.handles.connecting import connect
from zmqkit.handles.consumer import BatchConsumer, Consumer, Work
from zmqkit.handles.crew import Service
from zmqkit.handles.current import Current, current
from zmqkit.handles.delivery import Batch, Delivery, Reject, Retry, Snooze
from zmqkit.handles.feed import Event
from zmqkit.handles.finding import discover
from zmqkit.handles.node import Node
from zmqkit.handles.outcome import BatchReceipt, PutFuture, Receipt
from zmqkit.handles.queue import Queue
from zmqkit.handles.serving import Serving
from zmqkit.handles.streaming import Stream
from zmqkit.handles.topic import State, Subscription, Topic
from zmqkit.handles.watching import NodeEvent, NodeInfo, Watch
from zmqkit.machines.following import Gap
from zmqkit.machines.policy import Backoff, QueuePolicy, TopicPolicy

__version__ = "0.1.0"

__all__ = [
    "aio", "Node", "connect", "discover", "Found", "Client", "Queue", "QueuePolicy", "Backoff",
    "Receipt", "BatchReceipt", "PutFuture",
    "Consumer", "BatchConsumer", "Work", "Delivery", "Batch", "Retry", "Snooze", "Reject",
    "CallFuture", "Stream", "Service", "Serving", "current", "Current",
    "Topic", "TopicPolicy", "Subscription", "State", "Event", "Gap",
    "NodeInfo", "NodeEvent", "Watch",
    "QueueInfo", "TopicInfo", "Peeked", "DeadLetter", "DeadLetters",
    "Error", "Unreachable", "Timeout", "NotSent", "Closed", "AddressInUse", "MessageTooLarge", "Unencodable",
    "QueueFull", "DiskFull", "QuotaExceeded", "Forbidden", "Insecure", "KeysError", "StaleLease", "NoWorker", "RemoteError",
    "JournalError", "JournalLocked", "JournalCorrupt", "JournalFormat", "JournalFailed",
]  # fmt: skip
