"""`zmqkit call` and `zmqkit serve` against a real node: as a caller in a shell sees a service, and as a command serves one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from cli_world import ZMQKIT, environment, fails, node, succeeds, zmqkit as run
from handle_world import SOON, eventually

import zmqkit
from zmqkit.cli.processes import Broker

PYTHON = sys.executable


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with node(tmp_path_factory.mktemp("node"), journal=False) as running:
        yield running


@pytest.fixture
def at(broker: Broker) -> list[str]:
    return ["--connect", broker.endpoint]


@pytest.fixture
def name() -> str:
    """A service of this test's own."""
    return f"s-{uuid4().hex[:8]}"


@contextmanager
def worker(broker: Broker, name: str, function: Callable) -> Iterator[None]:
    """That function serves, in this process."""
    with zmqkit.connect(broker.endpoint) as mq:
        mq.service(name, function)
        serving = mq.serve(threads=2, block=False)
        yield
        serving.stop()


@contextmanager
def serve(broker: Broker, name: str, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`zmqkit serve`, once it says that it serves; killed at the end if it is still there."""
    command = [*ZMQKIT, "serve", name, "--connect", broker.endpoint, *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(**variables))
    try:
        assert process.stderr and process.stderr.readline().startswith(f"serving {name} at ")
        yield process
    finally:
        process.kill()
        process.communicate()


# -- call -----------------------------------------------------------------------------------------------------------------


def test_the_answer_is_a_line_of_json_and_the_body_an_argument_or_stdin_or_nothing(broker: Broker, at: list[str], name: str) -> None:
    with worker(broker, name, lambda body: {"got": body}):
        assert succeeds("call", name, '{"a": [1, null]}', *at) == ['{"got": {"a": [1, null]}}']
        assert succeeds("call", name, *at, stdin='{"b":\n 2}\n') == ['{"got": {"b": 2}}']
        assert succeeds("call", name, *at) == ['{"got": null}']


def test_raw_is_text_both_ways(broker: Broker, at: list[str], name: str) -> None:
    with worker(broker, name, lambda body: body):
        assert succeeds("call", name, "-r", "plain ünïcode", *at) == ["plain ünïcode"]
        assert succeeds("call", name, "-r", *at, stdin="two\nlines\n") == ["two", "lines"]
    with worker(broker, name, lambda body: {"length": len(body)}):
        assert succeeds("call", name, "-r", *at, stdin="two\nlines\n") == ['{"length": 9}']  # without the last line end


def test_bytes_that_are_no_text_travel_as_they_are(broker: Broker, at: list[str], name: str) -> None:
    data = bytes(range(256)) + b"\n"
    with worker(broker, name, lambda body: body):
        done = subprocess.run([*ZMQKIT, "call", name, "-r", *at], input=data, capture_output=True, timeout=30, env=environment())
    assert (done.returncode, done.stdout) == (0, data), done.stderr


def test_parts_of_a_stream_are_a_line_each(broker: Broker, at: list[str], name: str) -> None:
    with worker(broker, name, lambda body: ({"part": n} for n in range(body))):
        assert succeeds("call", name, "--stream", "3", *at) == ['{"part": 0}', '{"part": 1}', '{"part": 2}']
        assert "use stream()" in fails(1, "call", name, "3", *at)


def test_parts_are_printed_before_the_stream_has_ended(broker: Broker, at: list[str], name: str) -> None:
    def endless(body: object) -> Iterator[int]:
        yield 1
        while not zmqkit.current().cancelled:
            yield 2

    with worker(broker, name, endless):
        command = [*ZMQKIT, "call", name, "--stream", "null", *at]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        assert process.stdout and process.stderr and process.stdout.readline() == b"1\n"
        process.stdout.close()  # as `| head -1` does
        assert process.wait(SOON) != 0 and process.stderr.read() == b""
        process.stderr.close()


def test_a_key_is_answered_once(broker: Broker, at: list[str], name: str) -> None:
    executed: list[object] = []
    with worker(broker, name, lambda body: executed.append(body) or len(executed)):
        assert succeeds("call", name, "1", "--key", "k", *at) == ["1"]
        assert succeeds("call", name, "1", "--key", "k", *at) == ["1"]
    assert executed == [1]


def test_nobody_serves_it(broker: Broker, at: list[str], name: str) -> None:
    told = fails(1, "call", name, "1", "--retries", "0", *at)
    assert f"nobody serves {name!r}" in told and f"zmqkit serve {name}" in told
    assert f"nobody serves {name!r}" in fails(1, "call", name, "1", "--timeout", "300ms", *at)


def test_a_timeout_says_whether_the_call_may_have_been_executed(broker: Broker, at: list[str], name: str) -> None:
    gate = threading.Event()
    with worker(broker, name, lambda body: gate.wait(30.0)):
        told = fails(1, "call", name, "1", "--timeout", "500ms", *at)
        assert "it may have been executed" in told and "give calls a --key" in told
        told = fails(1, "call", name, "1", "--timeout", "500ms", "--key", "k", *at)
        assert "it may have been executed" in told and "again with the same --key" in told
        gate.set()


def test_a_call_that_no_worker_had_room_for_was_not_executed(broker: Broker, at: list[str], name: str) -> None:
    gate = threading.Event()
    with zmqkit.connect(broker.endpoint) as mq:
        mq.service(name, lambda body: gate.wait(30.0))
        serving = mq.serve(threads=1, credit=1, block=False)
        running = mq.call_soon(name, timeout=30.0)
        told = fails(1, "call", name, "1", "--timeout", "500ms", *at)
        assert "it was not executed" in told and "may have been" not in told
        gate.set()
        assert running.result(SOON) is True
        serving.stop()


def test_a_failure_of_the_service_is_a_line_and_its_traceback_comes_with_v(broker: Broker, at: list[str], name: str) -> None:
    with worker(broker, name, lambda body: {}[body]):
        told = fails(1, "call", name, '"pear"', *at)
        assert f"{name!r} failed: KeyError: 'pear'" in told and "-v" in told
        done = run("call", name, '"pear"', "-v", *at)
        assert done.returncode == 1 and "Traceback" in done.stderr and "test_cli_call.py" in done.stderr
        assert done.stderr.splitlines()[-1] == f"zmqkit: {name!r} failed: KeyError: 'pear'"


def test_no_node_no_json_and_wrong_usage(at: list[str], name: str) -> None:
    assert "no zmqkit node at" in fails(1, "call", name, "1", "--timeout", "300ms", "--connect", "tcp://127.0.0.1:1")
    assert "the body is no JSON: 'oops'" in fails(1, "call", name, "oops", *at)
    assert "stdin is no JSON: '{'" in fails(1, "call", name, *at, stdin="{")
    assert "--stream takes no --key" in fails(2, "call", name, "1", "--stream", "--key", "k", *at)
    assert "no duration" in fails(2, "call", name, "1", "--timeout", "soon", *at)


# -- serve ----------------------------------------------------------------------------------------------------------------


def test_a_command_serves_json(broker: Broker, at: list[str], name: str) -> None:
    upper = "import json, sys; line = sys.stdin.readline(); print(json.dumps({'got': json.loads(line)}, indent=1))"
    with serve(broker, name, "--", PYTHON, "-c", upper):
        assert succeeds("call", name, '{"a": "ü"}', *at) == ['{"got": {"a": "ü"}}']
        assert succeeds("call", name, *at) == ['{"got": null}']


def test_a_command_serves_raw_text_and_bytes(broker: Broker, at: list[str], name: str) -> None:
    with serve(broker, name, "-r", "--", "tr", "a-z", "A-Z"):
        assert succeeds("call", name, "-r", "hello", *at) == ["HELLO"]
        assert succeeds("call", name, '{"a": 1}', *at) == ['"{\\"A\\": 1}"']
        with zmqkit.connect(broker.endpoint) as mq:
            assert mq.call(name, b"\xffab\n") == b"\xffAB\n"


def test_a_command_that_prints_nothing_answers_null_and_one_that_prints_no_json_fails(broker: Broker, at: list[str], name: str) -> None:
    with serve(broker, name, "--", "sh", "-c", "read body; test $body = 1 || echo oops"):
        assert succeeds("call", name, "1", *at) == ["null"]
        assert "NoJSON: the command printed 'oops" in fails(1, "call", name, "2", *at)


def test_a_command_that_fails_is_a_remote_error_with_its_stderr(broker: Broker, at: list[str], name: str) -> None:
    with serve(broker, name, "--", "sh", "-c", "echo first >&2; echo 'sold out' >&2; exit 3"):
        told = fails(1, "call", name, "1", *at)
        assert f"{name!r} failed: CommandFailed: exit 3: sold out" in told
        with zmqkit.connect(broker.endpoint) as mq, pytest.raises(zmqkit.RemoteError) as caught:
            mq.call(name)
        assert (caught.value.kind, caught.value.message) == ("CommandFailed", "exit 3: sold out")
        assert caught.value.traceback == "first\nsold out"
    with (
        serve(broker, name, "--", "sh", "-c", "kill -9 $$"),
        zmqkit.connect(broker.endpoint) as mq,
        pytest.raises(zmqkit.RemoteError, match="killed by SIGKILL"),
    ):
        mq.call(name)


def test_a_command_knows_its_service_key_deadline_and_attempt(broker: Broker, at: list[str], name: str) -> None:
    show = "import os, json; print(json.dumps([os.environ['ZMQKIT_' + n] for n in ('SERVICE', 'KEY', 'DEADLINE', 'ATTEMPT')]))"
    with (
        serve(broker, name, "--", PYTHON, "-c", show, ZMQKIT_KEY="another's", ZMQKIT_DEADLINE="1"),
        zmqkit.connect(broker.endpoint) as mq,
    ):
        service, key, deadline, attempt = mq.call(name, timeout=100.0, idempotency_key="k-1")
        assert (service, key, attempt) == (name, "k-1", "1")
        assert 80.0 < float(deadline) - eventually(now) < 101.0
        assert mq.call(name, timeout=None) == [name, "", "", "1"]


def now() -> float:
    return float(subprocess.check_output(["date", "+%s.%N"]))


STUBBORN = """
import os, signal, subprocess, sys, time
place = sys.argv[1]
def heard(*_):
    open(place + "/heard", "w").close()
    {then}
signal.signal(signal.SIGTERM, heard)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100)"])
with open(place + "/new", "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}")
os.rename(place + "/new", place + "/pids")
while True:
    time.sleep(100)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(place: Path) -> list[int]:
    return [int(pid) for pid in eventually(lambda: (place / "pids").exists() and (place / "pids").read_text()).split()]


@pytest.mark.parametrize("then", ["sys.exit(1)", "pass"])
def test_a_cancelled_call_ends_its_command_and_what_that_has_started(broker: Broker, name: str, tmp_path: Path, then: str) -> None:
    command = ["--threads", "1", "--", PYTHON, "-c", STUBBORN.format(then=then), str(tmp_path)]
    with serve(broker, name, *command) as process, zmqkit.connect(broker.endpoint) as mq:
        future = mq.call_soon(name, timeout=60.0)
        running = pids(tmp_path)
        assert all(map(alive, running))
        future.cancel()
        eventually((tmp_path / "heard").exists)  # first it is asked
        eventually(lambda: not any(map(alive, running)))
        assert process.poll() is None
        (tmp_path / "pids").unlink()
        again = mq.call_soon(name, timeout=60.0)  # its only thread is free again
        running = pids(tmp_path)
        again.cancel()
        eventually(lambda: not any(map(alive, running)))


def test_a_call_whose_time_is_over_ends_its_command(broker: Broker, at: list[str], name: str, tmp_path: Path) -> None:
    with serve(broker, name, "--", PYTHON, "-c", STUBBORN.format(then="sys.exit(1)"), str(tmp_path)):
        assert "it may have been executed" in fails(1, "call", name, "1", "--timeout", "1s", *at)
        running = pids(tmp_path)
        eventually(lambda: not any(map(alive, running)))


def test_a_command_that_runs_longer_than_the_worker_allows_is_ended(broker: Broker, at: list[str], name: str) -> None:
    with serve(broker, name, "--timeout", "200ms", "--", "sleep", "100"):
        assert "CommandEnded: it was ended: it ran for more than 0.2 s" in fails(1, "call", name, "1", *at)


def test_a_command_that_prints_without_end_is_ended(broker: Broker, at: list[str], name: str) -> None:
    with serve(broker, name, "-r", "--", "yes"):
        assert "CommandEnded: it was ended: it printed more than" in fails(1, "call", name, "1", "--timeout", "20s", *at)


def test_what_a_command_leaves_running_holds_no_answer_up(broker: Broker, name: str, tmp_path: Path) -> None:
    with serve(broker, name, "--", "sh", "-c", "sleep 30 & echo $!"), zmqkit.connect(broker.endpoint) as mq:
        left = mq.call(name, timeout=10.0)
        assert alive(left)
        os.kill(left, signal.SIGKILL)


def takes_no_more(mq: zmqkit.Client, name: str) -> bool:
    try:
        mq.call(name, timeout=0.3, retries=0)
    except zmqkit.Timeout:
        return False
    except zmqkit.NoWorker:
        return True
    return False


def test_sigterm_lets_what_runs_end_and_answers_it(broker: Broker, name: str, tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    script = f"touch {begun}; while ! test -e {gate}; do sleep 0.02; done; echo 42"
    with serve(broker, name, "--", "sh", "-c", script) as process, zmqkit.connect(broker.endpoint) as mq:
        future = mq.call_soon(name, timeout=60.0)
        eventually(begun.exists)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: takes_no_more(mq, name))
        assert process.poll() is None and not future.done()
        gate.touch()
        assert future.result(SOON) == 42
        assert process.wait(SOON) == 0


def test_a_second_sigterm_ends_at_once_and_leaves_no_command_behind(broker: Broker, name: str, tmp_path: Path) -> None:
    with (
        serve(broker, name, "--", PYTHON, "-c", STUBBORN.format(then="pass"), str(tmp_path)) as process,
        zmqkit.connect(broker.endpoint) as mq,
    ):
        future = mq.call_soon(name, timeout=60.0)
        running = pids(tmp_path)
        process.send_signal(signal.SIGINT)
        eventually(lambda: takes_no_more(mq, name))
        assert all(map(alive, running))
        process.send_signal(signal.SIGINT)
        assert process.wait(SOON) == 130
        eventually(lambda: not any(map(alive, running)))
        future.cancel()


def test_a_keyed_call_of_a_killed_worker_is_a_second_attempt_at_another(broker: Broker, name: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    script = f"test $ZMQKIT_ATTEMPT = 1 || exec echo $ZMQKIT_ATTEMPT; echo $$ > {begun}.new; mv {begun}.new {begun}; exec sleep 100"
    command = ["--", "sh", "-c", script]
    with serve(broker, name, *command) as first, zmqkit.connect(broker.endpoint) as mq:
        future = mq.call_soon(name, timeout=30.0, idempotency_key=name)
        left = int(eventually(lambda: begun.exists() and begun.read_text()))
        try:
            with serve(broker, name, *command):
                first.kill()
                assert future.result(10.0) == 2
        finally:
            os.kill(left, signal.SIGKILL)  # nobody is left to end it


def test_what_cannot_serve_says_so(at: list[str], name: str) -> None:
    assert "there is no command 'no-such-command'" in fails(2, "serve", name, *at, "--", "no-such-command")
    assert "Missing argument" in fails(2, "serve", name, *at)
    assert "no zmqkit node at" in fails(1, "serve", name, "--connect", "tcp://127.0.0.1", "--", "true")
    assert json.loads(succeeds("queue", "ls", "-o", "json", *at)[0]) == []  # and no queue has come into being by any of this
