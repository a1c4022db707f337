"""The NVIDIA driver and its GPUs as NVML shows them, and which of them CUDA_VISIBLE_DEVICES names.

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
"""The file by which programs reach the driver."""
OTHER_CONTROLS: Final = (Path("/dev/dxg"), Path("/dev/nvmap"))
"""Those of WSL, for GPUs of any maker, and of a Jetson, which may have no NVML."""

_ABSENT: Final = (9, 12)
"""NVML's errors where there is no driver: not loaded, and no library."""
_NO_MIG: Final = (3, 13)
"""Where there is no MIG mode: not supported, and not known to the library."""
_NO_PERMISSION: Final = 4
"""Of a GPU or an instance that this process may not use. CUDA does not count it either."""
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
    """Of an instance, its name for drivers before 470."""


@dataclass(frozen=True)
class Board:
    """A GPU in its slot.

    `devices` are what CUDA makes of it: itself, or its MIG instances. Where NVML does not say which
    of these, `is_known` is false.
    """

    uuid: str
    devices: tuple[GpuInfo, ...]
    is_known: bool = True


@dataclass(frozen=True)
class Driver:
    """What NVML says.

    `cuda` is the highest version of CUDA that the driver supports. With a `problem`, NVML does not
    say which GPUs there are, and `boards` is empty. Where it is missing and there is a file that
    may be a GPU's, there is a driver without a problem, and without boards.
    """

    is_there: bool
    cuda: tuple[int, int] | None = None
    version: str = ""
    boards: tuple[Board, ...] = ()
    problem: str = ""

    @property
    def devices(self) -> list[GpuInfo]:
        """All that CUDA could show, in PCI order."""
        return [device for board in self.boards for device in board.devices]


def read_driver() -> Driver:
    """Ask NVML. Whatever it raises is a problem of the result."""
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
        return Driver(True, cuda, version, tuple(of for of in boards if of is not None))
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
    """A GPU; None where this process may not use it."""
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
    """The MIG instances of a GPU; None where it is not in that mode."""
    try:
        is_on, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError as error:
        if error.value in _NO_MIG:
            return None
        raise
    if not is_on:
        return None
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError as error:
            if error.value in (_NOT_FOUND, _NO_PERMISSION):  # of none, or of another's instance
                continue
            raise
        of_gpu = nvml.nvmlDeviceGetGpuInstanceId(instance)
        of_compute = nvml.nvmlDeviceGetComputeInstanceId(instance)
        found.append(
            replace(
                whole,
                name=str(nvml.nvmlDeviceGetName(instance)),
                uuid=str(nvml.nvmlDeviceGetUUID(instance)),
                older_name=f"MIG-{whole.uuid}/{of_gpu}/{of_compute}",
            )
        )
    return found


def hides_all(variable: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES has a value that people and schedulers hide all GPUs by."""
    if variable is None:
        return False
    return not variable.strip() or variable.partition(",")[0].strip() in ("-1", "NoDevFiles")


def visible(variable: str | None, boards: Sequence[Board]) -> tuple[list[GpuInfo], str]:
    """The devices that CUDA shows with a value of CUDA_VISIBLE_DEVICES, in its order.

    As CUDA does: the first entry that names none ends the list, and one that is named twice leaves
    none. All instances of a GPU count, of which older drivers show a process one.

    Returns:
        With them, what is wrong with the value; empty: nothing.
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
            return [], f"{key} is one that is there already, and CUDA then shows none"
        shown.append(device)
    ends_early = len(keys) < len(entries)
    kind_of_entry = f"name of kind {kind}…" if kind else "number"
    return shown, f"{entries[len(keys)]!r} is no {kind_of_entry}" if ends_early else ""


def _key(entry: str, kind: str) -> str | None:
    """An entry as CUDA reads it: a name of the kind of the first one, or the number that it begins
    with; None where it is neither."""
    if kind:
        return entry if entry.startswith(kind) else None
    number = _ORDINAL.match(entry)
    return None if number is None or int(number[0]) < 0 else str(int(number[0]))


def _named(key: str, boards: Sequence[Board]) -> tuple[GpuInfo | None, str]:
    """The device that a key names, or None and why it names none."""
    if key.isdecimal():
        of_number = boards[int(key) : int(key) + 1]
        devices = [device for board in of_number for device in board.devices[:1]]
    elif key.startswith("GPU-"):
        of_name = [board for board in boards if board.uuid.startswith(key)]
        if len(of_name) > 1:
            return None, f"{key} is how {len(of_name)} GPUs begin"
        devices = [device for board in of_name for device in board.devices[:1]]
    else:
        instances = [d for board in boards for d in board.devices if d.older_name]
        devices = [d for d in instances if d.uuid.startswith(key) or d.older_name == key]
        if len(devices) > 1:
            return None, f"{key} is how {len(devices)} instances begin"
    return (devices[0], "") if devices else (None, f"there is no {key}")
