"""Discovery on the loopback interface: nodes come, go, move and are killed; others lie, flood and talk rubbish."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import random
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen, run
from types import SimpleNamespace
from typing import Any

import pytest
from cli_world import ZMQKIT, environment, fails, succeeds
from click.testing import CliRunner
from handle_world import SOON, eventually
from mdns_world import EVERYWHERE, LOOPBACK, Voice, Watch, honest_text, new_node, new_service, process, records, stranger, text_of

import zmqkit
from zmqkit.cli.main import zmqkit as command
from zmqkit.discovery import announcement, mdns, table
from zmqkit.discovery.announcement import Announcement
from zmqkit.discovery.browser import Browser
from zmqkit.discovery.found import Found, Text, label
from zmqkit.discovery.interfaces import Place
from zmqkit.handles.finding import Follower

HERE = Path(__file__).parent
ENDPOINT = "tcp://127.0.0.1:4711"  # of nodes that are only announced


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQKIT_MDNS_INTERFACE", LOOPBACK)


@contextmanager
def announced(text: Text, service: str, endpoint: str = ENDPOINT) -> Iterator[Announcement]:
    one = Announcement(text, [endpoint], service=service)
    try:
        yield one
    finally:
        one.close()


def named(name: str) -> Callable[[dict[str, Found]], list[Found]]:
    return lambda found: [one for one in found.values() if one.name == name]


# -- coming and going ---------------------------------------------------------------------------------------------------


def test_a_node_is_found_by_who_looked_before_and_after_and_gone_as_soon_as_it_closes() -> None:
    name = new_node()
    with Watch() as before:
        with zmqkit.Node(EVERYWHERE, "ipc://@" + name, name=name, announce=True) as node:
            one = before.until(named(name))[0]
            assert one.endpoint == node.endpoint and one.version == 1 and one.fingerprint == ""
            with zmqkit.connect(one.endpoint) as mq:
                assert mq.queue("q").put(1).seq == 1
            with Watch() as after:
                assert after.until(named(name)) == [one]
        before.until(lambda found: not named(name)(found))


def test_a_node_in_asyncio_announces_and_discovers_too() -> None:
    name = new_node()

    async def run() -> None:
        async with zmqkit.aio.Node(EVERYWHERE, name=name, announce=True) as node:
            while not (found := named(name)({one.node: one for one in await zmqkit.aio.discover()})):
                pass
            assert found[0].endpoint == node.endpoint

    with Watch() as watch:
        asyncio.run(asyncio.wait_for(run(), 4 * SOON))
        watch.until(lambda found: not named(name)(found))


def test_a_node_that_was_killed_ends_with_its_life(tmp_path: Path) -> None:
    name = new_node()
    with Watch() as watch, process(tmp_path, name, life=3) as (node, _):
        watch.until(named(name))
        node.send_signal(signal.SIGKILL)
        watch.until(lambda found: not named(name)(found))


def test_a_node_that_lives_is_asked_in_time_and_its_answer_gives_all_of_it_a_new_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "REFRESHED_AFTER", (0.02,))  # of 120 s
    text, service = Text("lives", "", new_node()), new_service()
    with Watch(service=service) as watch, announced(text, service):
        watch.until(lambda found: text.node in found)

        def ends() -> float:
            """When it would, if nothing were heard of it any more."""
            entries, servers = watch.browser._table._entries, watch.browser._table._servers
            return min(min(entry.until, max(until for _, until in servers[entry.server].values())) for entry in entries.values())

        # It announces itself three times within half a second; what comes two seconds later is an answer.
        first = ends()
        eventually(lambda: ends() > first + 2.0)


def test_a_node_that_was_killed_and_restarts_at_another_port_is_the_same_and_has_moved(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []
    name = new_node()
    follower = Follower(f"mdns:{name}", lambda found: True, lambda found: calls.append(("come", found.endpoint)),
                        lambda found: calls.append(("moved", found.endpoint)), lambda node: calls.append(("gone", node)))  # fmt: skip

    def told(count: int) -> Callable[[dict[str, Found]], bool]:
        def look(found: dict[str, Found]) -> bool:
            follower.see(found.values())
            return len(calls) >= count

        return look

    with Watch() as watch:
        with process(tmp_path, name) as (_, first):
            watch.until(told(1))
        with process(tmp_path, name) as (_, second):
            watch.until(told(2))
            node = next(iter(follower.nodes))
    assert first != second and calls == [("come", first), ("moved", second)]
    assert node == named(name)(follower.nodes)[0].node


def test_two_that_claim_one_name_are_both_announced() -> None:
    text, service = Text("twin", "", new_node()), new_service()
    other = Text("twin", "", text.node[:8] + new_node()[8:])  # with the same eight digits in its instance's name
    with Watch(service=service) as watch, announced(text, service):
        watch.until(lambda found: text.node in found)
        with announced(other, service, "tcp://127.0.0.1:4712"):
            found = watch.until(lambda found: len(found) == 2 and found)
            assert found[text.node].endpoint != found[other.node].endpoint


def test_one_that_closes_before_it_was_announced_is_never_found() -> None:
    text, service = Text("shy", "", new_node()), new_service()
    with Watch(service=service) as watch:
        for _ in range(5):
            with announced(text, service):
                pass
        with announced(Text("bold", "", new_node()), service):
            assert [one.name for one in watch.until(lambda found: list(found.values()))] == ["bold"]


def test_a_node_whose_addresses_change_is_announced_at_the_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    text, service, places = Text("laptop", "", new_node()), new_service(), [Place(4711, ("127.0.0.2",), (LOOPBACK,))]
    monkeypatch.setattr(announcement, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(announcement, "place", lambda endpoints, here: places[0])
    with Watch(service=service) as watch, announced(text, service):
        watch.until(lambda found: text.node in found and found[text.node].endpoint == "tcp://127.0.0.2:4711")
        places[0] = Place(4711, ("127.0.0.3",), (LOOPBACK,))
        watch.until(lambda found: text.node in found and found[text.node].endpoint == "tcp://127.0.0.3:4711")


# -- lies, floods, rubbish ----------------------------------------------------------------------------------------------


def test_a_flood_of_ten_thousand_instances_neither_grows_nor_hides_who_was_known() -> None:
    # In a network of its own: in ours it would drown what the tests beside this one have to say.
    alone = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") is None or run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs `ip`, and `unshare` that may make a network")
    done = run([*alone, sys.executable, str(HERE / "flood_of_names.py")], capture_output=True, text=True, timeout=90)
    assert done.stdout == "known\n", done.stdout + done.stderr


def test_rubbish_is_counted_said_once_and_hides_nobody(caplog: pytest.LogCaptureFixture) -> None:
    honest, service = Text("honest", "", new_node()), new_service()
    rng = random.Random(1)
    with caplog.at_level(logging.WARNING, "zmqkit"), Watch(service=service) as watch, Voice() as voice:
        for liar in (new_node() for _ in range(20)):
            voice.say(records(service, label("liar", liar), 4711, text_of({**honest_text("liar", liar), "v": "99"})))
            voice.say(records(service, label("liar", liar), 0, text_of(honest_text("liar", liar))))
        eventually(lambda: {"another version", "absurd port"} <= watch.browser.dropped.keys())
        for size in range(0, 300, 6):  # few: more at once would drown the tests beside this one
            voice.raw(rng.randbytes(size))
            voice.raw(b"\0\0\x84\0" + rng.randbytes(size))
        with announced(honest, service):
            assert list(watch.until(lambda found: honest.node in found and found)) == [honest.node]
        assert watch.browser.failure is None
    said = [record.getMessage() for record in caplog.records if record.name == "zmqkit.discovery"]
    assert sum("another version" in line for line in said) == sum("absurd port" in line for line in said) == 1


def test_who_is_told_of_a_change_may_fail_and_is_told_of_the_next() -> None:
    service, told = new_service(), []

    def changed(found: tuple[Found, ...]) -> None:
        told.append(found)
        raise RuntimeError("a user's mistake")

    with Browser(changed, service=service) as browser, Voice() as voice:
        browser.tried.wait(SOON)
        for number in (1, 2):
            voice.say(stranger(service, number))
            eventually(lambda number=number: [found for found in told if len(found) == number])


# -- where mDNS is not possible -----------------------------------------------------------------------------------------


def test_where_mdns_is_not_possible_the_node_serves_and_is_announced_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, name, tries = mdns.Zeroconf, new_node(), []

    def closed(*arguments: Any, **named: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(98, "Address already in use")
        return real(*arguments, **named)

    with Watch() as watch, caplog.at_level(logging.WARNING, "zmqkit"):
        monkeypatch.setattr(mdns, "Zeroconf", closed)
        monkeypatch.setattr(mdns, "RETRY_SECONDS", 0.1)
        with zmqkit.Node(EVERYWHERE, name=name, announce=True) as node, zmqkit.connect(node.endpoint) as mq:
            assert mq.queue("q").put(1).seq == 1
            watch.until(named(name))
    said = [record.getMessage() for record in caplog.records if record.name == "zmqkit.discovery"]
    assert len(said) == 1 and "Address already in use" in said[0] and "5353" in said[0]


def test_discover_says_why_mdns_is_not_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(zmqkit.Error, match=r"no interface 'nix' for mDNS here: there are .*127"):
        zmqkit.discover(interface="nix")
    monkeypatch.setattr(mdns, "Zeroconf", lambda *arguments, **named: (_ for _ in ()).throw(OSError(98, "Address already in use")))
    with pytest.raises(zmqkit.Error, match="5353"):
        zmqkit.discover()


def test_a_node_that_nobody_could_reach_cannot_be_announced(tmp_path: Path) -> None:
    for endpoints in ((), (f"ipc://{tmp_path}/node",)):
        with pytest.raises(zmqkit.Error, match="tcp://"):
            zmqkit.Node(*endpoints, journal=str(tmp_path / "journal"), announce=True)
    assert not (tmp_path / "journal").exists()
    assert "tcp://" in fails(1, "broker", "--journal", "none", "--bind", f"ipc://{tmp_path}/node", "--announce")


# -- the command line ---------------------------------------------------------------------------------------------------


def test_ls_lists_a_broker_until_sigterm() -> None:
    name, here = new_node(), {"ZMQKIT_MDNS_INTERFACE": LOOPBACK}
    broker = [*ZMQKIT, "broker", "--journal", "none", "--bind", EVERYWHERE, "--name", name, "--log-level", "warning"]
    with Popen(broker, stdout=PIPE, text=True, env=environment(ZMQKIT_BROKER_ANNOUNCE="1", **here)) as node, Watch() as watch:
        try:
            assert node.stdout is not None
            endpoint = node.stdout.readline().split()[1]
            watch.until(named(name))
            rows = [json.loads(line) for line in succeeds("ls", "-o", "jsonl", "--timeout", "2500ms", "--mdns-interface", "lo")]
            row = next(row for row in rows if row["name"] == name)
            assert (row["endpoint"], row["fingerprint"], row["trusted"], row["version"]) == (endpoint, None, None, 1)
        finally:
            node.terminate()
        watch.until(lambda found: not named(name)(found))
        assert node.wait(SOON) == 0


def test_where_there_is_not_even_a_loop_that_is_an_error_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(work: Coroutine[Any, Any, None]) -> None:
        work.close()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(mdns, "asyncio", SimpleNamespace(run=run, CancelledError=asyncio.CancelledError))
    with pytest.raises(zmqkit.Error, match="mDNS is not possible here: Too many open files"):
        zmqkit.discover(0.1)
    with Browser() as browser:
        assert browser.tried.wait(SOON) and browser.failure is not None


def test_ls_prints_a_table_or_says_on_stderr_that_nobody_is_there_which_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Found("ada", ENDPOINT, "", new_node(), 1, (ENDPOINT,))]
    monkeypatch.setattr(zmqkit, "discover", lambda timeout, interface: found)  # where other tests are, somebody may be found
    assert [line.split() for line in CliRunner().invoke(command, ["ls"]).stdout.splitlines()][1:] == [["ada", ENDPOINT, "-", "-"]]
    found.clear()
    done = CliRunner().invoke(command, ["ls"])
    assert done.exit_code == 0 and done.stdout == "" and "zmqkit broker --announce" in done.stderr


def test_ls_fails_with_one_line_where_mdns_is_not_possible() -> None:
    assert "no interface 'nix'" in fails(1, "ls", "--mdns-interface", "nix")
