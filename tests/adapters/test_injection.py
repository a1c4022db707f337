"""Injection: which layers get adapters, which parameters train, and what is refused."""

import re

import pytest
import torch
from torch import nn

from adapters.injection import build_layers, decays, inject, parameter_groups, training_of
from adapters.layer import Part
from adapters.names import LAYER_SETS
from minbert.errors import InputError
from minbert.model.classifier import BertClassifier, HeadConfig, initialise
from tests.adapters.small import ADAPTED, LAYERS, adapted_layers_of, adapted_model, base_model


def names(model):
    return {group: set(named) for group, named in parameter_groups(model).items()}


def training(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("mode", ["lora", "dora"])
@pytest.mark.parametrize("layers", LAYER_SETS)
@pytest.mark.parametrize(("pooling", "new_pooler"), [("pooler", 0), ("pooler", 1), ("mean", 0)])
def test_layer_sets(mode, layers, new_pooler, pooling):
    model = adapted_model(pooling, mode=mode, layers=layers, new_pooler=new_pooler)
    whole = layers.startswith("all-lin")
    expected = {"adapter": set(), "base": set(), "head": set()}
    for name, _ in model.named_parameters():
        owner, _, own = name.rpartition(".")
        if owner.endswith("qkv") or (whole and re.search(r"encoder.*dense$", owner)):
            if own not in ("weight", "bias"):
                expected["adapter"].add(name)
        elif owner == "classifier" or (new_pooler and owner == "bert.pooler.dense"):
            expected["head"].add(name)
        elif not layers.endswith("-only"):
            expected["base"].add(name)
    assert len(expected["adapter"]) == {"lora": 2, "dora": 3}[mode] * LAYERS * (4 if whole else 1)
    assert names(model) == expected
    assert training(model) == set().union(*expected.values())


@pytest.mark.parametrize("new_pooler", [False, True])
@pytest.mark.parametrize("mode", ["head", "bitfit", "full"])
def test_modes_without_adapters(mode, new_pooler):
    model = adapted_model(mode=mode, layers=None, rank=None, new_pooler=new_pooler)
    every = {name for name, _ in model.named_parameters()}
    starts = ("classifier.", "bert.pooler.")[: 1 + new_pooler]
    head = {name for name in every if name.startswith(starts)}
    biases = {name for name in every - head if name.endswith(".bias")}
    assert len(biases) == 1 + 2 * 6 + (not new_pooler)
    base, adapter = every - head if mode == "full" else set(), biases if mode == "bitfit" else set()
    assert names(model) == {"adapter": adapter, "base": base, "head": head}
    assert training(model) == head | base | adapter
    assert training_of(model).mode == mode


def test_the_magnitude_is_not_decayed():
    model = adapted_model(mode="dora", layers="attn")
    for name, parameter in model.named_parameters():
        vector = name.endswith((".bias", "LayerNorm.weight", ".magnitude"))
        assert decays(name, parameter) is not vector, name
    decayed = {n for n, p in parameter_groups(model)["adapter"].items() if decays(n, p)}
    assert {name.rpartition(".")[2] for name in decayed} == {"lora_A", "lora_B"}


def injected(model, **changes):
    inject(model, **{**ADAPTED, "seed": 0, **changes})


@pytest.mark.parametrize(("changes", "message"), [
    ({"rank": 33}, r"rank 33 is above the width 32 of bert\.encoder\.layer\.0\.attention"),
    ({"rank": 0}, r"rank 0 of bert\.encoder.* is below 1; choose 1 to 32"),
    ({"rank": None}, "needs a rank"), ({"mode": "lora+"}, "no mode is called 'lora\\+'"),
    ({"layers": None}, "no layer set is called None"),
    ({"alpha": float("nan")}, "alpha nan of .* is not a positive number"),
    ({"mode": "full"}, "mode 'full' has no adapters; leave layers and rank empty"),
])  # fmt: skip
def test_bad_arguments_are_one_line_and_change_nothing(changes, message):
    model = base_model()
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(InputError, match=message) as raised:
        injected(model, **changes)
    assert "\n" not in str(raised.value)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["intermediate.dense", "output.dense"])
def test_the_width_of_a_layer_is_its_smaller_side(name):
    layer = f"bert.encoder.layer.0.{name}"
    build_layers(base_model(), "lora", {layer: Part(name=layer, rank=32, alpha=1.0)})
    with pytest.raises(InputError, match=f"rank 33 is above the width 32 of {layer}"):
        build_layers(base_model(), "lora", {layer: Part(name=layer, rank=33, alpha=1.0)})
    with pytest.raises(InputError, match="no linear layer called other to adapt"):
        build_layers(base_model(), "lora", {"other": Part(name="other", rank=1, alpha=1.0)})


@pytest.mark.parametrize(("layers", "pooling"), [("all-lin-only", "mean"), ("all-lin", "pooler")])
def test_a_second_encoder_is_as_the_first_and_a_comparison_as_the_head(layers, pooling):
    heads = {"one": HeadConfig(3), "two": HeadConfig(1, pairs=True)}
    config = base_model().bert.config
    model = BertClassifier(config, heads, encoders=2, pooling=pooling, dropout=0.0)
    initialise(model, 0)
    injected(model, layers=layers, new_pooler=True)
    grouped, every = names(model), {name for name, _ in model.named_parameters()}
    for group in ("adapter", "base"):
        first, second = (
            {name.removeprefix(of) for name in grouped[group] if name.startswith(of)}
            for of in ("bert.", "bert_pairs.")
        )
        assert first == second
        assert len(first) == 3 * LAYERS * 4 or group == "base"
        assert bool(first) == (group == "adapter" or layers == "all-lin")
    poolers = {name for name in every if ".pooler." in name}
    assert len(poolers) == (4 if pooling == "pooler" else 0)
    head = {name for name in every if name.startswith(("classifier.", "comparison."))}
    assert grouped["head"] == head | poolers
    firsts = [layer.lora_A for n, layer in adapted_layers_of(model).items() if "layer.0.out" in n]
    assert len(firsts) == 2
    assert not torch.equal(*firsts), "each encoder draws its own factors"


def test_other_models_and_those_with_adapters_are_refused():
    for changes in ({"mode": "lora"}, {"mode": "full", "layers": None, "rank": None}):
        with pytest.raises(InputError, match="has adapters already"):
            injected(adapted_model(), **changes)
    with pytest.raises(InputError, match="is it a BERT encoder"):
        injected(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(InputError, match="nothing says what trains"):
        parameter_groups(base_model())
