"""Reference points from their process, into the facts of the data."""

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
from bench.results.facts import REFERENCES, Reference, facts_of, read_facts, update_facts
from minbert.data.tasks import Folds, load_data
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


@pytest.mark.parametrize(
    ("kills", "why"),
    [((3, 3), r"crashed \(signal 9\)$"), ((3, 4), "oom .the host ran out of memory")],
)
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


def test_what_takes_too_long_is_left_out_and_beyond_our_own_limit_for_good(
    movies, job, monkeypatch
):
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
    """All reference points of a job, found in this process."""
    answers = process.references(job, list(REFERENCES), 40)
    return [answer for answer in answers if isinstance(answer, Reference)]


@pytest.mark.parametrize("task", ["sts", "quora"])
def test_pairs_have_all_scores_and_a_mean_no_correlation(task, tmp_path, tiny_checkpoint):
    folder = write_folder(tmp_path / "data", (task,), count=41)
    data = Folds(load_data(task, folder), 3)
    job = job_of(tiny_checkpoint, data.fold(0), folder, folds=3, fold=0)
    majority, words, frozen = points(job)
    if task == "sts":
        assert len({float(data.fold(n).train.labels.mean()) for n in range(3)}) == 3
        assert (majority.scores["pearson"], majority.scores["spearman"]) == (None, None)
        assert majority.scores["rmse"] is not None
    assert frozen.scores.keys() == words.scores.keys() == majority.scores.keys()


def test_folds_are_loaded_once_and_each_text_is_embedded_once(
    tmp_path, tiny_checkpoint, monkeypatch
):
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


def test_a_stop_by_the_user_stops_the_run(movies, job):
    with pytest.raises(StoppedError):
        movies.find(job, stopped=True)


def test_tries_of_a_search_have_none(movies, job):
    assert movies.find(replace(job, cell=replace(job.cell, learning_rate_source=CANDIDATE))) == []
    assert movies.facts is None


def test_references_of_several_files_are_shown_together(movies, tmp_path):
    facts = facts_of(movies.data)
    digest = movies.data.digest[:16]
    files = [tmp_path / name for name in ("a.csv", "b.csv")]
    for path, name in zip(files, ("majority", "tf-idf"), strict=True):
        one = Reference(name=name, about="", train=200, scores={})
        more = facts.model_copy(update={"references": (one,)})
        update_facts(path, digest, lambda _, more=more: more)
    read = read_facts(*files, tmp_path / "no.csv")
    assert [reference.name for reference in read[digest].references] == ["majority", "tf-idf"]
