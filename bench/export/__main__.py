"""Export a trained cell as a folder that transformers, PEFT, sentence-transformers or onnxruntime
load without this project.

Example: python -m bench.export recommended --to my-model
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bench.common.command import run_command
from bench.common.errors import InputError
from bench.export.bases import describe_base
from bench.export.choice import RECOMMENDED, check_exportable, named_cell, recommended_cell
from bench.export.formats import FORMATS, SNIPPET, Format, default_format, missing_library, refusal
from bench.export.trained import Base
from bench.plan.rows import Row
from bench.recommend import with_needs
from minbert.files import is_file

if TYPE_CHECKING:
    from bench.export.exporting import Exported

_EPILOG: Final = """\b
CELL is the id of a cell in runs.csv or its beginning, its short name, its folder, or `recommended`,
which --prefer, --where, --margin and --metric narrow as in python -m bench.recommend.

\b
Examples:
  python -m bench.export recommended --to my-model
  python -m bench.export recommended --where "memory<=1400MiB" --refit --to my-model
  python -m bench.export lora-r8-attn-only-bf16-s0 --format onnx --to my-model
"""


@click.command(
    "python -m bench.export",
    help=" ".join(__doc__.partition("\n\n")[0].split()) if __doc__ else None,
    epilog=_EPILOG,
)
@click.argument("cell", metavar="CELL|recommended")
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder to write, which must not exist yet or be empty.",
)
@click.option(
    "--format",
    "name",
    type=click.Choice(list(FORMATS)),
    help="The format; by default the smallest that has a place for the model.",
)
@click.option(
    "--merge", is_flag=True, help="Add adapters to the weights, so that no base model is needed."
)
@click.option(
    "--refit",
    is_flag=True,
    help="Train on all examples, those of dev included; the score of that model is not measured.",
)
@with_needs
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs.csv"),
    show_default=True,
    help="File of the results.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(
    cell: str,
    folder: Path,
    name: str | None,
    merge: bool,
    refit: bool,
    runs: Path,
    as_json: bool,
    **needs: Any,
) -> int:
    if not is_file(runs):
        raise InputError(f"{runs}: no such file of results; name one with --runs")
    _check_target(folder)
    choice = recommended_cell(runs, **needs) if cell == RECOMMENDED else named_cell(runs, cell)
    row = choice.row
    check_exportable(row)
    if cell == RECOMMENDED and row.folds is not None and not refit:
        raise InputError(
            f"{runs}: the recommended setting was scored in {row.folds} folds, each by a model of "
            "its own; add --refit, which trains one on all examples"
        )
    from bench.export.cells import find_base, find_trained

    model = find_base(runs, row)
    base = describe_base(model)
    form = _format(row, base, name, merge)
    trained, logits = find_trained(runs, row, model, base, refit=refit)

    from bench.export.exporting import export

    exported = export(trained, logits, runs, folder, form, merge=merge, settings=choice.settings)
    if as_json:
        click.echo(json.dumps(exported.to_json(), indent=1))
    else:
        _print(exported)
    return 0


def _print(exported: "Exported") -> None:
    """Print what was written, checked and measured."""
    from bench.export.card import figures_table
    from bench.report.show import print_tables

    trained, folder = exported.trained, exported.folder
    libraries = ", ".join(
        f"{name} {version}" for name, version in exported.answer.libraries.items()
    )
    print_tables(
        [figures_table(exported.figures)],
        [
            f"{folder}: {trained.row.name} ({trained.row.cell_id}) for {exported.form.name}",
            f"checked: in a process without this project ({libraries}) it predicts all "
            f"{len(trained.dev):,} dev examples as the cell does",
            f"use it: python -m bench.predict {folder} FILE, or python {folder / SNIPPET} TEXT",
        ],
    )


def _format(row: Row, base: Base, name: str | None, merge: bool) -> Format:
    """The format to write.

    Raises:
        InputError: if it can't express the cell, or its libraries are missing.
    """
    if merge and name == "peft":
        raise InputError(
            "--merge: merged weights are no adapter; leave it out, or take --format transformers"
        )
    name = name or default_format(row, base.on_hub, merge)
    reason = refusal(name, row, base.on_hub) or missing_library(FORMATS[name])
    if reason is not None:
        raise InputError(f"{row.name}: {reason}")
    return FORMATS[name]


def _check_target(folder: Path) -> None:
    """Refuse a folder that holds something."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"--to {folder}: is there already, and not empty; name another folder")


if __name__ == "__main__":
    run_command(command)
