"""The grid command, end to end, with real workers."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from bench.forecast.forecast import Prediction
from bench.forecast.outlook import Outlook
from bench.plan.columns import values_of
from bench.results.facts import REFERENCES, read_facts
from tests.bench.grids import workers_of
from tests.bench.tiny_cells import csv_rows


def test_a_grid_runs_reports_and_has_nothing_left_to_do(grid, cache):
    grid.csv = grid.folder / "not" / "there" / "yet" / "runs.csv"
    first = grid.run_apart("--select", "mode=dora amp=off")
    assert first.returncode == 0, first.stderr
    [row] = rows = grid.rows()
    assert row["status"] == "ok"
    for name in ("flops_per_token", "predicted_s", "predicted_peak_mib", "dev_ci_low"):
        assert row[name] is not None, name
    assert row["imports_anon_mib"] < row["peak_anon_mib"] < row["peak_rss_mib"]
    assert str(grid.folder) not in json.dumps(values_of(row))
    [facts] = read_facts(grid.csv).values()
    assert [point.name for point in facts.references] == list(REFERENCES)
    assert first.stderr.count("reference points: accuracy of majority") == 1
    index = (grid.reports / "index.html").read_text()
    assert str(grid.folder) not in index
    for text in ("dora", "Prediction: ", "TF-IDF with a linear model"):
        assert text in index

    grid.finish("--select", "mode=dora amp=off")
    assert grid.rows() == rows


def test_a_timeout_is_a_row_and_the_grid_goes_on(grid):
    grid.workers_here = False
    result = grid.run("--select", "mode=head", "--timeout", "0.2")
    assert result.returncode == 1
    assert "timeout: python -m bench.grid --grid smoke" in result.stderr
    assert grid.statuses() == ["timeout", "timeout"]
    assert workers_of(grid.folder) == []
    grid.workers_here = True
    grid.finish("--select", "mode=head amp=off", "--rerun", "timeout")
    assert [(row.status, row.attempt) for row in grid.rows()[2:]] == [("ok", 2)]


def test_a_cell_folder_holds_all_that_is_needed_to_repeat_it(grid):
    grid.finish("--select", "mode=lora amp=off", "--save-weights")
    (folder,) = [path for path in (grid.folder / "runs").iterdir() if path.is_dir()]
    assert {"stderr.txt", "stdout.txt"} <= {path.name for path in folder.iterdir()}

    def results():
        result = json.loads((folder / "result.json").read_text())
        names = ("dev_loss", "dev_score", "train_loss", "tokens_total")
        losses = [row["loss"] for row in csv_rows(folder / "steps.csv")]
        return result["save_s"], [result["columns"][n] for n in names], losses

    phases = {row["phase"]: float(row["seconds"]) for row in csv_rows(folder / "phases.csv")}
    assert [*phases] == ["load", "tokenise", "train", "evaluate", "measure", "save"]
    saved, *first = results()
    assert 0 < saved == pytest.approx(phases["save"], abs=1e-4)
    command = (folder / "command.txt").read_text()
    subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL)  # noqa: S602
    assert [*results()[1:]] == first


def test_dry_run_prints_the_plan_and_writes_nothing(grid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    one = SimpleNamespace(predict=lambda _: Prediction(100.0, 60.0, 1.0), basis="by heart")
    monkeypatch.setattr("bench.grid.session.Session.outlook", lambda *_: Outlook(one, []))
    document = json.loads(grid.run("--dry-run", "--json", "--budget", "4.5").stdout)
    names = ("action", "predicted_s", "predicted_peak_mib", "fits")
    items = [tuple(item[name] for name in names) for item in document["cells"]]
    assert items == [("run", 60.0, 100.0, fits) for fits in 4 * [True] + 4 * [False]]
    assert document["total"] == {
        "predicted_s": 480.0, "predicted_peak_mib": 100.0, "basis": "by heart",
        "covers": "the grid", "scores_from_other_machines": 0, "budget_s": pytest.approx(270),
        "cells_that_fit": 4,
    }  # fmt: skip
    table = grid.run("--dry-run", "--budget", "4.5").stdout
    assert "4 of 8 cells fit into the budget of" in table
    assert table.count("left out") == 4
    assert list(grid.folder.iterdir()) == []


def test_rates_are_searched_on_training_data_and_used(grid):
    one = ("--lr", "auto", "--select", "mode=head amp=off")
    dry = (*one, "--dry-run", "--json")
    document = json.loads(grid.run(*dry, forecast=False).stdout)
    assert document["total"]["covers"] == "search, round 1"
    assert [cell["name"] for cell in document["after_search"]] == ["head-fp32-s0"]
    assert [item["learning_rate_source"] for item in document["cells"]] == ["candidate"] * 3
    done = grid.finish(*one)
    assert "search, round 1: 0/3 candidates  0:0" in done.stderr
    assert "\n0/1 cells  0:0" in done.stderr
    rows = grid.rows()
    tries = [row for row in rows if row["learning_rate_source"] == "candidate"]
    (row,) = [row for row in rows if row["learning_rate_source"] == "search"]
    assert len(tries) >= 3
    assert {each["data_digest"] for each in tries} != {row["data_digest"]}
    best = max(tries, key=lambda each: (each["dev_score"], -each["dev_loss"]))
    assert row["learning_rate_head"] == best["learning_rate_head"]
    assert "1 search, each at its own best" in (grid.reports / "index.html").read_text()
    document = json.loads(grid.run(*dry, forecast=False).stdout)
    assert document["total"]["covers"] == "the grid"
    assert [cell["action"] for cell in document["cells"]] == ["done"]
