"""A node's record in mDNS: said, said again when the machine's addresses change, withdrawn at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from zeroconf import ServiceInfo

from zmqkit.discovery.found import SERVICE, Text, label, short
from zmqkit.discovery.interfaces import Place, chosen, place
from zmqkit.discovery.mdns import WATCH_SECONDS, Mdns, log, opened
from zmqkit.errors import Error

HOST_SECONDS = 120  # how long after a node vanished without a word its record is believed (RFC 6762, 10)
OTHER_SECONDS = 4500


class Announcement(Mdns):
    """Announces a node from now on, until `close`. It disturbs nobody: where mDNS is not possible, that is in the log and in `failure`.

    endpoints  the node's real ones
    interface  by which it is announced; see `interfaces.chosen`
    """

    def __init__(self, text: Text, endpoints: Sequence[str], interface: str | None = None, service: str = SERVICE) -> None:
        self._text, self._endpoints, self._interface, self._service = text, list(endpoints), interface, service
        super().__init__("zmqkit-announce")

    def _place(self) -> Place:
        return place(self._endpoints, chosen(self._interface))

    async def _work(self) -> None:
        here = self._place()
        async with opened(here.interfaces) as zeroconf:
            info = self._info(here)
            await (await zeroconf.async_register_service(info, allow_name_change=True))
            self._well()
            log.info("announced %s at port %d by %s", info.get_name(), here.port, ", ".join(here.interfaces))
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                try:
                    now = self._place()
                except Error:
                    continue  # no address is left: they come back, or others
                if now != here:
                    here = now
                    info.addresses = list(here.addresses)  # first: what is said by a new interface is to be true there
                    await zeroconf.async_update_interfaces(list(here.interfaces))
                    await (await zeroconf.async_update_service(info))

    def _info(self, here: Place) -> ServiceInfo:
        return ServiceInfo(
            self._service,
            f"{label(self._text.name, self._text.node)}.{self._service}",
            port=here.port,
            properties=self._text.properties(),
            server=f"zmqkit-{short(self._text.node)}.local.",
            host_ttl=HOST_SECONDS,
            other_ttl=OTHER_SECONDS,
            parsed_addresses=list(here.addresses),
        )
