"""Results of several folders: a page with their settings side by side, and the JSON layout of
PEFT's method comparison."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.analysis.groups import Group, ordered_groups
from bench.plan.rows import Row, latest
from bench.report.pages import Facts, sections_of
from bench.report.tables import results_of, table
from bench.report.text import count, trained_for
from bench.results.predictions import values_from
from bench.results.rescoring import Results


def side_by_side(results: Results, notes: Sequence[str], command: str) -> Facts:
    """The page of the settings that are measured with full fine-tuning in fp32 beside them."""
    groups = ordered_groups(results.rows, (), values_from(results.predictions_of))
    compared = [group for group in groups if group.baseline is not None]
    rows = [row for group in compared for row in _rows(group)]
    rows.sort(key=lambda row: str(row["setting"]))  # stable: then by machine, model and data
    if left_out := len(groups) - len(compared):
        notes = [*notes, f"{count(left_out, 'group')} without full fine-tuning in fp32 left out."]
    machines, models, tasks = ({row[n] for row in rows} for n in ("machine", "model", "task"))
    what = (count(len(machines), "machine"), count(len(models), "model"))
    return Facts(
        title="Results side by side",
        findings=[f"{count(len(rows), 'setting')} on {what[0]}, of {what[1]} on "
                  f"{count(len(tasks), 'data set')}. Each is compared with full fine-tuning in "
                  "fp32 of the same machine, model and data, so that machines are comparable."],
        sections=sections_of((), [table("side_by_side", rows)], ()),
        notes=notes,
        command=command,
    )  # fmt: skip


def _rows(group: Group) -> Iterator[dict[str, object]]:
    where = {name: str(group.shared(name)) for name in ("machine", "device_name", "model", "task")}
    for setting in group.settings:
        if setting.ok:
            named = {"setting": setting.label, "trained_for": trained_for(group.first)}
            yield {**where, **named, "runs": len(setting.ok), **results_of(group, setting)}


def peft_layout(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of a file below `method_comparison/` and its content, for each row that counts."""
    rows: Iterable[Row] = latest(results.rows).values()
    for row in (row for row in rows if row.has_score and not row.is_trial):
        facts = results.facts.get(row.data_digest)
        batches = row.max_steps * row.batch_size if row.max_steps else None
        samples = (row.max_train or (facts.train if facts else 0)) * (row.epochs_run or 0)
        peak = round((row.peak_cuda_allocated_mib or row.peak_rss_mib or 0) * 2**20)
        name = f"{row.mode}/{row.model}-{row.name}-{row.cell_id}-{row.conditions_id}"
        is_adapted, kind = row.layers is not None, "lora" if row.mode == "dora" else row.mode
        metrics = {
            "step": row.max_steps, "test accuracy": row.dev_score, "metric": row.dev_metric,
            "train loss": row.train_loss, "train samples": min(samples, batches or samples),
            "train total tokens": row.tokens_total,
        }  # fmt: skip
        yield f"{row.task}/results/{name.replace('/', '--')}.json", {
            "run_info": {
                "created_at": row.started_at, "total_time": row.wall_s, "experiment_name": name,
                "peft_branch": f"minbert-bench {row.code_version}",
                "train_config": {
                    **row.cell.columns(), "model_id": row.model, "dtype": "float32",
                    "max_seq_length": row.max_length, "use_amp": row.amp != "off",
                    "compile": row.is_compiled, "optimizer_type": row.optimizer,
                    "optimizer_kwargs": {"lr": row.learning_rate, "weight_decay": row.weight_decay},
                },
                "peft_config": {
                    "peft_type": kind.upper(), "task_type": "SEQ_CLS", "r": row.rank,
                    "lora_alpha": row.alpha, "target_modules": row.layers,
                    "use_dora": row.mode == "dora",
                } if is_adapted else None,
                "error_msg": "",
            },
            "train_info": {
                "accelerator_memory_reserved_avg": peak, "accelerator_memory_max": peak,
                "accelerator_memory_reserved_99th": peak, "train_time": row.train_s,
                "file_size": round((row.saved_mib or 0) * 2**20),
                "num_trainable_params": row.params_trainable, "num_total_params": row.params_total,
                "status": "success", "metrics": [metrics],
            },
            "meta_info": {
                "model_info": {"sha": row.model_digest, "created_at": None},
                "dataset_info": {row.task: {"sha": row.data_digest, "created_at": None}},
                "package_info": {
                    **{f"{name}-version": None for name in
                       ("transformers", "peft", "datasets", "bitsandbytes")},
                    "torch-version": row.torch_version, "engine": row.engine,
                },
                "system_info": {"machine": row.machine, "accelerator": row.device_name},
                "pytorch_info": "",
            },
        }  # fmt: skip
