"""Reads the updates of cells, cuts them if that is asked for, prints and writes what was found."""

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
"""The name of its pages and of the folder of their figures."""
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
    """Read the updates of the cells of some CSVs, and tell of them; the exit code.

    Args:
        ranks: to which to cut those of full fine-tuning and score them on dev; None: don't.
        data: the folder of the tasks' files, for that.

    Raises:
        InputError: if there is nothing to read, or it can't be read.
    """
    cells, notes = find(runs)
    whole = [of for of in cells if of.whole]
    scored = [of for of in whole if of.row["dev_score"] is not None]
    if ranks is not None and not scored:
        raise InputError(
            "--truncate: no cell of full fine-tuning has kept its weights and has a dev score; run "
            'some with --save-weights --rerun ok --select "mode=full", or leave it out'
        )
    cut = [] if ranks is None else scored
    if cut:
        names = [of.name for of in whole if of not in scored]
        notes += [f"not cut: {name}, which has no dev score" for name in names]
    folders = {of.name: data if find_task(of.cell.task).files else None for of in cut}
    if data is not None and not any(folders.values()):
        raise InputError("--data: no task of these cells is read from a folder; leave it out")
    examples = {of.name: examples_of(of.row, folders[of.name]) for of in cut}
    updates, truncations = _measured(cells, examples, folders, ranks or ())
    still = [of.cell.name for of in updates if not of.modules]
    notes += [f"left out: {name}, of which no linear layer trained" for name in still]
    updates = [of for of in updates if of.modules]
    if not updates:
        raise InputError(f"{', '.join(still)}: no linear layer of the encoder trained")
    notes += list(dict.fromkeys(note for of in truncations for note in _task_notes(of)))
    wrong = problems(truncations)
    _tell(updates, truncations, notes, as_json=as_json)
    if csv_file is not None:
        write_csv(csv_file, COLUMNS, modules.rows(updates))
    code = 1 if wrong else 0
    if reports is not None:
        from bench.report.pages import write_pages
        from bench.studies.updates.page import facts

        words = ["python", "-m", "bench.updates", *map(plain, sys.argv[1:])]
        line = without_paths(shlex.join(words))
        said = facts(updates, truncations, notes, line)
        try:
            path = write_pages(reports, PAGES, said)
            sys.stderr.write(f"report: {path}\n")
        except DiskFullError as error:
            sys.stderr.write(f"error: {error}\n")
            code = 1
    for problem in wrong:
        sys.stderr.write(f"error: {problem}\n")
    return code


def _bases(cells: Sequence[Trained]) -> dict[str, Model]:
    """The checkpoints that cells were trained from, by digest."""
    found: dict[str, Model] = {}
    for of in cells:
        digest = str(of.row["model_digest"])
        if digest not in found:
            found[digest] = model_of(of.row, of.folder, _WITHOUT)
    return found


def _measured(
    cells: Sequence[Trained],
    examples: Mapping[str, Data],
    folders: Mapping[str, Path | None],
    ranks: Sequence[int],
) -> tuple[list[Update], list[Truncation]]:
    """The spectra of all cells, and the scores of some with their updates cut.

    Args:
        examples: of those to cut, by name; `folders` are the data's.
    """
    bases, cut = _bases(cells), [of for of in cells if of.name in examples]
    conditions = _where_to_predict(cut)
    from bench.studies.updates.measure import (  # torch, which bad input need not wait for
        Known,
        measure,
    )
    from bench.studies.updates.truncate import check_precision, truncate

    for of in cut:
        check_precision(of, conditions[of.name])
    known: Known = {}
    with progress_bar(len(cells) + len(cut) * (len(ranks) + 1)) as show:
        done = count()
        updates = []
        for of in cells:
            show(next(done), of.name)
            updates.append(measure(of, bases[str(of.row["model_digest"])], known))
        truncations = [
            truncate(
                of,
                bases[str(of.row["model_digest"])],
                ranks,
                examples[of.name],
                folders[of.name],
                conditions[of.name],
                lambda what: show(next(done), what),
            )
            for of in cut
        ]
    return updates, truncations


def _where_to_predict(cut: Sequence[Trained]) -> dict[str, Conditions]:
    """By name, the conditions in which to predict with cells that are cut: a CPU for those of one.

    Of the GPUs this process sees from now on the one that was tried.

    Raises:
        InputError: if a GPU is needed and can't be used.
    """
    from bench.machine.conditions import find_conditions

    wanted = {of.name: "cpu" if of.row["device"] == "cpu" else "auto" for of in cut}
    found = {device: find_conditions(device) for device in dict.fromkeys(wanted.values())}
    for of in found.values():
        if of.gpu:
            os.environ.update({VISIBLE: of.gpu, ORDER: BY_BUS})
    return {name: found[device].conditions for name, device in wanted.items()}


def _task_notes(of: Truncation) -> Sequence[str]:
    """What has to be said of a cell's data where its scores are shown."""
    return find_task(of.cell.cell.task).notes


def _tell(
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
            "cells": [modules.as_json(of) for of in updates],
            "truncated": [truncation.as_json(of) for of in truncations],
            "notes": list(notes),
            "problems": problems(truncations),
        }
        click.echo(to_json(modules.rows(updates), more))
        return
    from bench.studies.updates import tables  # pandas

    lines = [*tables.findings(updates, truncations), *tables.said(updates)]
    print_tables(tables.tables(updates, truncations), [*lines, *(f"note: {of}" for of in notes)])
