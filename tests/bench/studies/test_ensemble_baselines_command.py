"""Other encoders, baselines, published scores, and the best member's setting trained by
transformers + PEFT, which an ensemble is compared with."""

import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.launch import again
from bench.machine import conditions
from bench.plan import models
from bench.plan.cell import MULTITASK
from bench.plan.columns import PART_SCORES, format_parts
from bench.plan.job import FILE, Job
from bench.studies.ensemble import baselines
from bench.studies.ensemble.baselines import BASELINE, cosine, threshold, why_not
from bench.studies.ensemble.members import find
from bench.studies.ensemble.result import ALL, average_of_all, ensemble_of, published
from minbert.data.metrics import score
from minbert.data.tasks import TASKS, TaskData, find_task, load_data, load_task
from minbert.errors import InputError
from tests.adapters.small import need_peft
from tests.bench import tiny_cells
from tests.bench.ensembles import ADAPTER, ENCODER, PARTS, indices_of, predictions
from tests.bench.grids import workers_here
from tests.bench.references.test_client import pairs
from tests.bench.synthetic_rows import cell
from tests.cs224n import relabel, write_folder


def test_each_other_encoder_has_its_best_member(place):
    place.add(0, strength=2.0)
    place.add(1)
    for seed, strength in ((2, 1.0), (3, 1.5)):
        place.add(seed, strength=strength, model="other", model_digest="feed")
    place.add(4, strength=0.5, model="other", model_digest="0123456789")
    (candidates,) = find([place.csv])
    outcome = ensemble_of(candidates, "probabilities", 25)
    assert outcome.best.name == "lora-r8-attn-fp32-s0, minilm"
    first, second = outcome.encoders
    assert (first.kind, first.name) == ("best of other feed", "lora-r8-attn-fp32-s3")
    assert (second.kind, second.name) == ("best of other 012345", "lora-r8-attn-fp32-s4")
    assert second.held_score < first.held_score < outcome.best.held_score
    assert first.parameters == ENCODER + ADAPTER
    models = {member.row["model_digest"] for member, _ in outcome.members}
    assert outcome.ensemble.parameters == len(models) * ENCODER + len(outcome.members) * ADAPTER


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", count=60)


def add_real(place, task, data, checkpoint, seed=0):
    """A cell of a task's files and a checkpoint, with the job that it was."""
    examples, model = load_task(task, data), tiny_cells.find(checkpoint)
    path = place.add(
        seed, task=task, dev=examples.dev.labels, data_digest=examples.digest[:16],
        max_train=None, model=model.name, model_digest=model.digest,
    )  # fmt: skip
    of = place.rows[-1].cell
    (path.parent / FILE).write_text(tiny_cells.job_of(of, checkpoint).to_json())
    return of


def test_baselines_of_all_tasks_have_an_overall_score(place, data, tiny_checkpoint, answer):
    for task in PARTS:
        for seed in (0, 1):
            add_real(place, task, data, tiny_checkpoint, seed)
    result = answer("--baselines", "--data", str(data))
    kinds = [[entry["kind"] for entry in task["baselines"]] for task in result["tasks"]]
    pairs = [ALL, baselines.TFIDF, baselines.COSINE]
    assert kinds == [[ALL, baselines.TFIDF], pairs, pairs]
    every, overall = result["overall"]["baselines"]
    assert (every["kind"], every["members"]) == (ALL, 6)
    assert overall["kind"] == baselines.TFIDF
    assert (overall["held_score"], overall["parameters"]) == (None, None)
    scores = [task["baselines"][1]["dev_score"] for task in result["tasks"]]
    expected = (scores[0] + scores[1] + (1 + scores[2]) / 2) / 3
    assert overall["dev_score"] == pytest.approx(expected)
    sources = {entry["source"] for entry in result["tasks"][0]["published"]}
    assert sources >= {"arXiv 2012.01786", "arXiv 2211.11754"}
    assert result["overall"]["published"][0]["score"] == 0.788


def test_what_baselines_lack_is_a_line(place, data, tiny_checkpoint, tmp_path, answer):
    relabel(data / TASKS["quora"].files[0], "1")
    checkpoint = tmp_path / "mine"
    shutil.copytree(tiny_checkpoint, checkpoint)
    add_real(place, "quora", data, checkpoint)
    result = answer("--baselines", "--data", str(data))
    why = "the training labels are all the same"
    assert result["notes"][-1] == f"{baselines.TFIDF} left out: {why}"
    assert [entry["kind"] for entry in result["baselines"]] == [baselines.COSINE]
    assert "is for --baselines and --peer" in place.refused("--data", str(data))
    with pytest.raises(InputError, match="task quora needs --data DIR"):
        place.run("--baselines")
    other = write_folder(tmp_path / "other", count=61)
    assert "are not those that lora" in place.refused("--baselines", "--data", str(other))
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + "\n")
    message = place.refused("--baselines", "--data", str(data))
    assert "is another checkpoint than the one that lora-r8-attn-fp32-s0 was" in message
    shutil.rmtree(checkpoint)
    message = place.refused("--baselines", "--data", str(data))
    assert message.startswith(f"{checkpoint}: the checkpoint of lora-r8-attn-fp32-s0 is gone")


def test_baselines_of_cells_that_learned_all_tasks(place, data, tiny_checkpoint, answer):
    examples = load_data(MULTITASK, data)
    add_real(place, "sst", data, tiny_checkpoint)
    of = place.rows.pop().cell
    text = format_parts(dict.fromkeys(PARTS, 1.0))
    of = replace(
        of, task=MULTITASK, data_digest=examples.digest[:16], encoders=1,
        task_order="proportional", task_rates=text, task_decays=text,
    )  # fmt: skip
    kept = {
        f"{part}.{name}": array
        for part, pieces in examples.parts.items()
        for name, array in predictions(part, 0, 1.0, whole=True, dev=pieces.dev.labels).items()
    }
    path = place.keep(of, kept)
    (path.parent / FILE).write_text(tiny_cells.job_of(of, tiny_checkpoint).to_json())
    result = answer("--baselines", "--data", str(data))
    assert [len(task["baselines"]) for task in result["tasks"]] == [1, 2, 2]


def test_the_average_of_all_cells_has_each_of_them_once(place):
    for seed, strength in ((0, 2.0), (1, 1.0), (2, 0.5)):
        place.add(seed, strength=strength)
    (candidates,) = find([place.csv])
    found = average_of_all(candidates, "logits")
    for prefix, reached in ("", found.dev.value), ("held_", found.held_score):
        mean = np.mean([one.arrays[f"{prefix}logits"] for one in candidates.members], axis=0)
        right = mean.argmax(axis=1) == candidates.members[0].arrays[f"{prefix}labels"]
        assert reached == pytest.approx(right.mean())
    assert found.parameters == ENCODER + 3 * ADAPTER


@pytest.mark.parametrize("task", [*PART_SCORES, MULTITASK])
def test_each_published_score_has_a_source(task):
    rows = published(task)
    metrics = {"quora": "accuracy", "sst": "accuracy", "sts": "pearson", MULTITASK: "overall"}
    assert {row.metric for row in rows} == {metrics[task]}
    assert all(re.fullmatch(r"arXiv \d{4}\.\d{5}", row.source) for row in rows)
    assert all(row.model and row.split and 0.5 < row.score < 1 for row in rows)
    assert all(row.parameters is None or 1e8 < row.parameters < 1e9 for row in rows)
    assert [row.score for row in rows] == sorted(row.score for row in rows)
    assert published("movies") == []


@pytest.mark.parametrize("task", ["quora", "sts"])
def test_embeddings_tell_pairs_that_say_the_same(task, tiny_checkpoint):
    data = TaskData(find_task(task), pairs(300, 0), pairs(100, 1))
    assert score(data.task.metric, cosine(data, tiny_checkpoint, 32), data.dev.labels) > 0.6


@pytest.mark.parametrize(("values", "labels", "expected"), [
    ([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], 0.5),
    ([0.3, 0.4], [1, 1], -0.2),  # all of class 1: below all of them
    ([0.3, 0.4], [0, 0], 0.9),
    ([0.5, 0.5, 0.5, 0.9], [0, 1, 0, 1], 0.7),  # equal numbers can't be parted
])  # fmt: skip
def test_the_threshold_parts_classes_best(values, labels, expected):
    assert threshold(np.array(values), np.array(labels)) == pytest.approx(expected)


def usual(amp="off", **changes):
    return cell("lora", 8, "attn", amp, **changes)


@pytest.mark.parametrize(("member", "device", "reason"), [
    (usual(head="conv", pooling="pooler"), "cpu", None),
    (usual(head="nonlinear", pooling="pooler"), "cpu", "only their own head"),
    (usual(task=MULTITASK), "cpu", "learn only one task"),
    (usual("fp16"), "cpu", "fp16 needs a GPU"),
    (usual("fp16"), "cuda:0", None),
])  # fmt: skip
def test_settings_that_they_lack_give_a_reason(member, device, reason):
    answer = why_not(member, device)
    assert answer is None if reason is None else reason in str(answer)


def test_a_missing_library_is_named(place, monkeypatch):
    place.add(0)
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    assert "pip install -e '.[transformers]'" in place.refused("--peer")


@pytest.mark.parametrize("members", [1, 2])
def test_where_no_setting_can_be_trained_the_best_one_says_why(place, capsys, members):
    need_peft()
    for seed in range(members):
        place.add(seed, head="nonlinear", pooling="pooler", strength=2.0 - seed)
    assert place.run("--peer") == 0
    end = "; nor can they train another" if members > 1 else ".\n"
    assert f" pooler they have only their own head{end}" in capsys.readouterr().out


def add_trainable(place, checkpoint, *, right=0.0, **changes):
    """A cell on a few real sentences; predictions of what was held out are more or less right."""
    of = tiny_cells.cell(checkpoint, held_out=0.25, **changes)
    rng = np.random.default_rng(0)
    held_labels = rng.integers(0, 5, 24)
    logits, held_logits = rng.normal(size=(2, 24, 5)).astype(np.float32)
    kept = {
        "logits": logits, "labels": load_task("movies", **tiny_cells.EXAMPLES).dev.labels,
        "held_logits": right * np.eye(5, dtype=np.float32)[held_labels] + held_logits,
        "held_labels": held_labels, "held_indices": indices_of(24),
    }  # fmt: skip
    (place.keep(of, kept).parent / FILE).write_text(tiny_cells.job_of(of, checkpoint).to_json())
    return of


def test_the_best_members_setting_is_trained_once(place, tiny_checkpoint, capsys, monkeypatch):
    need_peft()
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(place.csv.parent / "locks"))
    member = add_trainable(place, tiny_checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(again, "WORKER", (sys.executable, "-c", "raise ValueError('no such thing')"))
        assert place.run("--peer", "--json") == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["baselines"], result["ensemble"]["members"]) == ([], 1)
    assert "error: movies: transformers + PEFT: lora-r4-all-lin-only-fp32-s0, by " in shown.err
    assert "crashed: ValueError: no such thing\n" in shown.err

    with workers_here():
        assert place.run("--peer", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    (scored,) = result["baselines"]
    assert (scored["kind"], scored["held_score"]) == (BASELINE, None)
    assert scored["parameters"] == result["best_member"]["parameters"]
    right = scored["dev_score"] * 24
    assert right == pytest.approx(round(right))
    assert scored["name"] == member.name
    assert f"{BASELINE} trained the setting of {member.name} (tra" in result["notes"][-1]
    (folder,) = place.csv.with_suffix("").glob("ensemble-*")
    job = Job.read(folder)
    assert (job.cell.engine, job.cell.batching) == ("transformers", "shuffled")
    assert (job.cell.held_out, job.cell.seed) == (0.25, member.seed)
    steps = (folder / "steps.csv").read_text().splitlines()
    assert len(steps) == 1 + 9, "72 of 96 examples in batches of 8"

    began = (folder / "result.json").stat().st_mtime_ns
    assert place.run("--peer", "--json") == 0
    assert json.loads(capsys.readouterr().out) == result
    assert (folder / "result.json").stat().st_mtime_ns == began


@pytest.fixture
def trained(monkeypatch):
    """The names of the cells whose settings are to be trained; nothing is trained."""
    names = []

    def train(_runs, job, _machine):
        names.append(job.cell.name)
        return np.eye(5)[load_task("movies", **tiny_cells.EXAMPLES).dev.labels]

    monkeypatch.setattr(baselines, "train_baseline", train)
    return names


def test_the_best_setting_that_they_can_train_is_trained_once_all_examples_are_there(
    place, tiny_checkpoint, answer, trained, monkeypatch
):
    need_peft()
    asked, cpu = [], conditions.find_conditions("cpu")
    monkeypatch.setattr(baselines, "find_conditions", lambda device: asked.append(device) or cpu)
    add_trainable(place, tiny_checkpoint, seed=0)
    other = add_trainable(place, tiny_checkpoint, seed=1, right=2.0)
    add_trainable(place, tiny_checkpoint, seed=2)
    best = add_trainable(place, tiny_checkpoint, seed=3, right=9.0, head="nonlinear")
    result = answer("--peer")
    assert result["best_member"]["name"] == best.name
    assert trained == [other.name]
    assert asked == ["cpu"], "for cells of a CPU no GPU is used"
    (scored,) = result["baselines"]
    assert (scored["name"], scored["dev_score"]) == (other.name, 1.0)
    assert result["notes"][-1].endswith(
        f", the best that they can: for {best.name} {why_not(best, 'cpu')}"
    )
    place.add(0, task="nyt")
    assert "are not those that lora" in place.refused("--task", "movies,nyt", "--peer")
    assert trained == [other.name]
