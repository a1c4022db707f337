"""The best member's setting trained by transformers + PEFT, as a baseline of an ensemble."""

import json
import sys

import numpy as np
import pytest

from bench.launch import again
from bench.machine import conditions
from bench.plan import models
from bench.plan.cell import MULTITASK
from bench.plan.job import FILE, Job
from bench.studies.ensemble import baselines
from bench.studies.ensemble.baselines import BASELINE, why_not
from minbert.data.tasks import load_task
from tests.adapters.small import need_peft
from tests.bench import tiny_cells
from tests.bench.ensembles import indices_of
from tests.bench.synthetic_rows import cell


def usual(amp="off", **changes):
    return cell("lora", 8, "attn", amp, **changes)


@pytest.mark.parametrize(
    ("member", "device", "reason"),
    [
        (usual(head="conv", pooling="pooler"), "cpu", None),
        (usual(head="nonlinear", pooling="pooler"), "cpu", "only their own head"),
        (usual(task=MULTITASK), "cpu", "learn only one task"),
        (usual("fp16"), "cpu", "fp16 needs a GPU"),
        (usual("fp16"), "cuda:0", None),
    ],
)
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
    """A cell on a few real sentences, whose made-up predictions of what was held out point to the
    labels more or less."""
    of = tiny_cells.cell(checkpoint, held_out=0.25, **changes)
    rng = np.random.default_rng(0)
    held_labels = rng.integers(0, 5, 24)
    logits, held_logits = rng.normal(size=(2, 24, 5)).astype(np.float32)
    kept = {
        "logits": logits, "labels": load_task("movies", **tiny_cells.EXAMPLES).dev.labels,
        "held_logits": right * np.eye(5, dtype=np.float32)[held_labels] + held_logits,
        "held_labels": held_labels, "held_indices": indices_of(24),
    }  # fmt: skip
    path = place.keep(of, kept)
    (path.parent / FILE).write_text(tiny_cells.job_of(of, checkpoint).to_json())
    return of


@pytest.fixture
def locks(tmp_path, monkeypatch):
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))


@pytest.mark.usefixtures("locks")
def test_the_best_members_setting_is_trained_once(place, tiny_checkpoint, capsys):
    need_peft()
    member = add_trainable(place, tiny_checkpoint)
    assert place.run("--peer", "--json") == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
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


def test_where_the_best_setting_is_only_ours_the_best_that_they_can_is_trained(
    place, tiny_checkpoint, printed, trained, monkeypatch
):
    need_peft()
    asked, cpu = [], conditions.find_conditions("cpu")
    monkeypatch.setattr(baselines, "find_conditions", lambda device: asked.append(device) or cpu)
    add_trainable(place, tiny_checkpoint, seed=0)
    other = add_trainable(place, tiny_checkpoint, seed=1, right=2.0)
    add_trainable(place, tiny_checkpoint, seed=2)
    best = add_trainable(place, tiny_checkpoint, seed=3, right=9.0, head="nonlinear")
    assert place.run("--peer", "--json") == 0
    result = printed()
    assert result["best_member"]["name"] == best.name
    assert trained == [other.name]
    assert asked == ["cpu"], "for cells of a CPU no GPU is used"
    (scored,) = result["baselines"]
    assert (scored["name"], scored["dev_score"]) == (other.name, 1.0)
    assert result["notes"][-1].endswith(
        f", the best that they can: for {best.name} {why_not(best, 'cpu')}"
    )


@pytest.mark.usefixtures("locks")
def test_a_training_that_fails_is_an_error_and_the_rest_is_shown(
    place, tiny_checkpoint, capsys, monkeypatch
):
    need_peft()
    crash = "raise ValueError('no such thing')"
    monkeypatch.setattr(again, "WORKER", (sys.executable, "-c", crash))
    add_trainable(place, tiny_checkpoint)
    assert place.run("--peer", "--json") == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["baselines"], result["ensemble"]["members"]) == ([], 1)
    assert "error: movies: transformers + PEFT: lora-r4-all-lin-only-fp32-s0, by " in shown.err
    assert "crashed: ValueError: no such thing\n" in shown.err


def test_nothing_is_trained_before_the_examples_of_all_tasks_are_there(
    place, tiny_checkpoint, trained
):
    need_peft()
    add_trainable(place, tiny_checkpoint)
    place.add(0, task="nyt")
    assert "are not those that lora" in place.refused("--task", "movies,nyt", "--peer")
    assert trained == []
