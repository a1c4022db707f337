"""A cell: one point of a grid, and everything that determines its result.

Its fields are the settings of a run, each declared once together with its properties. From these
declarations follow the columns of runs.csv and their documentation, the ids of cells, how old files
are read, which cells are skipped after a smaller one ran out of memory, which rows are compared,
and the names of cells in reports.

To add a setting: a field here, with `before` and at the end of its group; a default in
`bench.plan.gridfile.Settings`, if it comes from a grid file; and the code that it changes.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

from adapters.methods import LOW_RANK, MODES, PEFT, has_layers, has_rank
from adapters.names import LAYER_SETS, trains_base
from bench.plan.metrics import metric_of
from bench.plan.problems import REGRESSION

Value = str | int | float | None
Columns = dict[str, Value]
"""Values by the names of columns of runs.csv."""
Applies = Callable[[Mapping[str, Any]], bool]
Cost = Literal["memory", "time", "score"]

ITERATIVE: Final = "iterative"
"""Gradual unfreezing, as `minbert.training.unfreezing` has it, which imports torch."""

OFF: Final = "off"
ON: Final = "on"
"""Values of `compile`."""

FP32: Final = "fp32"
MIXED: Final = "mixed"
"""Values of `frozen_dtype` besides the half types; rows older than the column are `mixed`."""

FAST: Final = "fast"
REFERENCE: Final = "reference"
"""Values of `kernels`."""

MINBERT: Final = "minbert"
TRANSFORMERS: Final = "transformers"
ENGINES: Final = (MINBERT, TRANSFORMERS)
"""Values of `engine`."""

DEFAULT: Final = "default"
PISSA: Final = "pissa"
"""Values of `init_lora_weights`, which has further ones of PEFT."""

SWITCH: Final = (OFF, ON)

BALANCED: Final = "balanced"
"""The value of `class_weights` besides `none`."""

GRID: Final = "grid"
SEARCHED: Final = "search"
CANDIDATE: Final = "candidate"
"""Values of `learning_rate_source`."""

MULTITASK: Final = "multitask"
"""The task of several parts."""

ALWAYS: Final = "always"
"""`About.before` of a setting that every row has."""


def everywhere(_row: Mapping[str, Any]) -> bool:
    """All rows."""
    return True


def adapted(row: Mapping[str, Any]) -> bool:
    """Modes with a layer set."""
    return has_layers(str(row.get("mode")))


def ranked(row: Mapping[str, Any]) -> bool:
    """Modes whose adapters have a rank."""
    return has_rank(str(row.get("mode")))


def is_low_rank(row: Mapping[str, Any]) -> bool:
    """Modes lora and dora, to which the options of LoRA apply."""
    return row.get("mode") in LOW_RANK


def has_adapter_config(row: Mapping[str, Any]) -> bool:
    """Mode `peft`, whose adapters are those of an adapter_config.json."""
    return row.get("mode") == PEFT


def is_minbert(row: Mapping[str, Any]) -> bool:
    """Engine `minbert`."""
    return bool(row.get("engine", MINBERT) == MINBERT)


def is_transformers(row: Mapping[str, Any]) -> bool:
    """Engine `transformers`."""
    return row.get("engine") == TRANSFORMERS


def has_main_rate(row: Mapping[str, Any]) -> bool:
    """All modes but `head`."""
    return row.get("mode") != "head"


def has_base_rate(row: Mapping[str, Any]) -> bool:
    """Modes with a layer set in which the encoder trains too."""
    return adapted(row) and trains_base(str(row.get("layers")))


def has_head_rate(row: Mapping[str, Any]) -> bool:
    """All modes but `full`."""
    return row.get("mode") != "full"


def unfreezes(row: Mapping[str, Any]) -> bool:
    """Modes that train an encoder."""
    return row.get("mode") != "head"


def holds_frozen(row: Mapping[str, Any]) -> bool:
    """Modes that freeze linear layers, under AMP."""
    return row.get("mode") != "full" and row.get("amp") != "off"


def is_regression(row: Mapping[str, Any]) -> bool:
    """Tasks without classes, or with a part without."""
    problems = metric_of(row.get("dev_metric")).problems
    return not problems or REGRESSION in problems


def has_parts(row: Mapping[str, Any]) -> bool:
    """Tasks of several parts."""
    return row.get("task") == MULTITASK


def has_folds(row: Mapping[str, Any]) -> bool:
    """Cells of a cross-validation."""
    return row.get("folds") is not None


@dataclass(frozen=True, kw_only=True)
class About:
    """The properties of a setting besides its name and type.

    Attributes:
        meaning: one line, for docs/runs-csv.md and tables.
        applies: whether the setting can have a value in a row.
        values: the names that a text setting can take; empty: any text, or another type.
        before: the value in rows that are older than the setting; `ALWAYS`: no row is; None: it
            did not apply to them. A cell with this value has the id that it had without the
            setting.
        identifies: whether another value makes another cell; False for labels, and for what
            follows from other settings.
        changes: what the setting changes, all else equal. With `memory`, cells must agree in it
            for one to be skipped because the other ran out of memory, unless it `grows`.
        grows: whether more of it only ever takes more memory.
        compared: how rows with different values are compared. `axis`: as settings of a group;
            `follows`: likewise, and it follows from the mode or is an option; `within`: likewise,
            where it matters; `group`: as groups that differ in it alone; `never`: not at all;
            `label`: it only names what another setting determines.
        varies: whether one table of cells in a grid file may set it differently from the grid.
        short: its text where it distinguishes cells of the same name; empty: it is not shown.
    """

    meaning: str
    applies: Applies = everywhere
    values: tuple[str, ...] = ()
    before: Value = ALWAYS
    identifies: bool = True
    changes: tuple[Cost, ...] = ("memory", "time", "score")
    grows: bool = False
    compared: Literal["axis", "follows", "within", "group", "never", "label"]
    varies: bool = False
    short: str = ""


def digest(value: Any, length: int = 12) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The axes and settings of one run, named as in runs.csv. None: does not apply."""

    mode: Annotated[
        str,
        About(
            meaning=f"what trains: {', '.join(MODES)}",
            values=MODES,
            compared="axis",
        ),
    ]
    rank: Annotated[
        int | None,
        About(meaning="rank of the adapters", applies=ranked, grows=True, compared="axis"),
    ]
    layers: Annotated[
        str | None,
        About(
            meaning=f"layers that carry adapters: {', '.join(LAYER_SETS)}, or ends of layers' "
            "names joined by +",
            applies=adapted,
            compared="axis",
        ),
    ]
    unfreeze: Annotated[
        str | None,
        About(
            meaning="all: every layer that trains does so from the first epoch; iterative: none in "
            "the first, then a quarter more in each from the top",
            applies=unfreezes,
            values=("all", ITERATIVE),
            before="all",
            compared="axis",
        ),
    ] = "all"
    amp: Annotated[
        str,
        About(
            meaning="automatic mixed precision: off, bf16, fp16",
            values=("off", "bf16", "fp16"),
            compared="axis",
        ),
    ]
    seed: Annotated[
        int,
        About(
            meaning="seed of initialisation, order of data and dropout",
            changes=("score",),
            compared="axis",
        ),
    ]
    fold: Annotated[
        int | None,
        About(
            meaning="the fold that is dev, from 0",
            applies=has_folds,
            before=None,
            compared="axis",
        ),
    ] = None
    model: Annotated[
        str,
        About(
            meaning="named geometry or checkpoint",
            identifies=False,
            changes=(),
            compared="label",
            short="{}",
        ),
    ]
    model_digest: Annotated[
        str,
        About(
            meaning="digest of its configuration, vocabulary and, if pretrained, weights",
            compared="never",
        ),
    ]
    init: Annotated[
        str,
        About(
            meaning="pretrained or random",
            values=("pretrained", "random"),
            compared="never",
        ),
    ]
    engine: Annotated[
        str,
        About(
            meaning="what builds the model: minbert, this project's BERT and adapters; or "
            "transformers, any encoder of that library with PEFT's adapters",
            values=ENGINES,
            before=MINBERT,
            compared="group",
            varies=True,
            short="engine {}",
        ),
    ] = MINBERT
    engine_version: Annotated[
        str | None,
        About(
            meaning="versions of transformers and PEFT, in that engine",
            applies=is_transformers,
            before=None,
            compared="never",
        ),
    ] = None
    attn_implementation: Annotated[
        str | None,
        About(
            meaning="attention of engine transformers: eager, sdpa or flash_attention_2",
            applies=is_transformers,
            values=("eager", "sdpa", "flash_attention_2"),
            before=None,
            compared="group",
            varies=True,
            short="{} attention",
        ),
    ] = None
    pooling: Annotated[
        str,
        About(
            meaning="pooler: that of the architecture's own classification head, which in BERT is "
            "[CLS], dense, tanh; cls: the last hidden state at the first token; or mean over real "
            "tokens",
            values=("pooler", "cls", "mean"),
            compared="group",
        ),
    ]
    head: Annotated[
        str,
        About(
            meaning="linear, nonlinear or conv (convolutions over tokens)",
            values=("linear", "nonlinear", "conv"),
            before="linear",
            compared="group",
            varies=True,
            short="{} head",
        ),
    ] = "linear"
    task: Annotated[str, About(meaning="what is learned", compared="label", short="{}")]
    data_digest: Annotated[
        str,
        About(meaning="digest of the examples really used, train and dev", compared="never"),
    ]
    max_train: Annotated[
        int | None,
        About(
            meaning="cap on training examples; empty: all",
            identifies=False,
            changes=(),
            compared="label",
        ),
    ]
    max_dev: Annotated[
        int | None,
        About(
            meaning="cap on dev examples; empty: all",
            identifies=False,
            changes=(),
            compared="label",
        ),
    ]
    held_out: Annotated[
        float,
        About(
            meaning="share of the training examples that are not trained on, by which training is "
            "stopped early and ensembles are chosen",
            before=0.0,
            compared="never",
        ),
    ] = 0.0
    folds: Annotated[
        int | None,
        About(
            meaning="K of a K-fold cross-validation, whose folds together give the score; empty: "
            "none",
            before=None,
            compared="never",
        ),
    ] = None
    max_length: Annotated[
        int,
        About(
            meaning="tokens after which a text is cut",
            grows=True,
            compared="group",
            short="length {}",
        ),
    ]
    batching: Annotated[
        str,
        About(
            meaning="how examples are grouped into batches: by-length or shuffled",
            values=("by-length", "shuffled"),
            compared="group",
            varies=True,
            short="batches {}",
        ),
    ]
    batch_size: Annotated[
        int,
        About(meaning="examples in a batch", grows=True, compared="group", short="batch {}"),
    ]
    gradient_accumulation_steps: Annotated[
        int,
        About(
            meaning="batches whose mean gradient makes one optimizer step",
            before=1,
            compared="group",
            varies=True,
            short="{} accumulation steps",
        ),
    ] = 1
    gradient_checkpointing: Annotated[
        str,
        About(
            meaning="on: only the input of each layer is kept for the backward pass, which "
            "computes the layer again; or off",
            values=SWITCH,
            before=OFF,
            compared="group",
            varies=True,
            short="gradient checkpointing {}",
        ),
    ] = OFF
    compile: Annotated[
        str,
        About(
            meaning="on: training steps run through torch.compile, in engine minbert on batches "
            "padded to buckets of length; or off",
            values=SWITCH,
            before=OFF,
            compared="group",
            varies=True,
            short="compile {}",
        ),
    ] = OFF
    compile_why: Annotated[
        str | None,
        About(
            meaning="where compile was auto: why it is on or off; empty: it was true or false",
            before=None,
            identifies=False,
            changes=(),
            compared="label",
        ),
    ] = None
    kernels: Annotated[
        str | None,
        About(
            meaning="fast: products, attention and dropout as this project writes them; reference: "
            "all in torch's own operators, under autograd",
            applies=is_minbert,
            values=(FAST, REFERENCE),
            before=FAST,
            compared="group",
            varies=True,
            short="{} kernels",
        ),
    ] = FAST
    frozen_dtype: Annotated[
        str | None,
        About(
            meaning="how frozen weights of linear layers are stored under AMP: fp32, bf16 or fp16; "
            "mixed: in AMP's type where a layer has no adapter, and in fp32 where it has one",
            applies=holds_frozen,
            values=(FP32, "bf16", "fp16", MIXED),
            before=MIXED,
            compared="within",
            varies=True,
            short="frozen {}",
        ),
    ] = None
    tf32: Annotated[
        str | None,
        About(
            meaning="on: fp32 products run on the GPU's tensor cores in TF32, with 10 bits of "
            "mantissa; off: in full, as always under AMP and on a CPU",
            values=SWITCH,
            before=OFF,
            compared="follows",
            varies=True,
            short="TF32",
        ),
    ] = OFF
    epochs: Annotated[int, About(meaning="passes over the training examples", compared="group")]
    max_steps: Annotated[
        int | None,
        About(meaning="cap on optimizer steps; empty: none", compared="group"),
    ]
    early_stopping: Annotated[
        int | None,
        About(
            meaning="epochs without a better held-out score after which training stops, with the "
            "weights of the best epoch restored; empty: it does not",
            before=None,
            compared="group",
        ),
    ] = None
    optimizer: Annotated[
        str,
        About(
            meaning="adamw, adamax or radam",
            values=("adamw", "adamax", "radam"),
            compared="group",
            varies=True,
            short="{}",
        ),
    ]
    schedule: Annotated[
        str,
        About(
            meaning="of the rates after the warm-up: linear, to zero; or halving each epoch",
            values=("linear", "halving"),
            before="linear",
            changes=("score",),
            compared="group",
            varies=True,
            short="{} rate",
        ),
    ] = "linear"
    regression_loss: Annotated[
        str | None,
        About(
            meaning="loss of a task without classes: mse, or pearson, 1 − r of each batch",
            applies=is_regression,
            values=("mse", "pearson"),
            before="mse",
            changes=("score",),
            compared="group",
            varies=True,
            short="{}",
        ),
    ] = None
    label_smoothing: Annotated[
        float,
        About(
            meaning="share of every label of a class that is spread over all classes",
            before=0.0,
            changes=("score",),
            compared="group",
            varies=True,
            short="smoothing {:g}",
        ),
    ] = 0.0
    class_weights: Annotated[
        str,
        About(
            meaning="weights of the classes in the training loss: none, or balanced, inversely "
            "proportional to the number of examples trained on",
            values=("none", BALANCED),
            before="none",
            changes=("score",),
            compared="group",
            varies=True,
            short="class weights {}",
        ),
    ] = "none"
    encoders: Annotated[
        int | None,
        About(
            meaning="1, or 2: a second for pairs of texts",
            applies=has_parts,
            before=None,
            compared="group",
            varies=True,
            short="encoders {}",
        ),
    ] = None
    task_order: Annotated[
        str | None,
        About(
            meaning="how the parts' batches follow: sequential, round-robin or proportional (at "
            "random)",
            applies=has_parts,
            values=("sequential", "round-robin", "proportional"),
            before=None,
            compared="group",
            varies=True,
            short="{}",
        ),
    ] = None
    task_rates: Annotated[
        str | None,
        About(
            meaning="factors on all rates by part, such as quora=5 sst=4 sts=3",
            applies=has_parts,
            before=None,
            changes=("score",),
            compared="group",
            varies=True,
        ),
    ] = None
    task_decays: Annotated[
        str | None,
        About(
            meaning="weight decay by part, likewise",
            applies=has_parts,
            before=None,
            changes=("score",),
            compared="group",
            varies=True,
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        About(
            meaning="peak rate of the adapter, of the biases in bitfit, or of everything in full",
            applies=has_main_rate,
            changes=("score",),
            compared="follows",
            short="rate {:g}",
        ),
    ]
    learning_rate_base: Annotated[
        float | None,
        About(
            meaning="peak rate of the rest of the encoder",
            applies=has_base_rate,
            changes=("score",),
            compared="follows",
        ),
    ]
    learning_rate_head: Annotated[
        float | None,
        About(
            meaning="peak rate of the task head",
            applies=has_head_rate,
            changes=("score",),
            compared="follows",
        ),
    ]
    learning_rate_source: Annotated[
        str,
        About(
            meaning=f"where the rates came from: {GRID} (the grid file), {SEARCHED} (--lr auto), "
            f"or {CANDIDATE}: the row is one of that search's tries, scored on held-out training "
            "data",
            identifies=False,
            changes=(),
            compared="label",
        ),
    ]
    layer_decay: Annotated[
        float,
        About(
            meaning="factor on the rate of each layer of the encoder, relative to the layer above; "
            "1: none, as always in head",
            before=1.0,
            changes=("score",),
            compared="follows",
            varies=True,
            short="layer decay {:g}",
        ),
    ] = 1.0
    lora_plus_ratio: Annotated[
        float,
        About(
            meaning="rate of LoRA's B as a multiple of that of A; 1: none, as always without LoRA",
            before=1.0,
            changes=("score",),
            compared="follows",
            varies=True,
            short="LoRA+ ratio {:g}",
        ),
    ] = 1.0
    use_rslora: Annotated[
        str,
        About(
            meaning="on: the scale of LoRA is alpha / √rank (rsLoRA); off: alpha / rank, as always "
            "without LoRA",
            values=SWITCH,
            before=OFF,
            changes=("score",),
            compared="follows",
            varies=True,
            short="rsLoRA {}",
        ),
    ] = OFF
    init_lora_weights: Annotated[
        str,
        About(
            meaning="how LoRA's A and B begin: default (A random, B zero), or by PEFT gaussian, "
            "olora or pissa (the largest singular vectors of the weight)",
            values=(DEFAULT, "gaussian", "olora", PISSA),
            before=DEFAULT,
            changes=("score",),
            compared="follows",
            varies=True,
            short="{} initialisation",
        ),
    ] = DEFAULT
    lora_dropout: Annotated[
        float,
        About(
            meaning="probability of dropout on the input of LoRA's A; 0: none, as always without "
            "LoRA",
            before=0.0,
            compared="follows",
            varies=True,
            short="LoRA dropout {:g}",
        ),
    ] = 0.0
    adapter: Annotated[
        str | None,
        About(
            meaning="in mode peft: the type and the digest of the adapter_config.json",
            applies=has_adapter_config,
            before=None,
            compared="follows",
            short="{}",
        ),
    ] = None
    weight_decay: Annotated[
        float,
        About(
            meaning="decay of weight matrices; vectors are not decayed",
            changes=("score",),
            compared="group",
            varies=True,
        ),
    ]
    warmup: Annotated[
        float,
        About(
            meaning="share of the steps in which the rate rises",
            changes=("score",),
            compared="group",
            varies=True,
        ),
    ]
    alpha: Annotated[
        float | None,
        About(
            meaning="the scale of LoRA is alpha / rank",
            applies=is_low_rank,
            changes=("score",),
            compared="follows",
        ),
    ]
    dropout: Annotated[
        float,
        About(
            meaning="probability, in the encoder and before the head",
            compared="group",
            varies=True,
        ),
    ]

    @property
    def scale(self) -> float | None:
        """The factor of the adapter's update, alpha / rank, or alpha / √rank with rsLoRA."""
        if self.alpha is None or self.rank is None or self.rank < 1:
            return None
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora == ON else self.rank)

    @property
    def is_compiled(self) -> bool:
        """Whether training steps run through torch.compile."""
        return self.compile == ON

    @property
    def why_not_compiled(self) -> str:
        """Why its steps can't be compiled, which are of several kinds; empty: they can."""
        if self.encoders is not None:
            return f"steps of task {self.task} are of several parts"
        if self.unfreeze == ITERATIVE:
            return f"with unfreeze {ITERATIVE} other layers train in each epoch"
        if self.gradient_checkpointing == ON:
            return "the compiler itself chooses what to keep, not gradient_checkpointing"
        return ""

    @cached_property
    def cell_id(self) -> str:
        """Digest of everything that determines the result."""
        return digest(
            {
                name: value
                for name, value in self._settings().items()
                if ABOUT[name].identifies and not _predates(name, value)
            }
        )

    @property
    def name(self) -> str:
        """A short name for people and folders, such as `lora-r8-all-lin-only-bf16-s0`.

        Cells that differ in nothing but the options of their adapters have different names.
        """
        rank = "" if self.rank is None else f"-r{self.rank}"
        adapter = "" if self.layers is None else f"{rank}-{self.layers}"
        unfreezing = f"-{self.unfreeze}" if self.unfreeze not in (None, "all") else ""
        precision = self.amp
        if self.amp == "off":
            precision = "tf32" if self.tf32 == ON else FP32
        if self.frozen_dtype not in (None, FP32):
            precision += f"-frozen-{self.frozen_dtype}"
        fold = "" if self.fold is None else f"-f{self.fold}"
        options = "" if self.adapter is None else f"-{self.adapter.replace(' ', '-')}"
        options += "-rslora" if self.use_rslora == ON else ""
        options += "" if self.init_lora_weights == DEFAULT else f"-{self.init_lora_weights}"
        options += f"-drop{self.lora_dropout:g}" if self.lora_dropout else ""
        return f"{self.mode}{adapter}{options}{unfreezing}-{precision}-s{self.seed}{fold}"

    def columns(self) -> Columns:
        """The fields, and the id."""
        return {**self._settings(), "cell_id": self.cell_id}

    def _settings(self) -> Columns:
        return {name: getattr(self, name) for name in ABOUT}


def _predates(name: str, value: Value) -> bool:
    """Whether cells behaved as with this value before there was the setting."""
    before = ABOUT[name].before
    return before != ALWAYS and value in (None, before)


def _declared() -> tuple[dict[str, About], dict[str, type[str] | type[int] | type[float]]]:
    """The properties of each setting, and the type of its values."""
    about: dict[str, About] = {}
    kinds: dict[str, type[str] | type[int] | type[float]] = {}
    for name, hint in get_type_hints(Cell, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, about[name] = get_args(hint)
            kinds[name] = (get_args(kind) or (kind,))[0]
    return about, kinds


ABOUT, KINDS = _declared()


def named(predicate: Callable[[About], bool]) -> tuple[str, ...]:
    """Names of the settings that meet a condition, in the order of their columns."""
    return tuple(name for name, about in ABOUT.items() if predicate(about))
