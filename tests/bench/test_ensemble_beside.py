"""What stands beside an ensemble: other encoders, baselines, published scores, a peer."""

import json
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cell import Cell
from bench.ensemble import baselines, peer
from bench.ensemble.members import find
from bench.ensemble.outcome import ensemble_of
from bench.ensemble.peer import PEER, why_not
from bench.ensemble.published import published
from bench.errors import InputError
from bench.job import FILE
from bench.parts import to_text
from bench.peers import names
from bench.peers.session import Comparison
from bench.schema import MULTITASK, PART_SCORES
from minbert.errors import InputError as MinbertInputError
from minbert.tasks import load_data, load_task
from tests.adapters.small import need_peft
from tests.bench import peer_cells
from tests.bench.ensembles import ADAPTER, ENCODER, PARTS, Place, labels_of
from tests.bench.synthetic_rows import cell
from tests.components import need
from tests.cs224n import write_folder

FAKE = str(Path(__file__).with_name("fake_peer.py"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        need(condition=False, why="scikit-learn (install the extra `baselines`)")


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command printed as JSON, once it has run."""
    return lambda: json.loads(capsys.readouterr().out)


# Other encoders


def test_each_other_encoder_has_its_best_member(place: Place) -> None:
    place.add(0, strength=2.0)
    place.add(1)
    for seed, strength in ((2, 1.0), (3, 1.5)):
        place.add(seed, strength=strength, model="other", model_digest="feed")
    place.add(4, strength=0.5, model="other", model_digest="0123456789")
    (candidates,) = find([place.csv])
    outcome = ensemble_of(candidates, "probabilities", 25)
    assert outcome.best.name == "lora-r8-attn-fp32-s0"
    first, second = outcome.encoders
    assert (first.kind, first.name) == ("best of other feed", "lora-r8-attn-fp32-s3")
    assert (second.kind, second.name) == ("best of other 012345", "lora-r8-attn-fp32-s4")
    assert second.held is not None
    assert first.held is not None
    assert second.held < first.held < outcome.best.held
    assert first.parameters == ENCODER + ADAPTER
    models = {member.row["model_digest"] for member, _ in outcome.members}
    assert outcome.ensemble.parameters == len(models) * ENCODER + len(outcome.members) * ADAPTER


# Baselines on real files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", count=60)


def add_real(place: Place, task: str, data: Path, checkpoint: Path, seed: int = 0) -> Cell:
    """A cell of a task's files and a checkpoint, with the job that it was."""
    examples, model = load_task(task, data), peer_cells.find(checkpoint)
    path = place.add(
        seed, task=task, dev=examples.dev.labels, data_digest=examples.digest[:16],
        max_train=None, model=model.name, model_digest=model.digest,
    )  # fmt: skip
    of = Cell.from_columns(place.rows[-1])
    (path.parent / FILE).write_text(peer_cells.job_of(of, checkpoint).to_json())
    return of


@pytest.mark.usefixtures("sklearn")
def test_baselines_of_all_tasks_have_an_overall_score(
    place: Place, data: Path, tiny_checkpoint: Path, found: Any
) -> None:
    for task in PARTS:
        add_real(place, task, data, tiny_checkpoint)
    assert place.run("--baselines", "--data", str(data), "--json") == 0
    told = found()
    kinds = [[of["kind"] for of in task["baselines"]] for task in told["tasks"]]
    pairs = [baselines.TFIDF, baselines.COSINE]
    assert kinds == [[baselines.TFIDF], pairs, pairs]
    (overall,) = told["overall"]["baselines"]
    assert overall["kind"] == baselines.TFIDF
    assert (overall["held_score"], overall["parameters"]) == (None, None)
    scores = [task["baselines"][0]["dev_score"] for task in told["tasks"]]
    expected = (scores[0] + scores[1] + (1 + scores[2]) / 2) / 3
    assert overall["dev_score"] == pytest.approx(expected)
    assert overall["dev_ci_low"] < overall["dev_score"] < overall["dev_ci_high"]
    sst = told["tasks"][0]
    assert {of["source"] for of in sst["published"]} >= {"arXiv 2012.01786", "arXiv 2211.11754"}
    assert told["overall"]["published"][0]["score"] == 0.788


@pytest.mark.usefixtures("sklearn")
def test_published_scores_are_shown_with_what_they_are_of(
    place: Place, data: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_real(place, "sst", data, tiny_checkpoint)
    assert place.run("--baselines", "--data", str(data)) == 0
    text = capsys.readouterr().out
    assert "published scores, of other examples than these (SST-5 test;" in text
    (line,) = [line for line in text.splitlines() if "RoBERTa-large + Heinsen routing" in line]
    assert "0.598" in line
    assert "SST-5 test" in line
    assert "arXiv 2211.11754" in line
    assert place.run() == 0
    assert "published" not in capsys.readouterr().out


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
    assert published("movies") == ()


def test_a_baseline_of_constants_is_left_out_with_a_note(
    place: Place,
    data: Path,
    tiny_checkpoint: Path,
    found: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "tfidf", lambda data: np.zeros((len(data.dev), 1)))
    add_real(place, "sts", data, tiny_checkpoint)
    assert place.run("--baselines", "--data", str(data), "--json") == 0
    told = found()
    assert [of["kind"] for of in told["baselines"]] == [baselines.COSINE]
    assert told["notes"] == [f"{baselines.TFIDF} left out: a constant has no correlation"]


@pytest.mark.usefixtures("sklearn")
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
    told = place.refused("--baselines", "--data", str(data))
    assert "is another checkpoint than the one that lora-r8-attn-fp32-s0 was trained from" in told
    shutil.rmtree(checkpoint)
    told = place.refused("--baselines", "--data", str(data))
    assert told.startswith(f"{checkpoint}: the checkpoint of lora-r8-attn-fp32-s0 is gone")


@pytest.mark.usefixtures("sklearn")
def test_baselines_of_cells_that_learned_all_tasks(
    place: Place, data: Path, tiny_checkpoint: Path, found: Any
) -> None:
    need_peft()
    examples = load_data(MULTITASK, data)
    add_real(place, "sst", data, tiny_checkpoint)
    of = Cell.from_columns(place.rows.pop())
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
        }
    path = place.keep(of, kept)
    (path.parent / FILE).write_text(peer_cells.job_of(of, tiny_checkpoint).to_json())
    assert place.run("--baselines", "--peer", "--data", str(data), "--json") == 0
    told = found()
    assert [len(task["baselines"]) for task in told["tasks"]] == [1, 2, 2]
    for task in told["tasks"]:
        assert task["notes"][-1] == (
            f"{PEER} left out for lora-r8-attn-fp32-s0: the peer's script learns one task alone"
        )


# The peer


def usual(**changes: Any) -> Cell:
    return cell("lora", 8, "attn", "off", **changes)


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (usual(), None),
        (usual(regression_loss="mse"), None),
        (usual(task=MULTITASK), "learns one task alone"),
        (usual(unfreeze="iterative"), "no gradual unfreezing"),
        (usual(head="conv"), "has head linear alone"),
        (usual(optimizer="adamax"), "has optimizer adamw alone"),
        (usual(schedule="halving"), "has schedule linear alone"),
        (usual(regression_loss="pearson"), "has regression_loss mse alone"),
        (replace(usual(), amp="fp16"), "fp16 needs a GPU"),
    ],
)
def test_settings_that_only_ours_has_are_told(of: Cell, told: str | None) -> None:
    found = why_not(of, "cpu")
    assert found is None if told is None else told in str(found)


def test_on_a_card_the_peer_has_fp16() -> None:
    assert why_not(replace(usual(), amp="fp16"), "cuda:0") is None


def test_a_missing_library_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add(0)
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    assert "pip install -e '.[peers]'" in place.refused("--peer")


def test_a_setting_that_only_ours_has_leaves_the_peer_out(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    need_peft()
    place.add(0, head="conv")
    assert place.run("--peer") == 0
    told = capsys.readouterr().out
    assert f"note: {PEER} left out for lora-r8-attn-fp32-s0: the peer's script has head" in told


def add_trainable(place: Place, checkpoint: Path, **changes: Any) -> Cell:
    """A cell on a few real sentences, which the peer can train; its predictions are made up."""
    of = peer_cells.cell(checkpoint, held_out=0.25, **changes)
    rng = np.random.default_rng(0)
    kept = {
        "logits": rng.normal(size=(24, 5)).astype(np.float32),
        "labels": load_task("movies", **peer_cells.EXAMPLES).dev.labels,
        "held_logits": rng.normal(size=(24, 5)).astype(np.float32),
        "held_labels": rng.integers(0, 5, 24),
    }
    path = place.keep(of, kept)
    (path.parent / FILE).write_text(peer_cells.job_of(of, checkpoint).to_json())
    return of


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))


@pytest.mark.usefixtures("locks")
def test_the_peer_trains_the_best_members_setting(
    place: Place, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_peft()
    of = add_trainable(place, tiny_checkpoint)
    assert place.run("--peer", "--json") == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    (scored,) = told["baselines"]
    assert (scored["kind"], scored["held_score"]) == (PEER, None)
    assert scored["parameters"] == told["best_member"]["parameters"]
    right = scored["dev_score"] * 24
    assert right == pytest.approx(round(right))
    assert scored["dev_ci_low"] < scored["dev_score"] < scored["dev_ci_high"]
    assert f"{of.mode}-r4-all-lin-only-fp32: trainer" in shown.err


@pytest.mark.usefixtures("locks")
def test_a_peer_that_fails_is_told_and_the_rest_is_shown(
    place: Place,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_peft()
    crashing = partial(Comparison, process=(sys.executable, FAKE, "crash"))
    monkeypatch.setattr(peer, "Comparison", crashing)
    add_trainable(place, tiny_checkpoint)
    assert place.run("--peer", "--json") == 1
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert told["baselines"] == []
    assert told["ensemble"]["dev_score"] >= 0
    assert "error: movies: transformers + PEFT: crashed: ValueError: no such thing\n" in shown.err


@pytest.mark.usefixtures("locks")
def test_predictions_that_the_peer_did_not_leave_are_a_failure(
    place: Place, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_peft()
    monkeypatch.setattr(
        peer, "Comparison", partial(Comparison, process=(sys.executable, FAKE, "alike"))
    )
    add_trainable(place, tiny_checkpoint)
    assert place.run("--peer") == 1


def test_the_examples_of_the_peer_are_those_of_the_cell(
    place: Place, tiny_checkpoint: Path
) -> None:
    need_peft()
    add_trainable(place, tiny_checkpoint, data_digest="beef")
    with pytest.raises(InputError, match="are not those that lora"):
        place.run("--peer")
