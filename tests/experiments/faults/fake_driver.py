"""A driver and its GPUs as tables: NVML as the module `pynvml` shows it, and CUDA as torch does."""

import os
from dataclasses import dataclass, field, replace
from itertools import takewhile
from unittest import mock

import torch

from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import Answer, GpuInfo

BUILT = ((7, 5), (8, 0), (9, 0), (12, 0))


@dataclass(frozen=True)
class FakeGpu:
    """A GPU; `failures` as of `Answer`, `near` the hardware threads near it."""

    uuid: str
    name: str = "NVIDIA A100"
    capability: tuple = (8, 0)
    failures: dict = field(default_factory=dict)
    memory_mib: int = 80 * 2**10
    near: object = ()


class FakeNvml:
    """NVML of a driver with some GPUs. `errors` maps the names of calls to the error they raise."""

    class NVMLError(Exception):
        def __init__(self, value):
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, *gpus, driver="580.65", errors=None):
        self.gpus, self.driver = gpus, driver
        for name, value in (errors or {}).items():
            assert callable(getattr(self, name))
            setattr(self, name, mock.Mock(side_effect=self.NVMLError(value)))

    def nvmlInit(self): ...  # noqa: N802
    def nvmlShutdown(self): ...  # noqa: N802

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return self.driver

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return next(gpu for gpu in self.gpus if gpu.uuid == uuid)

    def nvmlDeviceGetCpuAffinity(self, gpu, words):  # noqa: N802
        return [sum(1 << n % 64 for n in gpu.near if n // 64 == word) for word in range(words)]


def torch_shows(value, uuids):
    """The numbers of the GPUs that torch counts with a value of CUDA_VISIBLE_DEVICES."""
    if value is None:
        return list(range(len(uuids)))
    with mock.patch.dict(os.environ, {VISIBLE: value}):
        keys = torch.cuda._parse_visible_devices()
    if keys and isinstance(keys[0], str):
        keys = torch.cuda._transform_uuid_to_ordinals(keys, list(uuids))
    return list(takewhile(lambda key: key < len(uuids), keys))


@dataclass
class FakeCuda:
    """Stands for `check_gpu`: torch on a machine with some GPUs. `answer` has the failures, and the
    problem that leaves none of them."""

    gpus: tuple
    answer: Answer = field(default_factory=lambda: Answer(capabilities=BUILT))
    asked: list = field(default_factory=list)

    def __call__(self, value, index):
        self.asked.append((value, index))
        if self.answer.problem:
            return self.answer
        uuids = [gpu.uuid for gpu in self.gpus]
        seen = [self.gpus[number] for number in torch_shows(value, uuids)]
        gpus = tuple(GpuInfo(g.name, "", g.capability, g.uuid, g.memory_mib) for g in seen)
        problem = "" if gpus else "No CUDA GPUs are available"
        failures = {**self.answer.failures, **(seen[index].failures if index < len(seen) else {})}
        return replace(self.answer, gpus=gpus, problem=problem, failures=failures)
