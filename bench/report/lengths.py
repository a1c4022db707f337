"""The section on memory and time by length and batch, as bench.fit forecasts them."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.report.drawing import Drawing, add_legend, canvas, log_ticks, to_svg
from bench.report.figures import COLOURS, LINES
from bench.report.pages import Section, sentences
from bench.report.tables import table
from bench.report.text import num
from bench.results.curves import Curve, Curves, Point

_STYLES: Final = ("-", "--", ":", "-.")
_OWNERS: Final = {"optimizer": "optimizer's state"}


def lengths_section(curves: Curves | None) -> list[Section]:
    if curves is None:
        return []
    full, *others = curves.curves
    heading, *lines = sentences(
        "lengths", full=full, others=[_facts(full, one) for one in others], notes=curves.notes
    )
    end = full.by_length[-1]
    drawings = [
        _drawing(curves, "by_length", "peak_mib", "length in tokens", "memory, MiB"),
        _drawing(curves, "by_batch", "peak_mib", "texts in a batch", "memory, MiB"),
        _drawing(curves, "by_length", "ms_per_1k_tokens", "length in tokens", "ms / 1,000 tokens"),
    ]
    rows = [
        {"setting": one.setting, "length": point.length, **point.memory_mib,
         "peak": point.peak_mib, "ms": point.ms_per_1k_tokens}
        for place in (0, -1) for one in curves.curves for point in [one.by_length[place]]
    ]  # fmt: skip
    caption = f"The peak by owner, MiB, in batches of {end.batch}."
    return [Section("lengths", "Length and batch", heading, lines, drawings,
                    [table("lengths", rows, caption)])]  # fmt: skip


def _facts(full: Curve, one: Curve) -> dict[str, object]:
    """What a setting saves of full fine-tuning at the ends of the lengths, and by owner."""
    (first, last), (own_first, own_last) = (
        (curve.by_length[0], curve.by_length[-1]) for curve in (full, one)
    )
    return {
        "one": one, "short": first, "long": last,
        "saved_short": _share(first, own_first), "saved_long": _share(last, own_last),
        "activations": last.memory_mib["activations"] / last.peak_mib,
        "owners": _saved(first, own_first),
    }  # fmt: skip


def _share(full: Point, one: Point) -> float:
    return 1 - one.peak_mib / full.peak_mib


def _saved(full: Point, one: Point) -> Mapping[str, str]:
    """MiB that are saved by owner, the most first, without what is under 1."""
    saved = {name: mib - one.memory_mib[name] for name, mib in full.memory_mib.items()}
    ordered = sorted(saved.items(), key=lambda item: -item[1])
    return {_OWNERS.get(name, name): num(mib) for name, mib in ordered if mib >= 1}


def _drawing(curves: Curves, part: str, cost: str, x_label: str, y_label: str) -> Drawing:
    """A line for each setting."""
    stem = f"{part.replace('_', '-')}-{'memory' if cost == 'peak_mib' else 'time'}"
    every = [(one, list[Point](getattr(one, part))) for one in curves.curves]
    with canvas(3.6) as (figure, axes):
        seen: dict[str, int] = {}
        handles = []
        for one, points in every:
            number = seen[one.mode] = seen.get(one.mode, -1) + 1
            style = LINES[one.mode] if number == 0 else _STYLES[number % len(_STYLES)]
            handles += axes.plot(
                [_x(point, part) for point in points], [getattr(point, cost) for point in points],
                color=COLOURS[one.mode], linestyle=style, label=one.setting,
            )  # fmt: skip
        ends = [_x(point, part) for point in every[0][1]]
        axes.set(xscale="log", xlabel=x_label, ylabel=y_label, ylim=(0, None))
        axes.set_xticks(_ticks(ends), [f"{tick:g}" for tick in _ticks(ends)])
        axes.minorticks_off()
        add_legend(figure, handles, most=2)
    other = every[0][1][0]
    held = f"batches of {other.batch}" if part == "by_length" else f"{other.length} tokens"
    alt = f"{y_label} by {x_label}, in {held}: a line for each of {len(every)} settings."
    caption = f"Forecast, in {held}; nothing was trained for it."
    return Drawing(stem, to_svg(figure, stem), alt, caption)


def _x(point: Point, part: str) -> int:
    return point.length if part == "by_length" else point.batch


def _ticks(values: Sequence[int]) -> list[float]:
    """The values themselves, if they are few."""
    return [*map(float, values)] if len(values) <= 10 else log_ticks(values[0], values[-1])
