"""The cell to export: the one that is named, or one of the setting that is recommended."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.analysis.costs import Need
from bench.common.errors import InputError
from bench.common.messages import some_of
from bench.common.progress import note_to_stderr
from bench.plan.cell import MULTITASK
from bench.plan.job import FILE, Job
from bench.plan.metrics import metric_of
from bench.plan.rows import Row, current_rows
from bench.report.text import by_metric, count
from bench.results.origins import folder_of
from bench.results.protocol import WEIGHTS
from bench.results.store import read_rows
from bench.stats.best import has_collapsed
from minbert.files import is_file

RECOMMENDED: Final = "recommended"
_FEWEST: Final = 4  # characters of a cell's id that may stand for it
_MOST_NAMED: Final = 4


def named_cell(runs: Path, name: str) -> tuple[Row, None]:
    """The cell of this id, the beginning of an id, short name, or folder; InputError for none, for
    several, and for one without a result that can be exported."""
    if is_file(Path(name) / FILE):
        name = Job.read(Path(name)).cell.cell_id
    rows = [row for row in current_rows(read_rows(runs)).values() if not row.is_trial]
    matching = [
        row
        for row in rows
        if row.name == name or (len(name) >= _FEWEST and row.cell_id.startswith(name))
    ]
    if not matching:
        raise InputError(
            f"{runs}: no cell is called {name}; give the id or the name of one of its rows, such "
            f"as {_named(rows)}, or `{RECOMMENDED}`"
            if rows
            else f"{runs}: holds no cell; run python -m bench.grid --grid smoke"
        )
    if (cells := len({row.cell_id for row in matching})) > 1:
        raise InputError(
            f"{runs}: {name} is the name of {cells} cells; give the id of one: {_named(matching)}"
        )
    done = [row for row in matching if row.is_ok]
    if not done:
        raise InputError(
            f"{runs}: {name} ended {matching[0].status}, so there is nothing to export; run it "
            f"again with --rerun {matching[0].status}"
        )
    return _with_weights(runs, done), None


def recommended_cell(
    runs: Path, prefer: Need, where: str, margin: str | None, metric: str | None
) -> tuple[Row, int]:
    """A cell of the setting that is recommended, and the number of settings among which it was: the
    one of the lowest seed whose weights were kept, or else of the lowest seed, since the best of
    several scores is too good by chance. InputError if nothing is recommended."""
    from bench.analysis.recommendation import recommended_in
    from bench.report.recommendation import subject
    from bench.results.rescoring import read_results

    results = read_results([runs], metric)
    recommended, others = recommended_in(results, prefer, where, margin)
    if others:
        note_to_stderr(
            f"the recommendation is for {subject(recommended.candidates.group)}; besides "
            f"it there {'is' if others == 1 else 'are'} {count(others, 'other group')} of results"
        )
    setting = recommended.setting
    if setting is None or not recommended.decided:
        best = "" if setting is None else f", such as {_named([*setting.ok[:1]])}, the best so far"
        raise InputError(
            f"{runs}: no setting is recommended yet; python -m bench.recommend lists what is "
            f"missing, or give the id of a cell{best}"
        )
    rows = {row.row_key: row for row in read_rows(runs)}  # with the metric of their own
    row = _with_weights(runs, [rows[row.row_key] for row in setting.ok])
    return row, len(recommended.candidates.settings)


def check_exportable(row: Row) -> None:
    """Refuse a cell whose model no format has a place for, by an InputError."""
    if row.init == "random":
        raise InputError(
            f"{row.name}: it began with random weights, to measure costs alone; export a cell of a "
            "pretrained model"
        )
    if row.task == MULTITASK:
        raise InputError(
            f"{row.name}: a model of several tasks has a head for each, and no format has a place "
            "for them; train one task alone, such as --task sst"
        )


def check_score(runs: Path, row: Row) -> None:
    """Refuse a model whose training collapsed, for which bench.recommend withdraws a setting. The
    row is of that training, which may be another than in the CSV. InputError names both scores."""
    metric = metric_of(row.dev_metric)
    scores = [
        metric.gain(one.dev_score)
        for one in current_rows(read_rows(runs)).values()
        if one.dev_score is not None and one.is_ok and (one.mode, one.amp) == (row.mode, row.amp)
        if replace(one.cell, seed=row.seed).cell_id == row.cell_id
    ]
    if row.dev_score is None or not scores:
        return
    margin, half = metric.tolerance(sum(scores) / len(scores)), row.dev_ci_half
    if has_collapsed(metric.gain(row.dev_score), scores, margin, half):
        mean = by_metric(row.dev_metric, metric.gain(sum(scores) / len(scores)))
        raise InputError(
            f"{row.name}: this model's dev score, {by_metric(row.dev_metric, row.dev_score)}, is "
            f"below the range of its setting's {count(len(scores), 'training')} (mean {mean}) by "
            f"more than {metric.size(max(margin, half))}; give another seed's cell, or add "
            "--allow-low-score"
        )


def _with_weights(runs: Path, rows: list[Row]) -> Row:
    """The row of the lowest seed and fold whose weights were kept, or else of the lowest."""

    def place(row: Row) -> tuple[bool, int, int, int]:
        return not is_file(folder_of(runs, row) / WEIGHTS), row.seed, row.fold or 0, row.repeat

    return min(rows, key=place)


def _named(rows: list[Row]) -> str:
    cells = {row.cell_id: f"{row.name} ({row.cell_id})" for row in rows}
    return some_of([*cells.values()], _MOST_NAMED)
