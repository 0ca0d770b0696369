"""mDNS on the loopback interface, for tests: services of their own, a browser that is waited for, and packets that nobody checked."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from cli_world import environment
from handle_world import SOON
from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSRecord, DNSService, DNSText

from zmqkit.discovery.browser import Browser
from zmqkit.discovery.found import Found, Text, label

LOOPBACK = "127.0.0.1"
EVERYWHERE = "tcp://127.0.0.1:0"
A, PTR, TXT, SRV = 1, 12, 16, 33
IN, IN_FLUSH = 1, 0x8001
RESPONSE = 0x8400


def new_node() -> str:
    return os.urandom(16).hex()


def new_service() -> str:
    """So that tests beside this one hear nothing of it."""
    return f"_zk{os.urandom(4).hex()}._tcp.local."


class Watch:
    """A browser, and what it found when."""

    def __init__(self, **options: Any) -> None:
        self._changed = threading.Condition()
        self._found: tuple[Found, ...] = ()
        self._repeated = False
        self.browser = Browser(self._see, interface=LOOPBACK, **options)
        assert self.browser.tried.wait(SOON) and self.browser.failure is None

    def _see(self, found: tuple[Found, ...]) -> None:
        with self._changed:
            self._repeated |= found == self._found
            self._found = found
            self._changed.notify_all()

    def until(self, question: Callable[[dict[str, Found]], Any]) -> Any:
        """The first true answer about what is found, by node."""
        with self._changed:
            answer = self._changed.wait_for(lambda: question({one.node: one for one in self._found}), SOON)
        assert answer, f"it never happened; found are {self._found}, refused were {self.browser.dropped}"
        return answer

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.browser.close()
        assert not self._repeated, "it told of a change where there was none"


def text_of(fields: dict[str, str | bytes]) -> bytes:
    """A TXT record's data."""
    items = [key.encode() + b"=" + (value if isinstance(value, bytes) else value.encode()) for key, value in fields.items()]
    return b"".join(bytes([len(item)]) + item for item in items)


def honest_text(name: str = "n", node: str = "ab" * 16) -> dict[str, str | bytes]:
    return dict(Text(name, "", node).properties())


def records(service: str, instance: str, port: int, raw: bytes, seconds: int = 120, address: str = LOOPBACK) -> list[DNSRecord]:
    """All that there is to say of one instance; `seconds` 0: goodbye."""
    name, server = f"{instance}.{service}", f"{instance}.local."
    return [
        DNSPointer(service, PTR, IN, seconds, name),
        DNSService(name, SRV, IN_FLUSH, seconds, 0, 0, port, server),
        DNSText(name, TXT, IN_FLUSH, seconds, raw),
        DNSAddress(server, A, IN_FLUSH, seconds, socket.inet_aton(address)),
    ]


def stranger(service: str, number: int, seconds: int = 120) -> list[DNSRecord]:
    node = f"{number:032x}"
    return records(service, label(f"s{number}", node), 1 + number % 65535, text_of(honest_text(f"s{number}", node)), seconds)


class Voice:
    """Says what it likes, to all of mDNS on the loopback interface."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))

    def say(self, told: Iterable[DNSRecord]) -> None:
        out = DNSOutgoing(RESPONSE)
        for record in told:
            out.add_answer_at_time(record, 0)
        for packet in out.packets():
            self.raw(packet)

    def raw(self, packet: bytes) -> None:
        self._socket.sendto(packet, ("224.0.0.251", 5353))

    def __enter__(self) -> Voice:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@contextmanager
def process(journal: Path, name: str, life: int = 120) -> Iterator[tuple[Popen[str], str]]:
    """A node of its own that is killed at the end, and its endpoint."""
    script = str(Path(__file__).parent / "announced_node.py")
    environ = environment(ZMQKIT_MDNS_INTERFACE=LOOPBACK)
    node = Popen([sys.executable, script, EVERYWHERE, str(journal), name, str(life)], stdout=PIPE, text=True, env=environ)
    try:
        assert node.stdout is not None
        word, endpoint = node.stdout.readline().split()
        assert word == "ready"
        yield node, endpoint
    finally:
        node.kill()
        node.communicate()
