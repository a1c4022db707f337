"""The largest batch of each setting that fits into a given memory, and what it costs.

Exit codes: 0, 1 if --verify shows that a promised batch does not fit, 2 bad input.

Examples:
  python -m bench.fit
  python -m bench.fit --memory 8GiB --length 256 --batch 16,32
  python -m bench.fit --data reviews.csv --select "mode=full,lora" --verify
  python -m bench.fit --for cuda --memory 16GiB --length 512 --select amp=fp16
  python -m bench.fit --model bert-base --init random --reports reports
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from adapters.methods import MODES
from bench.analysis.costs import UNITS
from bench.common.command import described, options_in, run_command
from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.common.messages import echo
from bench.common.progress import note_to_stderr
from bench.examples.own import with_data
from bench.examples.tokens import find_length, tokenizer_of
from bench.fit.answers import LARGEST, Costs, is_plain, label_of, remarks
from bench.fit.verify import verified
from bench.forecast.client import NoPredictionError, find_formulae, lock_on
from bench.forecast.costs import Variant
from bench.forecast.forecast import rows_like
from bench.forecast.outlook import Counting, make_forecast
from bench.grid.inputs import Inputs, override, read_inputs
from bench.launch.checks import check_reports
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.machine.memory import available_mib
from bench.plan import gridfile
from bench.plan.cell import Cell
from bench.plan.models import Model
from bench.plan.selection import parse_selection, select
from bench.report.text import phrase
from bench.results.curves import CURVES, Curves, Point, curves_key
from bench.results.rowfile import read_rows
from minbert.files import is_file

_SETTINGS: Final = Path(__file__).with_name("settings.toml")
_LENGTHS: Final = (32, 128, 512)
_LEARNED: Final = 5
"""The most settings that ran here from which memory is learned; each takes a second."""
_PAGES: Final = "fit"


def _memory(text: str) -> float:
    """A size with its unit, in MiB."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]+)\s*", text)
    units = UNITS["memory"]
    if match is None or match[2] not in units or not 0 < float(match[1]) < float("inf"):
        raise click.BadParameter(f"{text!r} is no size; give one in {', '.join(units)}: 8GiB")
    return float(match[1]) * units[match[2]]


def _lengths(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise click.BadParameter(f"{text!r}: give whole numbers, such as 32,128,512")
    return sorted(set(map(int, text.split(","))))


_TYPES: "Final[dict[str, click.ParamType[Any]]]" = {
    "memory": click.types.FuncParamType(_memory),
    "lengths": click.types.FuncParamType(_lengths),
}


@described(__doc__)
@options_in(__file__, "options.toml", _TYPES, {"data": with_data})
def command(
    data: dict[str, Any], memory: float | None, lengths: list[int] | None,
    batches: list[int] | None, grid_name: str | None, selection: str, kind: str, verify: bool,
    runs: Path, reports: Path | None, as_json: bool,
    **overrides: str | None,
) -> int:  # fmt: skip
    axes = parse_selection(selection)
    target, is_here = _target(kind, axes)
    if verify and not is_here:
        raise InputError("--verify trains on the GPU, and none is here")
    if reports is not None:
        check_reports(reports, _PAGES)
    limit_mib = memory or _own_mib(target, is_here)
    inputs = read_inputs(
        override(gridfile.load(grid_name or str(_SETTINGS)), overrides), data, None
    )
    model, *others = inputs.models.values()
    if others or inputs.data.task.parts:
        raise InputError("give --model one model, and --task one without parts")
    positions = model.config.max_position_embeddings
    if lengths is None and data:
        encoder = tokenizer_of(inputs.engine, model.tokenizer)
        length, note = find_length(inputs.whole, encoder, positions)
        note_to_stderr(note)
        lengths = [length]
    lengths = lengths or [n for n in _LENGTHS if n <= positions]
    least = 4 if inputs.data.pairs_in_one else 3
    if wrong := [n for n in lengths if not least <= n <= positions]:
        raise InputError(f"--length {wrong[-1]}: {model.name} takes {least} to {positions} tokens")
    if wrong := [n for n in batches or () if not 1 <= n <= LARGEST]:
        raise InputError(f"--batch {wrong[-1]}: a batch has 1 to {LARGEST:,} texts")
    cells = [replace(c, max_length=positions, batch_size=1) for c in inputs.cells(target)]
    every = {Variant.of(c): c for c in (*cells, *select(cells, axes))}.values()  # a cost once
    chosen = sorted(select(every, axes), key=_order)
    if not chosen:
        raise InputError(f"--select: no setting has {selection}")
    inputs.check(chosen, [target.device] if is_here else [], searches=False)
    with Signals() as signals:
        amps = {c.amp for c in chosen}
        full = [c for c in every if c.mode == "full" and is_plain(c) and c.amp in amps]
        settings = [*dict.fromkeys([*chosen, *full])]  # with what they are compared with
        costs = _costs(settings, inputs, model, target, runs, signals)
        plain = sorted(filter(is_plain, costs.formulae), key=_order)
        plain = [cell for cell in plain if cell.amp == plain[0].amp]
        if reports is not None and (not plain or plain[0].mode != "full"):
            raise InputError("--reports: the grid has no full fine-tuning to compare with")
        answers = costs.answers([c for c in chosen if c in costs.formulae], lengths, limit_mib)
        points = [one for cell, point in answers for one in (
            point, *(costs.point(cell, n, point.length) for n in batches or ())
        )]  # fmt: skip
        notes = [*costs.notes, *remarks(points)]
        title = phrase("fits", "title", model.name, costs.device, limit_mib, batches)
        if not as_json:
            from bench.report.tables import print_tables, table

            print_tables([table("fit", [p.columns() for p in points], title)], notes)
        shown = []
        for cell, point in answers if verify else ():
            if point.batch:
                of = point, model, target, limit_mib, costs.formulae[cell].mapped_mib
                shown.append(verified(cell, *of, signals, partial(echo, err=True)))
                if not as_json:
                    echo(str(shown[-1]))
    if reports is not None:
        curves = costs.curves(plain, model.name, positions)
        if is_file(runs):
            CURVES.update(runs, curves_key(model.digest, costs.device), lambda _: curves)
        echo(f"report: {_write_page(reports, curves, points, title)}", err=True)
    if as_json:
        answer = {
            "model": model.name, "device": costs.device, "limit_mib": limit_mib,
            "notes": notes, "answers": [point.columns() for point in points],
            "verified": [asdict(one) for one in shown],
        }  # fmt: skip
        echo(json.dumps(answer, indent=1))
    return 0 if all(one.is_kept for one in shown) else 1


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


def _own_mib(target: Target, is_here: bool) -> float:
    """The memory that is free here, or all that a GPU has."""
    gpu = target.device.gpu
    if is_here and gpu is None:
        return available_mib()[0]
    if gpu is None or not gpu.memory_mib:
        raise InputError("--for cuda: say with --memory how much the GPU has, such as 16GiB")
    return float(gpu.memory_mib)


def _order(cell: Cell) -> tuple[bool, int, str]:
    return cell.amp != "off", MODES.index(cell.mode), label_of(cell)


def _costs(
    cells: Sequence[Cell], inputs: Inputs, model: Model, target: Target, runs: Path,
    signals: Signals,
) -> Costs:  # fmt: skip
    here, lock = target.conditions, lock_on(target.device_name, signals)
    counting = Counting(here, inputs.data_folder, lock, target.gpu, inputs.adapter_configs)
    jobs = {cell: counting.job(model, cell) for cell in cells}
    try:
        formulae = find_formulae(jobs, lock, target.gpu)
    except NoPredictionError as error:
        raise InputError(f"{model.name}: what fits can't be forecast: {error}") from error
    same = here.conditions_id, model.digest, "off"
    rows = read_rows(runs) if is_file(runs) else []
    alike = [r for r in rows if (r.conditions_id, r.model_digest, r.compile) == same]
    costs = Costs(formulae=formulae, device=here.worker_device, threads=here.threads, rows=alike)
    ran = [r for r in alike if r.is_ok and r.data_digest == cells[0].data_digest][::-1]
    by_variant = grouped(rows_like(ran, ran[:1]) if ran else (), Variant.of)
    some = [newest for newest, *_ in by_variant.values()][:_LEARNED][::-1]
    with suppress(NoPredictionError):
        if some and here.device == "cpu":
            fit = make_forecast([row.cell for row in some], some, model, counting).memory
            return replace(costs, coefficients=fit.coefficients, learned=len(fit.points))
    return costs


def _write_page(folder: Path, curves: Curves, points: Sequence[Point], title: str) -> Path:
    from bench.report.forecasts import lengths_section
    from bench.report.pages import Facts, Section, called, write_pages
    from bench.report.tables import table

    rows = [point.columns() for point in points]
    [lengths] = lengths_section(curves)
    fits = Section("fits", "What fits", "The largest batch that fits",
                   [title, *remarks(points)], tables=[table("fit", rows)])  # fmt: skip
    facts = Facts(
        title=f"What fits of {curves.model}, and where an adapter saves memory",
        findings=lengths.lines[:1], sections=[fits, lengths],
        notes=[phrase("fits", "how"), *curves.notes], command=called("fit"),
    )  # fmt: skip
    return write_pages(folder, _PAGES, facts, data=curves.model_dump(mode="json") | {"fits": rows})


if __name__ == "__main__":
    run_command(command)
