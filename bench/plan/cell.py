"""A cell: one point of a grid, and everything that determines its result.

Its fields are the settings of a run, and settings.toml beside this file has the properties of each.
From these declarations follow the columns of runs.csv and their documentation, the ids of cells,
how old files are read, which cells are skipped after a smaller one ran out of memory, which rows
are compared, and the names of cells in reports.

To add a setting: a table in settings.toml, with `before`, and a field of `Cell` at the end of its
group; and the code that it changes.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, Literal, get_args, get_type_hints

from adapters.methods import LOW_RANK, METHODS, MODES, PEFT, has_adapters
from adapters.names import LAYER_SETS, trains_base
from bench.common.files import read_tables
from bench.plan.metrics import REGRESSION, SINGLE_LABEL, metric_of

Value = str | int | float | None
Columns = dict[str, Value]  # values by the names of columns of runs.csv
Applies = Callable[[Mapping[str, Any]], bool]
Cost = Literal["memory", "time", "score"]

ITERATIVE: Final = "iterative"  # as in minbert.training.trainer, which imports torch
OFF: Final = "off"  # of switches such as `compile`
ON: Final = "on"
FP32: Final = "fp32"  # of `frozen_dtype`, besides the half types
MIXED: Final = "mixed"  # the same, and of rows that are older than the column
FAST: Final = "fast"  # the default of `kernels`
MINBERT: Final = "minbert"
TRANSFORMERS: Final = "transformers"
DEFAULT: Final = "default"  # of `init_lora_weights`, whose other values are PEFT's
BALANCED: Final = "balanced"  # of `class_weights`, besides `none`
GRID: Final = "grid"  # of `learning_rate_source`
SEARCHED: Final = "search"
CANDIDATE: Final = "candidate"
MULTITASK: Final = "multitask"  # the task of several parts
TASK: Final = re.compile(r"\w[\w.-]{0,59}")
"""The name of a task, which folders have, too."""
TASK_FORM: Final = (
    "a name of up to 60 letters, digits, dots, hyphens and underscores, no dot or hyphen first"
)
ALWAYS: Final = "always"  # `About.before` of a setting that every row has
HAS_PARTS: Final = "tasks of several parts"
WHERE: Final[Mapping[str, Applies]] = {
    "": lambda _row: True,
    "modes with a layer set": lambda row: _has(row, "layers"),
    "modes with a layer set in which the encoder trains too": lambda row: (
        _has(row, "layers") and trains_base(str(row.get("layers")))
    ),
    "modes whose adapters have a rank": lambda row: _has(row, "rank"),
    "modes with adapters": lambda row: has_adapters(row.get("mode")),
    "modes of a plugin": lambda row: row.get("plugin") is not None,
    "modes lora and dora, to which the options of LoRA apply": (
        lambda row: row.get("mode") in LOW_RANK
    ),
    "mode `peft`, whose adapters are those of an adapter_config.json": (
        lambda row: row.get("mode") == PEFT
    ),
    "modes that train an encoder": lambda row: row.get("mode") != "head",
    "modes that train an encoder with a head on one vector for each text": lambda row: (
        row.get("mode") != "head"
        and row.get("head") != "conv"
        and (row.get("engine", MINBERT) == MINBERT or row.get("pooling") != "pooler")
    ),
    "all modes but `head`": lambda row: row.get("mode") != "head",
    "all modes but `full`": lambda row: row.get("mode") != "full",
    "modes that freeze linear layers, under AMP": lambda row: (
        row.get("mode") != "full" and row.get("amp") != OFF
    ),
    "cells without AMP": lambda row: row.get("amp", OFF) == OFF,
    "cells with `compile` on": lambda row: row.get("compile") == ON,
    "engine `minbert`": lambda row: row.get("engine", MINBERT) == MINBERT,
    "engine `transformers`": lambda row: row.get("engine") == TRANSFORMERS,
    "early stopping": lambda row: row.get("early_stopping") is not None,
    "cells of a cross-validation or a race": lambda row: (
        row.get("folds") is not None or row.get("race") == ON
    ),
    HAS_PARTS: lambda row: row.get("task") == MULTITASK,
    "tasks without classes, or with a part without": lambda row: (
        _is_of(row, REGRESSION) or not metric_of(row.get("dev_metric")).problems
    ),
    "pretrained weights": lambda row: row.get("init") == "pretrained",
    "pretrained weights, a task with one class for each example": lambda row: (
        row.get("init") == "pretrained"
        and (row.get("dev_metric") is None or _is_of(row, SINGLE_LABEL))
    ),
    "pretrained weights, a task that is no regression": lambda row: (
        row.get("init") == "pretrained" and not _is_of(row, REGRESSION)
    ),
    "pretrained weights, a task of several parts": lambda row: (
        row.get("init") == "pretrained" and row.get("task") == MULTITASK
    ),
    "A GPU": lambda row: str(row.get("device", "")).startswith("cuda"),
}
"""Whether a row is one of those in which a column can have a value, by the words for them in
settings.toml, columns.toml and docs/runs-csv.md. A row without a field counts as one with None."""


def _has(row: Mapping[str, Any], what: Literal["layers", "rank"]) -> bool:
    """Whether a mode has a layer set or a rank: by its method or, if that is missing, the row."""
    mode = row.get("mode")
    method = METHODS.known(str(mode))
    if method is None:
        return has_adapters(mode) and row.get(what) is not None
    return method.has_layers if what == "layers" else method.has_rank


def _is_of(row: Mapping[str, Any], problem: str) -> bool:
    return problem in metric_of(row.get("dev_metric")).problems


@dataclass(frozen=True, kw_only=True)
class About:
    """The properties of a setting, as explained at the beginning of settings.toml."""

    meaning: str
    where: str = ""
    only: str = ""
    values: tuple[str, ...] = ()
    before: Value = ALWAYS
    since: int = 16
    given: Mapping[str, Value] | None = None
    changes: tuple[Cost, ...] = ("memory", "time", "score")
    grows: bool = False
    compared: Literal["axis", "follows", "within", "group", "never", "label"]
    varies: bool = False
    counted: bool = False
    own_rates: bool = False
    selectable: bool = False
    exported: Literal["same", "other", ""] = ""
    title: str = ""
    short: str = ""

    @property
    def identifies(self) -> bool:
        """Whether another value makes another cell; not those of labels."""
        return bool(self.changes)

    def applies(self, row: Mapping[str, Any]) -> bool:
        """Whether the setting can have a value in a row."""
        return WHERE[self.where](row)

    def has_effect(self, row: Mapping[str, Any]) -> bool:
        """Whether the setting, where it applies, can have another value than `before`."""
        return WHERE[self.only](row)


def digest(value: Any, length: int = 12) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The axes and settings of one run, named as in runs.csv. None: does not apply."""

    mode: str
    rank: int | None
    layers: str | None
    unfreeze: str | None = "all"
    amp: str
    seed: int
    fold: int | None = None
    model: str
    model_digest: str
    init: str
    engine: str = MINBERT
    engine_version: str | None = None
    attn_implementation: str | None = None
    pooling: str
    head: str = "linear"
    task: str
    data_digest: str
    max_train: int | None
    max_dev: int | None
    held_out: float = 0.0
    folds: int | None = None
    race: str | None = None
    max_length: int
    window_stride: int = 0
    batching: str
    batch_size: int
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: str = OFF
    compile: str = OFF
    compile_why: str | None = None
    kernels: str | None = FAST
    own_kernels: str | None = OFF
    frozen_dtype: str | None = None
    tf32: str | None = OFF
    epochs: int
    max_steps: int | None
    early_stopping: int | None = None
    optimizer: str
    schedule: str = "linear"
    regression_loss: str | None = None
    label_smoothing: float = 0.0
    contrastive: float = 0.0
    class_weights: str = "none"
    encoders: int | None = None
    task_order: str | None = None
    task_rates: str | None = None
    task_decays: str | None = None
    learning_rate: float | None
    learning_rate_base: float | None
    learning_rate_head: float | None
    learning_rate_source: str
    layer_decay: float = 1.0
    lora_plus_ratio: float = 1.0
    use_rslora: str = OFF
    lora_fa: str = OFF
    init_lora_weights: str = DEFAULT
    lora_dropout: float = 0.0
    adapter: str | None = None
    plugin: str | None = None
    weight_decay: float
    warmup: float
    alpha: float | None
    dropout: float

    @property
    def scale(self) -> float | None:
        """The factor of the adapter's update, alpha / rank, or alpha / √rank with rsLoRA."""
        if self.alpha is None or self.rank is None or self.rank < 1:
            return None
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora == ON else self.rank)

    @property
    def is_candidate(self) -> bool:
        """Whether it is a try of a search for learning rates."""
        return self.learning_rate_source == CANDIDATE

    @property
    def is_trial(self) -> bool:
        """Whether it is scored on training examples: for a search of rates, or in a race."""
        return self.is_candidate or self.race == ON

    @property
    def is_compiled(self) -> bool:
        return self.compile == ON

    @property
    def why_not_compiled(self) -> str:
        """Why its steps can't be compiled, which are of several kinds; empty: they can."""
        if self.encoders is not None:
            return f"steps of task {self.task} are of several parts"
        if self.unfreeze == ITERATIVE:
            return f"with unfreeze {ITERATIVE} other layers train in each epoch"
        if self.contrastive:
            return "compiled code doesn't give the vectors before the head, which contrastive needs"
        if self.gradient_checkpointing == ON:
            return "the compiler itself chooses what to keep, not gradient_checkpointing"
        return ""

    @cached_property
    def cell_id(self) -> str:
        """Digest of everything that determines the result."""
        values: Columns = {}
        for name, about in ABOUT.items():
            value = getattr(self, name)
            # cells behaved as with the value `before` when there was no such setting
            differs = about.before == ALWAYS or value not in (None, about.before)
            if about.identifies and differs:
                values[name] = value
        return digest(values)

    @property
    def name(self) -> str:
        """A short name for people and folders, such as `lora-r8-all-lin-only-bf16-s0`. Cells that
        differ in nothing but the options of their adapters have different names."""
        rank = "" if self.rank is None else f"-r{self.rank}"
        adapter = "" if self.layers is None else f"{rank}-{self.layers}"
        unfreezing = f"-{self.unfreeze}" if self.unfreeze not in (None, "all") else ""
        precision = self.amp
        if self.amp == "off":
            precision = "tf32" if self.tf32 == ON else FP32
        if self.frozen_dtype not in (None, FP32):
            precision += f"-frozen-{self.frozen_dtype}"
        fold = "" if self.fold is None else f"-f{self.fold}"
        fold += "-race" if self.race == ON else ""
        options = "" if self.adapter is None else f"-{self.adapter.replace(' ', '-')}"
        options += "-rslora" if self.use_rslora == ON else ""
        options += "-fa" if self.lora_fa == ON else ""
        options += "" if self.init_lora_weights == DEFAULT else f"-{self.init_lora_weights}"
        options += f"-drop{self.lora_dropout:g}" if self.lora_dropout else ""
        return f"{self.mode}{adapter}{options}{unfreezing}-{precision}-s{self.seed}{fold}"

    def columns(self) -> Columns:
        return {name: getattr(self, name) for name in (*ABOUT, "cell_id")}


def _declared() -> dict[str, About]:
    tables = read_tables(__file__, "settings.toml")
    names = [item.name for item in fields(Cell)]
    if differing := tables.keys() ^ set(names):
        raise TypeError(f"settings.toml and bench.plan.cell.Cell differ in {sorted(differing)}")
    tables["mode"]["values"] = MODES
    lists = {"modes": ", ".join(MODES), "layer_sets": ", ".join(LAYER_SETS)}
    for table in tables.values():
        table["meaning"] = table["meaning"].format(**lists)
        if table.get("before") == "":
            table["before"] = None
    return {name: About(**tables[name]) for name in names}


def plain_type(hint: Any) -> type[str] | type[int] | type[float]:
    kind: type[str] | type[int] | type[float] = (get_args(hint) or (hint,))[0]
    return kind


ABOUT: Final = _declared()
KINDS: Final = {name: plain_type(hint) for name, hint in get_type_hints(Cell).items()}


def named(predicate: Callable[[About], bool]) -> tuple[str, ...]:
    """Names of the settings that meet a condition, in the order of their columns."""
    return tuple(name for name, about in ABOUT.items() if predicate(about))
