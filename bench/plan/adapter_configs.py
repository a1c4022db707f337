"""The adapter_config.json files of mode peft."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.plan.cell import digest
from bench.plan.gridfile import Grid

_TYPE: Final = "peft_type"
_IGNORED: Final = (
    "base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping",
)  # fmt: skip
"""Fields that do not change what is trained."""


@dataclass(frozen=True)
class AdapterConfigs:
    """Configurations: their names in cells by path, and their JSON by that name."""

    names: Mapping[str, str]
    texts: Mapping[str, str]


def read_adapter_configs(grid: Grid) -> AdapterConfigs:
    """The configurations that a grid names.

    Raises:
        InputError: for a file that can't be read or holds no configuration of PEFT.
    """
    names, texts = {}, {}
    for path in dict.fromkeys(path for axes in grid.cells for path in axes.adapter_config):
        values = _read(Path(path))
        if not isinstance(values.get(_TYPE), str):
            raise InputError(
                f'{path}: lacks {_TYPE}, such as "LOHA", so it is no adapter_config.json of PEFT'
            )
        known: dict[str, Any] = {key: v for key, v in values.items() if key not in _IGNORED}
        names[path] = f"{values[_TYPE].lower()} {digest(known, 8)}"
        texts[names[path]] = json.dumps(known, sort_keys=True)
    return AdapterConfigs(names, texts)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is not JSON: {error}"
        raise InputError(f"adapter_config {path}: can't be read ({why})") from error
    if not isinstance(values, dict):
        raise InputError(f"adapter_config {path}: is no JSON object, as those of PEFT are")
    return values
