"""From what is found to whom to connect: the follower, and what is announced where. No socket."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from zmqkit.discovery.found import Found
from zmqkit.discovery.interfaces import Local, distance, place
from zmqkit.errors import Error, Unreachable
from zmqkit.handles.finding import Follower, is_mdns, wanted_name


def one(node: str, name: str = "n", port: int = 1, fingerprint: str = "") -> Found:
    endpoint = f"tcp://10.0.0.1:{port}"
    return Found(name, endpoint, fingerprint, node, 1, (endpoint,))


class Told:
    """What a follower called."""

    def __init__(self, endpoint: str = "mdns:") -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.allowed = True
        self.follower = Follower(
            endpoint, lambda found: self.allowed and found.fingerprint != "bad",
            come=lambda found: self.calls.append(("come", found.node, found.endpoint)),
            moved=lambda found: self.calls.append(("moved", found.node, found.endpoint)),
            gone=lambda node: self.calls.append(("gone", node, "")),
        )  # fmt: skip

    def after(self, *found: Found) -> list[tuple[str, str, str]]:
        self.calls.clear()
        self.follower.see(found)
        return self.calls


def test_each_change_is_told_exactly_once() -> None:
    told = Told()
    assert told.after() == []
    assert told.after(one("a"), one("b")) == [("come", "a", "tcp://10.0.0.1:1"), ("come", "b", "tcp://10.0.0.1:1")]
    assert told.after(one("b"), one("a")) == []
    assert told.after(one("a", port=2), one("b")) == [("moved", "a", "tcp://10.0.0.1:2")]
    assert told.after(one("a", port=2), one("b")) == []
    assert told.after(one("a", port=2)) == [("gone", "b", "")]
    assert told.after(one("a", port=2)) == []
    assert told.after(one("a", port=2), one("b")) == [("come", "b", "tcp://10.0.0.1:1")]


def test_a_node_that_restarts_elsewhere_moves_and_neither_goes_nor_comes() -> None:
    told = Told()
    told.after(one("a", port=1))
    assert told.after(one("a", port=2)) == [("moved", "a", "tcp://10.0.0.1:2")]


def test_a_name_is_all_nodes_that_have_it_and_no_other() -> None:
    told = Told("mdns:ada")
    calls = told.after(one("a", "ada"), one("b", "ada"), one("c", "ADA"), one("d", "ada2"))
    assert [call[:2] for call in calls] == [("come", "a"), ("come", "b")]
    assert told.after(one("a", "other"), one("b", "ada")) == [("gone", "a", "")]


def test_who_is_not_allowed_never_comes_and_goes_when_it_is_allowed_no_more() -> None:
    told = Told()
    assert told.after(one("a", fingerprint="bad")) == []
    assert told.after(one("a", fingerprint="good")) == [("come", "a", "tcp://10.0.0.1:1")]
    assert told.after(one("a", fingerprint="bad")) == [("gone", "a", "")]
    told.after(one("a"))
    told.allowed = False  # its key was taken off the list
    assert told.after(one("a")) == [("gone", "a", "")]


def test_a_call_that_fails_is_not_made_again_and_forgets_nobody() -> None:
    def refuse(found: Found) -> None:
        raise RuntimeError

    told = Told()
    told.follower = Follower("mdns:", lambda found: True, refuse, refuse, lambda node: told.calls.append(("gone", node, "")))
    with pytest.raises(RuntimeError):
        told.follower.see([one("a")])
    assert told.after(one("a")) == [] and told.after() == [("gone", "a", "")]


def test_mdns_is_every_node_or_those_of_a_name() -> None:
    assert wanted_name("mdns:") is None and wanted_name("mdns:ada") == "ada"
    assert is_mdns("mdns:ada") and not is_mdns("tcp://127.0.0.1:1")
    for wrong in ("mdns://ada", "tcp://127.0.0.1:1", "ada"):
        with pytest.raises(Unreachable):
            wanted_name(wrong)


# -- what is announced where --------------------------------------------------------------------------------------------


def local(interface: str, address: str, bits: int) -> Local:
    return Local(interface, IPv4Address(address), IPv4Network((address, bits), strict=False))


LO, LAN = local("lo", "127.0.0.1", 8), local("eth0", "192.168.1.7", 24)


def test_a_wildcard_is_announced_by_all_interfaces_with_the_addresses_that_others_can_use() -> None:
    assert place(["tcp://0.0.0.0:5555"], [LO, LAN]) == (5555, ("192.168.1.7",), ("127.0.0.1", "192.168.1.7"))
    assert place(["tcp://0.0.0.0:5555"], [LO]) == (5555, ("127.0.0.1",), ("127.0.0.1",))


def test_what_only_this_machine_reaches_is_announced_only_to_this_machine() -> None:
    assert place(["tcp://127.0.0.1:5555"], [LO, LAN]) == (5555, ("127.0.0.1",), ("127.0.0.1",))
    assert place(["tcp://127.0.0.9:5555"], [LO, LAN]) == (5555, ("127.0.0.9",), ("127.0.0.1",))


def test_of_several_ports_that_is_announced_which_others_reach() -> None:
    assert place(["ipc:///run/x", "tcp://127.0.0.1:1", "tcp://192.168.1.7:2"], [LO, LAN]) == (2, ("192.168.1.7",), ("192.168.1.7",))
    assert place(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"], [LO, LAN]).port == 1


@pytest.mark.parametrize("endpoints", [["tcp://127.0.0.1:1"], ["tcp://[::1]:1"], ["ipc:///run/x"], []])
def test_what_is_not_on_the_interface_cannot_be_announced_there(endpoints: list[str]) -> None:
    with pytest.raises(Error, match=r"192\.168\.1\.7"):
        place(endpoints, [LAN])


def test_an_address_on_a_network_of_ours_is_nearer_and_one_that_is_everywhere_comes_last() -> None:
    addresses = ["127.0.0.1", "10.0.0.1", "192.168.1.9"]
    assert sorted(addresses, key=lambda address: distance(address, [LO, LAN])) == ["192.168.1.9", "10.0.0.1", "127.0.0.1"]
