"""A member's setting trained by transformers + PEFT, as a baseline of an ensemble."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.peers import names
from bench.peers.session import Comparison
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bench.common.errors import InputError
from bench.machine import conditions
from bench.plan.cell import MULTITASK, Cell
from bench.plan.job import FILE
from bench.studies.ensemble import peer
from bench.studies.ensemble.peer import PEER, why_not
from minbert.data.tasks import load_task
from tests.adapters.small import need_peft
from tests.bench import tiny_cells
from tests.bench.ensembles import Place, indices_of
from tests.bench.synthetic_rows import cell

FAKE = str(Path(__file__).parents[1].joinpath("fake_peer.py"))


def usual(**changes: Any) -> Cell:
    return cell("lora", 8, "attn", "off", **changes)


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (usual(), None),
        (usual(regression_loss="mse"), None),
        (usual(task=MULTITASK), "learns only one task"),
        (usual(unfreeze="iterative"), "no gradual unfreezing"),
        (usual(head="conv"), "has only head linear"),
        (usual(optimizer="adamax"), "has only optimizer adamw"),
        (usual(schedule="halving"), "has only schedule linear"),
        (usual(regression_loss="pearson"), "has only regression_loss mse"),
        (replace(usual(), amp="fp16"), "fp16 needs a GPU"),
    ],
)
def test_settings_that_only_ours_has_give_a_reason(of: Cell, reason: str | None) -> None:
    answer = why_not(of, "cpu")
    assert answer is None if reason is None else reason in str(answer)


def test_on_a_gpu_the_peer_has_fp16() -> None:
    assert why_not(replace(usual(), amp="fp16"), "cuda:0") is None


def test_a_missing_library_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add(0)
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    assert "pip install -e '.[transformers]'" in place.refused("--peer")


def test_a_setting_that_only_ours_has_leaves_the_peer_out(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    need_peft()
    place.add(0, head="conv")
    assert place.run("--peer") == 0
    result = capsys.readouterr().out
    assert (
        "\nTransformers + PEFT left out for lora-r8-attn-fp32-s0: the Trainer script has only head"
        in result
    )


def test_where_no_setting_can_be_trained_the_best_one_says_why(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    need_peft()
    place.add(0, head="conv", strength=2.0)
    place.add(1, unfreeze="iterative")
    assert place.run("--peer") == 0
    result = capsys.readouterr().out
    assert (
        "left out for lora-r8-attn-fp32-s0: the Trainer script has only head linear; nor" in result
    )


def add_trainable(place: Place, checkpoint: Path, *, right: float = 0.0, **changes: Any) -> Cell:
    """A cell on a few real sentences, which the peer can train; its predictions are made up.

    Args:
        right: how much those of what was held out point to the labels.
    """
    of = tiny_cells.cell(checkpoint, held_out=0.25, **changes)
    rng = np.random.default_rng(0)
    held_labels = rng.integers(0, 5, 24)
    kept = {
        "logits": rng.normal(size=(24, 5)).astype(np.float32),
        "labels": load_task("movies", **tiny_cells.EXAMPLES).dev.labels,
        "held_logits": right * np.eye(5, dtype=np.float32)[held_labels]
        + rng.normal(size=(24, 5)).astype(np.float32),
        "held_labels": held_labels,
        "held_indices": indices_of(24),
    }
    path = place.keep(of, kept)
    (path.parent / FILE).write_text(tiny_cells.job_of(of, checkpoint).to_json())
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
    result = json.loads(shown.out)
    (scored,) = result["baselines"]
    assert (scored["kind"], scored["held_score"]) == (PEER, None)
    assert scored["parameters"] == result["best_member"]["parameters"]
    right = scored["dev_score"] * 24
    assert right == pytest.approx(round(right))
    assert scored["dev_ci_low"] < scored["dev_score"] < scored["dev_ci_high"]
    assert scored["name"] == of.name
    assert f"{of.mode}-r4-all-lin-only-fp32: trainer" in shown.err
    assert result["notes"][-1].startswith(f"{PEER} trained the setting of {of.name} (transformers ")

    assert place.run("--peer", "--json") == 0, "what was trained is taken as it is"
    again = capsys.readouterr()
    assert json.loads(again.out) == result
    assert "trainer" not in again.err


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cells whose settings the peer was asked to train; it trains nothing."""
    names: list[str] = []

    def train(of: Cell, examples: Any, *_: Any) -> np.ndarray:
        names.append(of.name)
        return np.eye(5)[examples.dev.labels]

    monkeypatch.setattr(peer, "train_peer", train)
    return names


def test_the_peer_of_cells_of_a_cpu_asks_for_no_gpu(
    place: Place, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    need_peft()
    asked, find_conditions = [], conditions.find_conditions

    def found(device: str) -> conditions.Found:
        asked.append(device)
        return find_conditions("cpu")

    monkeypatch.setattr(conditions, "find_conditions", found)
    of = add_trainable(place, tiny_checkpoint)
    assert place.run("--peer") == 0
    assert (asked, trained) == (["cpu"], [of.name])


def test_where_the_best_setting_is_only_ours_the_peer_trains_the_best_that_it_can(
    place: Place, tiny_checkpoint: Path, printed: Any, trained: list[str]
) -> None:
    need_peft()
    add_trainable(place, tiny_checkpoint, seed=0)
    other = add_trainable(place, tiny_checkpoint, seed=1, right=2.0)
    add_trainable(place, tiny_checkpoint, seed=2)
    best = add_trainable(place, tiny_checkpoint, seed=3, right=9.0, head="conv")
    assert place.run("--peer", "--json") == 0
    result = printed()
    assert result["best_member"]["name"] == best.name
    assert trained == [other.name]
    (scored,) = result["baselines"]
    assert (scored["name"], scored["dev_score"]) == (other.name, 1.0)
    assert result["notes"][-1].endswith(
        f", the best that they can: for {best.name} the Trainer script has only head linear"
    )


@pytest.mark.parametrize(
    ("what", "new"),
    [
        ("other libraries", {"transformers": "0.1", "peft": "0.1"}),
        ("other labels", None),
        ("no predictions", None),
        ("damaged", None),
    ],
)
def test_what_the_peer_predicted_counts_only_where_all_is_the_same(
    place: Place,
    tiny_checkpoint: Path,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    new: dict[str, str] | None,
) -> None:
    need_peft()
    of = add_trainable(place, tiny_checkpoint)
    place.run("--peer")
    place.run("--peer")
    assert trained == [of.name]
    (path,) = place.csv.parent.rglob(peer.FILE)
    with safe_open(path, framework="numpy") as file:
        notes = file.metadata()
    kept = load_file(path)
    if new is not None:
        monkeypatch.setattr(peer, "versions", lambda: new)
    elif what == "other labels":
        save_file({**kept, "labels": kept["labels"][::-1].copy()}, path, metadata=notes)
    elif what == "no predictions":
        save_file({**kept, "logits": kept["logits"] * np.nan}, path, metadata=notes)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert place.run("--peer") == 0
    assert trained == [of.name, of.name]
    place.run("--peer")
    assert trained == [of.name, of.name], "what it wrote anew is good"


def test_predictions_that_cannot_be_kept_give_a_note_and_count(
    place: Place,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    trained: list[str],
) -> None:
    need_peft()
    of = add_trainable(place, tiny_checkpoint)
    (path,) = (row.parent / peer.FILE for row in place.csv.parent.rglob("predictions.safetensors"))
    path.mkdir()
    assert place.run("--peer", "--json") == 0
    shown = capsys.readouterr()
    assert f"note: {path}: can't be written (" in shown.err
    assert len(json.loads(shown.out)["baselines"]) == 1
    assert trained == [of.name]


@pytest.mark.usefixtures("locks")
def test_a_peer_that_fails_is_an_error_and_the_rest_is_shown(
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
    result = json.loads(shown.out)
    assert result["baselines"] == []
    assert result["ensemble"]["dev_score"] >= 0
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


def test_a_checkpoint_that_is_gone_or_another_is_a_line(
    place: Place, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    need_peft()
    checkpoint = tmp_path / "mine"
    shutil.copytree(tiny_checkpoint, checkpoint)
    of = add_trainable(place, checkpoint)
    assert place.run() == 0, "without the peer it is not needed"
    config = checkpoint / "config.json"
    config.write_text(config.read_text() + "\n")
    message = place.refused("--peer")
    assert f"is another checkpoint than the one that {of.name} was trained from" in message
    shutil.rmtree(checkpoint)
    message = place.refused("--peer")
    assert message.startswith(f"{checkpoint}: the checkpoint of {of.name} is gone; put it back, or")
    assert place.run() == 0


def test_the_examples_of_the_peer_are_those_of_the_cell(
    place: Place, tiny_checkpoint: Path
) -> None:
    need_peft()
    add_trainable(place, tiny_checkpoint, data_digest="beef")
    with pytest.raises(InputError, match="are not those that lora"):
        place.run("--peer")


def test_nothing_is_trained_before_the_examples_of_all_tasks_are_there(
    place: Place, tiny_checkpoint: Path, trained: list[str]
) -> None:
    need_peft()
    add_trainable(place, tiny_checkpoint)
    place.add(0, task="nyt")
    assert "are not those that lora" in place.refused("--task", "movies,nyt", "--peer")
    assert trained == []
