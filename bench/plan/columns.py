"""The definition of runs.csv: its columns, statuses and flags, and how fields are written.

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

The columns of axes and settings are the fields of `bench.plan.cell.Cell`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.plan.cell import (
    ABOUT,
    ALWAYS,
    KINDS,
    ON,
    OVERALL,
    Applies,
    Row,
    Value,
    everywhere,
    has_parts,
    ranked,
)

SCHEMA: Final = 7

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

PART_SCORES: Final = {"sst": "dev_sentiment", "quora": "dev_paraphrase", "sts": "dev_similarity"}
"""The parts of task `multitask`, and the column of each part's dev score."""
CORRELATED: Final = ("sts",)
"""Parts whose score is a correlation r, counted as (1 + r) / 2; the others have an accuracy."""

VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: about.values for name, about in ABOUT.items() if about.values},
    "dev_metric": ("accuracy", "pearson", OVERALL),
}
"""Columns of text that hold one of a few names, with these."""

LARGEST: Final = 1e30
"""A bound that no quantity comes near; NaN and infinity are beyond it."""

_KINDS: Final[Mapping[type, str]] = {int: "whole number", float: "number"}


def compiles(row: Mapping[str, Any]) -> bool:
    """Cells with `compile` on."""
    return row.get("compile") == ON


def on_cuda(row: Mapping[str, Any]) -> bool:
    """A GPU."""
    return str(row.get("device", "")).startswith("cuda")


def pretrained(row: Mapping[str, Any]) -> bool:
    """Pretrained weights."""
    return row.get("init") == "pretrained"


def classifies(row: Mapping[str, Any]) -> bool:
    """Pretrained weights, a task with classes."""
    return pretrained(row) and row.get("dev_metric") not in ("pearson", OVERALL)


def has_majority(row: Mapping[str, Any]) -> bool:
    """Pretrained weights, a task that is no regression."""
    return pretrained(row) and row.get("dev_metric") != "pearson"


def scores_parts(row: Mapping[str, Any]) -> bool:
    """Pretrained weights, a task of several parts."""
    return pretrained(row) and has_parts(row)


@dataclass(frozen=True)
class Column:
    """A column of runs.csv.

    `applies` says whether the column can have a value in a row: a field that is empty because it
    does not apply differs from one that was not measured. `check` is the id of the pytest test
    that fails when the value is not what `about` says.
    """

    name: str
    kind: type[str] | type[int] | type[float]
    group: str
    about: str
    check: str
    applies: Applies = everywhere


def _columns() -> tuple[Column, ...]:
    columns: list[Column] = []

    def group(name: str, *entries: str | tuple[Any, ...]) -> None:
        """Add the columns of a group. A string is the check of the columns that follow it."""
        check = ""
        for entry in entries:
            if isinstance(entry, str):
                check = entry
            else:
                column, kind, about, *applies = entry
                columns.append(Column(column, kind, name, about, check, *applies))

    group(
        "identity",
        "tests/bench/grid/test_columns.py::test_a_row_says_how_it_was_planned",
        ("schema", int, "version of this list of columns"),
        "tests/bench/plan/test_planning.py::test_cell_id_follows_what_determines_a_result_and_not_labels",
        ("cell_id", str, "digest of everything that determines the result"),
        "tests/bench/machine/test_conditions.py::test_identity_leaves_out_commit_and_gpu_number",
        ("conditions_id", str, "digest of the machine and software it ran on"),
        "tests/bench/grid/test_session.py::test_what_another_grid_interrupted_does_not_stop_this_one",
        ("attempt", int, "1, and one more for each time the cell was run again"),
        "tests/bench/grid/test_session.py::test_repeats_run_in_processes_and_folders_of_their_own",
        (
            "repeat",
            int,
            "1, 2, …: measurements of the same cell, each by a process of its own, that all count",
        ),
        "tests/bench/grid/test_columns.py::test_a_row_says_how_it_was_planned",
        ("grid", str, "name of the grid that planned it; a label"),
        "tests/bench/results/test_row.py::test_a_failed_cell_keeps_its_message_on_one_line",
        ("status", str, "how it ended: " + ", ".join(STATUSES)),
        "tests/bench/results/test_row.py::test_not_learned_is_flagged_by_the_interval",
        ("flags", str, "doubts about the result, separated by spaces: " + ", ".join(FLAGS)),
        "tests/bench/results/test_row.py::test_a_failed_cell_keeps_its_message_on_one_line",
        ("message", str, "one line on why it did not end ok"),
    )
    for name, about in ABOUT.items():
        own = "axes" if about.compared == "axis" else "settings"
        columns.append(Column(name, KINDS[name], own, about.meaning, about.check, about.applies))
        if name == "alpha":
            scale = "the factor of the adapter's update"
            columns.append(Column("scale", float, own, scale, about.check, ranked))
    group(
        "conditions",
        "tests/bench/grid/test_columns.py::test_conditions_are_those_of_this_machine",
        ("device", str, "cpu or cuda:i"),
        ("device_name", str, "name of the GPU, or of the processor"),
        ("machine", str, "processor, cores and memory"),
        ("threads", int, "threads of torch's CPU operators"),
        ("torch_version", str, "version of torch, as installed"),
        "tests/bench/machine/test_conditions.py::test_on_a_gpu_cuda_and_inherited_variables_are_conditions",
        ("cuda_version", str, "version of CUDA that torch was built with", on_cuda),
        (
            "environment",
            str,
            "inherited variables that change numbers, as NAME=value; empty: none was set",
        ),
        ("tf32", str, "on or off: fp32 products on the GPU's tensor cores", on_cuda),
        "tests/bench/grid/test_columns.py::test_conditions_are_those_of_this_machine",
        ("measurement_version", int, "raised when measuring or numerics change"),
        ("code_version", str, "version of this project"),
    )
    group(
        "size",
        "tests/bench/grid/test_columns.py::test_sizes_are_counted",
        ("params_total", int, "parameters of encoder, adapters and head"),
        ("params_trainable", int, "parameters that train; with unfreezing, once all layers do"),
        "tests/bench/grid/test_columns.py::test_tokens_are_the_real_ones_of_each_epochs_examples",
        ("tokens_total", int, "real tokens trained on, all epochs"),
        "tests/bench/forecast/test_forecast.py::test_flops_are_for_each_real_token",
        ("flops_per_token", float, "FLOPs of a training step by token; 2 for each multiply-add"),
        "tests/bench/worker/test_cut.py::test_a_worker_counts_what_is_cut",
        ("texts_cut", int, "texts of train and dev that are longer than max_length"),
        ("tokens_cut", float, "share of the tokens of train and dev that were cut off with them"),
    )
    group(
        "time",
        "tests/bench/results/test_row.py::test_times_are_those_of_the_passes_that_count",
        ("step_ms_median", float, "median of a training step, ms"),
        ("step_ms_ci_low", float, "its 95% interval, lower end, ms"),
        ("step_ms_ci_high", float, "its 95% interval, upper end, ms"),
        ("ms_per_1k_tokens", float, "training time for 1,000 real tokens, ms"),
        ("ms_per_1k_tokens_ci_low", float, "its 95% interval, lower end, ms"),
        ("ms_per_1k_tokens_ci_high", float, "its 95% interval, upper end, ms"),
        ("steps_timed", int, "steps behind these figures, those of the warm-up not counted"),
        ("examples_per_s", float, "training examples for each second of a step"),
        "tests/bench/worker/test_column_stages.py::test_times_are_those_of_their_stages",
        ("startup_s", float, "from launch to the first training step, compiling included, s"),
        "tests/bench/worker/test_compile.py::test_a_compiled_cell_trains_as_another",
        ("compile_s", float, "compiling for every bucket, before the first step, s", compiles),
        "tests/bench/worker/test_column_stages.py::test_times_are_those_of_their_stages",
        ("train_s", float, "all training steps, data preparation included, s"),
        ("eval_s", float, "all evaluations on dev, s"),
        "tests/bench/grid/test_columns.py::test_the_whole_takes_from_launch_to_the_end",
        ("wall_s", float, "from launch to the worker's end, without saving weights, s"),
        "tests/bench/grid/test_columns.py::test_what_was_foretold_is_in_the_row",
        ("predicted_s", float, "wall_s as predicted before the run, s"),
    )
    group(
        "memory",
        "tests/bench/worker/test_column_stages.py::test_peaks_are_those_of_training_and_evaluation",
        ("peak_cuda_allocated_mib", float, "GPU memory allocated to tensors, MiB", on_cuda),
        ("peak_cuda_reserved_mib", float, "GPU memory held by torch's allocator, MiB", on_cuda),
        "tests/bench/worker/test_gpu_probe.py::test_memory_is_the_processs_and_others_on_the_gpu_disturb",
        ("peak_process_vram_mib", float, "GPU memory of the process, by the driver, MiB", on_cuda),
        (
            "process_vram_source",
            str,
            "nvml-process, or nvml-device where the driver reports no memory by process",
            on_cuda,
        ),
        "tests/bench/worker/test_column_stages.py::test_peaks_are_those_of_training_and_evaluation",
        (
            "peak_rss_mib",
            float,
            "peak resident set of the worker, mapped files included, up to its last evaluation "
            "(of one that failed: up to its end), MiB",
        ),
        ("peak_anon_mib", float, "the same peak without mapped files, MiB"),
        (
            "imports_anon_mib",
            float,
            "resident set without mapped files once torch is imported, and nothing else done, MiB",
        ),
        "tests/bench/grid/test_columns.py::test_memory_is_that_of_parameters_gradients_and_state",
        ("weights_mib", float, "parameters and buffers, MiB"),
        ("gradients_mib", float, "gradients of trained parameters, MiB"),
        ("optimizer_mib", float, "optimizer state, MiB"),
        "tests/bench/worker/test_column_stages.py::test_activations_are_those_of_the_largest_batch",
        ("activations_mib", float, "tensors kept for the backward pass of the largest batch, MiB"),
        "tests/bench/grid/test_columns.py::test_what_was_foretold_is_in_the_row",
        ("predicted_peak_mib", float, "peak as predicted before the run, MiB"),
    )
    group(
        "quality",
        "tests/bench/grid/test_columns.py::test_scores_are_those_of_the_predictions",
        (
            "dev_metric",
            str,
            "accuracy, pearson, or overall: the mean over the parts of accuracy and (1 + r) / 2",
            pretrained,
        ),
        ("dev_score", float, "the metric on dev after the last epoch", pretrained),
        "tests/bench/results/test_row.py::test_accuracy_gets_wilson_and_correlation_fisher",
        ("dev_ci_low", float, "its 95% interval, lower end", pretrained),
        ("dev_ci_high", float, "its 95% interval, upper end", pretrained),
        "tests/bench/grid/test_columns.py::test_scores_are_those_of_the_predictions",
        ("dev_accuracy", float, "accuracy on dev", classifies),
        "tests/bench/grid/test_multitask_grid.py::test_what_is_kept_gives_the_scores_again",
        ("dev_sentiment", float, "accuracy on dev of the part sst", scores_parts),
        ("dev_paraphrase", float, "accuracy on dev of the part quora", scores_parts),
        ("dev_similarity", float, "Pearson correlation on dev of the part sts", scores_parts),
        "tests/bench/grid/test_columns.py::test_losses_are_those_of_the_last_epoch",
        ("dev_loss", float, "mean loss on dev; of parts, the mean of theirs", pretrained),
        ("train_loss", float, "mean loss over the last epoch's steps", pretrained),
        "tests/bench/worker/test_column_stages.py::test_the_training_score_is_that_of_the_batches_as_trained",
        (
            "train_score",
            float,
            "the metric on the batches of the last epoch, as they were trained on (dropout on)",
            pretrained,
        ),
        "tests/bench/grid/test_columns.py::test_scores_are_those_of_the_predictions",
        (
            "majority_score",
            float,
            "score on dev of the training set's majority class; a correlation counts as 0 then",
            has_majority,
        ),
    )
    group(
        "other",
        "tests/bench/worker/test_column_stages.py::test_energy_is_drawn_while_training",
        ("energy_j", float, "energy drawn while training, J"),
        ("energy_source", str, "nvml (the GPU) or rapl (the processor, all processes included)"),
        "tests/bench/grid/test_columns.py::test_the_whole_takes_from_launch_to_the_end",
        ("started_at", str, "time of launch, UTC, ISO 8601"),
        ("finished_at", str, "time of the end, UTC, ISO 8601"),
    )
    return tuple(columns)


COLUMNS: Final = _columns()
BY_NAME: Final = {column.name: column for column in COLUMNS}
NAMES: Final = tuple(BY_NAME)


def group_names(group: str) -> tuple[str, ...]:
    """Names of the columns in a group, in order."""
    return tuple(column.name for column in COLUMNS if column.group == group)


def new_row(**values: Value) -> Row:
    """A row with every column, empty where nothing is given.

    Raises:
        KeyError: for a name that is no column.
    """
    row: Row = dict.fromkeys(NAMES)
    for name, value in values.items():
        row[BY_NAME[name].name] = value
    row["schema"] = SCHEMA
    return row


_LATER: Final = {n: about for n, about in ABOUT.items() if about.before not in (ALWAYS, None)}
"""Settings that older rows lack although they had a value for them."""


def upgraded(values: Mapping[str, Value]) -> Row:
    """A row of this schema from the values of one that may lack columns, being of an older schema.

    Raises:
        KeyError: for a name that is no column.
    """
    row = new_row(**values)
    if "repeat" not in values:
        row["repeat"] = 1
    for name, about in _LATER.items():
        if name not in values and about.applies(row):
            row[name] = about.before
    if "regression_loss" not in values and row["dev_metric"] != "pearson":
        row["regression_loss"] = None  # without a score the kind of task is not known
    return row


def text_of(row: Mapping[str, Value], name: str) -> str:
    """The text in a row's column; "" where it is empty."""
    return str(row.get(name) or "")


def int_of(row: Mapping[str, Value], name: str, default: int = 0) -> int:
    """The whole number in a row's column; the default where it is empty."""
    return int(row.get(name) or default)


def float_of(row: Mapping[str, Value], name: str) -> float:
    """The number in a row's column; 0 where it is empty."""
    return float(row.get(name) or 0.0)


def flags_of(row: Mapping[str, Value]) -> list[str]:
    """The flags of a row."""
    return text_of(row, "flags").split()


CellKey = tuple[str, str, int]
"""A measurement: cell_id, conditions_id and repeat."""


def cell_key(row: Mapping[str, Value]) -> CellKey:
    """The measurement that a row is an attempt at; without a repeat it is the first."""
    return str(row["cell_id"]), str(row["conditions_id"]), int_of(row, "repeat", 1)


def row_key(row: Mapping[str, Value]) -> tuple[str, str, int, int]:
    """The unique key of a row: its measurement and attempt."""
    return *cell_key(row), int_of(row, "attempt")


_SOFTWARE: Final = ("torch_version", "cuda_version", "tf32", "environment", "measurement_version")


def software_key(row: Mapping[str, Value]) -> tuple[Value, ...]:
    """The conditions on which a score depends: type of device and software, not the machine."""
    device = text_of(row, "device").partition(":")[0]
    return device, *(row.get(name) or None for name in _SOFTWARE)


def has_score(row: Mapping[str, Value]) -> bool:
    """Whether a row ended ok with a dev score."""
    return row.get("status") == "ok" and isinstance(row.get("dev_score"), float)


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
        key = cell_key(row)
        if key not in last or _rank(row) >= _rank(last[key]):
            last[key] = row


def _rank(row: Row) -> tuple[bool, int]:
    return row["status"] == "ok", int_of(row, "attempt")


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
        doubtful = row["status"] != "ok" or not set(TIMING_FLAGS).isdisjoint(flags_of(row))
        if doubtful and current[cell_key(row)] is not row:
            continue
        key = (*cell_key(row), text_of(row, "code_version"))
        if key not in last or _rank(row) >= _rank(last[key]):
            last[key] = row
    return last


def take_attempts(highest: dict[CellKey, int], rows: Iterable[Row]) -> None:
    """Update the highest attempt at each measurement with further rows."""
    for row in rows:
        key = cell_key(row)
        highest[key] = max(highest.get(key, 0), int_of(row, "attempt"))


def format_value(value: Value) -> str:
    """A field of runs.csv: floats to seven significant digits, None empty."""
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def parse_value(name: str, text: str) -> Value:
    """The value of a field of runs.csv.

    Raises:
        ValueError: if the text is not of the column's kind, or not one of its names.
    """
    if text == "":
        return None
    if name == "status" and text not in STATUSES:
        raise ValueError(f"{text[:60]!r} is no status")
    if name == "flags" and not set(text.split()) <= FLAGS.keys():
        raise ValueError(f"{text[:60]!r} holds an unknown flag")
    if text not in VALUES.get(name, (text,)):
        raise ValueError(f"{text[:60]!r} is not one of {', '.join(VALUES[name])}")
    kind = BY_NAME[name].kind
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is no {_KINDS[kind]}") from None
    if not isinstance(value, str) and not -LARGEST < value < LARGEST:
        raise ValueError(f"{text[:60]!r} is out of range")
    return value


def learning_rates(mode: str, layers: str | None) -> tuple[str, ...]:
    """The rate columns that apply to a mode and layer set."""
    axes = {"mode": mode, "layers": layers}
    rates = ("learning_rate", "learning_rate_base", "learning_rate_head")
    return tuple(name for name in rates if BY_NAME[name].applies(axes))
