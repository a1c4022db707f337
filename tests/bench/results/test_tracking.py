"""Results in MLflow and TensorBoard, read back by their own libraries."""

import json
import os
from importlib.util import find_spec
from unittest import mock

import pytest

from bench.common.command import BAD_INPUT
from bench.results.exports import EXPORTS, Figures, Form
from bench.results.origins import folder_of
from bench.results.tracking import TRACKERS, Tracker, main
from tests.bench.synthetic_rows import synthetic_rows, write_rows
from tests.components import COMPONENTS, need

FIGURES = Figures(
    forms=(Form(name="onnx", format="onnx", size_mb=90.5, one_ms=5.25),),
    metric="accuracy", examples=10, machine="Xeon", threads=2, at="2026-11-20T10:00:00Z",
)  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two cells, one of which failed, with files of one, an export and a report."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs.csv"
    rows = [synthetic_rows()[0], next(row for row in synthetic_rows() if row.status == "oom")]
    write_rows(path, rows)
    folder = folder_of(path, rows[0])
    folder.mkdir(parents=True)
    (folder / "steps.csv").write_text("step,ms,loss\n1,20.5,1.4\n2,21.0,1.25\n")
    (folder / "epochs.csv").write_text("epoch,train_loss,train_score,dev_score\n1,1.3,,0.5\n")
    EXPORTS.update(path, rows[0].cell_id, lambda _: FIGURES)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "report.md").write_text("# the report")
    (tmp_path / "reports" / "index.html").write_text("<p>the report")
    return rows


def send(capsys, to, code=0):
    assert main.main(["runs.csv", "--to", to], standalone_mode=False) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def need_trackers(*modules):
    need(all(find_spec(name) for name in modules), COMPONENTS["trackers"], component="trackers")


def test_an_mlflow_store_has_each_cell_once(results, tmp_path, capsys):
    need_trackers("mlflow", "sqlalchemy", "alembic")
    from mlflow import MlflowClient

    to = f"mlflow:sqlite:///{tmp_path}/mlflow.db"
    assert f"{to} has 2 cells; new in it are 3 runs\n" == send(capsys, to)
    client = MlflowClient(to.partition(":")[2])
    [experiment] = [e for e in client.search_experiments() if e.name == "minbert-bench movies"]

    def runs():
        every = client.search_runs([experiment.experiment_id])
        assert len(every) == 3
        return {run.info.run_name: run for run in every}

    ok, failed = (runs()[folder_of(tmp_path / "runs.csv", row).name] for row in results)
    row, params, metrics = results[0], ok.data.params, ok.data.metrics
    expected = {"mode": "full", "seed": "0", "threads": "2", "machine": row.machine}
    assert params.items() >= expected.items()
    assert metrics["dev_score"] == pytest.approx(row.dev_score)
    assert metrics["peak_rss_mib"] == pytest.approx(row.peak_rss_mib)
    assert metrics["export/onnx/one_ms"] == 5.25
    curve = client.get_metric_history(ok.info.run_id, "step/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.4), (2, 1.25)]
    assert "epoch/train_score" not in metrics
    assert (ok.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert ok.info.end_time - ok.info.start_time == 70_000
    assert failed.data.params["message"] == results[1].message
    report = runs()["report"].info.run_id
    assert {file.path for file in client.list_artifacts(report)} == {"index.html", "report.md"}

    # what is there is not sent again; what changed since replaces it
    assert send(capsys, to).endswith("new in it are 0 runs\n")
    changed = FIGURES.model_copy(update={"forms": (Form(name="onnx", format="onnx", one_ms=7),)})
    EXPORTS.update(tmp_path / "runs.csv", row.cell_id, lambda _: changed)
    assert send(capsys, to).endswith("new in it are 1 runs\n")
    assert runs()[ok.info.run_name].data.metrics["export/onnx/one_ms"] == 7

    down = "mlflow:http://127.0.0.1:9"
    assert f"not all is sent to {down}: API request to " in send(capsys, down, code=1)


def test_tensorboard_files_have_each_cell_once(results, tmp_path, capsys):
    need_trackers("tensorboard")
    assert send(capsys, "tensorboard:logs").endswith("new in it are 3 runs\n")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    row, folder = results[0], tmp_path / "logs" / "movies"
    events = EventAccumulator(str(folder / folder_of(tmp_path / "runs.csv", row).name))
    events.Reload()
    losses = [(event.step, round(event.value, 5)) for event in events.Scalars("step/loss")]
    assert losses == [(1, 1.4), (2, 1.25)]
    assert events.Scalars("dev_score")[0].value == pytest.approx(row.dev_score)
    assert events.Scalars("export/onnx/size_mb")[0].value == 90.5
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    parameters = HParamsPluginData.FromString(content).session_start_info.hparams
    assert (parameters["mode"].string_value, parameters["threads"].number_value) == ("full", 2)
    report = EventAccumulator(str(folder / "report"))
    report.Reload()
    assert report.Tensors("report.md")[0].tensor_proto.string_val[0] == b"# the report"

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("events*")}
    assert send(capsys, "tensorboard:logs").endswith("new in it are 0 runs\n")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("events*")} == before


def own_tracker(monkeypatch, **values):
    """A tracker as a plugin declares it, and the list of what it gets."""
    sent = []
    monkeypatch.setattr("bench.results.tracking.load", lambda _: lambda *one: sent.append(one))
    values = {"library": "json", "install": "own", "sender": "own:send"} | values
    monkeypatch.setitem(TRACKERS.own, "own", Tracker(name="own", **values))
    return sent


def test_what_can_not_be_sent_is_a_line(results, tmp_path, capsys, monkeypatch):
    for to in ("mlflow", "mlflow:", "kites:there"):
        with pytest.raises(BAD_INPUT, match="give one of mlflow:PLACE, tensorboard:PLACE"):
            main.main(["runs.csv", "--to", to], standalone_mode=False)
    sent = own_tracker(monkeypatch)
    folder = folder_of(tmp_path / "runs.csv", results[0])
    (folder / "steps.csv").write_text("step,loss\n1,high\n")
    assert "high" in send(capsys, "own:there", code=1)
    assert not sent


def test_a_grid_sends_each_cell_once_it_has_ended_and_goes_on_if_it_cannot(grid, monkeypatch):
    own_tracker(monkeypatch, library="no_such_module")
    done = grid.run("--track", "own:there")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "error: own:there: is not installed: pip install own" in done.stderr
    assert not grid.csv.exists()

    grid.workers_here = True
    sent = own_tracker(monkeypatch)
    ended = []  # the cells whose rows are durable when one is sent

    def send(place, run):
        ended.append(len(grid.rows()))
        sent.append((place, run))
        return True

    monkeypatch.setattr("bench.results.tracking.load", lambda _: send)
    flags = ("--select", "mode=head amp=off", "--track", "own:there")
    done = grid.run(*flags)
    assert done.returncode == 0, done.stderr
    [row] = grid.rows()
    assert [run.name for _, run in sent] == [folder_of(grid.csv, row).name, "report"]
    assert ended == [1, 1]
    assert {place for place, _ in sent} == {"there"}
    assert {"step/loss", "epoch/dev_score"} <= sent[0][1].curves.keys()
    assert "own:there has 1 cell" in done.stderr
    assert "; new in it are 2 runs\n" in done.stderr

    failing = mock.Mock(side_effect=OSError(os.strerror(111)))
    monkeypatch.setattr("bench.results.tracking.load", lambda _: failing)
    done = grid.run(*flags, "--rerun", "ok", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"] == {"ok": 1}
    assert failing.call_count == 1, "a server that is down costs no time again"
    again = f"python -m bench.track --runs {grid.csv} --to own:there"
    line = f"not all is sent to own:there: Connection refused; to send the rest: {again}\n"
    assert done.stderr.count("own:there") == 2
    assert line in done.stderr
