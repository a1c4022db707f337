"""What holds a column: whether its check is there, and values that the check has to refuse."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from bench.plan.cell import ABOUT, Value
from bench.plan.columns import BY_NAME, VALUES, Column

ROOT = Path(__file__).parents[2]

_CHECKS: Final = {
    "tests/bench/grid/test_columns.py": {
        "test_a_row_says_how_it_was_planned": "schema grid",
        "test_conditions_are_those_of_this_machine": "device device_name machine "
        "threads torch_version measurement_version code_version",
        "test_sizes_are_counted": "params_total params_trainable saved_mib",
        "test_what_ran_is_what_the_settings_say": "epochs_run",
        "test_tokens_are_the_real_ones_of_each_epochs_examples": "tokens_total",
        "test_the_whole_takes_from_launch_to_the_end": "wall_s started_at finished_at",
        "test_what_was_foretold_is_in_the_row": "predicted_s predicted_peak_mib",
        "test_memory_is_that_of_parameters_gradients_and_state": "weights_mib "
        "gradients_mib optimizer_mib",
        "test_scores_are_those_of_the_predictions": "dev_metric dev_score "
        "dev_accuracy majority_score",
        "test_losses_are_those_of_the_last_epoch": "dev_loss train_loss",
    },
    "tests/bench/plan/test_planning.py": {
        "test_cell_id_follows_what_determines_a_result_and_not_labels": "cell_id",
        "test_tf32_is_of_cells_without_amp_and_older_ids_stay": "tf32",
    },
    "tests/bench/test_plugins.py": {
        "test_a_grid_runs_with_a_plugin": "plugin executor",
    },
    "tests/bench/machine/test_conditions.py": {
        "test_identity_leaves_out_commit_and_gpu_number": "conditions_id",
        "test_what_is_shared_is_a_condition_and_old_ids_stay": "sharing",
        "test_on_a_gpu_cuda_and_inherited_variables_are_conditions": "cuda_version environment",
    },
    "tests/bench/grid/test_session.py": {
        "test_what_another_grid_interrupted_does_not_stop_this_one": "attempt",
        "test_repeats_run_in_processes_and_folders_of_their_own": "repeat",
    },
    "tests/bench/results/test_row.py": {
        "test_a_failed_cell_keeps_its_message_on_one_line": "status message",
        "test_not_learned_is_flagged_by_the_interval": "flags",
        "test_times_are_those_of_the_passes_that_count": "step_ms_median step_ms_ci_low "
        "step_ms_ci_high ms_per_1k_tokens ms_per_1k_tokens_ci_low ms_per_1k_tokens_ci_high "
        "steps_timed examples_per_s",
        "test_the_parts_of_a_step_add_up_to_its_median": "forward_ms backward_ms optimizer_ms",
        "test_accuracy_gets_wilson_and_correlation_fisher": "dev_ci_low dev_ci_high",
    },
    "tests/bench/worker/test_compile.py": {
        "test_a_cell_without_a_compiler_ends_in_a_line": "compile",
        "test_a_compiled_cell_trains_as_another": "compile_s",
        "test_auto_is_off_on_a_cpu_and_the_row_says_so": "compile_why",
        "test_a_row_says_how_much_of_the_code_was_there": "compile_cached",
    },
    "tests/bench/engines/test_columns.py": {
        "test_settings_of_the_engine_are_those_of_the_grid_file": "engine engine_version "
        "attn_implementation init_lora_weights adapter",
        "test_the_first_values_of_adapters_are_timed": "adapter_init_s",
    },
    "tests/bench/worker/test_products.py": {
        "test_measuring_changes_neither_weights_nor_gradients": "products_ms",
    },
    "tests/bench/worker/test_accumulation.py": {
        "test_two_batches_of_8_are_one_of_16": "gradient_accumulation_steps",
    },
    "tests/bench/worker/test_settings.py": {
        "test_checkpointing_keeps_less_and_trains_the_same": "gradient_checkpointing",
    },
    "tests/adapters/test_options.py": {
        "test_peft_reads_the_options_of_an_adapter": "use_rslora lora_dropout",
    },
    "tests/bench/worker/test_kernels.py": {
        "test_a_cell_runs_on_the_kernels_it_names": "kernels",
    },
    "tests/bench/worker/test_frozen_dtype.py": {
        "test_every_parameter_has_the_type_of_the_rule": "frozen_dtype",
    },
    "tests/bench/grid/test_multitask_grid.py": {
        "test_with_one_part_of_the_files_that_part_is_learned": "regression_loss",
        "test_cells_end_ok_with_all_figures": "encoders task_rates task_decays",
        "test_parts_come_in_the_order_asked_for_and_what_serves_others_need_not_move": " "
        "task_order",
        "test_what_is_kept_gives_the_scores_again": "dev_sentiment dev_paraphrase dev_similarity",
    },
    "tests/bench/grid/test_grid.py": {
        "test_rates_are_searched_on_training_data_and_used": "learning_rate_source",
    },
    "tests/bench/grid/test_folds.py": {
        "test_every_fold_of_every_setting_is_a_cell_and_folds_follow_each_other": "folds fold",
    },
    "tests/bench/forecast/test_forecast.py": {
        "test_flops_are_for_each_real_token": "flops_per_token",
    },
    "tests/bench/worker/test_early_stopping.py": {
        "test_epochs_have_the_held_out_scores_that_decide": "early_stopping best_epoch",
    },
    "tests/bench/worker/test_cut.py": {
        "test_a_worker_counts_what_is_cut": "texts_cut tokens_cut",
    },
    "tests/bench/worker/test_column_stages.py": {
        "test_times_are_those_of_their_stages": "startup_s train_s eval_s",
        "test_peaks_are_those_of_training_and_evaluation": "peak_cuda_allocated_mib "
        "peak_cuda_reserved_mib peak_rss_mib peak_anon_mib imports_anon_mib",
        "test_activations_are_those_of_the_largest_batch": "activations_mib",
        "test_work_is_that_of_a_step_on_the_largest_batch": "step_gflop step_operators "
        "step_moved_mib",
        "test_the_training_score_is_that_of_the_batches_as_trained": "train_score",
        "test_energy_is_drawn_while_training": "energy_j energy_source",
    },
    "tests/bench/worker/test_gpu_probe.py": {
        "test_memory_is_the_processs_and_others_on_the_gpu_disturb": "peak_process_vram_mib "
        "process_vram_source",
    },
}
"""By file and test, the columns that the test holds: it fails when their value is wrong."""
_SETTINGS: Final = "tests/bench/grid/test_columns.py::test_settings_are_those_of_the_grid_file"
"""The test of the other settings."""

CHECKS: Final = dict.fromkeys((*ABOUT, "scale"), _SETTINGS) | {
    name: f"{file}::{test}"
    for file, by_test in _CHECKS.items()
    for test, names in by_test.items()
    for name in names.split()
}
"""The id of the test that holds each column."""


def problem_of(column: str, check: str) -> str | None:
    """What is wrong with a column's check, in a line; None if it is a test that looks at it."""
    file, _, name = check.partition("::")
    if not name:
        return f"{column}: name the test that holds it, in tests/bench/column_checks.py"
    test = tests_in(file).get(name)
    if test is None:
        return f"{column}: there is no test {check}"
    if column not in words_of(test):
        return f"{column}: {check} does not look at it"
    return None


@cache
def tests_in(file: str) -> dict[str, ast.FunctionDef]:
    """The tests of a file, by name, that stand in no class."""
    path = ROOT / file
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    return {
        node.name: node
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def words_of(test: ast.FunctionDef) -> set[str]:
    """What a test names as text, keyword or attribute; docstring and comments don't count."""

    def words() -> Iterator[str]:
        documented = ast.get_docstring(test, clean=False)
        for node in ast.walk(test):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node.value != documented:
                    yield from re.findall(r"\w+", node.value)
            elif isinstance(node, ast.keyword) and node.arg is not None:
                yield node.arg
            elif isinstance(node, ast.Attribute):
                yield node.attr

    return set(words())


def held_by(file: str) -> list[str]:
    """Names of the columns whose check is a test of a file."""
    here = Path(file).relative_to(ROOT).as_posix()
    return [name for name in BY_NAME if CHECKS[name].partition("::")[0] == here]


def refuses_wrong_values(name: str, tests: dict[str, Any], ran: Any) -> None:
    """Fail unless a column's check fails for a row that has another value there, or none.

    Args:
        tests: of the module that the check is of, by name. They take `ran` alone.
        ran: a dataclass with the row in which the check holds, as `row`.
    """
    check: Callable[[Any], None] = tests[CHECKS[name].partition("::")[2]]
    check(ran)
    for value in wrong_values(BY_NAME[name], ran.row[name]):
        wrong = replace(ran, row=ran.row | {name: value})
        with pytest.raises(AssertionError):
            check(wrong)


def wrong_values(column: Column, value: Value) -> list[Value]:
    """Other values of a column than its right one, of numbers one near it; and none at all."""
    if isinstance(value, int):
        return [None, value + 1]
    if isinstance(value, float):
        return [None, value * 1.01 if value else 0.01]
    others = [other for other in VALUES.get(column.name, ("other",)) if other != value]
    return [*others, *([None] if value is not None else [])]
