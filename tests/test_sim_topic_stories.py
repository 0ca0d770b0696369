"""Failure schedules of topics as stories: a node, real client machines, and one unlucky moment each.

The oracle watches every story: whatever a reader is told, and whatever it makes of that, is what the log says.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from topic_stage import TopicStage

from zmqkit.machines.following import Gap
from zmqkit.simulator.sizes import TopicSizes, small
from zmqkit.wire import Start

WORDS = (" SUB ", " RESET ", " CHUNK ", " LIVE ", " AT ", " UNSUB", " POS ")


@pytest.fixture(autouse=True)
def sizes() -> Iterator[None]:
    """Two keys in a piece of a snapshot; a sweep after 300 bytes."""
    with small(TopicSizes(sweep_bytes=300, piece_keys=2, pieces_a_turn=1, recent_bytes=500)):
        yield


def test_a_snapshot_and_what_follows() -> None:
    stage = TopicStage()
    stage.publish("a", "b", "c")
    reader = stage.reader()
    stage.publish("d", "-a")
    assert stage.told(*WORDS) == [
        "reader -> node SUB 1 t [''] [] SNAPSHOT 0.0",
        "node -> reader RESET 1 at 1.3 gap 1-0 ALL",
        "node -> reader CHUNK 1 at 3",
        "node -> reader CHUNK 1 at 3",
        "node -> reader AT 1 at 3",
        "node -> reader LIVE 1 4+2 behind 3",
    ]
    assert set(reader.state) == {"b", "c", "d"} and reader.gaps == []


# -- joining -----------------------------------------------------------------------------------------------------------------


def test_rt1_who_joins_during_updates_has_the_same_state_as_who_was_there() -> None:
    stage = TopicStage()
    stage.publish(*[f"k{number}" for number in range(40)])
    early = stage.reader("early")
    late = stage.reader("late", window=1, run=0.002)  # one frame a round trip
    for number in range(10):
        stage.publish(f"k{number}", f"-k{(number * 3) % 10}", f"n{number}", run=0.003)
    assert not late.followed.loaded  # updates came between the pieces
    stage.run(1.0)
    lines = stage.told("node -> late CHUNK", "node -> late LIVE")
    assert [line.split()[3] for line in lines] != sorted(line.split()[3] for line in lines)  # and in any order
    assert early.state == late.state and late.gaps == []


def test_a_prefix_that_is_added_while_updates_go_on_comes_whole_and_what_was_there_goes_on() -> None:
    stage = TopicStage()
    stage.publish("a.1", "b.1", "b.2", "b.3", "c.1")
    reader = stage.reader(prefixes=("a.",))
    stage.publish("a.2", "b.4", "-b.1", run=0.0)
    stage.change(reader, "a.", "b.", run=0.0)
    stage.publish("-b.2", "b.5", "a.1", "c.2", run=0.001)
    stage.publish("-b.5", "b.6")
    stage.run(0.5)
    assert set(reader.state) == {"a.1", "a.2", "b.3", "b.4", "b.6"} and reader.gaps == []
    assert [key for _, key in reader.seen].count("a.2") == 1  # nothing that it had was told again
    stage.change(reader, "b.")
    stage.publish("a.9", "b.9")
    assert set(reader.state) == {"b.3", "b.4", "b.6", "b.9"}


def test_a_prefix_that_is_added_before_the_node_has_answered_comes_whole_all_the_same() -> None:
    stage = TopicStage()
    stage.publish("a.1", "b.1")
    reader = stage.reader(prefixes=("a.",), start=Start.NOW, run=0.0)
    stage.change(reader, "a.", "b.")
    assert stage.told(" RESET ") == ["node -> reader RESET 1 at 1.2 gap 1-0 FRESH"]
    assert set(reader.state) == {"b.1"}


# -- links -------------------------------------------------------------------------------------------------------------------


def test_rt1_a_snapshot_that_its_link_did_not_finish_is_told_anew_and_nothing_of_the_first_is_left() -> None:
    stage = TopicStage()
    stage.publish("a", "b", "c", "d", "e", "f")
    reader = stage.reader(window=1, run=0.0055)
    assert 1 <= len(stage.told("node -> reader CHUNK")) < 3
    stage.cut_link(reader.process)
    stage.publish("-a", "-b", "g", run=1.0)
    assert stage.told(" SUB ")[1:] == ["reader -> node SUB 2 t [''] [] POSITION 0.1"]
    assert set(reader.state) == {"c", "d", "e", "f", "g"} and reader.gaps == []  # it was told nothing before that it could miss


def test_rt2_who_missed_updates_and_lost_its_new_snapshot_is_told_that_it_misses_more() -> None:
    stage = TopicStage(max_messages=2)
    stage.publish("a", "b")
    reader = stage.reader(window=1)
    stage.hold(reader)
    for number in range(6):
        stage.publish(f"k{number}")
    stage.take(reader, run=0.0035)
    assert stage.told(" RESET ")[-1].endswith("gap 4-8 ALL") and not reader.followed.loaded
    stage.cut_link(reader.process)
    for number in range(6):
        stage.publish(f"n{number}", run=0.01)
    stage.run(1.0)
    assert reader.gaps == [Gap(4, 8), Gap(1, 0)] and len(reader.state) == 14


def test_a_link_that_hangs_is_given_up_and_the_next_goes_on_where_it_was() -> None:
    stage = TopicStage()
    stage.publish("a")
    reader = stage.reader()
    stage.cut_link(reader.process, silent=True)
    stage.publish("b", "-a")
    stage.publish("c", run=8.0)
    assert set(reader.state) == {"b", "c"} and reader.seen == [(1, "a"), (2, "b"), (3, "-a"), (4, "c")] and reader.gaps == []


# -- windows -----------------------------------------------------------------------------------------------------------------


def test_rt2_a_slow_reader_that_the_floor_overtakes_is_told_what_it_misses_and_slows_nobody() -> None:
    stage = TopicStage(max_messages=4)
    fast, slow = stage.reader("fast"), stage.reader("slow", window=1)
    stage.hold(slow)
    for number in range(10):
        stage.publish(f"k{number % 3}", f"-k{(number + 1) % 3}")
    assert len(fast.seen) == 20 and len(stage.told("node -> slow LIVE")) == 1
    stage.take(slow)
    assert slow.gaps == [Gap(3, 20)] and slow.state == fast.state
    stage.publish("k1")
    assert slow.seen[-1] == (21, "k1") and fast.gaps == []


def test_what_was_still_to_be_taken_when_the_link_broke_does_not_close_the_window_of_the_next() -> None:
    stage = TopicStage()
    reader = stage.reader(window=300)
    stage.hold(reader)
    for number in range(3):
        stage.publish(f"k{number}")
    stage.cut_link(reader.process)
    stage.run(0.5)
    stage.take(reader)
    for number in range(20):
        stage.publish(f"n{number}")
    assert len(reader.state) == 23 and reader.gaps == []


# -- the node ----------------------------------------------------------------------------------------------------------------


def test_rt3_a_position_in_a_tail_that_was_lost_is_a_gap_even_when_its_number_is_given_again() -> None:
    stage = TopicStage(durability="memory")
    stage.publish("a", "b")
    reader = stage.reader()
    stage.run(0.5)  # that is on the disk by now
    stage.publish("-a", "c", run=0.003)
    stage.lose_tail()
    stage.publisher.process.kill()
    assert set(reader.state) == {"b", "c"}  # it was told; the log has lost it
    book = reader.book
    stage.run(0.5)
    stage.node.start()
    stage.publisher = stage.join_publisher("another")
    reader.process.kill()
    stage.publish("d", "e", "f", run=1.0)
    back = stage.reader("back", book=book)
    assert stage.told(" SUB ")[-1].endswith("POSITION 1.4") and stage.told(" RESET ")[-1].endswith("RESET 1 at 2.5 gap 1-0 ALL")
    assert set(back.state) == {"a", "b", "d", "e", "f"} and back.gaps == [Gap(1, 0)]


def test_rt3_a_reader_that_lived_through_it_forgets_what_was_lost_by_events() -> None:
    stage = TopicStage(durability="memory")
    stage.publish("a", "b")
    reader = stage.reader()
    stage.run(0.5)
    stage.publish("-a", "c", run=0.003)
    stage.lose_tail()
    stage.publisher.process.kill()
    stage.run(0.5)
    stage.node.start()
    stage.run(5.0)
    assert set(reader.state) == {"a", "b"} and reader.gaps == [Gap(1, 0)] and reader.seen[-1][1] == "-c"


def test_rt4_nobody_is_told_before_the_disk_has_it() -> None:
    stage = TopicStage()
    reader = stage.reader()
    stage.publish("a")
    stage.disk.stalled_until = stage.scheduler.now + 1_000_000
    stage.publish("b", run=0.9)
    assert set(reader.state) == {"a"}
    stage.lose_tail()
    stage.run(0.5)
    stage.node.start()
    stage.run(8.0)  # the publisher says it again
    assert set(reader.state) == {"a", "b"} and reader.gaps == []


def test_a_ttl_that_runs_out_while_the_node_is_down_ends_when_it_is_back() -> None:
    stage = TopicStage()
    stage.publish("a", "b", ttl=2.0)
    stage.publish("b", ttl=60.0)
    reader = stage.reader()
    stage.node.crash(power=False)
    stage.run(3.0)
    stage.node.start()
    stage.run(3.0)
    assert set(reader.state) == {"b"} and reader.seen[-1] == (4, "-a") and reader.gaps == []
    assert set(stage.reader("late").state) == {"b"}


def test_a_value_that_is_renewed_while_the_disk_hangs_does_not_end_with_the_old_one() -> None:
    stage = TopicStage()
    stage.publish("a", ttl=1.0)
    reader = stage.reader()
    stage.run(0.5)
    stage.disk.stalled_until = stage.scheduler.now + 1_000_000
    stage.publish("a", ttl=60.0)  # taken in time
    stage.run(3.0)
    assert set(reader.state) == {"a"} and stage.oracle.counts["ttls that ended"] == 0


def test_a_value_whose_end_waits_for_the_disk_is_told_to_nobody() -> None:
    stage = TopicStage()
    stage.publish("a", ttl=0.5)
    stage.publish("b")
    stage.run(0.2)
    stage.disk.stalled_until = stage.scheduler.now + 2_000_000
    stage.run(0.3)
    reader = stage.reader()
    assert set(reader.state) == {"b"} and stage.oracle.counts["ttls that ended"] == 1
    stage.run(3.0)
    assert set(reader.state) == {"b"}


def test_updates_behind_some_that_wait_for_the_disk_wait_too_though_the_topic_is_in_memory_by_now() -> None:
    stage = TopicStage()
    reader = stage.reader()
    stage.publish("a")
    stage.disk.stalled_until = stage.scheduler.now + 500_000
    stage.publish("b", run=0.01)
    stage.declare(durability="memory")
    stage.publish("c", run=0.01)
    assert set(reader.state) == {"a"}
    stage.run(1.0)
    assert reader.seen == [(1, "a"), (2, "b"), (3, "c")]


def test_many_updates_in_memory_in_one_turn_are_told_though_the_log_has_none_of_them_yet() -> None:
    stage = TopicStage(durability="memory")
    reader = stage.reader()
    stage.publish("a")
    for number in range(20):
        stage.publish(f"k{number}", run=0.0)  # all together more than is kept beside the log
    stage.run(0.1)
    assert len(reader.state) == 21 and reader.gaps == []


def test_the_state_is_swept_into_the_log_and_stands_there_after_a_restart() -> None:
    stage = TopicStage(segment_records=30, max_messages=3)
    for number in range(120):
        stage.publish(f"k{number % 7}", f"-k{(number * 2) % 7}", run=0.02)
    reader = stage.reader()
    assert stage.oracle.counts["topic swept"] >= 2 and stage.disk.checkpoints
    stage.restart(power=True)
    stage.run(8.0)
    assert reader.state == stage.reader("late").state


# -- names -------------------------------------------------------------------------------------------------------------------


def test_rt5_a_named_position_goes_on_over_restarts_of_both_and_nothing_is_skipped() -> None:
    stage = TopicStage()
    reader = stage.reader(name="ui")
    stage.publish("a")
    stage.publish("b", "c")
    stage.hold(reader)
    stage.publish("d")  # came, and was not taken
    assert stage.told(" POS ")[-1] == "reader -> node POS 1 1.3"
    reader.process.kill()
    stage.run(0.5)
    stage.restart()
    stage.publish("e", run=8.0)
    back = stage.reader("back", name="ui")
    assert back.seen == [(4, "d"), (5, "e")] and back.gaps == []


def test_rt5_a_name_belongs_to_the_newest_and_the_older_one_moves_it_no_more() -> None:
    stage = TopicStage()
    old = stage.reader("old", name="ui")
    stage.publish("a")
    new = stage.reader("new", name="ui")
    stage.hold(new)
    stage.publish("b", "c")
    assert len(old.seen) == 3
    assert stage.oracle.topics.logs["t"].names == {"ui": (1, 1)}
    new.process.kill()
    assert [seq for seq, _ in stage.reader("newest", name="ui").seen] == [2, 3]


def test_rt5_a_named_snapshot_that_was_cut_does_not_go_on_from_the_position_of_another() -> None:
    stage = TopicStage()
    other = stage.reader("other", name="ui", start=Start.NOW)
    reader = stage.reader(name="", window=1)
    stage.publish("a", "b", "c", "d", "e", "f")
    mine = stage.reader("mine", name="mine", window=1, run=0.0055)
    assert not mine.followed.loaded
    mine.followed.name = "ui"  # a name that has a position
    stage.cut_link(mine.process)
    stage.run(1.0)
    assert mine.state == reader.state == other.state


# -- with queues --------------------------------------------------------------------------------------------------------------


def test_queues_and_topics_on_one_node_have_one_log_and_do_not_mind_each_other() -> None:
    stage = TopicStage(segment_records=20, max_messages=5)
    producer, worker, reader = stage.producer(), stage.worker(), stage.reader(name="ui")
    for number in range(1, 31):
        stage.put(producer, run=0.01)
        stage.publish(f"k{number % 4}", run=0.05)
        worker.ack(number)
        stage.run(0.05)
        if number % 10 == 0:
            stage.restart(power=number == 20)
            stage.run(5.0)
    assert stage.settled() == list(range(1, 31)) and len(reader.state) == 4 and reader.gaps == [] and reader.seen[-1][0] == 30
