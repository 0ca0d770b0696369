"""Titanic: a request that is taken is executed and its answer kept, whatever goes down meanwhile, until it is closed or expires."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from handle_world import SOON, eventually
from textbook.mdworker import MajordomoWorker
from textbook.ticlient import TitanicClient
from titanic_world import Real, StandIn

import zmqkit
from zmqkit.handles import titanic
from zmqkit.handles.titanic import REPLIES, REQUESTS, Titanic

HEX = b"0123456789abcdef"
LARGE = 2**20 - 20  # as large as a call may be, and too large with what Titanic keeps beside it
Kind = type[StandIn] | type[Real]


@pytest.fixture(params=[StandIn, Real], ids=["stand-in", "real"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def node(kind: Kind) -> Iterator[Any]:
    with zmqkit.Node() as real:
        yield kind(real)


@contextmanager
def aboard(node: Any, **options: Any) -> Iterator[Titanic]:
    with Titanic(node, **options) as ship:
        yield ship


def request(node: Any, *frames: bytes) -> bytes:
    status, uuid = node.call("titanic.request", list(frames) if len(frames) > 1 else frames[0])
    assert status == b"200" and len(uuid) == 32 and all(letter in HEX for letter in uuid)
    return uuid  # type: ignore[no-any-return]


def reply(node: Any, uuid: bytes) -> list[bytes]:
    return node.call("titanic.reply", uuid)  # type: ignore[no-any-return]


def answered(node: Any, uuid: bytes) -> list[bytes]:
    return eventually(lambda: (told := reply(node, uuid))[0] != b"300" and told)  # type: ignore[no-any-return]


def close(node: Any, uuid: bytes) -> None:
    assert node.call("titanic.close", uuid) == [b"200"]


def left(node: Any) -> tuple[int, int]:
    """Messages in the two queues, in whatever state."""
    infos = [node.queue(name).info() for name in (REQUESTS, REPLIES)]
    requests, replies = (info.ready + info.leased + info.delayed + info.dead for info in infos)
    return requests, replies


# -- the protocol -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "asked", "told"), [
    ([b"one"], b"one", [b"ONE"]), ([b"one", b"two"], [b"one", b"two"], [b"ONE", b"TWO"]), ([], [], []), ([b""], b"", [b""]),
])  # fmt: skip
def test_a_request_is_executed_and_its_answer_told_frame_by_frame_as_often_as_it_is_asked_for(
    node: Any, frames: list[bytes], asked: Any, told: list[bytes]
) -> None:
    node.service("upper", lambda body: body.upper() if isinstance(body, bytes) else [frame.upper() for frame in body])
    with aboard(node):
        uuid = request(node, b"upper", *frames)
        assert answered(node, uuid) == [b"200", *told] == reply(node, uuid)
        assert [(service, body) for service, body, _ in node.asked if service == "upper"] == [("upper", asked)]
        eventually(lambda: left(node) == (0, 1))


def test_what_nobody_serves_yet_is_pending_and_executed_once_somebody_does(node: Any) -> None:
    with aboard(node):
        uuid = request(node, b"later", b"x")
        assert reply(node, uuid) == [b"300"]
        eventually(lambda: node.queue(REQUESTS).info().delayed)  # it was tried
        node.service("later", lambda body: body + b"!")
        assert answered(node, uuid) == [b"200", b"x!"]


def test_waiting_for_a_service_counts_no_attempt_and_holds_up_no_other(node: Any) -> None:
    with aboard(node, threads=2):
        waiting = [request(node, b"absent", b"%d" % n) for n in range(20)]
        node.service("echo", lambda body: body)
        assert answered(node, request(node, b"echo", b"here")) == [b"200", b"here"]
        assert all(message.attempt == 1 for message in node.queue(REQUESTS).peek(20, state="delayed"))
        assert {reply(node, uuid)[0] for uuid in waiting} == {b"300"}


def test_what_was_never_requested_is_unknown_and_may_be_closed_all_the_same(node: Any) -> None:
    with aboard(node):
        for uuid in (b"0" * 32, b"no uuid", b"../../etc/passwd", b"", b"0" * 31, b"\xff" * 32, b"0" * 32 + b"\n"):
            assert reply(node, uuid) == [b"400"]
            close(node, uuid)
        assert node.call("titanic.reply", [b"0" * 32, b"more"]) == node.call("titanic.reply", []) == [b"400"]


def test_a_uuid_may_be_written_in_capitals_and_by_a_text(node: Any) -> None:
    node.service("echo", lambda body: body)
    with aboard(node):
        uuid = request(node, b"echo", b"x")
        answered(node, uuid)
        assert reply(node, uuid.upper()) == [b"200", b"x"] == node.call("titanic.reply", [uuid.decode().upper()])
        close(node, uuid.upper())
        assert reply(node, uuid) == [b"400"]


@pytest.mark.parametrize("name", [b"", b"\xff", b"\0x", b"x" * 255, b"mmi.service", b"titanic.reply", 7, None])
def test_what_can_be_no_service_is_refused_at_once(node: Any, name: Any) -> None:
    with aboard(node):
        status, reason = node.call("titanic.request", [name, b"x"])
        assert status == b"400" and reason
        assert left(node) == (0, 0)


def test_an_answer_that_is_no_bytes_is_told_as_a_gateway_tells_it(node: Any) -> None:
    answers: dict[bytes, Any] = {b"text": "ä", b"map": {"a": [1, None]}, b"mixed": [b"a", 1], b"nothing": None}
    node.service("any", answers.__getitem__)
    with aboard(node):
        told = {name: answered(node, request(node, b"any", name))[1:] for name in answers}
    assert told == {b"text": ["ä".encode()], b"map": [b'{"a": [1, null]}'], b"mixed": [b'["a", 1]'], b"nothing": [b"null"]}


def test_a_full_queue_means_try_again_later(node: Any) -> None:
    node.declare(REQUESTS, zmqkit.QueuePolicy(max_messages=1))
    with aboard(node):
        uuid = request(node, b"absent", b"1")
        status, reason = node.call("titanic.request", [b"absent", b"2"])
        assert status == b"500" and b"full" in reason
        close(node, uuid)
        eventually(lambda: left(node) == (0, 0))  # at once, unless it was being tried just then
        request(node, b"absent", b"3")


def test_what_is_too_large_to_be_kept_is_refused(node: Any) -> None:
    with aboard(node):
        assert node.call("titanic.request", [b"echo", bytes(LARGE)])[0] == b"400"
        assert left(node) == (0, 0)


def test_a_request_is_settled_only_when_its_answer_is_stored(node: Any) -> None:
    node.declare(REPLIES, zmqkit.QueuePolicy(max_messages=1))
    node.queue(REPLIES).put("no room for another")
    node.service("echo", lambda body: body)
    with aboard(node):
        uuid = request(node, b"echo", b"x")
        eventually(lambda: node.queue(REQUESTS).info().delayed)
        assert reply(node, uuid) == [b"300"] and left(node) == (1, 1)
        node.queue(REPLIES).purge()
        assert answered(node, uuid) == [b"200", b"x"]
        eventually(lambda: left(node) == (0, 1))


def test_a_request_that_is_answered_before_its_client_hears_that_it_is_stored_is_an_ordinary_one(node: Any) -> None:
    node.service("echo", lambda body: body)
    with aboard(node) as ship:
        put = ship._requests.put

        def slow(*arguments: Any, **options: Any) -> zmqkit.Receipt:
            receipt = put(*arguments, **options)
            eventually(lambda: left(node) == (0, 1))
            return receipt

        ship._requests.put = slow  # type: ignore[method-assign]
        uuid = request(node, b"echo", b"x")
        assert reply(node, uuid) == [b"200", b"x"]
        close(node, uuid)
        assert left(node) == (0, 0)


# -- failures ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = zmqkit.QueuePolicy(max_attempts=1000, backoff=zmqkit.Backoff(0.001, 0.002))
    monkeypatch.setattr(titanic, "POLICY", policy)


@pytest.mark.usefixtures("impatient")
def test_a_service_that_fails_is_asked_again_under_another_key(node: Any) -> None:
    failures = iter([ValueError("first"), ValueError("second")])

    def shaky(body: bytes) -> bytes:
        for error in failures:
            raise error
        return body

    node.service("shaky", shaky)
    with aboard(node):
        uuid = request(node, b"shaky", b"x")
        assert answered(node, uuid) == [b"200", b"x"]
    keys = [key for service, _, key in node.asked if service == "shaky"]
    assert keys == [uuid.decode(), f"{uuid.decode()}.1", f"{uuid.decode()}.2"]


@pytest.mark.usefixtures("impatient")
def test_a_service_that_always_fails_makes_a_dead_letter_that_can_be_redriven(node: Any) -> None:
    broken = True

    def shaky(body: bytes) -> bytes:
        if broken:
            raise ValueError("broken")
        return body

    node.service("shaky", shaky)
    with aboard(node):
        uuid = request(node, b"shaky", b"x")
        status, reason = answered(node, uuid)
        assert status == b"500" and b"failed 8 times, the last time: ValueError: broken" in reason
        assert len([service for service, *_ in node.asked if service == "shaky"]) == titanic.FAILURES_MAX
        broken = False
        assert node.queue(REQUESTS).dead.redrive() == 1
        eventually(lambda: reply(node, uuid) == [b"200", b"x"])


def test_an_answer_that_is_too_large_to_be_kept_makes_a_dead_letter(node: Any) -> None:
    node.service("large", lambda body: bytes(LARGE))
    with aboard(node):
        status, reason = answered(node, request(node, b"large", b"x"))
        assert status == b"500" and b"cannot be kept" in reason


def test_something_else_in_the_queue_of_requests_becomes_a_dead_letter(node: Any) -> None:
    node.queue(REQUESTS).put("rubbish")
    node.queue(REPLIES).put("rubbish")
    node.service("echo", lambda body: body)
    with aboard(node):
        assert answered(node, request(node, b"echo", b"x")) == [b"200", b"x"]
        assert [letter.body for letter in eventually(node.queue(REQUESTS).dead.list)] == ["rubbish"]


# -- closing ----------------------------------------------------------------------------------------------------------------


def test_a_closed_answer_is_gone_and_closing_again_is_no_failure(node: Any) -> None:
    node.service("echo", lambda body: body)
    with aboard(node):
        one, other = request(node, b"echo", b"1"), request(node, b"echo", b"2")
        assert answered(node, one) and answered(node, other)
        close(node, one)
        close(node, one)
        assert reply(node, one) == [b"400"] and reply(node, other) == [b"200", b"2"]
        eventually(lambda: left(node) == (0, 1))


def test_a_request_that_is_closed_before_it_could_be_executed_never_is(node: Any) -> None:
    with aboard(node):
        uuid = request(node, b"later", b"x")
        eventually(lambda: node.queue(REQUESTS).info().delayed)
        close(node, uuid)
        assert reply(node, uuid) == [b"400"]
        eventually(lambda: left(node) == (0, 0))
        node.service("later", lambda body: body)
        node.service("echo", lambda body: body)
        answered(node, request(node, b"echo", b"x"))
    assert [service for service, *_ in node.asked if service == "later"] == []


def test_a_dead_letter_is_closed_too(node: Any) -> None:
    node.service("large", lambda body: bytes(LARGE))
    with aboard(node):
        uuid = request(node, b"large", b"x")
        answered(node, uuid)
        close(node, uuid)
        assert reply(node, uuid) == [b"400"] and left(node) == (0, 0)


def test_what_is_closed_while_it_is_executed_leaves_nothing_behind() -> None:
    """Here the call cannot be left, as when another process has the request in hand."""
    begun, end = threading.Event(), threading.Event()
    with zmqkit.Node() as real:
        node = StandIn(real)
        node.service("slow", lambda body: (begun.set(), end.wait(SOON), b"late")[2])
        with aboard(node):
            uuid = request(node, b"slow", b"x")
            assert begun.wait(SOON)
            close(node, uuid)
            assert reply(node, uuid) == [b"400"] and left(node) == (1, 1)  # the request, and a mark that it is closed
            close(node, uuid)
            end.set()
            eventually(lambda: left(node) == (0, 0))
            assert reply(node, uuid) == [b"400"]


def test_what_is_closed_while_it_is_executed_is_waited_for_no_longer() -> None:
    begun, end = threading.Event(), threading.Event()
    with zmqkit.Node() as real, aboard(real, threads=1):
        real.service("slow", lambda body: (begun.set(), end.wait(4 * SOON), b"for nobody")[2])
        more = real.serve(threads=2, block=False)
        uuid = request(real, b"slow", b"x")
        assert begun.wait(SOON)
        close(real, uuid)
        eventually(lambda: left(real) == (0, 0))
        real.service("echo", lambda body: body)
        assert answered(real, request(real, b"echo", b"next")) == [b"200", b"next"] and not end.is_set()
        end.set()
        more.stop()


# -- expiry -----------------------------------------------------------------------------------------------------------------


def test_an_answer_expires_and_is_thrown_away(node: Any) -> None:
    node.service("echo", lambda body: body)
    with aboard(node, keep=0.3):
        uuid = request(node, b"echo", b"x")
        assert answered(node, uuid) == [b"200", b"x"]
        eventually(lambda: reply(node, uuid) == [b"400"])
        eventually(lambda: left(node) == (0, 0))


def test_what_has_expired_while_nothing_ran_is_thrown_away_at_start(node: Any) -> None:
    node.service("echo", lambda body: body)
    with aboard(node):
        old = request(node, b"echo", b"x")
        answered(node, old)
        eventually(lambda: left(node) == (0, 1))
    with aboard(node, keep=0.0):
        assert reply(node, old) == [b"400"]
        eventually(lambda: left(node) == (0, 0))


# -- restarts ---------------------------------------------------------------------------------------------------------------


def test_answers_and_requests_are_found_again_by_the_next_one(kind: Kind, tmp_path: Path) -> None:
    with zmqkit.Node(journal=str(tmp_path)) as real:
        node = kind(real)
        node.service("echo", lambda body: body)
        node.service("large", lambda body: bytes(LARGE))
        with aboard(node):
            done = [request(node, b"echo", b"%d" % n) for n in range(150)]  # more than one answer to a peek holds
            dead, open_, closed = request(node, b"large", b"x"), request(node, b"later", b"y"), request(node, b"later", b"z")
            assert [answered(node, uuid)[1] for uuid in done] == [b"%d" % n for n in range(150)] and answered(node, dead)
            close(node, closed)
            close(node, done[0])
    with zmqkit.Node(journal=str(tmp_path)) as real:
        node = kind(real)
        with aboard(node):
            assert [reply(node, uuid)[1] for uuid in done[1:]] == [b"%d" % n for n in range(1, 150)]
            assert reply(node, done[0]) == reply(node, closed) == [b"400"]
            assert reply(node, dead)[0] == b"500" and reply(node, open_) == [b"300"]
            node.service("later", lambda body: body)
            assert answered(node, open_) == [b"200", b"y"]
            assert node.asked == [call for call in node.asked if call[0].startswith("titanic.") or call[1] == b"y"]


def test_a_request_that_was_answered_but_not_settled_is_not_executed_again(node: Any) -> None:
    """The process ended between the answer and the ack."""
    uuid = "ab" * 16
    node.queue(REPLIES).put({"uuid": uuid, "at": 2e9, "body": b"first"})
    node.queue(REQUESTS).put({"uuid": uuid, "service": "echo", "body": b"again"})
    node.service("echo", lambda body: body)
    with aboard(node):
        eventually(lambda: left(node) == (0, 1))
        assert reply(node, uuid.encode()) == [b"200", b"first"]
    assert [service for service, *_ in node.asked if service == "echo"] == []


def test_an_answer_that_was_stored_twice_is_closed_whole(node: Any) -> None:
    """It was in doubt whether the first was stored."""
    for _ in range(2):
        node.queue(REPLIES).put({"uuid": "ab" * 16, "at": 2e9, "body": b"x"})
    with aboard(node):
        assert reply(node, b"ab" * 16) == [b"200", b"x"]
        close(node, b"ab" * 16)
        assert left(node) == (0, 0)


def test_a_request_that_was_closed_in_somebodys_hands_is_not_executed_after_a_restart(node: Any) -> None:
    uuid = "ab" * 16
    node.queue(REQUESTS).put({"uuid": uuid, "service": "echo", "body": b"x"})
    node.queue(REPLIES).put({"uuid": uuid, "closed": True})
    node.service("echo", lambda body: body)
    with aboard(node):
        assert reply(node, uuid.encode()) == [b"400"]
        eventually(lambda: left(node) == (0, 0))
    assert [service for service, *_ in node.asked if service == "echo"] == []


def test_a_mark_whose_request_is_gone_goes_at_start(node: Any) -> None:
    node.queue(REPLIES).put({"uuid": "ab" * 16, "closed": True})
    node.queue(REPLIES).put({"uuid": "ab" * 16, "at": 2e9, "body": b"x"})
    with aboard(node):
        assert left(node) == (0, 0) and reply(node, b"ab" * 16) == [b"400"]


def test_what_runs_is_finished_when_it_closes_and_its_services_are_gone(node: Any) -> None:
    begun, end = threading.Event(), threading.Event()
    node.service("slow", lambda body: (begun.set(), end.wait(SOON), b"late")[2])
    ship = Titanic(node).start()
    uuid = request(node, b"slow", b"x")
    assert begun.wait(SOON)
    closing = threading.Thread(target=ship.close)
    closing.start()
    end.set()
    closing.join(SOON)
    assert node.queue(REPLIES).peek()[0].body["uuid"] == uuid.decode()
    with pytest.raises(zmqkit.NoWorker):
        node.call("titanic.reply", uuid, retries=0)
    ship.close()
    Titanic(node).close()  # one that never started


def test_its_threads_run_nothing_but_its_own_services_and_no_others_run_those(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, end = list[tuple[str, int]](), threading.Event()

    def noted(name: str, function: Any) -> Any:
        return lambda *arguments: (ran.append((name, threading.get_ident())), function(*arguments))[1]

    monkeypatch.setattr(Titanic, "request", noted("request", Titanic.request))
    with zmqkit.Node() as real:
        real.service("slow", noted("slow", lambda body: (end.wait(SOON), body)[1]))
        with aboard(real, threads=1):
            with pytest.raises(zmqkit.NoWorker):
                real.call("slow", b"x", retries=0)
            serving = real.serve(threads=1, block=False)
            waiting = real.call_soon("slow", b"x")
            eventually(lambda: ran)
            uuid = request(real, b"slow", b"y")  # though the only thread that serves anything else is busy
            assert reply(real, uuid) == [b"300"]
            end.set()
            assert waiting.result(SOON) == b"x" and answered(real, uuid) == [b"200", b"y"]
            serving.stop()
    assert [name for name, _ in ran] == ["slow", "request", "slow"] and ran[0][1] == ran[2][1] != ran[1][1]


# -- foreigners -------------------------------------------------------------------------------------------------------------


def test_textbook_peers_are_served_through_the_gateway(tmp_path: Path) -> None:
    with zmqkit.Node("tcp://127.0.0.1:0", journal=str(tmp_path), mdp="tcp://127.0.0.1:0", titanic=True) as real:
        (endpoint,) = real.gateways["mdp"]
        with TitanicClient(endpoint) as client:
            one, two = client.request(b"upper", b"a"), client.request(b"upper", b"b", b"c")
            assert client.reply(one) == (300, [])
            with MajordomoWorker(endpoint, b"upper", lambda body: [frame.upper() for frame in body], beat_seconds=0.2):
                assert eventually(lambda: (told := client.reply(one))[0] == 200 and told) == (200, [b"A"])
                assert eventually(lambda: (told := client.reply(two))[0] == 200 and told) == (200, [b"B", b"C"])
            assert client.finish(one) == client.finish(one) == 200 and client.reply(one) == (400, [])
            with zmqkit.connect(real.endpoint) as mq:
                assert mq.call("titanic.reply", two) == [b"200", b"B", b"C"]


def test_a_node_whose_titanic_cannot_start_says_why_and_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(ship: Titanic) -> None:
        raise zmqkit.Timeout("the queues do not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Titanic, "_restore", fails)
        with pytest.raises(zmqkit.Timeout, match="do not answer"):
            zmqkit.Node(journal=str(tmp_path), titanic=True)
    zmqkit.Node(journal=str(tmp_path), titanic=True).close()
