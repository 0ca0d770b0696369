"""A TCP proxy that can cut its connections, for as long as a test has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zmqkit.cli.demo_proxy import Proxy as Proxy


@contextmanager
def proxy_to(endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


class MutableProxy(Proxy):
    """One that can also swallow what the node says, while what is said to it goes on."""

    muted = False

    def _loses(self, from_far: bool) -> bool:
        return from_far and self.muted
