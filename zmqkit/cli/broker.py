"""`zmqkit broker`: a bare node in a shell."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

import click

import zmqkit
from zmqkit.cli.options import DEFAULT_ENDPOINT, interface_option, keys_option

LOOK_SECONDS = 0.25  # how soon a node whose journal failed ends its process
LEVELS = ["debug", "info", "warning", "error"]


@click.command()
@click.option("--bind", "endpoints", multiple=True, default=[DEFAULT_ENDPOINT], show_default=True, metavar="ENDPOINT",
              help="Where to listen; may be given several times. Port 0 takes a free one.")  # fmt: skip
@click.option("--journal", default="./zmqkit-journal", show_default=True, metavar="DIR",
              help="Where messages are kept; `none` keeps nothing on disk.")  # fmt: skip
@click.option("--durability", type=click.Choice(["disk", "os", "memory"]),
              help="What a confirm waits for.  [default: disk; memory without a journal]")  # fmt: skip
@click.option("--name", help="The node's name, in logs and listings.  [default: the host's]")
@click.option("--mdp", metavar="ENDPOINT", help="Where clients and workers of the Majordomo protocol find a broker (7/MDP, 18/MDP).")
@click.option("--ppp", nargs=2, metavar="FRONTEND BACKEND",
              help="Where clients and workers of the Paranoid Pirate protocol find a queue (6/PPP).")  # fmt: skip
@click.option("--titanic", is_flag=True,
              help="Keep requests on disk until they are answered: three services for clients of 9/TSP and ours.")  # fmt: skip
@click.option("--clone", metavar="ENDPOINT",
              help="Where Clone clients ask for snapshots (12/CHP); updates leave and come at the next two ports.")  # fmt: skip
@click.option("--clone-topic", default="clone", show_default=True, metavar="NAME", help="The topic that clients of --clone share.")
@click.option("--announce", is_flag=True, help="Let others find this node by mDNS: its name, where it is, and its key's fingerprint.")
@interface_option
@keys_option("Encrypt all links, and let in only this key directory's own key and those it trusts.")
@click.option("--insecure", is_flag=True,
              help="Listen beyond this machine where nobody shows a key: without --keys, or with --mdp, --ppp, --clone.")  # fmt: skip
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What to log on stderr.")
def broker(endpoints: tuple[str, ...], journal: str, durability: str | None, name: str | None, mdp: str | None,
           ppp: tuple[str, str] | None, titanic: bool, clone: str | None, clone_topic: str, announce: bool,
           interface: str | None, keys: str | None, insecure: bool, log_level: str) -> None:  # fmt: skip
    """Host queues until SIGTERM.

    Prints one line `ready ENDPOINT …` once it serves, followed by `mdp ENDPOINT`, `ppp FRONTEND BACKEND`, `clone ENDPOINT` and `titanic`
    if these were asked for. SIGTERM or Ctrl-C ends it in order: what was confirmed is on disk, leases are
    kept for their holders, the journal is sealed. A second signal ends it at once, which loses nothing either.
    """
    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stopped = threading.Event()
    watch_signals(stopped)
    kept = None if journal == "none" else journal
    try:
        node = zmqkit.Node(*endpoints, journal=kept, durability=durability, name=name, mdp=mdp, ppp=ppp, titanic=titanic, clone=clone,
                           clone_topic=clone_topic, announce=announce, mdns_interface=interface, keys=keys, insecure=insecure)  # fmt: skip
    except ValueError as mistake:
        raise click.UsageError(str(mistake)) from None
    with node:
        foreign = [word for protocol, places in node.gateways.items() for word in (protocol, *places)]
        click.echo(" ".join(["ready", *node.endpoints, *foreign, *(["titanic"] if titanic else [])]))
        notify("READY=1")
        while not stopped.wait(LOOK_SECONDS):
            if node.failure:
                raise node.failure
        notify("STOPPING=1")


def watch_signals(stopped: threading.Event) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def notify(state: str) -> None:
    """Tell systemd (sd_notify), where the service is of Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())
