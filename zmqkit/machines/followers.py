"""Who follows which topics of a node: subscriptions by their numbers, from SUB to their end."""

from __future__ import annotations

from math import inf

from zmqkit import records
from zmqkit.machines.core import Core
from zmqkit.machines.permits import why_no_topic
from zmqkit.machines.session import Client
from zmqkit.machines.topics import Topics
from zmqkit.wire import TOPIC_MARK, Code, Kind, Pos, Refused, Seen, Sub, Unsub

SUBSCRIPTIONS_MAX = 1000  # of one client


class Followers:
    def __init__(self, core: Core, topics: Topics) -> None:
        self._core, self._topics = core, topics
        self._followed = topics.followed

    def subscribe(self, client: Client, command: Sub, forbidden: str = "") -> None:
        self._leave(client, command.number)
        why = forbidden or self._no_room(client)
        hosted = None if why else self._topics.host(TOPIC_MARK + command.topic, client.account)
        if hosted is None:
            code = Code.FORBIDDEN if forbidden else Code.QUOTA
            self._refuse(client, command.topic, command.number, code, why or self._core.no_room(client.account))
            return
        self._followed.setdefault(client.id, {})[command.number] = hosted
        hosted.fanout.add(client, command)
        self._topics.stirred[hosted.topic.number] = hosted

    def _no_room(self, client: Client) -> str:
        """Why there is no further subscription for this client, or its user."""
        if len(self._followed.get(client.id, ())) >= SUBSCRIPTIONS_MAX:
            return f"this client has {SUBSCRIPTIONS_MAX:,} subscriptions, as many as one may have"
        account = client.account
        if account.limits.subscriptions < inf:
            count = sum(len(self._followed.get(other, ())) for other in account.clients)
            if count >= account.limits.subscriptions:
                return f"{account.who} has {count:,} subscriptions, as many as it may: end some, or ask the node's admin"
        return ""

    def _refuse(self, client: Client, topic: str, number: int, code: Code, why: str) -> None:
        self._core.refuse(client.peer, Refused(Kind.SUB, topic, number, 1, code, 1.0, why))

    def take_back(self, client: Client) -> None:
        """What its user's rights cover no more."""
        for number, hosted in list(self._followed.get(client.id, {}).items()):
            topic = hosted.topic.name[1:]
            why = why_no_topic(client.account, topic)
            if why:
                self._leave(client, number)
                self._refuse(client, topic, number, Code.FORBIDDEN, why)

    def unsubscribe(self, client: Client, command: Unsub) -> None:
        self._leave(client, command.number)

    def _leave(self, client: Client, number: int) -> None:
        hosted = self._followed.get(client.id, {}).pop(number, None)
        if hosted is not None:
            hosted.fanout.remove(client, number)

    def seen(self, client: Client, command: Seen) -> None:
        hosted = self._followed.get(client.id, {}).get(command.number)
        if hosted is not None:
            hosted.fanout.take_up(client, command.number, command.taken)
            self._topics.stirred[hosted.topic.number] = hosted

    def mark(self, client: Client, command: Pos) -> None:
        hosted = self._followed.get(client.id, {}).get(command.number)
        name = hosted.fanout.keeps(client, command.number, command.epoch, command.seq) if hosted is not None else ""
        if hosted is not None and name:
            hosted.topic.names[name] = command.epoch, command.seq
            self._core.record(records.Mark(hosted.topic.number, name, command.epoch, command.seq), waited=False)

    def beat(self, client: Client) -> None:
        """A READY of this client: what it follows is told how far it is."""
        for number, hosted in self._followed.get(client.id, {}).items():
            hosted.fanout.beat(client, number)

    def lost(self, client: Client) -> None:
        """Its link has ended. It subscribes again on the next."""
        for number, hosted in self._followed.pop(client.id, {}).items():
            hosted.fanout.remove(client, number)
