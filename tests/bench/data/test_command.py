"""`python -m bench.data`: text, JSON and pages."""

import json
import re

import pytest

from bench.common.command import BAD_INPUT
from bench.data import __main__ as module
from bench.data.__main__ import command
from bench.examples.checks import STEPS
from bench.examples.own import find_source
from bench.plan.dataset import DataSpec
from bench.results.facts import DataFacts, facts_of
from minbert.data.tasks import Examples, Task, TaskData, load_task
from minbert.data.words import padded
from tests.bench.examples.tables import read_file, write_json_lines
from tests.cs224n import relabel, write_folder


def run(*arguments):
    return command.main([*map(str, arguments)], standalone_mode=False)


def test_text_json_and_pages_show_what_is_in_the_data(tmp_path, capsys, monkeypatch):
    """Of 24 training sentences, and as dev examples 11 others and the first, relabelled."""
    reports, folder = tmp_path / "reports", write_folder(tmp_path / "mine", ["sst"])
    train, dev = (folder / f"ids-sst-{side}.csv" for side in ("train", "dev"))
    first, other = (path.read_text().splitlines()[1] for path in (dev, train))
    dev.write_text(dev.read_text().replace(first, other))
    relabel(dev, "4", line=2)
    assert run("--task", "sst", folder, "--reports", reports) == 0
    out, err = capsys.readouterr()
    assert "Source: mine. Task sst, single label, 5 classes with 16.7% to 20.8% of" in out
    assert "Dev texts in training: 1 in train and 1 in dev; --drop-leaks leaves them out." in out
    assert "Equal texts with different labels: 1 in train and 1 in dev; look at" in out
    assert "train 0 a good" in out  # the text itself
    assert "max_length 16 cuts " in out
    assert "tokens" not in err  # it takes no time, so no progress is shown
    page, text = ((reports / f"data.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    drawn = {path.stem for path in (reports / "data").iterdir()}
    assert drawn == {"classes", "findings", "lengths"}
    assert page.count("<svg") == 3
    assert "max_length 16" in page
    assert "24 training and 12 dev examples, 3 findings" in text
    assert str(tmp_path) not in page + text

    monkeypatch.setattr(module, "_SLOW", 36)
    assert run("--task", "sst", folder, "--json") == 0
    out, err = capsys.readouterr()
    facts = DataFacts.model_validate_json(out)
    assert (facts.task, facts.source, facts.problem) == ("sst", "mine", "single_label")
    assert (facts.train, facts.dev, facts.class_counts["negative"]) == (24, 12, (5, 3))
    assert facts.checks.leaks.train == 1
    steps = [line.partition("] ")[2] for line in err.splitlines() if "] " in line]
    assert steps == ["tokens", *STEPS], "progress is shown for many examples"

    folder = write_folder(tmp_path / "numbers", ["sts"])
    assert run("--task", "sts", folder, "--reports", tmp_path / "numbers") == 0
    out = capsys.readouterr().out
    assert "Task sts, regression." in out
    assert "Always predicting" not in out
    assert not (tmp_path / "numbers" / "data" / "classes.svg").exists()


def test_the_ten_most_frequent_entities_that_only_dev_has_are_listed(tmp_path, capsys):
    train, dev = tmp_path / "train.conll", tmp_path / "dev.conll"
    train.write_text("Ann B-per\nBo I-per\n\nOslo B-loc\n\nAnn O\n")
    new = "".join("Ann B-per\n\n" * n + f"n{n} B-per\nm I-per\n\n" * n for n in range(1, 12))
    dev.write_text(f"Oslo B-per\n\nAnn B-per\nBo I-per\n\n{new}Oslo B-loc\n")
    expected = [("per", "Ann", 66), *(("per", f"n{n} m", n) for n in range(11, 2, -1))]
    assert run(train, "--validation", dev) == 0
    lines = [tuple(re.split("  +", line.strip())) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[0] == "per" and line[-1].isdigit()][-10:] == [
        (kind, entity, str(count)) for kind, entity, count in expected
    ]
    assert run(train, "--validation", dev, "--json") == 0
    facts = DataFacts.model_validate_json(capsys.readouterr().out)
    assert [*facts.most_new] == expected
    whole = Examples(("Ann", "Oslo"), None, padded([[1], [3]]))
    task = Task("of-folds", ("O", "B-per", "I-per", "B-loc"), problem_name="token_classification")
    in_folds = facts_of(TaskData(task, whole, whole.taken([])), checks=facts.checks)
    assert (in_folds.new_entities, in_folds.most_new) == ("", ())


def test_examples_are_written_as_a_grid_trains_on_them(tmp_path, cache):
    rows = [f"film {number},{'good' if number % 3 else 'bad'}" for number in range(40)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    assert run(tmp_path / "films.csv", "--write", tmp_path / "new" / "written") == 0
    source = find_source(None, DataSpec(path=str(tmp_path / "films.csv")))
    data = load_task(source.task, source.folder)
    for side, examples in (("train", data.train), ("dev", data.dev)):
        lines = (tmp_path / "new" / "written" / f"{side}.jsonl").read_text().splitlines()
        written = [json.loads(line) for line in lines]
        assert [row["a"] for row in written] == list(examples.text_a)
        classes = [data.task.classes[label] for label in examples.labels]
        assert [row["label"] for row in written] == classes
    with pytest.raises(BAD_INPUT, match=r"has a train\.jsonl already; give another folder"):
        run(tmp_path / "films.csv", "--write", tmp_path / "new" / "written")


@pytest.mark.parametrize(("label", "other"), [(["x", "y"], ["y"]), (2.5, 0.5)])
def test_several_labels_are_written_by_name_and_numbers_as_they_are(tmp_path, label, other):
    labels = [label if number % 2 else other for number in range(40)]
    texts = [f"film {number}" for number in range(40)]
    data = read_file(write_json_lines(tmp_path / "mine.jsonl", {"text": texts, "label": labels}))
    task = Task("mine", data.spec.classes, problem_name=data.spec.problem or "")
    module._write(TaskData(task, data.examples, data.examples), tmp_path / "written")
    written = (tmp_path / "written" / "dev.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in written] == labels


@pytest.mark.parametrize(("arguments", "message"), [
    (("--task", "movies", "--write", "/dev/null/folder"), "can't be written"),
    (("--task", "sst"), "needs --data DIR"), (("--task", "sst", "nowhere"), "nowhere"),
    (("--task", "none"), "no task is called 'none'"),
    (("--task", "multitask", "."), "has parts; take one of sst, quora, sts"),
    (("--model", "./nowhere"), "there is no folder"), (("--reports", "/dev/null"), "is a file"),
])  # fmt: skip
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(BAD_INPUT, match=message) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
