"""The house rules as tests: who may import whom, who may touch the world, how long a file may get.

Each rule is read off the syntax tree of every file under zmqkit/, so nothing has to be run and nothing can be forgotten.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {
    "errors": 1,
    **dict.fromkeys(("wire", "framing", "fields", "parcel", "updates", "codec", "records", "rights"), 2),
    **dict.fromkeys(("sockets", "monitors", "security", "discovery", "journal"), 2),
    **dict.fromkeys(("machines", "gateways"), 3),
    **dict.fromkeys(("host", "gate", "reactor", "ports", "bridge", "clone_bridge", "clone_outward", "simulator"), 4),
    "handles": 5,
    **dict.fromkeys(("aio", "tasks"), 6),
    "cli": 7,
}
# Formats build on one another (wire on parcel), and both drivers on the host: sideways is allowed there, in circles nowhere.
SIDEWAYS_FLOORS = {2, 4}
PURE_ROOMS = {"machines", "gateways"}
PURE_MODULES = {
    *("__future__", "abc", "array", "bisect", "collections", "dataclasses", "enum"),
    *("fnmatch", "functools", "heapq", "itertools", "math", "operator", "struct", "typing"),
}
PURE_ROOMS_BELOW = {"errors", "fields", "wire", "framing", "parcel", "updates", "records", "rights", "machines"}
# An outside module -> the rooms that may import it. `cli.bench_raw…` and `cli.chaos_bare` are plain pyzmq beside zmqkit.
MAY_IMPORT = {
    "zmq": {
        *("sockets", "monitors", "security", "gate", "reactor"),
        *("cli.bench_raw", "cli.bench_raw_call", "cli.bench_raw_topic", "cli.chaos_bare"),
    },
    "zeroconf": {"discovery"},
    "ifaddr": {"discovery"},
    "click": {"cli"},
    "rich": {"cli"},
    "time": {"reactor", "journal", "cli"},
    "datetime": {"reactor", "journal", "cli", "handles"},  # handles take a timedelta as a duration
    "pathlib": {"journal", "security", "cli"},
}
TYPED_BY_THE_FLOOR_ABOVE = {"handles.client", "handles.node", "handles.queue", "handles.topic"}  # `.aio`, which zmqkit.aio sets
MAY_TOUCH_FILES = {"journal", "security", "cli"}
MAY_READ_A_CLOCK = {"reactor", "journal", "cli"}
UNSAFE = {"pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle", "jsonpickle"}  # reading what they wrote can run anything
UNSAFE_CALLS = {"eval", "exec", "recv_pyobj", "send_pyobj"}
LINES_MAX = 400
LONGER: dict[str, str] = {}  # path -> why it may have more than LINES_MAX lines


class Module:
    """One file: its dotted name below zmqkit, its tree, and every import in it (also those inside functions)."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree = path, ast.parse(path.read_text(), str(path))
        parts = path.relative_to(ROOT / "zmqkit").with_suffix("").parts
        self.is_package, self.name = parts[-1] == "__init__", ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.room = self.name.partition(".")[0]
        imports = [name for node in ast.walk(self.tree) for name in self._names(node)]
        guarded = [n for n in ast.walk(self.tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        self.outside = {name.partition(".")[0] for name in imports} - {"zmqkit"}
        self.inside = {name.removeprefix("zmqkit").removeprefix(".") for name in imports if name.partition(".")[0] == "zmqkit"}
        # Imported for types alone: that never runs, so it can make no circle; it must point downwards all the same.
        self.for_types = {name.removeprefix("zmqkit.") for node in guarded for line in node.body for name in self._names(line)}

    def _names(self, node: ast.AST) -> list[str]:
        """What an import statement names; within zmqkit down to the single thing, which may be a module."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if not isinstance(node, ast.ImportFrom):
            return []
        base = node.module or ""
        if node.level:
            here = ["zmqkit", *(self.name.split(".") if self.name else [])]
            base = ".".join(here[: len(here) - node.level + self.is_package] + ([base] if base else []))
        return [f"{base}.{alias.name}" for alias in node.names] if base.partition(".")[0] == "zmqkit" else [base]

    def calls(self) -> Iterator[str]:
        """`open`, `os.open`, `time.monotonic`: every call by the name it is written with."""
        return (ast.unparse(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call))


MODULES = {m.name: m for m in map(Module, sorted((ROOT / "zmqkit").rglob("*.py")))}


def allowed(module: Module, rooms: set[str]) -> bool:
    return module.room in rooms or module.name in rooms


def target(name: str) -> str:
    """The module that an import of `name` loads: the longest prefix that is a file."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def test_imports_go_downwards_only() -> None:
    for module in MODULES.values():
        if not module.name:
            continue  # zmqkit/__init__.py is the shop window: it shows all floors and nothing below may import it
        assert module.room in FLOOR, f"{module.path}: give the room {module.room!r} a floor"
        for name in module.inside - (module.for_types if module.name in TYPED_BY_THE_FLOOR_ABOVE else set()):
            room = target(name).partition(".")[0]
            if not room:  # the shop window shows all floors up to the handles: only what stands above them may look at it
                assert FLOOR[module.room] > FLOOR["handles"], f"{module.path} imports zmqkit itself, which imports it"
                continue
            ceiling = FLOOR[module.room] - (FLOOR[module.room] not in SIDEWAYS_FLOORS)
            assert room == module.room or FLOOR[room] <= ceiling, f"{module.path} imports upwards: zmqkit.{name}"


def test_no_circle_of_imports() -> None:
    graph = {m.name: {target(name) for name in m.inside - m.for_types} - {m.name} for m in MODULES.values()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' -> '.join(error.args[1])}")


def test_machines_import_only_what_cannot_touch_the_world() -> None:
    for module in MODULES.values():
        if module.room in PURE_ROOMS:
            assert module.outside <= PURE_MODULES, f"{module.path} imports {module.outside - PURE_MODULES}"
            rooms = {target(name).partition(".")[0] for name in module.inside} - {module.room}
            assert rooms <= PURE_ROOMS_BELOW, f"{module.path} imports {rooms - PURE_ROOMS_BELOW}"


def test_machines_are_the_same_in_every_run() -> None:
    for module in MODULES.values():
        if module.room not in PURE_ROOMS:
            continue
        impure = {"open", "id", "hash", "print", "input"} & set(module.calls())
        assert not impure, f"{module.path} calls {impure}"
        loops = [n.iter for n in ast.walk(module.tree) if isinstance(n, ast.For | ast.comprehension)]
        sets = [n for n in loops if isinstance(n, ast.Set | ast.SetComp) or ast.unparse(n).startswith(("set(", "frozenset("))]
        assert not sets, f"{module.path}:{sets[0].lineno} iterates over a set, whose order changes from run to run"


@pytest.mark.parametrize("outside", MAY_IMPORT)
def test_the_outside_world_has_one_door_each(outside: str) -> None:
    for module in MODULES.values():
        if outside in module.outside:
            assert allowed(module, MAY_IMPORT[outside]), f"{module.path} imports {outside}: only {MAY_IMPORT[outside]} may"


def test_only_the_journal_the_keys_and_the_command_line_touch_files() -> None:
    for module in MODULES.values():
        touches = {"open", "os.open", "io.open", "os.remove", "os.rename", "os.replace", "os.mkdir", "os.makedirs"} & set(module.calls())
        assert not touches or allowed(module, MAY_TOUCH_FILES), f"{module.path} calls {touches}"


def test_only_the_reactor_and_the_journal_read_a_clock() -> None:
    for module in MODULES.values():
        reads = {call for call in module.calls() if call.startswith("time.") or ("datetime" in call and call.endswith((".now", ".utcnow")))}
        assert not reads or allowed(module, MAY_READ_A_CLOCK), f"{module.path} calls {reads}"


def test_nothing_that_was_sent_is_ever_run() -> None:
    for module in MODULES.values():
        assert not module.outside & UNSAFE, f"{module.path} imports {module.outside & UNSAFE}"
        calls = {call.rpartition(".")[2] for call in module.calls()} & UNSAFE_CALLS
        assert not calls, f"{module.path} calls {calls}"


def test_no_file_swallows_everything() -> None:
    for path in [m.path for m in MODULES.values()]:
        lines, name = len(path.read_text().splitlines()), str(path.relative_to(ROOT))
        assert lines <= LINES_MAX or name in LONGER, f"{name} has {lines} lines: split it, or write the reason in LONGER"
    assert LONGER.keys() <= {str(m.path.relative_to(ROOT)) for m in MODULES.values()}


def test_every_file_opens_with_what_it_is_for() -> None:
    for module in MODULES.values():
        assert not module.tree.body or ast.get_docstring(module.tree), f"{module.path} has no opening docstring"


def tool(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "--quiet", ".")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_mypy_finds_nothing() -> None:
    tool("mypy", "--strict", "zmqkit")
