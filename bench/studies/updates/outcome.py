"""Reads the updates of cells, scores them cut to some ranks, prints and writes the results."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import click

from bench.common.csvfile import write_csv
from bench.common.errors import DiskFullError, InputError
from bench.common.progress import progress_bar
from bench.machine.conditions import Conditions
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.plan.models import Model
from bench.report.text import plain, without_paths
from bench.results.origins import examples_of, model_of
from bench.studies.updates import modules, truncation
from bench.studies.updates.cells import Trained, find
from bench.studies.updates.modules import COLUMNS, Update
from bench.studies.updates.truncation import Truncation, problems
from minbert.data.tasks import Data, find_task

PAGES: Final = "updates"
"""Name of the pages and of the folder of their figures."""
_WITHOUT: Final = "name other results with --runs"


def updates_of(
    runs: Sequence[Path],
    ranks: Sequence[int] | None,
    data: Path | None,
    *,
    csv_file: Path | None = None,
    as_json: bool = False,
    reports: Path | None = None,
) -> int:
    """Read the updates of the cells of some CSVs, print and write the results; the exit code.

    Args:
        ranks: to which to cut the updates of full fine-tuning, to score them on dev; None: don't.
        data: the folder of the tasks' files, for that.

    Raises:
        InputError: if there is nothing to read, or it can't be read.
    """
    cells, notes = find(runs)
    cut = []
    if ranks is not None:
        whole = [cell for cell in cells if cell.whole]
        cut = [cell for cell in whole if cell.row["dev_score"] is not None]
        if not cut:
            raise InputError(
                "--truncate: no cell of full fine-tuning has kept its weights and has a dev score; "
                'run some with --save-weights --rerun ok --select "mode=full", or leave it out'
            )
        notes += [
            f"not cut: {cell.name}, which has no dev score" for cell in whole if cell not in cut
        ]
    folders = {cell.name: data if find_task(cell.cell.task).files else None for cell in cut}
    if data is not None and not any(folders.values()):
        raise InputError("--data: no task of these cells is read from a folder; leave it out")
    examples = {cell.name: examples_of(cell.row, folders[cell.name]) for cell in cut}
    updates, truncations = _measured(cells, cut, examples, folders, ranks or ())
    unmoved = [update.cell.name for update in updates if not update.modules]
    notes += [f"left out: {name}, of which no linear layer trained" for name in unmoved]
    updates = [update for update in updates if update.modules]
    if not updates:
        raise InputError(f"{', '.join(unmoved)}: no linear layer of the encoder trained")
    notes += dict.fromkeys(note for cell in cut for note in find_task(cell.cell.task).notes)
    _print(updates, truncations, notes, as_json=as_json)
    if csv_file is not None:
        write_csv(csv_file, COLUMNS, modules.rows(updates))
    errors: list[str] = []
    if reports is not None:
        from bench.report.pages import write_pages
        from bench.studies.updates.page import facts

        words = ["python", "-m", "bench.updates", *map(plain, sys.argv[1:])]
        page = facts(updates, truncations, notes, without_paths(shlex.join(words)))
        try:
            sys.stderr.write(f"report: {write_pages(reports, PAGES, page)}\n")
        except DiskFullError as error:
            errors.append(str(error))
    errors += problems(truncations)
    for message in errors:
        sys.stderr.write(f"error: {message}\n")
    return 1 if errors else 0


def _measured(
    cells: Sequence[Trained],
    cut: Sequence[Trained],
    examples: Mapping[str, Data],
    folders: Mapping[str, Path | None],
    ranks: Sequence[int],
) -> tuple[list[Update], list[Truncation]]:
    """The spectra of all cells, and the scores of the cells to cut.

    Args:
        examples: of the cells to cut, by name; `folders`: where they are from.
    """
    bases: dict[object, Model] = {}
    for cell in cells:
        if cell.row["model_digest"] not in bases:
            bases[cell.row["model_digest"]] = model_of(cell.row, cell.folder, _WITHOUT)
    conditions = _conditions(cut)
    # These load torch, for which bad input need not wait.
    from bench.studies.updates.truncate import truncate
    from bench.studies.updates.weights import Known, measure

    known: Known = {}
    with progress_bar(len(cells) + len(cut) * (len(ranks) + 1)) as show:
        done = count()
        updates = []
        for cell in cells:
            show(next(done), cell.name)
            updates.append(measure(cell, bases[cell.row["model_digest"]], known))
        truncations = [
            truncate(
                cell,
                bases[cell.row["model_digest"]],
                ranks,
                examples[cell.name],
                folders[cell.name],
                conditions[cell.name],
                lambda step: show(next(done), step),
            )
            for cell in cut
        ]
    return updates, truncations


def _conditions(cut: Sequence[Trained]) -> dict[str, Conditions]:
    """The conditions in which to predict with each cell to cut: on a CPU for cells from a CPU.

    If a GPU was tried, this process sees only that one from now on.

    Raises:
        InputError: if a GPU is needed and can't be used, or fp16 is needed without a GPU.
    """
    from bench.machine.conditions import find_conditions

    devices = {cell.name: "cpu" if cell.row["device"] == "cpu" else "auto" for cell in cut}
    machines = {device: find_conditions(device) for device in dict.fromkeys(devices.values())}
    for machine in machines.values():
        if machine.gpu:
            os.environ.update({VISIBLE: machine.gpu, ORDER: BY_BUS})
    conditions = {name: machines[device].conditions for name, device in devices.items()}
    for cell in cut:
        if cell.cell.amp == "fp16" and conditions[cell.name].device == "cpu":
            raise InputError(f"--truncate: {cell.name} predicts in fp16, which needs a GPU")
    return conditions


def _print(
    updates: Sequence[Update],
    truncations: Sequence[Truncation],
    notes: Sequence[str],
    *,
    as_json: bool,
) -> None:
    from bench.report.show import as_json as to_json
    from bench.report.show import print_tables

    if as_json:
        more = {
            "cells": [modules.as_json(update) for update in updates],
            "truncated": [truncation.as_json(cell) for cell in truncations],
            "notes": list(notes),
            "problems": problems(truncations),
        }
        click.echo(to_json(modules.rows(updates), more))
        return
    from bench.studies.updates import tables  # loads pandas

    lines = [*tables.findings(updates, truncations), *tables.explanations(updates)]
    lines += [f"note: {note}" for note in notes]
    print_tables(tables.tables(updates, truncations), lines)
