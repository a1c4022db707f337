"""What docs/alternatives.md says of this project and others, and how their runs are made."""

import numpy as np
import pip
import pytest

from bench.common.errors import InputError
from tests.components import CS224N
from tests.experiments import alternatives
from tests.experiments.alternatives import __main__, page, read_csv, right_answers, running

PARTS = (
    [["text", "label"], *([f"text {n}", "ab"[n % 2]] for n in range(9))],
    [["text", "label"], *([f"new {n}", "ab"[n % 2]] for n in range(5))],
)
WAY = '''"""A way that predicts `a`, fails or takes too long, by its seed."""

import os, subprocess, sys, time

new, seed = sys.argv[2], sys.argv[5]
assert open(new).readline() == "text\\n"
if seed == "1":
    sys.exit("no such thing")
big = "import time; b = bytes(100_000_000).replace(bytes(1), b'1'); print(1); time.sleep(600)"
worker = subprocess.Popen([sys.executable, "-uc", big], stdout=subprocess.PIPE)
worker.stdout.readline()
time.sleep(600 if seed == "2" else 1.5)
worker.kill()
os.mkdir("model")
open("model/weights", "w").write("w" * 3_000_000)
open("predictions.csv", "w").write("prediction\\n" + "a\\n" * 5)
# a comment
print("written at the end")
'''


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "minilm").mkdir()
    (tmp_path / "fake.py").write_text(WAY)
    way = {"program": str(tmp_path / "fake"), "libraries": ["numpy"]}
    monkeypatch.setattr(running, "WAYS", {"fake": way})
    monkeypatch.setattr(alternatives, "split", lambda *_: PARTS)

    def run(*seeds, minutes=1.0, name="rows.csv"):
        keys = [(seed, "movies", "all", "fake") for seed in seeds]
        __main__.run_missing(keys, tmp_path / name, CS224N, tmp_path, minutes)
        return read_csv(tmp_path / name)

    return run


def test_each_run_is_a_row_and_what_has_one_is_not_run_again(run, tmp_path):
    [row] = run("0")
    assert (row["status"], row["score"], row["note"]) == ("ok", "0.6000", "written at the end")
    assert row["versions"] == f"numpy {np.__version__}"
    assert (row["lines"], row["model_mb"]) == ("14", "3.00")
    assert float(row["wall_s"]) >= 1.5
    assert 100 < float(row["peak_mib"]) < 400
    [right] = right_answers(tmp_path / "rows.csv").values()
    assert [*right] == [True, False, True, False, True]
    rows = run("0", "1")
    assert rows[0] == row
    assert (rows[1]["status"], rows[1]["reason"]) == ("failed", "no such thing")
    (tmp_path / "fake.py").unlink()
    assert run("0", "1") == rows
    with pytest.raises(InputError, match="has rows of another time"):
        run("0", minutes=2.0)


def test_a_run_that_exceeds_its_time_or_can_not_be_installed_is_a_row(run, tmp_path, monkeypatch):
    [row] = run("2", minutes=0.05, name="slow.csv")
    assert (row["status"], row["score"]) == ("over time", "")
    assert 3 <= float(row["wall_s"]) < 60
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "none.txt").write_text("./nowhere\n")
    monkeypatch.setattr(running, "HERE", tmp_path)
    make = running.venv.EnvBuilder().create  # an environment that takes the pip that is here
    monkeypatch.setattr(running.venv, "create", lambda to, with_pip, **_: with_pip and make(to))
    monkeypatch.setenv("PYTHONPATH", str(running.Path(pip.__file__).parents[1]))
    running.WAYS["fake"]["requirements"] = "none"
    [row] = run("0")
    assert row["status"] == "not installed"
    assert "nowhere" in row["reason"]


def test_the_test_part_is_the_same_for_all_and_has_no_text_of_training(tmp_path):
    parts = alternatives.split("movies", CS224N)
    answers = alternatives.write_files(parts, "100", "1", tmp_path)
    texts = read_csv(tmp_path / "new.csv")
    assert len(read_csv(tmp_path / "train.csv")) == 100
    assert {*texts[0]} == {"text"}
    assert len(texts) == len(answers) == alternatives.TASKS["movies"]
    assert not {row["text"] for row in texts} & {row[0] for row in parts[0]}
    assert answers == alternatives.write_files(parts, "all", "2", tmp_path)
    assert len(read_csv(tmp_path / "train.csv")) == 9 * (len(parts[0]) - 1) // 10


def test_losses_are_on_the_page_as_they_are(tmp_path):
    path, rng = tmp_path / "rows.csv", np.random.default_rng(0)
    row = dict.fromkeys(alternatives.COLUMNS, "")
    row |= {"task": "nyt", "labels": "100", "status": "ok", "examples": 1000, "wall_s": "60"}
    row |= {"peak_mib": "1000", "model_mb": "2", "lines": "3", "versions": "x 1", "command": "x"}
    for way, score in {"quick": 0.6, "race": 0.79, "setfit": 0.7, "tfidf": 0.5}.items():
        for seed in "012":
            right = rng.permutation(1000) < 1000 * score
            alternatives.keep(path, row | {"way": way, "seed": seed}, right)
    failed = row | {"way": "peft", "seed": "0", "status": "failed", "reason": "no memory"}
    alternatives.keep(path, failed, None)
    text = page("<!-- tables -->\n<!-- tables -->\n", path)
    assert "`quick` loses 10.0 points against `setfit`, the best of the others; 95% interv" in text
    assert "`race` is 9.0 points above `setfit`" in text
    assert "| tfidf | 50.0 (4" in text
    assert "| peft |  | 0 |  |  |  |  | 1: failed: no memory |" in text
    assert "13 of 189 runs, 0.2 hours. The others have not run yet." in text
    missing = [("0", "nyt", "100", "setfit"), ("0", "nyt", "all", "setfit")]
    assert alternatives.hours_left(missing, read_csv(path), 20) == pytest.approx(1 / 60 + 1 / 3)


@pytest.mark.parametrize("task", ["nyt", "movies", "quora"])
def test_readme_has_our_score_beside_those_of_others(task):
    tables = alternatives.figures(alternatives.ROWS)["tables"]
    [ways] = [one["ways"] for one in tables if (one["task"], one["labels"]) == (task, "1000")]
    scores = {one["way"]: one["score"] for one in ways}
    row = " | ".join(f"{100 * scores[way].value:.1f}" for way in ("quick", "optuna", "setfit"))
    assert f"| `{task}` | {row} |" in (alternatives.DOCS.parent / "README.md").read_text()
