"""What a grid is run on: the embedded movies and bert-tiny, or stubs for a worker without torch."""

import os
import sys
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from bench.executors.local import LocalExecutor
from bench.grid.inputs import Inputs
from bench.grid.session import Session
from bench.machine.conditions import Conditions, Target, find_conditions
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.plan.gridfile import Axes, Grid, Settings
from bench.plan.models import Model, find_model
from bench.plan.planning import Resolved, expand
from bench.results.store import Store
from minbert.data.tasks import Examples, TaskData, find_task, load_task
from minbert.model.config import GEOMETRIES
from tests.experiments.faults.kinds import CELLS
from tests.experiments.pages import ROOT


@dataclass(frozen=True, kw_only=True)
class Setup:
    grid: Grid
    conditions: Conditions
    model: Model
    data: TaskData
    argv: tuple

    def target(self, device_name, device=Device()):  # noqa: B008
        return Target(self.conditions, "bf16", device_name, device)

    @property
    def cells(self):
        model = self.model
        resolved = Resolved(
            model=model.name, model_digest=model.digest, pooling=model.pooling,
            data_digest=self.data.digest[:16], amp_on="bf16", learning_rate_source="grid",
        )  # fmt: skip
        return expand(self.grid, resolved)

    def session(self, runs, slots, argv=(), **options):
        """A session that runs cells on slots of this machine, by `argv` or the usual command."""
        models = {self.model.name: self.model}
        usual = {
            "inputs": Inputs(grid=self.grid, models=models, data=self.data, data_folder=None),
            "executor": LocalExecutor(runs, slots, tuple(argv) or self.argv), "keep": False,
            "reports": runs.parent / "reports", "store": Store(runs), "timeout_s": None,
            "arguments": (),
        }  # fmt: skip
        return Session(**usual | options)


def slots_of(conditions, number, *, gpus=False):
    """Slots on GPUs, or on the CPU and a core each, of which there may be one."""
    own, slots = sorted(os.sched_getaffinity(0)), []
    for i in range(number):
        name = f"GPU-{i}" if gpus else "cpu"
        device = Device(f"cuda:{i}", GpuInfo("A100", "", (8, 0), name)) if gpus else Device()
        here = replace(conditions, sharing=f"{number} workers", device=device.name)
        slots.append(Target(here, "bf16", name, device, frozenset([own[i % len(own)]])))
    return slots


@cache
def setup(worker, seeds=None):
    """By default of the seeds in `CELLS`."""
    if worker == "fake":
        one = Examples(("a",), None, np.zeros(1, dtype=np.int64))
        config = GEOMETRIES["bert-tiny"]
        settings = Settings(model="stub", init="random", seeds=seeds or CELLS["fake"])
        return Setup(
            grid=Grid(name="faults", settings=settings, cells=[Axes(mode=["head"])]),
            conditions=Conditions("cpu", "none", "none", 1, "none", 1, "none"),
            model=Model("stub", "0" * 16, "pooler", config, None, "bert-tiny", ROOT),
            data=TaskData(find_task("movies"), one, one),
            argv=(sys.executable, "-S", "-m", "tests.experiments.faults.worker"),
        )
    settings = Settings(
        model="bert-tiny", init="random", seeds=CELLS["real"], epochs=1, max_steps=3, max_train=96,
        max_dev=32, max_length=64, batch_size=32,
    )  # fmt: skip
    adapters = Axes(mode=["lora"], rank=[1], layers=["attn-only"])
    return Setup(
        grid=Grid(name="faults", settings=settings, cells=[adapters]),
        conditions=replace(find_conditions("cpu").conditions, threads=1),
        model=find_model(settings.models[0], settings.init, settings.pooling),
        data=load_task("movies", max_train=settings.max_train, max_dev=settings.max_dev),
        argv=(sys.executable, "-m", "tests.experiments.faults.worker", "real"),
    )
