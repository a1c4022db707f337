"""A GPU that is none: the worker takes each step as on `cuda:0`, and tensors stay on the CPU."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.bench.fake_nvml import FakeNvml, used

DEVICE: Final = "cuda:0"
NAME: Final = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


class _OnCpu(TorchFunctionMode):
    """Torch's functions, on the CPU where they are asked for a GPU."""

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.pin_memory:
            return args[0]
        given = {name: _cpu(value) for name, value in (kwargs or {}).items()}
        given.pop("pin_memory", None)
        return function(*map(_cpu, args), **given)


def _cpu(value: Any) -> Any:
    is_cuda = isinstance(value, torch.device) and value.type == "cuda"
    return torch.device("cpu") if is_cuda else value


class _Event:
    """A CUDA event; a millisecond is between any two."""

    def __init__(self, **_options: bool) -> None:
        pass

    def record(self) -> None:
        """Nothing is asynchronous here."""

    synchronize = record

    def elapsed_time(self, _end: "_Event") -> float:
        return 1.0


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, note: Callable[[str], None]) -> Iterator[None]:
    """While it is entered, `cuda:0` is there. `note` is called with what is done to it: `context`,
    `empty`, `reset`, `read`, `synchronise`, and `baseline` where the driver is asked for memory."""

    def noting(event: str, result: Any = None) -> Callable[..., Any]:
        return lambda *_args: note(event) or result

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", NAME)
    monkeypatch.setitem(
        sys.modules, "pynvml", FakeNvml(NAME, MemoryInfo=noting("baseline", used(100)))
    )
    for name, value in {
        "set_device": noting("context"),
        "empty_cache": noting("empty"),
        "reset_peak_memory_stats": noting("reset"),
        "max_memory_allocated": noting("read", 2**20),
        "max_memory_reserved": lambda _device: 2**20,
        "memory_snapshot": list,
        "get_device_properties": lambda _device: SimpleNamespace(uuid=NAME.removeprefix("GPU-")),
        "get_rng_state": lambda _device: torch.get_rng_state(),
        "set_rng_state": lambda _state, _device: None,
        "synchronize": noting("synchronise"),
        "Event": _Event,
        "_sleep": lambda _cycles: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    with _OnCpu():
        yield
