"""The key directory: what is refused, with what to do about it, and that a file is changed as a whole; and ZAP's questions, as frames."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from keys_world import KEY, ODD, QUESTION, made, rights

import zmqkit
from zmqkit.rights import EVERYTHING, Grant, Limits, Role
from zmqkit.security import Keys, Pair, fingerprint, zap
from zmqkit.security.trusted import line_of, parse_known, parse_trusted

OTHER, OWN = (Pair.new().public for _ in range(2))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")

# -- the start-up matrix: each of them is refused, by a node and by a client ------------------------------------------------


def wrote(name: str, text: str | bytes, mode: int = 0o600) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        (place / name).chmod(mode)

    return spoil


def linked(name: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        real = place.parent / "elsewhere"
        (place / name).rename(real)
        (place / name).symlink_to(real)

    return spoil


def replaced_by_a_link(place: Path) -> None:
    place.rename(place.parent / "elsewhere")
    place.symlink_to(place.parent / "elsewhere")


def without_secret(place: Path) -> None:
    (place / "key.secret").unlink()


def with_a_pipe(place: Path) -> None:
    without_secret(place)
    os.mkfifo(place / "key.secret", 0o600)


def without_itself(place: Path) -> None:
    place.rename(place.parent / "elsewhere")


def a_file_itself(place: Path) -> None:
    without_itself(place)
    place.write_text("")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (without_itself, "zmqkit keys new"),
    "a file": (a_file_itself, "Not a directory"),
    "an empty directory": (without_secret, "zmqkit keys new"),
    "a directory others can look into": (lambda place: place.chmod(0o755), r"mode 0755\): chmod 700"),
    "a directory the group can write into": (lambda place: place.chmod(0o770), r"chmod 700"),
    "a directory others can enter": (lambda place: place.chmod(0o701), r"chmod 700"),
    "a link to the directory": (replaced_by_a_link, "link"),
    "a secret others can read": (lambda place: (place / "key.secret").chmod(0o644), r"mode 0644\): chmod 600 .*key\.secret"),
    "a secret the group can read": (lambda place: (place / "key.secret").chmod(0o640), "chmod 600"),
    "a secret others can write": (lambda place: (place / "key.secret").chmod(0o602), "chmod 600"),
    "a link to the secret": (linked("key.secret"), "key.secret: it is a link"),
    "an empty secret": (wrote("key.secret", ""), "key.secret: a key is 40 characters"),
    "a short secret": (wrote("key.secret", Pair.new().secret[:39]), "these are 39"),
    "a secret that is no Z85": (wrote("key.secret", "~" * 40), "a key is 40 characters"),
    "a secret beyond 32 bits": (wrote("key.secret", "#" * 40), "a key is 40 characters"),
    "a secret that is no text": (wrote("key.secret", b"\xff" * 40), "no text"),
    "a secret that is a pipe": (with_a_pipe, "no file"),
    "another pair's public key": (wrote("key.public", KEY + "\n"), "does not belong"),
    "a file that others can change": (lambda place: (place / "trusted").chmod(0o666), r"others may change it .* chmod 600 .*trusted"),
    "a link to trusted": (linked("trusted"), "trusted: it is a link"),
    "trusted that is no text": (wrote("trusted", b"\xff"), "no text"),
    "a short key": (wrote("trusted", f"# fine\n{KEY[:39]} ada all\n"), "trusted: line 2: a key is 40"),
    "a key alone": (wrote("trusted", f"{KEY}\n"), "line 1: a line is KEY NAME"),
    "a key twice": (wrote("trusted", f"{KEY} ada all\n{KEY} ada\n"), "line 2: this key has a line already, as ada"),
    "its own key": (lambda place: wrote("trusted", Keys(place).pair.public + " me\n")(place), "its? own key|directory's own key"),
    "a forgotten name": (wrote("trusted", f"{KEY} publish:orders.*\n"), "name"),
    "a name that is everything": (wrote("trusted", f"{KEY} all\n"), "name"),
    "an unknown role": (wrote("trusted", f"{KEY} ada publsh:orders\n"), "'publsh:orders' is none of"),
    "a role for nothing": (wrote("trusted", f"{KEY} ada publish\n"), "'publish' is none of"),
    "a role for an empty name": (wrote("trusted", f"{KEY} ada publish:a,,b\n"), "is none of"),
    "an unknown limit": (wrote("trusted", f"{KEY} ada limit=bites:1\n"), "'bites:1' is no limit"),
    "a limit that is no number": (wrote("trusted", f"{KEY} ada limit=bytes:-1\n"), "is no limit"),
    "a limit twice": (wrote("trusted", f"{KEY} ada limit=bytes:1,bytes:2\n"), "one too many"),
    "a comment that is none": (wrote("trusted", f"#{KEY} ada\n"), "line 1"),
    "a node without a key": (wrote("known_nodes", "tcp://127.0.0.1:1\n"), "known_nodes: line 1"),
    "a node with half a key": (wrote("known_nodes", f"tcp://127.0.0.1:1 {KEY[1:]}\n"), "known_nodes: line 1"),
    "a node twice": (wrote("known_nodes", f"a {KEY}\na {OTHER}\n"), "known_nodes: line 2: a has a line already"),
    "a directory of somebody else": (lambda place: os.chown(place, 12345, -1), "belongs to user 12345.*: chown"),
    "a secret of somebody else": (lambda place: os.chown(place / "key.secret", 12345, -1), "belongs to user 12345"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=as_root if "somebody" in name else ()) for name in SPOILED])
def test_a_directory_that_is_not_safe_or_not_understood_starts_nothing_and_says_what_to_do(tmp_path: Path, name: str) -> None:
    secret = made(tmp_path, "keys").pair.secret
    spoil, text = SPOILED[name]
    spoil(tmp_path / "keys")
    for begin in (zmqkit.Node, zmqkit.connect):
        with pytest.raises(zmqkit.KeysError, match=text) as refused:
            begin("tcp://127.0.0.1:0", keys=str(tmp_path / "keys"))
        assert str(tmp_path / "keys") in str(refused.value) and secret not in str(refused.value)


def test_a_new_directory_is_ours_alone_and_a_key_is_never_overwritten(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys = made(tmp_path, "deep/er/keys")
    finally:
        os.umask(before)
    place = Path(keys.path)
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in place.iterdir()} == dict.fromkeys(
        ("key.secret", "key.public", "trusted", "known_nodes"), 0o600
    )
    with pytest.raises(zmqkit.KeysError, match="already"):
        Keys.make(place)
    assert Keys(place).pair.secret == keys.pair.secret


def test_the_secret_is_in_no_repr(tmp_path: Path) -> None:
    keys = made(tmp_path, "keys")
    for shown in (keys, keys.pair, keys.link("tcp://127.0.0.1:1")):
        assert keys.pair.secret not in repr(shown) and keys.pair.secret not in str(shown)
        assert fingerprint(keys.pair.public) in repr(shown)


# -- who is meant -------------------------------------------------------------------------------------------------------------


def test_a_line_says_what_its_user_may_do_and_how_much_of_it() -> None:
    text = f"# people\n\n{KEY} ada publish:orders.*,audit subscribe:* limit=bytes:1000,queues:3\r\n{OTHER}\tbob  all\n"
    users = parse_trusted(text, OWN)
    ada, bob = users[KEY], users[OTHER]
    assert ada.grants == (Grant(Role.PUBLISH, "orders.*"), Grant(Role.PUBLISH, "audit"), Grant(Role.SUBSCRIBE, "*"))
    assert (ada.name, ada.limits) == ("ada", Limits(bytes=1000, queues=3))
    assert ada.may(Role.PUBLISH, "orders.eu") and not ada.may(Role.PUBLISH, "orders") and not ada.may(Role.CONSUME, "orders.eu")
    assert bob.grants == EVERYTHING.grants
    assert parse_trusted("\n".join(line_of(key, rights) for key, rights in users.items()), OWN).keys() == users.keys()
    assert line_of(KEY, ada) == f"{KEY} ada publish:orders.*,audit subscribe:* limit=bytes:1000 limit=queues:3"


def test_a_user_without_roles_may_do_nothing() -> None:
    ada = parse_trusted(f"{KEY} ada\n", OWN)[KEY]
    assert not any(ada.may(role, name) for role in Role for name in ("", "a", "*"))


def test_a_key_is_expected_where_it_is_pinned_and_our_own_everywhere_else(tmp_path: Path) -> None:
    keys = made(tmp_path, "keys")
    keys.pin("tcp://127.0.0.1:1", KEY)
    keys.trust(OTHER, rights("ada", "all"))
    keys = Keys(keys.path)
    assert keys.link("tcp://127.0.0.1:1").server == KEY and keys.link("tcp://127.0.0.1:2").server == keys.pair.public
    found = {key: (keys.key_of(fingerprint(key)), keys.trusted(fingerprint(key))) for key in (KEY, OTHER, keys.pair.public)}
    assert found == {KEY: (KEY, True), OTHER: (None, False), keys.pair.public: (keys.pair.public, True)}, "who may come in is no node"


def test_a_fingerprint_is_the_same_everywhere_and_of_one_key_only() -> None:
    assert fingerprint("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7") == "kisq-d5hh-uy7w-dxlx"
    assert len({fingerprint(Pair.new().public) for _ in range(100)}) == 100


def test_new_public_keys_need_no_thought_in_a_shell() -> None:
    assert all(Pair.new().public[0].isalnum() for _ in range(300))


# -- changes ------------------------------------------------------------------------------------------------------------------


def test_trusting_again_gives_other_rights_and_what_people_wrote_stays(tmp_path: Path) -> None:
    keys = made(tmp_path, "keys")
    trusted = Path(keys.path, "trusted")
    trusted.write_text(f"# our people\u2028{OWN} evil all\n{OTHER} bob consume:*\n", encoding="utf-8")
    keys.trust(KEY, rights("ada", "all"))
    keys.trust(KEY, rights("ada", "publish:x"))
    assert trusted.read_text() == f"# our people\u2028{OWN} evil all\n{OTHER} bob consume:*\n{KEY} ada publish:x\n"
    assert trusted.stat().st_mode & 0o777 == 0o600
    keys = Keys(keys.path)
    keys.forget(*keys.lines("bob"))
    assert OWN not in keys.users and trusted.read_text() == f"# our people\u2028{OWN} evil all\n{KEY} ada publish:x\n"
    assert sorted(path.name for path in trusted.parent.iterdir()) == ["key.public", "key.secret", "known_nodes", "trusted"]


def test_a_change_that_could_not_be_read_again_is_not_made(tmp_path: Path) -> None:
    keys = made(tmp_path, "keys")
    before = Path(keys.path, "trusted").read_text()
    for key, name, words in ((keys.pair.public, "me", []), (KEY, "ada", ["publish:a\n" + OTHER + " evil all"]), (KEY[:-1], "ada", [])):
        with pytest.raises((ValueError, zmqkit.KeysError)):
            keys.trust(key, rights(name, *words))
    with pytest.raises(ValueError, match="neither an endpoint"):
        keys.pin(f"a {KEY}\nb", OTHER)
    assert Path(keys.path, "trusted").read_text() == before


def test_those_who_change_it_at_once_lose_none_of_each_others_lines(tmp_path: Path) -> None:
    path = made(tmp_path, "keys").path
    publics = [Pair.new().public for _ in range(40)]

    def add(part: int) -> None:
        for number in range(part, 40, 4):
            Keys(path).trust(publics[number], rights(f"user{number}"))

    threads = [threading.Thread(target=add, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Keys(path).users.keys() == set(publics)


# -- ZAP --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ODD)
def test_an_odd_question_is_answered_no_whoever_is_trusted(name: str) -> None:
    assert zap.Question(ODD[name]).answer(lambda key: True) == [b"1.0", b"7", b"400", b"refused", b"", b""]


def test_a_trusted_key_is_the_user_and_any_other_is_told_nothing() -> None:
    assert zap.Question(QUESTION).answer(lambda key: key == KEY) == [b"1.0", b"7", b"200", b"OK", KEY.encode(), b""]
    assert zap.Question(QUESTION).answer(lambda key: False) == [b"1.0", b"7", b"400", b"refused", b"", b""]


def test_whoever_breaks_over_a_key_lets_nobody_in() -> None:
    def broken(key: str) -> bool:
        raise KeyError(key)

    assert zap.Question(QUESTION).answer(broken) == [b"1.0", b"7", b"500", b"failed", b"", b""]


@pytest.mark.parametrize("frames", [[], [b"1.0"], [b"1.0", b"x" * 256]])
def test_what_names_no_question_is_not_answered(frames: list[bytes]) -> None:
    with pytest.raises(ValueError, match="no question"):
        zap.Question(frames)


def test_known_nodes_are_endpoints_and_names() -> None:
    assert parse_known(f"# a\ntcp://h:1 {KEY}\nstudio {OTHER}\n") == {"tcp://h:1": KEY, "studio": OTHER}
