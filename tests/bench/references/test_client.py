"""Reference points from their process, and simple methods on texts whose answer is known."""

import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from bench.common.child import ChildError
from bench.common.command import BAD_INPUT
from bench.common.errors import StoppedError
from bench.launch.signals import Signals
from bench.plan import examples
from bench.plan.cell import CANDIDATE
from bench.references import client, process
from bench.references.client import find_references
from bench.references.linear import frozen, majority, scores, tfidf
from bench.results.facts import REFERENCES, Reference, facts_of, read_facts
from minbert.data.tasks import Examples, Folds, Task, find_task, load_data
from tests.bench.workloads import workload
from tests.cs224n import write_folder


def job_of(checkpoint, data, folder=None, **changes):
    values = {
        "task": data.task.name, "data_digest": data.digest[:16], "max_train": None,
        "max_dev": None, "max_steps": None, "init": "pretrained", "geometry": None,
        "model_digest": "tiny", "checkpoint": str(checkpoint), "tokenizer": str(checkpoint),
        "data": None if folder is None else str(folder),
    }  # fmt: skip
    return workload(**{**values, **changes})


class Finder:
    """Finds reference points for a runs.csv, and remembers the phases."""

    def __init__(self, runs, data):
        self.runs, self.data, self.phases = runs, data, []

    def find(self, *jobs, timeout_s=None, stopped=False):
        with Signals() as signals:
            signals.stops = int(stopped)
            notes = find_references(
                self.runs, self.data.digest[:16], self.facts or facts_of(self.data), jobs, gpu="",
                timeout_s=timeout_s, signals=signals,
                on_progress=lambda message: self.phases.append(message[client.PHASE]),
            )  # fmt: skip
            return list(notes)

    @property
    def facts(self):
        return read_facts(self.runs).get(self.data.digest[:16])

    @property
    def found(self):
        return list(self.facts.references) if self.facts else []


@pytest.fixture
def movies(tmp_path):
    return Finder(tmp_path / "runs.csv", load_data("movies", max_train=200, max_dev=50))


@pytest.fixture
def job(movies, tiny_checkpoint):
    return job_of(tiny_checkpoint, movies.data, max_train=200, max_dev=50)


def test_all_are_found_once(movies, job):
    [note] = movies.find(job, replace(job, cell=replace(job.cell, seed=1)))
    assert note.startswith("reference points: accuracy of majority 0.")
    assert [reference.name for reference in movies.found] == list(REFERENCES)
    assert movies.phases == ["load", *(f"reference point {name}" for name in REFERENCES)]
    for reference in movies.found:
        value, low, high = reference.scores["accuracy"]
        assert low < value < high
        assert reference.about.endswith("trained on 200 training examples")
        of_encoder = reference.model_digest, reference.pooling, reference.max_length
        expected = ("tiny", job.cell.pooling, job.cell.max_length)
        assert of_encoder == (expected if reference.name == "frozen" else (None,) * 3)
    facts = movies.facts
    assert (facts.problem, facts.train, facts.dev) == ("single_label", 200, 50)
    assert sum(dev for _, dev in facts.class_counts.values()) == 50
    assert movies.find(job) == []
    for changes, lacking in (
        ({"max_length": 8}, ["frozen"]),
        ({"max_steps": 2, "batch_size": 16}, ["tf-idf", "frozen"]),
        ({"init": "random"}, []),
        ({"max_steps": 500}, []),
    ):
        assert client.lacking(facts, replace(job.cell, **changes)) == lacking


@pytest.mark.parametrize(("kills", "why"), [
    ((3, 3), r"crashed \(signal 9\)$"), ((3, 4), "oom .the host ran out of memory"),
])  # fmt: skip
def test_what_was_found_before_a_process_failed_is_kept(movies, job, monkeypatch, kills, why):
    def ask(*_, **__):
        found = Reference(
            name="majority", about="", train=200, scores={"accuracy": (0.3, 0.2, 0.4)}
        )
        yield found.model_dump(mode="json")
        raise ChildError("signal 9")

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(client, "oom_kills", mock.Mock(side_effect=kills))
    found, failed = movies.find(job)
    assert found == "reference points: accuracy of majority 0.300"
    assert re.search(f"reference points tf-idf, frozen left out: {why}", failed)
    assert client.lacking(movies.facts, job.cell) == ["tf-idf", "frozen"], "the next run finds them"


def test_what_takes_too_long_is_left_out_beyond_our_limit_for_good(movies, job, monkeypatch):
    names = ", ".join(REFERENCES)
    [note] = movies.find(job, timeout_s=0.01)
    assert note.startswith(f"reference points {names} left out: timeout (took longer than 0.01 s")
    assert movies.found == []
    monkeypatch.setattr(client, "LONGEST_S", 0.01)
    [note] = movies.find(job, timeout_s=100.0)
    assert note.startswith(f"reference points {names} left out: timeout")
    assert [reference.scores for reference in movies.found] == [{}] * 3
    about = "left out: the reference points took longer than 0.01 s"
    assert {reference.about for reference in movies.found} == {about}
    assert movies.find(job) == []
    assert client.lacking(movies.facts, replace(job.cell, max_length=8)) == ["frozen"]


def points(job):
    answers = process.references(job, list(REFERENCES), 40)
    return [answer for answer in answers if isinstance(answer, Reference)]


@pytest.mark.parametrize("task", ["sts", "quora"])
def test_pairs_have_all_scores_and_a_mean_no_correlation(task, tmp_path, tiny_checkpoint):
    folder = write_folder(tmp_path / "data", (task,), count=41)
    data = Folds(load_data(task, folder), 3)
    majority, words, frozen = points(job_of(tiny_checkpoint, data.fold(0), folder, folds=3, fold=0))
    if task == "sts":
        assert len({float(data.fold(n).train.labels.mean()) for n in range(3)}) == 3
        assert (majority.scores["pearson"], majority.scores["spearman"]) == (None, None)
        assert majority.scores["rmse"] is not None
    assert frozen.scores.keys() == words.scores.keys() == majority.scores.keys()


def test_folds_are_loaded_and_texts_embedded_once(tmp_path, tiny_checkpoint, monkeypatch):
    folder = write_folder(tmp_path / "data", ("sst",), count=40)
    data = Folds(load_data("sst", folder), 3)
    job = job_of(tiny_checkpoint, data.fold(0), folder, folds=3, fold=0)
    loads, embedded = [], []
    load, embedder = examples.load_data, process.embedder
    monkeypatch.setattr(examples, "load_data", lambda *names: loads.append(1) or load(*names))

    def counted(*arguments):
        embed = embedder(*arguments)
        return lambda texts: embedded.append(len(texts)) or embed(texts)

    monkeypatch.setattr(process, "embedder", counted)
    found = points(job)
    assert (loads, embedded) == ([1], [len(set(data.examples.texts()))])
    assert all(each.about.endswith("in each of 3 folds") for each in found)
    expected = np.concatenate(
        [data.fold(n).dev.labels == np.bincount(data.fold(n).train.labels).argmax()
         for n in range(3)]
    )  # fmt: skip
    assert found[0].scores["accuracy"][0] == pytest.approx(expected.mean())
    assert found[0].scores["auroc"][0] == 0.5
    assert found[2].max_length == job.cell.max_length
    with pytest.raises(BAD_INPUT, match="gone"):  # the next run may have it
        points(replace(job, checkpoint=str(tmp_path / "gone")))


def test_a_stop_stops_the_run_and_tries_of_a_search_have_none(movies, job):
    with pytest.raises(StoppedError):
        movies.find(job, stopped=True)
    assert movies.find(replace(job, cell=replace(job.cell, learning_rate_source=CANDIDATE))) == []
    assert movies.facts is None


WORDS = ("good", "bad", "dull", "bright", "slow", "quick")
CLASSES = Task("mine", ("no", "yes", "never"))
LABELS = Task("mine", ("good", "slow", "never"), problem_name="multi_label")
NUMBERS = find_task("sts")


def texts(count, seed):
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, 4)) for _ in range(count))


def holds(words, word):
    return np.array([word in text.split() for text in words]).astype(np.int64)


def single(count, seed):
    words = texts(count, seed)
    return Examples(words, None, holds(words, "good"))


def pairs(count, seed):
    rng = np.random.default_rng(seed)
    a, other = texts(count, seed), texts(count, seed + 100)
    same = rng.integers(0, 2, count)
    b = tuple(one if alike else two for one, two, alike in zip(a, other, same, strict=True))
    return Examples(a, b, same)


def test_the_majority_is_of_the_training_examples():
    train = Examples(tuple("abcd"), None, np.array([2, 1, 2, 1]))
    assert majority(CLASSES, train, 3).argmax(axis=1).tolist() == [1, 1, 1]  # of several the first
    numbers = Examples(tuple("abc"), None, np.array([1.0, 2.0, 6.0]))
    assert majority(NUMBERS, numbers, 2).tolist() == [[3.0], [3.0]]
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=np.int8)
    several = majority(LABELS, replace(train, labels=labels), 1)
    assert (several > 0).tolist() == [[True, False, False]]  # half is not most


@pytest.mark.parametrize("examples", [single, pairs])
def test_words_tell_a_class_and_whether_texts_say_the_same(examples):
    train, dev = examples(300, 0), examples(100, 1)
    predictions, method = tfidf(CLASSES, train, dev)
    again = tfidf(CLASSES, train, replace(dev, labels=1 - dev.labels))
    assert (again[0] == predictions).all(), "labels of dev change nothing"
    assert predictions.shape == (100, 3)
    assert not predictions[:, 2].any()  # a class that no training example has
    assert scores("single_label", [predictions], [dev])["accuracy"][0] > 0.9
    assert method.startswith("logistic regression with C ")


def test_words_tell_numbers_and_several_labels():
    train, dev = (pairs(count, seed) for count, seed in ((300, 0), (100, 1)))
    predictions, method = tfidf(NUMBERS, replace(train, labels=train.labels * 5.0), dev)
    dev = replace(dev, labels=dev.labels * 5.0)
    assert scores("regression", [predictions], [dev])["pearson"][0] > 0.8
    assert method.startswith("ridge regression with alpha ")

    def several(count, seed):
        words = texts(count, seed)
        labels = [holds(words, word) for word in ("good", "slow", "never")]
        return Examples(words, None, np.stack(labels, axis=1).astype(np.int8))

    predictions, _ = tfidf(LABELS, several(300, 0), dev := several(100, 1))
    assert scores("multi_label", [predictions], [dev])["micro_f1"][0] > 0.9
    assert not (predictions[:, 2] > 0).any()


def test_a_linear_model_on_embeddings_is_as_strongly_regularised_as_held_out_examples_ask():
    rng = np.random.default_rng(0)
    train, dev = single(400, 0), single(200, 1)
    signal, noise = (
        [np.c_[sides.labels * scale, rng.normal(size=(len(sides), 150))] for sides in (train, dev)]
        for scale in (100.0, 0.0)
    )
    clear, of_signal = frozen(CLASSES, train, *signal)
    assert scores("single_label", [clear], [dev])["accuracy"][0] > 0.95
    _, of_noise = frozen(CLASSES, train, *noise)
    assert float(of_noise.split()[-1]) < float(of_signal.split()[-1])
    again = frozen(CLASSES, train, signal[0] * 3 + 1, signal[1] * 3 + 1)[0]
    assert np.allclose(again, clear, atol=1e-6)  # standardised


def test_nothing_to_learn_from_is_a_line():
    for labels, why in (([1, 1], "labels are all the same"), ([0, 1], "no word is in two")):
        words = ("the film", "the play") if labels == [1, 1] else ("film", "play")
        examples = Examples(words, None, np.array(labels))
        with pytest.raises(ValueError, match=why):
            tfidf(CLASSES, examples, examples)
    with pytest.raises(ValueError, match="not finite"):
        frozen(CLASSES, single(4, 0), np.full((4, 2), np.nan), np.zeros((4, 2)))


def test_scores_of_a_constant_prediction():
    dev = Examples(("",) * 4, None, np.array([1.0, -1.0, 1.0, -1.0]))
    numbers = scores("regression", [np.zeros((4, 1))], [dev])
    assert numbers["pearson"] is numbers["spearman"] is None
    assert (numbers["rmse"][0], numbers["r2"][0]) == (1, 0)
    dev = replace(dev, labels=np.array([0, 0, 1, 2]))
    classes = scores("single_label", [np.tile([0.5, 0.2, 0.3, 0.0], (4, 1))], [dev])
    assert (classes["mcc"][0], classes["auroc"][0]) == (0, pytest.approx(0.5))
    assert classes["balanced_accuracy"][0] == pytest.approx(1 / 3), "of the classes that dev has"
    dev = replace(dev, labels=np.zeros(4, np.int64))
    assert scores("single_label", [np.ones((4, 2))], [dev])["auroc"] is None
