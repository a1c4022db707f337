"""Train full fine-tuning at a batch size, and adapters at that size and at the largest one that, by
bench.fit, takes the same memory; write the table of docs/fit.md.

Example: python -m tests.experiments.equal_memory --data path/to/cs224n
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import click
import numpy as np

from bench.fit import answers
from bench.results.predictions import kept_predictions
from bench.results.rowfile import read_rows
from bench.results.scores import numbers
from bench.stats.intervals import spread
from tests.experiments import rates
from tests.experiments.pages import DOCS, rewrite, with_tables

ROWS = DOCS / "equal-memory.csv"
PAGE = DOCS / "fit.md"
TASKS = {"nyt": (), "sts": ("--text", "a", "--text-pair", "b")}
SETTINGS = {
    "full-bf16": 'mode = ["full"]',
    "lora-r8-attn-only-bf16": 'mode = ["lora"]\nrank = [8]\nlayers = ["attn-only"]',
    "lora-r8-all-lin-only-bf16": 'mode = ["lora"]\nrank = [8]\nlayers = ["all-lin-only"]',
    "lora-r8-all-lin-only-fa-bf16":
        'mode = ["lora"]\nrank = [8]\nlayers = ["all-lin-only"]\nsettings = { lora_fa = true }',
    "dora-r8-all-lin-only-bf16": 'mode = ["dora"]\nrank = [8]\nlayers = ["all-lin-only"]',
}  # fmt: skip


def _run(name, *words, **options):
    command = [sys.executable, "-m", f"bench.{name}", *map(str, words)]
    return subprocess.run(command, check=True, **options)


def write_grid(path, batches):
    """The settings, each in batches of its sizes."""
    cells = "".join(
        f'[[cells]]\n{SETTINGS[name]}\namp = ["on"]\nbatch_size = {sorted(sizes)}\n'
        for name, sizes in batches.items()
    )
    about = 'about = "adapters in the memory of full fine-tuning"\n'
    path.write_text(f"{about}[settings]\nepochs = 3\nseeds = 3\n{cells}", "utf-8")


def figures():
    """Of each task, setting and batch its trainings by seed, and their scores against full
    fine-tuning and against the batch of that, in points."""
    kept, runs = kept_predictions(ROWS), defaultdict(dict)
    for row in read_rows(ROWS):
        if row.is_ok and row.learning_rate_source == "search":
            values = 100 * numbers(row.dev_metric, kept([row])[""])
            name = row.cell.name.removesuffix(f"-s{row.seed}")
            runs[row.task, name, row.batch_size][row.seed] = row, values
    base = min((batch for _, _, batch in runs), default=0)

    def against(key, other):
        same = sorted(runs[key].keys() & runs[other].keys()) if key != other else ()
        gaps = [runs[key][seed][1] - runs[other][seed][1] for seed in same]
        return spread(np.array(gaps)).interval() if gaps else None

    return [{
        "task": key[0].removeprefix("equal-"), "name": key[1], "batch": key[2],
        "rate": next(iter(own.values()))[0].learning_rate, "seeds": len(own),
        "mib": np.mean([row.peak_rss_mib for row, _ in own.values()]),
        "score": np.mean([values.mean() for _, values in own.values()]),
        "larger": against(key, (*key[:2], base)), "full": against(key, (key[0], "full-bf16", base)),
    } for key, own in sorted(runs.items())]  # fmt: skip


def page(text):
    return with_tables(text, __file__, equal=figures())


@click.command(help=__doc__)
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True),
              help="The folder with the files of sts.")  # fmt: skip
@click.option("--folder", default="runs/equal-memory", type=click.Path(path_type=Path))
@click.option("--batch", default=16, show_default=True, help="Of full fine-tuning.")
def main(data, folder, batch):
    folder.mkdir(parents=True, exist_ok=True)
    for task, pair in TASKS.items():
        rates.write_examples(task, data, folder)
        grid, examples = folder / "equal-memory.toml", folder / f"{task}-train.csv"
        words = ("--grid", grid, "--task", f"equal-{task}", "--data", examples, *pair,
                 "--validation", folder / f"{task}-dev.csv")  # fmt: skip

        def fitting(*more, words=words):
            asked = (*words, "--runs", "none.csv", "--json", *more)
            return json.loads(_run("fit", *asked, stdout=subprocess.PIPE).stdout)["answers"]

        write_grid(grid, {name: {batch} for name in SETTINGS})
        _, full = fitting("--memory", "64GiB", "--select", "mode=full", "--batch", str(batch))
        limit = full["peak_mib"] * (1 + answers._SPARE)
        largest = {one["setting"]: one["batch"] for one in fitting("--memory", f"{limit}MiB")}
        write_grid(grid, {name: {batch, largest[name]} for name in SETTINGS})
        runs = ("--runs", folder / "rows.csv", "--reports", folder / "reports", "--jobs", "2")
        _run("grid", *words, *runs, "--lr", "auto")
        rates.keep_rows(folder / "rows.csv", ROWS)
        rewrite(PAGE, page)


if __name__ == "__main__":
    main()
