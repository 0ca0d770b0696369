"""Durable storage for a node: `Journal` is a log in files, `MemoryLog` keeps nothing, `Log` is what both are to the rest."""

from .journal import Journal
from .log import Entry, Item, Log
from .memory import MemoryLog

__all__ = ["Entry", "Item", "Journal", "Log", "MemoryLog"]
