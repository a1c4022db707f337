"""The grid command, end to end, with real workers."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.numpy import load_file

from bench.forecast.forecast import Prediction
from bench.forecast.outlook import Outlook
from bench.grid.dryrun import print_plan
from bench.plan import gridfile
from bench.plan.columns import NAMES, values_of
from bench.plan.learning_rates import Search
from bench.plan.planning import Resolved, expand, plan
from bench.results.facts import REFERENCES, DataFacts, read_facts, update_facts
from bench.results.rowfile import encode, record
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import HERE


def test_a_grid_runs_reports_and_has_nothing_left_to_do(grid: GridRuns) -> None:
    grid.csv = grid.folder / "not" / "there" / "yet" / "runs.csv"
    first = grid.run_apart("--select", "mode=dora amp=off")
    assert first.returncode == 0, first.stderr
    rows = grid.rows()
    assert len(rows) == 1
    for row in rows:
        assert row["status"] == "ok"
        assert row["dev_metric"] == "accuracy"
        for name in (
            "step_ms_median", "ms_per_1k_tokens", "ms_per_1k_tokens_ci_low", "steps_timed",
            "peak_rss_mib", "peak_anon_mib", "imports_anon_mib", "activations_mib", "step_gflop",
            "step_operators", "step_moved_mib", "weights_mib", "optimizer_mib", "gradients_mib",
            "dev_score", "dev_ci_low", "dev_loss", "train_loss", "majority_score", "wall_s",
            "startup_s", "train_s", "eval_s", "params_total", "params_trainable", "tokens_total",
            "flops_per_token", "predicted_s", "predicted_peak_mib",
        ):  # fmt: skip
            assert row[name] is not None, name
        assert 0 < float(row["startup_s"]) < float(row["wall_s"])
        assert row["params_trainable"] <= row["params_total"]
        assert row["peak_cuda_allocated_mib"] is None
        assert row["imports_anon_mib"] < row["peak_anon_mib"] < row["peak_rss_mib"]
        assert str(grid.folder) not in json.dumps(values_of(row))
    [facts] = read_facts(grid.csv).values()
    assert [point.name for point in facts.references] == list(REFERENCES)
    assert facts.references == tuple(facts.references_for(rows[0]))
    scores = {point.name: point.scores["accuracy"] for point in facts.references}
    assert scores["majority"][0] == pytest.approx(rows[0]["majority_score"])
    assert first.stderr.count("reference points: accuracy of majority") == 1
    assert (
        f"majority class {scores['majority'][0]:.3f}, TF-IDF with a linear model"
        in (grid.reports / "report.md").read_text()
    )
    index = (grid.reports / "index.html").read_text()
    assert "dora" in index
    assert str(grid.folder) not in index
    assert "Prediction: " in index

    again = grid.run("--select", "mode=dora amp=off")
    assert again.returncode == 0, again.stderr
    assert grid.rows() == rows


def test_a_long_training_shows_its_own_step_times(grid: GridRuns) -> None:
    quick = ("--max-train", "128", "--max-dev", "32", "--epochs", "50", "--device", "cpu")
    done = grid.run("--select", "mode=lora amp=off", "--max-steps", "100", quick=quick)
    assert done.returncode == 0, done.stderr
    (row,) = grid.rows()
    (folder,) = [path for path in (grid.folder / "runs").iterdir() if path.is_dir()]
    assert not (folder / "panel.csv").exists()
    steps = (folder / "steps.csv").read_text().splitlines()
    assert steps[0] == "step,ms,tokens,padded,examples,forward_ms,backward_ms,loss"
    assert len(steps) == 1 + 100
    assert 100 - 48 <= row["steps_timed"] <= 100 - 8
    parts = [row[name] for name in ("forward_ms", "backward_ms", "optimizer_ms")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(row["step_ms_median"])
    assert (
        row["ms_per_1k_tokens_ci_low"] < row["ms_per_1k_tokens"] < row["ms_per_1k_tokens_ci_high"]
    )
    watched = json.loads((folder / "machine.json").read_text())
    assert 0 < watched["cpu"]["seconds"] < row["train_s"] + 0.1
    assert set(watched["doubts"]) <= set(str(row["flags"]).split())


ONE = ("--select", "mode=lora amp=off", "--save-weights")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> GridRuns:
    """A place where one cell has run. Not to be changed."""
    made = GridRuns(tmp_path_factory.mktemp("ran") / "place", tiny_checkpoint, workers_here=True)
    done = made.run(*ONE)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def one_done(ran: GridRuns, grid: GridRuns) -> GridRuns:
    """A place of its own that holds the same."""
    shutil.copytree(ran.folder, grid.folder, dirs_exist_ok=True)
    return grid


def test_a_cell_folder_holds_all_that_is_needed_to_repeat_it(
    ran: GridRuns, one_done: GridRuns
) -> None:
    grid = one_done
    (folder,) = [path for path in (grid.folder / "runs").iterdir() if path.is_dir()]
    present = {path.name for path in folder.iterdir()}
    assert {
        "cell.json", "command.txt", "epochs.csv", "machine.json", "panel.csv", "phases.csv",
        "predictions.safetensors", "result.json", "row.json", "stderr.txt", "stdout.txt",
        "steps.csv", "weights.safetensors",
    } <= present  # fmt: skip
    phases = (folder / "phases.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in phases] == [
        *("phase", "load", "tokenise", "train", "evaluate", "measure", "save")
    ]
    predictions = load_file(folder / "predictions.safetensors")
    assert predictions["logits"].shape == (32, 5)
    accuracy = (predictions["logits"].argmax(1) == predictions["labels"]).mean()
    (row,) = grid.rows()
    assert row["dev_score"] == pytest.approx(accuracy)
    first = json.loads((folder / "result.json").read_text())["columns"]
    losses = [line.rpartition(",")[2] for line in (folder / "steps.csv").read_text().splitlines()]
    command = (folder / "command.txt").read_text().replace(str(ran.folder), str(grid.folder))
    subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL)  # noqa: S602
    second = json.loads((folder / "result.json").read_text())["columns"]
    for name in ("dev_loss", "dev_score", "train_loss", "tokens_total"):
        assert second[name] == first[name], name
    again = [line.rpartition(",")[2] for line in (folder / "steps.csv").read_text().splitlines()]
    assert again == losses


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell is predicted to take a minute."""
    monkeypatch.setenv("COLUMNS", "200")
    one = SimpleNamespace(predict=lambda _: Prediction(100.0, 60.0, 1.0), basis="by heart")
    monkeypatch.setattr("bench.grid.session.Session.outlook", lambda *_: Outlook(one, []))


@pytest.mark.usefixtures("minutes")
def test_dry_run_prints_the_plan_and_writes_nothing(grid: GridRuns) -> None:
    document = json.loads(grid.run("--dry-run", "--json").stdout)
    items = document["cells"]
    assert len(items) == 8
    assert {(i["action"], i["predicted_s"], i["predicted_peak_mib"]) for i in items} == {
        ("run", 60.0, 100.0)
    }
    assert document["total"] == {
        "predicted_s": 480.0, "predicted_peak_mib": 100.0, "basis": "by heart",
        "covers": "the grid", "scores_from_other_machines": 0,
    }  # fmt: skip
    assert list(grid.folder.iterdir()) == []


def test_repeats_are_planned_after_all_cells(grid: GridRuns, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    heads = ("--select", "mode=head", "--dry-run", "--repeats", "2")
    table = grid.run(*heads, forecast=False).stdout
    assert "4 repeats of 2 cells: 4 to run" in table
    assert " repeat " in table
    document = json.loads(grid.run(*heads, "--json", forecast=False).stdout)["cells"]
    assert [cell["repeat"] for cell in document] == [1, 1, 2, 2]
    assert [cell["name"] for cell in document[:2]] == [cell["name"] for cell in document[2:]]


@pytest.mark.usefixtures("minutes")
def test_a_dry_run_tells_how_many_cells_fit_into_a_budget(grid: GridRuns) -> None:
    all_of_it = grid.run("--dry-run", "--budget", "10000").stdout
    assert "8 of 8 cells fit into the budget of 10,000 min" in all_of_it
    assert "left out" not in all_of_it
    table = grid.run("--dry-run", "--budget", "4.5").stdout
    assert "4 of 8 cells fit into the budget of" in table
    assert table.count("left out") == 4
    document = json.loads(grid.run("--dry-run", "--json", "--budget", "4.5").stdout)
    assert [item["fits"] for item in document["cells"]] == 4 * [True] + 4 * [False]
    total = document["total"]
    assert (total["cells_that_fit"], total["budget_s"]) == (4, pytest.approx(270))


def test_lengths_are_an_axis_and_auto_fits_the_training_examples(grid: GridRuns) -> None:
    path = grid.folder / "lengths.toml"
    path.write_text("[[cells]]\nmode = ['head']\nmax_length = [16, 'auto']\n")
    done = grid.run(grid=str(path))
    assert done.returncode == 0, done.stderr
    (auto,) = re.findall(
        r"^note: max_length auto: (\d+), cuts 0\.\d% of tokens$", done.stderr, re.M
    )
    rows = grid.rows()
    assert {row.max_length for row in rows} == {16, int(auto)}
    assert int(auto) % 8 == 0
    lost = {row.max_length: row.tokens_cut for row in rows}
    assert lost[int(auto)] < 0.02 < lost[16]
    assert "max_length 16 cuts" in done.stderr
    page = (grid.reports / "index.html").read_text(encoding="utf-8")
    assert re.search(r"max length (16|\d+) instead of (16|\d+)", page)
    facts = DataFacts(task="movies", problem="single_label", train=192, dev=32)
    update_facts(grid.csv, rows[0].data_digest, lambda _: facts)
    assert grid.run(grid=str(path)).returncode == 0  # nothing is left to do but the report
    page = (grid.reports / "index.html").read_text(encoding="utf-8")
    assert "Data: 192 training and 32 dev examples" in page
    table = grid.run("--dry-run", grid=str(path), forecast=False).stdout
    assert re.search(r"^ .* max_length ", table, re.M), table
    by_flag = grid.run(
        *("--dry-run", "--json", "--max-length", "auto", "--select", "mode=head amp=off"),
        forecast=False,
    )
    assert by_flag.returncode == 0, by_flag.stderr
    (cell,) = json.loads(by_flag.stdout)["cells"]
    assert cell["max_length"] == int(auto)


def test_a_dry_run_without_predictions_says_what_a_budget_does(capsys) -> None:
    cells = expand(gridfile.load("smoke"), Resolved("minilm", "m", "mean", "d", "bf16", "grid"))
    print_plan(plan(cells, {}, HERE), None, False, budget_s=5400.0)
    out = capsys.readouterr().out
    assert "time is not predicted: cells run while any of the budget of 90 min is left" in out
    assert "left out" not in out


def test_rates_are_searched_on_training_data_and_used(grid: GridRuns) -> None:
    one = ("--lr", "auto", "--select", "mode=head amp=off")

    def planned(*options: str) -> dict[str, Any]:
        return json.loads(grid.run(*one, *options, "--dry-run", "--json", forecast=False).stdout)

    document = planned()
    plan = document["cells"]
    assert len(plan) == 5
    assert document["total"]["covers"] == "search, round 1"
    assert [cell["name"] for cell in document["after_search"]] == ["head-fp32-s0"]
    assert {item["learning_rate_source"] for item in plan} == {"candidate"}
    done = grid.run(*one)
    assert done.returncode == 0, done.stderr
    rows = grid.rows()
    tries = [row for row in rows if row["learning_rate_source"] == "candidate"]
    (row,) = [row for row in rows if row["learning_rate_source"] == "search"]
    assert len(tries) >= 5
    assert {each["data_digest"] for each in tries} != {row["data_digest"]}
    best = max(tries, key=lambda each: (each["dev_score"], -each["dev_loss"]))
    assert row["learning_rate_head"] == best["learning_rate_head"]
    text = (grid.reports / "index.html").read_text()
    assert "Learning rates: 1 search, each at its own best" in text
    assert "1 of 1 cells ended ok" in text or "1 of 1 cell ended ok" in text
    assert "--lr auto" in text
    again = grid.run(*one)
    assert again.returncode == 0
    assert grid.rows() == rows
    document = planned()
    assert document["total"]["covers"] == "the grid"
    assert [cell["action"] for cell in document["cells"]] == ["done"]

    elsewhere = {"conditions_id": "there", "machine": "another", "threads": 99}
    others = [each | elsewhere for each in rows]
    grid.csv.write_bytes(record(NAMES) + b"".join(map(encode, others)))
    document = planned("--seeds", "2")
    assert document["total"]["covers"] == "the grid", "no try is trained again"
    assert [cell["action"] for cell in document["cells"]] == ["done", "run"]
    assert document["cells"][0]["reason"] == "score from another machine"
    assert {cell["learning_rate_head"] for cell in document["cells"]} == {
        best["learning_rate_head"]
    }
    assert document["total"]["scores_from_other_machines"] == 1
    table = grid.run(*one, "--seeds", "2", "--dry-run", forecast=False).stdout
    assert "1 cells take their scores from other machines" in table


def test_a_dry_run_tells_a_search_from_the_grid_after_it(capsys) -> None:
    grid = gridfile.load("smoke")
    cells = expand(grid, Resolved("minilm", "m", "mean", "d", "bf16", "grid"))
    cells = [cell for cell in cells if cell.mode == "head"]
    tries = next(Search(cells, "d2", lambda cell: None).rounds())
    print_plan(plan(tries, {}, HERE), None, False, 2, cells)
    first, second = capsys.readouterr().out.split("after the search")
    assert first.startswith("search, round 2:")
    assert "5 candidates: 5 to run" in first
    for rate in ("0.0001", "0.000316", "0.001", "0.00316", "0.01"):
        assert rate in first.split()
    assert second.count("head") == 2


def test_a_result_whose_row_was_never_written_is_taken_over(one_done: GridRuns) -> None:
    grid = one_done
    (row,) = grid.rows()
    grid.csv.unlink()
    assert grid.run(*ONE).returncode == 0
    assert grid.rows() == [row]
    (kept,) = (grid.folder / "runs").glob("*/row.json")
    kept.unlink()
    grid.csv.unlink()
    result = grid.run(*ONE)
    assert result.returncode == 0
    (again,) = grid.rows()
    assert "taking over the result" in result.stderr
    assert again["wall_s"] is None
    assert again["started_at"] <= row["finished_at"]
    unmeasured = ("wall_s", "started_at", "finished_at", "predicted_s", "predicted_peak_mib")
    nothing = dict.fromkeys(unmeasured)
    assert again | nothing == row | nothing


def test_a_result_of_another_version_of_the_code_is_not_taken_over(one_done: GridRuns) -> None:
    grid = one_done
    (folder,) = [path for path in (grid.folder / "runs").iterdir() if path.is_dir()]
    job = json.loads((folder / "cell.json").read_text())
    (folder / "cell.json").write_text(json.dumps(job | {"code_version": "0.0.1"}))
    (folder / "row.json").unlink()
    grid.csv.unlink()
    again = grid.run(*ONE)
    assert again.returncode == 0
    assert "taking over" not in again.stderr
    assert grid.rows()[0]["wall_s"] is not None


def test_random_weights_measure_cost_and_no_quality(grid: GridRuns) -> None:
    named = grid.run("--init", "random", "--model", "bert-tiny", "--select", "mode=lora amp=off")
    assert named.returncode == 0, named.stderr
    (row,) = grid.rows()
    assert row["model"] == "bert-tiny"
    assert row["init"] == "random"
    assert row["dev_score"] is None
    assert row["ms_per_1k_tokens"] is not None
