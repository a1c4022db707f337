"""The check of exported folders: it passes what is right, and fails what is not, by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.common.errors import InputError
from bench.export import check as checks
from bench.export.check import check
from bench.export.formats import SNIPPET
from bench.export.trained import Trained
from tests.bench.export.small import (
    answer_here,
    base_folder,
    expected_logits,
    exported,
    trained,
)

Break = Callable[[Path], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the base."""
    return base_folder(tmp_path_factory.mktemp("export") / "base")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("peft", {"kind": "regression", "on_hub": False}),
        ("sentence-transformers", {"pooling": "mean", "head": "nonlinear", "pairs": True}),
        ("onnx", {"head": "conv", "layers": "attn"}),
    ],
)
def test_a_fresh_process_gives_the_same_answers(
    tmp_path: Path, base: Path, name: str, settings: dict[str, Any]
) -> None:
    cell = trained(base, **settings)
    folder = exported(cell, name, tmp_path / "out")
    answer = check(cell, folder, expected_logits(cell))
    assert len(answer.labels) == len(cell.dev)
    assert ("torch" in answer.libraries) is (name != "onnx")
    assert not answer.one_ms


def _json(name: str, **changes: Any) -> Break:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _tensors(name: str, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    def change(folder: Path) -> None:
        tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
        edit(tensors)
        save_file(tensors, folder / name, {"format": "pt"})

    return change


def _snippet(before: str, after: str) -> Break:
    def change(folder: Path) -> None:
        text = (folder / SNIPPET).read_text()
        assert before in text
        (folder / SNIPPET).write_text(text.replace(before, after))

    return change


def _rotate(tensors: dict[str, torch.Tensor]) -> None:
    for key in [key for key in tensors if "classifier" in key]:
        tensors[key] = tensors[key].roll(1, dims=0)


def _without_last_module(folder: Path) -> None:
    path = folder / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))


MEAN_HERE = {"pooling": "mean", "on_hub": False}
ORDER = {"0": "maybe", "1": "right", "2": "wrong"}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("name", "settings", "change", "message"),
    [
        ("sentence-transformers", MEAN_HERE, _json("1_Pooling/config.json", **CLS),
         "pooling"),
        ("sentence-transformers", {"mode": "full"}, _json("1_Pooling/config.json", **MEAN),
         "pooling"),
        ("transformers", {}, _json("config.json", id2label=ORDER), "names of the classes"),
        ("transformers", {}, _tensors("model.safetensors", _rotate), "are in another order"),
        ("peft", {}, _json("adapter_config.json", lora_alpha=32), "scale of adapters"),
        ("transformers", {"kind": "regression"},
         _tensors("model.safetensors", lambda t: t["classifier.weight"].div_(1.5)),
         "scale or the origin of the logits"),
        ("sentence-transformers", {"kind": "regression", **MEAN_HERE},
         _tensors("2_Dense/model.safetensors", lambda t: t["linear.bias"].sub_(3.0)),
         "scale or the origin of the logits"),
        ("onnx", {"head": "conv"},
         _snippet("[text.attention_mask for", "[[1] * len(text.ids) for"), "padding changes"),
        ("transformers", {}, _snippet("model(**inputs)", "model(inputs['input_ids'])"), "padding"),
        ("transformers", {}, _json("tokenizer_config.json", model_max_length=8),
         "texts of more than 8 tokens are cut elsewhere"),
        ("transformers", {}, _tensors("model.safetensors", lambda t: t.pop("classifier.weight")),
         "such as the head, is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
    change: Break,
    message: str,
) -> None:
    monkeypatch.setattr(checks, "run_fresh", answer_here)
    cell = trained(base, **settings)
    folder = exported(cell, name, tmp_path / "out")
    check(cell, folder, expected_logits(cell))
    change(folder)
    refused(cell, folder, message)


def refused(cell: Trained, folder: Path, message: str) -> None:
    """Assert that the check fails with a message of one line."""
    with pytest.raises(
        InputError, match=f"failed its check and was not kept: .*{message}"
    ) as raised:
        check(cell, folder, expected_logits(cell))
    assert "\n" not in str(raised.value)


def test_what_does_not_load_is_named(tmp_path: Path, base: Path) -> None:
    cell = trained(base)
    folder = exported(cell, "peft", tmp_path / "out")
    _json("base.json", sha256="0" * 64)(folder)
    refused(cell, folder, "model.safetensors has changed; the adapter was trained on the file with")
    shutil.rmtree(folder)
    exported(cell, "peft", folder)
    _tensors("adapter_model.safetensors", _drop_head)(folder)
    refused(cell, folder, r"fails in a fresh process: .*classifier\.weight")

    cell = trained(base, **MEAN_HERE)
    folder = exported(cell, "sentence-transformers", tmp_path / "modules")
    _without_last_module(folder)
    refused(cell, folder, "gives 32 numbers for a text, and the model 3: the head is missing")


def _drop_head(tensors: dict[str, torch.Tensor]) -> None:
    for key in [key for key in tensors if "classifier" in key]:
        del tensors[key]
