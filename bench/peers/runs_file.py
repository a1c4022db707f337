"""Results of a comparison's processes in a file of JSON lines, so that a comparison can be resumed
after a stop, and run in pieces."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.common.errors import DiskFullError, InputError
from bench.common.files import try_to_write, write_atomically
from bench.peers.request import COMPILE_TIMEOUT
from bench.peers.rows import NOT_COMPILED, Attempt
from bench.peers.session import Comparison
from bench.plan.cell import digest

_FIELDS: Final = ("side", "round", "status", "message", "answer", "scored_s", "peak_rss_mib")
_KNOWN: Final = frozenset(("key", "cell_id", "code_version", *_FIELDS))


class RunsFile:
    """A file of attempts. Attempts of other machines, libraries or settings are ignored.

    Args:
        path: the file, created if missing; None: nothing is kept.
        comparison: the comparison that the attempts belong to.
        versions: versions of the baselines' libraries.

    Raises:
        InputError: if the file can't be used.
    """

    def __init__(
        self, path: Path | None, comparison: Comparison, versions: Mapping[str, str]
    ) -> None:
        self._path = path
        self._limit = comparison.compile_timeout_s
        self._cells = {cell.cell_id: cell for cell in comparison.cells}
        self._code = comparison.conditions.code_version
        self._key = digest(
            [
                comparison.conditions.conditions_id,
                dict(versions),
                comparison.whole,
                comparison.loss_steps,
                comparison.budget_s,
            ]
        )
        self._lines = [] if path is None else _read(path)

    def attempts(self, sides: Sequence[str]) -> list[Attempt]:
        """Attempts of some sides that succeeded, or would again not compile in time."""
        return [
            Attempt(cell=self._cells[line["cell_id"]], **{name: line[name] for name in _FIELDS})
            for line in self._matching()
            if line["side"] in sides and not self._has_more_time(line)
        ]

    def code_versions(self) -> list[str]:
        """The versions of this project that produced the attempts."""
        return sorted({line["code_version"] for line in self._matching()})

    def add(self, attempt: Attempt) -> None:
        """Keep an attempt that succeeded or did not compile; others are retried later.

        Raises:
            DiskFullError: if it can't be written.
        """
        if attempt.status not in ("ok", NOT_COMPILED):
            return
        line = {
            "key": self._key,
            "cell_id": attempt.cell.cell_id,
            "code_version": self._code,
            **{name: getattr(attempt, name) for name in _FIELDS},
        }
        self._lines.append(line)
        if self._path is None:
            return
        try:
            before = self._path.read_bytes() if self._path.exists() else b""
            write_atomically(self._path, before + json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise DiskFullError(f"{self._path}: can't be written ({error.strerror})") from error

    def _matching(self) -> list[dict[str, Any]]:
        return [
            line
            for line in self._lines
            if line["key"] == self._key and line["cell_id"] in self._cells
        ]

    def _has_more_time(self, line: Mapping[str, Any]) -> bool:
        """Whether an attempt that was not compiled in time would now get more time."""
        if line["status"] != NOT_COMPILED:
            return False
        return self._limit is None or self._limit > line["answer"][COMPILE_TIMEOUT]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        try_to_write(path.parent)
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise InputError(
            f"--runs: {path} can't be used ({error.strerror}); name a file in an existing folder"
        ) from error
    try:
        parsed = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        parsed = [None]
    if not all(isinstance(line, dict) and line.keys() == _KNOWN for line in parsed):
        raise InputError(f"--runs: {path} was not written by bench.peers; name another file")
    return parsed
