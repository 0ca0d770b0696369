"""What commands share, without a node: durations, listings, and the bench's tally."""

from __future__ import annotations

import click
import pytest

from zmqkit.cli.bench_load import Tally, bodies, documents, merge
from zmqkit.cli.options import DURATION, as_json, print_rows


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h", 3600), ("2d", 172800), ("1.5", 1.5), (".5s", 0.5), ("10", 10), ("0", 0)],
)
def test_a_duration_is_seconds_with_or_without_its_unit(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 weeks", "-1s", "1e3", "nan", "5s5"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="250ms, 30s"):
        DURATION.convert(text, None, None)


def test_bytes_are_printed_as_base64() -> None:
    assert as_json({"a": b"\x00\xff", "ä": [1, None]}) == '{"a": {"base64": "AP8="}, "ä": [1, null]}'


def test_a_listing_is_a_table_or_json_or_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "emails", "ready": 3, "oldest": 1.25}, {"name": "x\n\x1b[2J", "ready": 12, "oldest": None}]
    print_rows(rows, "table", ["name", "ready", "oldest"])
    assert capsys.readouterr().out == "NAME    READY  OLDEST\nemails  3      1.2\nx��[2J  12     -\n"
    print_rows(rows, "jsonl", [])
    assert len(capsys.readouterr().out.splitlines()) == 2
    print_rows(rows, "json", [])
    assert capsys.readouterr().out.startswith('[{"name": "emails"')
    print_rows([], "table", ["name"], empty="no queues")
    assert capsys.readouterr() == ("", "no queues\n")


def test_the_tally_finds_what_is_lost_and_what_came_twice() -> None:
    load = list(bodies(1500, 128))
    assert {len(body) for body in load} == {128}
    tally = Tally(1500)
    tally.bodies(load[:512])
    tally.bodies(load[500:1000])  # 12 again
    tally.bodies([load[1400], load[1200], load[1300]])
    told = merge([tally.result()])
    assert (told["lost"], told["duplicated"]) == (1500 - 1000 - 3, 12)


def test_the_tallies_of_several_consumers_are_one() -> None:
    load = list(documents(10, 128))
    first, second = Tally(10), Tally(10)
    for body in load[:6]:
        first.document(body)
    for body in load[5:9]:
        second.document(body)
    told = merge([first.result(), second.result()])
    assert (told["lost"], told["duplicated"]) == (1, 1)
