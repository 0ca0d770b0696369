"""`zmqkit pub`, `sub` and `topic`, as processes against a broker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from uuid import uuid4

import pytest
from cli_world import ZMQKIT, environment, fails, node, succeeds

from zmqkit.cli.processes import Broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with node(tmp_path_factory.mktemp("journal")) as broker:
        yield broker


@pytest.fixture
def at(broker: Broker) -> list[str]:
    return ["--connect", broker.endpoint]


@pytest.fixture
def name() -> str:
    return f"t{uuid4().hex[:8]}"


def rows(lines: list[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines]


def test_what_is_published_is_followed_as_json_lines(at: list[str], name: str) -> None:
    assert succeeds("pub", name, "a", '{"bid": 1}', *at) == ["confirmed 1"]
    succeeds("pub", name, "b", "text", "-r", *at)
    succeeds("pub", name, "a", "-d", *at)
    assert rows(succeeds("sub", name, "-n", "1", *at)) == [{"key": "b", "value": "text", "seq": 3, "from_snapshot": True}]
    assert rows(succeeds("sub", name, "--start", "beginning", "-n", "3", *at)) == [
        {"key": "a", "value": {"bid": 1}, "seq": 1},
        {"key": "b", "value": "text", "seq": 2},
        {"key": "a", "value": None, "seq": 3, "deleted": True},
    ]
    assert rows(succeeds("sub", name, "--state", *at)) == [{"key": "b", "value": "text"}]


def test_one_topic_is_copied_into_another_by_a_pipe(at: list[str], name: str) -> None:
    lines = "".join(json.dumps({"key": f"k{number}", "value": number}) + "\n" for number in range(300)) + '{"key": "k7", "deleted": true}\n'
    assert succeeds("pub", name, *at, stdin=lines) == ["confirmed 301"]
    told = succeeds("sub", name, "--start", "beginning", "-n", "301", *at)
    assert succeeds("pub", f"{name}-copy", *at, stdin="\n".join(told)) == ["confirmed 301"]
    state = {str(row["key"]): row["value"] for row in rows(succeeds("sub", f"{name}-copy", "--state", *at))}
    assert state == {f"k{number}": number for number in range(300) if number != 7}


def test_a_topic_is_bound_to_a_queue_and_removed(at: list[str], name: str) -> None:
    assert succeeds("topic", "bind", name, "paid.", f"{name}-q", *at) == [f"updates of {name} under 'paid.' are messages of {name}-q"]
    succeeds("pub", name, "paid.1", "7", *at)
    assert succeeds("get", f"{name}-q", *at) == ["7"]
    succeeds("topic", "bind", name, "paid.", f"{name}-q", "--off", *at)
    succeeds("pub", name, "paid.1", "8", *at)
    assert succeeds("topic", "rm", name, "--dry-run", *at) == [f"would remove {name} with 1 keys and 2 updates"]
    assert succeeds("topic", "rm", name, *at) == [f"removed {name} with 1 keys and 2 updates"]
    assert "no topic" in fails(1, "topic", "rm", name, *at)


def test_a_position_under_a_name_goes_on_in_the_next_process(at: list[str], name: str) -> None:
    for number in range(4):
        succeeds("pub", name, "k", str(number), *at)
    first = rows(succeeds("sub", name, "--name", "ui", "--start", "beginning", "-n", "2", "--timeout", "5s", *at))
    second = rows(succeeds("sub", name, "--name", "ui", "-n", "2", "--timeout", "5s", *at))
    assert [row["seq"] for row in first] == [1, 2] and [row["seq"] for row in second] in ([3, 4], [2, 3])  # at least once


def test_follow_goes_on_until_the_reader_leaves(broker: Broker, at: list[str], name: str) -> None:
    process = subprocess.Popen([*ZMQKIT, "sub", name, "--start", "now", *at], stdout=subprocess.PIPE, env=environment(), text=True)
    assert process.stdout is not None
    for number in range(50):  # until it follows: what came before that is not for it
        succeeds("pub", name, "k", str(number), *at)
        if rows(succeeds("topic", "info", name, "-o", "jsonl", *at))[0]["subscribers"]:
            break
    succeeds("pub", name, "last", "1", *at)
    found = [json.loads(process.stdout.readline()) for _ in range(1)]
    while found[-1]["key"] != "last":
        found.append(json.loads(process.stdout.readline()))
    process.terminate()
    process.communicate(timeout=5.0)


def test_topics_are_listed_and_what_they_keep_is_changed_field_by_field(at: list[str], name: str) -> None:
    succeeds("pub", name, "a", "1", *at)
    (told,) = rows(succeeds("topic", "info", name, "-o", "jsonl", *at))
    assert (told["name"], told["seq"], told["keys"]) == (name, 1, 1)
    assert any(line.startswith(name) for line in succeeds("topic", "ls", *at))
    succeeds("topic", "policy", name, "--max-messages", "5", "--max-age", "1h", *at)
    (policy,) = rows(succeeds("topic", "policy", name, "--max-age", "0", "-o", "jsonl", *at))
    assert policy == {"durability": None, "keep_values": True, "max_messages": 5, "max_bytes": None, "max_age": None}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["pub", "t", "a", "no json"], 1, "put strings in quotes"),
        (["pub", "t", "a"], 2, "give a VALUE"),
        (["pub", "t", "a", "1", "-d"], 2, "has no VALUE"),
        (["pub", "t", "--ttl", "1s"], 2, "go with a KEY"),
        (["sub", "t", "--start", "soon"], 2, "EPOCH:SEQ"),
        (["topic", "info", "nobody"], 1, "no topic"),
        (["topic", "policy", "nobody"], 1, "no topic"),
    ],
)
def test_a_mistake_is_one_line(at: list[str], arguments: list[str], code: int, says: str) -> None:
    assert says in fails(code, *arguments, *at)


def test_a_line_that_is_no_update_is_named(at: list[str], name: str) -> None:
    assert "line 2" in fails(1, "pub", name, *at, stdin='{"key": "a", "value": 1}\n{"value": 2}\n')
