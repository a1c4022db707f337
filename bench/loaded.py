"""Results in Python and in notebooks: what `bench.load` returns.

The answers are those of the commands, as objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd
from markupsafe import escape

from bench.analysis.comparison import Limits
from bench.analysis.costs import Need
from bench.analysis.groups import Group, ordered_groups
from bench.analysis.recommendation import recommended_in
from bench.common.errors import InputError
from bench.compare import conclusion
from bench.compare.sides import SideRows
from bench.plan.columns import COLUMNS
from bench.plan.rows import latest
from bench.report import recommendation, tables, tradeoff
from bench.report.pages import html_environment
from bench.report.references import reference_points
from bench.report.render import lead, printable, title
from bench.results.rescoring import Results, read_results
from minbert.files import is_file

_TYPES: Final = {str: "string", int: "Int64", float: "float64"}
_AXES: Final = ("mode", "rank", "layers", "amp")
_MEASURED: Final = (
    "dev_score", "ms_per_1k_tokens", "step_ms_median", "train_s", "peak_rss_mib",
    "peak_cuda_allocated_mib", "params_trainable", "saved_mib",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command answers: its lines, and as `values` what its --json prints."""

    lines: tuple[str, ...]
    values: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self.lines)


@dataclass(frozen=True)
class Loaded:
    """Files of results. Printed in a notebook it is the report's table and figures of the settings
    that are recommended from."""

    results: Results

    @classmethod
    def read(cls, runs: Sequence[Path], metric: str | None) -> "Loaded":
        for path in runs:
            if not is_file(path):
                raise InputError(f"{path}: no such file of results")
        return cls(read_results(runs, metric))

    def to_pandas(self) -> pd.DataFrame:
        """Every row by the columns of runs.csv, whose names end with their units, and in `counts`
        whether it counts: one that a later attempt replaces does not."""
        rows = self.results.rows
        counting = set(map(id, latest(rows).values()))
        columns = {
            column.name: pd.Series([row[column.name] for row in rows], dtype=_TYPES[column.kind])
            for column in COLUMNS
        }
        for name in ("started_at", "finished_at"):
            columns[name] = pd.to_datetime(columns[name], utc=True)
        return pd.DataFrame({**columns, "counts": [id(row) in counting for row in rows]})

    @cached_property
    def _groups(self) -> list[Group]:
        rows, planned = printable(self.results.rows), printable(self.results.planned)
        return ordered_groups(rows, planned, self.results.values_of)

    def settings(self) -> pd.DataFrame:
        """Every setting, its seeds averaged, with 95% intervals as `…_low` and `…_high`. Only
        settings with one number in `group` were measured under the same conditions; 0 has those
        that are recommended from."""
        records = []
        for number, group in enumerate(self._groups):
            for setting in group.settings:
                if not any(row.status for row in setting.rows):
                    continue  # planned alone
                values: dict[str, object] = {
                    "group": number,
                    "model": group.shared("model"),
                    "task": group.shared("task"),
                    "setting": setting.label,
                    **{name: getattr(setting, name) or None for name in _AXES},
                    "seeds": len({row.seed for row in setting.ok}),
                    "dev_metric": group.metric or None,
                }
                for name in _MEASURED:
                    known = setting.estimate(name)
                    ends = (known.ends() if known else None) or (None, None)
                    values[name] = known.value if known else None
                    values |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
                records.append(values)
        floats = [f"{name}{end}" for name in _MEASURED for end in ("", "_low", "_high")]
        texts = ("model", "task", "setting", "mode", "layers", "amp", "dev_metric")
        types = {"rank": "Int64", **dict.fromkeys(texts, "string")}
        names = ["group", "model", "task", "setting", *_AXES, "seeds", "dev_metric", *floats]
        frame = pd.DataFrame(records, columns=None if records else names)
        return frame.astype(types | dict.fromkeys(floats, "float64"))

    def recommend(
        self, where: str = "", prefer: Need = "memory", margin: str | None = None
    ) -> Answer:
        """The answer of `bench.recommend` with these options."""
        known, results = recommended_in(self.results, prefer, where, margin)[0], self.results
        names = [str(path) for path in results.runs]
        advice = recommendation.advice(known, results.facts, results.exports, names)
        return Answer(tuple(recommendation.lines(advice)), recommendation.as_json(advice))

    def compare(self, other: "Loaded") -> Answer:
        """The answer of `bench.compare`, from these results to newer ones. InputError where nothing
        can be compared."""
        base, new = (
            SideRows(of.runs[0], "", [*of.rows], of.values_of)
            for of in (self.results, other.results)
        )
        outcome = conclusion.conclude(base, new, Limits())
        lines = conclusion.summary(outcome, details=True)
        return Answer(tuple(lines), conclusion.as_json(outcome))

    def _repr_html_(self) -> str:
        if not self._groups:
            return "<p>no results</p>"
        group, facts = self._groups[0], self.results.facts
        figures = []
        if group.has_quality and group.learned:
            points = reference_points(group, facts)
            figures = tradeoff.tradeoffs(group, tables.frame(group), "", points)
        where = " and ".join(path.name for path in self.results.runs)
        page = html_environment().get_template("notebook.html.jinja")
        return page.render(
            title=title(group), lead=lead(group, facts), figures=figures, where=where,
            settings=tables.settings_table(group),
        )  # fmt: skip
