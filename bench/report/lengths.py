"""The section on memory and time by length and batch, as bench.fit forecasts them."""

from bench.common.grouping import grouped
from bench.report.drawing import Drawing, add_legend, canvas, to_svg
from bench.report.figures import COLOURS, LINES
from bench.report.pages import Section, sentences
from bench.report.tables import table
from bench.results.curves import Curves


def lengths_section(curves: Curves | None) -> list[Section]:
    if curves is None:
        return []
    by_length = [point for point in curves.points if point.batch == curves.batch]
    settings = [*grouped(by_length, lambda point: point.setting).values()]
    shown = [(points[0], points[-1]) for points in settings]
    # LoRA on attention is what most ask about
    others = sorted(shown[1:], key=lambda ends: (ends[0].mode, ends[0].layers) != _ASKED)
    heading, *lines = sentences("lengths", full=shown[0], others=others, of=curves)
    drawings = [
        _drawing(curves, x, cost)
        for x, cost in (("length", _MEMORY), ("batch", _MEMORY), ("length", "ms_per_1k_tokens"))
    ]
    rows = [ends[place].columns() for place in (0, -1) for ends in shown]
    owners = table("fit", rows, f"The peak by owner, MiB, in batches of {curves.batch} texts.")
    return [Section("lengths", "Length and batch", heading, lines, drawings, [owners])]


_ASKED = ("lora", "attn-only")
_MEMORY = "peak_mib"
_LABELS = {
    "length": "tokens of each text", "batch": "texts in a batch", _MEMORY: "memory, × full",
    "ms_per_1k_tokens": "time, × full",
}  # fmt: skip


def _drawing(curves: Curves, x: str, cost: str) -> Drawing:
    """A line for each setting, against full fine-tuning, at the other size that the curves have."""
    other = "batch" if x == "length" else "length"
    points = [p.columns() for p in curves.points if getattr(p, other) == getattr(curves, other)]
    full = {p[x]: p[cost] for p in points if p["setting"] == points[0]["setting"]}
    stem = f"{'memory' if cost == _MEMORY else 'time'}-by-{x}"
    handles = []
    with canvas(3.6) as (figure, axes):
        for setting, own in grouped(points, lambda point: str(point["setting"])).items():
            mode, is_narrow = str(own[0]["mode"]), own[0]["layers"] == _ASKED[1]
            handles += axes.plot(
                [p[x] for p in own], [p[cost] / (full.get(p[x]) or 1) for p in own],
                linestyle="--" if is_narrow else LINES[mode], color=COLOURS[mode], label=setting,
            )  # fmt: skip
        ticks = sorted({int(p[x]) for p in points})
        axes.set(xscale="log", xlabel=_LABELS[x], ylabel=_LABELS[cost], ylim=(0, None))
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        add_legend(figure, handles, most=2)
    size = f"{getattr(curves, other)} {'texts a batch' if other == 'batch' else 'tokens a text'}"
    alt = f"{_LABELS[cost]} by {_LABELS[x]}, {size}: {len(handles)} lines."
    return Drawing(stem, to_svg(figure, stem), alt, f"Forecast, {size}; nothing was trained.")
