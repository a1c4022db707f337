"""What engine transformers can't build is one line before anything runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from safetensors.torch import load_file, save_file

from bench.common.errors import InputError
from bench.engines import check
from bench.engines.check import answers_to, check_models
from bench.launch.checks import check_engine
from bench.plan.gridfile import Settings
from bench.plan.job import Job
from bench.plan.models import find_model
from tests.encoders import job

RELATIVE = {"position_embedding_type": "relative_key_query"}
NEW = {"model_type": "newbert"}


@pytest.fixture
def copied(encoders, tmp_path):
    def copy(kind, **changes):
        folder = tmp_path / f"{kind}-tiny"
        shutil.copytree(encoders(kind), folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    return copy


def refusal(*args, **changes):
    with pytest.raises(InputError, match=r"^[^\n]+$") as raised:
        list(answers_to({"jobs": [job(*args, **changes).to_json()]}))
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "mode", "config", "settings", "line"),
    [
        ("modernbert", "bitfit", {}, {}, "mode bitfit: the encoder of modernbert has no biases"),
        ("roberta", "lora", {}, {"layers": "attn", "rank": 99}, "rank 99 is above the width of"),
        ("deberta", "full", {}, {"amp": "bf16"}, "amp bf16: deberta can't compute in it by"),
        ("gpt2", "full", {}, {}, "is a decoder, and engine transformers trains encoders alone"),
        ("roberta", "full", NEW, {}, "model_type newbert; a newer version may have it ("),
        ("roberta", "full", {"vocab_size": 10}, {}, "they are of different models"),
        ("bert", "full", RELATIVE, {}, "relative_key_query is computed by neither engine"),
    ],
)
def test_what_an_architecture_or_configuration_does_not_have_is_named(
    kind, mode, config, settings, line, copied
):
    assert line in refusal(copied(kind, **config), mode, **settings)


def test_an_encoder_with_a_decoder_or_without_a_fast_tokenizer(copied):
    from transformers import T5Config

    folder = copied("roberta")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(folder, "full")
    T5Config().save_pretrained(folder)
    assert "t5 is an encoder with a decoder" in refusal(folder, "full")


def test_weights_that_are_missing_or_not_finite(copied):
    name, folder = "encoder.layer.1.attention.self.key.weight", copied("roberta")
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {name: weights[name] * float("nan")}, path, {"format": "pt"})
    assert f"roberta.{name} holds NaN or infinite numbers" in refusal(folder, "full")
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    assert "1 weights of roberta are missing or have another shape" in refusal(folder, "full")
    assert "missing or have another shape" in refusal(folder, "full", pooling="mean")


@pytest.mark.parametrize(
    ("changes", "settings", "line"),
    [
        ({"engine": "minbert", "mode": "ia3"}, {}, "mode ia3 is one of PEFT's"),
        ({"engine": "minbert", "init_lora_weights": "pissa"}, {}, "init_lora_weights pissa is one"),
        ({"task": "multitask"}, {}, "task multitask has parts; take engine minbert"),
        ({"frozen_dtype": "bf16", "amp": "bf16"}, {}, "it holds frozen weights in fp32; leave"),
        ({"head": "nonlinear"}, {}, "with head nonlinear take pooling cls or mean"),
        ({"attn_implementation": "flash_attention_2"}, {}, "computes in half precision alone"),
        ({}, {"engine": "minbert", "attn_implementation": "eager"}, "has its own attention; take"),
        ({}, {"engine": "transformers", "kernels": "reference"}, "kernels reference: it is of"),
        ({}, {"kernels": "reference"}, "kernels reference: it is of engine minbert"),
    ],
)
def test_settings_that_an_engine_does_not_have_are_named(changes, settings, line):
    cell = replace(job(Path("roberta-tiny"), "lora", "attn").cell, **changes)
    with pytest.raises(InputError, match=line):
        check_engine([cell], [Settings(**settings)], None, None, {})


def test_a_model_runs_once_in_each_attention_pooling_and_head(encoders, monkeypatch):
    jobs = [
        job(encoders("bert"), "full", pooling=pooling, amp=amp)
        for pooling, amp in (("mean", "off"), ("mean", "bf16"), ("cls", "off"))
    ]
    ran = mock.Mock()
    monkeypatch.setattr("bench.engines.transformers.check_weights", ran)
    [layers] = answers_to({"jobs": [one.to_json() for one in jobs]})
    assert layers.startswith("query, key, value: attention.self.query, ")
    assert ran.mock_calls == [mock.call(jobs[0], ["bf16", "off"]), mock.call(jobs[2], ["off"])]


def test_each_setting_is_checked_once_at_its_highest_rank(encoders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    asked, folder = [], encoders("roberta")

    def ask(request, *_):
        asked.append([Job.from_json(text).cell for text in request["jobs"]])
        return ["query; dense"]

    monkeypatch.setattr(check, "_ask", ask)
    model = find_model(str(folder), "pretrained", "auto")
    cells = [
        job(folder, "lora", "attn", rank=rank, seed=seed).cell for rank in (2, 8) for seed in (0, 1)
    ]
    full = job(folder, "full").cell
    for _ in range(2):
        check_models([*cells, full], model, None, {})
    [[one, other]] = asked
    assert {(one.mode, one.rank), (other.mode, other.rank)} == {("lora", 8), ("full", None)}
    checking = f"checking 2 settings of {model.name} in engine transformers\n"
    layers = f"layers of {model.name}: query; dense\n"
    assert capsys.readouterr().err == checking + 2 * layers
    check_models(cells, model, None, {})
    assert len(asked) == 2, "another list of settings"


def test_a_process_refuses_in_a_line(encoders, tmp_path, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path))
    model = find_model(str(encoders("modernbert")), "pretrained", "auto")
    with pytest.raises(InputError, match=r"^mode bitfit: the encoder of modernbert [^\n]+$"):
        check_models([job(encoders("modernbert"), "bitfit").cell], model, None, {})
