"""A row of runs.csv, and which rows count.

A row is a cell together with where it ran and what was measured. Its fields are the columns of
runs.csv: those of `bench.plan.cell.Cell`, and the ones declared here.

History of `SCHEMA`, the number in the column of that name:

1. The first.
2. Intervals of the time for 1,000 tokens; `imports_anon_mib`; where energy and process memory on
   the GPU come from.
3. `unfreeze`, `head`, `schedule`, `regression_loss` and `held_out`.
4. Of task `multitask`: `encoders`, `task_order`, `task_rates`, `task_decays`, `dev_sentiment`,
   `dev_paraphrase` and `dev_similarity`.
5. `compile` and `compile_s`.
6. `repeat`, `frozen_dtype`, `cuda_version`, `environment`, `texts_cut` and `tokens_cut`.
7. `kernels`.
8. `folds` and `fold`; `early_stopping`, `label_smoothing`, `class_weights`, `layer_decay` and
   `lora_plus_ratio`; `epochs_run` and `best_epoch`.
9. `forward_ms`, `backward_ms` and `optimizer_ms`.
10. `compile_why` and `compile_cached`.
11. `step_gflop`, `step_operators` and `step_moved_mib`.
12. `engine`, `engine_version`, `attn_implementation`, `gradient_accumulation_steps`,
    `gradient_checkpointing`, `use_rslora`, `init_lora_weights`, `lora_dropout`, `adapter`,
    `adapter_init_s`, `products_ms` and
    `saved_mib`.
13. `sharing`.
14. `tf32` is a setting. Before, it was a condition: always off on a GPU, and empty on a CPU.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, cast

from adapters.methods import ADAPTER_MODES
from bench.plan.cell import CANDIDATE, ON, Applies, Cell, Value, everywhere, has_parts
from bench.plan.metrics import metric_of
from bench.plan.problems import REGRESSION, SINGLE_LABEL

SCHEMA: Final = 14

STATUSES: Final = {
    "ok": "trained, evaluated and measured",
    "oom": "ran out of memory, on the device or the host",
    "timeout": "took longer than --timeout allowed",
    "crashed": "the worker ended with an error or was killed",
    "invalid": "what it trained is no result: a loss that is not finite, an adapter or head that "
    "did not move, a frozen tensor that did",
    "skipped": "planned, but not run, for the reason given",
    "interrupted": "stopped by the user before it ended",
}
RESUMED: Final = ("interrupted", "skipped")
"""Statuses that a grid runs again by itself; cells of the others, except `ok`, wait for --rerun."""

FLAGS: Final = {
    "not_learned": "the interval of the dev score reaches down to the score of the majority class",
    "unstable_timing": "the step times did not settle; run it again on a quiet machine: --rerun "
    "unstable_timing",
    "throttled": "the machine slowed down while steps were timed; cool it or lift its limits, then "
    "--rerun throttled",
    "disturbed": "another process used the machine while steps were timed; stop it, then --rerun "
    "disturbed",
    "emulated_bf16": "the GPU has no bf16 units: torch emulates them, and times say nothing about "
    "a GPU that has them",
}
TIMING_FLAGS: Final = ("unstable_timing", "throttled", "disturbed")
"""Flags that put the times of a row in doubt, so that a later result replaces it."""


CellKey = tuple[str, str, int]
"""A measurement: cell_id, conditions_id and repeat."""


def compiles(row: Mapping[str, Any]) -> bool:
    """Cells with `compile` on."""
    return row.get("compile") == ON


def adapts(row: Mapping[str, Any]) -> bool:
    """Modes with adapters."""
    return row.get("mode") in ADAPTER_MODES


def stops_early(row: Mapping[str, Any]) -> bool:
    """Early stopping."""
    return row.get("early_stopping") is not None


def on_cuda(row: Mapping[str, Any]) -> bool:
    """A GPU."""
    return str(row.get("device", "")).startswith("cuda")


def pretrained(row: Mapping[str, Any]) -> bool:
    """Pretrained weights."""
    return row.get("init") == "pretrained"


def classifies(row: Mapping[str, Any]) -> bool:
    """Pretrained weights, a task with one class for each example."""
    metric = row.get("dev_metric")
    return pretrained(row) and (metric is None or SINGLE_LABEL in metric_of(metric).problems)


def has_majority(row: Mapping[str, Any]) -> bool:
    """Pretrained weights, a task that is no regression."""
    return pretrained(row) and REGRESSION not in metric_of(row.get("dev_metric")).problems


def scores_parts(row: Mapping[str, Any]) -> bool:
    """Pretrained weights, a task of several parts."""
    return pretrained(row) and has_parts(row)


@dataclass(frozen=True)
class Measured:
    """The properties of a column that is no setting: its group, meaning, and where it applies.

    A field that is empty because it does not apply differs from one that was not measured.
    """

    group: str
    meaning: str
    applies: Applies


def _column(group: str, meaning: str, applies: Applies = everywhere, default: Value = None) -> Any:
    return field(default=default, metadata={"column": Measured(group, meaning, applies)})


def _required(group: str, meaning: str) -> Any:
    """A field that every row has."""
    return field(metadata={"column": Measured(group, meaning, everywhere)})


@dataclass(frozen=True, kw_only=True)
class Row(Cell):
    """A row of runs.csv. None: does not apply, or was not measured.

    A planned cell is a row without a status; its attempt is 0.
    """

    schema: int = _column("identity", "version of this list of columns", default=SCHEMA)
    # with a default, which overrides the property of Cell
    cell_id: str = _column(
        "identity", "digest of everything that determines the result", default=""
    )
    conditions_id: str = _required("identity", "digest of the machine and software it ran on")
    attempt: int = _column(
        "identity", "1, and one more for each time the cell was run again", default=0
    )
    repeat: int = _column(
        "identity",
        "1, 2, …: measurements of the same cell, each by a process of its own, that all count",
        default=1,
    )
    grid: str | None = _column("identity", "name of the grid that planned it; a label")
    status: str | None = _column("identity", "how it ended: " + ", ".join(STATUSES))
    flags: str | None = _column(
        "identity", "doubts about the result, separated by spaces: " + ", ".join(FLAGS)
    )
    message: str | None = _column("identity", "one line on why it did not end ok")

    device: str = _required("conditions", "cpu or cuda:i")
    device_name: str = _required("conditions", "name of the GPU, or of the processor")
    machine: str = _required("conditions", "processor, cores and memory")
    threads: int = _required("conditions", "threads of torch's CPU operators")
    torch_version: str = _required("conditions", "version of torch, as installed")
    cuda_version: str | None = _column(
        "conditions", "version of CUDA that torch was built with", on_cuda
    )
    environment: str | None = _column(
        "conditions", "inherited variables that change numbers, as NAME=value; empty: none was set"
    )
    sharing: str | None = _column(
        "conditions",
        "what else ran on the machine: N workers, each on a device or cores of its own, or "
        "part of a node of a cluster; empty: the cell had it alone",
    )
    measurement_version: int = _required("conditions", "raised when measuring or numerics change")
    code_version: str = _required("conditions", "version of this project")

    params_total: int | None = _column("size", "parameters of encoder, adapters and head")
    params_trainable: int | None = _column(
        "size", "parameters that train; with unfreezing, once all layers do"
    )
    saved_mib: float | None = _column(
        "size",
        "MiB of what is saved of the trained model: what trains, and what a method adds to the "
        "checkpoint",
    )
    epochs_run: int | None = _column("size", "epochs that training has begun")
    best_epoch: int | None = _column(
        "size", "the epoch with the best held-out score, whose weights count", stops_early
    )
    tokens_total: int | None = _column("size", "real tokens trained on, all epochs")
    flops_per_token: float | None = _column(
        "size", "FLOPs of a training step by token; 2 for each multiply-add"
    )
    step_gflop: float | None = _column(
        "size", "GFLOP of products in a training step on the largest batch, counted while it ran"
    )
    step_operators: int | None = _column(
        "size", "operators that step runs, without those that only make views"
    )
    step_moved_mib: float | None = _column("size", "MiB that these operators read and write")
    products_ms: float | None = _column(
        "size",
        "time of the matrix products that no step can leave out, measured alone on this machine, "
        "for 1,000 real tokens, ms; empty where it can't be measured",
    )
    texts_cut: int | None = _column(
        "size", "texts of train and dev that are longer than max_length"
    )
    tokens_cut: float | None = _column(
        "size", "share of the tokens of train and dev that were cut off with them"
    )

    step_ms_median: float | None = _column("time", "median of a training step, ms")
    step_ms_ci_low: float | None = _column(
        "time", "its 95% interval within this process, lower end, ms"
    )
    step_ms_ci_high: float | None = _column(
        "time", "its 95% interval within this process, upper end, ms"
    )
    forward_ms: float | None = _column(
        "time", "its part in the forward pass and the loss, ms; the three parts add up to it"
    )
    backward_ms: float | None = _column("time", "its part in the backward pass, ms")
    optimizer_ms: float | None = _column(
        "time", "its part in clipping and the optimizer's step, ms"
    )
    ms_per_1k_tokens: float | None = _column("time", "training time for 1,000 real tokens, ms")
    ms_per_1k_tokens_ci_low: float | None = _column(
        "time", "its 95% interval within this process, lower end, ms"
    )
    ms_per_1k_tokens_ci_high: float | None = _column(
        "time", "its 95% interval within this process, upper end, ms"
    )
    steps_timed: int | None = _column(
        "time", "steps behind these figures, those of the warm-up not counted"
    )
    examples_per_s: float | None = _column("time", "training examples for each second of a step")
    startup_s: float | None = _column(
        "time", "from launch to the first training step, compiling included, s"
    )
    adapter_init_s: float | None = _column(
        "time", "giving the adapters their first values, as by PiSSA's decomposition, s", adapts
    )
    compile_s: float | None = _column(
        "time",
        "compiling for every bucket, before the first step, s; compare rows of like compile_cached",
        compiles,
    )
    compile_cached: float | None = _column(
        "time",
        "share of the graphs whose code an earlier cell of the run had compiled: 0 cold, 1 warm",
        compiles,
    )
    train_s: float | None = _column("time", "all training steps, data preparation included, s")
    eval_s: float | None = _column("time", "all evaluations on dev, s")
    wall_s: float | None = _column(
        "time", "from launch to the worker's end, without saving weights, s"
    )
    predicted_s: float | None = _column("time", "wall_s as predicted before the run, s")

    peak_cuda_allocated_mib: float | None = _column(
        "memory", "GPU memory allocated to tensors, MiB", on_cuda
    )
    peak_cuda_reserved_mib: float | None = _column(
        "memory", "GPU memory held by torch's allocator, MiB", on_cuda
    )
    peak_process_vram_mib: float | None = _column(
        "memory", "GPU memory of the process, by the driver, MiB", on_cuda
    )
    process_vram_source: str | None = _column(
        "memory",
        "nvml-process, or nvml-device where the driver reports no memory by process",
        on_cuda,
    )
    peak_rss_mib: float | None = _column(
        "memory",
        "peak resident set of the worker, mapped files included, up to its last evaluation "
        "(of one that failed: up to its end), MiB",
    )
    peak_anon_mib: float | None = _column("memory", "the same peak without mapped files, MiB")
    imports_anon_mib: float | None = _column(
        "memory",
        "resident set without mapped files once torch is imported, and nothing else done, MiB",
    )
    weights_mib: float | None = _column("memory", "parameters and buffers, MiB")
    gradients_mib: float | None = _column("memory", "gradients of trained parameters, MiB")
    optimizer_mib: float | None = _column("memory", "optimizer state, MiB")
    activations_mib: float | None = _column(
        "memory", "tensors kept for the backward pass of the largest batch, MiB"
    )
    predicted_peak_mib: float | None = _column("memory", "peak as predicted before the run, MiB")

    dev_metric: str | None = _column(
        "quality",
        "accuracy, pearson, micro_f1 (several labels), or overall: the mean over the parts of "
        "accuracy and (1 + r) / 2",
        pretrained,
    )
    dev_score: float | None = _column(
        "quality", "the metric on dev after the last epoch, or the best", pretrained
    )
    dev_ci_low: float | None = _column("quality", "its 95% interval, lower end", pretrained)
    dev_ci_high: float | None = _column("quality", "its 95% interval, upper end", pretrained)
    dev_accuracy: float | None = _column("quality", "accuracy on dev", classifies)
    dev_sentiment: float | None = _column(
        "quality", "accuracy on dev of the part sst", scores_parts
    )
    dev_paraphrase: float | None = _column(
        "quality", "accuracy on dev of the part quora", scores_parts
    )
    dev_similarity: float | None = _column(
        "quality", "Pearson correlation on dev of the part sts", scores_parts
    )
    dev_loss: float | None = _column(
        "quality", "mean loss on dev; of parts, the mean of theirs", pretrained
    )
    train_loss: float | None = _column(
        "quality",
        "mean loss over that epoch's steps, with class weights and smoothing",
        pretrained,
    )
    train_score: float | None = _column(
        "quality",
        "the metric on the batches of that epoch, as they were trained on (dropout on)",
        pretrained,
    )
    majority_score: float | None = _column(
        "quality",
        "score on dev of the training set's majority class, or of the labels that most of its "
        "examples have; a correlation counts as 0 then",
        has_majority,
    )

    energy_j: float | None = _column("other", "energy drawn while training, J")
    energy_source: str | None = _column(
        "other", "nvml (the GPU) or rapl (the processor, all processes included)"
    )
    started_at: str | None = _column("other", "time of launch, UTC, ISO 8601")
    finished_at: str | None = _column("other", "time of the end, UTC, ISO 8601")

    def __getitem__(self, column: str) -> Value:
        """The value in a column, by its name.

        Raises:
            KeyError: if there is no such column.
        """
        return self.scale if column == "scale" else self.__dict__[column]

    def __or__(self, values: Mapping[str, Value]) -> "Row":
        """A copy with other values in some columns."""
        return replace(self, **cast(dict[str, Any], values))

    @property
    def cell(self) -> Cell:
        """The cell alone."""
        return Cell(**{item.name: getattr(self, item.name) for item in fields(Cell)})

    @property
    def flag_names(self) -> list[str]:
        """The flags."""
        return (self.flags or "").split()

    @property
    def key(self) -> CellKey:
        """The measurement that the row is an attempt at."""
        return self.cell_id, self.conditions_id, self.repeat

    @property
    def row_key(self) -> tuple[str, str, int, int]:
        """The unique key of a row: its measurement and attempt."""
        return *self.key, self.attempt

    @property
    def is_ok(self) -> bool:
        """Whether the cell was trained, evaluated and measured."""
        return self.status == "ok"

    @property
    def has_score(self) -> bool:
        """Whether the cell ended ok with a dev score."""
        return self.is_ok and self.dev_score is not None

    @property
    def is_candidate(self) -> bool:
        """Whether the cell is a candidate of a search for learning rates."""
        return self.learning_rate_source == CANDIDATE

    @property
    def software(self) -> tuple[Value, ...]:
        """The conditions on which a score depends: type of device and software, not the machine."""
        return software_of(vars(self))


_SOFTWARE: Final = ("torch_version", "cuda_version", "environment", "measurement_version")


def software_of(conditions: Mapping[str, Value]) -> tuple[Value, ...]:
    """`Row.software` of the columns of conditions."""
    device = str(conditions["device"]).partition(":")[0]
    return device, *(conditions.get(name) or None for name in _SOFTWARE)


def repeat_suffix(repeat: Value) -> str:
    """The end of a cell's name for a repeat: nothing for the first."""
    return f", repeat {repeat}" if isinstance(repeat, int) and repeat > 1 else ""


def standing(rows: Iterable[Row]) -> dict[CellKey, Row]:
    """The current row of each measurement, in order of first appearance.

    That is the last attempt that ended ok, or, where none did, the last attempt.
    """
    last: dict[CellKey, Row] = {}
    take_standing(last, rows)
    return last


def take_standing(last: dict[CellKey, Row], rows: Iterable[Row]) -> None:
    """Update a result of `standing` with further rows."""
    for row in rows:
        key = row.key
        if key not in last or _rank(row) >= _rank(last[key]):
            last[key] = row


def _rank(row: Row) -> tuple[bool, int]:
    return row.is_ok, row.attempt


def latest(rows: Iterable[Row]) -> dict[tuple[str, str, int, str], Row]:
    """The rows that count, by measurement and code_version, in order of first appearance.

    For each version that is the last attempt that ended ok; where no version has one, the current
    row of the measurement. A row with a timing flag counts until a later attempt of any version
    ends ok.
    """
    rows = list(rows)
    current = standing(rows)
    last: dict[tuple[str, str, int, str], Row] = {}
    for row in rows:
        doubtful = not row.is_ok or not set(TIMING_FLAGS).isdisjoint(row.flag_names)
        if doubtful and current[row.key] is not row:
            continue
        key = (*row.key, row.code_version)
        if key not in last or _rank(row) >= _rank(last[key]):
            last[key] = row
    return last


def take_attempts(highest: dict[CellKey, int], rows: Iterable[Row]) -> None:
    """Update the highest attempt at each measurement with further rows."""
    for row in rows:
        key = row.key
        highest[key] = max(highest.get(key, 0), row.attempt)
