"""A node's machine whose clients are users, each with the rights that a test gives it."""

from __future__ import annotations

from typing import Any

from node_bench import Bench
from user_world import rights

from zmqkit import wire
from zmqkit.parcel import Parcel
from zmqkit.rights import ANYBODY, EVERYTHING, Access, Rights
from zmqkit.updates import message
from zmqkit.wire import Code, Kind

NEWS = "\1news"


class UserBench(Bench):
    """`join("a", "ada")`: a client of ada's, by its letter."""

    def join(self, letter: str, user: str, window: int | None = None, link: int = 1, **more: Any) -> bytes:
        self.users[f"{letter}{link}".encode()] = user
        return self.connect(letter, window, link, **more)

    def allow(self, user: str, *grants: str, **limits: float) -> None:
        self.access.users = {**self.access.users, user: rights(user, *grants, **limits)}

    def dismiss(self, user: str) -> None:
        self.access.users = {name: held for name, held in self.access.users.items() if name != user}

    def refusals(self, peer: bytes) -> list[tuple[str, str, str]]:
        return [(Kind(r.command).name, r.queue, Code(r.code).name) for r in self.hear(peer, wire.Refused)]

    def updates(self, peer: bytes, first: int, *keys: str) -> None:
        self.say(peer, wire.Put(NEWS, first, len(keys), first, Parcel.of([message(key, b"\x01") for key in keys])))

    def subscribe(self, peer: bytes, number: int = 1, topic: str = "news") -> None:
        self.say(peer, wire.Sub(number, topic, [""], [], wire.Start.SNAPSHOT, 0, 0, 0.0, "", 2**20))

    def call(self, peer: bytes, first: int = 1, count: int = 1, service: str = "s", epoch: int = 0, key: str = "") -> None:
        parcel = Parcel.of([b"%d" % number for number in range(first, first + count)])
        self.say(peer, wire.Call(service, first, count, 60.0, 4, epoch, key, 0, 0, parcel))

    def reply(self, peer: bytes, token: int, count: int = 1) -> None:
        self.say(peer, wire.Reply(0, [(token, 0, count, wire.Status.OK)], count, Parcel.of([b"done"] * count)))


def bench(**users: Rights) -> UserBench:
    return UserBench(access=Access({ANYBODY: EVERYTHING, **users}))
