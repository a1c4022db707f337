"""Grid files: TOML that names settings and, as products of axes, cells."""

import re
import tomllib
from collections.abc import Callable, Collection
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainValidator,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import core_schema

from adapters.methods import PEFT, has_layers, has_rank
from adapters.names import LAYER_SETS, is_layers
from bench.common.errors import InputError
from bench.common.files import below
from bench.common.messages import printable, shown
from bench.plan.cell import ABOUT, ALWAYS, KINDS, OFF, ON, TASK, TASK_FORM, named
from bench.plan.dataset import DataSpec

AUTO: Final = "auto"
DEFAULT_TASK: Final = "movies"
USUAL_BATCH: Final = 64  # for which the default rates are measured
FEW: Final = 500  # training examples; fewer score no less by the values below (docs/rates.md)
OF_FEW: Final = {"batch_size": 16, "contrastive": 0.9}
USUAL: Final = {"batch_size": USUAL_BATCH, "contrastive": 0.0}
NAMED: Final = Path(__file__).parent / "grids"
EARLY_STOPPING_SHARE: Final = 0.1
"""The share of the training examples that early stopping holds out where `held_out` is 0."""
_LARGEST_FILE: Final = 1 << 20
_MOST_CELLS: Final = 100_000
_LONG_KEY: Final = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""")
"""A key of 16 parts, where a grid's own have 3: parsing time grows with the square of the parts."""


def _one_of(setting: str, *others: str) -> GetPydanticSchema:
    """Annotation of a text that is one of a setting's values, or one of `others`."""
    values = core_schema.literal_schema([*ABOUT[setting].values, *others])
    return GetPydanticSchema(lambda _source, _handler: values)


def _valid(is_valid: Callable[[Any], bool], expected: str) -> PlainValidator:
    """Annotation of a value for which a test is true; the error says what it should be."""

    def checked(value: Any) -> Any:
        if not is_valid(value):
            raise ValueError(f"should be {expected}")
        return value

    return PlainValidator(checked)


def _is_task(value: object) -> bool:
    return value is None or (isinstance(value, str) and TASK.fullmatch(value) is not None)


Mode = Annotated[str, _one_of("mode")]
LayerSet = Annotated[str, _valid(
    lambda value: isinstance(value, str) and is_layers(value),
    f"{', '.join(LAYER_SETS)}, or the ends of layers' names, such as query+value",
)]  # fmt: skip
Engine = Annotated[str, _one_of("engine", "auto")]
Amp = Annotated[str, _one_of("amp", "on")]
Unfreeze = Annotated[str, _one_of("unfreeze")]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
BatchSize = Annotated[int | Literal["auto"], _valid(
    lambda value: value == AUTO or (type(value) is int and 1 <= value <= 65_536),
    f"{AUTO} or a whole number from 1 to 65,536",
)]  # fmt: skip
Contrastive = Annotated[float | Literal["auto"], _valid(
    lambda value: value == AUTO or (type(value) in (int, float) and 0 <= value < 1),
    f"{AUTO} or a number from 0 to less than 1",
)]  # fmt: skip
"""`auto` of this and of the batch size become `OF_FEW` or `USUAL` when the grid is expanded."""
_SHORTEST: Final = 3
_LONGEST: Final = 8192
MaxLength = Annotated[int | Literal["auto"], _valid(
    lambda value: value == AUTO or (type(value) is int and _SHORTEST <= value <= _LONGEST),
    f"{AUTO} or a whole number from {_SHORTEST} to {_LONGEST}",
)]  # fmt: skip
"""`auto` becomes a number when the grid is expanded, see `bench.examples.tokens`."""
Compile = Annotated[bool | Literal["auto"], _valid(
    lambda value: value == AUTO or isinstance(value, bool), f"true, false or {AUTO}"
)]  # fmt: skip
"""`auto` becomes on or off when the grid is expanded, see `bench.plan.planning`."""
Rate = Annotated[float, Field(gt=0, le=1)]
_MOST_MODELS: Final = 100


def _are_models(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    is_list = isinstance(names, list) and 0 < len(names) <= _MOST_MODELS
    return is_list and all(isinstance(name, str) and name for name in names)


Models = Annotated[
    str | list[str], _valid(_are_models, "the name or folder of a model, or a list of them")
]


class Strict(BaseModel):
    """A table of a grid file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Rates(Strict):
    """Peak learning rates; the defaults are measured on MiniLM (docs/rates.md)."""

    full: Rate = 2e-4
    adapter: Rate = 2e-3
    base: Rate = 2e-4
    head: Rate = 1e-2


Factor = Annotated[float, Field(gt=0, le=1000)]
Decay = Annotated[float, Field(ge=0, le=1)]


class TaskRates(Strict):
    """Factors on all learning rates, by part of task `multitask`."""

    sst: Factor = 1.0
    quora: Factor = 1.0
    sts: Factor = 1.0


class TaskDecays(Strict):
    """Weight decay by part of task `multitask`; None: that of the settings."""

    sst: Decay | None = None
    quora: Decay | None = None
    sts: Decay | None = None


if TYPE_CHECKING:
    _Given = Strict
else:

    def _given(name, limits):
        """The type and the default of a setting in grid files, by its table in settings.toml."""
        about, kind = ABOUT[name], KINDS[name]
        default = limits.pop("default", None if about.before == ALWAYS else about.before)
        if about.values == (OFF, ON):
            return bool, default == ON
        kind = Annotated[kind, _one_of(name) if about.values else Field(**limits)]
        return (kind if default is not None else kind | None), default

    _Given = create_model(
        "_Given",
        __base__=Strict,
        **{n: _given(n, {**a.given}) for n, a in ABOUT.items() if a.given is not None},
    )


class Settings(_Given):
    """The settings that all cells of a grid share: those that settings.toml says are `given`, and
    the ones here, which code reads by name. Command-line flags replace values. A setting that is
    named like a field of `bench.plan.cell.Cell` is copied into the cells, unless
    `bench.plan.planning` resolves it."""

    model: Models = "minilm"
    init: Annotated[str, _one_of("init")] = "pretrained"
    engine: Engine = AUTO
    attn_implementation: Annotated[str, _one_of("attn_implementation", AUTO)] = AUTO
    task: Annotated[str | None, _valid(_is_task, TASK_FORM)] = None
    seeds: Annotated[int, Field(ge=1, le=10_000)] = 1
    folds: Annotated[int, Field(ge=2, le=1000)] | None = None
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    race: bool = False
    max_train: Count | None = None
    max_dev: Count | None = None
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    early_stopping: Count | None = None
    max_length: MaxLength = 128
    batch_size: BatchSize = USUAL_BATCH
    contrastive: Contrastive = 0.0
    compile: Compile = False
    kernels: Annotated[str, _one_of("kernels")] = "fast"
    pooling: Annotated[str, _one_of("pooling", AUTO)] = AUTO
    regression_loss: Annotated[str, _one_of("regression_loss")] = "mse"
    learning_rates: Rates = Rates()
    init_lora_weights: Annotated[str, _one_of("init_lora_weights")] = "default"
    weight_decay: Decay = 0.01
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 16.0
    scale: Annotated[float, Field(gt=0, le=1e6)] | None = None
    frozen_dtype: Literal["fp32", "amp"] = "fp32"
    encoders: Annotated[int, Field(ge=1, le=2)] = 1
    task_order: Annotated[str, _one_of("task_order")] = "proportional"
    task_rates: TaskRates = TaskRates()
    task_decays: TaskDecays = TaskDecays()

    @property
    def share_held_out(self) -> float:
        """The share of the training examples that is held out: `held_out`; if that is 0, the
        default with early stopping, which needs some, and else none."""
        return self.held_out or (0.0 if self.early_stopping is None else EARLY_STOPPING_SHARE)

    @property
    def models(self) -> list[str]:
        return [self.model] if isinstance(self.model, str) else self.model


if TYPE_CHECKING:
    Varied = Strict
else:
    _types = get_type_hints(Settings, include_extras=True)
    Varied = create_model(
        "Varied",
        __base__=Strict,
        __doc__="Settings that one table of cells can set differently from the grid: they change "
        "neither data nor model. They win over a flag of the command line.",
        **{name: (_types[name] | None, None) for name in named(lambda about: about.varies)},
    )


class Axes(Strict):
    """One table `[[cells]]`: every combination of its values is a cell. Without `batch_size`,
    `max_length` and `learning_rate` those of the settings apply; a `learning_rate` is used for all
    parameters that train."""

    mode: Annotated[list[Mode], Field(min_length=1)]
    rank: list[Count] = []
    layers: list[LayerSet] = []
    amp: Annotated[list[Amp], Field(min_length=1)] = ["off"]
    unfreeze: Annotated[list[Unfreeze], Field(min_length=1)] = ["all"]
    batch_size: list[BatchSize] = []
    max_length: list[MaxLength] = []
    learning_rate: list[Rate] = []
    adapter_config: list[str] = []
    settings: Varied = Varied()

    @model_validator(mode="after")
    def _axes_fit_the_modes(self) -> Self:
        adapted = [mode for mode in self.mode if has_layers(mode)]
        ranked = [mode for mode in adapted if has_rank(mode)]
        if ranked and not (self.rank and self.layers):
            raise ValueError(f"mode {ranked[0]} needs rank and layers")
        if adapted and not self.layers:
            raise ValueError(f"mode {adapted[0]} needs layers")
        if not adapted and (self.rank or self.layers):
            raise ValueError(f"rank and layers don't apply to mode {self.mode[0]}")
        if not ranked and self.rank:
            raise ValueError(f"rank doesn't apply to mode {self.mode[0]}")
        if (PEFT in self.mode) != bool(self.adapter_config):
            raise ValueError(
                f"mode {PEFT} and adapter_config, a list of adapter_config.json files, go together"
            )
        if set(self.mode) == {"head"} and "iterative" in self.unfreeze:
            raise ValueError("unfreeze doesn't apply to mode head")
        for name in named(lambda about: bool(about.only)):
            has_effect = any(ABOUT[name].has_effect({"mode": mode}) for mode in self.mode)
            if name in self.settings.model_fields_set and not has_effect:
                raise ValueError(f"{name} doesn't apply to mode {self.mode[0]}")
        return self


class Grid(Strict):
    name: str
    about: str = ""
    data: DataSpec | None = None
    settings: Settings = Settings()
    cells: Annotated[list[Axes], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_no_larger_than_can_be_kept(self) -> Self:
        settings = self.settings
        times = settings.repeats * settings.seeds * (settings.folds or 1) * len(settings.models)
        axes = ([len(v) or 1 for _, v in own if isinstance(v, list)] for own in self.cells)
        count = times * sum(map(prod, axes))  # or fewer, which is known once it is expanded
        if count > _MOST_CELLS:
            also = "seeds"
            also += ", models" if len(settings.models) > 1 else ""
            also += ", folds" if settings.folds else ""
            also += " and repeats" if settings.repeats > 1 else ""
            raise ValueError(
                f"it makes {count:,} cells with its {also}; {_MOST_CELLS:,} are the most"
            )
        return self

    def settings_of(self, axes: Axes) -> Settings:
        own = {name: getattr(axes.settings, name) for name in axes.settings.model_fields_set}
        return self.settings.model_copy(update=own)

    @property
    def auto_names(self) -> list[str]:
        """The settings of `OF_FEW` that are `auto` in some cell."""
        batches = [n for axes in self.cells for n in axes.batch_size or [self.settings.batch_size]]
        shares = [each.contrastive for each in self.variants]
        return ["batch_size"] * (AUTO in batches) + ["contrastive"] * (AUTO in shares)

    @property
    def has_auto_length(self) -> bool:
        return any(AUTO in (axes.max_length or [self.settings.max_length]) for axes in self.cells)

    @property
    def variants(self) -> list[Settings]:
        variants: list[Settings] = []
        for settings in map(self.settings_of, self.cells):
            if settings not in variants:
                variants.append(settings)
        return variants


def names() -> list[str]:
    return sorted(path.stem for path in NAMED.glob("*.toml"))


def load(name_or_file: str) -> Grid:
    """A named grid, or one from a TOML file; InputError for an unknown name, an unreadable file,
    broken TOML, an unknown key or a wrong value."""
    if name_or_file in names():
        path = NAMED / f"{name_or_file}.toml"
    else:
        path = Path(name_or_file)
        if path.suffix != ".toml":
            raise InputError(
                f"no grid is called {name_or_file!r}; choose {', '.join(names())}, or give a "
                "file that ends in .toml"
            )
    grid = parse(read_toml(path), str(path) if path.parent != NAMED else path.name, path.stem)
    data = None if grid.data is None else grid.data.inside(path.parent)
    folder, cells = path.parent, list[Axes]()
    for axes in grid.cells:
        files = [str(below(folder, *name.split("/"))) for name in axes.adapter_config]
        cells.append(axes.model_copy(update={"adapter_config": files}))
    return grid.model_copy(update={"data": data, "cells": cells})


def with_settings(grid: Grid, values: dict[str, object]) -> Grid:
    """The grid with some settings replaced, by flags of the command line; InputError for a value
    that a grid file could not have."""
    try:
        settings = Settings.model_validate({**dict(grid.settings), **values})
    except ValidationError as error:
        raise InputError(f"--{first_problem(error).replace('_', '-', 1)}") from error
    return grid.model_copy(update={"settings": settings})


def read_toml(path: Path, kind: str = "grid file") -> str:
    """The text of a TOML file; InputError if it can't be read or is too large."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: can't be read (it is no file)")
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: larger than 1 MiB, which no {kind} is")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text, so no {kind}") from error


def parse(text: str, source: str, name: str) -> Grid:
    """A grid from the text of a TOML file called `source`; raises InputError as `load`."""
    try:
        return Grid.model_validate({"name": name, **parse_table(text, source)})
    except ValidationError as error:
        raise InputError(f"{source}: {first_problem(error)}") from error


def parse_table(text: str, source: str, kind: str = "grid file") -> dict[str, Any]:
    """The table in the text of a TOML file called `source`; InputError if it is none."""
    if _LONG_KEY.search(text):
        raise InputError(f"{source}: has a key of 16 parts or more; no {kind} nests that deeply")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the first for a number too long, too
        raise InputError(f"{source}: is not TOML: {_one_line(str(error))}") from error


def _one_line(text: str) -> str:
    return printable(" ".join(text.split())[:300])


def first_problem(error: ValidationError, known: Collection[str] = ()) -> str:
    """The first problem of values in one line; `known` are keys, if not those of a grid file."""
    first = error.errors(include_url=False)[0]
    where = ""
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    if first["type"] == "extra_forbidden":
        keys = ", ".join(known or _known_keys(first["loc"]))
        return f"unknown key {shown(where)}; known here: {keys}"
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    instead_of = f", not {shown(given)}" if isinstance(given, str | int | float) else ""
    prefix = f"{where}: " if where else ""
    return _one_line(f"{prefix}{message[0].lower()}{message[1:]}{instead_of}")


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    parents: dict[str, type[BaseModel]] = {
        "data": DataSpec,
        "settings": Settings,
        "cells": Axes,
        "learning_rates": Rates,
        "task_rates": TaskRates,
        "task_decays": TaskDecays,
    }
    tables = [part for part in location[:-1] if isinstance(part, str)]
    model = Varied if tables == ["cells", "settings"] else parents[tables[-1]] if tables else Grid
    return [key for key in model.model_fields if not (model is Grid and key == "name")]
