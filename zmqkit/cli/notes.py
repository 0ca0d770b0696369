"""What processes note that may be killed at any moment: lines in files, written whole, and read as far as they are."""

from __future__ import annotations

import os
from pathlib import Path


class Notes:
    """A file to which lines are appended. Each reaches the kernel in one write: a kill -9 takes none back, and others may write, too."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *words: object) -> None:
        os.write(self._file, f"{' '.join(map(str, words))}\n".encode())


def whole_lines(path: Path) -> list[str]:
    """What follows the last line end was cut off by a kill."""
    return path.read_text().split("\n")[:-1]
