"""A worker for asyncio: fetch pages, fifty at a time, until SIGTERM; what failed comes again, later and later.

zmqkit broker &
zmqkit put pages '"http://example.org/"'
python examples/asyncio_worker.py
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import zmqkit

FETCH_SECONDS = 10.0


async def fetch(url: str) -> bytes:
    """A page by plain HTTP/1.0, with nothing but the standard library."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise zmqkit.Reject(f"not an http address: {url}")  # to the dead letters at once: it would never get better
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        writer.write(f"GET {parts.path or '/'} HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


async def main() -> None:
    async with zmqkit.aio.connect() as mq:
        sizes = mq.queue("sizes")

        async def handle(d: zmqkit.aio.Delivery[str]) -> None:
            async with asyncio.timeout(FETCH_SECONDS):  # an exception here is a failed attempt
                page = await fetch(d.body)
            await sizes.put({"url": d.body, "bytes": len(page)})  # stored before the page's own message is acked

        await mq.queue("pages", type=str).work(handle, threads=50)


if __name__ == "__main__":
    asyncio.run(main())
