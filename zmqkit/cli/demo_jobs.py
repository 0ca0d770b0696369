"""The work of `zmqkit demo queue`: what a job is, how it is done, and how results add up. No queue in here.

The plain loop that the demo compares itself with calls the same functions.
"""

from __future__ import annotations

import io
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Job = dict[str, Any]  # {"file": path} or {"line": text}
Result = dict[str, Any]  # {"bytes": n, "lines": n, "tokens": {kind: n}} and "flaw", if it could not be read as Python
NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__"}


def stdlib_jobs() -> list[Job]:
    return directory_jobs(Path(sysconfig.get_path("stdlib")))


def directory_jobs(directory: Path) -> list[Job]:
    """A job for each `.py` file below `directory`, in an order that does not depend on the file system."""
    files = sorted(p for p in directory.rglob("*.py") if not NOT_STDLIB.intersection(p.parts) and p.is_file())
    return [{"file": str(path)} for path in files]


def line_jobs(text: Path) -> list[Job]:
    with text.open(encoding="utf-8", errors="replace") as file:
        return [{"line": line.rstrip("\n")} for line in file]


def do(job: Job) -> Result:
    """Tokenise and count. What cannot be read or is no Python is a result too, with its `flaw`."""
    try:
        data = Path(job["file"]).read_bytes() if "file" in job else job["line"].encode()
    except OSError:
        return {"bytes": 0, "lines": 0, "tokens": {}, "flaw": "unreadable"}
    result: Result = {"bytes": len(data), "lines": data.count(b"\n"), "tokens": {}}
    kinds: Counter[int] = Counter()
    try:
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            kinds[token.type] += 1
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError) as error:
        return {**result, "flaw": "undecodable" if undecodable(error) else "no Python"}
    result["tokens"] = {tokenize.tok_name[kind]: count for kind, count in kinds.items()}
    return result


def undecodable(error: Exception) -> bool:
    """`tokenize` reports an unknown or violated encoding as a SyntaxError that names it."""
    return isinstance(error, UnicodeDecodeError) or "encoding" in str(error) or "decode" in str(error)


def totals(results: Iterable[Result]) -> dict[str, int]:
    """The sum of all results, under flat names: what two runs over the same jobs must have in common."""
    total: Counter[str] = Counter()
    for result in results:
        total["jobs"] += 1
        total["bytes"] += result["bytes"]
        total["lines"] += result["lines"]
        if "flaw" in result:
            total[result["flaw"]] += 1
        for kind, count in result["tokens"].items():
            total[f"tokens {kind}"] += count
            total["tokens"] += count
    return dict(sorted(total.items()))
