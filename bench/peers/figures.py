"""Figures of a comparison: times by setting and side, and overlaid loss curves."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.peers.names import OURS
from bench.peers.rows import Row
from bench.report.drawing import BLUE, INK, ORANGE, PAPER, PURPLE, Drawing, canvas, to_svg
from bench.report.text import num

COLOURS: Final = {
    OURS: BLUE, "default": ORANGE, "grouped": PURPLE, "compiled": INK,
    "trainer": ORANGE,
}  # fmt: skip
MARKERS: Final = {OURS: "o", "default": "s", "grouped": "D", "compiled": "^", "trainer": "s"}


def times(rows: Sequence[Row], name: str, x_label: str, stem: str, caption: str) -> Drawing:
    """Times by setting, a marker with an interval for each side, and the limit if there is one."""
    known = [row for row in rows if row[name] is not None]
    settings = list(dict.fromkeys(row["setting"] for row in known))
    sides = list(dict.fromkeys(row["side"] for row in known))
    with canvas(1.2 + 0.42 * max(len(settings), 2)) as (figure, axes):
        for row in known:
            y = settings.index(row["setting"]) + 0.16 * (
                sides.index(row["side"]) - (len(sides) - 1) / 2
            )
            low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
            colour = COLOURS[row["side"]]
            if low is not None and high is not None:
                axes.hlines([y], [low], [high], color=colour, linewidth=1.3)
            axes.plot([row[name]], [y], MARKERS[row["side"]], color=colour, markersize=5)
        for row in known:
            limit = row.get("limit_ms_per_1k_tokens")
            if row["side"] == OURS and limit is not None:
                y = settings.index(row["setting"])
                axes.vlines([limit], [y - 0.35], [y + 0.35], color=INK, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(settings)), settings)
        axes.set_ylim(len(settings) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.set_xlabel(x_label)
        _legend(figure, sides)
    values = "; ".join(f"{row['setting']} {row['side']} {num(row[name])}" for row in known)
    return Drawing(
        stem, to_svg(figure, stem), f"{x_label}, by setting and side: {values}.", caption
    )


def losses(setting: str, curves: Mapping[str, Sequence[float]], stem: str) -> Drawing:
    """A setting's losses by step: ours as a line, each baseline's as markers on top of it."""
    with canvas(2.6) as (figure, axes):
        for side, values in curves.items():
            steps = range(1, len(values) + 1)
            if side == OURS:
                axes.plot(steps, values, color=COLOURS[side], linewidth=1.4)
            else:
                axes.plot(
                    steps, values, MARKERS[side], color=COLOURS[side], markersize=4,
                    markerfacecolor=PAPER, markeredgewidth=0.9,
                )  # fmt: skip
        axes.set_title(setting)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss, no dropout")
        _legend(figure, list(curves))
    ends = ", ".join(f"{side} ends at {values[-1]:.4f}" for side, values in curves.items())
    return Drawing(
        stem, to_svg(figure, stem), f"Training loss by step of {setting}: {ends}.",
        f"{setting}: the same batches in the same order, without dropout.",
    )  # fmt: skip


def _legend(figure: Any, sides: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[side], marker=MARKERS[side], linestyle="none", label=side)
        for side in sides
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(len(sides), 4)))
