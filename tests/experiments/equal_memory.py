"""Does the memory that an adapter frees, spent on a larger batch, buy anything? Trains full fine-tuning
at a batch size, and adapters at that size and at the largest in the same memory by bench.fit.

Example: python -m tests.experiments.equal_memory --data path/to/cs224n
"""

import json
import subprocess
import sys
from pathlib import Path

import click

from tests.experiments import rates
from tests.experiments.pages import DOCS

ROWS = DOCS / "equal-memory.csv"
TASKS = {"nyt": (), "sts": ("--text", "a", "--text-pair", "b")}
SETTINGS = {
    "full-bf16": 'mode = ["full"]',
    "lora-r8-attn-only-bf16": 'mode = ["lora"]\nrank = [8]\nlayers = ["attn-only"]',
    "lora-r8-all-lin-only-bf16": 'mode = ["lora"]\nrank = [8]\nlayers = ["all-lin-only"]',
    "lora-r8-all-lin-only-fa-bf16":
        'mode = ["lora"]\nrank = [8]\nlayers = ["all-lin-only"]\nsettings = { lora_fa = true }',
    "dora-r8-all-lin-only-bf16": 'mode = ["dora"]\nrank = [8]\nlayers = ["all-lin-only"]',
}  # fmt: skip


def write_grid(path, batches):
    """The settings, each in batches of its sizes."""
    cells = "".join(
        f'[[cells]]\n{SETTINGS[name]}\namp = ["on"]\nbatch_size = {sorted(sizes)}\n'
        for name, sizes in batches.items()
    )
    about = (
        'about = "adapters in the memory of full fine-tuning"\n[settings]\nepochs = 3\nseeds = 3\n'
    )
    path.write_text(about + cells, "utf-8")


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
            command = [
                sys.executable,
                "-m",
                "bench.fit",
                *words,
                "--runs",
                "none.csv",
                "--json",
                *more,
            ]
            done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, check=True)
            return json.loads(done.stdout)["answers"]

        write_grid(grid, dict.fromkeys(SETTINGS, {batch}))
        _, full = fitting("--memory", "64GiB", "--select", "mode=full", "--batch", str(batch))
        limit = full["peak_mib"] / 0.94  # what a promised batch leaves to spare
        largest = {one["setting"]: one["batch"] for one in fitting("--memory", f"{limit}MiB")}
        write_grid(grid, {name: {batch, largest[name]} for name in SETTINGS})
        runs = ("--runs", folder / "rows.csv", "--reports", folder / "reports", "--jobs", "2")
        command = [sys.executable, "-m", "bench.grid", *words, *runs, "--lr", "auto"]
        subprocess.run([*map(str, command)], check=True)
        rates.keep_rows(folder / "rows.csv", ROWS)


if __name__ == "__main__":
    main()
