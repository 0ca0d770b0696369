"""What is believed of mDNS: one packet after another, and no socket."""

from __future__ import annotations

import socket
from itertools import chain, pairwise

import pytest
from hypothesis import given, strategies as st
from mdns_world import honest_text, text_of

from zmqkit.discovery.found import Found, Refused, Text, announced_name, label, read_text
from zmqkit.discovery.table import (
    ADDRESSES_MAX,
    ASK_SECONDS,
    ASKED_AT_ONCE,
    BROWSE_SECONDS_MAX,
    CHANCE_SECONDS,
    ENTRIES_MAX,
    LIFE_SECONDS_MAX,
    WHOLE_SECONDS,
    Address,
    Pointer,
    Question,
    Record,
    Service,
    Table,
    Words,
)

NODE = "0123456789abcdef" * 2
BEGIN = 1000.0


def node_of(number: int) -> str:
    return f"{number:08x}" + 24 * "0"


def instance_of(node: str, name: str = "n") -> str:
    return f"{label(name, node)}._zmqkit._tcp.local."


def pieces(node: str = NODE, name: str = "n", port: int = 5555, address: str = "10.0.0.1", seconds: float = 120.0) -> list[Record]:
    instance, server = instance_of(node, name), f"{node[:8]}.local."
    return [
        Pointer(instance, seconds),
        Service(instance, server, port, seconds),
        Words(instance, text_of(honest_text(name, node)), seconds),
        Address(server, socket.inet_aton(address), seconds, flush=True),
    ]


def found(table: Table) -> dict[str, Found]:
    return {one.node: one for one in table.found(lambda address: 0)}


def heard(*told: list[Record], now: float = BEGIN) -> Table:
    table = Table()
    table.hear(chain(*told), now)
    return table


def kinds(asked: list[Question]) -> list[str]:
    return [question.kind for question in asked]


def run(table: Table, begin: float, end: float) -> list[tuple[float, Question]]:
    """Let time pass, looking whenever the table wants to be looked at; what it asked, and when."""
    asked, now = [], begin
    while now < end:
        table.expire(now)
        asked += [(now, question) for question in table.questions(now)]
        now = max(table.deadline, now + 0.01)
    return asked


# -- coming, changing, going --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_what_one_packet_says_is_a_node_in_whatever_order_it_says_so(order: int) -> None:
    table = heard(pieces()[::order])
    assert found(table)[NODE] == Found("n", "tcp://10.0.0.1:5555", "", NODE, 1, ("tcp://10.0.0.1:5555",))


def test_nothing_is_found_before_all_of_it_is_known() -> None:
    for lacking in range(4):
        told = pieces()
        del told[lacking]
        assert not found(heard(told))


def test_what_lacks_is_asked_for_and_found_when_it_comes() -> None:
    pointer, service, words, address = pieces()
    table = heard([pointer])
    assert kinds([question for _, question in run(table, BEGIN, BEGIN + 0.5)]) == ["PTR", "SRV", "TXT"]
    table.hear([service, words], BEGIN + 0.5)
    assert "A" in kinds([question for _, question in run(table, BEGIN + 0.5, BEGIN + 1.5)])
    table.hear([address], BEGIN + 1.5)
    assert found(table)[NODE].endpoint == "tcp://10.0.0.1:5555"


def test_what_never_gets_whole_is_forgotten() -> None:
    table = heard(pieces()[:3])
    run(table, BEGIN, BEGIN + WHOLE_SECONDS + 1)
    table.hear(pieces()[3:], BEGIN + WHOLE_SECONDS + 1)
    assert not found(table)


def test_a_new_port_and_a_new_address_are_followed() -> None:
    table = heard(pieces())
    table.hear(pieces(port=6666, address="10.0.0.2"), BEGIN + 10)
    assert found(table)[NODE].endpoints == ("tcp://10.0.0.2:6666",)


def test_all_addresses_of_a_host_are_kept_and_the_nearest_comes_first() -> None:
    told = pieces()
    table = heard(told, [told[3]._replace(packed=socket.inet_aton("192.168.1.7"))])
    one = table.found(lambda address: 0 if address.startswith("192.168.") else 1)[0]
    assert one.endpoint == "tcp://192.168.1.7:5555" and one.endpoints == ("tcp://192.168.1.7:5555", "tcp://10.0.0.1:5555")


def test_of_two_addresses_as_near_the_newest_comes_first() -> None:
    told = pieces()
    table = heard(told)
    table.hear([told[3]._replace(packed=socket.inet_aton("10.0.0.9"))], BEGIN + 0.5)
    assert found(table)[NODE].endpoints == ("tcp://10.0.0.9:5555", "tcp://10.0.0.1:5555")


@pytest.mark.parametrize("kind", [0, 1], ids=["pointer", "service"])
def test_a_goodbye_ends_it(kind: int) -> None:
    table = heard(pieces())
    table.hear([pieces()[kind]._replace(seconds=0.0)], BEGIN + 1)
    assert not found(table)


def test_the_end_of_what_was_replaced_ends_nothing() -> None:
    table = heard(pieces(port=5555))
    table.hear(pieces(port=6666), BEGIN + 2)
    table.hear([pieces(port=5555)[1]._replace(seconds=0.0)], BEGIN + 3)
    assert found(table)[NODE].endpoint == "tcp://10.0.0.1:6666"


def test_of_two_instances_with_one_id_that_counts_which_was_heard_last() -> None:
    table = heard(pieces(name="old"))
    table.hear(pieces(name="new", port=6666), BEGIN + 1)
    assert [one.name for one in found(table).values()] == ["new"]
    table.hear(pieces(name="old"), BEGIN + 2)
    assert [one.name for one in found(table).values()] == ["old"]


# -- lives --------------------------------------------------------------------------------------------------------------


def test_it_is_asked_for_before_its_life_ends_and_then_it_ends() -> None:
    table = heard(pieces(seconds=100.0))
    asked = [now - BEGIN for now, question in run(table, BEGIN, BEGIN + 99) if question.kind == "SRV"]
    assert [round(moment) for moment in asked] == [80, 90, 95]
    assert found(table)
    run(table, BEGIN + 99, BEGIN + 101)
    assert not found(table)


def test_an_answer_is_a_new_life() -> None:
    table, now = heard(pieces(seconds=100.0)), BEGIN
    for _ in range(5):
        now += 85
        table.expire(now)
        table.hear(pieces(seconds=100.0), now)
    table.expire(now + 99)
    assert found(table)


def test_nobody_lives_for_ever() -> None:
    table = heard(pieces(seconds=2.0**31))
    table.expire(BEGIN + LIFE_SECONDS_MAX + 1)
    assert not found(table)


def test_all_are_asked_for_at_once_and_then_later_and_later() -> None:
    table = Table()
    moments = [now - BEGIN for now, question in run(table, BEGIN, BEGIN + 300) if question == Question("PTR", "")]
    assert [round(moment) for moment in moments[:6]] == [0, 1, 3, 7, 15, 31]
    assert all(later - earlier <= BROWSE_SECONDS_MAX + 1 for earlier, later in pairwise(moments))
    table.browse(BEGIN + 300)
    assert kinds(table.questions(BEGIN + 300)) == ["PTR"]


def test_who_is_known_need_not_answer_until_half_of_its_life_is_over() -> None:
    table = heard(pieces(seconds=100.0))
    assert table.known(BEGIN + 40) == [(instance_of(NODE), 60.0)]
    assert table.known(BEGIN + 60) == []


# -- lies ---------------------------------------------------------------------------------------------------------------

LIES = {
    "malformed text": [
        b"", b"\x09v=1", b"\xff", b"\x00", text_of({"v": "1", "name": "n", "fp": ""}), text_of({**honest_text(), "id": "AB" * 16}),
        text_of({**honest_text(), "id": "zz" * 16}), text_of({**honest_text(), "id": "ab" * 17}), text_of({**honest_text(), "v": "-1"}),
        text_of({**honest_text(), "v": "１"}), text_of({**honest_text(), "v": ""}), text_of({**honest_text(), "v": "1" * 100}),
        text_of({**honest_text(), "name": b"\xc3"}),
    ],
    "another version": [text_of({**honest_text(), "v": "2"}), text_of({**honest_text(), "v": "0"})],
    "unprintable text": [text_of({**honest_text(), "name": "a\x1b[2Jb"}), text_of({**honest_text(), "fp": "\n"}),
                         text_of({**honest_text(), "name": "\u202e"})],
}  # fmt: skip


@pytest.mark.parametrize("reason,raw", [(reason, raw) for reason, raws in LIES.items() for raw in raws])
def test_a_text_that_makes_no_sense_is_refused_and_counted(reason: str, raw: bytes) -> None:
    told = pieces()
    told[2] = Words(instance_of(NODE), raw, 120.0)
    table = heard(told)
    assert not found(table) and table.dropped == {reason: 1}
    known = heard(pieces())
    known.hear([told[2]], BEGIN + 1)
    assert found(known)[NODE].name == "n" and known.dropped == {reason: 1}


def test_an_absurd_port_is_refused_and_the_known_one_stays() -> None:
    table = heard(pieces(port=0))
    assert not found(table) and table.dropped == {"absurd port": 1}
    table = heard(pieces())
    table.hear([pieces(port=0)[1]], BEGIN + 1)
    assert found(table)[NODE].endpoint == "tcp://10.0.0.1:5555"


def test_rubbish_about_a_known_one_that_waits_for_its_new_address_does_not_put_it_out() -> None:
    table = heard(pieces())
    table.hear([pieces()[1]._replace(server="elsewhere.local.")], BEGIN + 1)
    table.hear([pieces(port=0)[1], Words(instance_of(NODE), b"rubbish", 120.0)], BEGIN + 1)
    table.hear([pieces()[3]._replace(server="elsewhere.local.", packed=bytes([10, 0, 0, 2]))], BEGIN + 2)
    assert found(table)[NODE].endpoint == "tcp://10.0.0.2:5555"


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.251", "255.255.255.255", "240.0.0.1"])
def test_an_address_where_nobody_can_be_is_refused(address: str) -> None:
    table = heard(pieces(address=address))
    assert not found(table) and table.dropped == {"absurd address": 1}


@pytest.mark.parametrize("instance", ["a\x1bb", "a\u202eb", "\n", "x" * 300])
def test_an_instance_whose_name_is_unprintable_or_endless_is_refused(instance: str) -> None:
    table = heard([Pointer(f"{instance}._zmqkit._tcp.local.", 120.0)])
    assert table.dropped == {"absurd name": 1}


def test_a_host_has_a_bounded_number_of_addresses() -> None:
    table = heard(pieces(), [Address(f"{NODE[:8]}.local.", bytes([10, 0, 1, number]), 120.0) for number in range(100)])
    assert len(found(table)[NODE].endpoints) == ADDRESSES_MAX
    assert table.dropped == {"too many addresses": 100 - ADDRESSES_MAX + 1}


@given(st.binary(max_size=600))
def test_any_bytes_are_a_text_or_refused(raw: bytes) -> None:
    try:
        text = read_text(raw)
    except Refused:
        return
    assert text.name.isprintable() and len(text.node) == 32


NAMES = st.sampled_from([instance_of(node_of(number)) for number in range(4)])
SERVERS = st.sampled_from(["a.local.", "b.local.", ""])
SECONDS = st.sampled_from([0.0, 1.0, 120.0, 1e12])
RECORDS = st.one_of(
    st.builds(Pointer, NAMES, SECONDS),
    st.builds(Service, NAMES, SERVERS, st.integers(0, 65535), SECONDS),
    st.builds(Words, NAMES, st.one_of(st.binary(max_size=40), st.just(text_of(honest_text()))), SECONDS),
    st.builds(Address, SERVERS, st.binary(min_size=4, max_size=4), SECONDS, st.booleans()),
)


@given(st.lists(st.tuples(st.lists(RECORDS, max_size=6), st.floats(0.0, 200.0)), max_size=12))
def test_whatever_is_said_in_whatever_order_what_is_found_makes_sense(packets: list[tuple[list[Record], float]]) -> None:
    table, now = Table(), BEGIN
    for told, later in packets:
        now += later
        table.expire(now)
        table.hear(told, now)
        table.questions(now)
        for one in table.found(lambda address: 0):
            assert one.endpoints and one.endpoint == one.endpoints[0]
    assert len(table._servers) <= 3
    table.expire(now + LIFE_SECONDS_MAX + WHOLE_SECONDS)
    assert not table._entries and not table._servers


# -- floods -------------------------------------------------------------------------------------------------------------


def strangers(count: int, whole: bool = True, begin: int = 1000) -> list[list[Record]]:
    made = [pieces(node_of(begin + number), f"s{number}") for number in range(count)]
    return made if whole else [told[:1] for told in made]


def flood(table: Table, told: list[list[Record]], now: float) -> None:
    for packet in told:
        table.hear(packet, now)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "names only"])
def test_a_flood_of_strangers_neither_grows_nor_puts_out_who_is_known(whole: bool) -> None:
    table = heard(pieces())
    for second in range(5):
        flood(table, strangers(2000, whole, begin=1000 + 2000 * second), BEGIN + second)
        table.expire(BEGIN + second)
        table.questions(BEGIN + second)
    assert NODE in found(table)
    assert len(table._entries) <= ENTRIES_MAX and len(table._servers) <= ENTRIES_MAX
    assert table.dropped["no room"] > 10_000 - 7 * ENTRIES_MAX


def test_a_full_table_refuses_what_is_new_and_what_is_known_still_moves() -> None:
    table = heard(*strangers(ENTRIES_MAX - 1), pieces())
    table.hear(pieces(node_of(7)), BEGIN + 10)
    assert node_of(7) not in found(table) and table.dropped == {"no room": 1}
    table.hear(pieces(port=6666), BEGIN + 11)
    assert found(table)[NODE].endpoint == "tcp://10.0.0.1:6666"


def test_who_never_got_whole_makes_room_first() -> None:
    table = heard(*strangers(ENTRIES_MAX - 1), [Pointer(instance_of(node_of(7)), 120.0)])
    table.hear(pieces(), BEGIN + CHANCE_SECONDS)
    assert len(found(table)) == ENTRIES_MAX and NODE in found(table)


def test_who_does_not_answer_makes_room_unless_it_is_held() -> None:
    crowd = strangers(ENTRIES_MAX - 2)
    table = heard(*crowd, pieces(node_of(7), seconds=100.0), pieces(node_of(8), seconds=100.0))
    table.held = frozenset([node_of(7)])
    for now in (BEGIN + 81, BEGIN + 91):
        table.expire(now)
        table.questions(now)
        table.questions(now + ASK_SECONDS)
        flood(table, crowd, now)  # these have answered
    table.hear(pieces(), BEGIN + 92)
    assert NODE in found(table) and node_of(7) in found(table) and node_of(8) not in found(table)


def test_who_is_held_gets_a_place_again_when_it_comes_back_to_a_full_table() -> None:
    table = heard(*strangers(ENTRIES_MAX - 1), pieces())
    table.held = frozenset([NODE])
    table.hear([pieces()[0]._replace(seconds=0.0)], BEGIN + 1)
    table.hear(pieces(node_of(7)), BEGIN + 1)  # somebody takes its place
    table.hear(pieces(port=6666), BEGIN + 2)
    assert found(table)[NODE].endpoint == "tcp://10.0.0.1:6666"
    assert len(found(table)) == ENTRIES_MAX


def test_however_many_lack_something_few_are_asked_at_once() -> None:
    table = heard(*strangers(ENTRIES_MAX, whole=False))
    moments = [now for now, question in run(table, BEGIN, BEGIN + 2) if question.kind == "SRV"]
    assert moments
    for moment in moments:
        assert sum(moment <= other < moment + 1.0 for other in moments) <= ASKED_AT_ONCE / ASK_SECONDS + ASKED_AT_ONCE


# -- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ada", "ada.example.org", "Büro 3", "x" * 300, "ö" * 300, "", "...", "a\x1b[2Jb", "\ud800", "-", "a=b"])
def test_any_node_has_a_safe_instance_and_a_text_that_is_believed(name: str) -> None:
    one = label(name, NODE)
    assert len(one) <= 59 and one.isascii() and one.endswith("-01234567") and not set(one) & set("._ \x1b")
    raw = text_of(dict(Text(name, "fp", NODE).properties()))
    assert read_text(raw) == Text(announced_name(name), "fp", NODE)
    assert announced_name(announced_name(name)) == announced_name(name)
