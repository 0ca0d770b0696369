"""A client of several nodes that may do at one of them what it may not at another."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from handle_world import SOON, eventually, in_thread
from several_world import Site, all_up, several, up
from user_world import UserNode

import zmqkit
from zmqkit.handles import inboxes


class World:
    """Two nodes, and a client of ada's at both. She may consume at the second one."""

    def __init__(self, sites: list[Site]) -> None:
        self.sites, self.users = sites, [UserNode(site.node) for site in sites]
        self.mq = zmqkit.connect(*[site.endpoint for site in sites], lazy=True)
        for users, session in zip(self.users, self.mq._nodes.sessions, strict=True):
            users.knows(session.machine.client, "ada")
        self.users[0].allow("ada")
        self.users[1].allow("ada", "consume q")

    def refusals(self) -> int:
        return self.users[0].core.dropped.get("forbidden", 0)


@pytest.fixture
def world() -> Iterator[World]:
    with several() as sites:
        world = World(sites)
        yield world
        world.mq._close(SOON)


def test_who_is_refused_at_one_node_waits_for_another_that_is_only_on_its_way(world: World) -> None:
    late, got = world.sites[1], list[Any]()
    late.put("q", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        late.proxy._target = mute.getsockname()
        thread = in_thread(lambda: got.append(world.mq.queue("q").get(timeout=SOON)))
        eventually(world.refusals)
        late.join()
        late.proxy.cut()
    thread.join(SOON)
    assert got[0].body == 1
    got[0].ack()


def test_who_asks_again_gets_what_is_granted_meanwhile(world: World) -> None:
    queue = world.mq.queue("q")
    world.mq._nodes.begin()
    all_up(world.mq)
    world.sites[0].put("q", "first")
    world.sites[1].put("q", "second")
    d = queue.get(timeout=SOON)
    assert d is not None and d.body == "second"
    d.ack()
    eventually(world.refusals)
    world.users[0].allow("ada", "consume q")
    d = queue.get(timeout=SOON)
    assert d is not None and d.body == "first"
    d.ack()


def test_a_loop_that_goes_on_gets_what_is_granted_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inboxes, "ASK_AGAIN_SECONDS", 0.1)
    world.sites[0].put("q", "first")
    world.sites[1].put("q", "second")
    loop = world.mq.queue("q").consume(idle=SOON)
    d = next(loop)
    assert d.body == "second"
    d.ack()
    eventually(lambda: world.refusals() > 2)
    assert sum("nothing is taken from" in record.message for record in caplog.records) == 1
    world.users[0].allow("ada", "consume q")
    d = next(loop)
    assert d.body == "first"
    d.ack()


def test_a_loop_outlives_the_links_of_the_node_that_it_takes_from(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "ASK_AGAIN_SECONDS", 0.1)
    world.sites[1].put("q", 1)
    loop = world.mq.queue("q").consume(idle=SOON)
    next(loop).ack()
    world.mq.flush(SOON)
    eventually(world.refusals)
    world.sites[1].cut_off()
    up(world.mq, world.sites[1], False)
    before = world.refusals()
    eventually(lambda: world.refusals() > before + 1)
    world.sites[1].join()
    world.sites[1].put("q", 2)
    d = next(loop)
    assert d.body == 2
    d.ack()


def test_where_no_node_opens_a_window_that_is_told(world: World) -> None:
    world.users[1].allow("ada")
    with pytest.raises(zmqkit.Forbidden, match="may not consume from 'q'"):
        world.mq.queue("q").get(timeout=SOON)
