"""Files in PEFT's format, read by PEFT, and saves that fail."""

import json
import warnings
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from adapters import peft_format
from adapters.injection import parameter_groups
from adapters.names import adapted_layers
from adapters.peft_format import save_adapter
from minbert.errors import InputError
from tests.adapters.small import (
    LAYERS,
    adapted_model,
    base_model,
    batch,
    disturb,
    from_peft,
    need_peft,
    train,
)

MODES = pytest.mark.parametrize("mode", ["lora", "dora"])


@pytest.fixture
def strict():
    """Every warning is an error."""
    need_peft()
    import peft  # noqa: F401  imported before warnings count
    import transformers  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # transformers' own, of a name that PEFT still uses; it says nothing of the adapter
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )
        yield


def check_peft(folder, expected):
    """Fail unless the adapter that PEFT loads gives the expected logits."""
    ids, mask = batch()
    logits = from_peft(folder)(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "layers", "new_pooler"),
    [("lora", "all-lin-only", False), ("dora", "all-lin-only", True), ("dora", "attn-only", False)],
)
@pytest.mark.usefixtures("strict")
def test_trap_17_peft_reads_ours(tmp_path, mode, layers, new_pooler):
    ids, mask = batch()
    model = adapted_model(mode=mode, layers=layers, new_pooler=new_pooler)
    disturb(model)
    expected = model(ids, mask)
    assert (expected - base_model()(ids, mask)).abs().max() > 0.01
    save_adapter(model, tmp_path, "some/model")
    check_peft(tmp_path, expected)


@pytest.mark.parametrize(("mode", "layers"), [("lora", "all-lin"), ("dora", "attn")])
@pytest.mark.usefixtures("strict")
def test_peft_reads_a_base_that_has_trained_too(tmp_path, mode, layers):
    model = adapted_model(mode=mode, layers=layers)
    train(model, parameter_groups(model), steps=3)
    save_adapter(model, tmp_path)
    check_peft(tmp_path, model(*batch()))


@MODES
def test_keys_shapes_and_metadata(tmp_path, mode):
    model = adapted_model(mode=mode, layers="all-lin-only", rank=4)
    save_adapter(model, tmp_path, "some/model", revision="1f2e")
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    shapes = {key: tuple(value.shape) for key, value in saved.items()}
    widths = dict.fromkeys(adapted_layers("all-lin"), (32, 32))
    widths |= {"intermediate.dense": (32, 48), "output.dense": (48, 32)}
    stem = "base_model.model.classifier"
    expected = {f"{stem}.weight": (3, 32), f"{stem}.bias": (3,)}
    for n in range(LAYERS):
        for name, (width_in, width_out) in widths.items():
            stem = f"base_model.model.bert.encoder.layer.{n}.{name}"
            expected[f"{stem}.lora_A.weight"] = (4, width_in)
            expected[f"{stem}.lora_B.weight"] = (width_out, 4)
            if mode == "dora":
                expected[f"{stem}.lora_magnitude_vector"] = (width_out,)
    assert shapes == expected
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    targets = config.pop("target_modules")
    assert set(targets) == {
        f"bert.encoder.layer.{n}.{name}" for n in range(LAYERS) for name in widths
    }
    assert config == {
        "base_model_name_or_path": "some/model", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "lora_alpha": 16, "lora_dropout": 0.0,
        "modules_to_save": ["classifier"], "peft_type": "LORA", "r": 4, "revision": "1f2e",
        "task_type": "SEQ_CLS", "use_dora": mode == "dora", "use_rslora": False,
    }  # fmt: skip


def test_saving_without_adapters_is_refused(tmp_path):
    with pytest.raises(InputError, match="no adapters to save"):
        save_adapter(base_model(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_save_that_is_cut_off_leaves_nothing_that_loads(tmp_path, monkeypatch):
    save_adapter(adapted_model(layers="attn"), tmp_path)

    full = OSError(28, "No space left on device")
    monkeypatch.setattr(peft_format, "save_file", mock.Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"):
        save_adapter(adapted_model(layers="attn", seed=5), tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_adapter(adapted_model(), tmp_path / "file" / "adapter")
