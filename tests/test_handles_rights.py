"""What a user may not do raises Forbidden where it is tried, and disturbs nothing else of that client; in threads and in asyncio."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from aio_world import on_loop
from handle_world import SOON, eventually, in_thread
from user_world import UserNode, user_node

import zmqkit
from zmqkit import Forbidden, QuotaExceeded
from zmqkit.machines import phases

ADA = ("publish mine", "consume mine", "call hers", "serve hers", "subscribe news", "publish news")


@pytest.fixture(scope="module")
def at() -> Iterator[UserNode]:
    with user_node() as node:
        node.allow("ada", *ADA)
        yield node


@pytest.fixture
def ada(at: UserNode) -> Iterator[zmqkit.Client]:
    at.allow("ada", *ADA)
    mq = at.connect("ada")
    yield mq
    mq._close(SOON)


def still_works(mq: zmqkit.Client) -> None:
    seq = mq.queue("mine").put(1, timeout=SOON).seq
    d = mq.queue("mine").get(timeout=SOON)
    assert d is not None and d.seq == seq
    d.ack()


def test_a_put_where_the_user_may_not_raises_forbidden_and_says_who_may_what(ada: zmqkit.Client) -> None:
    theirs, topic = ada.queue("theirs"), ada.topic("theirs")
    for put in (lambda: theirs.put(1, timeout=SOON), lambda: theirs.put_many([1, 2], timeout=SOON),
                lambda: theirs.put_soon(1).result(SOON), lambda: topic.publish("k", 1, timeout=SOON)):  # fmt: skip
        with pytest.raises(Forbidden, match="key ada may not publish to 'theirs': ask the node's admin for the role 'publish'"):
            put()
    still_works(ada)


def test_questions_of_all_kinds_raise_forbidden(ada: zmqkit.Client) -> None:
    theirs, topic = ada.queue("theirs"), ada.topic("theirs")
    for ask in (theirs.info, theirs.peek, theirs.purge, theirs.pause, theirs.resume, theirs.delete, theirs.dead.list, theirs.dead.redrive,
                theirs.dead.drop, topic.info, topic.remove, lambda: topic.bind("", queue="theirs"),
                lambda: ada.declare("mine", zmqkit.QueuePolicy()), lambda: ada.declare("news", zmqkit.TopicPolicy())):  # fmt: skip
        with pytest.raises(Forbidden, match="key ada may not"):
            ask()
    still_works(ada)


def test_listings_show_what_the_user_has_a_role_on(at: UserNode, ada: zmqkit.Client) -> None:
    at.node.queue("secret").put(1)
    at.node.topic("secrets").publish("k", 1)
    still_works(ada)
    ada.topic("news").publish("k", 1, timeout=SOON)
    assert [info.name for info in ada.queues(SOON)] == ["mine"] and [info.name for info in ada.topics(SOON)] == ["news"]
    assert {"mine", "secret"} <= {info.name for info in at.node.queues()}


def test_every_way_to_take_messages_raises_forbidden_and_the_others_go_on(ada: zmqkit.Client) -> None:
    theirs = ada.queue("theirs")
    other = ada.queue("mine").consume(idle=SOON)
    for take in (lambda: theirs.get(timeout=SOON), lambda: theirs.get(timeout=None), lambda: theirs.get(timeout=0),
                 lambda: theirs.get_many(3, timeout=SOON), lambda: next(theirs.consume()), lambda: next(theirs.consume_many()),
                 lambda: theirs.work(print, threads=2)):  # fmt: skip
        with pytest.raises(Forbidden, match="key ada may not consume from 'theirs'"):
            take()
    ada.queue("mine").put(5, timeout=SOON)
    d = next(other)
    assert d.body == 5
    d.ack()
    other.stop()


def test_who_tries_again_and_again_is_told_each_time_without_waiting_for_a_heartbeat(
    at: UserNode, ada: zmqkit.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "IDLE_BEATS", 1e4)
    for _ in range(3):
        with pytest.raises(Forbidden):
            ada.queue("theirs").get(timeout=SOON)
    consumer = ada.queue("now-and-then").consume()
    with pytest.raises(Forbidden):
        next(consumer)
    at.allow("ada", *ADA, "consume now-and-then")
    consumer = ada.queue("now-and-then").consume()
    at.node.queue("now-and-then").put(1)
    next(consumer).ack(wait=True)
    at.allow("ada", *ADA)
    with pytest.raises(Forbidden):
        next(consumer)


def test_a_work_that_nobody_waits_for_ends_and_says_why_once(ada: zmqkit.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        work = ada.queue("theirs").work(print, threads=4, block=False)
        with pytest.raises(Forbidden):
            work.wait(SOON)
    assert work.ended and isinstance(work.error, Forbidden)
    assert len([record for record in caplog.records if "may not consume from 'theirs'" in record.message]) == 1


def test_who_was_refused_may_take_messages_as_soon_as_that_is_granted(at: UserNode, ada: zmqkit.Client) -> None:
    late = ada.queue("late")
    with pytest.raises(Forbidden):
        late.get(timeout=SOON)
    at.node.queue("late").put("now")
    at.allow("ada", *ADA, "consume late")
    d = late.get(timeout=SOON)
    assert d is not None and d.body == "now"
    d.ack(wait=True)


def test_a_consumer_whose_right_is_withdrawn_hears_of_it_and_what_it_held_goes_to_others(at: UserNode, ada: zmqkit.Client) -> None:
    at.allow("ada", *ADA, "consume shared")
    at.node.queue("shared").put("x")
    consumer = ada.queue("shared").consume()
    d = next(consumer)
    at.allow("ada", *ADA)
    with pytest.raises(Forbidden):
        next(consumer)
    other = at.node.queue("shared").get(timeout=SOON)
    assert other is not None and other.body == "x" and other.attempt == 1
    with pytest.raises(zmqkit.StaleLease):
        d.ack(wait=True)
    other.ack(wait=True)
    still_works(ada)


def test_a_call_that_the_user_may_not_make_raises_forbidden(ada: zmqkit.Client) -> None:
    for call in (lambda: ada.call("theirs", 1, timeout=SOON), lambda: ada.call_soon("theirs", 1, timeout=SOON).result(SOON),
                 lambda: ada.call("theirs", 1, timeout=SOON, idempotency_key="k"),
                 lambda: next(ada.stream("theirs", 1, timeout=SOON))):  # fmt: skip
        with pytest.raises(Forbidden, match="key ada may not call 'theirs'"):
            call()


def test_a_service_that_the_user_may_not_serve_ends_alone_and_serve_raises_when_none_is_left(at: UserNode, ada: zmqkit.Client) -> None:
    ada.service("hers", lambda body: [body, zmqkit.current().user])
    ada.service("theirs", lambda body: body)
    serving = ada.serve(threads=2, block=False)
    assert at.node.call("hers", 1, timeout=SOON) == [1, None]
    assert ada.call("hers", 2, timeout=SOON) == [2, "ada"]
    with pytest.raises(zmqkit.NoWorker):
        at.node.call("theirs", 1, timeout=SOON, retries=0)
    eventually(lambda: "theirs" not in serving.demands)
    assert serving.error is None and not serving.ended
    assert not ada._session._inboxes["\0theirs"].demands, "it is asked for no more"
    at.allow("ada", *[grant for grant in ADA if grant != "serve hers"])
    with pytest.raises(Forbidden, match="key ada may not serve 'hers'"):
        serving.wait(SOON)


def test_a_subscription_that_the_user_may_not_have_raises_forbidden_also_when_that_is_withdrawn(at: UserNode, ada: zmqkit.Client) -> None:
    with pytest.raises(Forbidden, match="key ada may not subscribe to 'theirs'"):
        next(iter(ada.topic("theirs").subscribe()))
    with ada.topic("news").subscribe() as sub:
        assert sub.wait_ready(SOON)
        at.allow("ada", *[grant for grant in ADA if grant != "subscribe news"])
        with pytest.raises(Forbidden):
            for _ in sub:
                pass


def test_a_user_who_is_dismissed_has_no_link_any_more_and_what_it_held_goes_back(at: UserNode) -> None:
    at.allow("bob", "consume bobs", "publish bobs")
    at.node.declare("bobs", zmqkit.QueuePolicy(grace=0.1))
    mq = at.connect("bob")
    mq.queue("bobs").put("x", timeout=SOON)
    d = mq.queue("bobs").get(timeout=SOON)
    at.dismiss("bob")
    other = at.node.queue("bobs").get(timeout=SOON)
    assert d is not None and other is not None and other.body == "x"
    other.ack(wait=True)
    eventually(lambda: "does not trust this key" in mq._session.reason)
    with pytest.raises(zmqkit.Timeout, match="this node does not trust this key"):
        mq.queue("bobs").put("y", timeout=0.2)
    mq._close(0.1)


def test_one_client_too_many_is_told_why_and_comes_in_when_another_leaves(at: UserNode) -> None:
    at.allow("cy", "publish cys", connections=1)
    first, second = at.connect("cy"), at.connect("cy")
    first.queue("cys").put(1, timeout=SOON)
    with pytest.raises(zmqkit.Timeout, match="key cy has 1 clients here, as many as it may"):
        second.queue("cys").put(2, timeout=0.5)
    first.close()
    assert second.queue("cys").put(3, timeout=SOON).seq
    second._close(SOON)
    assert at.node.dropped["quota"]


def test_what_is_over_a_users_quota_raises_quota_exceeded_with_a_time_to_try_again(at: UserNode) -> None:
    at.allow("di", "publish di*", "consume di*", "subscribe di*", "call hers", queues=1, subscriptions=1, bytes=1000)
    mq = at.connect("di")
    mq.queue("di").put(b"x" * 5000, timeout=SOON)
    with pytest.raises(QuotaExceeded, match="publishes more than 1,000 bytes a second") as refused:
        mq.queue("di").put(1, timeout=SOON)
    assert 0.0 < refused.value.retry_after <= 4.1
    for use in (lambda: mq.queue("di2").put(1, timeout=SOON), lambda: mq.queue("di2").get(timeout=SOON),
                lambda: next(mq.queue("di2").consume()), lambda: next(iter(mq.topic("di2").subscribe()))):  # fmt: skip
        with pytest.raises(QuotaExceeded, match="key di has 1 queues and topics, as many as it may"):
            use()
    at.node.topic("di3").publish("k", 1)
    with mq.topic("di3").subscribe() as sub:
        assert sub.wait_ready(SOON)
        with pytest.raises(QuotaExceeded, match="key di has 1 subscriptions, as many as it may"):
            next(iter(mq.topic("di3").subscribe()))
    at.allow("di", "publish di*", "consume di*", in_flight=0)
    with pytest.raises(QuotaExceeded):
        at.allow("di", "call hers", in_flight=0)
        mq.call("hers", 1, timeout=SOON, retries=0)
    mq._close(SOON)


def test_a_producer_over_its_rate_waits_where_the_queues_policy_is_that_producers_wait(at: UserNode) -> None:
    at.allow("ed", "publish eds", bytes=20_000)
    at.node.declare("eds", zmqkit.QueuePolicy(on_full="block"))
    mq = at.connect("ed")
    mq.queue("eds").put(b"x" * 30_000, timeout=SOON)
    assert mq.queue("eds").put(1, timeout=SOON).seq == 2
    mq._close(SOON)


@on_loop
async def test_in_asyncio_the_same_errors_are_raised() -> None:
    with user_node() as at:
        at.allow("ada", *ADA)
        mq = at.connect("ada").aio
        theirs = mq.queue("theirs")
        async with mq.topic("theirs").subscribe() as sub:
            with pytest.raises(Forbidden):
                await anext(aiter(sub))
        for attempt in (theirs.put(1, timeout=SOON), theirs.put_many([1], timeout=SOON), theirs.get(timeout=SOON),
                        anext(theirs.consume()), anext(theirs.consume_many()), theirs.work(_handle, threads=2), theirs.info(),
                        mq.call("theirs", timeout=SOON), anext(aiter(mq.stream("theirs", timeout=SOON))),
                        mq.topic("theirs").publish("k", 1, timeout=SOON)):  # fmt: skip
            with pytest.raises(Forbidden, match="key ada may not"):
                await attempt  # type: ignore[misc]
        mq.service("theirs", lambda body: body)
        with pytest.raises(Forbidden, match="may not serve 'theirs'"):
            await mq.serve(threads=2)
        assert (await mq.queue("mine").put(1, timeout=SOON)).seq == 1
        await mq.close()


async def _handle(d: Any) -> None:
    raise AssertionError("nothing comes")


def test_a_thread_that_waits_without_end_is_told_as_well(at: UserNode, ada: zmqkit.Client) -> None:
    at.allow("ada", *ADA, "consume quiet")
    found: list[BaseException] = []

    def wait() -> None:
        try:
            ada.queue("quiet").get(timeout=None)
        except Forbidden as error:
            found.append(error)

    thread = in_thread(wait)
    eventually(lambda: "quiet" in at.core.queues and at.core.queues["quiet"].consumers)
    at.allow("ada", *ADA)
    thread.join(SOON)
    assert found
