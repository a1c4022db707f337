"""The largest batch of each setting that fits into a given memory, and what it costs.

Example: python -m bench.fit --memory 8GiB --length 32,128,512
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from adapters.methods import MODES
from bench.analysis.costs import UNITS
from bench.common.command import FILE, options_in, run_command
from bench.common.errors import InputError
from bench.common.messages import echo
from bench.common.progress import note_to_stderr
from bench.examples.options import with_data
from bench.examples.tokenizers import tokenizer_of
from bench.examples.tokens import find_length, token_lengths
from bench.fit.answers import ASSUMED, Answer, Costs, any_size, is_plain, label_of
from bench.fit.error import stated_error
from bench.fit.verify import verify as verified_by
from bench.forecast.client import NoPredictionError, find_formulae, lock_on
from bench.grid.inputs import Inputs, override, read_inputs
from bench.launch.checks import check_reports
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.plan import gridfile
from bench.plan.cell import Cell
from bench.plan.gridfile import Settings
from bench.plan.models import Model
from bench.plan.selection import parse_selection, select
from bench.results.curves import Curves, curves_key, update_curves
from bench.results.rowfile import read_rows
from minbert.files import is_file

_SETTINGS: Final = Path(__file__).with_name("settings.toml")
_LENGTHS: Final = (32, 128, 512)
_SIZE: Final = re.compile(r"([0-9.eE+]+)\s*([A-Za-z]*)")
_EPILOG: Final = """\b
Exit codes: 0, with --verify 1 if a forecast was wrong, 2 bad input.

\b
Examples:
  python -m bench.fit
  python -m bench.fit --memory 8GiB --length 256
  python -m bench.fit --data reviews.csv --select "mode=full,lora" --verify
  python -m bench.fit --for cuda --memory 16GiB --length 512 --select amp=fp16
  python -m bench.fit --model bert-base --init random --reports reports
"""


def _memory(text: str) -> float:
    """A size with its unit, in MiB."""
    units = UNITS["memory"]
    match = _SIZE.fullmatch(text.strip())
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or not 0 < number < float("inf") or match[2] not in units:
        raise click.BadParameter(f"{text!r} is no size; give one in {', '.join(units)}: 8GiB")
    return number * units[match[2]]


def _lengths(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and 0 < len(word) < 7 and int(word) > 2 for word in words):
        raise click.BadParameter(f"{text!r}: give whole numbers from 3, such as 32,128,512")
    return tuple(sorted(set(map(int, words))))


_TYPES: "Final[dict[str, click.ParamType[Any]]]" = {
    "memory": click.types.FuncParamType(_memory),
    "lengths": click.types.FuncParamType(_lengths),
    "path": FILE,
}


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None, epilog=_EPILOG)
@options_in(Path(__file__).with_name("options.toml"), _TYPES, {"data": with_data})
def command(
    data: dict[str, Any], memory: float | None, lengths: tuple[int, ...] | None,
    grid_name: str | None, selection: str, kind: str, verify: bool, runs: Path,
    reports: Path | None, as_json: bool, **overrides: str | None,
) -> int:  # fmt: skip
    if data and lengths:
        raise InputError("--length: leave it out with --data, whose own length is taken")
    axes = parse_selection(selection)
    grid = override(gridfile.load(grid_name or str(_SETTINGS)), overrides)
    target, is_here = _target(kind, axes)
    if verify and not is_here:
        raise InputError("--verify trains on the GPU, and none is here")
    if reports is not None:
        check_reports(reports, "fit")
    limit_mib = memory or _free_mib(target, is_here)
    inputs = read_inputs(grid, data, None)
    model = _one_model(inputs)
    if inputs.data.task.parts:
        raise InputError(f"--task {inputs.data.task.name}: give a task without parts")
    positions = model.config.max_position_embeddings
    every = inputs.cells(target)
    cells = [*dict.fromkeys(any_size(cell, positions) for cell in every)]
    chosen = sorted(select(cells, axes), key=_order)
    if not chosen:
        raise InputError(f"--select: no setting has {selection}")
    inputs.check(chosen, [target.device] if is_here else [], searches=False)
    lengths = _checked(lengths, inputs, model) if not data else _of_data(inputs, model)
    with Signals() as signals:
        costs = _costs(cells, chosen, inputs, target, is_here, runs, signals)
        chosen = [cell for cell in chosen if cell in costs.formulae]
        answers = costs.answers(chosen, lengths, limit_mib)
        answers.sort(key=lambda answer: answer.length)
        notes = _notes(costs, target, is_here)
        if not as_json:
            _print(answers, model, target, limit_mib)
            echo("\n".join(notes))
        verified = []
        for answer in answers if verify else ():
            if answer.batch:
                say = partial(echo, err=True)
                verified.append(verified_by(answer, model, target, limit_mib, signals, say))
                if not as_json:
                    echo(str(verified[-1]))
    if reports is not None:
        _report(reports, runs, answers, costs, model, positions, notes)
    if as_json:
        document = {
            "model": model.name, "device": target.conditions.device, "limit_mib": limit_mib,
            "notes": notes, "answers": [answer.to_json() for answer in answers],
            "verified": [one.to_json() for one in verified],
        }  # fmt: skip
        echo(json.dumps(document, indent=1))
    return 0 if all(one.is_right for one in verified) else 1


def _report(
    reports: Path, runs: Path, answers: Sequence[Answer], costs: Costs, model: Model,
    positions: int, notes: Sequence[str],
) -> None:  # fmt: skip
    """Write the pages and, beside results, the curves for their report."""
    from bench.fit.page import write_page

    amp = answers[0].cell.amp
    cells = [cell for cell in costs.formulae if is_plain(cell) and cell.amp == amp]
    cells.sort(key=_order)
    if cells[0].mode != "full":
        raise InputError("--reports: full fine-tuning, which others are compared with, is not here")
    curves = Curves(
        model=model.name, device=costs.device, notes=tuple(notes),
        curves=tuple(costs.curves(cells, Settings().batch_size, positions)),
    )  # fmt: skip
    if is_file(runs):
        update_curves(runs, curves_key(model.digest, costs.device), lambda _: curves)
    echo(f"report: {write_page(reports, curves, answers)}", err=True)


def _order(cell: Cell) -> tuple[int, bool, str]:
    return MODES.index(cell.mode), cell.amp != "off", label_of(cell)


def _target(kind: str, axes: Mapping[str, set[str]]) -> tuple[Target, bool]:
    """The device that is asked about, and whether it is here. Of another GPU no more is known than
    that it is one: AMP is in fp16, as every GPU has it, unless bf16 is selected."""
    try:
        return find_conditions(kind), True
    except InputError:
        if kind != "cuda":
            raise
    target = find_conditions("cpu")
    conditions = replace(target.conditions, device="cuda:0")
    amp_on = "bf16" if "bf16" in axes.get("amp", ()) else "fp16"
    return replace(target, conditions=conditions, amp_on=amp_on), False


def _free_mib(target: Target, is_here: bool) -> float:
    gpu = target.device.gpu
    if gpu is not None and gpu.memory_mib:
        return float(gpu.memory_mib)
    if not is_here or gpu is not None:
        raise InputError("--for cuda: say with --memory how much the GPU has, such as 16GiB")
    return psutil.virtual_memory().available / 2**20


def _one_model(inputs: Inputs) -> Model:
    model, *others = inputs.models.values()
    if others:
        raise InputError("--model: give one model")
    return model


def _checked(lengths: tuple[int, ...] | None, inputs: Inputs, model: Model) -> tuple[int, ...]:
    positions = model.config.max_position_embeddings
    if lengths is None:
        return tuple(n for n in _LENGTHS if n <= positions) or (positions,)
    if lengths[-1] > positions:
        raise InputError(
            f"--length {lengths[-1]}: {model.name} takes texts of at most {positions} tokens"
        )
    least = 4 if inputs.data.pairs_in_one else 3
    if lengths[0] < least:
        raise InputError(f"--length {lengths[0]}: leaves no room for text; give at least {least}")
    return lengths


def _of_data(inputs: Inputs, model: Model) -> tuple[int]:
    """The length that cuts under 1% of the tokens of the data."""
    encoder = tokenizer_of(inputs.engine, model.tokenizer)
    length, note = find_length(inputs.whole, encoder, model.config.max_position_embeddings)
    pieces = [token_lengths(piece.train, encoder) for piece in inputs.whole.pieces().values()]
    mean = np.minimum(np.concatenate(pieces), length).mean()
    note_to_stderr(f"{note}; memory and time are those of {length} tokens, the mean is {mean:.0f}")
    return (length,)


def _costs(
    cells: Sequence[Cell], chosen: Sequence[Cell], inputs: Inputs, target: Target, is_here: bool,
    runs: Path, signals: Signals,
) -> Costs:  # fmt: skip
    """The costs of chosen cells, and of full fine-tuning, which they are compared with."""
    full = [cell for cell in cells if cell.mode == "full" and cell.amp in {c.amp for c in chosen}]
    conditions, model = target.conditions, _one_model(inputs)
    jobs = {
        cell: model.job(
            cell,
            inputs.data_folder,
            adapter_config=inputs.adapter_configs.get(cell.adapter or ""),
            device=conditions.worker_device,
            threads=conditions.threads,
        )
        for cell in dict.fromkeys([*chosen, *full])
    }
    try:
        formulae = find_formulae(jobs, lock_on(target.device_name, signals), target.gpu)
    except NoPredictionError as error:
        raise InputError(f"{model.name}: what fits can't be forecast: {error}") from error
    rows = read_rows(runs) if is_here and is_file(runs) else []
    alike = [
        row for row in rows
        if row.conditions_id == conditions.conditions_id and row.model_digest == model.digest
        and row.compile == "off"
    ]  # fmt: skip
    return Costs(
        formulae=formulae, device=conditions.worker_device, threads=conditions.threads, rows=alike
    )


def _notes(costs: Costs, target: Target, is_here: bool) -> list[str]:
    """What the answers are based on."""
    notes = [stated_error(on_gpu=costs.device != "cpu")]
    if costs.device != "cpu":
        notes.append(ASSUMED)
    if count := len(costs.ratios):
        notes.append(f"times: by the speed of {count} cell{'s' if count > 1 else ''} that ran here")
    else:
        what = f"{target.conditions.threads} threads" if costs.device == "cpu" else "a GPU"
        where = "here" if is_here else "on it"
        notes.append(f"times: as usual for {what}, right within a factor of a few; none of these "
                     f"settings has run {where}")  # fmt: skip
    return notes


def _print(answers: Sequence[Answer], model: Model, target: Target, limit_mib: float) -> None:
    owners = [*answers[0].memory_mib]
    table = Table("setting", box=None)
    for head in ("length", "largest batch", *owners, "MiB", "ms per 1,000 tokens", "× full"):
        table.add_column(head, justify="right")
    for answer in answers:
        fits = f"{answer.batch:,}" if answer.batch else "none: 1 takes"
        times = "" if answer.times_full is None else f"{answer.times_full:.2f}"
        table.add_row(
            answer.label, str(answer.length), fits,
            *(f"{answer.memory_mib[owner]:,.0f}" for owner in owners),
            f"{answer.peak_mib:,.0f}", f"{answer.ms_per_1k_tokens:,.1f}", times,
        )  # fmt: skip
    device = "a GPU" if target.conditions.device != "cpu" else "the CPU"
    echo(f"{model.name} on {device}, in {limit_mib:,.0f} MiB; memory in MiB by owner:")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


if __name__ == "__main__":
    run_command(command)
