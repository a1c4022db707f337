"""What stands beside an ensemble: other encoders, baselines, published scores."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.plan.cell import MULTITASK, Cell
from bench.plan.columns import PART_SCORES
from bench.plan.job import FILE
from bench.plan.parts import to_text
from bench.studies.ensemble import baselines
from bench.studies.ensemble.baseline import BASELINE
from bench.studies.ensemble.members import find
from bench.studies.ensemble.published import published
from bench.studies.ensemble.result import ALL, average_of_all, ensemble_of
from minbert.data.tasks import TASKS, load_data, load_task
from minbert.errors import InputError as MinbertInputError
from tests.adapters.small import need_peft
from tests.bench import tiny_cells
from tests.bench.ensembles import ADAPTER, ENCODER, PARTS, Place, indices_of, labels_of
from tests.cs224n import relabel, write_folder

# Other encoders


def test_each_other_encoder_has_its_best_member(place: Place) -> None:
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
    assert second.held_score is not None
    assert first.held_score is not None
    assert second.held_score < first.held_score < outcome.best.held_score
    assert first.parameters == ENCODER + ADAPTER
    models = {member.row["model_digest"] for member, _ in outcome.members}
    assert outcome.ensemble.parameters == len(models) * ENCODER + len(outcome.members) * ADAPTER


# Baselines on real files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", count=60)


def add_real(place: Place, task: str, data: Path, checkpoint: Path, seed: int = 0) -> Cell:
    """A cell of a task's files and a checkpoint, with the job that it was."""
    examples, model = load_task(task, data), tiny_cells.find(checkpoint)
    path = place.add(
        seed, task=task, dev=examples.dev.labels, data_digest=examples.digest[:16],
        max_train=None, model=model.name, model_digest=model.digest,
    )  # fmt: skip
    of = place.rows[-1].cell
    (path.parent / FILE).write_text(tiny_cells.job_of(of, checkpoint).to_json())
    return of


def test_baselines_of_all_tasks_have_an_overall_score(
    place: Place, data: Path, tiny_checkpoint: Path, printed: Any
) -> None:
    for task in PARTS:
        for seed in (0, 1):
            add_real(place, task, data, tiny_checkpoint, seed)
    assert place.run("--baselines", "--data", str(data), "--json") == 0
    result = printed()
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
    assert overall["dev_ci_low"] < overall["dev_score"] < overall["dev_ci_high"]
    sst = result["tasks"][0]
    assert {entry["source"] for entry in sst["published"]} >= {
        "arXiv 2012.01786",
        "arXiv 2211.11754",
    }
    assert result["overall"]["published"][0]["score"] == 0.788


def test_published_scores_are_shown_with_what_they_are_of(
    place: Place, data: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_real(place, "sst", data, tiny_checkpoint)
    assert place.run("--baselines", "--data", str(data)) == 0
    text = capsys.readouterr().out
    assert "Published scores, of SST-5's test sentences: what can be reached, not what" in " ".join(
        text.split()
    )
    (line,) = [line for line in text.splitlines() if "RoBERTa-large + Heinsen routing" in line]
    assert "0.598" in line
    assert "SST-5 test" in line
    assert "arXiv 2211.11754" in line
    assert place.run() == 0
    assert "ublished" not in capsys.readouterr().out


@pytest.mark.parametrize("task", [*PART_SCORES, MULTITASK])
def test_each_published_score_has_a_source(task: str) -> None:
    rows = published(task)
    assert rows
    metrics = {"sst": "accuracy", "quora": "accuracy", "sts": "pearson", MULTITASK: "overall"}
    for row in rows:
        assert row.metric == metrics[task]
        assert 0.5 < row.score < 1
        assert re.fullmatch(r"arXiv \d{4}\.\d{5}", row.source)
        assert row.model
        assert row.split
        assert row.parameters is None or 1e8 < row.parameters < 1e9
    assert [row.score for row in rows] == sorted(row.score for row in rows)


def test_a_task_that_no_paper_has_no_published_scores() -> None:
    assert published("movies") == []


def test_a_baseline_of_constants_is_left_out_with_a_note(
    place: Place,
    data: Path,
    tiny_checkpoint: Path,
    printed: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "with_tfidf", lambda data: np.zeros((len(data.dev), 1)))
    add_real(place, "sts", data, tiny_checkpoint)
    assert place.run("--baselines", "--data", str(data), "--json") == 0
    result = printed()
    assert [entry["kind"] for entry in result["baselines"]] == [baselines.COSINE]
    assert result["notes"] == [f"{baselines.TFIDF} left out: a constant has no correlation"]


@pytest.mark.parametrize(("task", "label"), [("sst", "3"), ("quora", "1"), ("sts", "3.8")])
def test_a_baseline_with_one_label_to_learn_is_left_out_with_a_note(
    place: Place, data: Path, tiny_checkpoint: Path, printed: Any, task: str, label: str
) -> None:
    relabel(data / TASKS[task].files[0], label)
    add_real(place, task, data, tiny_checkpoint)
    assert place.run("--baselines", "--data", str(data), "--json") == 0
    result = printed()
    assert (
        result["notes"][-1] == f"{baselines.TFIDF} left out: the training labels are all the same"
    )
    cosines = [] if task == "sst" else [baselines.COSINE]
    assert [entry["kind"] for entry in result["baselines"]] == cosines


def test_a_baseline_of_words_that_no_text_shares_is_left_out_with_a_note(
    place: Place, data: Path, tiny_checkpoint: Path, printed: Any
) -> None:
    rows = [f"{n}\tid{n}\tword{n}\t{n % 5}" for n in range(30)]
    path = data / TASKS["sst"].files[0]
    path.write_text("\n".join(["\tid\tsentence\tsentiment", *rows]) + "\n")
    add_real(place, "sst", data, tiny_checkpoint)
    assert place.run("--baselines", "--data", str(data), "--json") == 0
    result = printed()
    assert result["notes"][-1] == (
        f"{baselines.TFIDF} left out: no word is in two of the training texts"
    )
    assert result["baselines"] == []


def test_what_baselines_need_and_is_not_there_is_a_line(
    place: Place, data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "mine"
    shutil.copytree(tiny_checkpoint, checkpoint)
    add_real(place, "quora", data, checkpoint)
    assert "is for --baselines and --peer" in place.refused("--data", str(data))
    with pytest.raises(MinbertInputError, match="task quora needs --data DIR"):
        place.run("--baselines")
    other = write_folder(tmp_path / "other", count=61)
    assert "are not those that lora" in place.refused("--baselines", "--data", str(other))
    config = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(config + "\n")
    message = place.refused("--baselines", "--data", str(data))
    assert (
        "is another checkpoint than the one that lora-r8-attn-fp32-s0 was trained from" in message
    )
    shutil.rmtree(checkpoint)
    message = place.refused("--baselines", "--data", str(data))
    assert message.startswith(f"{checkpoint}: the checkpoint of lora-r8-attn-fp32-s0 is gone")


def test_baselines_of_cells_that_learned_all_tasks(
    place: Place, data: Path, tiny_checkpoint: Path, printed: Any
) -> None:
    need_peft()
    examples = load_data(MULTITASK, data)
    add_real(place, "sst", data, tiny_checkpoint)
    of = place.rows.pop().cell
    text = to_text(dict.fromkeys(PARTS, 1.0))
    of = replace(
        of, task=MULTITASK, data_digest=examples.digest[:16], encoders=1,
        task_order="proportional", task_rates=text, task_decays=text,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    outputs = {"sst": 5, "quora": 1, "sts": 1}
    kept = {}
    for part, pieces in examples.parts.items():
        held = labels_of(part, 20)
        kept |= {
            f"{part}.logits": rng.normal(size=(30, outputs[part])).astype(np.float32),
            f"{part}.labels": pieces.dev.labels,
            f"{part}.held_logits": rng.normal(size=(20, outputs[part])).astype(np.float32),
            f"{part}.held_labels": held,
            f"{part}.held_indices": indices_of(20),
        }
    path = place.keep(of, kept)
    (path.parent / FILE).write_text(tiny_cells.job_of(of, tiny_checkpoint).to_json())
    assert place.run("--baselines", "--peer", "--data", str(data), "--json") == 0
    result = printed()
    assert [len(task["baselines"]) for task in result["tasks"]] == [1, 2, 2]
    for task in result["tasks"]:
        assert task["notes"][-1] == (
            f"{BASELINE} left out for lora-r8-attn-fp32-s0: they learn only one task"
        )


def test_the_average_of_all_cells_has_each_of_them_once(place: Place) -> None:
    for seed, strength in ((0, 2.0), (1, 1.0), (2, 0.5)):
        place.add(seed, strength=strength)
    (candidates,) = find([place.csv])
    found = average_of_all(candidates, "logits")
    mean = np.mean([entry.arrays["logits"].astype(float) for entry in candidates.members], axis=0)
    right = mean.argmax(axis=1) == candidates.labels
    assert found.dev.value == pytest.approx(right.mean())
    held = np.mean(
        [entry.arrays["held_logits"].astype(float) for entry in candidates.members], axis=0
    )
    assert found.held_score == pytest.approx((held.argmax(axis=1) == candidates.held_labels).mean())
    assert found.parameters == ENCODER + 3 * ADAPTER
