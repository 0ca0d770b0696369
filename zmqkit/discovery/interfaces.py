"""Where mDNS is spoken: the addresses of the interfaces chosen, and which of a node's endpoints can be announced there.

IPv4 only, as links are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

import ifaddr

from zmqkit.errors import Error


class Local(NamedTuple):
    """An address of this machine."""

    interface: str
    address: IPv4Address
    network: IPv4Network


class Place(NamedTuple):
    """What to announce, and by which interfaces."""

    port: int
    addresses: tuple[str, ...]
    interfaces: tuple[str, ...]  # by one address of each


def chosen(interface: str | None) -> list[Local]:
    """The addresses of that interface (a name such as eth0, or an address), else of $ZMQKIT_MDNS_INTERFACE, else all. Raises Error."""
    wanted = interface or os.environ.get("ZMQKIT_MDNS_INTERFACE") or ""
    every = [
        Local(adapter.nice_name, IPv4Address(ip.ip), IPv4Network((ip.ip, ip.network_prefix), strict=False))
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if isinstance(ip.ip, str)
    ]
    found = [local for local in every if wanted in ("", local.interface, str(local.address))]
    if not found:
        there = ", ".join(sorted({f"{local.interface} ({local.address})" for local in every})) or "none with an IPv4 address"
        raise Error(f"no interface {wanted!r} for mDNS here: there are {there}")
    return sorted(found)


def place(endpoints: Sequence[str], here: Sequence[Local]) -> Place:
    """One port, for a record has no more: the first that other machines can reach, else the first. Raises Error if there is none."""
    ports: dict[int, dict[str, str]] = {}  # port -> address -> the interface's
    for endpoint in endpoints:
        if not endpoint.startswith("tcp://"):
            continue
        host, _, digits = endpoint.removeprefix("tcp://").rpartition(":")
        for local in here:
            if host == "0.0.0.0":
                ports.setdefault(int(digits), {})[str(local.address)] = str(local.address)
            elif _is_at(host, local):
                ports.setdefault(int(digits), {})[host] = str(local.address)
    if not ports:
        where = ", ".join(str(local.address) for local in here)
        raise Error(f"{', '.join(endpoints)} cannot be announced by {where}: bind to an address there, or choose another interface")
    port = max(ports, key=lambda port: any(map(_beyond, ports[port])))
    addresses = list(ports[port])
    # 127.0.0.1 is another machine to each who reads it; who is on this one reaches the others as well.
    return Place(port, tuple(filter(_beyond, addresses)) or tuple(addresses), tuple(dict.fromkeys(ports[port].values())))


def distance(address: str, here: Sequence[Local]) -> int:
    """0: on a network of ours; 1: somewhere else; 2: on this machine, if it was said on this machine."""
    if not _beyond(address):
        return 2
    return int(not any(IPv4Address(address) in local.network for local in here))


def _is_at(host: str, local: Local) -> bool:
    try:
        address = IPv4Address(host)
    except ValueError:
        return False
    return address == local.address or (address.is_loopback and address in local.network)


def _beyond(address: str) -> bool:
    return not IPv4Address(address).is_loopback
