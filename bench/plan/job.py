"""The job of a worker: a cell, where it runs, and the files it reads. Stored as cell.json."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_type_hints

from adapters.methods import has_adapters
from bench.common.errors import InputError
from bench.common.files import read_file
from bench.common.messages import shown
from bench.plan.cell import ABOUT, FP32, MIXED, MULTITASK, TASK, Cell
from bench.plan.columns import parse_parts

FILE: Final = "cell.json"
_LONGEST: Final = 2**20
_REMEDY: Final = "start the grid again, which writes it anew"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs to run one cell; paths are no columns of runs.csv."""

    cell: Cell
    conditions_id: str = ""
    attempt: int = 1
    device: str = "cpu"
    threads: int = 1
    checkpoint: str | None  # the folder of the weights; of a random init, of the configuration
    geometry: str | None  # a named one, in place of a configuration
    tokenizer: str
    data: str | None
    keep: bool = False
    code_version: str = ""
    repeat: int = 1
    adapter_config: str | None = None  # the JSON of the adapters of mode peft
    measure: bool = True  # also what the training itself does not show

    def values(self) -> dict[str, Any]:
        return {"cell_id": self.cell.cell_id, **asdict(self)}

    def to_json(self) -> str:
        return json.dumps(self.values(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The inverse of `to_json`; InputError for any other text."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"is not JSON ({error})") from error
        if not isinstance(values, dict) or not isinstance(values.get("cell"), dict):
            raise InputError("holds no cell")
        cell: Cell = _built(Cell, values["cell"])
        _check_settings(cell)
        try:
            identity = cell.cell_id
        except UnicodeEncodeError as error:
            raise InputError("holds text that is no Unicode") from error
        if values.get("cell_id") != identity:
            raise InputError("has settings that are not those of its cell_id")
        job: Job = _built(
            cls, {"repeat": 1, "adapter_config": None, "measure": True, **values, "cell": cell}
        )
        return job

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """The job in a cell's folder; InputError if it can't be read or holds none."""
        path = folder / FILE
        try:
            return cls.from_json(read_file(path, _LONGEST).decode())
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not UTF-8 text; {_REMEDY}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}; {_REMEDY}") from error


_TYPES: Final[dict[Any, dict[str, Any]]] = {kind: get_type_hints(kind) for kind in (Job, Cell)}


def _built(kind: type[Any], values: dict[str, Any]) -> Any:
    """A dataclass from values by field; each has to be there, in the field's type."""
    checked: dict[str, Any] = {}
    for name, expected in _TYPES[kind].items():
        if name not in values:
            raise InputError(f"lacks {name}")
        value = values[name]
        if type(value) is int and isinstance(0.0, expected) and abs(value) < 2**53:
            value = float(value)
        if isinstance(value, bool) != (expected is bool) or not isinstance(value, expected):
            raise InputError(f"has {shown(value)} as {name}")
        checked[name] = value
    return kind(**checked)


def _check_settings(cell: Cell) -> None:
    for name, about in ABOUT.items():
        value = getattr(cell, name)
        is_plugins = name == "mode" and cell.plugin is not None
        if value is not None and about.values and value not in about.values and not is_plugins:
            raise InputError(f"has {shown(value)} as {name}")
    if not TASK.fullmatch(cell.task):
        raise InputError(f"has {shown(cell.task)} as task")
    for name in ("task_rates", "task_decays"):
        value = getattr(cell, name)
        try:
            if value is not None:
                parse_parts(value)
        except ValueError as error:
            raise InputError(f"has {shown(value)} as {name}") from error
    needed = (cell.encoders, cell.task_order, cell.task_rates, cell.task_decays)
    if (cell.task == MULTITASK) != (None not in needed):
        raise InputError(f"has settings by part that don't go with task {shown(cell.task)}")
    applies = ABOUT["frozen_dtype"].applies(vars(cell))
    allowed = (FP32, cell.amp, *[MIXED] * has_adapters(cell.mode)) if applies else (None,)
    if cell.frozen_dtype not in allowed:
        raise InputError(f"has {shown(cell.frozen_dtype)} as frozen_dtype")
