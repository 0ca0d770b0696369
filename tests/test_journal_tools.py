"""stat, verify, dump, salvage: what `zmqkit journal` is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from journal_disk import User

from zmqkit import errors
from zmqkit.journal import Item, Journal, tools

FIRST = "00000000000000000001-00000001.log"
SECOND = "00000000000000000003-00000001.log"


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Two records and a checkpoint, then three."""
    path = tmp_path / "j"
    user = User(Journal(str(path))).start()
    user.put(b"one", b"two")
    user.checkpoint()
    user.put(b"three", b"four", b"five")
    user.journal.close()
    return path


def flip(file: Path, content: bytes) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(content)] ^= 1
    file.write_bytes(data)


def replayed(path: Path) -> list[tuple[int, bytes]]:
    journal = Journal(str(path))
    entries = [(entry.position, bytes(entry.payload)) for entry in journal.replay()]
    journal.close()
    return entries


def test_looking_at_a_journal_changes_nothing(journal: Path) -> None:
    before = contents(journal)
    tools.stat(str(journal))
    tools.verify(str(journal))
    list(tools.dump(str(journal)))
    tools.salvage(str(journal), str(journal.parent / "out"))
    assert contents(journal) == before


def test_stat_says_what_is_there(journal: Path) -> None:
    found = tools.stat(str(journal))
    assert (found.segments, found.first, found.last, found.bodies, found.epoch) == (2, 1, 5, 5, 1)
    assert found.checkpoints == [2] and found.locked_by is None and len(found.node) == 32
    assert found.bytes == sum(file.stat().st_size for file in journal.glob("*.log"))


def test_stat_names_the_process_that_has_it_open(journal: Path) -> None:
    opened = Journal(str(journal))
    locked_by = tools.stat(str(journal)).locked_by
    assert locked_by is not None and locked_by[0] > 0
    opened.close()
    assert tools.stat(str(journal)).locked_by is None


def test_dump_gives_every_record_with_its_place(journal: Path) -> None:
    records = list(tools.dump(str(journal)))
    assert [(r.lsn, r.epoch, bytes(r.payload), r.file) for r in records] == [
        (1, 1, b"one", FIRST),
        (2, 1, b"two", FIRST),
        (3, 1, b"three", SECOND),
        (4, 1, b"four", SECOND),
        (5, 1, b"five", SECOND),
    ]
    data = (journal / SECOND).read_bytes()
    assert data[records[-1].offset + 32 :].startswith(b"five")


def test_verify_finds_a_good_journal_clean(journal: Path) -> None:
    assert tools.verify(str(journal)).code == tools.CLEAN


def test_verify_tells_a_torn_end(journal: Path, tmp_path: Path) -> None:
    opened = User(Journal(str(journal))).start()
    opened.settle(opened.put(b"six"))
    for file in journal.iterdir():
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    opened.journal.close()
    flip(tmp_path / "copy" / "00000000000000000006-00000002.log", b"six")
    verdict = tools.verify(str(tmp_path / "copy"))
    assert (verdict.code, verdict.lsn, verdict.offset) == (tools.TORN, 6, 40)


@pytest.mark.parametrize(("file", "content", "lsn"), [(FIRST, b"two", 2), (SECOND, b"four", 4), ("checkpoint", b"one", 2)])
def test_verify_finds_damage_in_every_file_and_names_the_place(journal: Path, file: str, content: bytes, lsn: int) -> None:
    path = next(path for path in journal.iterdir() if path.name.endswith(file))
    flip(path, content)
    verdict = tools.verify(str(journal))
    assert (verdict.code, verdict.file, verdict.lsn) == (tools.CORRUPT, str(path), lsn)


@pytest.mark.parametrize("look", [tools.stat, tools.verify, lambda path: list(tools.dump(path))])
def test_a_directory_without_a_journal_is_said_to_be_none(tmp_path: Path, look: object) -> None:
    with pytest.raises(errors.JournalError):
        look(str(tmp_path / "missing"))  # type: ignore[operator]
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.JournalFormat):
        look(str(tmp_path / "empty"))  # type: ignore[operator]
    assert not (tmp_path / "missing").exists() and not list((tmp_path / "empty").iterdir())


def test_salvage_of_a_good_journal_is_the_same_journal(journal: Path, tmp_path: Path) -> None:
    report = tools.salvage(str(journal), str(tmp_path / "out"))
    assert (report.records, report.last, report.checkpoint, report.lost) == (5, 5, 2, [])
    assert tools.verify(str(tmp_path / "out")).code == tools.CLEAN
    assert tools.stat(str(tmp_path / "out")).epoch > tools.stat(str(journal)).epoch
    assert replayed(tmp_path / "out") == replayed(journal)


def test_salvage_keeps_every_number_and_says_which_are_lost(journal: Path, tmp_path: Path) -> None:
    flip(journal / FIRST, b"one")
    flip(journal / SECOND, b"four")
    with pytest.raises(errors.JournalCorrupt):
        replayed(journal)

    report = tools.salvage(str(journal), str(tmp_path / "out"))

    assert (report.records, report.lost) == (3, [(1, 1), (4, 4)])
    assert replayed(tmp_path / "out") == [(0, b"one"), (0, b"two"), (3, b"three"), (5, b"five")]
    saved = Journal(str(tmp_path / "out"))
    list(saved.replay())
    saved.retain([1, 2, 4, 5])
    assert [bytes(saved.read(n)) for n in (1, 2, 4, 5)] == [b"", b"two", b"", b"five"]  # a lost body is an empty one
    saved.close()


def test_salvage_finds_records_behind_a_damaged_header_and_without_meta(journal: Path, tmp_path: Path) -> None:
    (journal / "meta").write_text("rubbish")
    for name in (FIRST, SECOND):
        data = bytearray((journal / name).read_bytes())
        data[6] ^= 1
        (journal / name).write_bytes(data)
        if name == FIRST:
            with pytest.raises(errors.JournalCorrupt):
                replayed(journal)
            tools.salvage(str(journal), str(tmp_path / "one"))
    assert [entry[0] for entry in replayed(tmp_path / "one")] == [0, 0, 3, 4, 5]
    with pytest.raises(errors.JournalFormat, match="can be read"):
        tools.salvage(str(journal), str(tmp_path / "two"))


def test_salvage_without_any_whole_checkpoint_gives_all_records_from_the_first(journal: Path, tmp_path: Path) -> None:
    flip(next(journal.glob("*.checkpoint")), b"one")
    flip(journal / FIRST, b"two")
    assert tools.salvage(str(journal), str(tmp_path / "out")).lost == [(2, 2)]
    assert [entry[0] for entry in replayed(tmp_path / "out")] == [1, 3, 4, 5]


def test_salvage_of_a_journal_that_lost_a_whole_segment(journal: Path, tmp_path: Path) -> None:
    user = User(Journal(str(journal))).start()
    user.put(b"six")
    user.journal.close()
    (journal / SECOND).unlink()
    assert tools.salvage(str(journal), str(tmp_path / "out")).lost == [(3, 5)]
    assert replayed(tmp_path / "out") == [(0, b"one"), (0, b"two"), (6, b"six")]


def test_salvage_takes_the_copy_of_a_moved_tail_over_its_original(tmp_path: Path) -> None:
    user = User(Journal(str(tmp_path / "j"))).start()
    user.put(b"one")
    user.settle()
    old = (tmp_path / "j" / FIRST).read_bytes()
    user.journal.close()
    (tmp_path / "j" / FIRST).write_bytes(old)
    replayed(tmp_path / "j")
    (tmp_path / "j" / FIRST).write_bytes(old)
    report = tools.salvage(str(tmp_path / "j"), str(tmp_path / "out"))
    assert (report.records, report.lost) == (1, [])


def test_a_salvaged_journal_can_be_used(journal: Path, tmp_path: Path) -> None:
    flip(journal / SECOND, b"four")
    tools.salvage(str(journal), str(tmp_path / "out"))
    saved = Journal(str(tmp_path / "out"))
    list(saved.replay())
    saved.retain([5])
    saved.start(lambda: None, lambda error: None)
    assert saved.append([Item(1, [b"six"])], waited=True) == 6
    saved.close()
    assert replayed(tmp_path / "out")[-1] == (6, b"six")


def test_salvage_writes_over_nothing(journal: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.JournalError, match="empty or missing"):
        tools.salvage(str(journal), str(journal))
