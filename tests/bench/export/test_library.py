"""Exports of engine transformers: what plain libraries make of their folders."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export.check import texts_of
from bench.export.formats import default_format, refusal
from bench.export.formats.contents import why_not_scripted
from bench.worker.saving import save_weights
from bench.worker.weights import load_trained
from tests.bench.export.small import HUB, answer_here, expected_logits, exported, trained_by_library
from tests.experiments.export.encoders import largest_difference

LOHA = json.dumps({"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": ["query", "value"]})


@pytest.mark.parametrize(("kind", "mode", "name", "options"), [
    ("roberta", "lora", "transformers", {"kind": "regression", "layers": "attn"}),
    ("roberta", "lora", "onnx", {"pairs": True}),
    ("roberta", "peft", "peft", {"adapter_config": LOHA}),
    ("roberta", "bitfit", "transformers", {"kind": "multi_label"}),
    ("xlm-roberta", "vera", "peft", {"kind": "regression", "layers": "all-lin-only"}),
    ("modernbert", "dora", "peft", {"layers": "attn", "pairs": True}),
    ("distilbert", "ia3", "peft", {"kind": "multi_label"}),
    ("mpnet", "lora", "sentence-transformers", {"pooling": "mean", "kind": "regression"}),
    ("albert", "head", "sentence-transformers",
     {"pooling": "cls", "head": "nonlinear", "pairs": True}),
    ("deberta-v2", "lora", "peft", {"layers": "query_proj"}),
])  # fmt: skip
def test_logits_agree(encoders, kind, mode, name, options):
    base = encoders(kind, **{"num_hidden_layers": 1} if name == "onnx" else {})
    assert largest_difference(base, name, mode, **options) < 1e-5


def test_cells_with_attention_for_a_gpu_are_loaded_on_a_cpu(encoders, tmp_path, monkeypatch):
    own = trained_by_library(encoders("roberta"))
    monkeypatch.setattr("bench.engines.transformers.task_of", lambda _: own.task)
    save_weights(own.model, [p for p in own.model.parameters() if p.requires_grad], tmp_path)
    on_gpu = replace(own.job.cell, attn_implementation="flash_attention_2")
    model = load_trained(replace(own.job, cell=on_gpu, device="cuda"), tmp_path)
    assert np.array_equal(expected_logits(replace(own, model=model)), expected_logits(own))


@pytest.mark.parametrize(
    ("start", "mode", "option"), [("pissa", "lora", "use_rslora"), ("olora", "dora", "lora_fa")]
)
def test_adapters_on_a_changed_base_fit_the_base(encoders, tmp_path, start, mode, option):
    own = trained_by_library(encoders("roberta"), mode, init_lora_weights=start, **{option: "on"})
    folder = exported(own, "peft", tmp_path / "out")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["init_lora_weights"]) == (8, True)
    assert (config["task_type"], config["base_model_name_or_path"]) == ("SEQ_CLS", HUB)
    answer = answer_here(folder, texts_of(own.dev), base=own.base)
    assert np.abs(answer.logits - expected_logits(own)).max() < 1e-5


def test_files_have_the_checkpoints_special_tokens_and_no_paths_of_this_machine(encoders, tmp_path):
    from transformers import AutoTokenizer

    base = encoders("roberta")
    cases = {"peft": {}, "sentence-transformers": {"pooling": "cls"}, "transformers": {}}
    for name, options in cases.items():
        folder = exported(trained_by_library(base, **options), name, tmp_path / name)
        for path in folder.rglob("*.json"):
            assert str(base.parent) not in path.read_text(encoding="utf-8"), path
    written, original = map(AutoTokenizer.from_pretrained, (folder, base))
    assert written.special_tokens_map == original.special_tokens_map


def test_what_a_format_has_no_place_for_is_refused(encoders, tmp_path):
    own = trained_by_library(encoders("deberta"), layers="attn")
    with pytest.raises(InputError, match=r"no place for deberta\.encoder.* --format transformers"):
        exported(own, "peft", tmp_path / "peft")
    tokens = {"alora_invocation_tokens": [1]}
    alora = json.dumps({"peft_type": "LORA", "target_modules": ["query"], **tokens})
    own = trained_by_library(encoders("roberta"), "peft", None, adapter_config=alora)
    with pytest.raises(InputError, match=r"PEFT can't merge .* only --format peft has a place"):
        exported(own, "transformers", tmp_path / "transformers")
    assert refusal("sentence-transformers", own.job.cell) == (
        "sentence-transformers has no place for the architecture's own head; use --format peft"
    )
    assert default_format(own.job.cell, merge=True) == "transformers"
    bitfit = trained_by_library(encoders("roberta"), "bitfit", None)
    assert default_format(bitfit.job.cell, merge=False) == "transformers"
    assert why_not_scripted(own.job.cell) == (
        "train.py has no place for engine transformers, the mode peft"
    )
