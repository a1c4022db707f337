"""What a setting costs; limits and margins, by the syntax of --where and --margin. Pure."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any, Final, Literal, cast

from adapters.methods import BITFIT
from adapters.names import trains_encoder
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.common.errors import InputError
from bench.plan.metrics import Metric

Need = Literal["memory", "time", "size", "parameters"]
NEEDS: Final[tuple[Need, ...]] = ("memory", "time", "size", "parameters")
_WEIGHT_BYTES: Final = 4  # bytes of a saved weight, which is in fp32
_BYTES: Final = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20,
                 "GiB": 2**30}  # fmt: skip
UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "memory": {unit: size / 2**20 for unit, size in _BYTES.items()},
    "time": {"s": 1.0, "min": 60.0, "h": 3600.0},
    "size": {unit: size / 1e6 for unit, size in _BYTES.items()},
    "parameters": {"": 1.0, "k": 1e3, "M": 1e6},
    "score": {"": 1.0, "%": 0.01},
}
"""What a limit may be on, with its units and their sizes in MiB, seconds, MB, parameters and the
unit of the score."""
TERM: Final = re.compile(r"([a-z]+)\s*(<=|>=)\s*([0-9.eE+-]+?)\s*([A-Za-z%]*)(?=\s|$)")
_LEAST: Final = 1e-6  # the smallest margin, in its unit
EXAMPLE: Final = "memory<=6GiB time<=30min score>=0.60 size<=5MB parameters<=1M"


@dataclass(frozen=True)
class Limit:
    """A limit on a cost or on the score, in MiB, seconds, MB, parameters or the unit of the score;
    `text` is as it was written."""

    name: Need | Literal["score"]
    at_most: bool
    value: float
    text: str

    def shortfall(self, value: float) -> float:
        """By what share of the limit a value misses it: 0 if it meets it, infinite if it is NaN."""
        if value != value:
            return float("inf")
        excess = value - self.value if self.at_most else self.value - value
        return max(0.0, excess) / max(abs(self.value), 1e-12)


def parse_where(text: str) -> tuple[Limit, ...]:
    """The limits in a text such as `memory<=6GiB time<=30min score>=0.60 size<=5MB`; InputError
    with what is allowed for anything else."""
    limits, rest = [], text.lstrip()
    while rest:
        match = TERM.match(rest)
        if match is None:
            raise InputError(f"--where: {rest.split()[0]!r} is not a limit such as {EXAMPLE}")
        limits.append(_limit(*match.groups()))
        rest = rest[match.end() :].lstrip()
    return tuple(limits)


def _limit(name: str, operator: str, number: str, unit: str) -> Limit:
    text = f"{name}{operator}{number}{unit}"
    if name not in UNITS:
        raise InputError(f"--where: no limit can be on {name!r}; choose {', '.join(UNITS)}")
    if unit not in UNITS[name]:
        units = ", ".join(unit or "none" for unit in UNITS[name])
        raise InputError(f"--where: {text!r}: {name} needs a unit of these: {units}")
    if name != "score" and operator == ">=":
        raise InputError(f"--where: {text!r}: {name} is limited from above: {name}<=…")
    try:
        value = float(number) * UNITS[name][unit]
    except ValueError:
        raise InputError(f"--where: {text!r}: {number!r} is not a number") from None
    if not isfinite(value) or (name != "score" and value <= 0):
        raise InputError(f"--where: {text!r}: {number!r} is not a limit of {name}")
    return Limit(cast(Any, name), operator == "<=", value, text)


def parse_margin(
    text: str, metric: Metric, reference: float | None, option: str = "--margin"
) -> float:
    """A margin such as `1pt`, `5%` or `0.1`, given by an option, as a positive difference of
    scores. Points are hundredths of a bounded metric, percent are of the reference, the score of
    full fine-tuning in fp32 if it was measured, and a plain number is in the unit of the score.
    InputError if it is no such margin, or the metric or the rows have no such unit."""
    match = re.fullmatch(r"\s*([0-9.eE+-]+?)\s*(pt|%|)\s*", text)
    number = -1.0
    with suppress(ValueError):
        number = float(match[1]) if match else number
    if match is None or not _LEAST <= number < float("inf"):
        raise InputError(f"{option}: {text!r} is not a positive margin such as 1pt, 5% or 0.1")
    if match[2] == "pt":
        if not metric.bounded:
            raise InputError(
                f"{option}: {text!r}: {metric.label} has no points; give a share such as 5%, or a "
                "number in its unit"
            )
        return number / 100
    if match[2] == "%":
        if reference is None:
            raise InputError(
                f"{option}: {text!r} is a share of the score of full fine-tuning in fp32, which "
                'was not measured; give points, or run bench.grid with --select "mode=full amp=off"'
            )
        return number / 100 * abs(reference)
    return number


def cost_of(group: Group, setting: Setting, need: Need) -> float | None:
    """A cost of a setting: memory in MiB, the time of one training in seconds, the size in MB of
    the file that is shipped with the base model, or the number of trained parameters.

    Memory and time are over the seeds and folds that all settings which may be recommended have in
    common, since seeds cost differently; those of a setting without them are over its own.

    The time is that of training's steps on all its tokens; where these were not counted, as in old
    rows, and among several encoders, that of the whole training. The file has what differs from the
    base: adapter and head, or the whole model where the rest of the encoder trains too, or its
    biases, for which PEFT's format has no place. None where it was not measured.
    """
    if need in ("memory", "time"):
        common = group.common_places
        has_all = common and common <= setting.places(group.memory_column)
        own = setting.at(common) if has_all else setting
        return _time(own) if need == "time" else own.mean(group.memory_column)
    trained = _mean(row.params_trainable for row in setting.ok)
    if need == "parameters":
        return trained
    if trains_encoder(setting.mode, setting.layers) or setting.mode == BITFIT:
        saved, count = None, _mean(row.params_total for row in setting.ok)
    else:
        saved, count = _mean(row.saved_mib for row in setting.ok), trained
    if saved is not None:
        return saved * 2**20 / 1e6
    return None if count is None else _WEIGHT_BYTES * count / 1e6  # all that old rows have


def _time(setting: Setting) -> float | None:
    rate, tokens = setting.mean("ms_per_1k_tokens"), _mean(r.tokens_total for r in setting.ok)
    if rate is None or tokens is None or setting.encoder:
        return setting.mean("train_s")
    return rate * tokens / 1e6


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
