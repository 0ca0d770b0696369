"""A subscription of ours at a foreign Clone server, without a socket: what it says there, and what the subscriber makes of the answers."""

from __future__ import annotations

from typing import Any

import pytest
from clone_world import HUGZ, ICANHAZ, KTHXBAI, Frames, seq

from zmqkit import wire
from zmqkit.codec import unpack
from zmqkit.gateways import clone_link
from zmqkit.gateways.clone_link import SNAPSHOTS, UPDATES, CloneLink
from zmqkit.machines.following import Changes, Following, Gap, Loaded, Subscription
from zmqkit.wire import Start


def pair(key: bytes, number: int, value: bytes = b"v") -> Frames:
    return [key, seq(number), b"", b"", value]


def end(number: int, subtree: bytes = b"") -> Frames:
    return [KTHXBAI, seq(number), b"", b"", subtree]


class Bench:
    def __init__(self, *prefixes: str, start: Start = Start.SNAPSHOT, window: int = 1 << 20, position: int = 0) -> None:
        self.now = 1000.0
        self.following = Following(window)
        self.sub = Subscription("t", prefixes or ("",), start, 1 if position else 0, position)
        self.following.add(self.sub)
        [command] = self.following.sends()
        assert isinstance(command, wire.Sub)
        self.link = CloneLink(command, self._hear, self.now)
        self.opened = 0
        self.asked: list[Frames] = []
        self.takes = True
        self.events: list[Any] = []
        self.turn()

    def _hear(self, told: Any) -> None:
        assert self.following.hear(told, self.now) == ""
        for news in self.sub.news:
            if isinstance(news, Changes):
                numbers = [news.numbers] * len(news.keys) if isinstance(news.numbers, int) else list(news.numbers)
                self.events += [
                    (key, None if value is None else unpack(value), number)  # type: ignore[arg-type]
                    for key, value, number in zip(news.keys, news.values, numbers, strict=True)
                ]
                if self.takes:
                    self.following.take(self.sub, news.size)
            elif not isinstance(news, Loaded):
                self.events.append(news)
        self.sub.news.clear()

    def turn(self) -> None:
        self.link.tick(self.now)
        if self.link.wants_new_sockets():
            self.opened += 1
            self.asked.clear()
        self.asked += self.link.take()
        for command in self.following.sends():
            assert isinstance(command, wire.Seen)
            self.link.taken(command.taken, self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.link.deadline <= until:
            self.now = max(self.now, self.link.deadline)
            self.turn()
        self.now = until
        self.turn()

    def update(self, *frames: bytes) -> None:
        self.link.receive(UPDATES, frames, self.now)
        self.turn()

    def snapshot(self, *frames: bytes) -> None:
        self.link.receive(SNAPSHOTS, frames, self.now)
        self.turn()

    def load(self, number: int, *pairs: Frames, subtree: bytes = b"") -> None:
        for frames in pairs:
            self.snapshot(*frames)
        self.snapshot(*end(number, subtree))

    def take(self) -> list[Any]:
        events, self.events = self.events, []
        return events

    @property
    def state(self) -> dict[str, bytes]:
        return {key: unpack(value) for key, value in self.sub.state.items()}  # type: ignore[arg-type]


def loaded(*prefixes: str, number: int = 5, **more: Any) -> Bench:
    bench = Bench(*prefixes, **more)
    bench.update(*pair(HUGZ, number, b""))
    for prefix in prefixes or ("",):
        bench.load(number, pair(prefix.encode() + b"k", 3, b"old"), subtree=prefix.encode())
    return bench


@pytest.mark.parametrize("proof", [pair(HUGZ, 4, b""), pair(b"a", 4)])
def test_the_snapshot_is_asked_for_when_the_subscription_is_proved_and_not_before(proof: Frames) -> None:
    bench = Bench("a")
    assert bench.opened == 1 and bench.asked == []
    bench.update(*proof)
    assert bench.asked == [[ICANHAZ, b"a"]] and not bench.sub.loaded


def test_a_server_that_says_nothing_is_asked_after_a_while() -> None:
    bench = Bench()
    bench.wait(clone_link.PROOF_SECONDS - 0.01)
    assert bench.asked == []
    bench.wait(0.02)
    assert bench.asked == [[ICANHAZ, b""]]


def test_what_comes_before_the_snapshot_ends_waits_and_counts_if_it_is_newer() -> None:
    bench = Bench()
    bench.update(*pair(b"a", 4, b"4"))
    bench.update(*pair(b"a", 5, b"5"))
    bench.snapshot(*pair(b"a", 5, b"5"))
    bench.update(*pair(b"b", 6, b"6"))
    assert bench.take() == [] and bench.state == {}
    bench.snapshot(*end(5))
    assert bench.take() == [("a", b"5", 5), ("b", b"6", 6)] and bench.state == {"a": b"5", "b": b"6"} and bench.sub.loaded
    bench.update(*pair(b"a", 6, b"a repetition"))
    bench.update(*pair(b"a", 7, b""))
    assert bench.take() == [("a", None, 7)] and bench.state == {"b": b"6"} and bench.sub.seq == 7


def test_several_subtrees_are_asked_for_one_after_the_other_each_with_its_own_number() -> None:
    bench = Bench("a/", "b/", "a/x")
    bench.update(*pair(HUGZ, 4, b""))
    assert bench.asked == [[ICANHAZ, b"a/"]]
    bench.update(*pair(b"a/1", 5, b"in neither"))
    bench.update(*pair(b"b/1", 6, b"in b's"))
    bench.load(4, subtree=b"a/")
    assert bench.asked == [[ICANHAZ, b"a/"], [ICANHAZ, b"b/"]] and bench.take() == []
    bench.load(6, pair(b"b/1", 6, b"in b's"), subtree=b"b/")
    assert bench.take() == [("b/1", b"in b's", 6), ("a/1", b"in neither", 6)]
    bench.update(*pair(b"a/1", 7, b"7"))
    assert bench.take() == [("a/1", b"7", 7)]


def test_hugz_moves_the_position_of_a_subtree() -> None:
    bench = loaded("a")
    bench.update(*pair(HUGZ, 9, b""))
    assert bench.sub.seq == 9 and bench.opened == 1
    bench.update(*pair(HUGZ, 0, b""))  # as the RFC has it
    assert bench.sub.seq == 9 and bench.opened == 1
    bench.update(*pair(b"ab", 10))
    assert bench.sub.seq == 10


@pytest.mark.parametrize("lost", [pair(b"x", 7), pair(HUGZ, 6, b"")])
def test_who_follows_everything_sees_that_an_update_was_lost_and_begins_anew(lost: Frames) -> None:
    bench = loaded()
    bench.take()
    bench.update(*lost)
    assert bench.opened == 2 and not bench.asked, "at once"
    bench.update(*pair(HUGZ, 7, b""))
    bench.load(7, pair(b"new", 6), pair(b"x", 7))
    assert bench.take() == [Gap(6, 7), ("new", b"v", 7), ("x", b"v", 7), ("k", None, 7)] and bench.sub.loaded
    bench.update(*pair(HUGZ, 9, b""))
    assert bench.opened == 2, "again so soon only after a while"
    bench.wait(clone_link.BACKOFF_SECONDS + 0.01)
    assert bench.opened == 3


def test_a_lost_connection_is_mended_and_the_state_comes_anew_with_a_gap() -> None:
    bench = loaded("a")
    bench.take()
    bench.link.cut(bench.now)
    bench.turn()
    assert bench.opened == 2
    for tries in range(3, 6):
        bench.link.cut(bench.now)
        assert bench.link.deadline > bench.now
        bench.wait(2.1)
        assert bench.opened >= tries
    bench.update(*pair(HUGZ, 2, b""))
    bench.load(2, pair(b"ab", 2), subtree=b"a")
    assert bench.take() == [Gap(1, 0), ("ab", b"v", 2), ("ak", None, 2)], "another count: nobody can tell how much was missed"
    bench.wait(clone_link.SILENCE_SECONDS - 0.1)
    opened = bench.opened
    bench.wait(0.2)
    assert bench.opened == opened + 1, "it has said HUGZ, and is silent"


def test_a_server_that_says_no_hugz_may_be_silent() -> None:
    bench = Bench()
    bench.wait(clone_link.PROOF_SECONDS)
    bench.load(0)
    bench.wait(10_000.0)
    assert bench.opened == 1 and bench.sub.loaded


def test_a_snapshot_that_does_not_come_is_asked_for_on_another_connection() -> None:
    bench = Bench()
    bench.update(*pair(b"a", 1))
    bench.snapshot(*pair(b"half", 1))
    bench.wait(clone_link.ANSWER_SECONDS - 0.1)
    assert bench.opened == 1
    bench.wait(0.2)
    assert bench.opened == 2
    bench.snapshot(*pair(b"late", 1))
    bench.update(*pair(b"a", 2))
    bench.load(2, pair(b"a", 2))
    assert bench.take() == [("a", b"v", 2)]


def test_without_a_snapshot_only_what_is_new_counts() -> None:
    bench = Bench(start=Start.NOW)
    bench.update(*pair(b"told again", 3))
    bench.update(*pair(HUGZ, 3, b""))
    bench.update(*pair(b"new", 4))
    assert bench.asked == [] and bench.take() == [("new", b"v", 4)] and bench.sub.loaded
    bench.link.cut(bench.now)
    bench.turn()
    bench.update(*pair(HUGZ, 6, b""))
    assert bench.asked == [[ICANHAZ, b""]], "what was missed since is asked for"
    bench.load(6, pair(b"new", 6))
    assert bench.take() == [Gap(5, 6), ("new", b"v", 6)]


def test_without_a_snapshot_of_a_subtree_only_what_is_new_counts_too() -> None:
    bench = Bench("a", start=Start.NOW)
    for number in 3, 5:
        bench.update(*pair(b"a", number))
    bench.update(*pair(HUGZ, 4, b""))
    assert bench.take() == [("a", b"v", 5)]


def test_a_snapshot_may_take_long_while_it_comes() -> None:
    bench = Bench("a")
    bench.update(*pair(HUGZ, 9, b""))
    for number in range(5):
        bench.wait(clone_link.ANSWER_SECONDS - 1)
        bench.update(*pair(HUGZ, 9, b""))
        bench.snapshot(*pair(b"a%d" % number, 9))
    bench.snapshot(*end(9, b"a"))
    assert bench.opened == 1 and len(bench.state) == 5


def test_without_a_snapshot_and_hugz_everything_counts_after_a_while() -> None:
    bench = Bench("a", start=Start.NOW)
    bench.update(*pair(b"a", 3))
    assert bench.take() == []
    bench.wait(clone_link.PROOF_SECONDS)
    assert bench.take() == [("a", b"v", 3)]


def test_a_position_is_answered_with_a_gap() -> None:
    bench = loaded(start=Start.POSITION, position=3)
    assert bench.take() == [Gap(4, 5), ("k", b"old", 5)]


def test_who_does_not_take_is_sent_no_more_than_its_window_and_begins_anew_when_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone_link, "WAITING_BYTES_MAX", 5_000)
    bench = loaded("k", window=1000)
    bench.take()
    bench.takes = False
    for number in range(6, 30):
        bench.update(*pair(b"k", number, b"x" * 400))
    assert len(bench.take()) <= 3 and bench.opened == 1
    for number in range(30, 40):
        bench.update(*pair(b"k", number, b"x" * 400))
    assert bench.opened == 1 and bench.link._phase is clone_link.Phase.CLOSED
    bench.takes = True
    bench.following.take(bench.sub, bench.sub.received - bench.sub.taken)
    for _ in range(100):
        bench.turn()
    assert bench.opened == 2, "when it has taken what waited"
    bench.update(*pair(HUGZ, 40, b""))
    bench.load(40, pair(b"k", 40, b"end"), subtree=b"k")
    first, *rest = bench.events[-3:]
    assert isinstance(first, Gap) and rest == [("k", b"end", 40), ("kk", None, 40)]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [([b"k"], "bad-frames"), ([b"\xff", *pair(b"", 6)[1:]], "bad-key"), ([b"k", b"six", b"", b"", b"v"], "bad-seq"),
     (pair(b"k", 6, b"x" * 1_048_576), "value-too-large")],
)  # fmt: skip
def test_rubbish_is_counted_and_changes_nothing(frames: Frames, reason: str) -> None:
    bench = loaded("k")
    bench.take()
    bench.update(*frames)
    bench.snapshot(*frames)
    assert bench.take() == [] and bench.link.dropped[reason] == 1
    bench.update(*pair(b"k", 6))
    assert bench.take() == [("k", b"v", 6)]
