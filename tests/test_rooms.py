"""Modules import what docs/architecture.md lets them import, and nothing else.

Both tables of that page are read here, so what it says is what is held. Sources are parsed and not
imported. A cell of the column "may import" is a list of modules and packages, of `pure rooms` and
the like (`_meant`); after a semicolon, of what some modules of the room may import also.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = "docs/architecture.md"
OURS: Final = ("adapters", "bench", "minbert")

OWN_PROCESS: Final = (
    "minbert.check",
    "bench.worker",
    "bench.predict.process",
    "bench.peers.process",
    "bench.gpu_check",
)
"""A command starts these: what they import within functions, its own process doesn't."""

TORCH_IN_FUNCTIONS: Final = ("bench.ensemble", "bench.updates")
"""Commands that compute something with torch themselves, once their input is checked."""

AT_TOP, IN_FUNCTION, FOR_TYPES = "at its top", "in a function", "for types"


class Import(NamedTuple):
    name: str
    """A module of ours (a package: its `__init__`), or the first name of a library."""
    line: int
    when: str


class Row(NamedTuple):
    where: str
    cells: list[str]


class Room(NamedTuple):
    row: Row
    modules: frozenset[str]
    may: dict[str, set[str]]
    """Modules that each of its modules may import."""


# What the sources import


@cache
def files() -> dict[str, Path]:
    """The source of each module, by its name."""
    paths = [path for top in OURS for path in sorted((ROOT / top).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


@cache
def imports() -> dict[str, list[Import]]:
    """What each module imports."""
    found = {}
    for module, path in files().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[module] = list(_imports(tree.body, module.rpartition(".")[0], AT_TOP))
    return found


def _imports(nodes: Iterable[ast.AST], package: str, when: str) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(_known(name.name), node.lineno, when) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names = dict.fromkeys(_known(f"{origin}.{name.name}") for name in node.names)
            yield from (Import(name, node.lineno, when) for name in names)
        inside = when
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = IN_FUNCTION
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name):
            inside = FOR_TYPES if node.test.id == "TYPE_CHECKING" else when
        for part in ("body", "handlers", "finalbody", "cases"):
            if nested := getattr(node, part, None):
                yield from _imports(nested, package, inside)
        if other := getattr(node, "orelse", None):
            yield from _imports(other, package, when)


def _known(name: str) -> str:
    """The module of ours that holds a name, or the first name of a library."""
    if name.partition(".")[0] not in OURS:
        return name.partition(".")[0]
    while name:
        for module in (name, f"{name}.__init__"):
            if module in files():
                return module
        name = name.rpartition(".")[0]
    raise AssertionError("a package of ours without an __init__")


def way(start: str, library: str, *, whole: bool) -> list[str]:
    """A chain of imports from a module to a library, or nothing where none is.

    Args:
        whole: follow what is imported in functions too, but for those of other processes.
    """
    came_from = {start: ""}
    waiting = [start]
    for module in waiting:
        later = whole and not _within(module, OWN_PROCESS)
        for name, _, when in imports()[module]:
            if when == FOR_TYPES or (when == IN_FUNCTION and not later):
                continue
            if name == library:
                chain = [library]
                while module:
                    chain.append(module)
                    module = came_from[module]
                return chain[::-1]
            for loaded in (name, *_packages(name)):
                if loaded in files() and loaded not in came_from:
                    came_from[loaded] = module
                    waiting.append(loaded)
    return []


def _packages(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join([*parts[:depth], "__init__"]) for depth in range(1, len(parts))]


def _within(module: str, names: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in names)


# What the page says


def table(heading: str) -> list[Row]:
    """The rows of the table under a heading of the page, without its head."""
    lines = (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
    begin = lines.index(f"## {heading}") + 1
    rows = []
    for number, line in enumerate(lines[begin:], begin + 1):
        if line.startswith("## "):
            break
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.append(Row(f"{PAGE}:{number}", cells))
    return rows[2:]


def names_in(text: str, where: str) -> list[str]:
    """Modules and packages that a text names: those of `bench` may stand without it."""
    found = []
    for quoted in re.findall(r"`([^`]+)`", text):
        name = quoted.strip("/").replace("/", ".")
        name = name if name.partition(".")[0] in OURS else f"bench.{name}"
        assert members(name), f"{where}: there is no module `{quoted}`"
        found.append(name)
    return found


@cache
def members(name: str) -> frozenset[str]:
    """The modules of a package, or the module itself."""
    return frozenset(module for module in files() if _within(module, [name]))


def nearest(module: str, names: Iterable[str]) -> str | None:
    """The name that says the most about a module: its own or that of its nearest package."""
    return max((name for name in names if _within(module, [name])), key=len, default=None)


@cache
def rooms() -> list[Room]:
    """The rooms of the page, with what it lets their modules import."""
    rows = table("Rooms")
    row_of: dict[str, Row] = {}
    for row in rows:
        for name in names_in(row.cells[0], row.where):
            assert name not in row_of, f"{row.where}: `{name}` has a row already"
            row_of[name] = row
    own: dict[str, set[str]] = {row.where: set() for row in rows}
    for module in files():
        name = nearest(module, row_of)
        assert name is not None, f"{module} has no room in {PAGE}"
        own[row_of[name].where].add(module)
    (pure,) = (own[row.where] for row in rows if row.cells[0].startswith("pure: "))
    return [
        Room(row, frozenset(own[row.where]), _may(row, own[row.where], frozenset(pure)))
        for row in rows
    ]


def _may(row: Row, own: set[str], pure: frozenset[str]) -> dict[str, set[str]]:
    may = {module: set(own) for module in own}
    for who, what in clauses(row, own):
        for module in who:
            may[module] |= {found for item in what for found in _meant(item, row.where, pure)}
    return may


def clauses(row: Row, own: Iterable[str]) -> Iterator[tuple[set[str], list[str]]]:
    """Modules of a row, and what the page lists for them."""
    for clause in row.cells[2].split("; "):
        some, _, what = clause.rpartition(" also ")
        who = set(own)
        if some:
            last = re.findall(r"`(\w+)`", some)
            who = {module for module in who if module.rpartition(".")[2] in last}
            assert len(who) == len(last) > 0, f"{row.where}: {some} are not modules of this room"
        yield who, what.split(", ")


def _meant(item: str, where: str, pure: frozenset[str]) -> Iterable[str]:
    """The modules that an item of the column "may import" stands for."""
    if item == "nothing else of the project":
        return ()
    if item == "pure rooms":
        return pure
    if item == "torch-free parts of `minbert`":
        return torch_free()
    if item.startswith("all rooms but "):
        return files().keys() - {m for name in names_in(item, where) for m in members(name)}
    assert re.fullmatch(r"`[\w.]+`", item), f"{where}: no test can read {item!r}"
    return members(*names_in(item, where))


@cache
def torch_free() -> frozenset[str]:
    """Modules of `minbert` that are imported without torch."""
    return frozenset(m for m in members("minbert") if not way(m, "torch", whole=False))


# What is held


def test_each_module_imports_only_what_its_room_may() -> None:
    faults = [
        f"{files()[module].relative_to(ROOT)}:{line} imports {name.removesuffix('.__init__')} "
        f"{when}, against {room.row.where}: {room.row.cells[0]} may import {room.row.cells[2]}"
        for room in rooms()
        for module in sorted(room.modules)
        for name, line, when in imports()[module]
        if name in files() and name not in room.may[module]
    ]
    assert not faults, "\n".join(faults)


def test_rooms_list_nothing_that_they_do_not_import() -> None:
    faults = []
    for room in rooms():
        for who, what in clauses(room.row, room.modules):
            used = {found.name for module in who for found in imports()[module]}
            faults += [
                f"{room.row.where}: nothing of {room.row.cells[0]} imports {item} (any more)"
                for item in what
                if item.startswith("`") and not used & members(*names_in(item, room.row.where))
            ]
    assert not faults, "\n".join(faults)


def test_each_library_of_the_page_is_imported_where_it_says_and_nowhere_else() -> None:
    faults = []
    for row in table("Libraries"):
        library = row.cells[0].strip("`")
        top, later = (names_in(cell, row.where) for cell in row.cells[1:])
        used = set()
        for module, found in imports().items():
            name = nearest(module, [*top, *later])
            for _, line, when in (one for one in found if one.name == library):
                used.add(name)
                if name is None or (when == AT_TOP and name not in top):
                    faults.append(
                        f"{files()[module].relative_to(ROOT)}:{line} imports {library} {when}, "
                        f"against {row.where}: at the top of {row.cells[1]}; "
                        f"within functions of {row.cells[2]}"
                    )
        faults += [
            f"{row.where}: nothing of {name} imports {library} (any more)"
            for name in (*top, *later)
            if name not in used
        ]
    assert not faults, "\n".join(faults)


def test_the_process_of_a_command_never_imports_torch_or_only_in_functions() -> None:
    (commands,) = (room for room in rooms() if "bench.grid" in room.modules)
    ways = (
        way(module, "torch", whole=not _within(module, TORCH_IN_FUNCTIONS))
        for module in sorted(commands.modules)
    )
    faults = [f"{' → '.join(chain)}, against {PAGE}, Libraries" for chain in ways if chain]
    assert not faults, "\n".join(faults)


def test_no_import_hides_in_a_string() -> None:
    hidden = re.compile(r"\b(import_module|__import__|runpy)\b")
    assert [m for m, path in files().items() if hidden.search(path.read_text("utf-8"))] == []
