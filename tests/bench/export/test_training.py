"""The training script of an exported folder: the same losses, and a result that plain libraries
load; what it has no place for."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.export.cells import _kept_logits
from bench.export.training import _SAME, SETTINGS, why_not_scripted
from bench.plan.cell import ABOUT
from bench.plan.problems import MULTI_LABEL, REGRESSION
from minbert.files import WEIGHTS
from tests.adapters.small import need_peft
from tests.bench.tiny_cells import cell
from tests.experiments.export.losses import (
    TOLERANCE,
    Setting,
    checkpoints,
    difference,
    prepare,
    train,
)

FULL = Setting(changes={"class_weights": "balanced", "label_smoothing": 0.1})
LORA = Setting("lora", "attn", changes={"lora_plus_ratio": 8.0, "layer_decay": 0.5})
PAIRS = Setting(
    "lora", "all-lin-only", REGRESSION, True,
    {"pooling": "mean", "head": "nonlinear", "optimizer": "radam"},
)  # fmt: skip
ONE_BY_ONE = {"batch_size": 1, "max_steps": 20}
SAMPLE = [
    FULL,
    LORA,
    PAIRS,
    Setting("head", changes={"pooling": "mean", "optimizer": "adamax", **ONE_BY_ONE}),
    Setting("dora", "all-lin", MULTI_LABEL, changes={"schedule": "halving"}),
    Setting("full", "", REGRESSION, changes={"batching": "shuffled"}),
]
LACKING = Setting("dora", "all-lin-only", pairs=True)
"""Trained from a checkpoint without a pooler."""
WRONG: list[tuple[Setting, Mapping[str, Any]]] = [
    (FULL, {"label_smoothing": 0.0}),
    (LORA, {"layer_decay": 1.0}),
    (PAIRS, {"mode": "dora", "rates": {"adapter": 3e-3, "base": None, "head": 3e-3}}),
]
"""Other settings have other losses, by more than the tolerance."""


def change(folder, changes):
    """Change settings in a folder's training.json."""
    known = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({**known, **changes}))


def replace_example(folder, line):
    """Give a folder another third training example."""
    path = folder / "train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]))


def change_to_several(folder, line):
    """Make a folder's task one of several labels, with this training example."""
    labels = json.loads((folder / SETTINGS).read_text())["labels"]
    change(folder, {"labels": {**labels, "problem_type": "multi_label_classification"}})
    (folder / "train.jsonl").write_text(line)


def replace_base(folder):
    """Give a folder an empty one as its base."""
    (folder / "base").unlink()
    (folder / "base").mkdir()


OTHER_BASE = {
    "base": {"name": "a", "on_hub": False, "revision": None, "file": WEIGHTS[0], "sha256": "0"}
}
STOPPED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no base": (lambda folder: (folder / "base").unlink(), "give --base FOLDER"),
    "another base": (lambda folder: change(folder, OTHER_BASE), "has changed since the training"),
    "an unknown class": (
        lambda folder: replace_example(folder, '{"a": "good", "label": "great"}'),
        "line 3: is no example (KeyError('great'))",
    ),
    "a folder with files": (
        lambda folder: shutil.copytree(folder / "base", folder / "trained"),
        "is not empty; name a new folder",
    ),
    "a label that is no list": (
        lambda folder: change_to_several(folder, '{"a": "good", "label": "0"}'),
        "line 1: is no example (TypeError('no list of labels'))",
    ),
    "no examples": (
        lambda folder: (folder / "train.jsonl").unlink(), "train.jsonl: can't be read (",
    ),
    "no weights of the base": (replace_base, "base can't be loaded ("),
    "a second text": (
        lambda folder: replace_example(folder, '{"a": "good", "b": "film", "label": 1}'),
        "has a second text in only some examples",
    ),
}  # fmt: skip
"""Bad input of the script: what is done to a folder, and a part of the line that it ends with."""


class Trainings:
    """Losses of the worker's cells and of train.py, and their folders, by name of the setting.

    The script trains all of them, the wrong ones too, in one process.
    """

    def __init__(self, home, vocabulary):
        whole, lacking = checkpoints(home, vocabulary)
        self.folders: dict[str, Path] = {}
        self.cells: dict[str, list[float]] = {}
        for setting in [*SAMPLE, LACKING]:
            folder = self.folders[setting.name] = home / str(len(self.folders))
            folder.mkdir()
            checkpoint = lacking if setting is LACKING else whole
            self.cells[setting.name] = prepare(setting, checkpoint, folder)
        self.named = self._changed(LORA, {})
        classes = json.loads((self.named / SETTINGS).read_text())["labels"]["id2label"]
        examples = self.named / "train.jsonl"
        rows = [json.loads(line) for line in examples.read_text().splitlines()]
        lines = [json.dumps({**row, "label": classes[str(row["label"])]}) + "\n" for row in rows]
        examples.write_text("".join(lines))
        wrong = [self._changed(*each) for each in WRONG]
        self.stopped = {problem: self._changed(LORA, {}) for problem in STOPPED}
        for problem, folder in self.stopped.items():
            STOPPED[problem][0](folder)
        every = [*self.folders.values(), self.named, *wrong, *self.stopped.values()]
        self.losses = dict(zip(every, train(every), strict=True))
        self.wrong = [self.losses[folder] for folder in wrong]

    def _changed(self, setting, changes):
        """A copy of a setting's folder with other settings in training.json."""
        folder = self.folders[setting.name]
        copy = folder.with_name(f"{folder.name}-{len(list(folder.parent.iterdir()))}")
        shutil.copytree(folder, copy, symlinks=True)
        (copy / "dev.jsonl").unlink()
        change(copy, changes)
        return copy


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, minilm):
    need_peft()
    home = tmp_path_factory.mktemp("trainings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINBERT_ASSETS", str(minilm.parent))
        patch.setenv("MINBERT_CACHE", str(home / "cache"))
        yield Trainings(home, minilm)


@pytest.mark.parametrize("name", [setting.name for setting in [*SAMPLE, LACKING]])
def test_the_script_has_the_losses_and_predictions_of_the_cell(trainings, name):
    folder = trainings.folders[name]
    assert difference(trainings.cells[name], trainings.losses[folder]) < TOLERANCE
    settings = json.loads((folder / SETTINGS).read_text())
    ours = load_file(folder / "cell" / "predictions.safetensors")["logits"]
    expected = ours * settings["std"] + settings["mean"]
    np.testing.assert_allclose(np.load(folder / "logits.npy"), expected, rtol=1e-4, atol=1e-4)
    kept, unit = _kept_logits(folder / "cell")  # as an export compares with
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-6)
    assert unit == pytest.approx((settings["mean"], settings["std"]))


def test_another_setting_has_other_losses_and_names_of_classes_have_not(trainings):
    for (setting, changes), losses in zip(WRONG, trainings.wrong, strict=True):
        wrong = difference(trainings.cells[setting.name], losses)
        assert wrong > 10 * TOLERANCE, changes
    assert trainings.losses[trainings.named] == trainings.losses[trainings.folders[LORA.name]]


@pytest.mark.parametrize("problem", STOPPED)
def test_bad_input_of_the_script_is_one_line(trainings, problem):
    folder = trainings.stopped[problem]
    line = (folder / "stopped.txt").read_text()
    assert STOPPED[problem][1] in line
    assert "\n" not in line
    assert not (folder / "losses.jsonl").exists()
    assert problem == "a folder with files" or not (folder / "trained").exists()


def test_the_script_reads_or_refuses_every_setting_that_changes_a_score():
    """So that a new setting is noticed."""
    settings = {about.exported: set() for about in ABOUT.values()}
    for name, about in ABOUT.items():
        if "score" in about.changes:
            settings[about.exported].add(name)
    assert settings["same"] == {*_SAME}
    assert settings[""] == {
        *("unfreeze", "early_stopping", "held_out", "regression_loss", "folds"),
        *("gradient_accumulation_steps", "plugin"),
    }
    assert "tf32" in _SAME


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"unfreeze": "iterative"}, "gradual unfreezing"),
        ({"held_out": 0.2}, "held-out training examples"),
        ({"held_out": 0.2, "early_stopping": 2}, "early stopping, held-out training examples"),
        ({"head": "conv"}, "the conv head"),
        ({"regression_loss": "pearson"}, "the loss pearson"),
        ({"mode": "ia3"}, "the mode ia3"),
        ({"max_train": 20}, "a part of the training examples"),
        ({"folds": 5}, "folds"),
    ],
)
def test_what_the_script_has_no_place_for_is_named(tiny_checkpoint, changes, obstacle):
    lora = replace(cell(tiny_checkpoint), max_train=None)
    assert why_not_scripted(lora) is None
    refused = why_not_scripted(replace(lora, **changes))
    assert refused == f"train.py has no place for {obstacle}"
