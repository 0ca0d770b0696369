"""Permits: the role that each command and each question asks for, and on which name. Nothing else says what a user may do.

Rule 1  What is not in these tables is refused.
Rule 2  What is said of things that were given (tokens, calls, subscriptions) asks for no role again. When rights change, what they
        cover no more is taken back before anything else is heard.
Rule 3  A refusal is definite: what is stored or under way already is answered as it was, whatever holds now.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from zmqkit import wire
from zmqkit.machines.account import Account
from zmqkit.rights import Role
from zmqkit.wire import SERVICE_MARK, TEXT_CHARS_MAX, TOPIC_MARK

NAME_CHARS = 300  # of a name in a refusal: it may be all escapes


class Need(NamedTuple):
    """One of these roles, on what `name` finds in the command."""

    roles: tuple[Role, ...]
    name: Callable[[Any], Any]


def _argument(name: str) -> Callable[[wire.Ask], Any]:
    return lambda command: command.arguments.get(name)


_QUEUE, _TOPIC = _argument("queue"), _argument("topic")
Needs = tuple[Need, ...]  # all of them
NOTHING: Needs = ()
CONSUME = (Need((Role.CONSUME,), _QUEUE),)
ADMIN = (Need((Role.ADMIN,), _QUEUE),)
ADMIN_TOPIC = (Need((Role.ADMIN,), _TOPIC),)
BIND = (*ADMIN_TOPIC, *ADMIN)  # from then on the node itself puts updates there

VERBS: dict[str, Needs] = {
    "list": NOTHING, "topic_list": NOTHING,  # of what it may see
    "info": (Need((Role.CONSUME, Role.ADMIN), _QUEUE),), "topic_info": (Need((Role.SUBSCRIBE, Role.ADMIN), _TOPIC),),
    "peek": CONSUME, "dead_list": CONSUME,
    "declare": ADMIN, "purge": ADMIN, "pause": ADMIN, "resume": ADMIN, "delete": ADMIN, "redrive": ADMIN, "drop": ADMIN,
    "topic_declare": ADMIN_TOPIC, "topic_delete": ADMIN_TOPIC, "topic_bind": BIND, "topic_unbind": BIND,
}  # fmt: skip
COMMANDS: dict[type, Needs] = {
    wire.Put: (Need((Role.PUBLISH,), attrgetter("queue")),),
    wire.Call: (Need((Role.CALL,), attrgetter("service")),),
    wire.Sub: (Need((Role.SUBSCRIBE,), attrgetter("topic")),),
    wire.Ready: NOTHING,  # each of its windows: `why_no_window`
    **dict.fromkeys((wire.Done, wire.Back, wire.Save, wire.Reply, wire.Part), NOTHING),  # of leases
    **dict.fromkeys((wire.Cancel, wire.More), NOTHING),  # of calls
    **dict.fromkeys((wire.Unsub, wire.Seen, wire.Pos), NOTHING),  # of subscriptions
    wire.Bye: NOTHING,
}


def why_not(account: Account, command: wire.Command) -> str:
    """Why this user may not say that; "": it may."""
    what = command.verb if isinstance(command, wire.Ask) else type(command).__name__.upper()
    needs = VERBS.get(what) if isinstance(command, wire.Ask) else COMMANDS.get(type(command))
    if needs is None:
        return f"{account.who} may not do that: this node has no role for {what!r}"
    return next((why for need in needs if (why := _lacks(account, need.roles, need.name(command)))), "")


def why_no_window(account: Account, name: str) -> str:
    """Why this user gets nothing out of that queue or (by its marked name) service; "": it may."""
    return _lacks(account, (Role.SERVE if name.startswith(SERVICE_MARK) else Role.CONSUME,), name)


def why_no_topic(account: Account, topic: str) -> str:
    return _lacks(account, (Role.SUBSCRIBE,), topic)


def sees(account: Account, name: str) -> bool:
    """May it know that there is such a queue or topic?"""
    return account.free or (account.rights is not None and account.rights.sees(unmarked(name)))


def unmarked(name: str) -> str:
    return name[1:] if name.startswith((SERVICE_MARK, TOPIC_MARK)) else name


def _lacks(account: Account, roles: tuple[Role, ...], name: Any) -> str:
    if account.free:
        return ""
    name = unmarked(name) if type(name) is str else None
    if account.rights is not None and name is not None and any(account.rights.may(role, name) for role in roles):
        return ""
    said = f"{name!r:.{NAME_CHARS}}"
    return f"{account.who} may not {VERB[roles[0]]} {said}: ask the node's admin for the role {roles[0].value!r} on it"[:TEXT_CHARS_MAX]


VERB = {
    Role.PUBLISH: "publish to", Role.CONSUME: "consume from", Role.CALL: "call", Role.SERVE: "serve",
    Role.SUBSCRIBE: "subscribe to", Role.ADMIN: "administer",
}  # fmt: skip
