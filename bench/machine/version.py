"""The version of the code that measures, which follows from what workers import."""

import ast
import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from bench.common.files import read_tables
from bench.plan.cell import digest

_ROOT: Final = Path(__file__).parents[2]
_PATHS: Final[Mapping[str, tuple[str, ...]]] = read_tables(__file__, "version.toml")
_WHOLE, _OF_PARENT = _PATHS["whole"], _PATHS["of_parent"]
_DIGITS: Final = 10


@cache  # parsing some hundred files takes most of a second
def measuring(root: Path = _ROOT) -> tuple[str, ...]:
    """The files and folders of a checkout that decide a row's figures: what workers import, within
    functions too, and what the parent does with it."""
    files = set[Path]()
    ahead = [file for name in _WHOLE for file in (root / name).rglob("*.py")]
    ahead += [root / name for name in _PATHS["by_name"]]
    while ahead:
        path = ahead.pop()
        if path in files or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        files.update((path, *(table for table in path.parent.glob("*.toml") if table.name in text)))
        for name in _imports(ast.parse(text)):
            if f"{name}.".startswith("bench."):
                module = root.joinpath(*name.split("."))
                ahead += [module.with_suffix(".py"), module / "__init__.py"]
    names = {path.relative_to(root).as_posix() for path in files}
    others = {name for name in names if not name.startswith(tuple(f"{n}/" for n in _WHOLE))}
    return (*_WHOLE, *sorted(others), *_OF_PARENT)


def _imports(node: ast.AST) -> Iterator[str]:
    """The modules that code imports as it runs, their packages, and names in them."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        parts = node.module.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def code_version(root: Path = _ROOT) -> str:
    """This project's release; in a checkout, with the last commit that changed what measures, so
    that commits to reports, tests and docs don't change it. Uncommitted changes to what measures
    add `-dirty` and their digest."""
    # without the number of commits since the release, which other commits change
    version = re.split(r"\.post|\.dev", metadata.version("minbert-bench"))[0]
    if not (root / ".git").exists():
        return version
    try:
        paths = measuring(root)
        commit = _git(root, "log", "-1", "--format=%H", "--", *paths)
        changes = _git(root, "diff", "--no-ext-diff", "--binary", "HEAD", "--", *paths)
        new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *paths)
        texts = [(root / name).read_text("utf-8", "replace") for name in new.split("\0") if name]
    except (OSError, SyntaxError, UnicodeError, subprocess.SubprocessError):
        return version
    changed = f"-dirty.{digest([changes, new, texts], 8)}" if changes or new else ""
    return f"{version}+g{commit[:_DIGITS]}{changed}"


@cache
def digest_of_code(*names: str) -> str:
    """Digest of the code and the tables of this project in some files and folders."""
    code = hashlib.sha256()
    for path in map(_ROOT.joinpath, names):
        for file in sorted(path.rglob("*.*")) if path.is_dir() else [path]:
            if file.suffix in (".py", ".toml"):
                code.update(file.read_bytes())
    return code.hexdigest()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607
        cwd=root, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True,
    )  # fmt: skip
    return done.stdout.strip()
