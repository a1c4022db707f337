"""Results of several folders side by side, and as JSON of PEFT's method comparison."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from bench.analysis.groups import ordered_groups
from bench.plan.rows import latest
from bench.report.pages import Facts, sections_of, sentences
from bench.report.tables import results_of, table
from bench.report.text import trained_for
from bench.results.rescoring import Results


def side_by_side(results: Results, notes: Sequence[str], command: str) -> Facts:
    """The page of the settings that are measured with full fine-tuning in fp32 beside them."""
    groups = ordered_groups(results.rows, (), results.values_of)
    names = ("machine", "device_name", "model", "task")
    rows: list[dict[str, object]] = [
        {**{name: str(group.shared(name)) for name in names}, "setting": setting.label,
         "trained_for": trained_for(group.first), "runs": len(setting.ok),
         **results_of(group, setting)}
        for group in groups if group.baseline for setting in group.settings if setting.ok
    ]  # fmt: skip
    rows.sort(key=lambda row: str(row["setting"]))  # stable: then by group
    left_out = sum(group.baseline is None for group in groups)
    finding, *more = sentences("side_by_side", rows=rows, left_out=left_out)
    tables, title = sections_of((), [table("side_by_side", rows)], ()), "Results side by side"
    notes = [*notes, *more]
    return Facts(title=title, findings=[finding], sections=tables, notes=notes, command=command)


def peft_layout(results: Results) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    """The name of a file below `method_comparison/` and its content, for each row that counts."""
    for row in latest(results.rows).values():
        if not row.has_score or row.is_trial:
            continue
        facts = results.facts.get(row.data_digest)
        samples = (row.max_train or (facts.train if facts else 0)) * (row.epochs_run or 0)
        if row.max_steps:
            samples = min(samples, row.max_steps * row.batch_size) or row.max_steps * row.batch_size
        peak = round((row.peak_cuda_allocated_mib or row.peak_rss_mib or 0) * 2**20)
        memory = ("accelerator_memory_reserved_avg", "accelerator_memory_max",
                  "accelerator_memory_reserved_99th")  # fmt: skip
        name = f"{row.mode}/{row.model}-{row.name}-{row.cell_id}-{row.conditions_id}"
        config = None if row.layers is None else {
            "peft_type": "LORA" if row.mode == "dora" else row.mode.upper(), "r": row.rank,
            "lora_alpha": row.alpha, "use_dora": row.mode == "dora", "target_modules": row.layers,
        }  # fmt: skip
        libraries = ("transformers", "peft", "datasets", "bitsandbytes")
        file = re.sub(r"[^\w.+-]+", "--", name)[-190:].lstrip(".+-")
        yield (row.task, "results", f"{file}.json"), {
            "run_info": {
                "created_at": row.started_at, "total_time": row.wall_s, "experiment_name": name,
                "peft_branch": f"minbert-bench {row.code_version}", "peft_config": config,
                "train_config": {**row.cell.columns(), "model_id": row.model}, "error_msg": "",
            },
            "train_info": {
                **dict.fromkeys(memory, peak), "train_time": row.train_s, "status": "success",
                "file_size": round((row.saved_mib or 0) * 2**20),
                "num_trainable_params": row.params_trainable, "num_total_params": row.params_total,
                "metrics": [{
                    "test accuracy": row.dev_score, "metric": row.dev_metric, "step": row.max_steps,
                    "train loss": row.train_loss, "train samples": samples,
                    "train total tokens": row.tokens_total,
                }],
            },
            "meta_info": {
                "model_info": {"sha": row.model_digest}, "pytorch_info": "",
                "dataset_info": {row.task: {"sha": row.data_digest}},
                "package_info": {**dict.fromkeys(f"{each}-version" for each in libraries),
                                 "torch-version": row.torch_version},
                "system_info": {"machine": row.machine, "accelerator": row.device_name},
            },
        }  # fmt: skip
