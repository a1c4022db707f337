"""MLflow and TensorBoard, which get the runs that `bench.results.tracking` makes of results."""

import os
import shutil
from pathlib import Path
from typing import Final

from bench.common.files import text_or_empty
from bench.plan.columns import format_value
from bench.results.tracking import TrackedRun

_DIGEST: Final = "minbert_bench_digest"
_MOST: Final = 1000
"""Metrics of one request to MLflow."""
_SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # its thread would run while cells are measured
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


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

    folder = Path(place, run.task, run.name)
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
