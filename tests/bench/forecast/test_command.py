"""Counting in a process of its own, its cache, and the commands that show predictions."""

import json
import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest import mock

import click
import pytest

from bench.common.errors import InputError
from bench.forecast import client, fake, process
from bench.forecast.__main__ import main
from bench.forecast.client import NoPredictionError, find_costs
from bench.forecast.costs import Totals, Variant
from bench.forecast.fake import UncountableError
from bench.forecast.outlook import Counting, forecast_plan, jobs_of, outlook_on
from bench.launch.signals import Signals
from bench.machine.conditions import find_conditions
from bench.plan.gridfile import load, with_settings
from bench.plan.job import Job
from bench.plan.models import find_model
from bench.plan.planning import Resolved, expand, plan
from bench.results.store import Store
from minbert.assets.cache import cache_folder
from minbert.data.tasks import load_task
from tests.bench.synthetic_rows import new_row

EXAMPLES = {"max_train": 64, "max_dev": 32}
run_process = client._run


def count_here(request, *_):
    """Counts as the process does, in this one, which has imported torch."""
    seeds, texts = request
    jobs = [Job.from_json(text) for text in texts]
    answers = process._count(jobs, seeds, dict.fromkeys((False, True), 100.0))
    return "".join(f"{json.dumps(answer)}\n" for answer in answers)


@pytest.fixture(autouse=True)
def counting(monkeypatch):
    monkeypatch.setattr(client, "_run", count_here)


class Plan:
    """The smoke grid on the tiny checkpoint, as the command plans it."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        settings = {"model": str(checkpoint), "max_steps": 2, **EXAMPLES}
        grid = with_settings(load("smoke"), settings)
        self.model = find_model(str(checkpoint), "pretrained", "auto")
        target = find_conditions("cpu")
        self.conditions = target.conditions
        self.data = load_task("movies", **EXAMPLES)
        given = self.model.name, self.model.digest, "pooler", self.data.digest[:16]
        self.cells = expand(grid, Resolved(*given, target.amp_on, "grid"))
        self.planned = plan(self.cells, [], self.conditions.columns())

    def costs(self, variants=None, lock=nullcontext, gpu="", **settings):
        cell = replace(self.cells[0], **settings)
        variants = variants or [Variant.of(cell)]
        jobs = jobs_of(variants, cell, self.model, Counting(self.conditions))
        return find_costs(jobs, [0], lock, gpu)

    def forecast(self, planned=None, rows=()):
        models = {self.model.name: self.model}
        return forecast_plan(planned or self.planned, rows, models, Counting(self.conditions))


@pytest.fixture(scope="module")
def smoke(minilm, tiny_checkpoint, tmp_path_factory):
    """In a cache folder of its own, with the fetched assets of the usual one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINBERT_ASSETS", os.environ.get("MINBERT_ASSETS", str(cache_folder())))
        patch.setenv("MINBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Plan(tiny_checkpoint)


def test_a_process_counts_and_the_second_time_none_is_needed(smoke, monkeypatch, capsys):
    variants = [Variant.of(cell) for cell in smoke.cells[::4]]
    monkeypatch.setattr(client, "_run", run_process)
    first = smoke.costs(variants)
    assert set(first) == set(variants)
    assert "predicting memory and time of 2 settings" in capsys.readouterr().err
    assert {30 < totals.imports_mib < 2000 for totals in first.values()} == {True}
    assert first[variants[0]].steps == 2  # as max_steps says

    monkeypatch.setattr(client, "_run", mock.Mock(side_effect=AssertionError))
    assert smoke.costs(variants) == first
    assert smoke.costs(variants, seed=9, learning_rate=1e-9) == first, "they cost nothing else"


def test_what_decides_the_costs_is_counted_again(smoke, monkeypatch):
    smoke.costs()
    monkeypatch.setattr(client, "_run", mock.Mock(side_effect=ZeroDivisionError))
    smoke.costs()
    changes = [
        {"pooling": "mean"}, {"head": "conv"}, {"kernels": "reference"}, {"epochs": 9},
        {"batching": "shuffled"}, {"data_digest": "0"}, {"dropout": 0.0},
        {"model_digest": "0"}, {"held_out": 0.1}, {"optimizer": "radam"},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(ZeroDivisionError):
            smoke.costs(**change)
    for axis in ({"batch_size": 3}, {"max_length": 16}, {"unfreeze": "iterative"}, {"amp": "fp16"}):
        with pytest.raises(ZeroDivisionError):
            smoke.costs([Variant.of(smoke.cells[0])._replace(**axis)])
    monkeypatch.setattr(client, "_run", count_here)
    with pytest.raises(InputError, match=r"^the examples of movies have changed"):
        smoke.costs(data_digest="other")
    monkeypatch.setattr(client, "_run", mock.Mock(side_effect=ZeroDivisionError))
    monkeypatch.setattr(client, "digest_of_code", lambda *_: "changed")
    with pytest.raises(ZeroDivisionError):
        smoke.costs()


def test_each_variant_is_counted_with_its_own_batches(smoke):
    [lora] = [cell for cell in smoke.cells if cell.mode == "lora" and cell.amp == "off"]
    larger = Variant.of(lora)
    usual = larger._replace(batch_size=8)
    variants = [
        usual, larger, usual._replace(max_length=8), usual._replace(unfreeze="iterative"),
        *(usual._replace(gradient_accumulation_steps=number) for number in (2, 3)),
    ]  # fmt: skip
    totals = smoke.costs(variants, epochs=6, max_steps=None)
    small, large, short, iterative, two, three = (totals[variant] for variant in variants)
    assert [totals[variant].steps for variant in variants] == [48, 24, 48, 48, 24, 18]
    assert small.real_tokens == two.real_tokens == three.real_tokens
    for accumulated in (two, three):
        assert accumulated.train.gflop == pytest.approx(small.train.gflop, rel=0.02)
    assert small.train == small.timed
    assert iterative.train.gflop < iterative.timed.gflop
    assert small.train.gflop / small.steps < large.train.gflop / large.steps
    assert short.real_tokens < small.real_tokens
    assert short.passing_mib < small.passing_mib
    assert short.train.gflop < small.train.gflop


def test_rows_of_every_length_of_the_plan_are_learned_from(smoke):
    here = smoke.conditions.columns()
    cells = [replace(smoke.cells[0], max_length=length) for length in (8, 64)]
    ok = {"status": "ok", "peak_rss_mib": 900.0}
    times = zip(cells, (5.0, 9.0), strict=True)
    rows = [new_row(**cell.columns(), **here, **ok, wall_s=seconds) for cell, seconds in times]
    planned = plan([replace(cell, seed=1) for cell in cells], [], here)
    forecast = smoke.forecast(planned, rows)
    assert forecast.basis == "fitted on 2 settings that ran here"
    short, long = (forecast.predict(item.cell).predicted_s for item in planned)
    assert short < long
    timed = {"data_digest": "other", "ms_per_1k_tokens": 50.0, "startup_s": 2.0}
    elsewhere = smoke.forecast(planned, [row | timed for row in rows])
    assert elsewhere.basis == "from the speed of other runs here", "on other data"


def test_a_cache_takes_no_lock_and_is_made_again_if_damaged(smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path))
    locks = []

    @contextmanager
    def lock():
        locks.append("begins")
        yield
        locks.append("ends")

    first = smoke.costs(lock=lock)
    assert smoke.costs(lock=lock) == first
    assert locks == ["begins", "ends"]
    [path] = (tmp_path / "predictions").iterdir()
    good = path.read_text()
    variants = [Variant.of(smoke.cells[0])]
    for text in ("", "{", f"{good}{good}", "[1.0, 2.0]"):
        path.write_text(text)
        assert client._kept(path, Totals, variants) is None, text
        with pytest.raises(NoPredictionError, match="wrote something else"):
            client._parsed(text, Totals, variants)
    assert smoke.costs() == first


def test_what_can_not_be_counted_has_no_forecast_but_a_note(smoke, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path))
    counts = fake.count

    def counted(job, shapes, variant):
        if variant.mode == "full":
            raise UncountableError("it asks for values")
        return counts(job, shapes, variant)

    monkeypatch.setattr(fake, "count", counted)
    forecasts = smoke.forecast()
    predicted = {cell.mode: forecasts.predict(cell) for cell in smoke.cells}
    assert {mode for mode, prediction in predicted.items() if prediction is None} == {"full"}
    assert {forecasts.time_s(cell) for cell in smoke.cells} == {None}, "nothing has run here"
    note = "note: memory and time of 2 settings are not predicted: it asks for values\n"
    assert capsys.readouterr().err == note
    with pytest.raises(NoPredictionError, match="it asks for values"):
        smoke.costs([Variant.of(cell) for cell in smoke.cells if cell.mode == "full"])
    monkeypatch.setattr(client, "_kept", lambda *_: None)
    fails = mock.Mock(side_effect=NoPredictionError("there is no such thing"))
    monkeypatch.setattr(client, "_run", fails)
    assert smoke.forecast() is None
    done = [replace(item, action="done") for item in smoke.planned]
    assert outlook_on(done, fails, Signals()).to_run == [], "nothing is asked for"
    note = "note: memory and time are not predicted: there is no such thing\n"
    assert capsys.readouterr().err.endswith(note)


def test_the_process_that_counts_sees_the_workers_gpu_or_none_and_may_fail(smoke, monkeypatch):
    popen = mock.Mock(side_effect=OSError(1, "not now"))
    monkeypatch.setattr(client, "_kept", lambda *_: None)
    monkeypatch.setattr(client, "_run", run_process)
    monkeypatch.setattr("bench.common.child.subprocess.Popen", popen)
    fails = mock.patch.object(client, "ask", side_effect=InputError("other examples"))
    with fails, pytest.raises(NoPredictionError, match="other examples"):
        smoke.costs()
    for gpu in ("GPU-1", ""):
        with pytest.raises(NoPredictionError, match="no process can be started: not now"):
            smoke.costs(gpu=gpu)
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    seen = [[call.kwargs["env"][name] for name in names] for call in popen.mock_calls]
    assert seen == [["GPU-1", "PCI_BUS_ID"], ["", "PCI_BUS_ID"]]


def test_the_check_tells_errors_and_what_is_left_out(smoke, tmp_path, capsys):
    store, forecasts, rows = Store(tmp_path / "runs.csv"), smoke.forecast(), []
    for cell in smoke.cells:
        costs = forecasts.predict(cell)
        measured = {"peak_rss_mib": 1.3 * costs.predicted_peak_mib, "wall_s": 2 * costs.predicted_s}
        row = new_row(**cell.columns(), **smoke.conditions.columns(), attempt=1, status="ok")
        rows.append(row | measured)
        store.append(rows[-1])
    arguments = ["--check", str(store.path), "--model", str(smoke.checkpoint)]
    assert main.main([*arguments, "--json"], standalone_mode=False) == 0
    (group,) = json.loads(capsys.readouterr().out)
    ways = group["checks"]["peak_rss_mib"]
    assert list(ways) == ["by the prior", "as they ran", "kind left out", "one left out"]
    assert ways["by the prior"]["within_10_percent"] == 0.0
    assert ways["one left out"]["within_10_percent"] == 1.0
    assert len(ways["one left out"]["settings"]) == 8

    other_task = {"task": "sst", "data_digest": "0" * 16}
    other_model = {"model_digest": "0" * 16, "model": "other"}
    other_gpu = {"device": "cuda:9", "device_name": "Some GPU", "conditions_id": "there"}
    for number, values in enumerate((other_task, other_model, other_gpu)):
        for row in rows:
            store.append(row | {"cell_id": f"{number}{row['cell_id']}"} | values)
    assert main.main([*arguments, "--data", str(tmp_path)], standalone_mode=False) == 1
    out, err = capsys.readouterr()
    assert out.count("one left out") == 2
    notes = [line for line in err.splitlines() if "is left out: " in line]
    assert len(notes) == 3
    assert any("on sst" in note and "ids-sst-train.csv" in note for note in notes)
    assert any(note.startswith("note: other on movies") and "--model" in note for note in notes)
    for path, message in (("none.csv", "no such file"), (__file__, "runs.csv|header|column")):
        with pytest.raises((InputError, click.ClickException), match=message):
            main.main(["--check", path], standalone_mode=False)
    assert any("Some GPU" in note and "on cuda:9, which is not here" in note for note in notes)
