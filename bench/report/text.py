"""How quantities, intervals and columns are written, and sentences from templates."""

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import Objective, column
from bench.common.files import read_tables
from bench.common.messages import count as count  # as text.count, too
from bench.common.messages import printable
from bench.plan.cell import Cell, Value
from bench.plan.learning_rates import origin_of
from bench.plan.metrics import metric_of
from bench.plan.rows import Row
from bench.stats.intervals import Interval

LABELS: Final[Mapping[str, Mapping[str, str]]] = read_tables(__file__, "labels.toml")
_LONGEST: Final = 500  # characters of a row's text that are shown


def num(value: float | None) -> str:
    """A quantity to three or four digits."""
    if value is None:
        return "not measured"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def fixed(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign and a fixed number of decimals."""
    return f"{value:+z.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    return f"{100 * share:g}%"


def times(value: float) -> str:
    return fixed(value, 2)


def score(group: Group, value: float) -> str:
    return fixed(value, group.decimals)


def score_gap(group: Group, value: float) -> str:
    return signed(value, group.decimals)


def by_metric(metric: object, value: float) -> str:
    """A score by a metric, outside a group."""
    return fixed(value) if metric_of(metric).bounded else num(value)


def setting_value(value: Value) -> str:
    """A setting's value in a sentence; `none` for an empty one."""
    return "none" if value is None else str(value)


def span(interval: Interval, shape: Callable[[float], str] = fixed) -> str:
    """Both ends of an interval; empty if it has none."""
    ends = interval.ends()
    return "" if ends is None else f"{shape(ends[0])} to {shape(ends[1])}"


def with_span(interval: Interval, shape: Callable[[float], str] = fixed) -> str:
    """A value, with both ends of its interval in brackets if it has one."""
    ends = span(interval, shape)
    return f"{shape(interval.value)} ({ends})" if ends else shape(interval.value)


def value_of(interval: Interval) -> str:
    return fixed(interval.value)


def difference(interval: Interval) -> str:
    return signed(interval.value)


difference_span: Final = partial(span, shape=signed)
difference_with_span: Final = partial(with_span, shape=signed)
times_with_span: Final = partial(with_span, shape=times)


def range_of(values: Collection[float], shape: Callable[[float], str] = fixed) -> str:
    """The least and the largest of some values; one of them where both look alike."""
    return " to ".join(dict.fromkeys(shape(float(end)) for end in (min(values), max(values))))


def short_name(of: Row | Setting, *names: str) -> str:
    """A mode with some of its rank, layers, unfreezing and AMP, such as `lora r8 attn bf16`."""
    texts = {
        "rank": "" if of.rank is None else f"r{of.rank}",
        "layers": of.layers or "",
        "unfreeze": "" if of.unfreeze in (None, "", "all") else "unfreezing",
        "amp": "fp32" if of.amp == "off" else of.amp,
    }
    return " ".join(filter(None, (of.mode, *(texts[name] for name in names))))


def trained_for(cell: Cell) -> str:
    """How long a cell is trained, and how its learning rates came about."""
    up_to = "up to " if cell.early_stopping else ""
    steps = f", at most {count(cell.max_steps, 'step')}," if cell.max_steps else ""
    rates = f"{origin_of(cell)} learning rates"
    return f"{up_to}{count(cell.epochs, 'epoch')}{steps} at {rates}"


def counted(rows: Collection[Row]) -> str:
    """The number of rows as cells, or as runs where a cell has several rows."""
    return count(len(rows), one_of(rows))


def one_of(rows: Collection[Row]) -> str:
    """The noun for a row: cell, or run where a cell has several rows."""
    cells = {(row.cell_id, row.conditions_id) for row in rows}
    return "cell" if len(cells) == len(rows) else "run"


def no_interval(*runs: int) -> str:
    """The reason why a comparison has no interval, from the runs of each setting."""
    return f"{'one run each, so no' if max(runs) < 2 else 'too few runs for an'} interval"


def plain(text: str) -> str:
    """A text on one line, cut if it is long, with escapes for characters that are invisible or
    change the text around them (control characters, marks of right-to-left text)."""
    if len(text) <= _LONGEST and text.isprintable():
        return text
    line = " ".join(text[: 100 * _LONGEST].split())[: _LONGEST + 1]
    return shortened(printable(line), _LONGEST)


def clean(text: str) -> str:
    """A plain text without folders of this machine."""
    return without_paths(plain(text))


def shortened(text: str, longest: int) -> str:
    """A text of at most so many characters, with an ellipsis at the end if it is cut."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def without_paths(text: str) -> str:
    """A text with absolute paths cut to their last part."""
    text = re.sub(r"(?<![\w.:/])/(?:[^\s/'\":,;()<>]+/)+(?=[^\s/'\":,;()<>])", "…/", text)
    return re.sub(r"(?<!\w)[A-Za-z]:\\(?:[^\s\\'\":]+\\)+(?=[^\s\\])", "…/", text)


def dev_label(metric: str) -> str:
    return f"dev {metric_of(metric).label}"


def y_label(group: Group) -> str:
    return dev_label(group.metric)


def x_label(group: Group, cost: Objective) -> str:
    return LABELS["costs"][column(group, cost)]


def environment(*packages: str, **more: Any) -> Environment:
    """The environment of templates, which call the functions of this module by name."""
    environment = Environment(  # noqa: S701 (callers say how values are escaped)
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "bench.report")]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **more,
    )  # fmt: skip
    environment.globals |= {name: use for name, use in globals().items() if callable(use)}
    return environment


@cache
def _text_environment() -> Environment:
    return environment(finalize=lambda value: " ".join(str(value).splitlines()))


def sentences(template: str, **facts: object) -> list[str]:
    """The lines of a template of plain text that are not empty; each value is on one line."""
    page = _text_environment().get_template(f"{template}.txt.jinja").render(facts)
    return [line for line in page.splitlines() if line.strip()]


def phrase(template: str, macro: str, *facts: object) -> str:
    """The text of a macro of such a template, on one line."""
    module = _text_environment().get_template(f"{template}.txt.jinja").module
    return " ".join(filter(None, map(str.strip, getattr(module, macro)(*facts).splitlines())))
