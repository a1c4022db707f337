"""From a file of the user's to a report, and to one score on its test file."""

import json
import random
import shutil
from pathlib import Path

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
from tests.bench.grid.test_bad_input import refused
from tests.bench.grids import ROOT, workers_here
from tests.cs224n import write_folder

TOPICS = ("NA", "None", "weather, and climate", "sports")
WORDS = ("apple", "banana", "cloud", "football")
GRID = (
    'data = { path = "train.csv", label = "topic", test = "test.csv" }\n'
    'cells = [{ mode = ["full"] }]\n'
    "settings = { epochs = 12, batch_size = 16, dropout = 0.0, max_length = 16, "
    "learning_rates = { full = 5e-3 } }\n"
)


def write_csv(path, count, seed=0):
    """A file of short texts whose topic is that of one word, with the labels as a user has them."""
    rng, lines = random.Random(seed), ["id,body,topic"]  # noqa: S311
    for number in range(count):
        topic = number % len(TOPICS)
        others = [str(rng.randrange(100)) for _ in range(rng.randrange(2, 6))]
        words = [*others, WORDS[topic], f"n{number}"]
        rng.shuffle(words)
        lines.append(f'row {seed} {number},{" ".join(words)},"{TOPICS[topic]}"')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def place(grid, undrawn, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(grid.folder / "cache"))
    write_csv(grid.folder / "train.csv", 200)
    write_csv(grid.folder / "test.csv", 40, seed=1)
    (grid.folder / "own.toml").write_text(GRID, encoding="utf-8")
    return grid


def run_report(place, *flags):
    arguments = ["--runs", str(place.csv), "--reports", str(place.reports), *flags]
    with workers_here():
        return report.main(arguments, standalone_mode=False)


def test_from_a_csv_with_named_classes_to_a_report_and_one_score_on_test(place, capsys):
    done = place.finish("--text", "body", file="own.toml")
    assert "note: no validation file: 20 of 200 examples, chosen by digest, are" in done.stderr
    assert "note: dev has only 20 of 200 examples; --folds 5 scores all of them" in done.stderr
    [row] = place.rows()
    assert (row.task, row.dev_metric, row.status) == (place.folder.name, "accuracy", "ok")
    assert row.dev_score > 0.9
    assert row.steps_timed > 50, "of the training itself: more than are replayed"
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
    assert f'"{test_file}"' in known
    prepared.write_text(known.replace(f'"{test_file}"', "null"), encoding="utf-8")
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


@pytest.mark.parametrize(("flags", "message"), [
    ("--data train.csv --label topic --validation other.csv", "kites"),
    ("--data train.csv --label topic --task movies", "--task movies"),
    ("--data course --task sst --drop-leaks", "--drop-leaks does not apply to --data"),
    ("--label topic", "--label describes data: give it with --data"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(flags, message, place, monkeypatch):
    monkeypatch.chdir(place.folder)
    Path("other.csv").write_text("id,body,topic\n1,some text here,kites\n2,more of it,sports\n")
    write_folder(Path("course"), ["sst"])
    assert message in refused(place, *flags.split(), quick=())


def test_several_labels_of_other_data_than_those_of_the_grid_file_are_scored(place):
    path = place.folder / "tags.jsonl"
    tags = [[TOPICS[n % 4], *TOPICS[: n % 3 > 0]] for n in range(240)]
    lines = [json.dumps({"text": f"text {n}", "tags": sorted({*of})}) for n, of in enumerate(tags)]
    path.write_text("\n".join(lines), encoding="utf-8")
    options = ("--label", "tags", "--metric", "macro_f1", "--epochs", "1")
    place.finish("--data", str(path), *options, file="own.toml")
    [row] = place.rows()
    assert row.dev_metric == "micro_f1"
    assert 0.4 < row.majority_score < 0.8, "by the only label that most texts have"
    assert "macro F1" in (place.reports / "index.html").read_text(encoding="utf-8")


def test_new_names_of_the_same_classes_are_shown_without_a_training(place, monkeypatch):
    """Before that, examples that are gone from the cache stop the grid."""
    path = place.folder / "train.csv"
    text = path.read_text(encoding="utf-8")
    flags = ("--data", str(path), "--label", "topic", "--task", "mine", "--max-steps", "1")
    with monkeypatch.context() as patch:
        patch.setattr("bench.grid.cells.is_prepared", lambda _: False)
        done = place.finish(*flags, quick=("--device", "cpu"), code=1)
    assert "are no longer in the cache; the same command reads them again" in done.stderr
    assert place.statuses() == []
    for last in ("weather, and climate", "vanilla"):
        path.write_text(text.replace("weather, and climate", last), encoding="utf-8")
        place.finish(*flags, "--select", "mode=head amp=off", quick=("--device", "cpu"))
        [facts] = read_facts(place.csv).values()
        assert facts.classes == ("NA", "None", "sports", last)
    [row] = place.rows()  # the examples of a cell are found by its job
    data = load_data(row.task, Path(Job.read(folder_of(place.csv, row)).data or ""))
    assert data.digest.startswith(row.data_digest)
    train = data.parts["mine"].train
    classes = [facts.classes[label] for label in train.labels[:4]]
    topics = [next(w for w in text.split() if w in WORDS) for text in train.text_a[:4]]
    names = (*TOPICS[:2], "vanilla", "sports")
    assert classes == [names[WORDS.index(word)] for word in topics]


def test_in_a_checkout_own_data_have_a_folder_of_their_own(place, capsys, monkeypatch):
    """By commands that name no place for results; outside, it is the current folder."""
    folder = place.folder
    monkeypatch.chdir(folder)
    (folder / "train.csv").rename("reviews.csv")
    place.placed = False

    def step(*flags):
        flags = ("--select", "mode=head amp=off", "--max-steps", "1", *flags)
        return place.finish(*flags, quick=("--device", "cpu"))

    own = ("--data", "reviews.csv", "--label", "topic")
    (folder / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    assert "results go to" not in step(*own).stderr
    assert Path("reports/index.html").exists()
    assert not Path("results").exists()
    shutil.rmtree("runs")
    shutil.rmtree("reports")
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    committed = (ROOT / "runs.csv").read_bytes()
    (folder / "runs.csv").write_bytes(committed)
    done = step(*own)
    results = Path("results/reviews")
    assert "note: results go to results/reviews/; --runs names another file" in done.stderr
    assert f"report: {results}/reports/index.html" in done.stdout
    assert (folder / "runs.csv").read_bytes() == committed
    assert not (folder / "reports").exists()

    # the commands that follow need no flag, and say what they read
    which = f"note: this is {results}/runs.csv, of the last grid; --runs runs.csv reads others"
    for command, flags in ((report, []), (recommend, ["--json"])):
        command.main(flags, standalone_mode=False)
        assert which in (captured := capsys.readouterr()).err
    assert json.loads(captured.out)["settings"] == 1
    with pytest.raises(BAD_INPUT, match=f"{results}/runs.csv: no cell is called none"):
        export.main(["none", "--to", "model"], standalone_mode=False)
    text = (results / "reports" / "report.md").read_text(encoding="utf-8")
    assert f"--runs {results}/runs.csv --reports {results}/reports/" in text
    assert not (folder / "reports").exists()

    # until a grid runs on other data
    step("--max-train", "64", "--max-dev", "16")
    assert (folder / "runs.csv").read_bytes().startswith(committed)
    assert (folder / "reports" / "index.html").exists()
    recommend.main(["--json"], standalone_mode=False)
    assert "note: this is runs.csv, of the last grid; --runs results" in capsys.readouterr().err
    assert len(read_rows(results / "runs.csv")) == 1
