"""What peers say stays words: no name forges a line of a log, no refusal moves a cursor, and old libraries are not trusted with it."""

from __future__ import annotations

import logging

import pytest

from zmqkit import host, sockets
from zmqkit.handles.outcome import error_of
from zmqkit.machines.output import Dropped, Ended
from zmqkit.wire import Code

FORGED = "q\n2026-01-01 INFO zmqkit.node lease ended queue=x token=7 messages=1-1 cause=expired\r\x1b[2J"


@pytest.mark.parametrize(
    "event", [Ended(FORGED, 1, 1, 1, "expired"), Dropped("malformed", b"\n\x1b", FORGED)], ids=["a lease's end", "what is dropped"]
)
def test_a_name_with_line_ends_in_it_is_one_line_of_the_log(event: Ended | Dropped, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    host._report(event)
    assert len(caplog.messages) == 1 and caplog.messages[0].isprintable()


def test_a_refusal_in_the_nodes_words_is_one_line() -> None:
    assert str(error_of(Code.FORBIDDEN, FORGED)).isprintable()


def test_a_libzmq_with_known_holes_is_refused_with_what_to_do() -> None:
    with pytest.raises(ImportError, match=r"libzmq 4\.3\.3 has known holes: .*pip install -U pyzmq"):
        sockets.check_libzmq((4, 3, 3))
    sockets.check_libzmq((4, 3, 4))
