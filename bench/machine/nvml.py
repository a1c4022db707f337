"""The NVIDIA driver and its GPUs by NVML, and the choice among them by CUDA_VISIBLE_DEVICES.

NVML ignores that variable and CUDA obeys it.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.common.messages import one_line

CONTROL: Final = Path("/dev/nvidiactl")
"""The file through which programs access the driver."""
OTHER_CONTROLS: Final = (Path("/dev/dxg"), Path("/dev/nvmap"))
"""The same for WSL, with GPUs of any maker, and for a Jetson, which may lack NVML."""

_ABSENT: Final = (9, 12)
"""NVML's errors if there is no driver: not loaded, library not found."""
_NO_MIG: Final = (3, 13)
"""NVML's errors if there is no MIG mode: not supported, unknown to the library."""
_NO_PERMISSION: Final = 4
"""NVML's error for a GPU or instance that this process may not use. CUDA ignores it too."""
_NOT_FOUND: Final = 6
_NAMES: Final = ("GPU-", "MIG-")
_ORDINAL: Final = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class GpuInfo:
    """A GPU, or an instance of one in MIG mode.

    `uuid` is its full name in CUDA_VISIBLE_DEVICES: `GPU-…` or `MIG-…`.
    """

    name: str
    driver: str
    capability: tuple[int, int]
    uuid: str
    older_name: str = ""
    """The name of an instance for drivers before 470."""


@dataclass(frozen=True)
class Board:
    """A GPU in its slot.

    `devices` are the devices that CUDA sees: the GPU, or its MIG instances. `is_known` is false
    where NVML does not say which of these.
    """

    uuid: str
    devices: tuple[GpuInfo, ...]
    is_known: bool = True


@dataclass(frozen=True)
class Driver:
    """The driver as NVML describes it.

    `cuda` is the highest version of CUDA that the driver supports. With a `problem`, NVML does not
    list GPUs, and `boards` is empty. Without NVML but with a file in `OTHER_CONTROLS`, there is a
    driver that has neither a problem nor boards.
    """

    is_there: bool
    cuda: tuple[int, int] | None = None
    version: str = ""
    boards: tuple[Board, ...] = ()
    problem: str = ""

    @property
    def devices(self) -> list[GpuInfo]:
        """All devices that CUDA could show, in PCI order."""
        return [device for board in self.boards for device in board.devices]


def read_driver() -> Driver:
    """Query NVML. Any error becomes the problem of the result."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 (an NVML that is broken can raise anything)
        absent = isinstance(error, ImportError) or getattr(error, "value", None) in _ABSENT
        if absent and not CONTROL.exists() and any(path.exists() for path in OTHER_CONTROLS):
            return Driver(True)
        return Driver(not absent or CONTROL.exists(), problem=_problem(error))
    version, cuda = "", None
    try:
        version, cuda = str(nvml.nvmlSystemGetDriverVersion()), _cuda(nvml)
        boards = [_board(nvml, index, version) for index in range(nvml.nvmlDeviceGetCount())]
        return Driver(True, cuda, version, tuple(board for board in boards if board is not None))
    except Exception as error:  # noqa: BLE001
        return Driver(True, cuda, version, problem=_problem(error))
    finally:
        with suppress(Exception):
            nvml.nvmlShutdown()


def _problem(error: Exception) -> str:
    return f"NVML: {one_line(str(error)) or type(error).__name__}"


def _cuda(nvml: Any) -> tuple[int, int] | None:
    try:
        number = int(nvml.nvmlSystemGetCudaDriverVersion())
    except nvml.NVMLError:
        return None
    return number // 1000, number % 1000 // 10


def _board(nvml: Any, index: int, driver: str) -> Board | None:
    """The GPU with an index; None if this process may not use it."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        if error.value == _NO_PERMISSION:
            return None
        raise
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name, uuid = str(nvml.nvmlDeviceGetName(handle)), str(nvml.nvmlDeviceGetUUID(handle))
    whole = GpuInfo(name, driver, (int(major), int(minor)), uuid)
    try:
        instances = _instances(nvml, handle, whole)
    except nvml.NVMLError:
        return Board(uuid, (whole,), is_known=False)
    return Board(uuid, (whole,) if instances is None else tuple(instances))


def _instances(nvml: Any, handle: Any, whole: GpuInfo) -> list[GpuInfo] | None:
    """The MIG instances of a GPU; None if it is not in MIG mode."""
    try:
        is_on, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError as error:
        if error.value in _NO_MIG:
            return None
        raise
    if not is_on:
        return None
    instances = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError as error:
            if error.value in (_NOT_FOUND, _NO_PERMISSION):  # no instance, or another user's
                continue
            raise
        gpu_id = nvml.nvmlDeviceGetGpuInstanceId(instance)
        compute_id = nvml.nvmlDeviceGetComputeInstanceId(instance)
        instances.append(
            replace(
                whole,
                name=str(nvml.nvmlDeviceGetName(instance)),
                uuid=str(nvml.nvmlDeviceGetUUID(instance)),
                older_name=f"MIG-{whole.uuid}/{gpu_id}/{compute_id}",
            )
        )
    return instances


def hides_all(variable: str | None) -> bool:
    """Whether a value of CUDA_VISIBLE_DEVICES is one of those that hide all GPUs on purpose."""
    if variable is None:
        return False
    return not variable.strip() or variable.partition(",")[0].strip() in ("-1", "NoDevFiles")


def visible(variable: str | None, boards: Sequence[Board]) -> tuple[list[GpuInfo], str]:
    """The devices that CUDA shows for a value of CUDA_VISIBLE_DEVICES, in its order.

    As in CUDA, the first entry that names no device ends the list, and a device named twice empties
    it. All instances of a GPU count, although older drivers show a process only one.

    Returns:
        The devices, and the problem with the value; empty if there is none.
    """
    if variable is None:
        devices = [device for board in boards for device in board.devices]
        return devices, "" if devices else "they are in MIG mode and have no instances"
    entries = [entry.strip() for entry in variable.split(",")]
    kind = next((kind for kind in _NAMES if entries[0].startswith(kind)), "")
    keys: list[str] = []
    for entry in entries:
        key = _key(entry, kind)
        if key in keys:
            return [], f"{entry} is there twice, and CUDA then shows none"
        if key is None:
            break
        keys.append(key)
    shown: list[GpuInfo] = []
    for key in keys:
        device, problem = _named(key, boards)
        if device is None:
            return shown, problem
        if device in shown:
            return [], f"{key} names a GPU a second time, and CUDA then shows none"
        shown.append(device)
    ends_early = len(keys) < len(entries)
    kind_of_entry = f"name of kind {kind}…" if kind else "number"
    return shown, f"{entries[len(keys)]!r} is no {kind_of_entry}" if ends_early else ""


def _key(entry: str, kind: str) -> str | None:
    """An entry as CUDA reads it: a name of the first entry's kind, or its leading number; None if
    it is neither."""
    if kind:
        return entry if entry.startswith(kind) else None
    number = _ORDINAL.match(entry)
    return None if number is None or int(number[0]) < 0 else str(int(number[0]))


def _named(key: str, boards: Sequence[Board]) -> tuple[GpuInfo | None, str]:
    """The device that a key names; None, and the reason, if it names none."""
    if key.isdecimal():
        numbered = boards[int(key) : int(key) + 1]
        devices = [device for board in numbered for device in board.devices[:1]]
    elif key.startswith("GPU-"):
        named = [board for board in boards if board.uuid.startswith(key)]
        if len(named) > 1:
            return None, f"{key} is the beginning of {len(named)} GPUs' names"
        devices = [device for board in named for device in board.devices[:1]]
    else:
        instances = [d for board in boards for d in board.devices if d.older_name]
        devices = [d for d in instances if d.uuid.startswith(key) or d.older_name == key]
        if len(devices) > 1:
            return None, f"{key} is the beginning of {len(devices)} instances' names"
    return (devices[0], "") if devices else (None, f"there is no {key}")
