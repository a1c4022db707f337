"""What a comparison's page draws. Importing this loads matplotlib."""

from collections.abc import Mapping, Sequence

from bench.peers import figures
from bench.peers.rows import Row
from bench.report.drawing import Drawing


def drawings(
    rows: Sequence[Row], curves: Mapping[str, Mapping[str, Sequence[float]]], whole: bool
) -> list[Drawing]:
    """The figures of some rows and loss curves."""
    name, label = (
        ("seconds", "seconds from process start to dev score")
        if whole
        else ("ms_per_1k_tokens", "ms for 1,000 real tokens")
    )
    caption = "With 95% intervals over rounds."
    if not whole:
        caption += " Dashed: the limit, what the required matrix products alone take."
    found = []
    if any(row[name] is not None for row in rows):
        found.append(figures.times(rows, name, label, "times", caption))
    found += [
        figures.losses(setting, of, f"losses-{number}")
        for number, (setting, of) in enumerate(curves.items(), start=1)
    ]
    return found
