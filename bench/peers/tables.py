"""Tables and sentences of a comparison, the same for a terminal and for pages. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.machine.conditions import Conditions
from bench.peers.curves import TOLERANCE
from bench.peers.names import ABOUT, OURS
from bench.peers.rows import NOT_COMPILED, Row
from bench.plan.cell import Cell
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, num, span, times
from bench.stats.intervals import Interval

_ALWAYS: Final = ("setting", "side")
_OPERATORS: Final = 12
"""Operators with a row of their own."""


def _heads(*columns: tuple[str, str, str]) -> list[Head]:
    names = [Head(name, name) for name in _ALWAYS]
    return [*names, *(Head(key, text, about, numeric=True) for key, text, about in columns)]


_TIMES: Final = _heads(
    ("ms_per_1k_tokens", "ms per 1,000 tokens", "a whole training step's time over real tokens"),
    ("ms_ci", "95% interval", "over rounds and passes"),
    ("time_ratio", "ours / theirs", "the ratio of times, rounds paired; below 1 ours is faster"),
    ("ratio_ci", "95% interval", "over rounds and passes"),
    ("limit_share", "of the limit", "the time of the required matrix products, over this time"),
    ("startup_s", "start-up, s", "from launch to the first step"),
    ("compile_s", "compiling, s", "in the first round, on an empty cache"),
    ("flags", "flags", "doubts about the times, in any round"),
)
_MEMORY: Final = _heads(
    ("peak_above_imports_mib", "peak, MiB", "resident, above the imports"),
    ("memory_ratio", "ours / theirs", "the ratio of the peaks; below 1 ours is smaller"),
    ("peak_anon_above_imports_mib", "anonymous, MiB", "the same without mapped files"),
    ("peak_cuda_allocated_mib", "CUDA, MiB", "the peak allocated by torch's tensors"),
    ("activations_mib", "kept for backward, MiB", "by the forward pass of the largest batch"),
    ("imports_mib", "imports, MiB", "resident after importing the libraries"),
)
_WORK: Final = _heads(
    ("panel_tokens", "real tokens", "in the timed batches"),
    ("panel_padded", "with padding", "in the timed batches"),
    ("epoch_share", "padding in an epoch", "the share of tokens that is padding"),
    ("loss_steps", "steps compared", "without dropout, on the same batches"),
    ("loss_difference", "loss difference", "the largest, from ours"),
    ("agrees", "same work", "whether the difference is within the tolerance"),
)
_LIMIT: Final = _heads(
    ("gflop_per_1k_tokens", "GFLOP per 1,000 tokens", "required by the setting"),
    ("limit_gflops", "GFLOP/s", "measured on products of these shapes"),
    ("limit_ms_per_1k_tokens", "limit, ms", "per 1,000 tokens"),
)
_WHOLE: Final = _heads(
    ("seconds", "seconds", "from process start to dev score"),
    ("seconds_ci", "95% interval", "over rounds"),
    ("time_ratio", "ours / theirs", "the ratio of times, rounds paired"),
    ("ratio_ci", "95% interval", "over rounds"),
    ("peak_rss_mib", "peak RSS, MiB", "of the whole process"),
    ("memory_ratio", "ours / theirs", "the ratio of the peaks"),
    ("dev_score", "dev score", "after the last step"),
)


def step_tables(rows: Sequence[Row]) -> list[Table]:
    """Tables of times, memory, the work done and the limit."""
    ours = [row for row in rows if row["side"] == OURS]
    return [
        _table(_TIMES, rows, "Time of a training step, and the share of the limit that it reaches"),
        _table(_MEMORY, rows, "Memory, each side above its own imports"),
        _table(_WORK, rows, "The work: tokens, and losses against ours"),
        _table(_LIMIT, ours, "The limit: matrix products that no implementation can leave out"),
    ]


def whole_tables(rows: Sequence[Row]) -> list[Table]:
    """The table of whole cells."""
    return [_table(_WHOLE, rows, "A whole cell, from process start to dev score")]


def operator_tables(
    operators: Mapping[str, Mapping[str, Sequence[Sequence[Any]]]],
) -> list[Table]:
    """For each setting the slowest operators of any side, with ms and calls per step."""
    tables = []
    for setting, sides in operators.items():
        by_side = [{row[0]: row for row in rows} for rows in sides.values()]
        longest = {
            name: max(side[name][2] or 0.0 for side in by_side if name in side)
            for name in dict.fromkeys(name for side in by_side for name in side)
        }
        shown = sorted(longest, key=lambda name: -longest[name])[:_OPERATORS]
        heads = [Head("operator", "operator")]
        for side in sides:
            heads += [
                Head(f"{side}_ms", f"{side}, ms", "per step, on a batch of medium size", True),
                Head(f"{side}_calls", "calls", "per step", True),
            ]
        rows = [
            [name, *(text for side in by_side for text in _operator(side.get(name)))]
            for name in shown
        ]
        others = [name for name in longest if name not in shown]
        rest = []
        for side_rows in by_side:
            left = [side_rows[name] for name in others if name in side_rows]
            rest += _operator(["", sum(row[1] for row in left), sum(row[2] or 0 for row in left)])
        tables.append(Table(heads, [*rows, ["all others", *rest]], f"A step of {setting}"))
    return tables


def _operator(row: Sequence[Any] | None) -> list[str]:
    """The ms and calls of an operator."""
    if row is None:
        return [DASH, DASH]
    return [DASH if row[2] is None else f"{row[2]:.1f}", f"{row[1]:.0f}" if row[1] else DASH]


def _table(heads: Sequence[Head], rows: Sequence[Row], caption: str) -> Table:
    """A table of some columns, without those that are empty in all rows."""
    texts = [[_text(head.key, row) for head in heads] for row in rows]
    shown = [
        place
        for place, head in enumerate(heads)
        if head.key in _ALWAYS or any(text[place] != DASH for text in texts)
    ]
    return Table(
        [heads[place] for place in shown],
        [[text[place] for place in shown] for text in texts],
        caption,
        marks=["baseline" if row["side"] == OURS else "" for row in rows],
    )


def _text(key: str, row: Row) -> str:
    if key.endswith("_ci"):
        name = {"ms_ci": "ms_per_1k_tokens", "ratio_ci": "time_ratio", "seconds_ci": "seconds"}[key]
        if row[name] is None:
            return DASH
        interval = Interval(row[name], row[f"{name}_ci_low"], row[f"{name}_ci_high"])
        return span(interval, times if key == "ratio_ci" else num) or DASH
    if key == "side" and row["status"] != "ok":
        return f"{row['side']} ({row['status']})"
    if key == "epoch_share":
        padded = row["epoch_padded"]
        return DASH if not padded else f"{1 - row['epoch_tokens'] / padded:.0%}"
    value = row[key]
    if value is None or value == "":
        return DASH
    if key in _ALWAYS or key == "flags":
        return str(value)
    if key == "agrees":
        return "yes" if value else "NO"
    if key == "loss_difference":
        return f"{value:.1e}" if value else "0"
    if key in ("panel_tokens", "panel_padded", "loss_steps"):
        return f"{value:,}"
    if key == "limit_share":
        return f"{value:.0%}"
    if key.endswith("_ratio"):
        return times(value)
    return f"{value:.3f}" if key == "dev_score" else num(value)


def description(
    cells: Sequence[Cell],
    sides: Sequence[str],
    conditions: Conditions,
    versions: Mapping[str, str],
    rows: Sequence[Row],
) -> list[str]:
    """Sentences on the sides, the settings and the machine."""
    cell = cells[0]
    compiled = "; our training step through torch.compile" if cell.is_compiled else ""
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        *(f"{side}: {ABOUT[side]}." for side in sides),
        f"All sides: model {cell.model} ({cell.init}), task {cell.task}, pooling {cell.pooling}, "
        f"batches of {cell.batch_size}, at most {cell.max_length} tokens per text, dropout "
        f"{cell.dropout:g} and none inside adapters, AdamW (fused) with weight decay "
        f"{cell.weight_decay:g} on matrices, gradients clipped to a norm of 1, a linear schedule "
        f"with a warm-up of {cell.warmup:.0%}, the same initial weights, and {_rates(cells)}"
        f"{compiled}.",
        f"Machine: {conditions.machine}; device {conditions.device}, {conditions.threads} threads; "
        f"torch {conditions.torch_version}, {libraries}; {_rounds(rows)} of fresh processes that "
        "alternate.",
    ]


def _rounds(rows: Sequence[Row]) -> str:
    """The number of rounds of the baselines that have any."""
    numbers = {row["rounds"] for row in rows if row["side"] != OURS and row["rounds"]} or {0}
    low, high = min(numbers), max(numbers)
    return count(high, "round") if low == high else f"{low} to {high} rounds"


def _rates(cells: Sequence[Cell]) -> str:
    """The learning rates of each mode, and the adapters' alpha."""
    texts: dict[str, None] = {}
    for cell in cells:
        rates = {
            "": cell.learning_rate,
            " (base)": cell.learning_rate_base,
            " (head)": cell.learning_rate_head,
        }
        parts = [f"{rate:g}{what}" for what, rate in rates.items() if rate is not None]
        alpha = "" if cell.alpha is None else f" with alpha {cell.alpha:g}"
        texts[f"{cell.mode} {', '.join(parts)}{alpha}"] = None
    return f"learning rates {'; '.join(texts)}"


def findings(rows: Sequence[Row]) -> list[str]:
    """Sentences on the ratios, for each baseline and for each setting's fastest one."""
    sentences = []
    sides = list(dict.fromkeys(row["side"] for row in rows if row["side"] != OURS))
    for side in sides:
        sentences += _range(f"Against {side}", [row for row in rows if row["side"] == side])
    if len(sides) > 1:
        compared = [row for row in rows if row["time_ratio"] is not None]
        best = {
            setting: min(
                (row for row in compared if row["setting"] == setting),
                key=lambda row: row["ms_per_1k_tokens"],
            )
            for setting in dict.fromkeys(row["setting"] for row in compared)
        }
        sentences += _range("Against each setting's fastest baseline", list(best.values()))
    left_out = [row for row in rows if row["status"] == NOT_COMPILED]
    sentences += [f"{row['setting']}, {row['side']}: {row['message']}." for row in left_out]
    return sentences


def _range(opponent: str, rows: Sequence[Row]) -> list[str]:
    texts = []
    for name, what in (("time_ratio", "time"), ("memory_ratio", "memory")):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            low, high = times(min(values)), times(max(values))
            texts.append(f"{low} times the {what}" if low == high
                         else f"{low} to {high} times the {what}")  # fmt: skip
    return [f"{opponent}, ours takes {' and '.join(texts)}."] if texts else []


def tolerances(rows: Sequence[Row]) -> str:
    """A sentence on the tolerances of losses."""
    amps = [amp for amp in TOLERANCE if any(row["amp"] == amp for row in rows)]
    limits = [f"{TOLERANCE[amp]:g} in {'fp32' if amp == 'off' else amp}" for amp in amps]
    return f"Losses may differ by {' and '.join(limits)}."
