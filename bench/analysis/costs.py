"""What a setting costs: memory, time, the file to ship and parameters that train."""

from collections.abc import Sequence
from statistics import fmean
from typing import Final, Literal

from adapters.methods import BITFIT
from adapters.names import trains_encoder
from bench.analysis.groups import Group
from bench.analysis.setting import Setting

Need = Literal["memory", "time", "size", "parameters"]
NEEDS: Final[tuple[Need, ...]] = ("memory", "time", "size", "parameters")
_BYTES: Final = 4
"""Bytes of a saved weight, which is in fp32."""


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
        if need == "time":
            return _time(own)
        estimate = own.estimate(group.memory_column)
        return None if estimate is None else estimate.value
    if need == "size":
        is_whole = trains_encoder(setting.mode, setting.layers) or setting.mode == BITFIT
        count = _mean(
            [row.params_total if is_whole else row.params_trainable for row in setting.ok]
        )
        saved = None if is_whole else _mean([row.saved_mib for row in setting.ok])
        if saved is not None:
            return saved * 2**20 / 1e6
        return None if count is None else _BYTES * count / 1e6  # all that old rows have
    return _mean([row.params_trainable for row in setting.ok])


def _time(setting: Setting) -> float | None:
    rate, tokens = setting.estimate("ms_per_1k_tokens"), _mean([r.tokens_total for r in setting.ok])
    if rate is None or tokens is None or setting.encoder:
        whole = setting.estimate("train_s")
        return None if whole is None else whole.value
    return rate.value * tokens / 1e6


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
