"""Updates in tables, sentences and figures, for terminal and page. Loads pandas and matplotlib."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adapters.methods import METHODS
from bench.common.grouping import grouped
from bench.report.drawing import BLUE, GREY, ORANGE, PURPLE, Drawing, canvas, log_axis
from bench.report.pages import Facts, sections_of, sentences
from bench.report.tables import DASH, Table, table
from bench.report.text import fixed
from bench.studies.updates import cells
from bench.studies.updates.cells import FIGURES, KINDS, PREFIXES, SIZE, Module, Truncation, Update

_MATRICES: Final = {"update": "update", "random": "random, its shape", "before": "weight before"}
_ENERGIES: Final = [name for name in FIGURES if name.startswith("energy_")]
_RANKS: Final = [name for name in (*FIGURES, SIZE) if name not in _ENERGIES]
_BY_KIND: Final = ({*_RANKS} - {"nonzero", "effective_rank"}) | {"random_rank_90"}
_COLOURS: Final = (BLUE, ORANGE, "#009e73", PURPLE, "#e69f00", "#56b4e9")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_MOST: Final = len(_COLOURS)  # cells in a figure; the tables have them all
_PERCENT: Final = 90  # share of the energy for which a figure shows ranks by layer
_HALF_A_LINE: Final = 26  # characters of a name, where two stand side by side
_RANDOM: Final[Any] = {"color": GREY, "linestyle": (0, (2, 2)), "linewidth": 1.4}
_BEFORE: Final[Any] = {"color": GREY, "linestyle": (0, (6, 2)), "linewidth": 1.4}


def frame_of(updates: Sequence[Update]) -> pd.DataFrame:
    """The rows of the CSV, with kinds in the order of `KINDS`."""
    frame = pd.DataFrame(cells.rows_of(updates))
    return frame.assign(kind=pd.Categorical(frame["kind"], list(KINDS.values())))


def range_of(modules: pd.DataFrame, column: str) -> dict[str, float]:
    """The mean, the least and the largest of a column, as `mean`, `low` and `high`."""
    values = modules[column]
    ends = {"low": values.min().item(), "high": values.max().item()}
    return {"mean": float(values.mean()), **ends}


def as_json(updates: Sequence[Update]) -> list[dict[str, Any]]:
    """Cells with the range of each figure over all modules and over those of each kind."""

    def summary(modules: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
        return {
            matrix: {
                name: range_of(modules, f"{prefix}{name}")
                for name in (*FIGURES, SIZE)
                if f"{prefix}{name}" in modules
            }
            for matrix, prefix in PREFIXES.items()
        }

    frame = frame_of(updates)
    every = []
    for update in updates:
        modules = frame[frame["cell"] == update.cell.label]
        every.append({
            "cell": update.cell.label,
            **{name: update.cell.row[name] for name in cells.AXES},
            "modules": len(modules),
            "unmoved": update.unmoved,
            "over_all": summary(modules),
            "over_kinds": {kind: summary(rows) for kind, rows in _by_kind(modules)},
        })  # fmt: skip
    return every


def tables(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[Table]:
    """The tables on a terminal: over all modules, by kind, and scores by rank if there are any."""
    frame, means = frame_of(updates), "mean over linear layers (least to most)"
    spectra = [
        _over_all(frame, _RANKS, f"Directions of an update: {means}"),
        _over_all(frame, _ENERGIES, f"Share of the energy in the largest directions: {means}"),
        _kinds_table(frame),
    ]
    return [*spectra, _scores(truncations)] if truncations else spectra


def module_table(updates: Sequence[Update]) -> Table:
    rows = [
        {
            "cell": row["cell"],
            "layer": str(row["layer"]),
            "kind": row["kind"],
            "shape": f"{row['height']} × {row['width']}",
            SIZE: fixed(row[SIZE], 4),
            **{name: fixed(row[name], _digits(name)) for name in FIGURES},
        }
        for row in cells.rows_of(updates)
    ]
    return table("updates", rows, "Every linear layer", folded=True)


def findings(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[str]:
    energies = []
    for update in updates:
        frame = frame_of([update])
        own, random = (range_of(frame, f"{prefix}rank_90") for prefix in ("", "random_"))
        sizes = sorted({len(module.spectra["update"].values) for module in update.modules})
        size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        mean = frame.mean(numeric_only=True)
        energies.append((update.cell.label, size, mean, own, random, len(frame)))
    return sentences("updates_findings", truncations=truncations, energies=energies)


def explanations(updates: Sequence[Update]) -> list[str]:
    modes = {update.cell.row.mode for update in updates}
    readings = [method.reading for name, method in METHODS.usable().items() if name in modes]
    return sentences("updates", updates=updates, readings=filter(None, readings))


def _by_kind(modules: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(kind), rows) for kind, rows in modules.groupby("kind", observed=True))


def _over_all(frame: pd.DataFrame, columns: Iterable[str], caption: str) -> Table:
    rows = [
        {
            "cell": str(cell) if matrix == "update" else "",
            "of": _MATRICES[matrix],
            **{name: _range_text(modules, name, prefix) for name in columns},
        }
        for cell, modules in frame.groupby("cell", sort=False)
        for matrix, prefix in PREFIXES.items()
    ]
    return table("updates", rows, caption, ["baseline" if row["cell"] else "" for row in rows])


def _kinds_table(frame: pd.DataFrame) -> Table:
    rows = [
        {
            "cell": "" if number else str(cell),
            "kind": kind,
            **{name: _range_text(of_kind, name) for name in _BY_KIND},
        }
        for cell, modules in frame.groupby("cell", sort=False)
        for number, (kind, of_kind) in enumerate(_by_kind(modules))
    ]
    return table("updates", rows, "By kind of linear layer: mean over layers (least to most)")


def _scores(truncations: Sequence[Truncation]) -> Table:
    rows = [
        {
            "cell": "" if number else f"{one.cell.label}, {one.metric}",
            "rank": score.label,
            "dev": "constant" if score.dev is None else fixed(score.dev.value),
            "interval": score.dev,
            "change": score.change,
        }
        for one in truncations
        for number, score in enumerate(one.scores)
    ]
    caption = "Dev score with each update cut to its largest directions, all else as trained"
    return table("truncated", rows, caption)


def _digits(figure: str) -> int:
    if figure == "nonzero" or "rank_" in figure:
        return 0
    return 1 if figure.endswith("_rank") else 3


def _range_text(modules: pd.DataFrame, figure: str, prefix: str = "") -> str:
    if f"{prefix}{figure}" not in modules:
        return DASH
    (mean, low, high), digits = range_of(modules, f"{prefix}{figure}").values(), _digits(figure)
    return f"{mean:.{digits or 1}f} ({low:.{digits}f}–{high:.{digits}f})"


def facts(
    updates: Sequence[Update], truncations: Sequence[Truncation], notes: Sequence[str], command: str
) -> Facts:
    """The content of the page, made again by a command line, with remarks on cells that were left
    out and on the tasks."""
    whole = next((update for update in updates if update.cell.whole), updates[0])
    by_metric = grouped(truncations, lambda truncation: truncation.metric)
    energies = {update.cell.label: update.modules for update in updates[:_MOST]}
    kinds = {
        kind: modules
        for kind in KINDS.values()
        if (modules := [module for module in whole.modules if module.position[1] == kind])
    }
    title, *more = sentences("updates_page", updates=updates, most=_MOST)
    return Facts(
        title=title,
        findings=findings(updates, truncations),
        sections=sections_of(
            problems=[one.problem for one in truncations if one.problem],
            tables=[*tables(updates, truncations), module_table(updates)],
            drawings=[
                _energy(energies, "energy", "Mean over linear layers."),
                _energy(kinds, "energy-kinds", f"{whole.cell.label}: mean over layers."),
                *map(_scores_figure, by_metric.values()),
                *(_ranks_figure(update, n) for n, update in enumerate(updates[:_MOST], start=1)),
            ],
        ),
        how="What was read",
        notes=[*explanations(updates), *notes, *more],
        command=command,
    )


def _energy(groups: Mapping[str, Sequence[Module]], stem: str, caption: str) -> Drawing:
    """The share of energy in the top k directions against k, a line for each group of modules."""
    modules = [module for group in groups.values() for module in group]
    lines = {name: cells.mean_energy(group, "update") for name, group in groups.items()}
    styles = [{"color": colour} for colour in _COLOURS[: len(lines)]] + [_RANDOM, _BEFORE]
    random, before = (cells.mean_energy(modules, matrix) for matrix in ("random", "before"))
    curves = [*lines.items(), ("random matrix", random), ("weight before", before)]
    with canvas(3.8) as (figure, axes):
        for (name, curve), style in zip(curves, styles, strict=True):
            axes.plot(np.arange(1, len(curve) + 1), curve, label=name, **style)
        most = max(map(len, lines.values()))
        log_axis(axes, 1, most)
        labels = {"xlabel": "directions k, largest first", "ylabel": "share of the energy"}
        axes.set(xlim=(1, most), ylim=(0, 1.02), **labels)
        _legend(figure)
    (alt,) = sentences("updates_figures", figure="energy", curves=curves[:-1])
    return Drawing.of(figure, stem, alt, caption)


def _ranks_figure(update: Update, number: int) -> Drawing:
    """The rank that holds a share of the energy, a square for each layer and kind."""
    import seaborn as sns

    frame = frame_of([update])
    values = frame.pivot_table(f"rank_{_PERCENT}", "layer", "kind", observed=False, dropna=False)
    _, low, high = range_of(frame, f"rank_{_PERCENT}").values()
    most = int(frame[["height", "width"]].min(axis=1).max())
    with canvas(1.4 + 0.34 * len(values)) as (figure, axes):
        sns.heatmap(
            values, vmin=1, vmax=most, cmap="viridis", cbar=False, annot=True, fmt=".0f",
            annot_kws={"fontsize": 8}, ax=axes,
            xticklabels=[kind.replace(" ", "\n") for kind in KINDS.values()],
        )  # fmt: skip
        axes.tick_params(rotation=0)
        axes.set(xlabel="", title=update.cell.label)
    alt, caption = sentences(
        "updates_figures", figure="ranks", percent=_PERCENT, name=update.cell.label, low=low,
        high=high, most=most,
    )  # fmt: skip
    return Drawing.of(figure, f"rank-{_PERCENT}-{number}", alt, caption)


def _scores_figure(truncations: Sequence[Truncation]) -> Drawing:
    """Dev score with intervals by the rank that updates are cut to; all cells have one metric."""
    shown = truncations[:_MOST]
    ranks = {score.rank for cell in shown for score in cell.scores}
    order = [*sorted(rank for rank in ranks if rank is not None), None]
    with canvas(3.4) as (figure, axes):
        for number, truncation in enumerate(shown):
            shift = 0.09 * (number - (len(shown) - 1) / 2)
            points = [
                (score.rank, score.dev) for score in truncation.scores if score.dev is not None
            ]
            x = [order.index(rank) + shift for rank, _ in points]
            ends = [dev.ends() or (dev.value, dev.value) for _, dev in points]
            y = [dev.value for _, dev in points]
            lengths = np.abs(np.transpose(ends) - y)
            axes.errorbar(
                x, y, lengths, color=_COLOURS[number], marker=_MARKERS[number], markersize=5,
                linewidth=1.1, label=truncation.cell.label,
            )  # fmt: skip
        axes.set_xticks(range(len(order)), ["full" if k is None else str(k) for k in order])
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="rank of updates", ylabel=f"dev {shown[0].metric}")
        _legend(figure)
    stem = f"truncated-{shown[0].metric}"
    alt, caption = sentences("updates_figures", figure="scores", truncations=shown)
    return Drawing.of(figure, stem, alt, caption)


def _legend(figure: Figure) -> None:
    """A legend below the axes, in two columns if the names are short enough."""
    names = [name for axes in figure.axes for name in axes.get_legend_handles_labels()[1]]
    columns = 2 if max(map(len, names)) <= _HALF_A_LINE else 1
    figure.legend(loc="outside lower center", ncols=columns)
