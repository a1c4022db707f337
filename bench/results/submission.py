"""Submitted results: whether what their files say agrees, and what can't be checked."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.common.files import text_or_empty, write_atomically
from bench.machine.conditions import MEASUREMENT_VERSION, Conditions
from bench.plan.columns import BY_NAME, format_value, group_names, values_of
from bench.plan.job import FILE, Job
from bench.plan.rows import Row
from bench.results.exports import read_exports
from bench.results.facts import DataFacts, read_facts
from bench.results.origins import folder_of
from bench.results.outcomes import Outcome, outcome_key, outcomes_file, read_outcomes
from bench.results.predictions import Parts, parts_of, read_folder, values
from bench.results.protocol import PANEL, PREDICTIONS, RESULT, ROW, STEPS, WEIGHTS, parse_result
from bench.results.rebuild import rows_in_folders
from bench.results.rescoring import majority_score
from bench.results.row import MEASURED, kept_row, score_interval, step_times
from bench.results.store import read_rows
from minbert.files import is_file, is_folder, sha256_of

SUMS: Final = "SHA256SUMS"
"""The file with digests of others in its folder, as sha256sum reads and writes it."""
_MAY_BE_EMPTY: Final = {"environment", "sharing", "executor"}

_Source = tuple[Path | str, Mapping[str, str]]  # a file, or what it is called, and texts by column


def write_sums(folder: Path) -> None:
    """Write the digests of the files of a cell that has ended, but for weights, which may be
    deleted, and its row, which gets another attempt when results are merged."""
    names = sorted(path.name for path in folder.iterdir() if is_file(path))
    lines = [f"{sha256_of(folder / n)}  {n}\n" for n in names if n not in (SUMS, ROW, WEIGHTS)]
    write_atomically(folder / SUMS, "".join(lines).encode())


@dataclass
class Submission:
    """A folder of results: the files that were checked, what is wrong, and how many rows lack what
    a check needs."""

    folder: Path
    runs: list[Path] = field(default_factory=list)
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)

    @classmethod
    def check(cls, folder: Path) -> "Submission":
        """InputError for a folder without results."""
        if not is_folder(folder):
            raise InputError(f"{folder}: there is no such folder")
        result = cls(folder)
        heads = {path: text_or_empty(path).partition("\n")[0] for path in folder.rglob("*.csv")}
        result.runs = sorted(p for p, head in heads.items() if "conditions_id" in head.split(","))
        if not result.runs:
            raise InputError(f"{folder}: has no file of results, such as runs.csv")
        result.problems += [
            problem for sums in sorted(folder.rglob(SUMS)) for problem in _wrong_sums(sums)
        ]
        for runs in result.runs:
            try:
                result._check_file(runs)
            except (InputError, ValueError) as error:
                result.problems.append(str(error))
        return result

    def _check_file(self, runs: Path) -> None:
        rows, facts = read_rows(runs), read_facts(runs)
        read_exports(runs)
        try:
            outcomes = read_outcomes(outcomes_file(runs))
        except ValueError as error:
            raise InputError(f"{outcomes_file(runs)}: can't be read ({error})") from error
        self.rows += len(rows)
        examples: dict[tuple[object, ...], tuple[str, Path]] = {}
        keys = Counter((row.row_key, row.code_version) for row in rows)
        known = {outcome_key(row, part) for row in rows for part in parts_of(row.dev_metric or "")}
        if unknown := outcomes.keys() - known:
            self.problems.append(
                f"{outcomes_file(runs)}: has predictions of no row: {min(unknown)}"
            )
        for row in rows_in_folders(runs, rows):
            self.problems.append(f"{folder_of(runs, row)}: {runs.name} lacks its row")
        for row in rows:
            where = f"{runs}: {row.name} {row.cell_id}, attempt {row.attempt}"
            if keys[row.row_key, row.code_version] > 1:
                self.problems.append(f"{where}: is there twice")
            try:
                sources = [*self._sources(runs, row, outcomes, facts, examples)]
            except InputError as error:
                self.problems.append(str(error))
                continue
            self.problems += [f"{where}: {text}" for text in _contradictions(runs.parent, sources)]
            names = [*group_names("conditions"), "started_at", "finished_at"] * row.is_ok
            for name in names:
                if (
                    BY_NAME[name].applies_to(row)
                    and row[name] is None
                    and name not in _MAY_BE_EMPTY
                ):
                    self.problems.append(f"{where}: its conditions are not complete: no {name}")

    def _sources(
        self, runs: Path, row: Row, stored: Mapping[str, Outcome],
        facts: Mapping[str, DataFacts], examples: dict[tuple[object, ...], tuple[str, Path]],
    ) -> Iterator[_Source]:  # fmt: skip
        """What files say of a row, in texts as runs.csv has them."""
        yield runs, _texts(values_of(row))
        yield "the digest of its settings", {"cell_id": row.cell.cell_id}
        if row.measurement_version == MEASUREMENT_VERSION:
            known = {item.name: row[item.name] for item in fields(Conditions)}
            conditions = Conditions(**known)  # type: ignore[arg-type]
            yield "the digest of its conditions", {"conditions_id": conditions.conditions_id}
        else:
            self.unchecked["conditions of another version of measuring"] += 1
        folder, metric = folder_of(runs, row), row.dev_metric or ""
        predictions: dict[Path, Parts | None] = {outcomes_file(runs): {
            part: stored[key]
            for part in parts_of(metric) if (key := outcome_key(row, part)) in stored
        }}  # fmt: skip
        if not is_folder(folder):
            self.unchecked["no folder of the cell: times and memory"] += row.status != "skipped"
        elif row.status != "skipped":
            self.unchecked[f"no {SUMS} of the cell: curves and logs"] += not is_file(folder / SUMS)
            kept = kept_row(folder)
            yield folder / ROW, _texts(values_of(kept)) if kept else {"attempt": ""}
            if row.measurement_version == MEASUREMENT_VERSION:  # older ones lack settings
                job = Job.read(folder)
                planned = {n: getattr(job, n) for n in ("conditions_id", "attempt", "repeat")}
                yield folder / FILE, _texts({**job.cell.columns(), **planned})
            if row.is_ok:
                predictions[folder / PREDICTIONS] = read_folder(folder, metric) if metric else {}
                yield from _measured(folder)
        has_any = False
        for path, outcomes in predictions.items():
            if outcomes is None:
                raise InputError(f"{path}: is missing, or can't be read")
            if outcomes and row.is_ok and row.dev_score is not None:
                has_any = True
                for part, one in outcomes.items():
                    data = row.task, row.data_digest, row.fold, part
                    first = examples.setdefault(data, (one.examples, path))
                    if first[0] != one.examples:
                        raise InputError(f"{path}: has other labels of {row.task} than {first[1]}")
                yield path, _score(row, path.parent, outcomes, facts)
        if row.is_ok and row.dev_score is not None and not has_any:
            self.unchecked["no predictions: scores"] += 1


def _texts(columns: Mapping[str, object]) -> dict[str, str]:
    return {name: format_value(value) for name, value in columns.items()}  # type: ignore[arg-type]


def _measured(folder: Path) -> Iterator[_Source]:
    """What the worker's result and the times of steps say of a row that ended ok."""
    path = folder / RESULT
    try:
        columns = parse_result(path.read_text(encoding="utf-8"))["columns"]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error
    yield path, _texts({n: v for n, v in columns.items() if n in MEASURED and v is not None})
    yield folder / (PANEL if is_file(folder / PANEL) else STEPS), _texts(step_times(folder)[0])


def _score(
    row: Row, folder: Path, outcomes: Parts, facts: Mapping[str, DataFacts]
) -> dict[str, str]:
    """A score with its interval from predictions, unless it takes logits that are not there."""
    metric = row.dev_metric or ""
    score = float(values(metric, outcomes).mean())
    if (
        any(one.has_numbers for one in outcomes.values())
        and abs(score - (row.dev_score or 0)) < 1e-6
    ):
        score = row.dev_score or 0.0  # a regression's are rounded
    sizes = {part or row.task: len(one.predicted) for part, one in outcomes.items()}
    columns = {"dev_score": score, **score_interval(row | {"dev_score": score}, sizes, folder)}
    if "" in outcomes and (known := facts.get(row.data_digest)) is not None and row.folds is None:
        columns["majority_score"] = majority_score(metric, outcomes[""], known)
    return _texts({name: value for name, value in columns.items() if value is not None})


def _contradictions(root: Path, sources: Sequence[_Source]) -> Iterator[str]:
    """A line for each file that most of the others contradict."""
    by_column: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for source, texts in sources:
        name = str(source.relative_to(root) if isinstance(source, Path) else source)
        for column, text in texts.items():
            by_column[column][text].append(name)
    for column, by_text in by_column.items():
        (usual, agreeing), *others = sorted(by_text.items(), key=lambda item: -len(item[1]))
        for text, names in others:
            says = f"{column} is {text or 'empty'} by {', '.join(names)}"
            yield f"{says}, and {usual or 'empty'} by {', '.join(agreeing)}"


def _wrong_sums(sums: Path) -> Iterator[str]:
    for line in text_or_empty(sums).splitlines():
        digest, _, name = line.partition("  ")
        path = sums.parent / name.lstrip("*")
        inside = path.resolve().is_relative_to(sums.parent.resolve())
        if not (name and inside and is_file(path) and sha256_of(path) == digest):
            yield f"{path}: is not the file of the digest in {sums}"
