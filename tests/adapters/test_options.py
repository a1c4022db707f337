"""Options of adapters: rsLoRA, dropout, layers by the ends of names; and files in PEFT's format."""

import json
import warnings
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from torch import nn

from adapters import peft_format
from adapters.injection import inject
from adapters.names import in_order, is_layers, unmatched_ends
from adapters.peft_format import save_adapter
from bench.worker.probes.memory import SavedTensors
from minbert.errors import InputError
from minbert.kernels.reference import kernels
from minbert.model.classifier import BertClassifier, initialise
from tests.adapters import small
from tests.adapters.small import adapted_layers_of, adapted_model, base_model, batch, disturb
from tests.minbert.peers import sizes


@pytest.fixture
def strict():
    """Every warning is an error."""
    small.need_peft()
    import peft  # noqa: F401  imported before warnings count
    import transformers  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # transformers' own, of a name that PEFT still uses; it says nothing of the adapter
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )
        yield


@pytest.mark.parametrize(("mode", "layers", "options"), [
    ("lora", "attn-only", {"use_rslora": True, "lora_dropout": 0.25}),
    ("dora", "query+output.dense", {"use_rslora": True, "lora_dropout": 0.25}),
    ("dora", "all-lin-only", {"new_pooler": True}),
    ("lora", "all-lin", {"lora_fa": True}),
    ("dora", "attn", {}),
])  # fmt: skip
@pytest.mark.usefixtures("strict")
def test_peft_reads_the_options_of_an_adapter(tmp_path, mode, layers, options):
    """And the weights of the base that have trained."""
    ids, mask = batch()
    model = adapted_model(mode=mode, layers=layers, **options)
    disturb(model)
    expected = model(ids, mask)
    assert (expected - base_model()(ids, mask)).abs().max() > 0.01
    save_adapter(model, tmp_path, "some/model")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for name, usual in {"use_rslora": False, "lora_dropout": 0.0}.items():
        assert config[name] == options.get(name, usual)
    logits = small.from_peft(tmp_path)(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


class Masks:
    """The elements that are kept, the same in each call; of the first token alone, its own."""

    calls = 0

    def __call__(self, x, p=0.5, training=True):
        assert (p, training) == (0.5, True)
        self.calls += 1
        sentences, tokens, width = x.shape
        generator = torch.Generator().manual_seed(width)
        kept = torch.rand(sentences, 9, width, generator=generator) >= p
        return x * kept[:, :tokens] / (1 - p)


@pytest.mark.parametrize(("mode", "layers", "used"), [
    ("lora", "query+value+dense", "fast"), ("dora", "all-lin-only", "fast"),
    ("lora", "all-lin-only", "reference"), ("dora", "query+value+dense", "reference"),
])  # fmt: skip
def test_training_with_dropout_is_that_of_peft(tmp_path, monkeypatch, mode, layers, used):
    """With the same elements dropped, logits and all gradients are PEFT's."""
    model = adapted_model(mode=mode, layers=layers, lora_dropout=0.5)
    disturb(model)
    save_adapter(model, tmp_path)
    theirs = small.from_peft(tmp_path, training=True)
    for module in theirs.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"].forward = Masks()
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    masks = Masks()
    monkeypatch.setattr("adapters.low_rank.dropout", masks)
    ids, mask = batch()
    labels = torch.arange(len(ids)) % small.CLASSES
    expected = theirs(input_ids=ids, attention_mask=mask).logits
    with kernels(used):
        logits = model.train()(ids, mask)
        adapted = sum(p.rank > 0 for m in adapted_layers_of(model).values() for p in m.parts)
        assert masks.calls == adapted, "each part of a fused layer drops by itself"
        nn.functional.cross_entropy(logits, labels).backward()
    nn.functional.cross_entropy(expected, labels).backward()
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    gradients = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in theirs.named_parameters()
        if parameter.grad is not None and "lora_" in name
    }
    ours = {}
    for layer in adapted_layers_of(model).values():
        for name in layer.method.parameters:
            getattr(layer, name).data = getattr(layer, name).grad
        for index, part in enumerate(layer.parts):
            for name, gradient in (layer.part_tensors(index) if part.rank else {}).items():
                own = layer.method.parameters[name].removesuffix(".weight")
                ours[f"base_model.model.{part.name}.{own}.weight"] = gradient
    assert len(ours) >= 20
    torch.testing.assert_close(ours, gradients, atol=2e-5, rtol=1e-4)


def test_ends_that_no_layer_has_are_named_and_refused_and_others_come_after_sets():
    assert unmatched_ends("query+uery+dens") == ["uery", "dens"]
    with pytest.raises(InputError, match=r"no layer set is called 'query\+q_proj'"):
        adapted_model(layers="query+q_proj")
    assert not any(map(is_layers, ("query,value", "query+", "", "a b", "+" * 9, "q" * 101)))
    assert in_order(["value", "all-lin", "query", "attn-only"]) == [
        "attn-only", "all-lin", "query", "value",
    ]  # fmt: skip


def test_names_and_notes_of_what_is_saved(tmp_path):
    save_adapter(adapted_model(layers="query+output.dense"), tmp_path, "a/model", revision="1f2e")
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        keys = set(file.keys())
    own = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    ends = ("attention.self.query", "attention.output.dense", "output.dense")
    targets = {f"bert.encoder.layer.{n}.{name}" for n in range(small.LAYERS) for name in ends}
    tensors = {f"{name}.{each}" for name in targets for each in own}
    tensors |= {"classifier.weight", "classifier.bias"}
    assert keys == {f"base_model.model.{name}" for name in tensors}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(config.pop("target_modules")) == targets
    assert config == {
        "base_model_name_or_path": "a/model", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "lora_alpha": 16, "lora_dropout": 0.0,
        "modules_to_save": ["classifier"], "peft_type": "LORA", "r": 4, "revision": "1f2e",
        "task_type": "SEQ_CLS", "use_dora": True, "use_rslora": False,
    }  # fmt: skip


def test_a_save_that_is_refused_or_cut_off_leaves_nothing_that_loads(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no adapters to save"):
        save_adapter(base_model(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    save_adapter(adapted_model(layers="attn"), tmp_path)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(peft_format, "save_file", mock.Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"):
        save_adapter(adapted_model(layers="attn", seed=5), tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_adapter(adapted_model(), tmp_path / "file" / "adapter")


def gradients(model, tokens, used="fast"):
    ids, mask = batch()
    with kernels(used):
        model.train()(ids[:, :tokens], mask[:, :tokens]).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["lora", "dora"])
@pytest.mark.parametrize("layers", ["all-lin-only", "query+value"])
@pytest.mark.parametrize("way", ["merged", "as a branch", "reference", "on a GPU"])
def test_all_but_a_have_the_gradients_of_autograd(monkeypatch, mode, layers, way):
    options = {"mode": mode, "layers": layers}
    plain, frozen = adapted_model(**options), adapted_model(**options, lora_fa=True)
    disturb(plain)
    frozen.load_state_dict(plain.state_dict())
    tokens = 1 if way == "as a branch" else 9
    expected = gradients(plain, tokens, "reference")
    if way == "on a GPU":
        monkeypatch.setattr("adapters.low_rank.is_eager_on_gpu", lambda _: True)
    own = gradients(frozen, tokens, "reference" if way == "reference" else "fast")
    assert own.keys() == {name for name in expected if not name.endswith("lora_A")}
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_layer_keeps_no_input(monkeypatch, on_gpu):
    """LoRA keeps 8 H + I numbers for a token and layer, LoRA-FA 5 H + I: not the input of the
    layer, of the attention's projection and of the wide layer, and of x and y their sum alone; and
    on a CPU no softmax. On a GPU, where LoRA keeps an activation too, that is more."""
    if on_gpu:
        monkeypatch.setattr("adapters.low_rank.is_eager_on_gpu", lambda _: True)
    ids = torch.randint(10, 60, (8, 24), generator=torch.Generator().manual_seed(0))
    config, kept = sizes(256, small.LAYERS, 4, 384, 60, 24), []
    for lora_fa in (False, True):
        model = BertClassifier(config, 3, pooling="mean", dropout=0.0)
        initialise(model, 0)
        inject(model, **{**small.ADAPTED, "mode": "lora", "rank": 2}, seed=0, lora_fa=lora_fa)
        saved = SavedTensors(model.train())
        with saved.counting():
            model(ids, torch.ones_like(ids)).sum()
        kept.append(saved.mib)
    numbers = 3 * 256 + 4 * ids.shape[1]  # of a token, the latter of the softmax of 4 heads
    less = small.LAYERS * numbers * ids.numel() * 4 / 2**20
    saving = kept[0] - kept[1]
    assert saving > less if on_gpu else saving == pytest.approx(less, rel=0.03)
