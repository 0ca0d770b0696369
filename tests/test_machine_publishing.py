"""PUT, as the node answers it: every number of a stream once, whatever is repeated, refused, lost or restarted."""

from __future__ import annotations

from node_bench import Bench, name

from zmqkit import records, wire


def confirms(bench: Bench, peer: bytes) -> list[tuple[int, int, int]]:
    return [(c.first, c.count, c.qseq) for c in bench.hear(peer, wire.Confirm)]


def total(bench: Bench, queue: str = "q") -> int:
    return bench.machine.core.queues[queue].messages


# -- R-P1: dense numbers, base -------------------------------------------------------------------------------------------


def test_numbers_are_taken_in_order_and_confirmed_with_their_place() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1, 3)
    bench.put(peer, 4, 2)
    assert confirms(bench, peer) == [(1, 3, 1), (4, 2, 4)]


def test_a_repeat_is_confirmed_again_with_the_same_place_and_stored_once() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1, 3)
    bench.put(peer, 1, 3)
    assert confirms(bench, peer) == [(1, 3, 1), (1, 3, 1)] and total(bench) == 3


def test_what_stands_behind_a_refused_batch_is_dropped_and_not_taken_for_later() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.declare(peer, max_messages=1)
    bench.put(peer, 1, 2)  # does not fit
    bench.put(peer, 3, 1, base=1)  # would fit, but came behind it
    assert [r.first for r in bench.hear(peer, wire.Refused)] == [1] and total(bench) == 0
    bench.put(peer, 3, 1, base=3)  # the producer has passed the refused ones
    assert confirms(bench, peer) == [(3, 1, 1)]


def test_a_refused_batch_may_be_offered_again_under_its_numbers() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.log.full = True
    bench.turn()
    bench.put(peer, 1)
    assert bench.hear(peer, wire.Refused)[0].code == wire.Code.DISK_FULL
    bench.log.full = False
    bench.turn()
    bench.put(peer, 1)
    assert confirms(bench, peer) == [(1, 1, 1)]


def test_a_retry_behind_a_refused_number_is_no_duplicate() -> None:
    """Not dense, 6 would have been accepted and the retry of 5 taken for a repeat, and lost."""
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1, 4)
    bench.log.full = True
    bench.turn()
    bench.put(peer, 5, base=5)
    bench.log.full = False
    bench.turn()
    bench.put(peer, 6, base=5)
    bench.put(peer, 5, base=5)
    assert [first for first, _, _ in confirms(bench, peer)] == [1, 5] and total(bench) == 5


def test_a_new_producer_of_a_restarted_node_goes_on_where_it_was() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1, 3)
    after = bench.crash()
    peer = after.connect("p", link=2)
    after.put(peer, 1, 3)
    after.put(peer, 4, 1, base=4)
    assert confirms(after, peer) == [(1, 3, 1), (4, 1, 4)] and total(after) == 4


def test_a_base_beyond_the_last_number_is_believed_for_those_were_refused() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 10, base=10)
    assert confirms(bench, peer) == [(10, 1, 1)]


def test_answers_are_kept_until_the_base_passes_and_no_longer() -> None:
    bench = Bench()
    peer = bench.connect("p")
    for number in range(1, 5):
        bench.put(peer, number, base=max(1, number - 1))
    answers = bench.machine.core.clients[name("p")].streams[1].answers
    assert [answer.first for answer in answers] == [3, 4]


# -- R-P3, R-P4 ----------------------------------------------------------------------------------------------------------


def test_a_repeated_confirm_waits_for_the_original_record() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.auto_sync = False
    bench.put(peer, 1)
    bench.put(peer, 1)
    assert not confirms(bench, peer)
    bench.sync()
    assert confirms(bench, peer) == [(1, 1, 1)] * 2


def test_a_stored_put_whose_confirm_was_lost_is_not_answered_full() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.declare(peer, max_messages=1)
    bench.put(peer, 1)
    peer = bench.connect("p", link=2)
    bench.put(peer, 1)
    assert confirms(bench, peer) == [(1, 1, 1)] and not bench.hear(peer, wire.Refused)


# -- R-P5, R-P6: memory --------------------------------------------------------------------------------------------------


def test_streams_survive_in_the_checkpoint() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1, 3)
    after = bench.restart_from_checkpoint()
    peer = after.connect("p", link=2)
    after.put(peer, 1, 3)
    assert confirms(after, peer) == [(1, 3, 1)] and total(after) == 3


def test_a_stream_is_forgotten_after_a_week_and_not_before() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.put(peer, 1)
    for days, known in ((6, True), (2, False)):
        bench.sleep(days * 86400)
        bench.turn()
        client = bench.machine.core.clients[name("p")]
        assert bool(client.streams) is known


def test_the_age_of_a_message_and_its_retry_time_are_in_the_record_so_replay_reads_no_clock() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    accepted = bench.now
    token = bench.one_lease(consumer).token
    bench.back(consumer, token, delay=100.0)
    due = bench.now + 100.0
    after = bench.crash(down=50.0)
    queue = after.machine.core.queues["q"]
    assert queue.oldest() == accepted and queue.delayed[0][0] == due


# -- merging -------------------------------------------------------------------------------------------------------------


def test_small_puts_of_one_turn_become_one_record_and_one_answer() -> None:
    bench = Bench()
    peer = bench.connect("p")
    for number in range(1, 6):
        bench.put(peer, number, base=1, turn=False)
    bench.turn()
    assert confirms(bench, peer) == [(1, 5, 1)]
    assert [record.count for record in bench.log.records() if isinstance(record, records.Put)] == [5]


def test_puts_of_two_producers_are_not_merged_and_keep_their_own_order() -> None:
    bench = Bench()
    one, two = bench.connect("p"), bench.connect("r")
    for number in (1, 2):
        bench.put(one, number, base=1, turn=False)
        bench.put(two, number, base=1, turn=False)
    bench.turn()
    assert confirms(bench, one) == [(1, 2, 1)] and confirms(bench, two) == [(1, 2, 3)]


def test_a_put_refused_in_the_middle_of_a_turn_does_not_spoil_the_accepted_before_it() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.declare(peer, max_messages=2)
    bench.sent.clear()
    for number in (1, 2, 3):
        bench.put(peer, number, base=1, turn=False)
    bench.turn()
    assert bench.order(peer) == ["CONFIRM", "REFUSED"] and confirms(bench, peer) == [(1, 2, 1)]


# -- on_full -------------------------------------------------------------------------------------------------------------


def test_drop_oldest_gives_way_in_front_and_never_takes_what_is_leased() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.declare(producer, max_messages=3, on_full="drop_oldest")
    bench.put(producer, 1, 3)
    assert bench.one_lease(consumer).qseq == 1
    bench.put(producer, 4, 1)
    bench.put(producer, 5, 1)
    assert [(qseq, count) for qseq, count, _, _ in bench.machine.core.queues["q"].runs("ready")] == [(4, 1), (5, 1)]
    assert bench.info() == {"ready": 2, "leased": 1}


def test_a_batch_that_can_never_fit_drops_nothing() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.declare(producer, max_messages=3, on_full="drop_oldest")
    bench.put(producer, 1, 3)
    bench.put(producer, 4, 4)
    assert bench.hear(producer, wire.Refused)[0].code == wire.Code.FULL
    assert bench.info() == {"ready": 3}


def test_dead_letter_on_full_keeps_the_oldest_among_the_dead() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.declare(producer, max_messages=2, on_full="dead_letter")
    bench.put(producer, 1, 2)
    bench.put(producer, 3, 1)
    assert bench.info() == {"ready": 2, "dead": 1} and bench.ask(producer, 1, "dead_list", queue="q", count=9)["rows"][0][0] == 1


def test_a_full_queue_whose_producers_wait_says_so() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.declare(producer, max_messages=2, on_full="block")
    bench.put(producer, 1, 2)
    bench.put(producer, 3, base=3)
    assert bench.hear(producer, wire.Refused)[0].code == wire.Code.WAIT


def test_a_batch_over_the_limit_does_not_block_its_producer_for_ever() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c")
    bench.declare(producer, max_messages=2, on_full="block")
    bench.put(producer, 1, 1)
    bench.put(producer, 2, 5, base=2)
    assert bench.hear(producer, wire.Refused)[0].code == wire.Code.WAIT
    bench.ready(consumer, 1)
    bench.done(consumer, bench.one_lease(consumer).token)
    bench.put(producer, 2, 5, base=2)
    assert confirms(bench, producer) == [(1, 1, 1), (2, 5, 2)]


# -- a deleted queue -----------------------------------------------------------------------------------------------------


def test_a_producer_with_batches_on_their_way_goes_on_after_its_queue_was_deleted() -> None:
    """The base in the next PUT still names the numbers whose CONFIRM is on its way."""
    bench = Bench()
    peer = bench.connect("p")
    bench.auto_sync = False
    bench.put(peer, 1, 3)
    bench.say(bench.connect("a"), wire.Ask(1, 1, "delete", {"queue": "q"}))
    bench.put(peer, 4, 1, base=1)
    bench.sync()
    assert [first for first, _, _ in confirms(bench, peer)] == [1, 4] and total(bench) == 1


def test_a_message_that_was_not_durable_yet_when_its_queue_was_deleted_is_leased_to_nobody() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.auto_sync = False
    bench.put(producer, 1)
    bench.say(producer, wire.Ask(1, 1, "delete", {"queue": "q"}))
    bench.sync()
    bench.sync()
    assert not bench.hear(consumer, wire.Lease) and not bench.machine.core.leases
    assert bench.log.released == {2}, "its body is needed no more"
