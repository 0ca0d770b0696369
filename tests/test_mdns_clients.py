"""Clients of mdns: nodes come, go, are killed and restart elsewhere; keys decide whom they believe, and a living link stays."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from cli_world import succeeds
from handle_world import SOON, eventually
from mdns_world import EVERYWHERE, LOOPBACK, Voice, honest_text, new_node, process, records, text_of

import zmqkit
from zmqkit.discovery.found import SERVICE, Found, label
from zmqkit.security import Keys


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQKIT_MDNS_INTERFACE", LOOPBACK)


@pytest.fixture
def name() -> str:
    return f"t-{new_node()[:12]}"


def announced(name: str, **options: Any) -> zmqkit.Node:
    return zmqkit.Node(EVERYWHERE, name=name, announce=True, **options)


def found(name: str, **options: Any) -> zmqkit.Client:
    return zmqkit.connect(f"mdns:{name}", timeout=SOON, **options)


def up(mq: zmqkit.Client) -> set[str]:
    return {info.endpoint for info in mq.nodes() if info.up}


def taken(q: zmqkit.Queue[Any], count: int) -> list[Any]:
    found = []
    with q.consume(idle=SOON) as consumer:
        for d in islice(consumer, count):
            d.ack()
            found.append(d.body)
    return found


# -- coming and going -----------------------------------------------------------------------------------------------------


def test_a_client_works_with_every_node_of_the_name_as_they_come_and_go(name: str) -> None:
    with announced(name) as one, found(name) as mq:
        assert up(mq) == {one.endpoint}
        q, events = mq.queue("q"), mq.watch()
        with announced(name) as other:
            eventually(lambda: up(mq) == {one.endpoint, other.endpoint})
            assert {q.put(number).node for number in range(4)} == {info.node for info in mq.nodes()}  # they go round
            assert sorted(taken(q, 4)) == [0, 1, 2, 3]
            mq.flush(SOON)
        eventually(lambda: [info.endpoint for info in mq.nodes()] == [one.endpoint])
        kinds = [event.kind for event in islice(events, 6)]
        assert kinds == ["came", "up", "came", "up", "down", "gone"]


def test_a_client_that_begins_first_waits_for_a_node_inside_its_timeouts(name: str) -> None:
    with zmqkit.connect(f"mdns:{name}", lazy=True) as mq:
        future = mq.queue("q").put_soon("early")
        with pytest.raises(zmqkit.Timeout, match="no node was found"):
            mq.queue("q").put("now", timeout=0.01)
        with announced(name):
            assert future.result(SOON).seq == 1


def test_nobody_of_the_name_is_an_error_that_says_what_to_start(name: str) -> None:
    with pytest.raises(zmqkit.Unreachable, match=rf"mdns:{name}: no node was found; start one with `zmqkit broker --announce`"):
        zmqkit.connect(f"mdns:{name}", timeout=0.05)


def test_another_name_is_left_alone(name: str) -> None:
    with announced(name) as ours, announced(name + "x"), found(name) as mq, found(name + "x") as theirs:
        eventually(lambda: up(theirs))
        assert up(mq) == {ours.endpoint}


def test_a_killed_node_that_restarts_at_another_port_is_followed_with_what_was_in_doubt(tmp_path: Path, name: str) -> None:
    with process(tmp_path / "journal", name) as (node, before):
        mq = found(name)
        q = mq.queue("q")
        assert q.put("first").seq == 1
        node.send_signal(signal.SIGSTOP)  # it takes what follows from its socket, at most, and confirms none of it
        doubtful = [q.put_soon(number) for number in range(3)]
        node.kill()
        node.wait()
    with mq, process(tmp_path / "journal", name) as (_, after):
        assert [future.result(SOON).durability for future in doubtful] == ["disk"] * 3
        assert before != after and up(mq) == {after}
        bodies = taken(q, 4)
        assert sorted(bodies, key=str) == [0, 1, 2, "first"]  # each once
        assert q.info().ready == 0


def test_calls_and_topics_find_whatever_node_has_them(name: str) -> None:
    with announced(name) as one, announced(name) as other, found(name) as mq:
        eventually(lambda: len(up(mq)) == 2)
        other.service("double", lambda body: 2 * body)
        other.serve(block=False)
        assert [mq.call("double", number, timeout=SOON) for number in range(4)] == [0, 2, 4, 6]
        with mq.topic("t").subscribe() as sub:
            one.topic("t").publish("a", 1)
            other.topic("t").publish("b", 2)
            with announced(name) as third:
                third.topic("t").publish("c", 3)
                eventually(lambda: sub.state.copy() == {"a": 1, "b": 2, "c": 3})


def test_the_same_for_asyncio(name: str) -> None:
    async def run() -> None:
        async with zmqkit.aio.Node(EVERYWHERE, name=name, announce=True), zmqkit.aio.connect(f"mdns:{name}", timeout=SOON) as mq:
            await mq.queue("q").put(1)
            async for d in mq.queue("q").consume(idle=SOON):
                await d.ack(wait=True)
                break

    asyncio.run(asyncio.wait_for(run(), 4 * SOON))


def test_commands_take_mdns_for_an_endpoint(name: str) -> None:
    with announced(name) as node:
        assert succeeds("put", "q", "[1]", "--connect", f"mdns:{name}") == ["confirmed 1"]
        assert node.queue("q").info().ready == 1


# -- whom to believe --------------------------------------------------------------------------------------------------------


def test_with_keys_only_nodes_are_connected_to_whose_key_is_known(tmp_path: Path, name: str) -> None:
    team, strangers = str(tmp_path / "team"), str(tmp_path / "strangers")
    Keys.make(team), Keys.make(strangers)
    with announced(name) as plain, announced(name, keys=strangers) as strange, found(name) as careless:
        assert up(careless) == {plain.endpoint}  # without keys: only who asks for none
        with pytest.raises(zmqkit.Unreachable, match=r"was found, with (no )?key"):
            zmqkit.connect(f"mdns:{name}", keys=team, timeout=2.0)
        with announced(name, keys=team) as ours, found(name, keys=team) as mq:
            assert up(mq) == {ours.endpoint} and mq.queue("q").put(1).seq == 1
            assert strange.dropped == {}, "nobody knocked there"
            rows = [json.loads(line) for line in succeeds("ls", "-o", "jsonl", "--keys", team)]
            trusted = {row["endpoint"]: row["trusted"] for row in rows if row["name"] == name}
            assert trusted == {plain.endpoint: None, strange.endpoint: False, ours.endpoint: True}


def test_a_liar_who_announces_our_node_elsewhere_gets_nothing_and_ends_no_link(tmp_path: Path, name: str) -> None:
    with announced(name) as honest, zmqkit.Node(EVERYWHERE) as trap, found(name) as mq, Voice() as liar:
        node = mq.nodes()[0].node
        port = int(trap.endpoint.rpartition(":")[2])
        liar.say(records(SERVICE, label(name, node), port, text_of(honest_text(name, node))))
        eventually(lambda: mq._nodes.sessions and mq._nodes.sessions[0].endpoint == trap.endpoint)  # it is believed for the next link
        assert mq.queue("q").put(1).node == node and honest.queue("q").info().ready == 1
        assert trap.queue("q").info().ready == 0


def test_a_node_that_is_another_one_than_was_announced_is_left(name: str) -> None:
    with zmqkit.Node(EVERYWHERE) as other, found_lazily(name) as mq, Voice() as liar:
        port, lie = int(other.endpoint.rpartition(":")[2]), new_node()
        events = mq.watch()
        liar.say(records(SERVICE, label(name, lie), port, text_of(honest_text(name, lie))))
        assert [event.kind for event in islice(events, 2)] == ["came", "up"]
        assert next(event for event in events if event.kind == "gone")
        assert mq.nodes() == []


@contextmanager
def found_lazily(name: str) -> Iterator[zmqkit.Client]:
    with zmqkit.connect(f"mdns:{name}", lazy=True) as mq:
        mq._nodes.begin()
        assert mq._nodes.finder is not None and mq._nodes.finder._browser is not None
        assert mq._nodes.finder._browser.tried.wait(SOON)
        yield mq


def test_mdns_is_connected_to_alone() -> None:
    with pytest.raises(zmqkit.Error, match="connect to it alone"):
        zmqkit.connect("mdns:", "tcp://127.0.0.1:1")
    with pytest.raises(zmqkit.Unreachable, match="that is no address"):
        zmqkit.connect("mdns://name")


def test_of_several_addresses_all_are_tried(name: str) -> None:
    with zmqkit.Node(EVERYWHERE, name=name) as honest, zmqkit.connect(f"mdns:{name}", lazy=True) as mq:
        mq._nodes.begin()
        finder, dead = mq._nodes.finder, "tcp://127.0.0.1:1"
        assert finder is not None
        one = Found(name, dead, "", honest.id, 1, (dead, "tcp://127.0.0.1:2", honest.endpoint))
        finder._changed((one,))
        eventually(lambda: up(mq) == {honest.endpoint})


def test_connect_returns_with_all_nodes_that_were_there(name: str) -> None:
    with announced(name) as one, announced(name) as other, found(name) as known:
        eventually(lambda: len(up(known)) == 2)
        for _ in range(3):
            with found(name) as mq:
                eventually(lambda: up(mq) == {one.endpoint, other.endpoint})
                assert len(mq.nodes()) == 2
