"""Leases, as the node gives and ends them: windows, renewal, lost links, pauses, restarts, suspects."""

from __future__ import annotations

from node_bench import Bench, name

from zmqkit import records, wire


def leased(bench: Bench, peer: bytes) -> list[tuple[int, int]]:
    """(qseq, count) of the leases that arrived."""
    return [(lease.qseq, lease.count) for lease in bench.hear(peer, wire.Lease)]


def causes(bench: Bench) -> list[str]:
    return [cause for *_, cause in bench.ended]


# -- R-Q1: windows -------------------------------------------------------------------------------------------------------


def test_a_window_is_absolute_and_restating_it_gives_nothing_more() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2)
    bench.put(producer, 1, 5)
    token = bench.one_lease(consumer).token
    bench.ready(consumer, 2, beat=2, seen=token, held=[(token, 2)])
    bench.ready(consumer, 2, beat=3)  # said before the lease arrived
    assert leased(bench, consumer) == []


def test_a_settled_message_makes_room_at_once() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1, 2)
    bench.auto_sync = False
    bench.done(consumer, bench.one_lease(consumer).token)
    assert leased(bench, consumer) == [(2, 1)]


def test_revoked_messages_that_still_run_use_up_room() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1, lease=5.0)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.wait(6.0)  # its READYs stay away: expired
    bench.ready(consumer, 1, beat=2, seen=token, held=[(token, 1)])
    assert leased(bench, consumer) == []
    bench.ready(consumer, 1, beat=3, seen=token)
    assert leased(bench, consumer) == [(1, 1)]


def test_what_was_taken_from_a_client_that_does_not_know_yet_uses_up_room_too() -> None:
    bench = Bench()
    bench.declare(bench.connect("a"), max_attempts=2)
    producer, consumer = bench.connect("p"), bench.connect("c", window=1, lease=0.5)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.wait(2.0)  # silent, but not for long enough to be passed over
    assert leased(bench, consumer) == [] and bench.info() == {"ready": 1}
    bench.ready(consumer, 1, beat=2, seen=token)
    assert leased(bench, consumer) == [(1, 1)]


def test_a_client_with_as_many_tokens_as_a_heartbeat_lists_gets_no_more() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1000)
    bench.checked = False  # 600 times over 600 leases
    for number in range(1, 601):
        bench.put(producer, number)
    assert len(leased(bench, consumer)) == 512


def test_ready_messages_are_shared_among_those_who_could_begin_now() -> None:
    bench = Bench()
    one, two = bench.connect("c", window=10), bench.connect("d", window=10)
    bench.put(bench.connect("p"), 1, 10)
    assert leased(bench, one) == [(1, 5)] and leased(bench, two) == [(6, 5)]


def test_a_paused_queue_leases_nothing_until_it_is_resumed() -> None:
    bench = Bench()
    consumer, admin = bench.connect("c", window=1), bench.connect("a")
    bench.ask(admin, 1, "pause", queue="q")
    bench.put(bench.connect("p"), 1)
    assert leased(bench, consumer) == []
    bench.ask(admin, 2, "resume", queue="q")
    assert leased(bench, consumer) == [(1, 1)]


# -- R-Q2: what READY lists ----------------------------------------------------------------------------------------------


def test_a_listed_lease_is_renewed() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1, lease=5.0)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    for beat in range(2, 14):
        bench.wait(1.0)
        bench.ready(consumer, 1, beat=beat, seen=token, held=[(token, 1)], lease=5.0)
    assert causes(bench) == [] and bench.info() == {"leased": 1}


def test_a_renewal_stops_at_max_run() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c")
    bench.declare(producer, max_run=8.0, lease=5.0)
    bench.ready(consumer, 1)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    for beat in range(2, 14):
        bench.wait(1.0)
        bench.ready(consumer, 1, beat=beat, seen=token, held=[(token, 1)])
    assert causes(bench) == ["expired"]


def test_a_seen_lease_that_is_not_listed_goes_back_at_once_without_an_attempt() -> None:
    bench = Bench()
    producer, consumer, other = bench.connect("p"), bench.connect("c", window=1), bench.connect("d")
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.ready(consumer, 0, beat=2, seen=token)
    assert causes(bench) == ["not-held"]
    bench.ready(other, 1)
    assert bench.one_lease(other).attempt == 1


def test_a_lease_that_is_still_on_its_way_is_not_taken_back() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.ready(consumer, 1, beat=2, seen=0)
    assert causes(bench) == []


def test_an_unlisted_lease_of_an_older_link_goes_back_though_it_was_never_seen() -> None:
    bench = Bench()
    producer, _ = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    new = bench.connect("c", window=1, link=2)
    assert leased(bench, new) == [(1, 1)] and causes(bench) == ["not-received"]


def test_a_listed_lease_that_is_over_is_revoked_in_the_echo_of_that_very_ready() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1, lease=2.0)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.wait(2.5)
    bench.ready(consumer, 1, beat=9, seen=token, held=[(token, 1)])
    assert [echo.revoked for echo in bench.hear(consumer, wire.Echo) if echo.beat == 9] == [[token]]


def test_a_token_of_somebody_else_is_revoked_and_never_renewed() -> None:
    bench = Bench()
    producer, owner, thief = bench.connect("p"), bench.connect("c", window=1, lease=4.0), bench.connect("t", window=0)
    bench.put(producer, 1)
    token = bench.one_lease(owner).token
    bench.wait(3.0)
    bench.ready(thief, 0, beat=2, seen=token, held=[(token, 1)])
    assert bench.hear(thief, wire.Echo)[-1].revoked == [token]
    bench.wait(2.0)
    assert causes(bench) == ["expired"]


# -- R-Q3, R-Q4: silence and lost links ----------------------------------------------------------------------------------


def test_a_silent_client_gets_no_new_lease_and_its_leases_run_to_their_deadline() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2, lease=20.0)
    bench.put(producer, 1)
    assert leased(bench, consumer) == [(1, 1)]
    bench.wait(3.5)
    bench.put(producer, 2)
    assert leased(bench, consumer) == [] and causes(bench) == []
    bench.wait(17.0)
    assert causes(bench) == ["expired"]


def test_a_lost_link_brings_the_deadline_forward_to_the_last_ready_and_grace() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.wait(1.0)
    bench.machine.lost(consumer, bench.now)
    bench.wait(0.9)
    assert causes(bench) == []
    bench.wait(0.2)
    assert causes(bench) == ["link-lost"]


def test_the_end_of_a_lost_lease_is_not_late_however_long_nothing_else_happens() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c")
    bench.declare(producer, grace=20.0)
    bench.ready(consumer, 1)
    bench.put(producer, 1)
    bench.machine.lost(consumer, bench.now)
    bench.wait(20.2)
    assert causes(bench) == ["link-lost"]


def test_the_same_client_adopts_its_lease_by_listing_it_on_a_new_link() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.machine.lost(consumer, bench.now)
    bench.wait(1.5)
    new = bench.connect("c", link=2)
    bench.ready(new, 1, beat=2, seen=token, held=[(token, 1)])
    bench.wait(1.4)
    bench.ready(new, 1, beat=3, seen=token, held=[(token, 1)])
    bench.done(new, token)
    assert bench.verdicts(new) == [(token, 0, 1, "OK")] and causes(bench) == []


def test_a_link_that_breaks_before_its_first_ready_does_not_prolong_what_an_older_one_held() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.machine.lost(consumer, bench.now)
    bench.wait(1.5)
    new = bench.connect("c", link=2)
    bench.machine.lost(new, bench.now)
    bench.wait(0.6)
    assert causes(bench) == ["link-lost"]


def test_a_lease_that_could_not_be_sent_comes_back_without_an_attempt() -> None:
    bench = Bench()
    producer, consumer, other = bench.connect("p"), bench.connect("c", window=1), bench.connect("d")
    bench.gone.add(consumer)
    bench.put(producer, 1)
    assert causes(bench) == ["unsent"]
    bench.ready(other, 1)
    assert bench.one_lease(other).attempt == 1


# -- R-Q5: restarts ------------------------------------------------------------------------------------------------------


def test_after_a_restart_a_lease_waits_for_its_holder_who_adopts_it() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    after = bench.crash()
    other = after.connect("d", window=1)
    assert leased(after, other) == []
    new = after.connect("c", link=2)
    after.ready(new, 1, beat=2, seen=token, held=[(token, 1)])
    after.wait(1.0)
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "OK")] and after.ended == []


def test_an_orphan_whose_holder_stays_away_goes_back_after_grace() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    assert leased(bench, consumer) == [(1, 1)]
    after = bench.crash()
    other = after.connect("d", window=1)
    after.wait(1.9)
    after.ready(other, 1, beat=2)
    assert leased(after, other) == []
    after.wait(0.3)
    assert leased(after, other) == [(1, 1)] and causes(after) == ["node-restarted"]


def test_an_orphan_is_adopted_by_its_own_client_only() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    after = bench.crash()
    thief = after.connect("t")
    after.ready(thief, 1, beat=2, seen=token, held=[(token, 1)])
    after.done(thief, token)
    assert after.verdicts(thief) == [(token, 0, 1, "STALE")] and after.info() == {"leased": 1}


def test_tokens_rise_over_restarts() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2)
    bench.put(producer, 1)
    bench.put(producer, 2)
    tokens = [lease.token for lease in bench.hear(consumer, wire.Lease)]
    after = bench.crash(kept=2)  # both LEASE records are lost, and the second message
    tokens.append(after.one_lease(after.connect("c", window=1, link=2)).token)
    assert tokens == sorted(set(tokens))


def test_a_suspect_that_was_held_over_a_restart_is_still_held_alone() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=2, lease=2.0)
    bench.put(producer, 1, 2)
    bench.wait(2.5)
    bench.ready(consumer, 2, beat=2, seen=bench.one_lease(consumer).token, lease=2.0)
    token = bench.one_lease(consumer).token  # one suspect of two
    assert bench.info() == {"ready": 1, "leased": 1}
    after = bench.crash()
    producer, new = after.connect("p", link=2), after.connect("c", link=2)
    after.ready(new, 9, beat=2, seen=token, held=[(token, 1)])
    after.put(producer, 3, base=3)
    assert leased(after, new) == []


# -- R-Q6: time is what the node has heard -------------------------------------------------------------------------------


def test_a_node_that_was_stopped_expires_nobody_when_it_wakes() -> None:
    bench = Bench()
    producer, _ = bench.connect("p"), bench.connect("c", window=1, lease=10.0)
    bench.put(producer, 1)
    bench.sleep(60.0)
    bench.turn()
    bench.turn()
    assert causes(bench) == []


def test_a_heartbeat_that_waits_to_be_read_is_read_before_anybody_expires() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1, lease=1.0)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.sleep(1.0)
    bench.ready(consumer, 1, beat=2, seen=token, held=[(token, 1)], lease=1.0)
    assert causes(bench) == []


def test_when_more_waits_to_be_read_those_just_heard_are_spared_and_the_silent_are_not() -> None:
    bench = Bench()
    producer, busy, _ = bench.connect("p"), bench.connect("c", window=1, lease=1.0), bench.connect("d", window=1, lease=1.0)
    bench.put(producer, 1, 2)
    token = bench.one_lease(busy).token
    bench.sleep(1.0)
    bench.say(busy, wire.Save(token, 0, b"half"), turn=False)  # its READY stands behind this in its pipe
    bench.turn(drained=False)
    assert [(qseq, cause) for _, qseq, _, cause in bench.ended] == [(2, "expired")]


# -- R-Q7: attempts and suspects -----------------------------------------------------------------------------------------


def test_a_lost_lease_of_one_message_counts_an_attempt() -> None:
    bench = Bench()
    producer, consumer, other = bench.connect("p"), bench.connect("c", window=1), bench.connect("d")
    bench.put(producer, 1)
    bench.machine.lost(consumer, bench.now)
    bench.wait(2.5)
    bench.ready(other, 1)
    assert bench.one_lease(other).attempt == 2


def test_the_neighbours_of_a_poison_message_are_never_counted() -> None:
    """Ten messages, one of which kills whoever starts it: the nine others are done, and the one is dead after 8 attempts."""
    bench = Bench()
    producer = bench.connect("p")
    bench.put(producer, 1, 10)
    for link in range(1, 40):
        worker = bench.connect("c", window=10, link=link)
        while (leases := bench.hear(worker, wire.Lease)) and all(wire.Lease and not _holds(lease, 4) for lease in leases):
            for lease in leases:
                bench.done(worker, lease.token, 0, lease.count)
        if not leases:
            break
        bench.machine.lost(worker, bench.now)
        bench.wait(2.5)
    assert bench.info() == {"dead": 1}
    dead = bench.ask(bench.connect("a"), 1, "dead_list", queue="q", count=9)["rows"]
    assert [(qseq, failed) for qseq, _, failed, _, _ in dead] == [(4, 8)]


def _holds(lease: wire.Lease, qseq: int) -> bool:
    return lease.qseq <= qseq < lease.qseq + lease.count


def suspects(bench: Bench, count: int = 2) -> None:
    """`count` messages that came back from a lost lease of several."""
    producer, consumer = bench.connect("p"), bench.connect("z", window=count)
    bench.put(producer, 1, count)
    bench.machine.lost(consumer, bench.now)
    bench.wait(2.5)
    bench.sent.clear()


def test_a_suspect_is_leased_by_itself_and_nothing_beside_it() -> None:
    bench = Bench()
    suspects(bench)
    bench.put(b"p1", 3, base=3)
    worker = bench.connect("c", window=10)
    assert leased(bench, worker) == [(1, 1)]


def test_a_suspect_is_not_given_to_a_client_that_holds_something() -> None:
    bench = Bench()
    worker = bench.connect("c", window=10, lease=600.0)
    bench.put(bench.connect("p"), 1, queue="other")
    bench.say(worker, wire.Ready(2, 0, [wire.Window("other", 10, 600.0), wire.Window("q", 10, 600.0)], 0, []))
    assert leased(bench, worker) == [(1, 1)]
    suspects(bench)
    assert leased(bench, worker) == []


def test_a_suspect_is_not_given_to_a_client_that_still_runs_messages_of_a_lease_that_is_over() -> None:
    bench = Bench()
    producer, worker = bench.connect("p"), bench.connect("c", window=10, lease=5.0)
    bench.put(producer, 1, 2)
    token = bench.one_lease(worker).token
    bench.wait(6.0)  # its READYs stay away: expired
    bench.ready(worker, 10, beat=2, seen=token, held=[(token, 2)])
    assert leased(bench, worker) == []
    bench.ready(worker, 10, beat=3, seen=token, held=[(token, 1)])
    assert leased(bench, worker) == []
    bench.ready(worker, 10, beat=4, seen=token, held=[(token, 0)])  # an ack of it is unanswered, but nothing runs
    assert leased(bench, worker) == [(1, 1)]


def test_a_suspect_is_not_given_to_a_client_that_does_not_know_yet_that_its_lease_is_over() -> None:
    bench = Bench()
    bench.declare(bench.connect("a"), max_run=1.5)
    producer, worker = bench.connect("p"), bench.connect("c", window=10)
    bench.put(producer, 1, 2)
    token = bench.one_lease(worker).token
    for beat in (2, 3):
        bench.wait(0.7)
        bench.ready(worker, 10, beat=beat, seen=token, held=[(token, 2)])
    bench.wait(0.2)
    assert bench.ended == [(token, 1, 2, "expired")] and leased(bench, worker) == []
    assert leased(bench, bench.connect("d", window=10)) == [(1, 1)]  # who runs nothing may have one
    bench.ready(worker, 10, beat=4, seen=token)
    assert leased(bench, worker) == [(2, 1)]


def test_an_absent_client_is_forgotten_though_its_leases_ended_unasked() -> None:
    bench = Bench()
    worker = bench.connect("c", window=10)
    bench.put(bench.connect("p"), 1, 2)
    bench.machine.lost(worker, bench.now)
    for _ in range(130):
        bench.wait(1.0)
    assert name("c") not in bench.machine.core.clients


def busy_workers_and_suspects(bench: Bench) -> tuple[bytes, bytes, int, int]:
    """Two workers, each with one message in hand and room for more, and two suspects."""
    producer, victim = bench.connect("p"), bench.connect("z", window=2)
    bench.put(producer, 1, 2)
    one, two = bench.connect("c", window=2), bench.connect("d", window=2)
    bench.put(producer, 3, 2)
    tokens = bench.one_lease(one).token, bench.one_lease(two).token
    bench.machine.lost(victim, bench.now)
    for beat in (2, 3, 4):
        bench.wait(0.9)
        for peer, token in zip((one, two), tokens, strict=True):
            bench.ready(peer, 2, beat=beat, seen=token, held=[(token, 1)])
    assert bench.info() == {"ready": 2, "leased": 2}
    return one, two, *tokens


def test_one_busy_client_is_let_run_dry_for_suspects() -> None:
    bench = Bench()
    one, two, token, _ = busy_workers_and_suspects(bench)
    bench.put(bench.connect("p"), 5, base=5)
    bench.done(one, token)
    assert leased(bench, one) == [(1, 1)] or leased(bench, two) == [(5, 1)]
    assert leased(bench, one) in ([(1, 1)], [])


def test_when_the_client_that_is_let_run_dry_goes_away_another_one_takes_its_place() -> None:
    bench = Bench()
    one, two, token_one, token_two = busy_workers_and_suspects(bench)
    number = next(iter(bench.machine.core.queues.values())).number
    drying = bench.machine._leasing._drying[number]
    gone, stays, token = (one, two, token_two) if drying == name("c") else (two, one, token_one)
    bench.say(gone, wire.Bye())
    for first in range(5, 11):  # there is always something else to do
        bench.put(bench.connect("p"), first, base=first)
    got = leased(bench, stays)
    bench.wait(0.5)
    bench.done(stays, token)
    for lease in list(bench.machine.core.leases.values()):
        if lease.open and lease.client == name("d" if stays == two else "c"):
            bench.done(stays, lease.token, 0, lease.count)
    got += leased(bench, stays)
    assert (1, 1) in got


def test_nobody_is_kept_dry_for_suspects_that_are_no_more() -> None:
    bench = Bench()
    busy_workers_and_suspects(bench)
    bench.ask(bench.connect("a"), 1, "purge", queue="q")
    bench.put(bench.connect("p"), 5, 2, base=5)
    assert bench.info() == {"leased": 4}


def test_a_client_that_runs_dry_for_one_queue_is_not_fed_from_another_at_that_very_moment() -> None:
    bench = Bench()
    producer, victim = bench.connect("p"), bench.connect("z", window=2)
    bench.put(producer, 1, 2)
    worker = bench.connect("c")
    both = [wire.Window("other", 1, 0.0), wire.Window("q", 1, 0.0)]
    bench.put(producer, 1, 4, queue="other")
    bench.say(worker, wire.Ready(1, 0, both, 0, []))
    token = bench.one_lease(worker).token
    bench.machine.lost(victim, bench.now)
    for beat in (2, 3, 4):
        bench.wait(0.9)
        bench.say(worker, wire.Ready(beat, token, both, 0, [wire.Held(token, 1, 0.0)]))
    bench.done(worker, token)
    assert [(lease.queue, lease.qseq) for lease in bench.hear(worker, wire.Lease)] == [("q", 1)]


# -- R-Q8, R-Q9 ----------------------------------------------------------------------------------------------------------


def test_every_end_of_a_lease_is_a_record_and_an_old_token_stays_dead_over_a_restart() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1, lease=2.0)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.wait(2.5)
    assert any(isinstance(record, records.Back) for record in bench.log.records())
    after = bench.crash()
    new = after.connect("c", link=2)
    after.ready(new, 0, beat=9, seen=token, held=[(token, 1)])
    after.done(new, token)
    assert after.verdicts(new) == [(token, 0, 1, "STALE")] and after.info() == {"ready": 1}


def test_returned_messages_go_before_fresh_ones_lowest_number_first() -> None:
    bench = Bench()
    producer, consumer, other = bench.connect("p"), bench.connect("c", window=3), bench.connect("d")
    for number in range(1, 7):
        bench.put(producer, number)
    tokens = [lease.token for lease in bench.hear(consumer, wire.Lease)]
    bench.ready(consumer, 0, beat=2, seen=tokens[-1], held=[(token, 1) for token in tokens], turn=False)
    for token in (tokens[2], tokens[0]):
        bench.back(consumer, token, kind=wire.BackKind.UNSTARTED)
    bench.ready(other, 4)
    assert leased(bench, other) == [(1, 1), (3, 1), (4, 1), (5, 1)]


def test_a_lease_holds_messages_of_equal_attempts_only() -> None:
    bench = Bench()
    producer, consumer, other = bench.connect("p"), bench.connect("c", window=3), bench.connect("d")
    bench.put(producer, 1, 3)
    token = bench.one_lease(consumer).token
    bench.ready(consumer, 0, beat=2, seen=token, held=[(token, 3)], turn=False)
    bench.back(consumer, token, 1, 1)
    bench.back(consumer, token, 0, 1, kind=wire.BackKind.UNSTARTED)
    bench.back(consumer, token, 2, 1, kind=wire.BackKind.UNSTARTED)
    bench.ready(other, 9)
    assert [(lease.qseq, lease.count, lease.attempt) for lease in bench.hear(other, wire.Lease)] == [(1, 1, 1), (2, 1, 2), (3, 1, 1)]


def test_a_delayed_message_comes_back_when_its_time_has_come_and_not_before() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.back(consumer, token, delay=5.0)
    for second in range(4):
        bench.wait(1.0)
        bench.ready(consumer, 1, beat=2 + second, seen=token)
    assert leased(bench, consumer) == [] and bench.info() == {"delayed": 1}
    bench.wait(1.1)
    assert leased(bench, consumer) == [(1, 1)]


def test_a_delay_goes_by_the_clock_also_while_the_node_was_down() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.back(consumer, bench.one_lease(consumer).token, delay=50.0)
    after = bench.crash(down=60.0)
    after.turn()
    assert after.info() == {"ready": 1}


def test_backoff_doubles_with_every_failure() -> None:
    bench = Bench(jitter=1.0)
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    waits = []
    bench.put(producer, 1)
    for beat in range(2, 7):
        bench.back(consumer, bench.one_lease(consumer).token, delay=-1.0)
        waits.append(round(bench.machine.core.queues["q"].delayed[0][0] - bench.now, 3))
        bench.wait(waits[-1])
        bench.ready(consumer, 1, beat=beat)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
