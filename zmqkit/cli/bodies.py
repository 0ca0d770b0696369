"""What bodies look like in a shell: JSON, or with `-r` plain text, on their way in and out of programs."""

from __future__ import annotations

import json
import sys
from typing import Any

from zmqkit.cli.options import as_json

SHOWN = 40  # letters of what is no JSON, in the complaint


def parsed(data: bytes, raw: bool) -> Any:
    """What a program printed, as a body. JSON: nothing is None. Raw: text without its last line end, or bytes that are no UTF-8.

    Raises ValueError for what is no JSON.
    """
    if not raw:
        try:
            return json.loads(data) if data.strip() else None
        except ValueError as error:
            text = data.decode(errors="replace")
            raise ValueError(f"{text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'!r} ({error})") from None
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        return data


def printed(body: Any, raw: bool) -> bytes:
    """A body as a program reads it: a line of JSON, or raw as it is."""
    if raw and isinstance(body, bytes):
        return body
    if raw:
        return b"" if body is None else body.encode() if isinstance(body, str) else as_json(body).encode()
    return as_json(body).encode() + b"\n"


def write(body: Any, raw: bool) -> None:
    """One body on stdout, as a line; bytes as they are. It has left this process when this returns."""
    data = printed(body, raw)
    sys.stdout.buffer.write(data + b"\n" if raw and not isinstance(body, bytes) else data)
    sys.stdout.buffer.flush()
