"""Topics at somebody else's Clone server, clone://HOST:PORT, over real sockets: following, publishing, and mending."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from cli_world import ZMQKIT, environment, succeeds
from gateway_world import ANY, in_thread
from textbook.cloneclient import CloneClient, CloneClient5, CloneClient6
from textbook.cloneserver import CloneServer, CloneServer5, CloneServer6

import zmqkit

SOON = 30.0
servers = pytest.mark.parametrize(
    ("kind", "client"), [(CloneServer, CloneClient), (CloneServer5, CloneClient5), (CloneServer6, CloneClient6)]
)


def until(question: Callable[[], Any]) -> Any:
    end = time.monotonic() + SOON
    while not (answer := question()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
    return answer


def clone(endpoint: str) -> str:
    return endpoint.replace("tcp://", "clone://")


def taken(sub: Any) -> zmqkit.Event:
    event = sub.get(SOON)
    assert event is not None
    return event


@servers
def test_a_topic_there_is_followed_and_published_into(kind: type[CloneServer], client: type[CloneClient]) -> None:
    with kind() as server, client(server.endpoint, b"/client/") as textbook, zmqkit.connect(clone(server.endpoint)) as mq:
        textbook.seen("loaded", within=SOON)
        topic = mq.topic("whatever")
        receipt = topic.publish("/client/ours", b"1", timeout=SOON)
        assert (receipt.durability, receipt.seq) == ("sent", 0)
        textbook.seen("update", b"/client/ours", within=SOON)
        if client is CloneClient6:  # what it says before the server has subscribed goes nowhere
            until(lambda: textbook.set(b"/client/theirs", b"2") and b"/client/theirs" in textbook.values)
        else:
            textbook.set(b"/client/theirs", b"2")
        textbook.seen("update", b"/client/theirs", within=SOON)
        with topic.subscribe("/client/") as sub:
            assert sub.wait_ready(SOON)
            until(lambda: sub.state.copy() == {"/client/ours": b"1", "/client/theirs": b"2"})
            topic.publish("/client/text", "Größe", timeout=SOON)
            topic.publish("/other", b"x", timeout=SOON)
            topic.delete("/client/ours", timeout=SOON)
            until(lambda: sub.state.copy() == {"/client/theirs": b"2", "/client/text": "Größe".encode()})
            until(lambda: textbook.values == {b"/client/theirs": b"2", b"/client/text": "Größe".encode()})


def test_a_ttl_is_ended_by_the_server() -> None:
    with CloneServer6() as server, zmqkit.connect(clone(server.endpoint)) as mq, mq.topic("t").subscribe() as sub:
        assert sub.wait_ready(SOON)
        mq.topic("t").publish("k", b"v", ttl=1.5, timeout=SOON)
        assert server.seen("set", b"k", within=SOON)[4] == b"ttl=1.5\n"
        assert taken(sub).value == b"v"
        event = taken(sub)
        assert event.key == "k" and event.deleted and not sub.state


def test_late_joiners_miss_nothing_though_the_server_answers_at_once() -> None:
    with CloneServer6() as server, ExitStack() as stack:
        mq = stack.enter_context(zmqkit.connect(clone(server.endpoint)))
        topic, ended = mq.topic("t"), list[bool]()

        def publish() -> None:
            number = 0
            while not ended:
                number += 1
                topic.publish_soon(f"k{number % 50}", b"%d" % number)
                if number % 10 == 0:
                    time.sleep(0.01)
            topic.publish("end", b"%d" % number, timeout=SOON)

        publisher = in_thread(publish)
        try:
            subs = []
            for _ in range(20):
                sub = stack.enter_context(topic.subscribe())
                assert sub.wait_ready(SOON)
                subs.append(sub)
            ended.append(True)
            publisher.join(SOON)
            server.seen("set", b"end", within=SOON)
            until(lambda: b"end" in server.state)
            truth = {key.decode(): frames[4] for key, frames in list(server.state.items())}
            for sub in subs:
                until(lambda sub=sub: sub.state.copy() == truth)
        finally:
            ended.append(True)


def test_a_server_that_is_restarted_is_found_again_and_its_state_comes_anew_with_a_gap() -> None:
    with CloneServer6() as first, zmqkit.connect(clone(first.endpoint)) as mq, mq.topic("t").subscribe() as sub:
        mq.topic("t").publish("before", b"1", timeout=SOON)
        assert sub.wait_ready(SOON)
        assert taken(sub).key == "before"
        first.stop()
        with CloneServer6(first.endpoint):
            mq.topic("t").publish("after", b"2", timeout=SOON)
            seen: dict[str, Any] = {}
            gaps = []
            while seen.keys() != {"before", "after"} or not seen["before"].deleted:
                event = sub.get(1.0)
                if event is None:  # what leaves for a server that just ends goes with it: that protocol confirms nothing
                    mq.topic("t").publish("after", b"2", timeout=SOON)
                    continue
                seen[event.key] = event
                gaps += [event.gap] if event.gap is not None else []
            assert len(gaps) >= 1 and seen["after"].value == b"2" and sub.state.copy() == {"after": b"2"}


def test_a_silent_server_that_says_hugz_as_a_rule_is_left_and_a_server_without_hugz_is_not() -> None:
    with CloneServer6() as server, zmqkit.connect(clone(server.endpoint)) as mq, mq.topic("t").subscribe() as sub:
        assert sub.wait_ready(SOON)
        server.mute = True
        server.seen("asked", b"", within=SOON)
        server.seen("asked", b"", within=SOON)


def test_who_follows_a_node_follows_its_topic() -> None:
    with zmqkit.Node(clone=ANY) as node, zmqkit.connect(clone(node.gateways["clone"][0])) as mq, mq.topic("t").subscribe("a/") as sub:
        node.topic("clone").publish("a/1", {"x": 1}, timeout=SOON)
        assert json.loads(taken(sub).value) == {"x": 1}
        mq.topic("t").publish("a/2", b"2", timeout=SOON)
        assert taken(sub).value == b"2" and until(lambda: node.topic("clone").info(SOON).keys == 2)
        sub.add("b/")
        node.topic("clone").publish("b/1", b"3", timeout=SOON)
        until(lambda: sub.state.copy().keys() == {"a/1", "a/2", "b/1"})
        sub.remove("a/")
        until(lambda: sub.state.copy().keys() == {"b/1"})


def test_a_server_that_is_not_there_is_waited_for_and_said_to_be_missing() -> None:
    with CloneServer() as server:
        endpoint = server.endpoint
    with zmqkit.connect(clone(endpoint)) as mq, mq.topic("t").subscribe() as sub:
        assert not sub.wait_ready(0.1)
        with pytest.raises(zmqkit.NotSent, match="nobody listens there"):
            until(lambda: mq._session.links.trouble == "nobody listens there") and mq.topic("t").publish("k", b"v", timeout=0.1)  # type: ignore[attr-defined]
        with CloneServer(endpoint):
            assert sub.wait_ready(SOON)
            mq.topic("t").publish("k", b"v", timeout=SOON)
            assert taken(sub).value == b"v"


def test_what_a_clone_server_has_not_is_said() -> None:
    with CloneServer() as server, zmqkit.connect(clone(server.endpoint)) as mq:
        for refused in (
            lambda: mq.queue("q"), lambda: mq.topics(), lambda: mq.topic("t").info(), lambda: mq.call("s"), lambda: mq.service("s", print),
            lambda: mq.topic("t").subscribe(start=3).wait_ready(), lambda: mq.topic("t").subscribe(start="beginning").get(SOON),
            lambda: mq.topic("t").subscribe(name="ui").get(SOON),
        ):  # fmt: skip
            with pytest.raises(zmqkit.Error, match=r"Clone server|one topic"):
                refused()
    for wrong in ("clone://127.0.0.1", "clone://127.0.0.1:65534"):
        with pytest.raises(zmqkit.Unreachable):
            zmqkit.connect(wrong)
    with pytest.raises(zmqkit.Error, match="alone"):
        zmqkit.connect("clone://127.0.0.1:1", "tcp://127.0.0.1:2")


def test_asyncio_follows_and_publishes_there_too() -> None:
    async def main(endpoint: str) -> None:
        async with zmqkit.aio.connect(endpoint) as mq, mq.topic("t").subscribe("k") as sub:
            await mq.topic("t").publish("k1", b"v", timeout=SOON)
            async for event in sub:
                assert (event.key, event.value) == ("k1", b"v")
                break

    with CloneServer6() as server:
        asyncio.run(main(clone(server.endpoint)))


def test_commands_follow_and_publish_there_too() -> None:
    with CloneServer6() as server:
        endpoint = clone(server.endpoint)
        command = [*ZMQKIT, "sub", "any", "/client/", "--count", "2", "--connect", endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            try:
                assert succeeds("pub", "any", "/client/a", "apple", "-r", "--connect", endpoint) == ["confirmed 1"]
                assert succeeds("pub", "any", "/client/b", "[1]", "--connect", endpoint) == ["confirmed 1"]
                lines = process.communicate(timeout=SOON)[0].splitlines()
            finally:
                process.kill()
    assert [json.loads(line)["key"] for line in lines] == ["/client/a", "/client/b"] and process.returncode == 0
    assert [json.loads(line)["value"] for line in lines] == [{"base64": "YXBwbGU="}, {"base64": "WzFd"}], "values there are bytes"
