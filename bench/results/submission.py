"""Submitted results: whether what their files say agrees, and what can't be checked."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError, reading
from bench.common.files import LARGEST_TENSORS, below, read_file, text_or_empty, write_atomically
from bench.machine.conditions import MEASUREMENT_VERSION, Conditions
from bench.plan.columns import BY_NAME, format_value, group_names, values_of
from bench.plan.job import Job
from bench.plan.rows import Row
from bench.results.exports import read_exports
from bench.results.facts import DataFacts, read_facts
from bench.results.origins import folder_of
from bench.results.outcomes import outcome_key, outcomes_file, read_outcomes
from bench.results.predictions import Parts, parts_of, read_folder, values
from bench.results.protocol import PREDICTIONS, RESULT, ROW, WEIGHTS, parse_result
from bench.results.rebuild import rows_in_folders
from bench.results.rescoring import majority_score
from bench.results.row import kept_row, measured_row, score_interval
from bench.results.store import read_rows
from minbert.files import is_file, is_folder, open_regular, sha256_of

SUMS: Final = "SHA256SUMS"
"""The file with digests of others in its folder, as sha256sum reads and writes it."""
_MAY_BE_EMPTY: Final = {"environment", "sharing", "executor"}
_ROUNDING: Final = 1e-6  # of scores that are correlations


def write_sums(folder: Path) -> None:
    """Write the digests of the files of a cell that has ended, but for weights, which may be
    deleted, its row, which gets another attempt when results are merged, and unfinished files."""
    paths = sorted(path for path in folder.iterdir() if is_file(path) and path.name[0] != ".")
    names = [path.name for path in paths if path.name not in (SUMS, ROW, WEIGHTS)]
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names]
    write_atomically(folder / SUMS, "".join(lines).encode())


@dataclass
class Submission:
    """A folder of results: its files, their faults, and how many rows lack what a check needs."""

    folder: Path
    runs: list[Path] = field(default_factory=list)
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)

    def columns(self) -> dict[str, Any]:
        """The verdict, for --json."""
        return {
            "folder": str(self.folder), "valid": not self.problems, "rows": self.rows,
            "problems": self.problems, "not_checked": dict(+self.unchecked),
        }  # fmt: skip

    @classmethod
    def check(cls, folder: Path) -> "Submission":
        """InputError for a folder without results."""
        heads = {path: text_or_empty(path).partition("\n")[0] for path in folder.rglob("*.csv")}
        runs = sorted(path for path, head in heads.items() if "conditions_id" in head.split(","))
        if not runs:
            raise InputError(f"{folder}: has no file of results, such as runs.csv")
        sums = sorted(folder.rglob(SUMS))
        result = cls(folder, runs, problems=[line for path in sums for line in _wrong_sums(path)])
        for path in runs:
            try:
                result._check_file(path)
            except InputError as error:
                result.problems.append(str(error))
            except ValueError as error:
                result.problems.append(f"{outcomes_file(path)}: {error}")
        return result

    def _check_file(self, runs: Path) -> None:
        rows, outcomes = read_rows(runs), read_outcomes(outcomes_file(runs))
        facts, _ = read_facts(runs), read_exports(runs)
        self.rows += len(rows)
        self.problems += [f"{folder_of(runs, row)}: {runs.name} lacks its row"
                          for row in rows_in_folders(runs, rows)]  # fmt: skip
        keys = Counter((row.row_key, row.code_version) for row in rows)
        labels: dict[tuple[object, ...], str] = {}
        for row in rows:
            where = f"{runs}: {row.name} {row.cell_id}, attempt {row.attempt}"
            parts = {part: outcome_key(row, part) for part in parts_of(row.dev_metric or "")}
            stored = {part: outcomes.pop(k) for part, k in parts.items() if k in outcomes}
            by_column: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
            try:
                for source, columns in self._sources(runs, row, stored, facts, labels):
                    for name, value in columns.items():
                        by_column[name][format_value(value)].append(str(source))
            except (InputError, ValueError) as error:
                self.problems.append(f"{where}: {error}")
            for name, by_text in by_column.items():
                (usual, agreeing), *others = sorted(by_text.items(), key=lambda it: -len(it[1]))
                self.problems += [
                    f"{where}: {name} is {text or 'empty'} by {', '.join(sources)}, and "
                    f"{usual or 'empty'} by {', '.join(agreeing)}"
                    for text, sources in others
                ]
            needed = {*group_names("conditions"), "started_at", "finished_at"} - _MAY_BE_EMPTY
            empty = [n for n in sorted(needed) if BY_NAME[n].applies_to(row) and row[n] is None]
            if row.is_ok and empty:
                self.problems.append(f"{where}: conditions are incomplete: no {', '.join(empty)}")
            if keys[row.row_key, row.code_version] > 1:
                self.problems.append(f"{where}: is there twice")
        if outcomes:
            self.problems.append(f"{outcomes_file(runs)}: {min(outcomes)} is of no row")

    def _sources(
        self, runs: Path, row: Row, stored: Parts,
        facts: Mapping[str, DataFacts], labels: dict[tuple[object, ...], str],
    ) -> Iterator[tuple[object, Mapping[str, Any]]]:  # fmt: skip
        """Files, or what else says something of a row, and values by column."""
        yield runs, values_of(row)
        yield "the digest of its settings", {"cell_id": row.cell.cell_id}
        is_current = row.measurement_version == MEASUREMENT_VERSION
        if is_current:
            known: dict[str, Any] = {item.name: row[item.name] for item in fields(Conditions)}
            yield "that of its conditions", {"conditions_id": Conditions(**known).conditions_id}
        self.unchecked["conditions of another version of measuring"] += not is_current
        folder, scored = folder_of(runs, row), row.has_score and bool(row.dev_metric)
        predictions = {outcomes_file(runs): stored} if stored and scored else {}
        if not is_folder(folder):
            self.unchecked["no folder of the cell: times and memory"] += row.status != "skipped"
        else:
            self.unchecked[f"no {SUMS} of the cell: curves and logs"] += not is_file(folder / SUMS)
            kept = kept_row(folder)
            yield folder / ROW, values_of(kept) if kept else {"attempt": None}
            if scored:
                predictions[folder / PREDICTIONS] = read_folder(folder, row.dev_metric or "") or {}
            if is_current and row.is_ok:
                yield f"the other files in {folder}", _recomputed(row, folder)
        self.unchecked["no predictions: scores"] += scored and not predictions
        for path, outcomes in predictions.items():
            for part, one in outcomes.items():
                data = row.task, row.data_digest, row.fold, part
                if labels.setdefault(data, one.examples) != one.examples:
                    raise InputError(f"{path} has other labels of {row.task} than other cells have")
            yield path, _score(row, path.parent, outcomes, facts.get(row.data_digest))


def _recomputed(row: Row, folder: Path) -> Mapping[str, Any]:
    """The columns that the job, the worker's result and the times of steps of a row give."""
    job, path = Job.read(folder), folder / RESULT
    with reading(path):
        result = parse_result(read_file(path).decode())
    measured = {name: value for name, value in result["columns"].items() if value is not None}
    names = ("conditions_id", *group_names("conditions"))
    again = measured_row(
        job.cell, {name: row[name] for name in names}, columns={**values_of(row), **measured},
        status=result["status"], flags=[*result["flags"], *row.flag_names],
        message="", folder=folder, dev_examples={}, majority_score=row.majority_score,
    )  # fmt: skip
    planned = {name: getattr(job, name) for name in ("conditions_id", "attempt", "repeat")}
    left_out = ("dev_ci_low", "dev_ci_high", "flags", "message", "scale")
    return {n: v for n, v in (values_of(again) | planned).items() if n not in left_out}


def _score(row: Row, folder: Path, outcomes: Parts, facts: DataFacts | None) -> dict[str, Any]:
    """The columns that predictions give. ValueError if there are none."""
    metric = row.dev_metric or ""
    score = float(values(metric, outcomes).mean())
    rounding = _ROUNDING if any(one.has_numbers for one in outcomes.values()) else 0.0
    sizes = {part or row.task: len(one.predicted) for part, one in outcomes.items()}
    columns: dict[str, Any] = {"dev_score": score}
    columns |= score_interval(row | {"dev_score": score}, sizes, folder)
    if facts is not None and row.folds is None and "" in outcomes:
        columns["majority_score"] = majority_score(metric, outcomes[""], facts)
    known = {n: v for n, v in columns.items() if v is not None}
    same = [n for n, v in known.items() if abs(v - float(row[n] or 0)) < rounding]
    return known | {n: row[n] for n in same}


def _wrong_sums(sums: Path) -> Iterator[str]:
    for line in text_or_empty(sums).splitlines():
        digest, _, name = line.partition("  ")
        try:
            path = below(sums.parent, *name.lstrip("*").split("/"))
            open_regular(path, LARGEST_TENSORS).close()
            is_same = sha256_of(path) == digest
        except (OSError, InputError):
            is_same = False
        if not is_same:
            yield f"{sums.parent}/{name.lstrip('*')}: is not the file of the digest in {sums}"
