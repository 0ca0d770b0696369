"""What queues, topics, services and keys may be called: said before anything is sent, for the node would refuse it on every link."""

from __future__ import annotations

from typing import Any

from zmqkit.wire import NAME_BYTES_MAX, SERVICE_MARK, TOPIC_MARK


def queue_name(name: Any) -> str:
    """Raises ValueError for what is none."""
    return _unmarked(_text(name, "a queue's name", NAME_BYTES_MAX), "a queue's name")


def service_name(name: Any) -> str:
    """Raises ValueError for what is none."""
    return _unmarked(_text(name, "a service's name", NAME_BYTES_MAX - len(SERVICE_MARK)), "a service's name")


def topic_name(name: Any) -> str:
    """Raises ValueError for what is none."""
    return _unmarked(_text(name, "a topic's name", NAME_BYTES_MAX - len(TOPIC_MARK)), "a topic's name")


def topic_key(key: Any) -> str:
    """Raises ValueError for what is none."""
    return _text(key, "a key", NAME_BYTES_MAX)


def idempotency_key(key: Any) -> str:
    """Raises ValueError for what is none."""
    return _text(key, "an idempotency_key", NAME_BYTES_MAX)


def _text(value: Any, what: str, bytes_max: int) -> str:
    encoded = value.encode(errors="replace") if isinstance(value, str) else b""  # half a letter is no text
    if not 1 <= len(encoded) <= bytes_max or encoded.decode() != value:
        raise ValueError(f"{what} is a text of 1 to {bytes_max} bytes, not {value!r}")
    return encoded.decode()


def _unmarked(name: str, what: str) -> str:
    if name.startswith((SERVICE_MARK, TOPIC_MARK)):
        raise ValueError(f"{what} does not begin with U+0000 or U+0001, not even {name!r}")
    return name
