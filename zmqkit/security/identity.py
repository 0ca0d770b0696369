"""A key and what is made of it: how it is written (Z85, 40 characters), how people compare it, and a pair that hides its secret."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zmqkit.errors import Error

KEY_BYTES = 32
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


def check_key(text: str) -> str:
    """The same. Raises ValueError for what is no key; the text is not in it, for it may be a secret."""
    try:
        if _Z85.fullmatch(text) is not None and len(z85.decode(text.encode())) == KEY_BYTES:
            return text
    except Exception:  # struct.error: five characters that are beyond 32 bits
        pass
    raise ValueError(f"a key is 40 characters of Z85, these are {len(text)}")


def key_text(key: bytes) -> str:
    """How 32 bytes of a key are written."""
    return z85.encode(key).decode()


def fingerprint(public: str) -> str:
    """A public key for people to compare, and for announcements: 80 bits of its SHA-256, like `mfqx-2ztk-ab7c-q3pd`."""
    digest = base64.b32encode(hashlib.sha256(z85.decode(public.encode())).digest()).decode().lower()
    return "-".join(digest[at : at + 4] for at in range(0, 16, 4))


def _need_curve() -> None:
    if not zmq.has("curve"):
        raise Error("this libzmq was built without CURVE, so nothing can be encrypted: install pyzmq from a wheel of PyPI")


class Pair:
    """A public key and its secret one, in Z85. Printed, it is its fingerprint."""

    __slots__ = ("public", "secret")

    def __init__(self, secret: str) -> None:
        """Raises ValueError for what is no key."""
        _need_curve()
        self.secret = check_key(secret)
        self.public = zmq.curve_public(secret.encode()).decode()

    @classmethod
    def new(cls) -> Pair:
        """One whose public key a shell and a list of options take as it is, between two quotes."""
        _need_curve()
        while True:
            public, secret = zmq.curve_keypair()
            if public[:1].isalnum():
                return cls(secret.decode())

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public)

    def __repr__(self) -> str:
        return f"<Pair {self.fingerprint}>"


class LinkKeys(NamedTuple):
    """What a client needs for one link: who it is, and whom it expects there."""

    pair: Pair
    server: str
