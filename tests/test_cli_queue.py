"""`zmqkit put`, `get`, `queue` and `dead` against a real node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from cli_world import fails, node, succeeds

import zmqkit
from zmqkit.cli.processes import Broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with node(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def at(broker: Broker) -> list[str]:
    return ["--connect", broker.endpoint]


@pytest.fixture
def name() -> str:
    """A queue of this test's own."""
    return f"q-{uuid4().hex[:8]}"


def test_bodies_come_out_in_the_order_they_were_put_and_are_gone_then(at: list[str], name: str) -> None:
    assert succeeds("put", name, '{"a": [1, null]}', '"text"', "3", *at) == ["confirmed 3"]
    assert succeeds("get", name, "--count", "2", *at) == ['{"a": [1, null]}', '"text"']
    assert succeeds("get", name, *at) == ["3"]
    assert succeeds("get", name, *at) == []


def test_stdin_is_one_body_a_line_and_raw_lines_are_text(at: list[str], name: str) -> None:
    assert succeeds("put", name, *at, stdin='1\n\n{"b": 2}\n') == ["confirmed 2"]
    assert succeeds("put", name, "--raw", *at, stdin="plain ünïcode\n7\n") == ["confirmed 2"]
    assert succeeds("get", name, *at) == ["1", '{"b": 2}', '"plain ünïcode"', '"7"']


def test_ten_thousand_lines_are_one_command_each_way(at: list[str], name: str) -> None:
    assert succeeds("put", name, *at, stdin="".join(f"{n}\n" for n in range(10_000))) == ["confirmed 10000"]
    assert [int(line) for line in succeeds("get", name, *at)] == list(range(10_000))


def test_a_body_that_is_no_json_is_named_and_what_came_before_it_is_confirmed(at: list[str], name: str) -> None:
    assert "argument 2 is no JSON: 'oops'" in fails(1, "put", name, "1", "oops", *at)
    assert succeeds("get", name, *at) == []  # of arguments nothing is sent
    assert "line 3 is no JSON" in fails(1, "put", name, *at, stdin="1\n2\n{\n4\n")
    assert succeeds("get", name, *at) == ["1", "2"]


def test_keep_only_looks(at: list[str], name: str) -> None:
    succeeds("put", name, "1", "2", *at)
    assert succeeds("get", name, "--no-ack", *at) == succeeds("get", name, "--keep", *at) == ["1", "2"]
    assert [json.loads(line)["attempt"] for line in succeeds("get", name, "-v", *at)] == [1, 1]


def test_keep_looks_at_all_there_is_and_at_no_more_than_is_asked_for(at: list[str], name: str) -> None:
    succeeds("put", name, *at, stdin="".join(f"{n}\n" for n in range(2500)))
    assert [int(line) for line in succeeds("get", name, "--keep", *at)] == list(range(2500))
    assert [int(line) for line in succeeds("get", name, "--keep", "--count", "1200", *at)] == list(range(1200))


def test_a_body_of_bytes_is_printed_as_base64(broker: Broker, at: list[str], name: str) -> None:
    with zmqkit.connect(broker.endpoint) as mq:
        mq.queue(name).put(b"\x00\xff")
    assert succeeds("get", name, *at) == ['{"base64": "AP8="}']


def test_the_endpoint_may_stand_in_the_environment(broker: Broker, name: str) -> None:
    assert succeeds("put", name, "1", ZMQKIT_ENDPOINT=broker.endpoint) == ["confirmed 1"]
    assert succeeds("get", name, ZMQKIT_ENDPOINT=broker.endpoint, ZMQKIT_GET_VERBOSE="1") == [
        '{"seq": 1, "attempt": 1, "headers": {}, "body": 1}'
    ]


def test_queues_are_listed_with_their_counts(at: list[str], name: str) -> None:
    succeeds("put", name, "1", "2", *at)
    found = {row["name"]: row for row in map(json.loads, succeeds("queue", "ls", "-o", "jsonl", *at))}
    assert (found[name]["ready"], found[name]["leased"], found[name]["paused"]) == (2, 0, False)
    assert json.loads(succeeds("queue", "info", name, "-o", "json", *at)[0])[0]["ready"] == 2
    head, *rows = succeeds("queue", "ls", *at)
    assert head.split()[:2] == ["NAME", "READY"] and any(row.split()[:2] == [name, "2"] for row in rows)


def test_a_queue_is_looked_into_emptied_and_removed_after_a_dry_run(at: list[str], name: str) -> None:
    succeeds("put", name, '"x"', '"y"', *at)
    assert [json.loads(line)["body"] for line in succeeds("queue", "peek", name, "-o", "jsonl", *at)] == ["x", "y"]
    assert succeeds("queue", "purge", name, "--dry-run", *at) == ["would purge 2"]
    assert succeeds("queue", "purge", name, *at) == ["purged 2"]
    succeeds("put", name, "1", *at)
    assert succeeds("queue", "rm", name, "--dry-run", *at) == [f"would remove {name} with 1 messages"]
    assert succeeds("queue", "rm", name, *at) == [f"removed {name} with 1 messages"]
    assert f"no queue '{name}'" in fails(1, "queue", "info", name, *at)


def test_a_paused_queue_takes_but_does_not_give(at: list[str], name: str) -> None:
    succeeds("put", name, "1", *at)
    succeeds("queue", "pause", name, *at)
    assert succeeds("put", name, "2", *at) == ["confirmed 1"]
    assert json.loads(succeeds("queue", "info", name, "-o", "json", *at)[0])[0]["paused"] is True
    assert succeeds("get", name, *at) == []
    succeeds("queue", "resume", name, *at)
    assert succeeds("get", name, *at) == ["1", "2"]


def test_a_policy_is_shown_and_changed_field_by_field(at: list[str], name: str) -> None:
    assert "no queue" in fails(1, "queue", "policy", name, *at)
    succeeds("queue", "policy", name, "--max-attempts", "2", "--backoff", "250ms", "1m", *at)
    succeeds("queue", "policy", name, "--max-messages", "1", *at)
    policy = json.loads(succeeds("queue", "policy", name, "-o", "jsonl", *at)[0])
    assert (policy["max_attempts"], policy["backoff"], policy["max_messages"]) == (2, [0.25, 60.0], 1)
    succeeds("put", name, "1", *at)
    assert "full" in fails(1, "put", name, "2", *at)


def test_dead_letters_are_listed_shown_redriven_and_dropped(broker: Broker, at: list[str], name: str) -> None:
    with zmqkit.connect(broker.endpoint) as mq:
        q = mq.queue(name)
        q.put_many(["a", "b", "c"])
        for _ in range(3):
            d = q.get(timeout=5.0)
            assert d is not None
            d.reject("spoilt")
        mq.flush(5.0)
    letters = [json.loads(line) for line in succeeds("dead", "ls", name, "-o", "jsonl", *at)]
    assert [(letter["seq"], letter["body"]) for letter in letters] == [(1, "a"), (2, "b"), (3, "c")]
    assert {letter["reason"] for letter in letters} == {"spoilt"}
    assert f'{{"queue": "{name}", "dead": 3}}' in succeeds("dead", "ls", "-o", "jsonl", *at)
    assert json.loads(succeeds("dead", "show", name, "2", *at)[0])["body"] == "b"
    assert "no dead letter 9" in fails(1, "dead", "show", name, "9", *at)
    assert succeeds("dead", "redrive", name, "2", "--dry-run", *at) == ["would redrive 1"]
    assert succeeds("dead", "redrive", name, "2", *at) == ["redrove 1"]
    assert succeeds("get", name, *at) == ['"b"']
    assert succeeds("dead", "drop", name, "--dry-run", *at) == ["would drop 2"]
    assert succeeds("dead", "drop", name, *at) == ["dropped 2"]
    assert succeeds("dead", "ls", name, "-o", "jsonl", *at) == []


def test_a_mistake_in_the_call_is_usage_and_no_traceback(at: list[str]) -> None:
    assert "Usage: zmqkit put" in fails(2, "put", *at)
    assert "no duration" in fails(2, "get", "q", "--timeout", "soon", *at)
    assert "No such command" in fails(2, "puts")
    assert "--keep only looks" in fails(2, "get", "q", "--keep", "--follow", *at)


def test_an_unreachable_node_is_one_line_with_its_address(unused_endpoint: str) -> None:
    assert unused_endpoint in fails(1, "put", "q", "1", "--connect", unused_endpoint)


@pytest.fixture
def unused_endpoint() -> str:
    """A port that was free a moment ago."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def test_output_into_a_closed_pipe_is_no_failure_to_report(broker: Broker, at: list[str], name: str, tmp_path: Path) -> None:
    import subprocess

    from cli_world import ZMQKIT, environment

    succeeds("put", name, *at, stdin="".join(f'"{n:0500}"\n' for n in range(2000)))
    getter = subprocess.Popen([*ZMQKIT, "get", name, *at], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert getter.stdout and getter.stderr
    assert getter.stdout.readline()
    getter.stdout.close()
    assert getter.wait(30) != 0 and getter.stderr.read() == b""
    getter.stderr.close()


def test_what_is_no_address_is_said_so_without_waiting_for_it() -> None:
    assert fails(1, "queue", "ls", "--connect", "nonsense").startswith("zmqkit: no zmqkit node at nonsense: that is no address; give one")
