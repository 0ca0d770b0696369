"""`python -m patterns`: play all of them and write docs/patterns.md with what came of it."""

from __future__ import annotations

import importlib
from pathlib import Path

from patterns.stage import Told, play

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "patterns.md"
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "__main__", "stage"))
HEAD = """# The catalogue

Each file in [patterns/](../patterns) puts one failure on stage twice, with the same workload and the same fault: `bare` is plain
pyzmq, as a reader of the ZeroMQ Guide writes it first, and `mended` is zmqkit. `python -m patterns.lazy_pirate` plays one;
`python -m patterns` plays all and writes this page. A test holds both halves to it: bare must lose, or wait, and mended must not.
[chaos.md](chaos.md) has faults like these on a live cluster.

| | | sent | lost | doubled | slowest |
|---|---|--:|--:|--:|--:|
"""


def title(name: str) -> str:
    return texts(name)[0].partition(":")[0]


def texts(name: str) -> tuple[str, str]:
    """The failure in a line, and what is behind it."""
    line, _, rest = (importlib.import_module(f"patterns.{name}").__doc__ or "").partition("\n\n")
    return line, rest


def rows(name: str, halves: list[Told]) -> str:
    counted, lines = importlib.import_module(f"patterns.{name}").COUNTED, []
    for half, told in zip(("bare", "mended"), halves, strict=True):
        what = f"[{title(name)}](#{title(name).lower().replace(' ', '-')})" if half == "bare" else ""
        lines.append(f"| {what} | {half} | {told.sent} {counted} | {told.lost} | {told.doubled} | {told.slowest_text} |\n")
    return "".join(lines)


def section(name: str) -> str:
    line, rest = texts(name)
    return f"\n## {title(name)}\n\n[patterns/{name}.py](../patterns/{name}.py): {line.partition(': ')[2]}\n\n{rest.strip()}\n"


def main() -> None:
    table = ""
    for name in NAMES:
        print(name)
        module = importlib.import_module(f"patterns.{name}")
        table += rows(name, play(module.COUNTED, module.bare, module.mended))
    PAGE.write_text(HEAD + table + "".join(section(name) for name in NAMES))


if __name__ == "__main__":
    main()
