"""`zmqkit chaos`: its parts in memory, and a short run of the whole, in which every fault must hit and plain ZeroMQ must feel it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cli_world import ZMQKIT
from handle_world import eventually
from proxy import proxy_to

from zmqkit.cli.chaos import Account, account, complaints
from zmqkit.cli.chaos_cluster import Bare, Cluster, Ours, Skipped, limit_files
from zmqkit.cli.chaos_faults import FAULTS, schedule
from zmqkit.cli.notes import Notes

LINE = "lease ended queue=chaos token=7 messages=2-2 cause=link-lost\n"
LATE_SECONDS = 0.9  # what plain ZeroMQ keeps waiting for a frozen or slow worker waits for longer


def told_of(cluster: Cluster, lines: dict[str, list[tuple[float, ...]]]) -> Account:
    for name, rows in lines.items():
        notes = Notes(cluster.place / name)
        for row in rows:
            notes.write(*row)
    return account(cluster, range(1, 4))


def test_what_is_handed_over_and_never_done_is_lost_and_only_jobs_of_the_hit_count(tmp_path: Path) -> None:
    handed = [(number, 10.0 + number) for number in range(4)]
    done = [(1.0, 1.0, 11.5, 0.004), (3.0, 3.0, 15.0, 0.004)]
    told = told_of(Bare(tmp_path / "c"), {"handed": handed, "done-0": done, "begun-0": [(1.0, 0.0, 11.0), (3.0, 0.0, 14.0)]})
    assert (told.sent, told.lost, told.doubled, told.slowest_seconds) == (3, 1, 0, 2.0)


@pytest.mark.parametrize(("log", "explained"), [(LINE, {"link-lost": 1}), (LINE.replace("token=7", "token=8"), {}), ("", {})])
def test_a_second_execution_is_explained_by_the_nodes_log_or_not(tmp_path: Path, log: str, explained: dict[str, int]) -> None:
    cluster = Ours(tmp_path / "c")
    cluster.log.write_text(log)
    handed = [(number, 1.0) for number in (1, 2, 3)]
    sent = [(number, number, 1.5) for number in (1, 2, 3)]
    done = [(number, number, 9.0, 0.004) for number in (1, 2, 3)]
    begun = [(1, 6, 2.0), (2, 7, 3.0), (3, 8, 4.0)]
    told = told_of(cluster, {"handed": handed, "sent": sent, "begun-0": begun, "begun-1": [(2, 9, 8.0)], "done-1": done})
    assert (told.lost, told.doubled, told.explained) == (0, 1, Counter(explained))


def test_a_job_that_is_stored_twice_is_a_double_that_nothing_explains(tmp_path: Path) -> None:
    done = [(number, seq, 9.0, 0.004) for number, seq in ((1, 1), (2, 2), (2, 4), (3, 3))]
    begun = [(seq, seq, 2.0) for seq in (1, 2, 3, 4)]
    told = told_of(Ours(tmp_path / "c"), {"handed": [(n, 1.0) for n in (1, 2, 3)], "begun-0": begun, "done-0": done})
    assert (told.doubled, told.explained.total()) == (1, 0)


def test_each_broken_promise_is_named() -> None:
    def row(ours: Account) -> dict[str, Any]:
        return {"fault": "kill-node", "skipped": None, "bare": vars(Account(lost=9)), "zmqkit": vars(ours)}

    assert not complaints([row(Account(1, 90, 0, 2, Counter({"expired": 2})))])
    assert "lost 1 job" in complaints([row(Account(lost=1))])[0]
    assert "no cause" in complaints([row(Account(doubled=2, explained=Counter({"expired": 1})))])[0]


def test_a_seed_is_a_schedule() -> None:
    hits = schedule(list(FAULTS), 3, 7)
    assert hits == schedule(list(FAULTS), 3, 7) != schedule(list(FAULTS), 3, 8)
    for begin in range(0, len(hits), len(FAULTS)):
        assert sorted(hit.fault for hit in hits[begin : begin + len(FAULTS)]) == sorted(FAULTS)


def test_where_another_process_cannot_be_limited_the_fault_is_skipped_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(resource, "prlimit", refuse)
    with subprocess.Popen(["sleep", "60"], text=True) as process:
        try:
            with pytest.raises(Skipped, match="not here"):
                limit_files(process, 1)
        finally:
            process.kill()


def test_only_the_wall_clock_jumps() -> None:
    program = (
        "import signal, time\n"
        "from zmqkit.cli.chaos_clock import let_jump\n"
        "let_jump()\n"
        "before = time.time(), time.time_ns() / 1e9, time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
        "after = time.time(), time.time_ns() / 1e9, time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)\n"
        "print([round((a - b) / 86400) for a, b in zip(after, before)])\n"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[1, 1, 0, 0]\n"


def test_on_a_half_open_link_what_is_said_is_lost_and_neither_end_learns_of_it_and_a_new_one_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, proxy_to(f"tcp://127.0.0.1:{server.getsockname()[1]}") as proxy:
        url = urlsplit(proxy.endpoint)
        with socket.create_connection((url.hostname, url.port)) as near, server.accept()[0] as far:
            near.sendall(b"before")
            assert far.recv(100) == b"before"
            proxy.hold()
            far.setblocking(False)
            near.sendall(b"lost")
            eventually(lambda: proxy.lost_bytes == len(b"lost"))
            near.shutdown(socket.SHUT_RDWR)  # nor does it learn that the other has gone
            with socket.create_connection((url.hostname, url.port)) as again, server.accept()[0] as anew:
                again.sendall(b"after")
                assert anew.recv(100) == b"after"
                with pytest.raises(BlockingIOError):
                    far.recv(100)
                proxy.cut_held()
                far.setblocking(True)
                assert far.recv(100) == b""
                again.sendall(b"still")
                assert anew.recv(100) == b"still"


def test_a_fault_that_does_not_exist_is_a_mistake_of_the_user() -> None:
    done = subprocess.run([*ZMQKIT, "chaos", "--faults", "kill-node,meteor"], capture_output=True, text=True)
    assert done.returncode == 2 and "meteor" in done.stderr and "half-open" in done.stderr


def chaos(*options: str) -> list[dict[str, Any]]:
    done = subprocess.run([*ZMQKIT, "chaos", "-o", "jsonl", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge(rows: list[dict[str, Any]], rounds: int) -> None:
    """A fault that did not hit ends the command. And plain ZeroMQ must feel each of them; else it is no fault."""
    assert {row["fault"] for row in rows} == set(FAULTS)
    for row in rows:
        bare, ours, name = row["bare"], row["zmqkit"], row["fault"]
        if name == "full-disk" and row["skipped"]:
            continue
        assert bare["hits"] == ours["hits"] == rounds and bare["sent"] == ours["sent"] > 0, row
        assert ours["lost"] == 0 and ours["doubled"] == sum(ours["explained"].values()), row
        felt = {"lost": bare["lost"] >= rounds, "doubled": bare["doubled"] >= rounds, "late": bare["slowest_seconds"] > LATE_SECONDS}
        assert felt[FAULTS[name].bare], row


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_each_fault_hits_both_and_only_plain_zeromq_loses_or_doubles_without_a_word() -> None:
    judge(chaos("--quick"), 1)


@pytest.mark.gate
@pytest.mark.timeout(900)
def test_it_is_so_round_after_round() -> None:
    judge(chaos("--rounds", "3"), 3)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_whoever_interrupts_it_leaves_no_process_behind() -> None:
    command = [*ZMQKIT, "chaos", "--faults", "stop-worker", "--seed", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr and any("stop-worker" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
