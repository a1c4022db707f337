"""Counting in a process of its own, its cache, and the commands that show predictions."""

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest

from bench.forecast import client
from bench.forecast.__main__ import main
from bench.forecast.client import NoPredictionError, find_costs
from bench.forecast.costs import Variant
from bench.forecast.features import memory_features, time_features
from bench.forecast.outlook import outlook_on
from bench.forecast.prepare import forecast_plan
from bench.forecast.totals import totals_of
from bench.forecast.workload import Workload
from bench.launch.signals import Signals
from bench.machine.conditions import find_conditions
from bench.plan.gridfile import load
from bench.plan.models import find_model
from bench.plan.planning import Resolved, expand, plan
from bench.plan.rows import Row
from bench.results.store import Store
from minbert.assets.cache import cache_folder
from minbert.data.tasks import load_task
from tests.bench.synthetic_rows import new_row

EXAMPLES = {"max_train": 64, "max_dev": 32}


@pytest.fixture(scope="module")
def own_cache(minilm: Path, tmp_path_factory: pytest.TempPathFactory):
    """A cache folder of its own, with the fetched assets of the usual one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINBERT_ASSETS", os.environ.get("MINBERT_ASSETS", str(cache_folder())))
        patch.setenv("MINBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["MINBERT_CACHE"])


class Plan:
    """The smoke grid on the tiny checkpoint, as the command plans it."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        settings = {"model": str(checkpoint), "max_steps": 2, **EXAMPLES}
        grid = load("smoke")
        grid = grid.model_copy(update={"settings": grid.settings.model_copy(update=settings)})
        self.model = find_model(str(checkpoint), "pretrained", "auto")
        target = find_conditions("cpu")
        self.conditions = target.conditions
        self.data = load_task("movies", **EXAMPLES)
        resolved = Resolved(
            self.model.name,
            self.model.digest,
            "pooler",
            self.data.digest[:16],
            target.amp_on,
            "grid",
        )
        self.cells = expand(grid, resolved)
        self.planned = plan(self.cells, [], self.conditions.columns())

    @property
    def workload(self) -> Workload:
        return Workload.of(self.cells, self.model, self.conditions, None)

    def forecast(self):
        return forecast_plan(self.planned, [], self.model, self.conditions, None)


@pytest.fixture(scope="module")
def smoke(own_cache: Path, tiny_checkpoint: Path) -> Plan:
    return Plan(tiny_checkpoint)


def test_a_process_counts_and_the_second_time_none_is_needed(
    smoke: Plan, monkeypatch: pytest.MonkeyPatch
):
    variants = [Variant.of(cell) for cell in smoke.cells]
    progress: list[tuple[int, int]] = []
    first = find_costs(smoke.workload, variants, lambda done, total: progress.append((done, total)))
    assert set(first.counts) == set(variants)
    assert progress[-1] == (8, 8)
    assert 30 < first.imports_mib["peak_anon_mib"] < first.imports_mib["peak_rss_mib"] < 2000
    assert first.shapes[16][""].steps == 2  # as max_steps says

    def none(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(client, "_run", none)
    assert find_costs(smoke.workload, variants, lambda done, total: None) == first


def test_each_batch_size_and_unfreezing_is_counted_with_its_own_batches(smoke: Plan):
    variants = [
        Variant.of(cell)._replace(batch_size=size, unfreeze=unfreeze)
        for cell in smoke.cells
        if cell.mode == "lora" and cell.amp == "off"
        for size in (8, 16)
        for unfreeze in ("all", "iterative")
    ]
    workload = replace(smoke.workload, epochs=6, max_steps=None)
    costs = find_costs(workload, variants, lambda done, total: None)
    assert set(costs.counts) == set(variants)
    assert {size: parts[""].steps for size, parts in costs.shapes.items()} == {8: 48, 16: 24}
    for variant, counts in costs.counts.items():
        assert len(counts[""]) == (5 if variant.unfreezes else 1)
        totals = totals_of(costs.shapes[variant.batch_size], counts)
        assert totals.lasting_mib > 0
    small, large = (costs.counts[v][""][0] for v in variants if not v.unfreezes)
    assert small.step_gflop < large.step_gflop
    assert find_costs(workload, variants, lambda done, total: pytest.fail("counted again")) == costs


def test_counting_takes_a_turn_and_what_is_cached_does_not(
    smoke: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path))
    variants, turns = [Variant.of(smoke.cells[0])], []

    @contextmanager
    def turn():
        turns.append("begins")
        yield
        turns.append("ends")

    def ask(workload: Workload) -> None:
        find_costs(workload, variants, lambda done, total: None, turn)

    ask(smoke.workload)
    assert turns == ["begins", "ends"]
    ask(smoke.workload)
    assert turns == ["begins", "ends"]


def test_a_plan_with_nothing_to_run_is_not_forecast(smoke: Plan):
    def forecaster(*_: object) -> None:
        raise AssertionError("it may wait for another grid")

    done = [replace(item, action="done") for item in smoke.planned]
    assert outlook_on(done, forecaster, Signals()).to_run == []


def test_a_damaged_cache_is_counted_again(
    smoke: Plan, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    variants = [Variant.of(smoke.cells[0])]
    first = find_costs(smoke.workload, variants, lambda done, total: None)
    damaged = tmp_path / "predictions"
    shutil.copytree(own_cache / "predictions", damaged)
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path))
    for path in damaged.iterdir():
        path.write_text('{"train": ')
    again = find_costs(smoke.workload, variants, lambda done, total: None)
    assert again.counts == first.counts
    assert again.shapes == first.shapes


def test_what_can_not_be_counted_is_a_note_and_no_more(
    smoke: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fails(*_: object) -> None:
        raise NoPredictionError("there is no such thing")

    monkeypatch.setattr(client, "_cached", lambda *_: None)
    monkeypatch.setattr(client, "_run", fails)
    assert smoke.forecast() is None
    assert capsys.readouterr().err.endswith(
        "note: memory and time are not predicted: there is no such thing\n"
    )


def test_a_process_that_fails_says_why_in_a_line(smoke: Plan):
    changed = replace(smoke.workload, data_digest="other")
    with pytest.raises(NoPredictionError, match=r"^the examples of movies are not those"):
        find_costs(changed, [Variant.of(smoke.cells[0])], lambda done, total: None)


def test_the_process_that_counts_sees_the_workers_gpu_or_none(
    smoke: Plan, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def popen(*_: object, env: dict[str, str], **__: object) -> None:
        seen.append((env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]))
        raise OSError(1, "not now")

    monkeypatch.setattr(client, "_cached", lambda *_: None)
    monkeypatch.setattr(client.subprocess, "Popen", popen)
    for gpu in ("GPU-1", ""):
        with pytest.raises(NoPredictionError, match="no process to count: not now"):
            find_costs(
                smoke.workload, [Variant.of(smoke.cells[0])], lambda done, total: None, gpu=gpu
            )
    assert seen == [("GPU-1", "PCI_BUS_ID"), ("", "PCI_BUS_ID")]


def measured(smoke: Plan) -> list[Row]:
    """A row for each cell, with figures that a forecast can tell."""
    forecast = smoke.forecast()
    assert forecast is not None
    rows = []
    for cell in smoke.cells:
        variant = Variant.of(cell)
        features = variant, forecast.totals[variant]
        row = new_row(**cell.columns(), **smoke.conditions.columns(), attempt=1, status="ok")
        memory = forecast.imports_mib + 80 + 1.1 * sum(memory_features(*features)[2:])
        rows.append(
            row | {"peak_rss_mib": memory, "wall_s": 6 + 1e-4 * time_features(*features)[1]}
        )
    return rows


def test_the_check_leaves_out_groups_that_it_can_not_predict_and_says_so(
    smoke: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other_model = {"model_digest": "0" * 16, "model": "other"}
    other_gpu = {"device": "cuda:9", "device_name": "Some GPU", "conditions_id": "there"}
    store = Store(tmp_path / "runs.csv")
    groups = ({}, {"task": "sst", "data_digest": "0" * 16}, other_model, other_gpu)
    for number, values in enumerate(groups):
        for row in measured(smoke):
            store.append(row | {"cell_id": f"{number}{row['cell_id']}"} | values)
    arguments = ["--check", str(store.path), "--model", str(smoke.checkpoint)]
    code = main.main([*arguments, "--data", str(tmp_path), "--json"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert code == 1
    assert [group["task"] for group in json.loads(out)] == ["movies"]
    notes = [line for line in err.splitlines() if "is left out: " in line]
    assert len(notes) == 3
    assert any("on sst" in note and "ids-sst-train.csv" in note for note in notes)
    assert any(note.startswith("note: other on movies") and "--model" in note for note in notes)
    [gpu] = [note for note in notes if "Some GPU" in note]
    assert gpu.endswith("they ran on cuda:9, which is not here")


def test_the_check_leaves_settings_out_and_tells_how_far_off_it_is(
    smoke: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = Store(tmp_path / "runs.csv")
    for row in measured(smoke):
        store.append(row)
    arguments = ["--check", str(store.path), "--model", str(smoke.checkpoint)]
    assert main.main([*arguments, "--json"], standalone_mode=False) == 0
    (group,) = json.loads(capsys.readouterr().out)
    ways = group["checks"]["peak_rss_mib"]
    assert list(ways) == [
        "by the prior",
        "as they ran",
        "kind left out",
        "5 folds",
        "one left out",
    ]
    assert ways["one left out"]["within_10_percent"] == 1.0
    assert len(ways["one left out"]["settings"]) == 8
    assert main.main(arguments, standalone_mode=False) == 0
    assert "one left out" in capsys.readouterr().out


def test_the_check_refuses_what_it_can_not_check(smoke: Plan, tmp_path: Path):
    from bench.common.errors import InputError

    for arguments, message in (
        (["--check", str(tmp_path / "none.csv")], "no such file"),
        (["--check", str(Path(__file__))], "runs.csv|header|column"),
    ):
        with pytest.raises((InputError, click.ClickException), match=message):
            main.main(arguments, standalone_mode=False)
