"""The format of runs.csv: columns, how fields are written and read, and parts of `multitask`."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final, get_args, get_type_hints

from adapters.methods import MODES
from adapters.names import is_layers
from bench.plan.cell import ABOUT, ALWAYS, OFF, TASK, TASK_FORM, WHERE, Columns, Value, plain_type
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import DECLARED, FLAGS, KIND_NAMES, SCHEMA, STATUSES, Row
from minbert.registry import NAME, PLUGIN

PART_SCORES: Final = {"sst": "dev_sentiment", "quora": "dev_paraphrase", "sts": "dev_similarity"}
"""The parts of task `multitask`, and the column of each part's dev score."""
CORRELATED: Final = ("sts",)
"""Parts whose score is a correlation r, counted as (1 + r) / 2; the others have an accuracy."""
SINGLE: Final = ("sst",)  # parts with single texts; the others have pairs of texts

VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: about.values for name, about in ABOUT.items() if about.values},
    "dev_metric": ROW_METRICS,
}
"""Columns of text that hold one of a few names, with these."""


POSITIVE: Final = re.compile(
    r"learning_rate(_base|_head)?|peak_(rss|cuda_allocated)_mib|ms_per_1k_tokens|step_ms_median"
)
"""Columns whose values are divided by, or shown on logarithmic axes."""
LARGEST: Final = 1e30  # a bound that no quantity comes near; NaN and infinity are beyond it

_ID: Final = re.compile(r"\w{1,64}")
_FORMS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    "status": (STATUSES.__contains__, "is no status"),
    **dict.fromkeys(("cell_id", "conditions_id"), (_ID.fullmatch, "is no digest")),
    "flags": (lambda text: set(text.split()) <= FLAGS.keys(), "holds an unknown flag"),
    "device": (
        re.compile(r"cpu|cuda:[0-9]{1,4}").fullmatch, "is no device, which is cpu or cuda:i",
    ),
    "layers": (is_layers, "is no layer set, nor the ends of layers' names"),
    "task": (TASK.fullmatch, f"is not {TASK_FORM}"),
    "adapter": (
        re.compile(r"[a-z0-9_]{1,40} [0-9a-f]{8}").fullmatch,
        "is no type of adapter with a digest, such as loha 1a2b3c4d",
    ),
    "plugin": (PLUGIN.fullmatch, "is no distribution with a version, such as mine 1.0"),
}  # fmt: skip
"""Columns of text in a form of their own: what tests a text, and what it is if the test fails."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of runs.csv: its group (axes, settings, or one of those in columns.toml), words for
    the rows in which it can have a value, a key of `WHERE`, and its heading in a table of cells."""

    name: str
    kind: type[str] | type[int] | type[float]
    group: str
    meaning: str
    where: str = ""
    title: str

    def applies(self, row: Mapping[str, Any]) -> bool:
        return WHERE[self.where](row)

    def applies_to(self, row: Row) -> bool:
        return self.applies(vars(row))


def _columns() -> tuple[Column, ...]:
    kinds = {name: plain_type(hint) for name, hint in get_type_hints(Row).items()}
    lists = {"statuses": ", ".join(STATUSES), "flags": ", ".join(FLAGS)}

    def column(name: str, group: str, about: Mapping[str, Any]) -> Column:
        meaning, title = about["meaning"].format(**lists), about.get("title") or name
        where, kind = about.get("where", ""), kinds[name]
        return Column(name=name, kind=kind, group=group, meaning=meaning, where=where, title=title)

    settings = [
        column(name, "axes" if about.compared == "axis" else "settings", vars(about))
        for name, about in ABOUT.items()
    ]
    alpha, meaning = [*ABOUT].index("alpha"), "the factor of the adapter's update"
    scale = replace(settings[alpha], name="scale", kind=float, meaning=meaning, title="scale")
    settings.insert(alpha + 1, scale)
    others = [column(name, about["group"], about) for name, about in DECLARED.items()]
    first = sum(one.group == "identity" for one in others)
    return *others[:first], *settings, *others[first:]


COLUMNS: Final = _columns()
BY_NAME: Final = {column.name: column for column in COLUMNS}
NAMES: Final = tuple(BY_NAME)


def group_names(group: str) -> tuple[str, ...]:
    return tuple(column.name for column in COLUMNS if column.group == group)


_OPTIONAL: Final = {n for n, hint in get_type_hints(Row).items() if type(None) in get_args(hint)}
REQUIRED: Final = frozenset(item.name for item in fields(Row)) - _OPTIONAL
"""Columns that no row is without."""
_EMPTY: Final[dict[str, Value]] = {
    item.name: None if item.default is MISSING else item.default for item in fields(Row)
}
_LATER: Final = {n: about for n, about in ABOUT.items() if about.before not in (ALWAYS, None)}
"""Settings that older rows lack although they had a value for them."""


def row_of(values: Mapping[str, Value]) -> Row:
    """A row from values by column; columns that are newer than its schema may be missing.
    ValueError if a column is unknown, or empty although no row can be without it."""
    if unknown := values.keys() - BY_NAME.keys():
        raise ValueError(f"{', '.join(sorted(unknown))}: no such columns")
    complete = _EMPTY | dict.fromkeys(ABOUT) | dict(values) | {"schema": SCHEMA}
    for name, about in _LATER.items():
        if name not in values and about.applies(complete):
            complete[name] = about.before
    if "regression_loss" not in values and complete["dev_metric"] != "pearson":
        complete["regression_loss"] = None  # without a score the kind of task is not known
    complete["tf32"] = complete["tf32"] or OFF  # empty in older rows on a CPU
    for name in REQUIRED:
        if complete[name] in (None, ""):
            raise ValueError(f"{name} is empty")
    return complete_row(complete)


def complete_row(values: dict[str, Value]) -> Row:
    """A row from valid values of all columns, which become its own: faster than its constructor,
    for large files. ValueError for a mode that no plugin has, nor this project."""
    values.pop("scale", None)  # follows from others
    if values["mode"] not in MODES and values["plugin"] is None:
        raise ValueError(f"mode: {values['mode']!r} is not one of {', '.join(MODES)}")
    row = object.__new__(Row)
    object.__setattr__(row, "__dict__", values)
    return row


def values_of(row: Row) -> Columns:
    return {name: row[name] for name in NAMES}


def format_value(value: Value) -> str:
    """A field of runs.csv: floats to seven significant digits, None empty."""
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def parse_value(name: str, text: str) -> Value:
    """The value of a field of runs.csv; ValueError if the text is not of the column's kind, or not
    one of its names."""
    if text == "":
        return None
    has_form, otherwise = _FORMS.get(name, (bool, ""))
    if not has_form(text):
        raise ValueError(f"{text[:60]!r} {otherwise}")
    is_method = name == "mode" and NAME.fullmatch(text)  # of a plugin that may not be installed
    if text not in VALUES.get(name, (text,)) and not is_method:
        raise ValueError(f"{text[:60]!r} is not one of {', '.join(VALUES[name])}")
    kind = BY_NAME[name].kind
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is no {KIND_NAMES[kind]}") from None
    if not isinstance(value, str) and not -LARGEST < value < LARGEST:
        raise ValueError(f"{text[:60]!r} is out of range")
    low = 0.0 if POSITIVE.fullmatch(name) else -LARGEST
    if isinstance(value, float) and (value <= low or 0 < abs(value) < 1 / LARGEST):
        raise ValueError(f"{text[:60]!r} is too small")
    return value


def learning_rates(mode: str, layers: str | None) -> tuple[str, ...]:
    """The rate columns that apply to a mode and layer set."""
    rates = ("learning_rate", "learning_rate_base", "learning_rate_head")
    axes = {"mode": mode, "layers": layers}
    return tuple(name for name in rates if BY_NAME[name].applies(axes))


def format_parts(values: Mapping[str, float]) -> str:
    """A setting by part as a field of runs.csv, such as `quora=5 sst=4 sts=3`."""
    return " ".join(f"{part}={values[part]:.7g}" for part in sorted(values))


def parse_parts(text: str) -> dict[str, float]:
    """The inverse of `format_parts`; ValueError for anything else."""
    values: dict[str, float] = {}
    for term in text.split(" "):
        part, _, value = term.partition("=")
        number = float(value)
        if part not in PART_SCORES or part in values or not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{text[:60]!r} is no setting by part, such as quora=5 sst=4 sts=3")
        values[part] = number
    return values


def most_encoders(parts: Collection[str]) -> int:
    """The largest number of encoders: two where there are both single texts and pairs."""
    return len({part in SINGLE for part in parts})


def part_scores(row: Row) -> dict[str, float]:
    """The dev scores in a row, by part; parts without one are left out."""
    scores = {part: row[column] for part, column in PART_SCORES.items()}
    return {part: score for part, score in scores.items() if isinstance(score, float)}
