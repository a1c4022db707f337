"""From a description of data to prepared examples: recognised, named, split, and kept once."""

import csv
import random
from collections import Counter
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.examples import own
from bench.examples.own import find_source
from bench.plan.dataset import DataSpec
from minbert.data.tasks import load_task
from minbert.data.tasks.splitting import normalised
from minbert.files import is_file
from tests.cs224n import write_folder

WORDS = ("sun", "rain", "goal", "score", "vote", "law", "chip", "code")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lines_of(count=300):
    rng = random.Random(0)  # noqa: S311
    texts = [" ".join(rng.choices(WORDS, k=4)) for _ in range(count)]
    return [(f"{n} {t}", "aaaaaabbbc"[n % 10], f"author {n % 70}") for n, t in enumerate(texts)]


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "author"), *lines])
    return DataSpec(path=str(path), text="text", label="label")


def found(spec, task=None):
    source = find_source(task, spec)
    return load_task(source.task, source.folder)


def test_a_tenth_of_each_class_is_split_off_whatever_the_order_of_the_file(tmp_path):
    """Equal texts and groups are on one side, and a class of one example is trained on."""
    lines = lines_of()
    data = found(write(tmp_path / "one.csv", lines))
    assert (len(data.train), len(data.dev)) == (270, 30)
    assert sorted(Counter(data.dev.labels.tolist()).items()) == [(0, 18), (1, 9), (2, 3)]
    again = found(write(tmp_path / "two.csv", lines[::-1]))
    assert set(again.dev.text_a) == set(data.dev.text_a)

    lines += [(f"{text.upper()}!", label, "another") for text, label, _ in lines[:40]]
    spec = write(tmp_path / "x.csv", lines)
    data = found(spec)
    train, dev = ({normalised(text) for text in side.text_a} for side in (data.train, data.dev))
    assert not train & dev
    data = found(spec.model_copy(update={"group": "author"}))
    assert len(data.dev)
    assert not set(data.train.groups or ()) & set(data.dev.groups or ())

    for number in range(12):
        lines = [*lines_of(60), (f"the only one {number}", "rare", "x")]
        data = found(write(tmp_path / "x.csv", lines))
        assert data.task.classes.index("rare") in data.train.labels


def test_what_does_not_fit_is_refused(tmp_path):
    spec = write(tmp_path / "x.csv", [("same text", "a", "x"), ("same text", "b", "x")])
    with pytest.raises(InputError, match="too few to split dev examples off; give more, or"):
        found(spec)
    with pytest.raises(InputError, match="leave --task out, or give the data a name of its own"):
        find_source("sst", spec)
    with pytest.raises(InputError, match=r"--test nowhere\.csv: there is no such file"):
        find_source(None, spec.model_copy(update={"test": "nowhere.csv"}))
    assert not (tmp_path / "cache").exists()


def test_leaks_are_dropped_from_training_alone(tmp_path):
    lines, text = lines_of(100), "another text with quite a few words, all of its"
    dev = [*((text, label, "x") for text, label, _ in lines[:7]), (f"{text} own", "a", "x")]
    spec = write(tmp_path / "train.csv", [*lines, (f"{text} very own", "a", "x")])
    spec = spec.model_copy(update={"validation": write(tmp_path / "dev.csv", dev).path})
    dropping = spec.model_copy(update={"drop_leaks": True})
    whole, dropped = found(spec), found(dropping)
    assert (len(whole.train), len(whole.dev)) == (101, 8)
    assert (len(dropped.train), len(dropped.dev)) == (93, 8)
    assert dropped.digest != whole.digest
    assert not set(dropped.train.text_a) & set(dropped.dev.text_a)
    [_, note] = find_source(None, dropping).notes
    assert note.startswith("--drop-leaks: 8 of 101 training examples dropped, whose text")


def test_the_task_is_named_after_the_file_or_recognised_by_the_files_of_the_course(tmp_path):
    for path, name in (("shop/train.csv", "shop"), ("movies.csv", "movies-data"),
                       ("my (own) file.csv", "my-own-file")):  # fmt: skip
        spec = write(tmp_path / path, lines_of(40))
        source = find_source(None, spec)
        assert (source.task, source.files) == (name, Path(path).name)
    assert find_source("mine", spec).task == "mine"
    folder = write_folder(tmp_path / "one", ["sts"])
    assert find_source(None, DataSpec(path=str(folder))) == own.Source("sts", folder, "one")
    several = DataSpec(path=str(write_folder(tmp_path / "all")))
    with pytest.raises(InputError, match="files of sst, sts, quora, multitask; choose one with"):
        find_source(None, several)
    assert find_source("quora", several).task == "quora"


def test_only_the_sets_used_last_are_kept(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(own, "_MOST_FOLDERS", 2)
    specs = [write(tmp_path / f"{count}.csv", lines_of(count)) for count in (40, 50, 60)]
    folders = [find_source(None, spec).folder for spec in specs]
    kept = [folder for folder in folders if is_file(folder / "task.json")]
    assert len(list((cache / "data").iterdir())) == 2
    assert kept == folders[1:]
