"""The two sides of a comparison: rows of two files, or of one file by two filters, or where each is
measured: a checkout, a virtual environment, or this checkout; and limits."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Final

from bench.analysis.comparison import Limits
from bench.analysis.matching import Side
from bench.common.errors import InputError, StoppedError
from bench.common.messages import last_error, some_of
from bench.launch.signals import Signals
from bench.machine.conditions import WORKERS
from bench.machine.version import measuring
from bench.plan.cell import Value, digest
from bench.plan.columns import BY_NAME, NAMES, format_value
from bench.plan.rows import Row
from bench.report.text import clean, shortened
from bench.results.outcomes import ValuesOf
from bench.results.rescoring import read_results
from minbert.files import is_file, is_folder

Terms = Mapping[str, tuple[str, ...]]
"""Texts by column, each a value or several with commas between them."""

_LISTED: Final = 8  # values that an error lists
_LONGEST: Final = 40  # characters of such a value
_ROOT: Final = Path(__file__).parents[2]
_TICK_S: Final = 0.1  # seconds after which a stop by the user is noticed
_FIND: Final = """
from importlib.metadata import distribution
from importlib.util import find_spec
distribution("minbert-bench")
origin = find_spec("bench").origin
print(origin) if origin else exit(1)
"""


@dataclass(frozen=True)
class SideRows:
    """A side's rows, the file that they are from, and the numbers of their dev examples."""

    source: Path
    terms: str
    rows: list[Row]
    values_of: ValuesOf

    @property
    def name(self) -> str:
        """The file, without folders that lead to it from outside, and the filter."""
        file = self.source.name if self.source.is_absolute() else str(self.source)
        return clean(f"{file} {self.terms}".rstrip())


def read_sides(
    files: Sequence[Path], base: str | None, new: str | None, metric: str | None
) -> tuple[SideRows, SideRows, frozenset[str]]:
    """Both sides, and the columns to which their filters give different values: of two files, or of
    one by both filters, such as `amp=off mode=lora,dora`; scores by a metric, or each row's own.
    InputError for other numbers of files or filters, a file that can't be read, a filter that names
    no column or matches no row, and filters that share rows."""
    filters = {"--base": base, "--new": new}
    if len(files) == 1 and None in filters.values():
        raise InputError(
            f"{files[0]}: one file is compared by two filters; give both --base and --new, or a "
            "second file"
        )
    if not 1 <= len(files) <= 2:
        raise InputError(
            "give two files of results, BASE.csv NEW.csv, or one with --base and --new; "
            f"not {len(files)}"
        )
    for path in files:
        if is_folder(path):
            raise InputError(f"{path}: is a folder; name its runs.csv, or add --run to measure it")
        if not is_file(path):
            raise InputError(f"{path}: no such file of results; name a runs.csv")
    terms = [parse_terms(text, option) for option, text in filters.items()]
    chosen = [{c: {*",".join(texts).split(",")} for c, texts in each.items()} for each in terms]
    named = frozenset(c for c in chosen[0] | chosen[1] if chosen[0].get(c) != chosen[1].get(c))
    results = {path: read_results([path], metric) for path in files}
    sides, both = [], (files[0], files[-1])
    for path, of_side, (option, text) in zip(both, terms, filters.items(), strict=True):
        if not results[path].rows:
            raise InputError(f"{path}: has no rows; name another file")
        rows = matching(results[path].rows, of_side, option, path)
        sides.append(SideRows(path, text or "", rows, results[path].values_of))
    if len(files) == 1:
        shared = len({id(row) for row in sides[0].rows} & {id(row) for row in sides[1].rows})
        if shared:
            rows_match = "1 row matches" if shared == 1 else f"{shared:,} rows match"
            raise InputError(f"{files[0]}: {rows_match} both --base and --new; narrow them")
    return sides[0], sides[1], named


def parse_terms(text: str | None, option: str) -> Terms:
    """The values of each column in a filter such as `amp=off layers=attn,all-lin`; InputError for
    anything else, with the nearest names of an unknown column. Values with spaces are quoted as in
    a shell. A value may be empty, as in `rank=`."""
    if text is None:
        return {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{option}: {text!r}: {error}; close the quote") from None
    terms: dict[str, tuple[str, ...]] = {}
    for word in words:
        column, equals, values = word.partition("=")
        if not equals:
            raise InputError(f"{option}: {word!r} is not COLUMN=VALUE[,VALUE]")
        if column not in BY_NAME:
            near = get_close_matches(column, NAMES, cutoff=0.4) or NAMES[-3:]
            raise InputError(
                f"{option}: {column[:_LONGEST]!r} is no column; near it are {', '.join(near)} "
                "(docs/runs-csv.md lists all)"
            )
        terms[column] = (*terms.get(column, ()), values)
    if not terms:
        raise InputError(f"{option}: is empty; give COLUMN=VALUE[,VALUE]")
    return terms


def matching(rows: Sequence[Row], terms: Terms, option: str, path: Path) -> list[Row]:
    """The rows that match all terms of a filter; InputError with possible values if none do."""
    left = rows
    for column, texts in terms.items():
        values = {row[column] for row in left}
        accepted: set[Value] = set()
        for text in texts:
            # a comma separates values, and may be part of one, as in the column machine
            is_whole = any(_accepts(text, column, value) for value in values)
            for part in [text] if is_whole else text.split(","):
                chosen = {value for value in values if _accepts(part, column, value)}
                if not chosen:
                    others = sorted(format_value(value) or "empty" for value in values)
                    listed = some_of([shortened(text, _LONGEST) for text in others], _LISTED)
                    raise InputError(
                        f"{option}: no row of {path} has {column}={part[:_LONGEST]}"
                        f"{' and the terms before it' if len(left) < len(rows) else ''}; "
                        f"the values are {listed}"
                    )
                accepted |= chosen
        left = [row for row in left if row[column] in accepted]
    return list(left)


def _accepts(text: str, column: str, value: Value) -> bool:
    """Whether a text is a value as the CSV has it, or the same number."""
    if text == format_value(value) or (column == "amp" and value != "off" and text == "on"):
        return True
    with suppress(ValueError):
        return isinstance(value, int | float) and float(text) == value
    return False


def limits(slowdown: str, memory: str, work: str, score_drop: str) -> Limits:
    """Minimum effects from the texts of the options; InputError for one without a unit, or whose
    number is no limit."""
    number = _number(score_drop, "--max-score-drop", "(?:pt|%)", "0.5pt or 1%", 100)
    if not number:
        raise InputError("--max-score-drop: must be more than 0, such as 0.5pt or 1%")
    return Limits(
        slowdown=_number(slowdown, "--max-slowdown") / 100,
        memory=_number(memory, "--max-memory") / 100,
        work=_number(work, "--max-work") / 100,
        score_drop=score_drop.strip(),
    )


def _number(
    text: str, option: str, unit: str = "%", example: str = "5%", most: float = 1000
) -> float:
    match = re.fullmatch(rf"\s*([0-9.eE+-]+|nan|inf)\s*({unit})?\s*", text)
    try:
        number = float(match[1]) if match else float("nan")
    except ValueError:
        match = None
    if match is not None and match[2] is None:
        raise InputError(f"{option}: {text!r} has no unit; write it as {example}")
    if match is None or not isfinite(number) or not 0 <= number <= most:
        raise InputError(
            f"{option}: {text[:_LONGEST]!r} is no limit between 0 and {most:g}; "
            f"write it as {example}"
        )
    return number


@dataclass(frozen=True)
class Location:
    """A Python and the folder of the code that it runs, which measure one side."""

    side: Side
    python: str
    root: Path

    @classmethod
    def of(cls, side: Side, place: Path | None) -> "Location":
        """The location of a side: a checkout, whose code runs with this Python, or a virtual
        environment in which this project is installed, or else InputError; None: this checkout."""
        if place is None:
            return cls(side, sys.executable, _ROOT)
        python = place.absolute() / "bin" / "python"
        if python.exists():
            return cls(side, str(python), _installed(python, place))
        if (place / "bench").is_dir():
            return cls(side, sys.executable, place.resolve())
        raise InputError(
            f"{side}: {place} is neither a checkout, with a folder bench/, nor a virtual "
            "environment, with bin/python"
        )

    def digest(self) -> str:
        """Digest of the location, its code as it is now and its packages."""
        parts = [self.root / name for name in measuring(self.root)]
        inside = [path for part in parts for path in (part, *part.rglob("*"))]
        files = [path for path in inside if path.suffix in {".py", ".toml"}]
        texts = [(str(p), p.read_text("utf-8", "replace")) for p in sorted(files) if p.is_file()]
        packages = Path(self.python).parents[1].glob("lib/python*/*-packages/*.dist-info")
        return digest([self.python, str(self.root), texts, sorted(p.name for p in packages)])

    def grid(
        self, arguments: Sequence[str], signals: Signals, workers: int = 1
    ) -> "subprocess.CompletedProcess[str]":
        """Run bench.grid, of which so many workers measure at once. InputError if it refuses its
        input; StoppedError if the user stopped it, which is forwarded."""
        paths = filter(None, (str(self.root), os.environ.get("PYTHONPATH")))
        # without the current folder, which may hold other code
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        env |= {WORKERS: str(workers)} if workers > 1 else {}
        argv = [self.python, "-m", "bench.grid", *arguments]
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", process_group=0,
        )  # fmt: skip
        forwarded = 0
        while True:
            try:
                out, err = process.communicate(timeout=_TICK_S)
                break
            except subprocess.TimeoutExpired:
                if forwarded < signals.stops:
                    process.send_signal(signal.SIGINT)
                    forwarded += 1
        if signals.stops:
            raise StoppedError
        if process.returncode == 2:
            errors = [line for line in err.splitlines() if line.startswith("error: ")]
            error = errors[-1].removeprefix("error: ") if errors else last_error(err)
            raise InputError(f"{self.side}: {error}")
        if process.returncode == 130:
            raise StoppedError
        return subprocess.CompletedProcess(argv, process.returncode, out, err)


def _installed(python: Path, place: Path) -> Path:
    """The folder with the code of this project in a virtual environment."""
    argv = [str(python), "-P", "-E", "-c", _FIND]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(
            f"{place}: this project is not installed in that environment; install a checkout with "
            f"{place / 'bin' / 'pip'} install -e CHECKOUT"
        )
    return Path(done.stdout.strip()).parents[1]
