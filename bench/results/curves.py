"""Forecast costs by length and batch, in `runs.fit.json` next to runs.csv."""

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, Field, model_validator

from bench.results.datafile import DataFile

Count = Annotated[int, Field(ge=1)]


class Point(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The costs of a setting in batches of one size, memory by owner at the peak; `times_full` is
    the batch against that of full fine-tuning, where both are the largest that fit."""

    setting: str
    mode: str
    layers: str | None
    length: Count
    batch: Annotated[int, Field(ge=0)]
    memory_mib: dict[str, Annotated[float, Field(ge=0)]]
    ms_per_1k_tokens: Annotated[float, Field(ge=0)]
    times_full: float | None = None

    @property
    def peak_mib(self) -> float:
        return sum(self.memory_mib.values())

    def columns(self) -> dict[str, Any]:
        return {**self.model_dump(), **self.memory_mib, "peak_mib": self.peak_mib}


class Curves(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Costs in batches of `batch` texts by length, and of texts of `length` tokens by batch; full
    fine-tuning is first. `under_10` has by setting the length from which on it saves under 10% of
    the memory of full fine-tuning. `notes` say what they are based on."""

    model: str
    batch: Count
    length: Count
    points: tuple[Point, ...]
    under_10: dict[str, int]
    notes: tuple[str, ...]

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        settings = {point.setting for point in self.points if point.batch == self.batch}
        owners = {(*point.memory_mib,) for point in self.points}
        alike = len(owners) == 1 and "activations" in next(iter(owners))
        if not alike or any(p.setting not in settings or not p.peak_mib for p in self.points):
            raise ValueError("its points differ in their owners, or lack a length")
        return self


CURVES: Final = DataFile(".fit.json", Curves, "forecast costs by length and batch")


def curves_key(model_digest: str, device: str) -> str:
    return f"{model_digest} {device.partition(':')[0]}"
