"""The files that people write, as text.

    trusted      KEY NAME [ROLE:GLOB[,GLOB…]]… [all] [limit=WHAT:NUMBER[,WHAT:NUMBER…]]…     one user a line
    known_nodes  WHERE KEY                                                                    one node a line

`# ` begins a line that is for people. Rule 1: what is not understood is an error, never passed over: a line that was meant to restrict
somebody must not vanish. Rule 2: a user without roles may connect, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from zmqkit.rights import EVERYTHING, Grant, Limits, Rights, Role
from zmqkit.security.identity import check_key

ALL = "all"
NAME_MAX = 64
LIMIT = "limit="


def parse_trusted(text: str, own: str) -> dict[str, Rights]:
    """The users by their keys. `own` is the directory's own key, which needs no line. Raises ValueError with the line's number."""
    users: dict[str, Rights] = {}
    for number, words in _lines(text):
        try:
            if len(words) < 2:
                raise ValueError("a line is KEY NAME and what this user may do")
            key = check_key(words[0])
            if key == own:
                raise ValueError("this is the directory's own key, which may do everything")
            if key in users:
                raise ValueError(f"this key has a line already, as {users[key].name}")
            users[key] = rights_of(words[1], words[2:])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return users


def parse_known(text: str) -> dict[str, str]:
    """The key of each node, by endpoint or name. Raises ValueError with the line's number."""
    nodes: dict[str, str] = {}
    for number, words in _lines(text):
        try:
            if len(words) != 2:
                raise ValueError("a line is an endpoint or a node's name, and its key")
            if words[0] in nodes:
                raise ValueError(f"{words[0]} has a line already")
            nodes[words[0]] = check_key(words[1])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return nodes


def rights_of(name: str, words: Iterable[str]) -> Rights:
    """From a line's words behind its key. Raises ValueError."""
    grants: dict[Grant, None] = {}
    limits: dict[str, float] = {}
    for word in words:
        if word == ALL:
            grants.update(dict.fromkeys(EVERYTHING.grants))
        elif word.startswith(LIMIT):
            _add_limits(limits, word.removeprefix(LIMIT))
        else:
            grants.update(dict.fromkeys(_grants(word)))
    return Rights(user_name(name), tuple(grants), Limits(**limits))


def line_of(key: str, rights: Rights) -> str:
    """As `parse_trusted` reads it."""
    return " ".join([key, rights.name, *grant_words(rights.grants), *limit_words(rights.limits)])


def grant_words(grants: tuple[Grant, ...]) -> list[str]:
    if grants == EVERYTHING.grants:
        return [ALL]
    globs: dict[Role, list[str]] = {}
    for role, names in grants:
        globs.setdefault(role, []).append(names)
    return [f"{role}:{','.join(names)}" for role, names in globs.items()]


def limit_words(limits: Limits) -> list[str]:
    return [f"{LIMIT}{name}:{limit:.0f}" for name, limit in limits._asdict().items() if limit != Limits._field_defaults[name]]


def user_name(name: str) -> str:
    """Raises ValueError for a word that looks like something else in a line: somebody forgot the name."""
    if not re.fullmatch(rf"[^\s:=]{{1,{NAME_MAX}}}", name) or not name.isprintable() or name == ALL:
        raise ValueError(f"a user's name is 1 to {NAME_MAX} characters without spaces, `:` and `=`, and not `{ALL}`")
    return name


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Those that say something. A key may begin with `#`, so that sign alone makes no comment."""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words and words[0] != "#":
            yield number, words


def _grants(word: str) -> list[Grant]:
    role, colon, globs = word.partition(":")
    names = globs.split(",")
    if role not in list(Role) or not colon or not all(names) or word.split() != [word]:
        raise ValueError(f"{word!r:.100} is none of `{ALL}`, `ROLE:NAMES` (roles: {', '.join(Role)}) and `{LIMIT}WHAT:NUMBER`")
    return [Grant(Role(role), glob) for glob in names]


def _add_limits(limits: dict[str, float], word: str) -> None:
    for pair in word.split(","):
        what, _, number = pair.partition(":")
        if what not in Limits._fields or what in limits or not re.fullmatch("[0-9]{1,15}", number):
            raise ValueError(f"{pair!r:.100} is no limit, or one too many: write WHAT:NUMBER (what: {', '.join(Limits._fields)})")
        limits[what] = float(number)
