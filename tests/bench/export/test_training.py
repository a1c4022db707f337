"""The training script of an exported folder: the same losses, and a result that loads."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.export.cells import _kept_logits
from bench.export.formats.contents import SETTINGS, why_not_scripted
from bench.plan.metrics import MULTI_LABEL, REGRESSION, WORDS
from minbert.files import WEIGHTS
from tests.adapters.small import need_peft
from tests.bench.export.small import with_json
from tests.bench.tiny_cells import cell
from tests.experiments.export import losses as scripts
from tests.experiments.export.losses import Setting

SHUFFLED = Setting(
    changes={"class_weights": "balanced", "label_smoothing": 0.1, "batching": "shuffled",
             "contrastive": 0.5}
)  # fmt: skip
LACKING = Setting("dora", "all-lin", MULTI_LABEL, True, {"schedule": "halving"})  # no pooler
CONLL = Setting("full", "", WORDS, changes=scripts.WINDOWS)  # on CoNLL columns, in windows
SAMPLE = (
    Setting("lora", "attn", changes={"lora_plus_ratio": 8.0, "layer_decay": 0.5,
                                     "pooling": "mean", "contrastive": 0.9}),
    SHUFFLED,
    LACKING,
    Setting("lora", "all-lin-only", REGRESSION, True,
            {"pooling": "mean", "head": "nonlinear", "optimizer": "radam"}),
    Setting("head", changes={"pooling": "mean", "optimizer": "adamax", "batch_size": 1,
                             "max_steps": 20}),
    Setting("lora", "all-lin", WORDS, changes={"class_weights": "balanced", "lora_fa": "on"}),
    CONLL,
)  # fmt: skip


def example(line):
    def add(folder):
        path = folder / "train.jsonl"
        path.write_text(f"{line}\n{path.read_text()}")

    return add


def name_classes(folder):
    names = json.loads((folder / SETTINGS).read_text())["labels"]["id2label"]
    path = folder / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[::2]:
        row["label"] = names[str(row["label"])]
    path.write_text("\n".join(map(json.dumps, rows)))


def write_conll(folder):
    """Training examples as columns, with a document's mark, comments and other columns."""
    rows = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    sentences = [
        "".join(f"{w}\tX\t{t}\n" for w, t in zip(row["tokens"], row["tags"], strict=True))
        for row in rows
    ]
    text = "\n".join(f"# sentence {n}\n{text}" for n, text in enumerate(sentences))
    (folder / "train.conll").write_text(f"-DOCSTART- -X- O\n\n{text}")


def unknown_tag(folder):
    (folder / "train.conll").write_text("a\tO\n\nfilm\tB-film\n\nfilm\tE-film\n")


OTHER_BASE = {"name": "a", "on_hub": False, "revision": None, "file": WEIGHTS[0], "sha256": "0"}
SEVERAL = {"problem_type": "multi_label_classification", "label2id": {}}
STOPPED = {  # a part of the line with which it ends, and what is done to a folder
    "give --base FOLDER": lambda folder: (folder / "base").unlink(),
    "has changed since the training": with_json(SETTINGS, base=OTHER_BASE),
    "base can't be loaded (": lambda of: [(of / "base").unlink(), (of / "base").mkdir()],
    "is not empty; name a new folder": lambda folder: (folder / "trained/a").mkdir(parents=True),
    "train.jsonl: can't be read (": lambda folder: (folder / "train.jsonl").unlink(),
    "line 1: is no example (KeyError('great'))": example('{"a": "good", "label": "great"}'),
    "line 1: is no example (TypeError('no list of labels'))": with_json(SETTINGS, labels=SEVERAL),
    "sentence 3: is no example (KeyError('E-film'))": unknown_tag,
    "a second text in only some": example('{"a": "good", "b": "film", "label": 1}'),
}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, minilm):
    """The folder and the losses of each training: of cells and, all in one process, of scripts."""
    need_peft()
    home = tmp_path_factory.mktemp("trainings")
    cells = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINBERT_ASSETS", str(minilm.parent))
        patch.setenv("MINBERT_CACHE", str(home / "cache"))
        whole, lacking = scripts.checkpoints(home, minilm)
        for setting in SAMPLE:
            folder = home / str(len(cells))
            folder.mkdir()
            checkpoint = lacking if setting is LACKING else whole
            cells[setting.name] = folder, scripts.prepare(setting, checkpoint, folder)
        name_classes(cells[SHUFFLED.name][0])
        write_conll(cells[CONLL.name][0])
        for number, (line, spoil) in enumerate(STOPPED.items(), start=len(cells)):
            first = cells[CONLL.name][0] if spoil is unknown_tag else home / "0"
            cells[line] = shutil.copytree(first, home / str(number), symlinks=True), []
            spoil(cells[line][0])
        theirs = scripts.train([folder for folder, _ in cells.values()])
    return {key: (*cells[key], losses) for key, losses in zip(cells, theirs, strict=True)}


@pytest.mark.parametrize("name", [setting.name for setting in SAMPLE])
def test_the_script_has_the_losses_and_predictions_of_the_cell(trainings, name):
    folder, ours, theirs = trainings[name]
    assert scripts.difference(ours, theirs) < scripts.TOLERANCE
    values = json.loads((folder / SETTINGS).read_text())
    logits = load_file(folder / "cell" / "predictions.safetensors")["logits"]
    expected = logits * values["std"] + values["mean"]
    np.testing.assert_allclose(np.load(folder / "logits.npy"), expected, rtol=1e-4, atol=1e-4)
    kept, unit = _kept_logits(folder / "cell")  # as an export compares with
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-6)
    assert unit == pytest.approx((values["mean"], values["std"]))


@pytest.mark.parametrize("line", STOPPED)
def test_bad_input_of_the_script_is_one_line(trainings, line):
    folder, _, losses = trainings[line]
    stopped = (folder / "stopped.txt").read_text()
    assert line in stopped
    assert "\n" not in stopped
    assert losses == []
    assert not (folder / "trained" / "config.json").exists()


@pytest.mark.parametrize(("changes", "obstacle"), [
    ({"held_out": 0.2, "early_stopping": 2}, "early stopping, held-out training examples"),
    ({"head": "conv", "folds": 5}, "folds, the conv head"),
    ({"regression_loss": "pearson"}, "the loss pearson"),
    ({"mode": "ia3"}, "the mode ia3"),
    ({"max_train": 20}, "a part of the training examples"),
])  # fmt: skip
def test_what_the_script_has_no_place_for_is_named(tiny_checkpoint, changes, obstacle):
    lora = replace(cell(tiny_checkpoint), max_train=None)
    assert why_not_scripted(lora) is None
    assert why_not_scripted(replace(lora, **changes)) == f"train.py has no place for {obstacle}"
