"""Export a trained cell as a folder that transformers, PEFT, sentence-transformers or onnxruntime
load without this project.

CELL is the id of a cell in runs.csv or its beginning, its short name, its folder, or `recommended`,
which --prefer, --where, --margin and --metric narrow as in python -m bench.recommend.

Examples:
  python -m bench.export recommended --to my-model
  python -m bench.export recommended --where "memory<=1400MiB" --refit --to my-model
  python -m bench.export lora-r8-attn-only-bf16-s0 --format onnx --to my-model
"""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click

from bench.analysis.costs import parse_margin
from bench.common.command import described, options_in, run_command
from bench.common.errors import InputError, writing
from bench.common.files import try_to_make
from bench.common.messages import command_line, echo
from bench.export import choice
from bench.export.formats import FORMATS, SNIPPET, Format, default_format, missing_library, refusal
from bench.export.trained import describe_base
from bench.launch.signals import Signals
from bench.plan.metrics import metric_of
from bench.plan.rows import Row
from bench.recommend import with_needs
from bench.results.origins import folder_of, model_of
from minbert.files import is_file, is_folder


@described(__doc__)
@click.argument("cell", metavar="CELL|recommended")
@options_in(
    __file__, "options.toml", {"format": click.Choice(list(FORMATS))}, {"needs": with_needs}
)
def command(
    cell: str, folder: Path, name: str | None, merge: bool, refit: bool, allow_low_score: bool,
    max_int8_loss: str | None, runs: Path, as_json: bool, **needs: Any,
) -> int:  # fmt: skip
    if not is_file(runs):
        raise InputError(f"{runs}: no such file of results; name one with --runs")
    target = _target(folder)
    is_recommended = cell == choice.RECOMMENDED
    row, settings = (
        choice.recommended_cell(runs, **needs) if is_recommended else choice.named_cell(runs, cell)
    )
    choice.check_exportable(row)
    if is_recommended and row.folds is not None and not refit:
        raise InputError(
            f"{runs}: the recommended setting was scored in {row.folds} folds, each by a model of "
            "its own; add --refit, which trains one on all examples"
        )
    metric, score = metric_of(row.dev_metric), row.dev_score or 0.0
    most = metric.tolerance(score)
    if max_int8_loss is not None:
        most = parse_margin(max_int8_loss, metric, score, "--max-int8-loss")
    from bench.export.cells import find_trained

    model = model_of(row, folder_of(runs, row), "run its cell again")
    base = describe_base(model)
    form = _format(row, name, merge)
    trained, logits = find_trained(runs, row, model, base, refit=refit)
    if not (refit or allow_low_score):
        choice.check_score(runs, trained.row)

    from bench.export.exporting import export

    with Signals() as signals, signals.raising():
        libraries, figures = export(
            trained, logits, runs, target, form, settings=settings, max_int8_loss=most
        )
    row = trained.row
    if as_json:
        outcome = {
            "folder": str(target),
            "format": form.name,
            "cell_id": row.cell_id,
            "cell": row.name,
            "trained_again": trained.again,
            "other_predictions": trained.changed,
            "refitted": refit,
            "dev_score": None if refit else row.dev_score,
            "libraries": libraries,
            "figures": figures.model_dump(mode="json"),
        }
        echo(json.dumps(outcome, indent=1))
        return 0

    from bench.export.card import figures_table, int8_line
    from bench.report.tables import print_tables
    from bench.report.text import sentences

    option = ["--base", str(base.folder)] if form.is_adapter and not base.on_hub else []
    predict = command_line("predict", str(folder), "FILE", *option)
    snippet = shlex.join(["python", str(folder / SNIPPET), "TEXT", *option])
    lines = sentences(
        "exported", folder=folder, format=form.name, libraries=libraries, trained=trained,
        commands=(predict, snippet), int8=int8_line(figures),
    )  # fmt: skip
    print_tables([figures_table(figures)], lines)
    return 0


def _format(row: Row, name: str | None, merge: bool) -> Format:
    """The format to write, which can express the cell and whose libraries are there."""
    if merge and name is not None and FORMATS[name].is_adapter:
        raise InputError(
            "--merge: merged weights are no adapter; leave it out, or take --format "
            f"{default_format(row, True)}"
        )
    name = name or default_format(row, merge)
    reason = refusal(name, row) or missing_library(FORMATS[name])
    if reason is not None:
        raise InputError(f"{row.name}: {reason}")
    return FORMATS[name]


def _target(folder: Path) -> Path:
    """The new or empty folder to write, without links."""
    real = Path(os.path.realpath(folder))
    if os.path.lexists(real) and not (is_folder(real) and not any(real.iterdir())):
        raise InputError(f"--to {folder}: is there already, and not empty; name another folder")
    if real == Path.cwd():
        raise InputError(f"--to {folder}: is the folder you are in; name another folder")
    with writing(f"--to {folder}", "; name another folder", InputError):
        try_to_make(real.parent)
    return real


if __name__ == "__main__":
    run_command(command)
