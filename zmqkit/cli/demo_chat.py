"""`zmqkit demo chat`: a room without a server. Each person's node keeps what that person said, and everybody follows all nodes of the room.

`--name` takes part; without it some people are played, one of whom comes late and one of whom is killed, and each one's
transcript is compared with what was said.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click

import zmqkit
from zmqkit.cli.options import keys_option
from zmqkit.cli.processes import kill, sigterm_as_interrupt, stop

TOPIC = "chat"
WAIT_SECONDS_MAX = 30.0
@click.command("chat")
@click.option("--name", help="Take part under this name: your lines from stdin, everybody's on stdout.")
@click.option("--room", default="lobby", show_default=True, help="Who says the same room meets.")
@click.option("--bind", default="tcp://127.0.0.1:0", show_default=True, metavar="ENDPOINT", help="Where your node listens.")
@keys_option("A key directory that all in the room have: needed beyond this machine.")
@click.option("--journal", metavar="DIR", help="Keep what you say there; without it, it goes when you leave.")
def demo_chat(name: str | None, room: str, bind: str, keys: str | None, journal: str | None) -> None:
    """Chat with no server: nodes find each other by mDNS, and who comes late reads what was said before.

    Without --name three people are played by processes: they talk, one joins late, one is killed with kill -9 and comes back. Fails
    unless each of them has read every line.
    """
    if bind.startswith("tcp://127.0.0.1:"):
        os.environ.setdefault("ZMQKIT_MDNS_INTERFACE", "127.0.0.1")
    if name:
        return chat(name, room, bind, keys, journal)
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix="zmqkit-demo-") as place:
        with Play(f"demo-chat-{os.getpid()}", Path(place)) as play:
            play.run()
        sys.exit(play.report())


# -- one person -------------------------------------------------------------------------------------------------------------


def chat(name: str, room: str, bind: str, keys: str | None, journal: str | None) -> None:
    """Until stdin ends, or Ctrl-C."""
    with (
        sigterm_as_interrupt(),
        zmqkit.Node(bind, journal=journal, name=f"chat-{room}", announce=True, keys=keys) as node,
        zmqkit.connect(f"mdns:chat-{room}", keys=keys) as mq,
        mq.topic(TOPIC).subscribe() as sub,
    ):
        mine = node.topic(TOPIC)
        reader = threading.Thread(target=show, args=(sub,), daemon=True)
        reader.start()
        click.echo(f"you are {name}, in the room {room!r}; end with Ctrl-D", err=True)
        try:
            for line in sys.stdin:
                if line.strip():
                    mine.publish(f"{time.time_ns()} {name}", line.strip())
        except KeyboardInterrupt:
            pass


def show(sub: zmqkit.Subscription[Any]) -> None:
    """Each line once, whichever node tells it, in the order in which it comes."""
    for event in sub:
        if not event.deleted:
            when, _, who = event.key.partition(" ")
            clock = time.strftime("%H:%M:%S", time.localtime(int(when) / 1e9))
            click.echo(f"{clock} {'(earlier) ' if event.from_snapshot else ''}{who}: {event.value}")


# -- a play -----------------------------------------------------------------------------------------------------------------


class Person:
    """A process that takes part; what it is told to say goes into its stdin, what it reads is on its stdout."""

    def __init__(self, name: str, room: str, place: Path) -> None:
        self.name, self.heard = name, list[str]()  # "who: text"
        command = [sys.executable, "-m", "zmqkit.cli", "demo", "chat", "--name", name, "--room", room, "--journal", str(place / name)]
        with (place / f"{name}.log").open("a") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._changed:
                self.heard.append(line.rstrip("\n").partition(" ")[2].removeprefix("(earlier) "))
                self._changed.notify_all()

    def say(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def has(self, said: list[str]) -> bool:
        """Waits for it."""
        with self._changed:
            return self._changed.wait_for(lambda: set(said) <= set(self.heard), WAIT_SECONDS_MAX)


class Play:
    """Everybody waits until the others have read what was said before; so a line that one of them misses ends the play."""

    def __init__(self, room: str, place: Path) -> None:
        self._room, self._place = room, place
        self._here: dict[str, Person] = {}
        self._said: list[str] = []
        self._missed: list[str] = []

    def run(self) -> None:
        self._come("ada")
        self._say("ada", "hello? is anybody there?")
        self._come("bob")
        self._say("bob", "I am, ada. No server anywhere, by the way")
        click.echo("  (kill -9 bob)", err=True)
        kill(self._here.pop("bob").process)
        self._say("ada", "bob? are you still there?")
        self._come("bob")
        self._say("bob", "back again; my journal remembers what I said, and you told me the rest")
        self._come("cy")
        self._say("cy", "late as ever, but I have read all of it")

    def _come(self, name: str) -> None:
        """What was said before must reach who comes now."""
        self._here[name] = person = Person(name, self._room, self._place)
        if not person.has(self._said):
            self._missed += [f"{name} has not read {line!r}" for line in self._said if line not in person.heard]
        click.echo(f"  ({name} comes, and has read {len(person.heard)} earlier lines)", err=True)

    def _say(self, name: str, text: str) -> None:
        self._said.append(f"{name}: {text}")
        self._here[name].say(text)
        self._missed += [f"{person.name} has not heard {name}: {text!r}" for person in self._here.values() if not person.has(self._said)]
        click.echo(self._said[-1])

    def report(self) -> int:
        """The exit code."""
        doubled = [f"{p.name} has read {line!r} twice" for p in self._here.values() for line in self._said if p.heard.count(line) > 1]
        for flaw in self._missed + doubled:
            click.echo(f"BROKEN: {flaw}", err=True)
        if not self._missed + doubled:
            click.echo(f"{len(self._said)} lines, and each of {len(self._here)} people has read every one of them, once")
        return 1 if self._missed + doubled else 0

    def __enter__(self) -> Play:
        return self

    def __exit__(self, *_: object) -> None:
        for person in self._here.values():
            stop(person.process)
