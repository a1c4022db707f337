"""Forecast costs by length and batch: curves in `runs.fit.json` next to runs.csv, by model."""

from typing import Final

from pydantic import BaseModel

from bench.results.datafile import DataFile


class Point(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The costs of a setting at one size; memory is that of each owner at the peak."""

    batch: int
    length: int
    memory_mib: dict[str, float]
    ms_per_1k_tokens: float

    @property
    def peak_mib(self) -> float:
        return sum(self.memory_mib.values())


class Curve(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """A setting by length in batches of one size, and by batch at one length. `under_10` is the
    length from which on it saves under 10% of the memory of full fine-tuning; None: it never does,
    or does so at every length."""

    setting: str
    mode: str
    layers: str | None
    by_length: tuple[Point, ...]
    by_batch: tuple[Point, ...]
    under_10: int | None


class Curves(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The curves of a model on a kind of device, the first that of full fine-tuning; `notes` say
    what they are based on."""

    model: str
    device: str
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]


def curves_key(model_digest: str, device: str) -> str:
    return f"{model_digest} {device.partition(':')[0]}"


_FILE: Final = DataFile(".fit.json", Curves, "forecast costs by length and batch")
read_curves: Final = _FILE.read
update_curves: Final = _FILE.update
