"""Titanic client: requests that are kept on disk while nobody serves them, by three services of an ordinary Majordomo broker."""

from __future__ import annotations

import re

from textbook.mdclient import MajordomoClient

UUID = re.compile(rb"[0-9a-fA-F]{32}")


class TitanicClient:
    """Each status is three digits and perhaps some text: 200 done, 300 not yet, 400 never heard of, 500 try again later."""

    def __init__(self, endpoint: str, timeout_seconds: float = 2.5, tries: int = 3) -> None:
        self.client = MajordomoClient(endpoint, timeout_seconds, tries)

    def _call(self, service: bytes, *body: bytes) -> tuple[int, list[bytes]]:
        reply = self.client.send(service, *body)
        if reply is None:
            raise TimeoutError(f"no answer from {service!r}")
        return int(reply[0][:3]), reply[1:]

    def request(self, service: bytes, *body: bytes) -> bytes:
        """Hand it over; by that UUID the answer can be asked for."""
        status, rest = self._call(b"titanic.request", service, *body)
        assert status == 200, status
        assert UUID.fullmatch(rest[0]), rest
        return rest[0]

    def reply(self, uuid: bytes) -> tuple[int, list[bytes]]:
        """Status and answer; asking deletes nothing."""
        return self._call(b"titanic.reply", uuid)

    def finish(self, uuid: bytes) -> int:
        """The answer is not needed any more; may be said twice."""
        return self._call(b"titanic.close", uuid)[0]

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> TitanicClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
