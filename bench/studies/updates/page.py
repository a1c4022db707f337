"""The page of updates with its figures. Importing this loads matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from bench.common.grouping import grouped
from bench.report.drawing import BLUE, GREY, ORANGE, PURPLE, Drawing, canvas, log_axis
from bench.report.pages import Facts, sections_of, sentences
from bench.studies.updates import tables
from bench.studies.updates.modules import KINDS, Module, Update, mean_energy
from bench.studies.updates.truncation import Truncation, problems

_COLOURS: Final = (BLUE, ORANGE, "#009e73", PURPLE, "#e69f00", "#56b4e9")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_MOST: Final = len(_COLOURS)  # cells in a figure; the tables have them all
_PERCENT: Final = 90  # share of the energy for which a figure shows ranks by layer
_HALF_A_LINE: Final = 26  # characters of a name, where two stand side by side
_RANDOM: Final[Any] = {"color": GREY, "linestyle": (0, (2, 2)), "linewidth": 1.4}
_BEFORE: Final[Any] = {"color": GREY, "linestyle": (0, (6, 2)), "linewidth": 1.4}


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
        findings=tables.findings(updates, truncations),
        sections=sections_of(
            problems=problems(truncations),
            tables=[*tables.tables(updates, truncations), tables.module_table(updates)],
            drawings=[
                _energy(energies, "energy", "Mean over linear layers."),
                _energy(kinds, "energy-kinds", f"{whole.cell.label}: mean over layers."),
                *map(_scores_figure, by_metric.values()),
                *(_ranks_figure(update, n) for n, update in enumerate(updates[:_MOST], start=1)),
            ],
        ),
        how="What was read",
        notes=[*tables.explanations(updates), *notes, *more],
        command=command,
    )


def _energy(groups: Mapping[str, Sequence[Module]], stem: str, caption: str) -> Drawing:
    """The share of energy in the top k directions against k, a line for each group of modules."""
    modules = [module for group in groups.values() for module in group]
    lines = {name: mean_energy(group, "update") for name, group in groups.items()}
    styles = [{"color": colour} for colour in _COLOURS[: len(lines)]] + [_RANDOM, _BEFORE]
    random, before = (mean_energy(modules, matrix) for matrix in ("random", "before"))
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

    frame = tables.frame_of([update])
    values = frame.pivot_table(f"rank_{_PERCENT}", "layer", "kind", observed=False, dropna=False)
    _, low, high = tables.range_of(frame, f"rank_{_PERCENT}").values()
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
