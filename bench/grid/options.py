"""The flags of the command bench.grid."""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from bench.examples.options import with_data
from bench.plan import gridfile
from bench.plan.cell import ENGINES
from bench.plan.metrics import METRIC_HELP, METRICS
from minbert.files import is_folder

LOCAL: Final = "local"
SLURM: Final = "slurm"
_count_option = partial(click.option, type=click.IntRange(min=1), metavar="N")


def _finite(_context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        unit = str(option.metavar).lower()
        raise click.BadParameter(f"{value} is not a number of {unit}; for no limit, leave it out.")
    return value


def _length(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> int | str | None:
    if value is not None and value.isdecimal():
        with suppress(ValueError):  # of thousands of digits
            return int(value)
    return value


def _models(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> list[str] | None:
    if value is None:
        return None
    return [value] if is_folder(value) else value.split(",")


def _compile(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> bool | str | None:
    return {"on": True, "off": False}.get(value or "", value)


_FLAGS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option(
        "--grid",
        "grid_name",
        required=True,
        metavar="NAME|FILE.toml",
        help=f"The grid: {', '.join(gridfile.names())}, or a TOML file that defines one.",
    ),
    click.option(
        "--model",
        callback=_models,
        metavar="NAME[,NAME…]",
        help="The encoder: minilm, a checkpoint's folder, or a name on the Hugging Face hub; with "
        "--init random also bert-tiny to bert-large. Several are compared with each other.",
    ),
    click.option(
        "--init",
        type=click.Choice(["pretrained", "random"]),
        help="The checkpoint's weights, or random ones, with which only costs are measured.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", *ENGINES]),
        help="What builds the model: minbert, this project's fast BERT; transformers, any encoder "
        "with PEFT's adapters; auto: minbert where it can run the whole grid.",
    ),
    click.option(
        "--task",
        help="The task: movies (the default), amazon, nyt or tweets, each also as -rating; with "
        "--data sst, quora, sts or multitask, or any name for data of your own.",
    ),
    with_data,
    _count_option("--seeds", help="Run every cell with seeds 0 to N-1."),
    click.option(
        "--folds",
        type=click.IntRange(min=2),
        metavar="K",
        help="Put train and dev together into K folds, and train a model for each on the others; "
        "all predictions together give the score.",
    ),
    _count_option(
        "--repeats",
        help="Run every cell N times, each in a new process, to see how times and memory vary.",
    ),
    _count_option("--epochs", help="Train for N passes over the training examples."),
    _count_option(
        "--early-stopping",
        help="Stop a cell's training after N epochs without a better score on held-out training "
        "examples, and keep the weights of the best epoch.",
    ),
    _count_option("--max-steps", help="Stop a cell's training after N steps."),
    _count_option("--max-train", help="Train on N examples only."),
    _count_option("--max-dev", help="Evaluate on N examples only."),
    click.option(
        "--max-length",
        callback=_length,
        metavar="N|auto",
        help="Cut texts after N tokens; auto: the smallest multiple of 8 that cuts under 1% of the "
        "tokens of the training examples.",
    ),
    click.option(
        "--compile",
        type=click.Choice(["auto", "on", "off"]),
        callback=_compile,
        help="Train through torch.compile, engine minbert with CUDA graphs on a GPU; auto: where "
        "it pays, which is there.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="The device: auto, cpu, cuda or cuda:i; or GPUs of one kind, on each of which a cell "
        "runs at a time: all, or a list such as cuda:0,cuda:1.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Run N cells at a time on the CPU, each on cores of its own. Their times are not "
        "compared with those of cells that ran alone.",
    ),
    click.option(
        "--executor",
        "executor_name",
        type=click.Choice([LOCAL, SLURM]),
        default=LOCAL,
        show_default=True,
        help="Where cells run: on this machine, or as the array tasks of a Slurm cluster.",
    ),
    click.option(
        "--slurm",
        "slurm_options",
        metavar='"OPTION=VALUE …"',
        help="What each array task asks Slurm for, by the long options of sbatch, such as "
        '"partition=gpu gres=gpu:1 time=02:00:00".',
    ),
    _count_option("--max-running", help="Let at most N array tasks of Slurm run at a time."),
    click.option(
        "--check-nodes",
        is_flag=True,
        help="First run the first cell on every node of the Slurm partition, and name the nodes "
        "that are slower or faster than others of their kind.",
    ),
    click.option(
        "--select",
        "selection",
        default="",
        metavar='"AXIS=V[,V] …"',
        help='Run only the cells that match, such as "mode=lora rank=1,8".',
    ),
    click.option(
        "--lr",
        type=click.Choice(["grid", "auto"]),
        default="grid",
        show_default=True,
        help="Take learning rates from the grid file, or search for the best on training data.",
    ),
    _count_option(
        "--confirm",
        help="At the end, train the recommended setting alone until it has N seeds; it is "
        "withdrawn if one of these trainings collapses, and the exit code is then 1.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Print the plan; run nothing and write no results."
    ),
    click.option(
        "--fresh",
        is_flag=True,
        help="Run all cells without a result of this version of the code; older results are kept.",
    ),
    click.option(
        "--save-weights",
        "keep",
        is_flag=True,
        help="Keep the trained weights of every cell. Without it small ones are kept, of the head "
        "and of adapters on a frozen encoder, up to 1 GiB in all.",
    ),
    click.option(
        "--rerun",
        metavar="STATUS|FLAG",
        help="Run cells again that ended with this status or flag.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        metavar="SECONDS",
        help="End cells that take longer.",
    ),
    click.option(
        "--budget",
        "budget_min",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        metavar="MINUTES",
        help="Leave out cells that are predicted to take longer than the time left; the same "
        "command runs them later.",
    ),
    click.option(
        "--runs",
        type=click.Path(path_type=Path),
        default=Path("runs.csv"),
        show_default=True,
        help="File of the results.",
    ),
    click.option(
        "--reports",
        type=click.Path(path_type=Path),
        default=Path("reports"),
        show_default=True,
        help="Folder for the report.",
    ),
    click.option("--metric", type=click.Choice(list(METRICS)), metavar="NAME", help=METRIC_HELP),
    click.option("--json", "as_json", is_flag=True, help="Print the plan or the outcome as JSON."),
)


def with_flags(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the flags of bench.grid."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command
