"""What a grid is run on: the embedded movies and bert-tiny, or stubs for a worker without torch."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.executors.local import LocalExecutor
from bench.grid.inputs import Inputs
from bench.grid.session import Session
from bench.machine.conditions import Conditions, Target, find_conditions
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.plan.cell import Cell
from bench.plan.gridfile import Axes, Grid, Settings
from bench.plan.models import Model, find_model
from bench.plan.planning import Resolved, expand
from bench.results.store import Store
from minbert.data.tasks import Examples, TaskData, find_task, load_task
from minbert.model.config import GEOMETRIES
from tests.experiments.faults.kinds import CELLS

ROOT: Final = Path(__file__).parents[3]
DEFAULT_DEVICE: Final = Device()


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that a grid's runs share, and the worker's command."""

    grid: Grid
    conditions: Conditions
    model: Model
    data: TaskData
    argv: tuple[str, ...]

    def target(self, device_name: str, device: Device = DEFAULT_DEVICE) -> Target:
        """The conditions, with a device of this name."""
        return Target(self.conditions, "bf16", device_name, device)

    @property
    def inputs(self) -> Inputs:
        models = {self.model.name: self.model}
        return Inputs(grid=self.grid, models=models, data=self.data, data_folder=None)

    @property
    def cells(self) -> list[Cell]:
        resolved = Resolved(
            model=self.model.name,
            model_digest=self.model.digest,
            pooling=self.model.pooling,
            data_digest=self.data.digest[:16],
            amp_on="bf16",
            learning_rate_source="grid",
        )
        return expand(self.grid, resolved)

    def session(
        self, runs: Path, slots: Sequence[Target], argv: Sequence[str] = (), **options: Any
    ) -> Session:
        """A session that runs cells on slots of this machine, beside a runs.csv.

        Args:
            argv: the worker's command, if it is not the usual one.
        """
        executor = LocalExecutor(runs, slots, tuple(argv) or self.argv)
        usual = {"store": Store(runs), "keep": False, "timeout_s": None, "arguments": ()}
        return Session(
            inputs=self.inputs,
            executor=executor,
            reports=runs.parent / "reports",
            **{**usual, **options},
        )


def slots_of(conditions: Conditions, number: int, *, gpus: bool = False) -> list[Target]:
    """Slots on GPUs, or on the CPU and a core each, of which there may be one."""
    own = sorted(os.sched_getaffinity(0))
    conditions = replace(conditions, sharing=f"{number} workers")
    return [
        Target(
            replace(conditions, device=f"cuda:{i}" if gpus else "cpu"),
            "bf16",
            f"GPU-{i}" if gpus else "cpu",
            Device(f"cuda:{i}", GpuInfo("A100", "", (8, 0), f"GPU-{i}")) if gpus else Device(),
            frozenset([own[i % len(own)]]),
        )
        for i in range(number)
    ]


@cache
def setup(worker: str) -> Setup:
    return _fake() if worker == "fake" else _real()


def _fake() -> Setup:
    one = Examples(("a",), None, np.zeros(1, dtype=np.int64))
    config = GEOMETRIES["bert-tiny"]
    return Setup(
        grid=Grid(
            name="faults",
            settings=Settings(model="stub", init="random", seeds=CELLS["fake"]),
            cells=[Axes(mode=["head"])],
        ),
        conditions=Conditions(
            device="cpu",
            device_name="none",
            machine="none",
            threads=1,
            torch_version="none",
            measurement_version=1,
            code_version="none",
        ),
        model=Model("stub", "0" * 16, "pooler", config, None, "bert-tiny", ROOT),
        data=TaskData(find_task("movies"), one, one),
        argv=(sys.executable, "-S", "-m", "tests.experiments.faults.fake_worker"),
    )


def _real() -> Setup:
    settings = Settings(
        model="bert-tiny",
        init="random",
        seeds=CELLS["real"],
        epochs=1,
        max_steps=3,
        max_train=96,
        max_dev=32,
        max_length=64,
        batch_size=32,
    )
    adapters = Axes(mode=["lora"], rank=[1], layers=["attn-only"])
    conditions = find_conditions("cpu").conditions
    return Setup(
        grid=Grid(name="faults", settings=settings, cells=[adapters]),
        conditions=replace(conditions, threads=1),
        model=find_model(settings.models[0], settings.init, settings.pooling),
        data=load_task("movies", max_train=settings.max_train, max_dev=settings.max_dev),
        argv=(sys.executable, "-m", "tests.experiments.faults.real_worker"),
    )
