"""docs/wire.md against the code: every command, record, code and limit stands there, with its number and its fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zmqkit import fields, framing, host, parcel, records, wire
from zmqkit.machines import (
    admin,
    callers,
    calling,
    calls,
    checkpoint,
    core,
    followers,
    keys,
    leasing,
    ledger,
    node,
    phases,
    policy,
    publishing,
    queue,
    settling,
    topic,
)

PAGE = (Path(__file__).parents[1] / "docs" / "wire.md").read_text()
PART = {title: text for title, text in re.findall(r"^## \d+\. ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)}


def rows(part: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in PART[part].splitlines() if line.startswith("|")]


@pytest.mark.parametrize("kind", wire.Kind)
def test_every_command_is_there_with_its_number_and_its_fields(kind: wire.Kind) -> None:
    (row,) = [row for row in rows("Commands") if row[0] == str(int(kind))]
    assert row[1] == kind.name
    told = [field.split()[0].strip("()") for field in row[3].split("·")]
    shape = framing._BY_NUMBER[kind]
    behind = {"parcel": "batch", **({"held": "entries", "ranges": "entries"} if isinstance(shape, framing.Entries) else {})}
    fields = [name for name in shape.command._fields if name not in behind]  # type: ignore[attr-defined]
    assert told == (fields or ["none"])
    assert all(behind[name] in row[4] for name in shape.command._fields if name in behind)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", records.NAMES)
def test_every_record_is_there_with_its_number_and_its_fields(number: int) -> None:
    (row,) = [row for row in rows("Records") if row[0] == str(number)]
    record = records._TYPES[number]
    assert row[1] == record.__name__
    starts = [row[2].find("batch" if name == "parcel" else name) for name in record._fields]  # type: ignore[attr-defined]
    assert -1 not in starts and starts == sorted(starts), f"{record.__name__}: {record._fields} in {row[2]}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", wire.Code)
def test_every_refusal_is_there_with_its_number(code: wire.Code) -> None:
    assert [code.name, str(int(code))] in [row[:2] for row in rows("Codes")]


def test_every_verdict_and_every_way_to_hand_back_is_there_with_its_number() -> None:
    told = [row[:2] for row in rows("Settling")]
    assert all([verdict.name, str(int(verdict))] in told for verdict in wire.Verdict)
    assert all([kind.name.lower(), str(int(kind))] in told for kind in wire.BackKind)


def test_every_outcome_of_a_call_is_there_with_its_number() -> None:
    told = [row[:2] for row in rows("Calls")]
    assert all([status.name, str(int(status))] in told for status in wire.Status)


def test_every_start_and_scope_of_a_subscription_is_there_with_its_number() -> None:
    told = [row[:2] for row in rows("Topics")]
    assert all([start.name, str(int(start))] in told for start in wire.Start)
    assert all(f"{scope.name} {int(scope)}" in PART["Topics"] for scope in wire.Scope)


def test_every_reason_to_drop_is_there() -> None:
    source = "".join(path.read_text() for path in (Path(__file__).parents[1] / "zmqkit").rglob("*.py"))
    reasons = set(re.findall(r'(?:core\.drop\(|_reject\(peer, )"([a-z-]+)"', source))
    assert len(reasons) > 8 and all(f"`{reason}`" in PART["Codes"] for reason in reasons), reasons


def test_every_verb_and_every_policy_field_is_there() -> None:
    machine = admin.Admin(*[None] * 4)  # type: ignore[arg-type]
    told = {name.strip() for row in rows("Asking") for name in row[0].split(",")}
    assert machine._verbs.keys() <= told
    assert all(name in PART["Asking"] for name in [*policy.QueuePolicy().to_wire(), *policy.TopicPolicy().to_wire()])


def kib(size: int) -> str:
    return f"{size // 1024} KiB" if size < 2**20 else f"{size // 2**20} MiB"


LIMITS = {
    "header": kib(wire.HEADER_BYTES_MAX), "frame": f"1 MiB + {kib(wire.FRAME_BYTES_MAX - 2**20)}", "body": kib(parcel.PARCEL_BYTES_MAX),
    "messages": f"{parcel.PARCEL_MESSAGES_MAX:,}",
    "headers": f"{kib(parcel.MESSAGE_HEADERS_BYTES_MAX)} · {kib(parcel.HEADERS_BYTES_MAX)}", "columns": kib(parcel.COLUMNS_BYTES_MAX),
    "name": f"{wire.NAME_BYTES_MAX} bytes", "text": f"{wire.TEXT_CHARS_MAX:,} letters", "saved": kib(wire.BLOB_BYTES_MAX),
    "arguments": kib(wire.ARGUMENTS_BYTES_MAX), "items": f"{parcel.ITEMS_MAX:,} · {wire.VERSIONS_MAX}", "entries": f"{wire.ENTRIES_MAX}",
    "tokens": f"{core.LEASES_MAX}", "window": f"{publishing.WINDOW_BATCHES} (and {kib(node.WINDOW_BYTES)}", "held": f"{host.HELD_MAX:,}",
    "answers": f"{settling.ANSWERS_MAX:,}", "clients": f"{core.CLIENTS_MAX:,} · {core.QUEUES_MAX:,} · {core.STREAMS_MAX:,}",
    "parted": f"per client | {core.PARTED_MAX:,}", "client's streams": f"streams of a client | {core.CLIENT_STREAMS_MAX:,}",
    "silent": f"silent for {node.SILENCE:.0f} s gives way", "asks": f"ASK, per client | {ledger.ANSWERS_MAX:,}",
    "all saved": f"{kib(settling.SAVED_BYTES_MAX)}", "history": f"{queue.HISTORY_MAX}: the last in full, the others {queue.HISTORY_CHARS}",
    "strangers": f"1 a second to a peer, {node.STRANGERS_MAX:,}",
    "services": f"may not have | {core.SERVICES_MAX:,} · {calls.CALLS_MAX:,}",
    "calls": f"a node keeps | {kib(calls.CALLS_BYTES_MAX)} · with answers {kib(calls.ANSWERS_BYTES_MAX)}",
    "keys": f"their answers | {keys.KEYS_MAX:,} · {kib(keys.KEYS_BYTES_MAX)}",
    "topics": f"their letters | {core.QUEUES_MAX:,} · {followers.SUBSCRIPTIONS_MAX:,} · {wire.PREFIXES_MAX}, "
              f"{framing.PREFIXES_CHARS_MAX:,}",
    "epochs": f"beginning is known | {topic.EPOCHS_MAX:,}",
    "parts": f"ranges of a REPLY | {calls.PARTS_AHEAD_MAX} · {wire.REPLY_RANGES_MAX}",
}  # fmt: skip
TIMERS = {
    "beats": f"{core.BEAT} beat · {phases.IDLE_BEATS} idle · {core.PATIENCE} patience", "welcome": f"{phases.WELCOME_SECONDS}",
    "retry": f"{phases.RETRY_SECONDS} to {phases.RETRY_SECONDS_MAX}", "forget": f"{node.FORGET_AFTER:.0f} ",
    "queue": f"{policy.QueuePolicy().lease:.0f} lease · {policy.QueuePolicy().grace:.0f} grace",
    "refused": f"{publishing.RETRY_AFTER} · {callers.RETRY_SECONDS} · {leasing.RETRY_SECONDS:.0f} | ",
    "verdict": f"| {calling.VERDICT_SECONDS} | after", "keys": f"| {keys.KEPT_SECONDS:.0f} | the answer to a key",
    "cut": f"| {calling.CUT_SECONDS:.0f} · {calls.ABSENCE_SECONDS:.0f} | a caller",
    "streams": f"{node.STREAM_RETENTION / 86400:.0f} days",
}  # fmt: skip


@pytest.mark.parametrize("what", LIMITS)
def test_the_limits_are_those_of_the_code(what: str) -> None:
    assert LIMITS[what] in PART["Limits"]


@pytest.mark.parametrize("what", TIMERS)
def test_the_timers_are_those_of_the_code(what: str) -> None:
    assert TIMERS[what] in PART["Timers"]


def test_what_is_said_in_passing_is_true_too() -> None:
    assert f"every {leasing.ECHO_EVERY} s, from {leasing.ECHO_AFTER} s" in PART["Links"]
    assert f"up to {kib(wire.INLINE_BYTES_MAX)}" in PART["Frames"] and fields.SECONDS_MAX == 1e10
    assert f"at most {checkpoint.MARKS_MAX:,} entries and about {kib(checkpoint.MARKS_BYTES_MAX)}" in PAGE
    assert f"up to {admin.LIST_MAX:,} infos" in PART["Asking"]
    assert f"up to {admin.PEEK_MAX:,} messages from {admin.PEEK_PARCELS_MAX} batches" in PART["Asking"]


def test_every_rule_that_the_code_names_is_explained() -> None:
    source = "".join(path.read_text() for path in (Path(__file__).parents[1] / "zmqkit").rglob("*.py"))
    named = set(re.findall(r"\bR-[LPQACT]\d\b", source))
    assert named and all(f"**{rule}**" in PAGE or f"({rule})" in PAGE for rule in named), named
