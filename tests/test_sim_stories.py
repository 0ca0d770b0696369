"""Failure schedules as stories: a node, real client machines, and one unlucky moment each.

Each was once found, or constructed, as a way to lose, double or stall a message in a protocol without the rule that its
title names. The oracle watches every story too: it raises when a promise is broken, whatever the story asserts.
"""

from __future__ import annotations

from sim_stage import Stage

from zmqkit import wire

# -- putting -------------------------------------------------------------------------------------------------------------


def test_rp1_a_lost_confirm_is_repeated_on_the_new_link_and_the_message_is_stored_once() -> None:
    stage = Stage()
    producer = stage.producer()
    stage.put(producer, run=0.003)  # the PUT has arrived, its CONFIRM waits for the disk
    stage.cut(producer)
    stage.run(1.0)
    assert stage.told("PUT", "CONFIRM") == ["producer -> node PUT q 1+1"] * 2 + ["node -> producer CONFIRM q 1+1"]
    assert not producer.unanswered and len(stage.oracle.model.keys) == 1


def test_rp1_a_put_that_a_power_cut_ate_is_put_again_and_confirmed_once_it_is_durable() -> None:
    stage = Stage()
    producer = stage.producer()
    stage.put(producer)
    stage.put(producer, run=0.004)
    stage.restart(power=True)
    stage.disk.stalled_until = stage.scheduler.now + 5_000_000
    stage.run(4.0)
    assert 2 in producer.unanswered  # put again by now, and not durable
    stage.run(5.0)
    assert not producer.unanswered and [m.qseq for m in stage.oracle.model.keys.values()] == [1, 2]


def test_rp2_a_new_link_sends_again_from_the_base_in_order_the_first_alone() -> None:
    stage = Stage()
    producer = stage.producer()
    stage.disk.stalled_until = 10_000_000
    for _ in range(3):
        stage.put(producer, run=0.01)
    stage.cut(producer)
    stage.run(1.0)
    assert stage.told("PUT")[-1] == "producer -> node PUT q 1+1"
    stage.run(10.0)
    assert not producer.unanswered and len(stage.oracle.model.keys) == 3


def test_rp3_a_repeated_confirm_waits_for_the_disk_so_a_crash_after_it_loses_nothing() -> None:
    stage = Stage()
    producer = stage.producer()
    stage.disk.stalled_until = 5_000_000
    stage.put(producer, run=0.01)
    stage.cut(producer)
    stage.run(1.0)
    assert stage.told("PUT").count("producer -> node PUT q 1+1") == 2 and not stage.told("CONFIRM")
    stage.restart(power=True)
    stage.run(10.0)
    assert not producer.unanswered and len(stage.oracle.model.keys) == 1


def test_rp4_a_stored_put_is_not_answered_full_when_it_is_sent_again() -> None:
    stage = Stage()
    producer = stage.producer(policy={"max_messages": 1})
    stage.put(producer, run=0.003)
    stage.cut(producer)
    stage.run(1.0)
    assert not stage.told("REFUSED") and not producer.unanswered


def test_rp6_streams_are_in_the_checkpoint_so_a_late_repeat_is_known() -> None:
    stage = Stage(segment_records=2)
    producer = stage.producer()
    stage.put(producer)
    stage.disk.stalled_until = stage.scheduler.now + 400_000
    stage.put(producer, 3, run=0.5)
    stage.run(1.0)
    assert stage.disk.checkpoints
    stage.restart()
    stage.run(3.0)
    stage.put(producer)
    assert not producer.unanswered and len(stage.oracle.model.keys) == 5


def test_rl3_a_put_refused_on_the_new_link_is_not_stored_by_its_copy_on_the_old_one() -> None:
    stage = Stage()
    producer = stage.producer(policy={"max_messages": 1})
    stage.put(producer)
    old = producer.process.link
    stage.node.pause()
    stage.put(producer, run=0.01)  # its copy lies in the stopped node's buffer
    stage.run(4.0)  # the client has long given this link up
    stage.node.resume()
    stage.run(5.0)
    assert producer.process.link is not old and len(stage.oracle.model.keys) == 1
    assert producer.unanswered == {} and stage.told("REFUSED")


# -- leases and links ----------------------------------------------------------------------------------------------------


def test_rq4_what_a_killed_worker_held_comes_back_after_grace_as_the_second_attempt() -> None:
    stage = Stage()
    producer, first = stage.producer(), stage.worker("first")
    stage.put(producer)
    first.process.kill()
    second = stage.worker("second", run=1.5)
    assert second.started == []
    stage.run(2.0)
    assert second.started == [1] and stage.ends == {"link-lost": 1}
    assert stage.told("LEASE")[-1].endswith("attempt 2")


def test_rq4_a_cut_link_inside_grace_is_no_reason_to_run_a_job_twice() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    for _ in range(5):
        stage.cut(worker)
        stage.run(1.0)
    worker.ack(1)
    stage.run(0.2)
    assert worker.started == [1] and worker.verdicts == ["OK"] and stage.ends == {}


def test_rq4_a_stopped_worker_starts_nothing_that_was_given_away_and_its_late_ack_is_stale() -> None:
    stage = Stage()
    producer, sleeper = stage.producer(policy={"lease": 2.0}), stage.worker("sleeper", credit=2)
    stage.put(producer, 2)
    assert sleeper.started == [1]
    sleeper.process.pause()
    other = stage.worker("other", credit=1)
    stage.run(6.0)
    other.ack(other.started[0])
    stage.run(0.2)
    assert sorted(other.started) == [1, 2]
    sleeper.process.resume()
    sleeper.ack(1)
    stage.run(5.0)
    assert sleeper.started == [1] and (sleeper.verdicts or ["STALE"]) == ["STALE"] and stage.oracle.counts["told OK"] == 1


def test_rq4_on_a_half_open_link_a_worker_starts_nothing_after_grace() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker(credit=2)
    stage.put(producer, 2)
    assert worker.started == [1]
    stage.net.unreachable["worker"] = stage.scheduler.now + 20_000_000
    stage.cut(worker, silent=True)
    stage.run(1.95)
    worker.ack(1)
    stage.run(5.0)
    assert worker.started == [1]
    assert stage.ends == {"link-lost": 1}


def test_rl2_a_link_on_which_nothing_comes_back_is_given_up() -> None:
    """Only the application is deaf: the sockets below are well, so no heartbeat of ZeroMQ's own tells."""
    stage = Stage()
    producer = stage.producer()
    stage.net.listener = None  # what is sent up arrives nowhere
    stage.put(producer, run=6.0)
    assert stage.told("HELLO")[-1] != "producer -> node HELLO link 1"


def test_rq2_a_lease_that_died_with_its_link_is_back_at_once_and_no_attempt() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer, run=0.0068)  # the LEASE is on its way
    assert stage.told("LEASE") and not worker.started
    assert worker.process.link is not None
    worker.process.link.down.allowed = worker.process.link.down.arrived
    stage.cut(worker)
    stage.run(0.5)
    assert worker.started == [1] and stage.ends == {"not-received": 1} and stage.told("LEASE")[-1].endswith("attempt 1")


def test_rq5_a_killed_node_comes_back_and_the_job_goes_on_under_its_lease() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    other = stage.worker("other")
    stage.restart(down=1.0)
    stage.run(1.5)
    worker.ack(1)
    stage.run(0.5)
    assert worker.verdicts == ["OK"] and other.started == [] and stage.ends == {}


def test_rq5_an_orphan_whose_worker_is_gone_too_goes_to_another_one_after_grace() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    worker.process.kill()
    stage.restart(down=1.0)
    other = stage.worker("other", run=5.0)
    assert other.started == [1] and stage.ends == {"node-restarted": 1}


def test_rq6_a_node_that_was_stopped_longer_than_all_leases_expires_nobody_who_is_alive() -> None:
    stage = Stage()
    producer, worker = stage.producer(policy={"lease": 2.0}), stage.worker()
    stage.put(producer)
    other = stage.worker("other")
    stage.node.pause()
    stage.run(20.0)
    stage.node.resume()
    stage.run(3.0)
    worker.ack(1)
    stage.run(0.5)
    assert worker.verdicts == ["OK"] and other.started == [] and stage.ends == {}


def test_a_job_of_ten_leases_runs_once_also_over_a_cut_link_and_a_node_restart() -> None:
    stage = Stage()
    producer, worker = stage.producer(policy={"lease": 1.5}), stage.worker()
    stage.put(producer)
    other = stage.worker("other")
    stage.run(4.0)
    stage.cut(worker)
    stage.run(4.0)
    stage.restart(down=0.8)
    stage.run(7.0)
    worker.ack(1)
    stage.run(0.5)
    assert worker.started == [1] and worker.verdicts == ["OK"] and other.started == [] and stage.ends == {}


def test_rl6_an_old_copy_of_the_node_is_refused_by_who_knows_a_newer_one() -> None:
    stage = Stage()
    producer = stage.producer()
    stage.restart()
    stage.run(2.0)
    assert producer.process.machine.epoch == 2
    stage.node.crash(power=False)
    stage.disk.epoch = 0  # a copy of the directory from before
    stage.node.start()
    stage.put(producer, run=5.0)
    assert producer.unanswered and not stage.oracle.confirmed


def test_rl6_another_node_at_the_same_place_ends_every_held_lease() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    stage.node.crash(power=False)
    stage.another_node()
    stage.run(3.0)
    assert worker.revoked == [1]
    assert [line for line in stage.told("READY")[-2:] if "1.1(" in line] == [], "it means nothing to this node, or something else"


# -- settling ------------------------------------------------------------------------------------------------------------


def test_ra4_an_ack_that_died_with_its_link_is_said_again_and_counts() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    worker.ack(1)
    stage.run(0.0005)
    assert worker.process.link is not None
    worker.process.link.up.allowed = worker.process.link.up.arrived
    stage.cut(worker)
    stage.run(1.0)
    assert stage.told("DONE").count("worker -> node DONE 1.1:0+1") == 2
    assert worker.verdicts == ["OK"] and stage.settled() == [1] and worker.started == [1]


def test_ra3_an_ack_whose_answer_died_with_the_node_is_in_doubt_and_never_denied() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    worker.ack(1)
    stage.run(0.0075)  # durable, and the answer has not arrived
    stage.restart()
    stage.run(2.0)
    assert worker.verdicts in (["SETTLED"], ["OK"]) and worker.started == [1] and stage.settled() == [1]


def test_ra1_an_ack_that_a_power_cut_ate_was_not_answered_and_counts_when_it_is_repeated() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    stage.run(0.2)
    stage.disk.stalled_until = stage.scheduler.now + 3_000_000
    worker.ack(1)
    stage.run(0.02)
    stage.disk.written = stage.disk.durable
    stage.restart(down=0.2, power=True)
    assert worker.verdicts == []
    stage.run(5.0)
    assert worker.verdicts == ["OK"] and worker.started == [1]


def test_rq8_a_lease_that_was_taken_back_stays_taken_back_over_a_crash() -> None:
    stage = Stage()
    producer, sleeper = stage.producer(policy={"lease": 1.5}), stage.worker("sleeper")
    stage.put(producer)
    sleeper.process.pause()
    stage.run(5.0)
    stage.restart()
    sleeper.process.resume()
    sleeper.ack(1)
    stage.run(5.0)
    assert "OK" not in sleeper.verdicts[:1] and stage.oracle.counts["told STALE"] == len(sleeper.verdicts) and stage.settled() == []


def test_rq7_the_neighbours_of_a_message_that_kills_its_worker_are_not_counted() -> None:
    stage = Stage()
    producer = stage.producer(policy={"max_attempts": 2})
    stage.put(producer, 5)
    for life in range(12):
        worker = stage.worker(f"worker{life}", credit=5, handlers=1, run=0.2)
        while worker.running:
            qseq = next(iter(worker.running))
            if qseq == 3:
                worker.process.kill()
                break
            worker.ack(qseq)
            stage.run(0.1)
        stage.run(3.0)
    states = {m.qseq: (m.state, m.failed) for m in stage.oracle.model.keys.values()}
    assert states[3] == ("dead", 2) and all(states[qseq] == ("settled", 0) for qseq in (1, 2, 4, 5))


def test_ra7_a_lease_that_crossed_a_goodbye_is_not_run_and_goes_back_uncounted() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer, run=0.0068)  # the LEASE is on its way
    worker.process.stop(hasty=True)
    stage.run(1.0)
    assert worker.started == [] and not worker.process.alive and stage.ends == {"client-stopped": 1}
    other = stage.worker("other")
    assert other.started == [1] and stage.told("LEASE")[-1].endswith("attempt 1")


def test_ra7_a_stop_finishes_what_runs_and_gives_back_what_waits() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker(credit=2)
    stage.put(producer, 2)
    worker.process.stop(hasty=False)
    stage.run(1.0)
    assert worker.process.alive
    worker.ack(1)
    for lease, index in worker._waiting:
        worker.process.machine.back(lease, index, 1, wire.BackKind.UNSTARTED)
    stage.run(1.0)
    assert not worker.process.alive and worker.verdicts == ["OK"] and stage.settled() == [1]


# -- the disk ------------------------------------------------------------------------------------------------------------


def test_rl4_a_stalled_disk_delays_confirms_and_no_heartbeat() -> None:
    stage = Stage()
    producer, worker = stage.producer(), stage.worker()
    stage.put(producer)
    stage.disk.stalled_until = stage.scheduler.now + 8_000_000
    stage.put(producer, run=7.0)
    assert 2 in producer.unanswered and stage.ends == {} and worker.process.machine.link == producer.process.machine.link == 1


def test_rj3_a_damaged_checkpoint_costs_time_and_no_message() -> None:
    stage = Stage(segment_records=6)
    producer, worker = stage.producer(), stage.worker()
    for qseq in range(1, 12):
        stage.put(producer)
        worker.ack(qseq)
        stage.run(0.3)
    stage.put(producer, 3, run=0.5)
    assert len(stage.disk.checkpoints) == 2
    stage.disk.damage_newest_checkpoint = True
    stage.restart()
    stage.run(3.0)
    assert len(stage.oracle.unfinished()) == 3 and stage.oracle.counts["executed again"] == 0
