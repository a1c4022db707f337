"""The figures of a comparison's page. Importing this loads matplotlib."""

from collections.abc import Mapping, Sequence

from bench.peers import figures
from bench.peers.rows import Row
from bench.report.drawing import Drawing


def drawings(
    rows: Sequence[Row], curves: Mapping[str, Mapping[str, Sequence[float]]], whole: bool
) -> list[Drawing]:
    """Figures of times and of loss curves."""
    name, label = (
        ("seconds", "seconds from process start to dev score")
        if whole
        else ("ms_per_1k_tokens", "ms per 1,000 real tokens")
    )
    caption = "With 95% intervals over rounds."
    if not whole:
        caption += " Dashed: the limit, the time of the required matrix products alone."
    result = []
    if any(row[name] is not None for row in rows):
        result.append(figures.times(rows, name, label, "times", caption))
    result += [
        figures.losses(setting, sides, f"losses-{number}")
        for number, (setting, sides) in enumerate(curves.items(), start=1)
    ]
    return result
