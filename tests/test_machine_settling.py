"""DONE, BACK and SAVE: what a holder says, what the node answers, and what stays true over crashes."""

from __future__ import annotations

from node_bench import Bench

from zmqkit import records, wire
from zmqkit.wire import BackKind


def given(count: int = 1, window: int | None = None, **ready: float) -> tuple[Bench, bytes, bytes, int]:
    """A producer, and a consumer with a lease of `count` messages: bench, producer, consumer, token."""
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=window or count, **ready)
    bench.put(producer, 1, count)
    return bench, producer, consumer, bench.one_lease(consumer).token


# -- R-A1 ----------------------------------------------------------------------------------------------------------------


def test_done_is_applied_at_once_and_answered_when_its_record_is_durable() -> None:
    bench, _, consumer, token = given()
    bench.auto_sync = False
    bench.done(consumer, token)
    assert bench.machine.core.queues["q"].messages == 0 and bench.verdicts(consumer) == []
    bench.sync()
    assert bench.verdicts(consumer) == [(token, 0, 1, "OK")]


def test_only_a_done_that_somebody_waits_for_starts_a_sync() -> None:
    bench, _, consumer, token = given(2)
    bench.log.waited = False
    bench.done(consumer, token, 0, 1, wait=False)
    assert not bench.log.waited
    bench.done(consumer, token, 1, 1, wait=True)
    assert bench.log.waited


def test_a_repeated_done_is_answered_when_the_original_record_is_durable() -> None:
    bench, _, consumer, token = given()
    bench.auto_sync = False
    bench.done(consumer, token)
    bench.done(consumer, token)
    assert bench.verdicts(consumer) == []
    bench.sync()
    assert bench.verdicts(consumer) == [(token, 0, 1, "OK")] * 2


def test_what_was_told_ok_is_not_delivered_again_after_a_crash() -> None:
    bench, _, consumer, token = given()
    bench.done(consumer, token)
    assert bench.verdicts(consumer) == [(token, 0, 1, "OK")]
    assert bench.crash().info() == {}


# -- R-A2 ----------------------------------------------------------------------------------------------------------------


def test_ranges_may_be_partial_repeated_and_in_any_order() -> None:
    bench, _, consumer, token = given(5)
    for offset, count in ((3, 2), (0, 1), (3, 1), (0, 5)):
        bench.done(consumer, token, offset, count)
    assert bench.verdicts(consumer) == [(token, 3, 2, "OK"), (token, 0, 1, "OK"), (token, 3, 1, "OK"), (token, 0, 5, "OK")]
    assert bench.info() == {}


def test_a_token_of_another_client_settles_nothing() -> None:
    bench, _, _, token = given()
    thief = bench.connect("t")
    bench.done(thief, token)
    assert bench.verdicts(thief) == [(token, 0, 1, "STALE")] and bench.info() == {"leased": 1}


def test_a_range_beyond_the_lease_settles_nothing() -> None:
    bench, _, consumer, token = given(2)
    bench.done(consumer, token, 1, 2)
    assert bench.verdicts(consumer) == [(token, 1, 2, "STALE")] and bench.info() == {"leased": 2}


def test_a_token_that_was_never_granted_is_stale() -> None:
    bench, _, consumer, token = given()
    bench.done(consumer, token + 1)
    assert bench.verdicts(consumer) == [(token + 1, 0, 1, "STALE")]


# -- R-A3 ----------------------------------------------------------------------------------------------------------------


def test_a_done_after_expiry_is_stale_and_the_next_holder_decides() -> None:
    bench, _, consumer, token = given(window=2, lease=2.0)
    bench.wait(2.5)
    second = bench.one_lease(consumer).token  # it listens still and has room, so it gets the message again
    bench.done(consumer, token)
    assert bench.verdicts(consumer) == [(token, 0, 1, "STALE")] and bench.info() == {"leased": 1}
    bench.done(consumer, second)
    assert bench.verdicts(consumer) == [(second, 0, 1, "OK")]


def test_a_done_is_judged_message_by_message() -> None:
    """Two of four are done, two are handed back: a repeat of the whole is OK for the ones and STALE for the others."""
    bench, _, consumer, token = given(4)
    bench.done(consumer, token, 0, 2)
    bench.back(consumer, token, 2, 2, kind=BackKind.UNSTARTED)
    bench.hear(consumer, wire.Answer)
    bench.done(consumer, token, 0, 4)
    assert sorted(bench.verdicts(consumer)) == [(token, 0, 2, "OK"), (token, 2, 2, "STALE")]


def test_a_settled_message_is_still_stale_for_the_token_it_was_taken_from() -> None:
    bench, _, consumer, token = given(window=2, lease=2.0)
    bench.wait(2.5)
    bench.done(consumer, bench.one_lease(consumer).token)
    bench.hear(consumer, wire.Answer)
    bench.done(consumer, token)
    assert bench.verdicts(consumer) == [(token, 0, 1, "STALE")]


def test_what_was_revoked_is_remembered_until_ready_lists_it_no_more() -> None:
    bench, _, consumer, token = given(window=2, lease=2.0)
    bench.wait(2.5)
    second = bench.one_lease(consumer).token
    bench.ready(consumer, 1, beat=2, seen=second, held=[(token, 1), (second, 1)])
    assert token in bench.machine.core.leases
    bench.ready(consumer, 1, beat=3, seen=second, held=[(second, 1)])
    assert token not in bench.machine.core.leases


def test_a_done_behind_the_ready_that_forgot_its_token_is_stale_for_the_message_has_gone_back() -> None:
    """A heartbeat lists 512 tokens; with more of them unanswered, one may be missing and its DONE still come."""
    bench, _, _, token = given()
    new = bench.connect("c", link=2)
    other = bench.connect("d", window=1)
    bench.ready(new, 0, beat=2, seen=token)
    assert bench.one_lease(other).qseq == 1
    bench.done(new, token)
    assert bench.verdicts(new) == [(token, 0, 1, "STALE")]


def test_a_repeat_of_a_done_that_counted_is_ok_in_the_same_epoch() -> None:
    bench, _, consumer, token = given()
    bench.done(consumer, token)
    new = bench.connect("c", link=2)
    bench.ready(new, 0, beat=2, seen=token, held=[(token, 0)])
    bench.done(new, token)
    assert bench.verdicts(new) == [(token, 0, 1, "OK")]


def test_after_a_restart_a_done_that_counted_is_not_denied() -> None:
    bench, _, consumer, token = given()
    bench.done(consumer, token)
    after = bench.crash()
    new = after.connect("c", link=2)
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "SETTLED")]


def test_after_a_checkpoint_and_a_restart_a_done_that_counted_is_not_denied() -> None:
    bench, _, consumer, token = given()
    bench.done(consumer, token)
    after = bench.restart_from_checkpoint()
    new = after.connect("c", link=2)
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "SETTLED")]


def test_after_a_restart_a_done_of_a_lease_that_the_log_never_saw_is_stale() -> None:
    bench, _, _, token = given()
    assert isinstance(bench.log.records()[-1], records.Lease)
    after = bench.crash(kept=bench.log.last - 1)
    new = after.connect("c", link=2)
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "STALE")] and after.info() == {"ready": 1}


def test_after_a_restart_a_revoked_message_is_stale_though_its_holder_returns_late() -> None:
    bench, _, _, token = given(window=2, lease=2.0)
    bench.wait(2.5)
    after = bench.crash()
    after.wait(10.0)
    new = after.connect("c", link=2)
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "STALE")]


def test_a_done_that_the_crash_ate_counts_when_it_is_repeated() -> None:
    bench, _, consumer, token = given()
    bench.auto_sync = False
    bench.done(consumer, token)
    after = bench.crash()
    new = after.connect("c", link=2)
    after.ready(new, 0, beat=2, seen=token, held=[(token, 0)])
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "OK")] and after.info() == {}


def test_a_client_that_was_forgotten_is_told_settled_and_not_ok_for_what_was_revoked() -> None:
    bench, _, consumer, token = given(window=2, lease=2.0)
    bench.machine.lost(consumer, bench.now)
    for _ in range(200):
        bench.wait(1.0)
    assert not bench.machine.core.leases
    new = bench.connect("c", link=2)
    bench.done(new, token)
    assert bench.verdicts(new) == [(token, 0, 1, "SETTLED")]


# -- R-A5 ----------------------------------------------------------------------------------------------------------------


def test_the_last_failure_dead_letters_in_one_record_and_the_body_stays() -> None:
    bench, producer, consumer, token = given()
    bench.declare(producer, max_attempts=1)
    before = bench.log.last
    bench.back(consumer, token)
    added = bench.log.records()[before:]
    assert [type(record).__name__ for record in added] == ["Dead"] and bench.info() == {"dead": 1}
    assert not bench.log.released
    for kept in range(before, bench.log.last + 1):
        assert sum(bench.crash(kept=kept).info().values()) == 1, "in one place, wherever the crash"


def test_reject_dead_letters_at_once_with_the_words_of_the_handler() -> None:
    bench, _, consumer, token = given()
    bench.back(consumer, token, kind=BackKind.REJECT)
    rows = bench.ask(bench.connect("a"), 1, "dead_list", queue="q", count=1)["rows"]
    assert rows[0][:3] == [1, "boom", 1] and rows[0][4] == ["boom"]


def test_a_message_is_dead_after_max_attempts_with_its_history() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.declare(producer, max_attempts=3)
    bench.put(producer, 1)
    attempts = []
    for beat in (2, 3, 4):
        lease = bench.one_lease(consumer)
        attempts.append(lease.attempt)
        bench.back(consumer, lease.token)
        bench.ready(consumer, 1, beat=beat, seen=lease.token)
    assert attempts == [1, 2, 3] and bench.info() == {"dead": 1}
    assert bench.machine.core.queues["q"].errors[1] == ["boom"] * 3


# -- BACK and SAVE -------------------------------------------------------------------------------------------------------


def test_snooze_split_and_unstarted_count_nothing_and_nack_counts_one() -> None:
    for kind, attempt in ((BackKind.NACK, 2), (BackKind.SPLIT, 1), (BackKind.SNOOZE, 1), (BackKind.UNSTARTED, 1)):
        bench, _, consumer, token = given()
        bench.back(consumer, token, kind=kind)
        assert bench.one_lease(consumer).attempt == attempt, kind


def test_a_split_batch_comes_again_one_by_one() -> None:
    bench, _, consumer, token = given(3)
    bench.back(consumer, token, 0, 3, kind=BackKind.SPLIT)
    seen = []
    for _ in range(3):
        lease = bench.one_lease(consumer)
        seen.append((lease.qseq, lease.count, lease.attempt))
        bench.done(consumer, lease.token)
    assert seen == [(1, 1, 1), (2, 1, 1), (3, 1, 1)]


def test_a_back_of_a_lease_that_is_over_changes_nothing() -> None:
    bench, _, consumer, token = given(window=2, lease=2.0)
    bench.wait(2.5)
    second = bench.one_lease(consumer)
    bench.back(consumer, token, kind=BackKind.REJECT)
    assert bench.info() == {"leased": 1} and second.qseq == 1


def test_a_nack_repeated_on_a_new_link_counts_once() -> None:
    bench, _, consumer, token = given()
    bench.back(consumer, token, delay=1.0)
    new = bench.connect("c", link=2)
    bench.ready(new, 1, beat=2, seen=token, held=[(token, 0)])
    bench.back(new, token, delay=1.0)
    bench.wait(1.1)
    bench.ready(new, 1, beat=3, seen=token)
    assert bench.one_lease(new).attempt == 2


def test_what_was_saved_comes_with_the_next_lease_and_survives_a_crash() -> None:
    bench, _, consumer, token = given()
    bench.ready(consumer, 0, beat=2, seen=token, held=[(token, 1)])
    bench.say(consumer, wire.Save(token, 0, b"half way"))
    bench.back(consumer, token)
    after = bench.crash()
    lease = after.one_lease(after.connect("d", window=1))
    assert lease.parcel.unpack_columns()["saved"] == [b"half way"] and lease.attempt == 2


def test_a_save_of_a_lease_that_is_over_is_not_kept() -> None:
    bench, _, consumer, token = given(window=2, lease=2.0)
    bench.wait(2.5)
    bench.say(consumer, wire.Save(token, 0, b"late"))
    assert not bench.machine.core.queues["q"].saved


# -- bodies --------------------------------------------------------------------------------------------------------------


def test_a_body_is_released_when_all_of_its_parcel_is_durably_settled_and_not_before() -> None:
    bench, producer, consumer, token = given(2)
    bench.done(consumer, token, 0, 1)
    assert not bench.log.released
    bench.auto_sync = False
    bench.put(producer, 3, base=3)
    bench.done(consumer, token, 1, 1)
    bench.sync(bench.log.last - 1)  # the PUT is, the DONE is not
    assert not bench.log.released
    bench.sync()
    bench.sync()
    assert len(bench.log.released) == 1


def test_a_leased_message_has_the_bytes_that_were_put() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2)
    bench.put(producer, 1, 4)
    assert [bytes(m) for m in bench.one_lease(consumer).parcel.messages()] == [b"1", b"2"]
