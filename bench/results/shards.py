"""Which shards of which plans are in a file of results: `runs.shards.json`, by `Division.plan`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from bench.common.errors import InputError
from bench.common.messages import some_of
from bench.plan.shards import Shard
from bench.results.datafile import DataFile


class Shards(BaseModel, extra="forbid", frozen=True):
    """The shards of a plan that have begun, of `count`."""

    count: int
    begun: tuple[int, ...]

    def __add__(self, other: "Shards | None") -> "Shards":
        more = () if other is None else other.begun
        return Shards(count=self.count, begun=tuple(sorted({*self.begun, *more})))

    @property
    def missing(self) -> list[str]:
        return [f"{i}/{self.count}" for i in range(self.count) if i not in self.begun]


SHARDS: Final = DataFile(".shards.json", Shards, "which shards of a plan have run")


def keep_shard(runs: Path, plan: str, shard: Shard) -> None:
    own = Shards(count=shard.count, begun=(shard.index,))
    SHARDS.update(runs, plan, lambda known: own + known)


def merged_shards(
    files: Mapping[Path, Mapping[str, Shards]],
) -> tuple[dict[str, Shards], list[str]]:
    """The shards in some files together, and lines on plans of which some are missing. InputError
    for files with parts of plans, none of which is in all of them."""
    every: dict[str, Shards] = {}
    for plans in files.values():
        for plan, shards in plans.items():
            every[plan] = shards + every.get(plan)
    missing = {plan: shards.missing for plan, shards in every.items() if shards.missing}
    common, first = set(missing), Path()
    for path, plans in files.items():
        if missing.keys() & plans.keys() and not common & plans.keys():
            raise InputError(
                f"{path}: has shards of another plan than {first}, and neither plan is whole; "
                "rerun the shards whose printed plan differs, or unite the shards of each first"
            )
        if missing.keys() & plans.keys():
            common, first = common & plans.keys(), path
    notes = [f"plan {plan}: shards {some_of(of, 9)} are missing" for plan, of in missing.items()]
    return every, notes
