"""A driver and its GPUs as tables: NVML as the module `pynvml` shows it, and CUDA as torch does."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn
from unittest import mock

import torch

from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import Answer
from bench.machine.nvml import GpuInfo

BUILT: tuple[tuple[int, int], ...] = ((7, 5), (8, 0), (9, 0), (12, 0))


@dataclass(frozen=True)
class FakeInstance:
    """A MIG instance."""

    uuid: str
    of_gpu: int
    of_compute: int = 0
    name: str = "NVIDIA A100 MIG 3g.40gb"


@dataclass(frozen=True)
class FakeGpu:
    """A GPU; with `instances`, one in MIG mode.

    Attributes:
        refuses: by a call of NVML, the error that it raises for this GPU.
        failures: as of `Answer`.
    """

    uuid: str
    name: str = "NVIDIA A100"
    capability: tuple[int, int] = (8, 0)
    instances: tuple[FakeInstance, ...] | None = None
    refuses: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


class FakeNvml:
    """NVML of a driver with some GPUs. `errors` maps the names of calls to the error they raise."""

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def __init__(
        self,
        *gpus: FakeGpu,
        driver: str = "580.65",
        cuda: int = 13000,
        errors: Mapping[str, int] | None = None,
    ) -> None:
        self.gpus, self.driver, self.cuda = gpus, driver, cuda
        for name, value in (errors or {}).items():
            assert callable(getattr(self, name))
            setattr(self, name, self._raising(value))

    def _raising(self, value: int) -> Callable[..., NoReturn]:
        def call(*_: Any) -> NoReturn:
            raise self.NVMLError(value)

        return call

    def _of(self, gpu: FakeGpu, call: str) -> FakeGpu:
        if call in gpu.refuses:
            raise self.NVMLError(gpu.refuses[call])
        return gpu

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return self.driver

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self._of(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetName(self, handle: FakeGpu | FakeInstance) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetUUID(self, handle: FakeGpu | FakeInstance) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeGpu) -> list[int]:  # noqa: N802
        return list(handle.capability)

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:  # noqa: N802
        self._of(handle, "nvmlDeviceGetMigMode")
        if handle.name != "NVIDIA A100":
            raise self.NVMLError(3)  # not supported
        return [int(handle.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, _: FakeGpu) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(  # noqa: N802
        self, handle: FakeGpu, index: int
    ) -> FakeInstance:
        if handle.instances is None or index >= len(handle.instances):
            raise self.NVMLError(6)  # not found
        return handle.instances[index]

    def nvmlDeviceGetGpuInstanceId(self, handle: FakeInstance) -> int:  # noqa: N802
        return handle.of_gpu

    def nvmlDeviceGetComputeInstanceId(self, handle: FakeInstance) -> int:  # noqa: N802
        return handle.of_compute


def torch_shows(value: str | None, uuids: Sequence[str]) -> list[int]:
    """The numbers of the GPUs that torch counts with a value of CUDA_VISIBLE_DEVICES."""
    if value is None:
        return list(range(len(uuids)))
    with mock.patch.dict(os.environ, {VISIBLE: value}):
        keys: list[Any] = torch.cuda._parse_visible_devices()
    if keys and isinstance(keys[0], str):
        keys = torch.cuda._transform_uuid_to_ordinals(keys, list(uuids))
    shown = []
    for key in keys:
        if key >= len(uuids):
            break
        shown.append(key)
    return shown


@dataclass
class FakeCuda:
    """Stands for `run_check`: torch on a machine with some GPUs.

    `answer` has the failures, and the problem that leaves none of them.
    """

    gpus: Sequence[FakeGpu]
    answer: Answer = field(default_factory=lambda: Answer(capabilities=BUILT))
    asked: list[tuple[str | None, int]] = field(default_factory=list)

    def __call__(self, value: str | None, index: int) -> Answer:
        self.asked.append((value, index))
        if self.answer.problem:
            return self.answer
        instances = {one.uuid: gpu for gpu in self.gpus for one in gpu.instances or ()}
        if value in instances:
            seen = [instances[value]]
        else:
            uuids = [gpu.uuid for gpu in self.gpus]
            seen = [self.gpus[number] for number in torch_shows(value, uuids)]
        gpus = tuple(GpuInfo(gpu.name, "", gpu.capability, gpu.uuid) for gpu in seen)
        problem = "" if gpus else "No CUDA GPUs are available"
        failures = {**self.answer.failures, **(seen[index].failures if index < len(seen) else {})}
        return replace(self.answer, gpus=gpus, problem=problem, failures=failures)
