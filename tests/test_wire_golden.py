"""Golden frames: the bytes of every command and record, as another implementation would have to write them.

These files may change only together with docs/wire.md, and an existing line only with a new protocol version. To record them
again on purpose, and read the change as a diff:

    ZMQKIT_RECORD=1 python -m pytest tests/test_wire_golden.py && git diff tests/golden
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from wire_values import COMMANDS, RECORDS, as_bytes, lists

from zmqkit import framing, records, wire

GOLDEN = Path(__file__).parent / "golden"
HEX_PER_LINE = 120


def written(name: str, examples: Mapping[str, list[bytes]]) -> dict[str, list[bytes]]:
    """The frames in a golden file; with ZMQKIT_RECORD set, after writing it anew from `examples`."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("ZMQKIT_RECORD"):
        head = f"# {name}: a title, then each frame in hex; lines that go on are indented.\n"
        path.write_text(head + "".join(map(entry, examples.items())))
    found: dict[str, list[bytes]] = {}
    for line in path.read_text().splitlines()[1:]:
        if line.startswith("= "):
            frames = found[line[2:]] = []
        elif line.startswith("- "):
            frames.append(bytes.fromhex(line[2:]))
        elif line:
            frames[-1] += bytes.fromhex(line)
    return found


def entry(example: tuple[str, list[bytes]]) -> str:
    title, frames = example
    lines = [f"\n= {title}\n"]
    for frame in frames:
        digits = frame.hex()
        rows = [digits[i : i + HEX_PER_LINE] for i in range(0, len(digits), HEX_PER_LINE)] or [""]
        lines.append("- " + "\n  ".join(rows) + "\n")
    return "".join(lines)


COMMAND_FRAMES = {title: as_bytes(framing.encode(command)) for title, command in COMMANDS.items()}
RECORD_FRAMES = {title: [bytes([kind]), b"".join(as_bytes(chunks))] for title, (kind, chunks, _) in
                 ((title, records.encode(record)) for title, record in RECORDS.items())}  # fmt: skip


def test_the_files_hold_an_example_of_every_kind() -> None:
    kinds = {frames[0][2] for frames in written("commands", COMMAND_FRAMES).values()}
    assert kinds == {int(kind) for kind in wire.Kind}
    kinds = {frames[0][0] for frames in written("records", RECORD_FRAMES).values()}
    assert kinds == set(records.NAMES)


@pytest.mark.parametrize("title", COMMANDS)
def test_a_command_is_encoded_to_these_bytes_and_decoded_from_them(title: str) -> None:
    frames = written("commands", COMMAND_FRAMES)[title]
    assert COMMAND_FRAMES[title] == frames
    assert framing.decode(frames) == COMMANDS[title]


@pytest.mark.parametrize("title", RECORDS)
def test_a_record_is_encoded_to_these_bytes_and_decoded_from_them(title: str) -> None:
    kind, payload = written("records", RECORD_FRAMES)[title]
    assert RECORD_FRAMES[title] == [kind, payload]
    assert lists(records.decode(kind[0], payload)) == lists(RECORDS[title])


def test_nothing_stands_in_the_files_that_is_no_example_here() -> None:
    assert written("commands", COMMAND_FRAMES).keys() == COMMANDS.keys()
    assert written("records", RECORD_FRAMES).keys() == RECORDS.keys()
