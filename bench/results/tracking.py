"""Send results, costs of exports and the report to an experiment tracker, such as MLflow.

Each attempt at a cell is a run there, and so is the report. What the tracker has already is not
sent again, and what has changed replaces it.

Examples:
  python -m bench.track runs.csv --to mlflow:http://localhost:5000
  python -m bench.track runs.csv --to tensorboard:logs
"""

import csv
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from bench.common.command import FILE, described, reports_for, with_runs
from bench.common.errors import InputError, cause_of
from bench.common.files import below, text_or_empty
from bench.common.messages import command_line, echo
from bench.common.progress import progress_bar
from bench.plan.cell import Value
from bench.plan.columns import COLUMNS, format_value
from bench.plan.rows import Row
from bench.results.exports import read_exports
from bench.results.origins import folder_of
from bench.results.protocol import EPOCHS, STEPS
from bench.results.store import read_rows
from minbert.registry import Registry, load

_PARAMETERS: Final = ("identity", "axes", "settings", "conditions")
"""Groups of columns that a run has before anything is measured."""
_DIGEST: Final = "minbert_bench_digest"
_MOST: Final = 1000  # metrics of one request to MLflow
_SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # its thread would run while cells are measured
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker gets of an attempt at a cell, or of a report, which has texts alone: measured
    numbers by column, and by form and cost of an exported model; curves by step or epoch, such as
    `step/loss`; and texts by the names of files. Its name, unique within results, is that of the
    cell's folder, or `report`."""

    name: str
    task: str
    status: str = "ok"
    begun: float = 0.0  # s since 1970
    ended: float = 0.0
    parameters: Mapping[str, Value] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of its content, by which a tracker recognises what it has."""
        return sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """A tracker that `--to` and `--track` name, the library that it imports, and the package that
    has it. `sender` is a function, as `module:function`, of a place and a run; it returns false if
    the place has that run, by its digest, and replaces one of the same name and task."""

    name: str
    library: str
    install: str
    sender: str


_OWN: Final = (("mlflow", "mlflow-skinny"), ("tensorboard", "tensorboard"))
TRACKERS: Final = Registry(
    Tracker,
    "minbert_bench.trackers",
    [
        Tracker(name=name, library=name, install=what, sender=f"bench.results.tracking:to_{name}")
        for name, what in _OWN
    ],
)


class Tracking:
    """Sends results to a tracker, until that fails. InputError if it is not `NAME:PLACE`, or its
    libraries are not installed."""

    def __init__(self, to: str, runs: Path, reports: Path) -> None:
        name, _, self._place = to.partition(":")
        if name not in TRACKERS or not self._place:
            names = ", ".join(f"{known}:PLACE" for known in TRACKERS)
            raise InputError(f"{to}: no tracker and place; give one of {names}")
        self._tracker = TRACKERS[name]
        if find_spec(self._tracker.library) is None:
            raise InputError(f"{to}: is not installed: pip install {self._tracker.install}")
        self._to, self._runs, self._reports = to, runs, reports
        self.failure, self.sent = "", 0
        self._done: set[tuple[Value, ...]] = set()

    def _send(self, make: Callable[[], TrackedRun]) -> None:
        """Make and send a run, unless sending has failed before."""
        if self.failure:
            return
        try:
            self.sent += bool(load(self._tracker.sender)(self._place, make()))
        except Exception as error:  # noqa: BLE001 (of a library, or of its server)
            self.failure = cause_of(error)

    def send_row(self, row: Row) -> None:
        self._send(lambda: run_of(self._runs, row))
        if not self.failure:
            self._done.add(row.row_key)

    def finish(self, rows: Sequence[Row]) -> str:
        """Send what the tracker lacks of rows and of their report; returns a line on that."""
        rest = [row for row in rows if row.row_key not in self._done and not self.failure]
        with progress_bar(len(rest)) as show:
            for number, row in enumerate(rest):
                show(number, row.name)
                self.send_row(row)
        names = ("report.md", "index.html")
        texts = {name: text_or_empty(self._reports / name) for name in names}
        for task in {row.task: row for row in rows} if all(texts.values()) else ():
            self._send(partial(TrackedRun, "report", task, texts=texts))
        if self.failure:
            again = command_line("track", "--runs", str(self._runs), "--to", self._to)
            return f"not all is sent to {self._to}: {self.failure}; to send the rest: {again}"
        return f"{self._to} has {len(rows)} cells; new in it are {self.sent} runs"


def run_of(runs: Path, row: Row) -> TrackedRun:
    """A row's run, by its columns and files. ValueError or KeyError for curves that are none."""
    folder = folder_of(runs, row)
    known = {column: row[column.name] for column in COLUMNS if row[column.name] is not None}
    parameters = {c.name: v for c, v in known.items() if c.group in _PARAMETERS or c.kind is str}
    numbers = {c.name: float(v or 0) for c, v in known.items() if c.name not in parameters}
    figures = read_exports(runs).get(row.cell_id)
    for form in figures.forms if figures else ():
        costs = form.model_dump(include={"size_mb", "one_ms", "batch_ms", "score"})
        numbers |= {f"export/{form.name}/{n}": v for n, v in costs.items() if v is not None}
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, unit in ((STEPS, "step"), (EPOCHS, "epoch")):
        for record in csv.DictReader(text_or_empty(folder / name).splitlines()):
            at = int(record.pop(unit))
            for column, text in record.items():
                if text:
                    curves.setdefault(f"{unit}/{column}", []).append((at, float(text)))
    begun, ended = (
        datetime.fromisoformat(text).timestamp() if text else 0.0
        for text in (row.started_at, row.finished_at)
    )
    return TrackedRun(
        folder.name, row.task, row.status or "", begun, ended, parameters, numbers, curves
    )


def to_mlflow(place: str, run: TrackedRun) -> bool:
    """Send a run to the server or store at a URI, in an experiment of its task."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client, name = MlflowClient(place), f"minbert-bench {run.task}"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    earlier = client.search_runs([experiment], f"attributes.run_name = '{run.name}'")
    if any(each.data.tags.get(_DIGEST) == run.digest for each in earlier):
        return False
    begun, ended = round(1000 * run.begun), round(1000 * run.ended)
    one = client.create_run(experiment, begun or None, run_name=run.name).info.run_id
    parameters = [Param(name, format_value(value)) for name, value in run.parameters.items()]
    client.log_batch(one, params=parameters)
    metrics = [Metric(name, value, ended, 0) for name, value in run.numbers.items()]
    for name, points in run.curves.items():
        metrics += [Metric(name, value, ended, step) for step, value in points]
    for start in range(0, len(metrics), _MOST):
        client.log_batch(one, metrics[start : start + _MOST])
    for name, text in run.texts.items():
        client.log_text(one, text, name)
    client.set_tag(one, _DIGEST, run.digest)  # last: a run without it was not sent to its end
    client.set_terminated(one, "FINISHED" if run.status == "ok" else "FAILED", ended or None)
    for each in earlier:
        client.delete_run(each.info.run_id)
    return True


def to_tensorboard(place: str, run: TrackedRun) -> bool:
    """Write a run's events, parameters as hparams, into a folder by its task and name."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = below(Path(place), run.task, run.name)
    if text_or_empty(folder / _DIGEST) == run.digest:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    writer = EventFileWriter(str(folder))
    if run.parameters:
        begun, status = run.begun, {"status": run.status}
        summary = hparams_pb({**run.parameters, **status}, run.name, begun)
        writer.add_event(Event(summary=summary, wall_time=begun))
    curves = {**{name: [(0, value)] for name, value in run.numbers.items()}, **run.curves}
    for tag, points in curves.items():
        for step, value in points:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(summary=summary, step=step, wall_time=run.ended))
    for name, text in run.texts.items():
        if name.endswith(".md"):
            writer.add_event(Event(summary=text_pb(name, text), wall_time=run.ended))
    writer.close()
    (folder / _DIGEST).write_text(run.digest, encoding="utf-8")
    return True


@described(__doc__)
@with_runs("Results to send, of one file.")
@click.option("--to", required=True, metavar="NAME:PLACE", help=f"One of {', '.join(TRACKERS)}.")
@click.option("--reports", type=FILE, help="Folder of the report, if it is not the usual one.")
def main(runs: Sequence[Path], to: str, reports: Path | None) -> int:
    if len(runs) > 1:
        raise InputError("--runs: one file is sent at a time; bench.merge unites several")
    tracking = Tracking(to, runs[0], reports or reports_for(runs[0]))
    echo(tracking.finish(read_rows(runs[0])), err=bool(tracking.failure))
    return 1 if tracking.failure else 0
