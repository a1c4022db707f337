"""From a file of the user's to a report, and to one score on its test file."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

from bench.common.command import BAD_INPUT
from bench.export.__main__ import command as export
from bench.plan.job import Job
from bench.recommend import main as recommend
from bench.report.__main__ import main as report
from bench.results.facts import read_facts, update_facts
from bench.results.origins import folder_of
from bench.results.store import read_rows
from minbert.data.tasks import load_data
from tests.bench.conftest import narrow
from tests.bench.grids import ROOT, GridRuns, workers_here
from tests.cs224n import write_folder

TOPICS = ("NA", "None", "weather, and climate", "sports")
WORDS = ("apple", "banana", "cloud", "football")
GRID = """
[data]
path = "{path}"
label = "topic"
test = "{test}"

[settings]
epochs = 20
batch_size = 16
dropout = 0.0
max_length = 16
learning_rates = {{ full = 5e-3 }}

[[cells]]
mode = ["full"]
"""


def write_csv(path, count, seed=0):
    """A file of short texts whose topic is that of one word, with the labels as a user has them."""
    rng = random.Random(seed)  # noqa: S311
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "body", "topic"])
        for number in range(count):
            topic = number % len(TOPICS)
            others = [str(rng.randrange(100)) for _ in range(rng.randrange(2, 6))]
            words = [*others, WORDS[topic], f"n{number}"]
            rng.shuffle(words)
            writer.writerow([f"row {seed} {number}", " ".join(words), TOPICS[topic]])
    return path


@pytest.fixture
def place(grid, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(grid.folder / "cache"))
    write_csv(grid.folder / "train.csv", 200)
    write_csv(grid.folder / "test.csv", 40, seed=1)
    text = GRID.format(path="train.csv", test="test.csv")
    (grid.folder / "own.toml").write_text(text, encoding="utf-8")
    return grid


def run_report(place, *flags):
    arguments = ["--runs", str(place.csv), "--reports", str(place.reports), *flags]
    with workers_here():
        return report.main(arguments, standalone_mode=False)


def test_from_a_csv_with_named_classes_to_a_report_and_one_score_on_test(place, capsys):
    grid = str(place.folder / "own.toml")
    done = place.run("--text", "body", grid=grid, quick=("--device", "cpu"))
    assert done.returncode == 0, done.stderr
    assert "note: no validation file: 20 of 200 examples, chosen by digest, are" in done.stderr
    assert "note: dev has only 20 of 200 examples; --folds 5 scores all of them" in done.stderr
    [row] = place.rows()
    assert (row.task, row.dev_metric, row.status) == (place.folder.name, "accuracy", "ok")
    assert row.dev_score > 0.9
    [(digest, facts)] = read_facts(place.csv).items()
    assert digest == row.data_digest
    assert facts.classes == tuple(sorted(TOPICS))
    assert (facts.source, facts.given["text"]) == ("train.csv", "body")
    assert sum(dev for _, dev in facts.class_counts.values()) == 20
    page = (place.reports / "index.html").read_text(encoding="utf-8")
    assert "weather, and climate" in page
    assert "On test:" not in page

    # without test examples a final score is refused
    [prepared] = (place.folder / "cache" / "data").glob("*/task.json")
    known = prepared.read_text(encoding="utf-8")
    test_file = place.folder / "test.csv"
    without = json.loads(known)
    without["spec"]["test"] = None
    prepared.write_text(json.dumps(without), encoding="utf-8")
    for flags, line in ((("--final",), "--test"), (("--test", str(test_file)), "is for --final")):
        with pytest.raises(BAD_INPUT, match=line):
            run_report(place, *flags)
    assert read_facts(place.csv)[digest].final is None
    prepared.write_text(known, encoding="utf-8")

    # the test file is read by this command alone, and once
    content = test_file.read_text(encoding="utf-8")
    assert run_report(place, "--final") == 0
    said = capsys.readouterr().out
    assert said.startswith("On test: full, fp32, trained again with seed 0, scores ")
    assert "on 40 examples of test.csv" in said
    final = read_facts(place.csv)[digest].final
    assert (final.examples, final.cell_id, final.metric) == (40, row.cell_id, "accuracy")
    assert final.scores["accuracy"][0] > 0.9
    assert final.scores.keys() >= {"macro_f1", "mcc", "auroc"}
    [result] = place.csv.with_suffix("").glob("final-*/result.json")
    trained = result.stat().st_mtime_ns
    # nor is it scored again after another training on other data
    update_facts(place.csv, "other data", lambda _: read_facts(place.csv)[digest])
    update_facts(place.csv, digest, lambda known: known.model_copy(update={"final": None}))
    assert run_report(place, "--final") == 0
    assert (capsys.readouterr().out, result.stat().st_mtime_ns) == (said, trained)
    update_facts(place.csv, digest, lambda known: known.model_copy(update={"final": final}))
    test_file.unlink()
    assert run_report(place, "--final") == 0
    assert capsys.readouterr().out == said
    test_file.write_text(content, encoding="utf-8")
    assert run_report(place, "--final", "--test", str(test_file), "--json") == 0
    named = json.loads(capsys.readouterr().out)["final"]
    assert (named["test"], named["examples"]) == ("test.csv", 40)
    assert "On test:" in (place.reports / "index.html").read_text(encoding="utf-8")
    assert len(place.rows()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data train.csv --label topic --validation other.csv", "kites"),
        ("--data train.csv --label topic --task movies", "--task movies"),
        ("--data course --task sst --drop-leaks", "--drop-leaks does not apply to --data"),
        ("--label topic", "--label describes data: give it with --data"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, message, place, monkeypatch):
    monkeypatch.chdir(place.folder)
    Path("other.csv").write_text("id,body,topic\n1,some text here,kites\n2,more of it,sports\n")
    write_folder(Path("course"), ["sst"])
    done = place.run(*flags.split(), quick=())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not place.csv.exists()
    assert not (place.folder / "cache" / "data").exists()


def test_several_labels_train_and_are_scored(place, minilm):
    """From weights with which six of six trainings scored 0.97 or more; with those of the tiny
    checkpoint, whose outputs hardly differ, 0.74 to 1, by the seed or how a processor rounds."""
    place.model = narrow(1, place.folder / "lively", minilm, spread=0.1)
    path = place.folder / "tags.jsonl"
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(240):
            tags = np.flatnonzero(rng.random(len(WORDS)) < 0.4)
            text = " ".join([WORDS[tag] for tag in tags] + [f"n{number}"])
            file.write(json.dumps({"text": text, "tags": [TOPICS[tag] for tag in tags]}) + "\n")
    done = place.run(
        "--data", str(path), "--label", "tags", "--metric", "macro_f1", "--epochs", "60",
        grid=str(place.folder / "own.toml"), quick=("--device", "cpu"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [row] = place.rows()
    assert row.dev_metric == "micro_f1"
    assert row.dev_score > 0.9
    assert row.majority_score is not None
    assert "macro F1" in (place.reports / "index.html").read_text(encoding="utf-8")


def test_examples_that_are_gone_from_the_cache_stop_the_grid(place, monkeypatch):
    monkeypatch.setattr("bench.grid.cells.is_prepared", lambda _: False)
    flags = ("--data", str(place.folder / "train.csv"), "--label", "topic")
    done = place.run(*flags, "--select", "mode=head", quick=("--device", "cpu"))
    assert done.returncode == 1
    assert "are no longer in the cache; the same command reads them again" in done.stderr
    assert place.statuses() == []


def test_other_names_for_the_same_classes_are_shown_though_nothing_is_trained_again(place):
    path = place.folder / "train.csv"
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    flags = (
        "--data", str(path), "--label", "topic", "--task", "mine",
        "--select", "mode=head amp=off",
    )  # fmt: skip
    data = None
    for names in (TOPICS, ("apples", "bananas", "sports", "vanilla")):
        called = dict(zip(sorted(TOPICS), sorted(names), strict=True))
        with path.open("w", newline="", encoding="utf-8") as file:
            renamed = [[number, text, called[topic]] for number, text, topic in rows]
            csv.writer(file).writerows([header, *renamed])
        done = place.run(*flags, "--max-steps", "1", quick=("--device", "cpu"))
        assert done.returncode == 0, done.stderr
        [facts] = read_facts(place.csv).values()
        assert facts.classes == tuple(sorted(names))
        if data is None:  # the examples of a cell are found by its job
            [row] = place.rows()
            data = load_data(row.task, Path(Job.read(folder_of(place.csv, row)).data or ""))
            assert data.digest.startswith(row.data_digest)
            train = data.parts["mine"].train
            classes = [data.task.classes[label] for label in train.labels[:4]]
            topics = [next(w for w in text.split() if w in WORDS) for text in train.text_a[:4]]
            assert classes == [TOPICS[WORDS.index(word)] for word in topics]
    assert place.statuses() == ["ok"]


class _Unplaced(GridRuns):
    """Grids whose commands name no places for results."""

    def argv(self, *extra, **options):
        words = super().argv(*extra, **options)
        first = words.index("--runs")
        return words[:first] + words[first + 4 :]


@pytest.fixture
def unplaced(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    return _Unplaced(place.folder, place.model, workers_here=True)


def one_step(unplaced, *flags):
    flags = (*flags, "--select", "mode=head amp=off", "--max-steps", "1")
    done = unplaced.run(*flags, quick=("--device", "cpu"))
    assert done.returncode == 0, done.stderr
    return done


OWN = ("--data", "reviews.csv", "--label", "topic")


def test_in_a_checkout_own_data_have_a_folder_and_the_committed_files_stay(unplaced, capsys):
    folder = unplaced.folder
    (folder / "train.csv").rename(folder / "reviews.csv")
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    committed = (ROOT / "runs.csv").read_bytes()
    (folder / "runs.csv").write_bytes(committed)
    done = one_step(unplaced, *OWN)
    results = Path("results/reviews")
    assert "note: results go to results/reviews/; --runs names another file" in done.stderr
    assert f"report: {results}/reports/index.html" in done.stdout
    assert (folder / "runs.csv").read_bytes() == committed
    assert not (folder / "reports").exists()

    # the commands that follow need no flag, and say what they read
    which = f"note: this is {results}/runs.csv, of the last grid; --runs runs.csv reads others"
    for command, flags in ((report, []), (recommend, ["--json"])):
        command.main(flags, standalone_mode=False)
        captured = capsys.readouterr()
        assert which in captured.err
    assert json.loads(captured.out)["settings"] == 1
    with pytest.raises(BAD_INPUT, match=f"{results}/runs.csv: no cell is called none"):
        export.main(["none", "--to", "model"], standalone_mode=False)
    text = (results / "reports" / "report.md").read_text(encoding="utf-8")
    assert f"--runs {results}/runs.csv --reports {results}/reports/" in text
    assert not (folder / "reports").exists()

    # until a grid runs on other data
    one_step(unplaced, "--max-train", "64", "--max-dev", "16")
    assert (folder / "runs.csv").read_bytes().startswith(committed)
    assert (folder / "reports" / "index.html").exists()
    recommend.main(["--json"], standalone_mode=False)
    assert "note: this is runs.csv, of the last grid; --runs results" in capsys.readouterr().err
    assert len(read_rows(results / "runs.csv")) == 1


def test_outside_a_checkout_results_go_to_the_current_folder(unplaced):
    (unplaced.folder / "train.csv").rename(unplaced.folder / "reviews.csv")
    (unplaced.folder / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    done = one_step(unplaced, *OWN)
    assert "results go to" not in done.stderr
    assert unplaced.csv.exists()
    assert (unplaced.folder / "reports" / "index.html").exists()
    assert not (unplaced.folder / "results").exists()
