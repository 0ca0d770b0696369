"""What one client can make a node keep, and what it can make a node say, has an end. Each of these once had none."""

from __future__ import annotations

from typing import Any

import pytest
from node_bench import Bench, ManualLog, name

from zmqkit import fields, framing, host, records, wire
from zmqkit.machines import core, leasing, ledger, node, publishing, queue, settling
from zmqkit.parcel import Parcel


def snoozed(bench: Bench, peer: bytes, reason: str = "again") -> wire.Lease:
    """The one message of "q" is taken, handed back, and taken again."""
    lease = bench.one_lease(peer)
    bench.say(peer, wire.Back(lease.token, 0, lease.count, wire.BackKind.SNOOZE, 0.0, reason))
    return lease


def pass_time(bench: Bench, seconds: int) -> None:
    """The node listens all the while."""
    for _ in range(seconds):
        bench.wait(1.0)


# -- what is said -------------------------------------------------------------------------------------------------------


def test_two_readies_in_one_turn_are_answered_by_one_echo_about_the_newer() -> None:
    bench = Bench()
    peer = bench.connect("c")
    for beat in (1, 2, 3):
        tokens = [(2**50 + 1000 * beat + index, 1) for index in range(wire.ENTRIES_MAX)]
        bench.ready(peer, 1, beat=beat, held=tokens, turn=False)
    bench.turn()
    echo = bench.hear(peer, wire.Echo)[-1]
    assert echo.beat == 3 and echo.revoked == [2**50 + 3000 + index for index in range(wire.ENTRIES_MAX)]


def test_a_done_of_a_lease_full_of_holes_is_answered_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "ANSWERS_MAX", 1000)
    bench = Bench()
    bench.put(bench.connect("p"), 1, 200)
    peer = bench.connect("c", window=200)
    lease = bench.one_lease(peer)
    for offset in range(0, 200, 2):
        bench.back(peer, lease.token, offset, kind=wire.BackKind.SNOOZE, delay=100.0, turn=False)
    bench.say(peer, wire.Done(True, [(lease.token, 0, 200)] * wire.ENTRIES_MAX))
    assert len(bench.verdicts(peer)) < 1500 and bench.machine.core.dropped["too-many-answers"] == 1


def test_what_messages_have_collected_never_makes_a_lease_too_large_for_a_frame() -> None:
    bench = Bench()
    bench.put(bench.connect("p"), 1, 60)
    peer = bench.connect("c", window=60)
    lease = bench.one_lease(peer)
    for offset in range(60):
        bench.say(peer, wire.Save(lease.token, offset, bytes(wire.BLOB_BYTES_MAX)), turn=False)
    bench.say(peer, wire.Back(lease.token, 0, 60, wire.BackKind.SNOOZE, 0.0, "x" * wire.TEXT_CHARS_MAX))
    leases = bench.hear(peer, wire.Lease)
    assert sum(lease.count for lease in leases) == 60 and len(leases) > 1
    for lease in leases:
        assert max(map(len, framing.encode(lease))) <= wire.FRAME_BYTES_MAX
        assert isinstance(lease.parcel, Parcel) and lease.parcel.unpack_columns()["saved"] == [bytes(wire.BLOB_BYTES_MAX)] * lease.count


def test_a_list_of_dead_letters_with_long_stories_fits_a_frame() -> None:
    bench = Bench()
    bench.put(bench.connect("p"), 1, 1000)
    peer = bench.connect("c", window=1000)
    lease = bench.one_lease(peer)
    bench.say(peer, wire.Back(lease.token, 0, 1000, wire.BackKind.REJECT, 0.0, "ä" * wire.TEXT_CHARS_MAX))
    result = bench.ask(peer, 1, "dead_list", queue="q", count=1000)
    assert 50 < len(result["rows"]) == len(result["parcels"]) < 1000


def test_a_look_at_a_message_of_the_largest_size_fits_a_frame() -> None:
    bench = Bench()
    peer = bench.connect("p")
    large = Parcel.of([b"x" * 2**20], {"headers": [{"a": "x" * 200_000}]})
    bench.say(peer, wire.Put("q", 1, 1, 1, large))
    many = Parcel.of([b"y" * 1000] * 1000, {"headers": [{"a": "x" * 200}] * 1000})
    bench.say(peer, wire.Put("r", 1, 1000, 1, many))
    (count, frames), *_ = bench.ask(peer, 1, "peek", queue="q", state="ready", count=1)["parcels"]
    assert count == 1 and frames[1] == b"x" * 2**20
    result = bench.ask(peer, 2, "peek", queue="r", state="ready", count=1000)
    assert 0 < result["parcels"][0][0] == len(result["rows"]) < 1000


def test_a_list_of_many_queues_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    peer = bench.connect("p")
    for number in range(2500):
        bench.machine.core.queue(f"q{number:04}", bench.machine.core.account(""))
    found, after, more = [], "", True
    while more:
        result = bench.ask(peer, len(found) + 1, "list", after=after)
        found += [info["name"] for info in result["queues"]]
        more, after = result["more"], found[-1]
    assert found == sorted(bench.machine.core.queues) and len(found) == 2500


# -- what is kept -------------------------------------------------------------------------------------------------------


def test_a_message_that_is_snoozed_for_ever_has_a_short_history() -> None:
    bench = Bench()
    bench.put(bench.connect("p"), 1)
    peer = bench.connect("c", window=1)
    for number in range(30):
        snoozed(bench, peer, f"{number}")
    history = bench.machine.core.queues["q"].errors[1]
    assert history == [str(number) for number in range(30 - queue.HISTORY_MAX, 30)]


def test_saved_states_of_a_node_have_a_budget_which_comes_back_with_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "SAVED_BYTES_MAX", 1000)
    bench = Bench()
    bench.put(bench.connect("p"), 1, 3)
    peer = bench.connect("c", window=3)
    lease = bench.one_lease(peer)
    for offset in range(3):
        bench.say(peer, wire.Save(lease.token, offset, bytes(400)))
    kept = bench.machine.core.queues["q"]
    assert len(kept.saved) == 2 and bench.machine.core.dropped["too-much-saved"] == 1
    bench.say(peer, wire.Save(lease.token, 0, bytes(300)))
    assert kept.saved_bytes == 700
    assert bench.crash().machine.core.queues["q"].saved_bytes == 700
    assert bench.restart_from_checkpoint().machine.core.queues["q"].saved_bytes == 700
    bench.done(peer, lease.token, 0, 3)
    assert kept.saved_bytes == 0 and not kept.saved


def test_a_producer_that_never_moves_its_base_is_not_answered_beyond_its_window() -> None:
    bench = Bench()
    peer = bench.connect("p")
    for first in range(1, publishing.WINDOW_BATCHES + 11):
        bench.put(peer, first, base=1)
    stream = bench.machine.core.clients[name("p")].streams[1]
    assert len(stream.answers) == publishing.WINDOW_BATCHES == stream.last and bench.machine.core.dropped["over-window"] == 1
    bench.put(peer, stream.last + 1)  # now it says what it knows
    assert stream.last == publishing.WINDOW_BATCHES + 1 and len(stream.answers) == 1


def test_the_window_counts_what_has_not_become_a_record_yet() -> None:
    bench = Bench()
    peer = bench.connect("p")
    for first in range(1, publishing.WINDOW_BATCHES + 3):
        bench.put(peer, first, base=1, turn=False)
    bench.turn()
    assert bench.machine.core.queues["q"].messages == publishing.WINDOW_BATCHES


def test_a_base_that_jumps_within_a_turn_does_not_renumber_what_was_taken() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1, turn=False)
    bench.put(peer, 10)
    assert [(c.first, c.count) for c in bench.hear(peer, wire.Confirm)] == [(1, 1), (10, 1)]


def test_answers_to_changes_are_kept_up_to_a_limit_and_answers_to_looks_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ANSWERS_MAX", 10)
    bench = Bench()
    peer = bench.connect("p")
    for number in range(1, 50):
        bench.ask(peer, number, "info", base=1, queue="q")
    asks = bench.machine.core.clients[name("p")].asks
    assert len(asks._answers) == 0
    verbs = ["pause", "resume"] * 6
    results = [bench.ask(peer, 50 + index, verb, base=1, queue="q") for index, verb in enumerate(verbs)]
    assert [result.get("error") for result in results] == [None] * 10 + [wire.Code.QUOTA] * 2
    assert bench.ask(peer, 70, "pause", queue="q") == {} and len(asks._answers) == 1


def test_hellos_of_ever_new_clients_are_refused_at_the_limit_and_the_idle_ones_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "CLIENTS_MAX", 10)
    bench = Bench()
    producer = bench.connect("p")
    bench.put(producer, 1)
    for number in range(30):
        bench.hello(b"s%d" % number, bytes([number]) * 16)
        bench.machine.lost(b"s%d" % number, bench.now)
    assert len(bench.machine.core.clients) == 10
    refused = bench.hear(b"s20", wire.Refused)
    assert refused[0].command == wire.Kind.HELLO and refused[0].code == wire.Code.QUOTA
    pass_time(bench, 5)
    bench.hello(b"new", name("n"))
    assert bench.hear(b"new", wire.Welcome) and name("p") in bench.machine.core.clients


def test_windows_that_were_closed_are_forgotten() -> None:
    bench = Bench()
    peer = bench.connect("c")
    for beat in range(1, 4):
        bench.say(peer, wire.Ready(beat, 0, [wire.Window(f"{beat}-{index}", 1, 0.0) for index in range(100)], 0, []))
    assert len(bench.machine.core.clients[name("c")].consumers) == 100


def test_streams_have_a_limit_that_follows_what_is_deleted_restored_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "STREAMS_MAX", 2)
    bench = Bench()
    peer = bench.connect("p")
    for letter in "abc":
        bench.put(peer, 1, queue=letter)
    assert [refused.queue for refused in bench.hear(peer, wire.Refused)] == ["c"]
    bench.ask(peer, 1, "delete", queue="a")
    bench.put(peer, 1, queue="c")
    assert bench.hear(peer, wire.Confirm)[-1].queue == "c"
    for after in (bench.crash(), bench.restart_from_checkpoint()):
        peer = after.connect("p", link=2)
        after.put(peer, 1, queue="d")
        assert after.hear(peer, wire.Refused)
        after.wait(8 * 86400.0)  # nobody heard of the producer
        peer = after.connect("r")
        after.put(peer, 1, queue="e")
        assert after.hear(peer, wire.Confirm) and after.machine.core.streams == 1


def test_streams_into_deleted_queues_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PARTED_MAX", 5)
    bench = Bench()
    peer = bench.connect("p")
    for number in range(1, 20):
        bench.put(peer, 1, queue=f"q{number}")
        bench.ask(peer, number, "delete", queue=f"q{number}")
    assert len(bench.machine.core.clients[name("p")].parted) == 5


def test_a_purge_forgets_when_the_purged_were_due() -> None:
    bench = Bench()
    producer, peer = bench.connect("p"), bench.connect("c", window=1)
    for number in range(1, 20):
        bench.put(producer, number)
        lease = bench.one_lease(peer)
        bench.say(peer, wire.Back(lease.token, 0, 1, wire.BackKind.SNOOZE, 1e9, ""))
        bench.ask(producer, number, "purge", queue="q")
    assert not bench.machine.core.queues["q"].delayed


def test_leases_that_an_absent_producer_lost_are_forgotten_though_its_stream_is_not() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1)
    bench.ready(peer, 1)
    token = bench.one_lease(peer).token
    bench.machine.lost(peer, bench.now)
    pass_time(bench, 2 * int(node.FORGET_AFTER) + 5)
    client = bench.machine.core.clients[name("p")]
    assert not client.leases and client.streams
    again = bench.connect("p", link=2)
    bench.done(again, token)
    assert bench.verdicts(again) == [(token, 0, 1, "SETTLED")], "it was revoked and forgotten: nobody can tell any more"


def test_answers_that_wait_for_a_disk_that_hangs_have_a_limit_beyond_which_the_link_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "HELD_MAX", 20)
    bench = Bench()
    bench.auto_sync = False
    peer, other = bench.connect("p"), bench.connect("o")
    bench.put(other, 1)
    for _ in range(100):
        bench.put(peer, 1)
    assert len(bench.host._held) == 21 and bench.machine.core.dropped["held-too-many"] == 1
    assert bench.hear(peer, wire.NoSession), "it is told to begin anew"
    bench.auto_sync = True
    bench.sync()
    assert bench.hear(other, wire.Confirm) and not bench.host._held_by
    again = bench.connect("p", link=2)
    bench.put(again, 1)
    assert [(c.first, c.qseq) for c in bench.hear(again, wire.Confirm)] == [(1, 2)], "nothing was lost, nothing doubled"


# -- what is asked ------------------------------------------------------------------------------------------------------

ABSURD: list[Any] = [None, True, -1, 0, 2**63, 2**64 - 1, 0.5, 1e308, "", "x" * 300, "ready", b"q", [], [1.0], [True], ["q"], {}, {"a": 1}]
VERBS = ["declare", "info", "list", "peek", "purge", "pause", "resume", "delete", "dead_list", "redrive", "drop", "", "__init__", "_list"]


@pytest.mark.parametrize("verb", VERBS)
def test_absurd_arguments_get_an_answer_and_leave_no_trace_that_a_restart_stumbles_over(verb: str) -> None:
    bench = Bench()
    bench.put(bench.connect("p"), 1, 3)
    peer = bench.connect("c", window=1)
    lease = bench.one_lease(peer)
    bench.back(peer, lease.token, kind=wire.BackKind.REJECT)
    number = 0
    for good in ({}, {"queue": "q", "state": "dead", "count": 5, "policy": {}}):
        for argument in ("queue", "state", "count", "policy", "seqs", "after", "nonsense"):
            for value in ABSURD:
                number += 1
                result = bench.ask(peer, number, verb, **{**good, argument: value})
                assert isinstance(result, dict)
                assert "error" not in result or (result["error"] == wire.Code.MALFORMED and 0 < len(result["text"]) < 500)
    assert set(map(type, bench.machine.core.queues)) <= {str} and "x" * 300 not in bench.machine.core.queues
    bench.crash()
    bench.restart_from_checkpoint()


@pytest.mark.parametrize(
    "field", ["max_attempts", "backoff", "lease", "max_messages", "max_bytes", "on_full", "grace", "max_run", "unknown"]
)
def test_absurd_policies_are_refused_or_harmless(field: str) -> None:
    bench = Bench()
    producer, peer = bench.connect("p"), bench.connect("c", window=3)
    for number, value in enumerate([*ABSURD, [1, 2, 3], [1e308, 1e308], [1, True], ["a", "b"], "ab", 1e-300, 2.5], 1):
        bench.ask(producer, number, "declare", queue="q", policy={field: value})
        bench.say(producer, wire.Put("q", number, 1, number, Parcel.of([b"x"])))
        for lease in bench.hear(peer, wire.Lease):
            assert 0 < lease.lease <= fields.SECONDS_MAX and 0 < lease.grace <= fields.SECONDS_MAX
            bench.done(peer, lease.token)
    bench.crash()
    bench.restart_from_checkpoint()


def test_dead_letters_that_are_named_with_floats_are_not_redriven() -> None:
    bench = Bench()
    bench.put(bench.connect("p"), 1)
    peer = bench.connect("c", window=1)
    bench.back(peer, bench.one_lease(peer).token, kind=wire.BackKind.REJECT)
    assert bench.ask(peer, 1, "redrive", queue="q", seqs=[1.0])["error"] == wire.Code.MALFORMED
    assert not [record for record in bench.log.records() if isinstance(record, records.Redrive)]
    assert bench.ask(peer, 2, "redrive", queue="q", seqs=[1]) == {"count": 1}


# -- replay reads no clock ----------------------------------------------------------------------------------------------


def test_a_message_that_was_leased_after_its_delay_is_leased_after_a_restart() -> None:
    bench = Bench()
    bench.put(bench.connect("p"), 1, 2)
    peer = bench.connect("c", window=2)
    lease = bench.one_lease(peer)
    bench.back(peer, lease.token, 0, delay=1.0)
    bench.back(peer, lease.token, 1, delay=900.0)
    for beat in range(2, 5):
        bench.wait(1.0)
        bench.ready(peer, 2, beat=beat, seen=lease.token)
    again = bench.one_lease(peer)
    assert again.qseq == 1
    after = bench.crash()
    assert after.info() == {"leased": 1, "delayed": 1}
    back = after.connect("c", 2, link=2, seen=again.token, held=[(again.token, 1)])
    after.wait(1.0)
    assert not after.hear(back, wire.Lease), "it is not leased twice"


def test_a_message_that_was_delayed_and_then_buried_for_want_of_room_stays_buried() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.declare(producer, max_messages=1, on_full="dead_letter")
    bench.put(producer, 1)
    peer = bench.connect("c", window=1)
    lease = bench.one_lease(peer)
    bench.back(peer, lease.token, delay=1.0, turn=False)
    bench.ready(peer, 0, beat=2, seen=lease.token)
    bench.wait(2.0)
    bench.put(producer, 2)
    assert bench.info() == {"ready": 1, "dead": 1}
    assert bench.crash().info() == {"ready": 1, "dead": 1}


# -- room ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_dropped_that_does_not_make_room_for_bytes() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.declare(producer, max_bytes=1000, on_full="drop_oldest")
    bench.put(producer, 1, 10, size=90)  # 900 bytes in one batch
    bench.put(producer, 11, 1, size=950)
    assert bench.hear(producer, wire.Confirm) and bench.info() == {"ready": 1}
    bench.put(producer, 12, 1, size=1001)
    assert bench.hear(producer, wire.Refused)[0].code == wire.Code.FULL and bench.info() == {"ready": 1}


def test_a_dead_letter_keeps_its_body_so_burying_makes_no_room_for_bytes() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.declare(producer, max_bytes=1000, on_full="dead_letter")
    bench.put(producer, 1, 1, size=900)
    bench.put(producer, 2, 1, size=900)
    assert bench.hear(producer, wire.Refused) and bench.info() == {"ready": 1}


def test_the_limits_are_the_ones_the_specification_names() -> None:
    assert (publishing.WINDOW_BATCHES, core.LEASES_MAX) == (64, 512)
    assert (core.CLIENTS_MAX, core.QUEUES_MAX, core.STREAMS_MAX) == (50_000, 10_000, 100_000)
    assert (queue.HISTORY_MAX, settling.SAVED_BYTES_MAX, ledger.ANSWERS_MAX, host.HELD_MAX) == (10, 128 * 2**20, 1000, 4096)
    assert leasing.ECHO_AFTER == 1.5 and node.STRANGERS_MAX == 1000 and ManualLog.full is False
