"""What a node lets its users do: whose link it is, what each command asks for, and what becomes of what was given when rights go."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from node_bench import Bench, name
from user_bench import NEWS, UserBench, bench
from user_world import rights
from wire_values import COMMANDS as EXAMPLES, commands

from zmqkit import records, wire
from zmqkit.machines import permits
from zmqkit.rights import Role
from zmqkit.wire import Code, Kind

# -- whose link it is ---------------------------------------------------------------------------------------------------


def test_a_command_of_another_user_on_a_link_is_as_one_without_hello() -> None:
    b = bench(ada=rights("ada", "publish *"), eve=rights("eve", "publish *"))
    ada = b.join("a", "ada")
    b.put(ada, 1)
    b.users[ada] = "eve"
    b.put(ada, 2, base=2)
    assert b.order(ada) == ["WELCOME", "CONFIRM", "NOSESSION"] and b.info() == {"ready": 1}
    assert b.machine.core.dropped == {"other-user": 1}
    b.users[ada] = "ada"
    b.put(ada, 2, base=2)
    assert b.info() == {"ready": 1} and b.machine.core.dropped["no-session"] == 1, "the link had ended"


def test_a_client_id_of_another_user_is_refused_and_its_owner_is_not_disturbed() -> None:
    b = bench(ada=rights("ada", "consume *"), eve=rights("eve", "consume *"))
    ada = b.join("a", "ada", window=1)
    b.users[b"thief"] = "eve"
    b.hello(b"thief", name("a"), link=7)
    assert b.refusals(b"thief") == [("HELLO", "", "FORBIDDEN")] and b.machine.core.dropped == {"forbidden": 1}
    b.put(b.connect("p"), 1)
    assert b.one_lease(ada).count == 1


def test_a_stranger_and_a_user_who_was_dismissed_are_refused() -> None:
    b = bench(ada=rights("ada", "consume *", "publish *"))
    b.users[b"x"] = "nobody"
    b.hello(b"x", name("x"))
    assert b.refusals(b"x") == [("HELLO", "", "FORBIDDEN")] and b.machine.core.clients == {}
    ada = b.join("a", "ada")
    b.dismiss("ada")
    b.put(ada, 1)
    assert b.order(ada) == ["WELCOME", "NOSESSION"] and not b.machine.core.queues
    ada = b.join("a", "ada", link=2)
    assert b.refusals(ada) == [("HELLO", "", "FORBIDDEN")]


def test_what_a_dismissed_user_holds_goes_back_as_if_its_link_were_lost() -> None:
    b = bench(ada=rights("ada", "consume *"))
    b.put(b.connect("p"), 1)
    ada = b.join("a", "ada", window=1)
    token = b.one_lease(ada).token
    b.dismiss("ada")
    b.turn()  # a tick is enough
    assert b.order(ada)[-1] == "NOSESSION" and b.info() == {"leased": 1}
    b.wait(2.5)
    assert b.info() == {"ready": 1} and b.ended == [(token, 1, 1, "link-lost")]


def test_after_a_restart_a_client_is_its_who_comes_for_it_and_keeps_what_its_rights_cover() -> None:
    b = bench(ada=rights("ada", "consume *", in_flight=2))
    b.put(b.connect("p"), 1)
    b.put(b.connect("r"), 1, queue="r")
    ada = b.join("a", "ada")
    b.say(ada, wire.Ready(1, 0, [wire.Window("q", 1, 0.0), wire.Window("r", 1, 0.0)], 0, []))
    tokens = [lease.token for lease in b.hear(ada, wire.Lease)]
    back = b.crash()
    assert isinstance(back, Bench)
    back.access.users = {**back.access.users, "ada": rights("ada", "consume q", in_flight=2)}
    back.users[b"a2"] = "ada"
    back.connect("a", link=2)
    assert back.info("q") == {"leased": 1} and back.info("r") == {"ready": 1}
    back.ready(b"a2", 1, seen=tokens[1], held=[(token, 1) for token in tokens])
    (echo,) = back.hear(b"a2", wire.Echo)
    assert echo.revoked == [tokens[1]] and back.machine.core.accounts["ada"].in_flight == 1


# -- what each command asks for -----------------------------------------------------------------------------------------


def test_every_command_and_every_verb_has_its_place_in_the_tables() -> None:
    machine = bench().machine
    assert machine._hears.keys() == permits.COMMANDS.keys() | {wire.Ask}
    assert machine._admin._verbs.keys() == permits.VERBS.keys()
    assert machine._refuses.keys() == {kind for kind, needs in permits.COMMANDS.items() if needs} | {wire.Ask}


def test_what_is_in_no_table_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(ada=rights("ada", *(f"{role} *" for role in Role), in_flight=1000))
    ada = b.join("a", "ada")
    monkeypatch.delitem(permits.VERBS, "pause")
    monkeypatch.delitem(permits.COMMANDS, wire.Put)
    monkeypatch.delitem(permits.COMMANDS, wire.Bye)
    assert b.ask(ada, 1, "pause", queue="q")["error"] == Code.FORBIDDEN
    b.put(ada, 1)
    b.say(ada, wire.Bye())
    assert b.refusals(ada) == [("PUT", "q", "FORBIDDEN")] and "BYE" not in b.order(ada)
    assert b.machine.core.dropped == {"forbidden": 3} and not b.machine.core.queues


VERBS: dict[str, dict[str, Any]] = {
    "declare": {"queue": "q", "policy": {"max_attempts": 3}}, "info": {"queue": "q"}, "peek": {"queue": "q", "state": "ready", "count": 9},
    "purge": {"queue": "q"}, "pause": {"queue": "q"}, "resume": {"queue": "q"}, "delete": {"queue": "q"},
    "dead_list": {"queue": "q", "count": 9}, "redrive": {"queue": "q"}, "drop": {"queue": "q"},
    "topic_declare": {"topic": "news", "policy": {"keep_values": False}}, "topic_info": {"topic": "news"},
    "topic_delete": {"topic": "news"},
    "topic_bind": {"topic": "news", "prefix": "k", "queue": "q"}, "topic_unbind": {"topic": "news", "prefix": "", "queue": "b"},
    "list": {}, "topic_list": {},
}  # fmt: skip
ROLE_OF = {
    **dict.fromkeys(("info", "peek", "dead_list"), "consume"), "topic_info": "subscribe",
    **dict.fromkeys(("declare", "purge", "pause", "resume", "delete", "redrive", "drop", "topic_declare", "topic_delete"), "admin"),
    **dict.fromkeys(("topic_bind", "topic_unbind"), "admin"),
}  # fmt: skip


def full() -> UserBench:
    """A node with something of everything, all of it anybody's, and a client of eve's, who may do nothing."""
    b = bench(eve=rights("eve"))
    root, worker = b.connect("r"), b.connect("w")
    b.say(worker, wire.Ready(1, 0, [wire.Window("q", 1, 0.0), wire.Window("d", 1, 0.0), wire.Window("\0s", 1, 0.0)], 0, []))
    b.put(root, 1, 3)
    b.put(root, 1, queue="d")
    dead = next(lease for lease in b.hear(worker, wire.Lease) if lease.queue == "d")
    b.back(worker, dead.token, kind=wire.BackKind.REJECT)
    b.updates(root, 1, "k1", "k2")
    b.ask(root, 1, "topic_bind", topic="news", prefix="", queue="b")
    b.subscribe(root)
    b.call(root, count=2)
    b.join("e", "eve")
    return b


@pytest.mark.parametrize("verb", ROLE_OF)
def test_a_verb_asks_for_its_role_on_every_name_in_it(verb: str) -> None:
    others = [f"{role} *" for role in Role if role not in (ROLE_OF[verb], "admin")]
    b = full()
    b.allow("eve", *others)
    assert b.ask(b"e1", 1, verb, **VERBS[verb])["error"] == Code.FORBIDDEN
    for names in ({"queue", "topic"} & VERBS[verb].keys() if "bind" in verb else ()):
        b.allow("eve", f"admin {VERBS[verb][names]}")
        assert b.ask(b"e1", 2, verb, **VERBS[verb])["error"] == Code.FORBIDDEN
    b.allow("eve", f"{ROLE_OF[verb]} q", f"{ROLE_OF[verb]} b", f"{ROLE_OF[verb]} news")
    assert "error" not in b.ask(b"e1", 3, verb, **VERBS[verb])


NAMES = st.sampled_from(["q", "d", "b", "news", "s", "new", "\1news", "elsewhere"])
TOKENS = st.sampled_from([2**40 + 1, 2**40 + 2, 2**40 + 3, 2**40 + 4])


def _aimed(command: wire.Command, queue: str, token: int) -> wire.Command:
    """At what there is."""
    if isinstance(command, wire.Put):
        named = NEWS if queue in ("news", NEWS) else queue
        return command._replace(queue=named, first=1, base=1)
    if isinstance(command, wire.Call):
        return command._replace(service=queue, first=1)
    if isinstance(command, wire.Sub):
        return command._replace(topic=queue)
    if isinstance(command, wire.Ready):
        windows = [wire.Window(queue, 5, 0.0), wire.Window(wire.SERVICE_MARK + queue, 5, 0.0)]
        return command._replace(windows=windows, seen=token, held=[wire.Held(token, 1, 0.0)])
    if isinstance(command, wire.Done):
        return wire.Done(True, [(token, 0, 1)])
    if isinstance(command, wire.Back | wire.Save):
        return command._replace(token=token, offset=0)
    if isinstance(command, wire.Cancel | wire.More | wire.Part):
        return command._replace(number=token, offset=0)
    if isinstance(command, wire.Reply):
        return command._replace(ranges=[(token, 0, command.count, 0)])
    return command


UP = tuple(permits.COMMANDS)
asks = st.builds(
    lambda verb, arguments, odd: wire.Ask(1, 1, verb, {**arguments, **odd}),
    st.sampled_from([verb for verb in VERBS if not verb.endswith("list") or verb == "dead_list"]),
    st.sampled_from([*VERBS.values()]),
    st.dictionaries(st.sampled_from(["queue", "topic"]), st.none() | st.integers(0, 9) | NAMES, max_size=2),
)
tries = st.one_of(asks, st.builds(_aimed, commands.filter(lambda command: isinstance(command, UP)), NAMES, TOKENS),
                  st.builds(_aimed, st.sampled_from([c for c in EXAMPLES.values() if isinstance(c, UP)]), NAMES, TOKENS))  # fmt: skip
HARMLESS = {"WELCOME", "REFUSED", "TOLD", "ECHO", "ANSWER", "BYE", "NOSESSION"}


def _held(b: Bench) -> tuple[Any, ...]:
    core, calls, topics = b.machine.core, b.machine.calls, b.machine.topics
    return (
        sorted(map(repr, b.machine.snapshot())), {token: lease.open for token, lease in core.leases.items()}, sorted(core.queues),
        sorted(core.services), {client: [*found] for client, found in topics.followed.items() if found},
        {client: caller.open for client, caller in calls.callers.items() if caller.open}, len(b.log.items),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(tries, min_size=1, max_size=8))
def test_a_user_without_rights_gets_nothing_through_whatever_it_says(said: list[wire.Command]) -> None:
    b = full()
    before = _held(b)
    for command in said:
        b.say(b"e1", command)
        if not b.machine._peers.get(b"e1"):  # it said goodbye, or rubbish
            b.join("e", "eve", link=b.machine.core.clients[name("e")].link + 1 if name("e") in b.machine.core.clients else 2)
    assert _held(b) == before
    told = [command for peer, heard in b.sent.items() if peer.startswith(b"e") for command in heard]
    assert {type(command).__name__.upper() for command in told} <= HARMLESS
    assert all(t.result["error"] in (Code.FORBIDDEN, Code.MALFORMED) for t in told if isinstance(t, wire.Told))
    assert all(verdict == wire.Verdict.STALE for a in told if isinstance(a, wire.Answer) for *_, verdict in a.ranges if _[0] < 2**41)


@pytest.mark.parametrize("verb", VERBS)
def test_a_user_without_rights_gets_nothing_from_any_verb(verb: str) -> None:
    b = full()
    before = _held(b)
    result = b.ask(b"e1", 1, verb, **VERBS[verb])
    assert result in ({"queues": [], "more": False}, {"topics": [], "more": False}) or result["error"] == Code.FORBIDDEN
    assert _held(b) == before


def test_listings_name_what_the_user_has_any_role_on() -> None:
    b = full()
    b.allow("eve", "publish b*", "call news")
    assert [info["name"] for info in b.ask(b"e1", 1, "list")["queues"]] == ["b"]
    assert [info["name"] for info in b.ask(b"e1", 2, "topic_list")["topics"]] == ["news"]


def test_the_node_itself_puts_bound_updates_into_a_queue_that_their_publisher_knows_nothing_of() -> None:
    b = full()
    b.allow("eve", "publish news")
    before = b.info("b").get("ready", 0)
    b.updates(b"e1", 1, "k3")
    assert b.info("b") == {"ready": before + 1} and b.refusals(b"e1") == []


# -- refusals are definite ----------------------------------------------------------------------------------------------


def test_a_put_that_is_stored_is_confirmed_again_though_its_user_may_put_no_more_there() -> None:
    b = bench(ada=rights("ada", "publish q"))
    ada = b.join("a", "ada")
    b.put(ada, 1, 2)
    b.allow("ada", "publish r")
    ada = b.join("a", "ada", link=2)
    b.put(ada, 1, 2, base=1)
    b.put(ada, 3, 1, base=1)
    assert b.order(ada) == ["WELCOME", "CONFIRM", "REFUSED"] and b.refusals(ada) == [("PUT", "q", "FORBIDDEN")]
    b.put(ada, 1, queue="r")
    b.allow("ada", "publish q")
    b.put(ada, 3, 1, base=3)
    assert b.info() == {"ready": 3} and b.info("r") == {"ready": 1}


def test_a_refusal_of_rights_does_not_overtake_a_confirm() -> None:
    b = bench(ada=rights("ada", "publish q"))
    ada = b.join("a", "ada")
    b.auto_sync = False
    b.put(ada, 1)
    b.allow("ada", "publish r")
    b.put(ada, 2, base=1)
    assert b.order(ada) == ["WELCOME"]
    b.sync()
    assert b.order(ada) == ["WELCOME", "CONFIRM", "REFUSED"]


def test_a_call_under_way_is_answered_though_its_user_may_call_no_more() -> None:
    b = bench(ada=rights("ada", "call s"))
    worker = b.connect("w", window=5, queue="\0s")
    ada = b.join("a", "ada")
    b.call(ada)
    token = b.one_lease(worker).token
    b.allow("ada", "call t")
    b.call(ada)  # a new link would say it again
    b.call(ada, 2)
    assert b.refusals(ada) == [("CALL", "s", "FORBIDDEN")]
    b.reply(worker, token)
    assert b.hear(ada, wire.Reply)[-1].ranges == [(1, 0, 1, wire.Status.OK)]
    b.call(ada, 3, epoch=7)
    assert b.refusals(ada) == [("CALL", "s", "MAYBE_EXECUTED")], "a restart makes all else doubtful"


def test_an_ask_that_was_done_is_told_again_though_its_user_may_ask_it_no_more() -> None:
    b = bench(ada=rights("ada", "admin q"))
    b.put(b.connect("p"), 1)
    ada = b.join("a", "ada")
    assert b.ask(ada, 1, "purge", queue="q") == {"count": 1}
    b.allow("ada", "publish q")
    assert b.ask(ada, 1, "purge", queue="q") == {"count": 1}
    assert b.ask(ada, 2, "purge", queue="q")["error"] == Code.FORBIDDEN


# -- what was given is taken back ---------------------------------------------------------------------------------------


def test_a_forbidden_window_is_refused_by_name_and_the_others_of_that_ready_count() -> None:
    b = bench(ada=rights("ada", "consume q", "serve s"))
    b.put(b.connect("p"), 1)
    ada = b.join("a", "ada")
    windows = [wire.Window(queue, 1, 0.0) for queue in ("q", "r", "\0s", "\0t", NEWS)]
    b.say(ada, wire.Ready(1, 0, windows, 0, []))
    assert b.one_lease(ada).queue == "q" and b.hear(ada, wire.Echo)
    refused = b.hear(ada, wire.Refused)
    assert [(r.command, r.queue, r.code) for r in refused] == [(Kind.READY, n, Code.FORBIDDEN) for n in ("r", "\0t", NEWS)]
    assert sorted(b.machine.core.queues) == ["q"] and sorted(b.machine.core.services) == ["s"]


def test_when_a_right_is_withdrawn_windows_close_and_leases_go_back_uncounted_and_settle_nothing() -> None:
    b = bench(ada=rights("ada", "consume *", "serve *"))
    producer = b.connect("p")
    b.put(producer, 1, 2)
    b.put(producer, 1, queue="r")
    b.call(producer)
    ada = b.join("a", "ada")
    b.say(ada, wire.Ready(1, 0, [wire.Window(queue, 1, 0.0) for queue in ("q", "r", "\0s")], 0, []))
    leases = {lease.queue: lease for lease in b.hear(ada, wire.Lease)}
    b.allow("ada", "consume r")
    b.turn()
    assert b.refusals(ada) == [("READY", "q", "FORBIDDEN"), ("READY", "\0s", "FORBIDDEN")]
    assert b.info("q") == {"ready": 2} and b.info("r") == {"leased": 1}
    assert b.hear(producer, wire.Reply)[-1].ranges == [(1, 0, 1, wire.Status.MAYBE_EXECUTED)]
    assert {cause for *_, cause in b.ended} == {"rights-withdrawn"}
    b.done(ada, leases["q"].token)
    b.done(ada, leases["r"].token)
    assert [verdict for *_, verdict in b.verdicts(ada)] == ["STALE", "OK"]
    assert b.one_lease(b.connect("c", window=1)).attempt == 1


def test_when_a_right_is_withdrawn_a_subscription_ends_and_says_so() -> None:
    b = bench(ada=rights("ada", "subscribe *"))
    root, ada = b.connect("r"), b.join("a", "ada")
    b.updates(root, 1, "k")
    b.subscribe(ada, 1)
    b.subscribe(ada, 2, "others")
    b.allow("ada", "subscribe others")
    b.updates(root, 2, "k")
    assert b.refusals(ada) == [("SUB", "news", "FORBIDDEN")] and not b.hear(ada, wire.Live)
    assert [number for number in b.machine.topics.followed[name("a")]] == [2]


def test_a_subscription_that_takes_the_number_of_another_ends_it() -> None:
    b = bench()
    peer = b.connect("a")
    b.subscribe(peer, 1)
    b.subscribe(peer, 1, "others")
    b.updates(b.connect("r"), 1, "k")
    assert not b.hear(peer, wire.Live)


# -- users apart --------------------------------------------------------------------------------------------------------


def test_an_idempotency_key_is_its_users_own() -> None:
    b = bench(ada=rights("ada", "call s"), eve=rights("eve", "call s"))
    worker, ada, eve = b.connect("w", window=5, queue="\0s"), b.join("a", "ada"), b.join("e", "eve")
    b.call(eve, key="order-1")
    b.reply(worker, b.one_lease(worker).token)
    b.call(ada, key="order-1")
    lease = b.one_lease(worker)
    assert lease.terms is not None and (lease.terms.key, lease.terms.user) == ("order-1", "ada")
    assert not b.hear(ada, wire.Reply)
    b.call(b.join("A", "ada"), key="order-1")
    assert not b.hear(worker, wire.Lease), "another client of hers joins"


def test_a_worker_is_told_who_calls_and_nobody_where_no_keys_are_asked_for() -> None:
    b = bench(ada=rights("ada", "call s"))
    worker = b.connect("w", window=5, queue="\0s")
    b.call(b.join("a", "ada"))
    b.call(b.connect("b"))
    users = [lease.terms.user for lease in b.hear(worker, wire.Lease) if lease.terms]
    assert users == ["ada", ""]


def test_who_made_a_queue_or_topic_is_in_its_record_and_in_every_checkpoint() -> None:
    b = bench(ada=rights("ada", "publish *", "admin *"))
    ada = b.join("a", "ada")
    b.put(ada, 1)
    b.updates(ada, 1, "k")
    b.ask(ada, 1, "pause", queue="q")
    for after in (b, b.crash(), b.restart_from_checkpoint()):
        owners = {record.name: record.owner for record in after.machine.snapshot() if isinstance(record, records.Queue)}
        assert owners == {"q": "ada", NEWS: "ada"} and len(after.machine.core.accounts["ada"].owned) == 2
