"""`zmqkit probe`: what stands at an endpoint and which protocol it speaks, without taking part in it.

Order matters, because textbook peers end themselves over a message they do not expect: a Majordomo broker over a first frame that is not
empty, a clone server over any request but its own. So the handshake is looked at first, also that of the next two ports, and then one
question is asked that fits what was seen; a second one only of a peer that has said what it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

import zmqkit
from zmqkit import framing, wire
from zmqkit.cli.options import DURATION, keys_option, output_option, print_rows
from zmqkit.cli.zmtp import Link, Stranger
from zmqkit.sockets import check_address

COLUMNS = ["protocol", "socket", "mechanism", "said"]
NOBODY = b"zmqkit.probe"  # a service that nobody offers
PIRATE_HEARTBEAT = b"\x02"


class Found(NamedTuple):
    protocol: str  # "" if it did not answer
    said: str


def ask_mdp(link: Link) -> Found:
    """MDP 0.1, mmi.service. A node of zmqkit answers it too: that it knows no such client."""
    link.send(b"", b"MDPC01", b"mmi.service", NOBODY)
    for frames in link.messages():
        if frames[:3] == [b"", b"MDPC01", b"mmi.service"] and len(frames) == 4 and frames[3] in (b"200", b"404", b"501"):
            return Found("MDP 0.1", f"a Majordomo broker: mmi.service answers {frames[3].decode()}")
        if frames == [PIRATE_HEARTBEAT]:
            said = "the backend of a Paranoid Pirate queue: it beats for its workers, and has taken this probe for one for a few seconds"
            return Found("PPP", said)
        return _else(frames)
    return Found("", "")


def ask_mdp2(link: Link) -> Found:
    link.send(b"MDPC02", b"\x01", b"mmi.service", NOBODY)
    for frames in link.messages():
        if frames[:1] == [b"MDPC02"]:
            return Found("MDP 0.2", f"a Majordomo broker: mmi.service answers {frames[-1].decode('ascii', 'replace')}")
        return _else(frames)
    return Found("", "")


def ask_chp(link: Link) -> Found:
    """The snapshot of a subtree in which nothing is."""
    subtree = f"/zmqkit.probe/{os.urandom(8).hex()}/".encode()
    link.send(b"ICANHAZ?", subtree)
    for frames in link.messages():
        if frames[:1] == [b"KTHXBAI"] and len(frames) in (3, 5):
            return Found("CHP", f"the snapshots of a clone server, which is at update {int.from_bytes(frames[1], 'big')}")
        if len(frames) in (3, 5):
            return Found("CHP", "the snapshots of a clone server")
        return _else(frames)
    return Found("", "")


def ask_hugz(link: Link) -> Found:
    """A subscription to heartbeats: publishers filter, so nothing else comes."""
    link.send(b"\x01HUGZ")
    for frames in link.messages():
        if frames[:1] == [b"HUGZ"] and len(frames) in (3, 5):
            return Found("CHP", "the updates of a clone server: its snapshots are one port below")
    return Found("", "")


def ask_zmk1(link: Link) -> Found:
    """HELLO, and then BYE, so that nothing is left of us."""
    link.send(*map(bytes, framing.encode(wire.Hello([wire.VERSION], os.urandom(16), 1, b"", 0))))
    found = Found("", "")
    for frames in link.messages():
        command = _command(frames)
        if found.protocol:  # only its goodbye is of interest now
            if isinstance(command, wire.Bye):
                break
            continue
        if isinstance(command, wire.Welcome):
            name, durability = (str(command.limits.get(key, "?")) for key in ("name", "durability"))
            found = Found("ZMK1", f"a zmqkit node, version {command.version}, name {name}, durability {durability}")
            link.send(*map(bytes, framing.encode(wire.Bye())))
            continue
        if isinstance(command, wire.Refused):
            return Found("ZMK1", f"a zmqkit node that refuses this client: {command.text}")
        return _else(frames)
    return found


def _else(frames: Sequence[bytes]) -> Found:
    """An answer that is none to the question. A node says so to whatever it does not know."""
    return Found("ZMK1", "a zmqkit node") if _command(frames) == wire.NoSession() else Found("", f"it answers {list(frames)!r:.80}")


def _command(frames: Sequence[bytes]) -> wire.Command | None:
    try:
        return framing.decode(frames)
    except framing.Malformed:
        return None


QUESTIONS: dict[str, Callable[[Link], Found]] = {"mdp": ask_mdp, "mdp2": ask_mdp2, "chp": ask_chp, "zmk1": ask_zmk1}


class Probe:
    def __init__(self, endpoint: str, seconds: float, keys: str | None = None) -> None:
        self._endpoint, self._seconds, self._keys = endpoint, seconds, keys
        self.version = self.mechanism = self.kind = ""

    def run(self, question: str) -> Found:
        """Look, and ask. Raises Stranger if there is no ZeroMQ at all."""
        with Link(self._endpoint, self._seconds) as link:
            link.look()
            self.version, self.mechanism, self.kind = link.version, link.mechanism, link.kind
        found = Found("", "")
        if self.mechanism == "NULL" and question != "none":
            found = self._ask(question)
        elif self.mechanism == "CURVE" and question in ("auto", "zmk1") and self._keys is not None:
            found = self._connect(self._keys)
        return Found(found.protocol or f"ZMTP {self.version}", found.said or self._silence(question))

    def _ask(self, question: str) -> Found:
        if self.kind in ("PUB", "XPUB") and question in ("auto", "chp"):
            return self._put(ask_hugz, "SUB")
        if self.kind != "ROUTER":
            return Found("", "")
        if question != "auto":
            return self._put(QUESTIONS[question], "DEALER")
        if self._neighbour(1) in ("PUB", "XPUB") and self._neighbour(2) in ("SUB", "XSUB", "PULL"):
            return self._put(ask_chp, "DEALER")
        found = self._put(ask_mdp, "DEALER")
        return self._put(ask_zmk1, "DEALER") if found.protocol == "ZMK1" else found

    def _put(self, question: Callable[[Link], Found], kind: str) -> Found:
        try:
            with Link(self._endpoint, self._seconds) as link:
                link.look()
                link.meet(kind)
                link.wait(self._seconds)
                return question(link)
        except Stranger as error:
            return Found("", f"it shook hands, and then: {error}")

    def _connect(self, keys: str) -> Found:
        """By hand nothing is encrypted: as a client."""
        try:
            with zmqkit.connect(self._endpoint, timeout=self._seconds, keys=keys) as mq:
                return Found("ZMK1", f"a zmqkit node that trusts this key, with {len(mq.queues())} queues")
        except zmqkit.Unreachable as error:
            return Found("", f"it wants CURVE, and with these keys: {error.reason}")

    def _neighbour(self, distance: int) -> str:
        """The kind of socket so many ports further; "" for none."""
        head, _, port = self._endpoint.rpartition(":")
        if not self._endpoint.startswith("tcp://") or int(port) + distance > 65535:
            return ""
        try:
            with Link(f"{head}:{int(port) + distance}", self._seconds) as link:
                link.look()
                return link.kind
        except Stranger:
            return ""

    def _silence(self, question: str) -> str:
        if self.mechanism != "NULL":
            return (
                f"it wants {self.mechanism}, as a zmqkit node with keys does: only who has a key gets further (--keys)"
                if self.mechanism
                else "a ZeroMQ of long ago: nothing was asked"
            )
        if question == "none":
            return "nothing was asked"
        if self.kind != "ROUTER":
            return "ZeroMQ; what is said over it, this kind of socket does not tell"
        if question not in ("auto", "mdp"):
            return "it gives no answer to that question"
        if self._neighbour(1) == "ROUTER":
            return (
                "it gives no answer to a stranger: most likely the frontend of a Paranoid Pirate queue, for the next port has a ROUTER too"
            )
        return "it gives no answer to a stranger: a Paranoid Pirate queue, or an application's own protocol"


@click.command()
@click.argument("endpoint")
@click.option("--timeout", type=DURATION, default="2s", show_default=True, help="For the handshake, and again for each answer.")
@click.option("--ask", "question", type=click.Choice(["auto", "none", *QUESTIONS]), default="auto", show_default=True,
              help="What to ask; none: only shake hands.")  # fmt: skip
@output_option
@keys_option("Where a key is asked for, ask with that of this key directory.")
def probe(endpoint: str, timeout: float, question: str, output: str, keys: str | None) -> None:
    """Which protocol does ENDPOINT speak?

    ZMK1 (a zmqkit node), MDP 0.1 or 0.2 (Majordomo), PPP (Paranoid Pirate), CHP (clone), or plain ZMTP, with the kind of socket and the
    security mechanism. Exit code 0 if a ZeroMQ answered, 1 if none did.

    No READY is ever said, and `auto` asks what each of them can bear: a clone server, known by the sockets of its next two ports, for an
    empty snapshot, anything else for mmi.service. Two peers take what they hear for work all the same. A Paranoid Pirate frontend gives
    the question to a worker, as a request that makes no sense. A textbook Paranoid Pirate backend takes anything for a worker's READY, so
    that for three seconds a request may come here and be lost; `--ask none` is for those two. `--ask mdp2`, `chp` and `zmk1` end a textbook
    Majordomo broker.
    """
    check_address(endpoint)
    there = Probe(endpoint, timeout, keys)
    try:
        found = there.run(question)
    except Stranger as error:
        raise click.ClickException(f"no ZeroMQ at {endpoint}: {error}") from None
    row = {"endpoint": endpoint, "protocol": found.protocol, "zmtp": there.version, "socket": there.kind or None}
    print_rows([{**row, "mechanism": there.mechanism or None, "said": found.said}], output, COLUMNS)
