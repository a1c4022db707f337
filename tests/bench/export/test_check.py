"""The check of exported folders: it passes what is right, and fails what is not, by name."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.common.errors import InputError
from bench.export import check as checks
from bench.export.check import _tolerance, _wrong, check
from bench.export.formats import SNIPPET
from tests.bench.export.small import CLASSES, answer_here, expected_logits, exported, trained


@pytest.fixture
def here(monkeypatch):
    """Models answer in this process."""
    monkeypatch.setattr(checks, "run_fresh", answer_here)


def test_a_fresh_process_gives_the_same_answers(exports):
    """Those of other formats are in test_figures.py."""
    cell, folder = exports("onnx")
    answer = check(cell, folder, expected_logits(cell))
    assert len(answer.labels) == len(cell.dev)
    assert "onnxruntime" in answer.libraries
    assert not answer.one_ms


def _json(name, **changes):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _tensors(name, edit):
    def change(folder):
        tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
        edit(tensors)
        save_file(tensors, folder / name, {"format": "pt"})

    return change


def _snippet(before, after):
    def change(folder):
        text = (folder / SNIPPET).read_text()
        assert before in text
        (folder / SNIPPET).write_text(text.replace(before, after))

    return change


def _rotate(tensors):
    for key in [key for key in tensors if "classifier" in key]:
        tensors[key] = tensors[key].roll(1, dims=0)


def _without_last_module(folder):
    path = folder / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))


MEAN_HERE = {"pooling": "mean", "on_hub": False}
ORDER = {"0": "maybe", "1": "right", "2": "wrong"}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


@pytest.mark.parametrize(
    ("name", "settings", "change", "message"),
    [
        ("sentence-transformers", MEAN_HERE, _json("1_Pooling/config.json", **CLS), "pooling"),
        ("peft", {}, _json("adapter_config.json", lora_alpha=32), "adapter scale"),
        ("transformers", {}, _json("config.json", id2label=ORDER), "class names differ"),
        ("transformers", {}, _tensors("model.safetensors", _rotate), "are in another order"),
        ("sentence-transformers", {"kind": "regression", **MEAN_HERE},
         _tensors("2_Dense/model.safetensors", lambda t: t["linear.bias"].sub_(3.0)),
         "logits are scaled or shifted"),
        ("transformers", {}, _snippet("model(**inputs)", "model(inputs['input_ids'])"), "padding"),
        ("transformers", {}, _json("tokenizer_config.json", model_max_length=8),
         "texts over 8 tokens are truncated differently"),
        ("transformers", {}, _tensors("model.safetensors", lambda t: t.pop("classifier.weight")),
         "such as the head, is missing"),
        ("peft", {}, _json("base.json", sha256="0" * 64),
         "model.safetensors has changed; the adapter was trained on the file with"),
        ("sentence-transformers", MEAN_HERE, _without_last_module,
         "returns 32 logits for a text, the cell's model 3: the head is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, exports, here, name, settings, change, message):
    cell, folder = exports(name, **settings)
    change(shutil.copytree(folder, tmp_path / "out"))
    refused(cell, tmp_path / "out", message)


def refused(cell, folder, message):
    """Assert that the check fails with a message of one line."""
    with pytest.raises(
        InputError, match=f"failed its check and was not kept: .*{message}"
    ) as raised:
        check(cell, folder, expected_logits(cell))
    assert "\n" not in str(raised.value)


def test_one_wrong_logit_is_enough(base):
    cell = trained(base)
    expected = expected_logits(cell)
    for error in (1.5e-4, np.nan):
        off = expected.copy()
        off[3, 1] += error
        assert _wrong(off, expected, _tolerance(cell)) == [3]
    assert not _wrong(expected + 0.5e-4, expected, _tolerance(cell))
    numbers = replace(cell, unit=(0.0, 20.0))
    assert _tolerance(numbers) == pytest.approx(20e-4)
    assert _tolerance(replace(cell, unit=(0.0, 0.1))) == pytest.approx(1e-4)


def test_names_that_dev_never_gets_and_texts_that_it_lacks_are_checked(base, tmp_path, here):
    """With one short dev example, of a model that gives all texts the same class."""
    cell = trained(base)
    with torch.no_grad():
        cell.model.classifier.bias[0] += 50
    cell = replace(cell, dev=cell.dev.taken([1]))
    folder = exported(cell, "transformers", tmp_path / "out")
    kept = int(expected_logits(cell).argmax())
    names = [name for name in CLASSES if name != CLASSES[kept]][::-1]
    names.insert(kept, CLASSES[kept])
    _json("config.json", id2label={str(n): name for n, name in enumerate(names)})(folder)
    refused(cell, folder, "class names differ")
    folder = exported(cell, "transformers", tmp_path / "cut")
    _json("tokenizer_config.json", model_max_length=8)(folder)
    refused(cell, folder, "truncated differently")
