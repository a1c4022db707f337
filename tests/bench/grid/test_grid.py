"""The grid command, end to end, with real workers."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file

from bench.forecast.forecast import Prediction
from bench.forecast.outlook import Outlook
from bench.plan.columns import NAMES, values_of
from bench.results.facts import REFERENCES, read_facts
from bench.results.rowfile import encode, record
from bench.stats.steptimes import STEPS_ENOUGH
from tests.bench.grids import GridRuns


def test_a_grid_runs_reports_and_has_nothing_left_to_do(grid):
    grid.csv = grid.folder / "not" / "there" / "yet" / "runs.csv"
    first = grid.run_apart("--select", "mode=dora amp=off")
    assert first.returncode == 0, first.stderr
    rows = grid.rows()
    assert len(rows) == 1
    for row in rows:
        assert row["status"] == "ok"
        assert row["dev_metric"] == "accuracy"
        for name in ("flops_per_token", "predicted_s", "predicted_peak_mib", "dev_ci_low"):
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


def test_a_long_training_shows_its_own_step_times(grid):
    steps = STEPS_ENOUGH
    quick = ("--max-train", "128", "--max-dev", "32", "--epochs", "50", "--device", "cpu")
    done = grid.run("--select", "mode=head amp=off", "--max-steps", str(steps), quick=quick)
    assert done.returncode == 0, done.stderr
    (row,) = grid.rows()
    (folder,) = [path for path in (grid.folder / "runs").iterdir() if path.is_dir()]
    assert not (folder / "panel.csv").exists()
    assert len((folder / "steps.csv").read_text().splitlines()) == 1 + steps
    assert steps - 48 <= row["steps_timed"] <= steps - 8


ONE = ("--select", "mode=lora amp=off", "--save-weights")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_checkpoint):
    """A place where one cell has run. Not to be changed."""
    made = GridRuns(tmp_path_factory.mktemp("ran") / "place", tiny_checkpoint, workers_here=True)
    done = made.run(*ONE)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def one_done(ran, grid):
    """A place of its own that holds the same."""
    shutil.copytree(ran.folder, grid.folder, dirs_exist_ok=True)
    return grid


def test_a_cell_folder_holds_all_that_is_needed_to_repeat_it(ran, one_done):
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
def minutes(monkeypatch):
    """Each cell is predicted to take a minute."""
    monkeypatch.setenv("COLUMNS", "200")
    one = SimpleNamespace(predict=lambda _: Prediction(100.0, 60.0, 1.0), basis="by heart")
    monkeypatch.setattr("bench.grid.session.Session.outlook", lambda *_: Outlook(one, []))


@pytest.mark.usefixtures("minutes")
def test_dry_run_prints_the_plan_and_writes_nothing(grid):
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


def test_repeats_are_planned_after_all_cells(grid):
    heads = ("--select", "mode=head", "--dry-run", "--repeats", "2", "--json")
    document = json.loads(grid.run(*heads, forecast=False).stdout)["cells"]
    assert [cell["repeat"] for cell in document] == [1, 1, 2, 2]
    assert [cell["name"] for cell in document[:2]] == [cell["name"] for cell in document[2:]]


@pytest.mark.usefixtures("minutes")
def test_a_dry_run_tells_how_many_cells_fit_into_a_budget(grid):
    table = grid.run("--dry-run", "--budget", "4.5").stdout
    assert "4 of 8 cells fit into the budget of" in table
    assert table.count("left out") == 4
    document = json.loads(grid.run("--dry-run", "--json", "--budget", "4.5").stdout)
    assert [item["fits"] for item in document["cells"]] == 4 * [True] + 4 * [False]
    total = document["total"]
    assert (total["cells_that_fit"], total["budget_s"]) == (4, pytest.approx(270))


def test_lengths_are_an_axis_and_auto_fits_the_training_examples(grid):
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
    by_flag = grid.run(
        *("--dry-run", "--json", "--max-length", "auto", "--select", "mode=head amp=off"),
        forecast=False,
    )
    assert by_flag.returncode == 0, by_flag.stderr
    (cell,) = json.loads(by_flag.stdout)["cells"]
    assert cell["max_length"] == int(auto)


def test_rates_are_searched_on_training_data_and_used(grid):
    one = ("--lr", "auto", "--select", "mode=head amp=off")

    def planned(*options):
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
