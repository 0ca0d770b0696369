"""Links, as the node sees them: who is heard, what waits for the disk, and how a vanished peer is noticed."""

from __future__ import annotations

import pytest
from node_bench import Bench, name

from zmqkit import wire
from zmqkit.machines.output import Dropped


def dropped(bench: Bench) -> dict[str, int]:
    return bench.machine.core.dropped


# -- R-L1: HELLO first --------------------------------------------------------------------------------------------------


def test_a_routing_id_that_did_not_say_hello_is_told_so_and_nothing_of_it_is_applied() -> None:
    bench = Bench()
    bench.put(b"stranger", 1)
    assert bench.order(b"stranger") == ["NOSESSION"]
    assert not bench.machine.core.queues and not bench.log.items


def test_what_comes_on_a_link_that_was_given_up_is_not_applied() -> None:
    bench = Bench()
    old = bench.connect("p", link=1)
    bench.connect("p", link=2)
    bench.put(old, 1)
    assert not bench.machine.core.queues
    assert bench.order(old)[-1] == "NOSESSION"


# -- R-L3: the newest link wins ------------------------------------------------------------------------------------------


def test_a_late_hello_of_an_older_link_is_ignored() -> None:
    bench = Bench()
    new = bench.connect("p", link=2)
    bench.hello(b"late", name("p"), link=1)
    assert bench.order(b"late") == [] and dropped(bench)["late-hello"] == 1
    bench.put(new, 1)
    assert bench.hear(new, wire.Confirm)


def test_a_link_is_that_of_one_client_and_makes_the_node_know_of_no_other() -> None:
    bench = Bench()
    link = bench.connect("p")
    for number in range(10):
        bench.hello(link, bytes([number]) * 16)
    assert bench.order(link) == ["WELCOME"]
    assert list(bench.machine.core.clients) == [name("p")] and dropped(bench)["late-hello"] == 10


def test_two_links_of_one_client_never_fill_its_window_twice() -> None:
    bench = Bench()
    producer = bench.connect("p")
    old = bench.connect("c", window=1)
    bench.connect("c", window=1, link=2)
    bench.put(producer, 1)
    bench.put(producer, 2)
    assert bench.order(old).count("LEASE") + bench.order(b"c2").count("LEASE") == 1
    assert bench.one_lease(b"c2").qseq == 1


def test_an_unplanned_new_link_ends_the_older_one_so_its_unlisted_leases_go_back() -> None:
    bench = Bench()
    producer, old = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    assert bench.one_lease(old)
    new = bench.connect("c", window=1, link=2)
    assert bench.one_lease(new).attempt == 1
    assert [cause for *_, cause in bench.ended] == ["not-received"]


# -- R-L4, R-L5: what waits for the disk ---------------------------------------------------------------------------------


def test_a_confirm_waits_until_its_record_is_durable() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.auto_sync = False
    bench.put(peer, 1)
    assert bench.order(peer) == ["WELCOME"]
    bench.sync()
    assert bench.order(peer) == ["WELCOME", "CONFIRM"]


def test_a_refusal_does_not_overtake_a_confirm_that_waits() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.declare(peer, max_messages=1)
    bench.sent.clear()
    bench.auto_sync = False
    bench.put(peer, 1)
    bench.put(peer, 2, base=1)
    assert bench.order(peer) == []
    bench.sync()
    assert bench.order(peer) == ["CONFIRM", "REFUSED"]


def test_answers_leave_in_the_order_in_which_they_were_given() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.auto_sync = False
    bench.put(peer, 1, queue="a")
    bench.put(peer, 1, queue="b")
    bench.put(peer, 2, queue="a", base=1)
    bench.sync()
    assert [(c.queue, c.first) for c in bench.hear(peer, wire.Confirm)] == [("a", 1), ("b", 1), ("a", 2)]


def test_a_stalled_disk_does_not_stop_heartbeats() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.auto_sync = False
    bench.put(peer, 1)
    bench.ready(peer, 0, beat=7)
    assert bench.hear(peer, wire.Echo) == [wire.Echo(7, False, [])]


def test_a_new_message_is_leased_only_when_it_is_durable() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.auto_sync = False
    bench.put(producer, 1)
    bench.ready(consumer, 1, beat=2)  # room and the wish are there
    assert not bench.hear(consumer, wire.Lease)
    bench.sync()
    assert bench.one_lease(consumer).qseq == 1


def test_a_returned_message_is_leased_only_when_its_return_is_durable() -> None:
    bench = Bench()
    producer, one, two = bench.connect("p"), bench.connect("c", window=1), bench.connect("d", window=0)
    bench.put(producer, 1)
    token = bench.one_lease(one).token
    bench.ready(two, 1)
    bench.auto_sync = False
    bench.ready(one, 0, beat=2, seen=token, held=[(token, 1)])
    bench.back(one, token)
    assert not bench.hear(two, wire.Lease)
    bench.sync()
    assert bench.one_lease(two).qseq == 1


# -- R-L7: echoes --------------------------------------------------------------------------------------------------------


def test_every_ready_has_its_echo_after_the_leases_it_made_possible() -> None:
    bench = Bench()
    producer = bench.connect("p")
    bench.put(producer, 1)
    consumer = bench.connect("c", window=1, beat=5)
    assert bench.order(consumer) == ["WELCOME", "LEASE", "ECHO"]
    assert bench.hear(consumer, wire.Echo)[0].beat == 5


def test_a_silent_holder_is_sent_its_echo_again_until_the_send_fails_and_its_leases_follow_the_link() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1, beat=5)
    bench.put(producer, 1)
    bench.sent.clear()
    bench.wait(2.1)  # 1.5 beats, then every half beat
    assert bench.hear(consumer, wire.Echo) == [wire.Echo(5, False, [])] * 2
    bench.gone.add(consumer)
    bench.wait(1.0)
    assert [cause for *_, cause in bench.ended] == ["link-lost"]


def test_a_client_that_holds_nothing_is_not_reminded() -> None:
    bench = Bench()
    consumer = bench.connect("c", window=1)
    bench.sent.clear()
    bench.wait(10)
    assert bench.order(consumer) == []


# -- R-L8: rubbish -------------------------------------------------------------------------------------------------------


def test_a_stranger_is_answered_at_most_once_a_second() -> None:
    bench = Bench()
    for _ in range(5):
        bench.ready(b"x", 1)
    assert bench.order(b"x") == ["NOSESSION"]
    bench.wait(1.1)
    bench.ready(b"x", 1)
    assert bench.order(b"x") == ["NOSESSION"] * 2


@pytest.mark.parametrize("frames", [[b""], [b"Z1"], [b"Z1\x04\xff\xff"], [b"HTTP/1.1"], [b"Z1\x07\x01\x00\xc0"], [b"", b"", b""]])
def test_what_cannot_be_decoded_ends_that_peers_session_and_disturbs_nobody(frames: list[bytes]) -> None:
    bench = Bench()
    peer, other = bench.connect("p"), bench.connect("o")
    bench.machine.receive(peer, frames, bench.now)
    bench.turn()
    assert bench.order(peer)[-1] == "NOSESSION"
    bench.put(peer, 1)
    assert not bench.machine.core.queues
    bench.put(other, 1)
    assert bench.hear(other, wire.Confirm)


def test_a_command_that_only_a_node_says_is_rubbish_from_a_client() -> None:
    bench = Bench()
    peer = bench.connect("p")
    bench.say(peer, wire.Told(1, {}))
    assert bench.order(peer)[-1] == "NOSESSION" and dropped(bench)["wrong-way"] == 1


def test_an_unknown_version_is_refused_in_words() -> None:
    bench = Bench()
    bench.say(b"x", wire.Hello([7], name("x"), 1, b"", 0))
    refused = bench.hear(b"x", wire.Refused)[0]
    assert refused.code == wire.Code.VERSION and "upgrade" in refused.text


def test_every_drop_is_an_event_and_a_count() -> None:
    bench = Bench()
    bench.machine.receive(b"x", [b"rubbish"], bench.now)
    assert [event.reason for event in bench.machine.take().events if isinstance(event, Dropped)] == ["malformed"]
    assert dropped(bench) == {"malformed": 1}


# -- R-A7: ends ----------------------------------------------------------------------------------------------------------


def test_bye_gives_back_what_is_held_without_an_attempt_and_is_answered() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    token = bench.one_lease(consumer).token
    bench.say(consumer, wire.Bye())
    assert bench.order(consumer)[-1] == "BYE"
    assert bench.ended == [(token, 1, 1, "client-stopped")]
    other = bench.connect("d", window=1)
    assert bench.one_lease(other).attempt == 1


def test_the_answer_to_bye_waits_until_the_returns_are_durable() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.auto_sync = False
    bench.say(consumer, wire.Bye())
    assert bench.order(consumer)[-1] != "BYE"
    bench.sync()
    assert bench.order(consumer)[-1] == "BYE"


def test_after_bye_no_lease_and_no_command_of_that_link() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.say(consumer, wire.Bye())
    bench.sent.clear()
    bench.put(producer, 1)
    bench.ready(consumer, 1)
    assert bench.order(consumer) == ["NOSESSION"]


def test_a_stopping_node_refuses_puts_grants_nothing_and_still_takes_dones() -> None:
    bench = Bench()
    producer, consumer = bench.connect("p"), bench.connect("c", window=1)
    bench.put(producer, 1)
    bench.put(producer, 2)
    token = bench.one_lease(consumer).token
    bench.machine.stop(bench.now)
    bench.turn()
    assert bench.hear(consumer, wire.Echo)[-1].stopping
    bench.put(producer, 3)
    assert bench.hear(producer, wire.Refused)[0].code == wire.Code.STOPPING
    bench.done(consumer, token)
    assert bench.verdicts(consumer) == [(token, 0, 1, "OK")] and not bench.hear(consumer, wire.Lease)


def test_an_echo_of_a_stop_still_names_what_is_revoked() -> None:
    """READY and the stop come in one turn: the first echo with that number is the one that counts."""
    bench = Bench()
    consumer = bench.connect("c", window=1)
    bench.ready(consumer, 1, beat=2, seen=99, held=[(99, 1)], turn=False)
    bench.machine.stop(bench.now)
    bench.turn()
    assert bench.hear(consumer, wire.Echo)[1].revoked == [99]
