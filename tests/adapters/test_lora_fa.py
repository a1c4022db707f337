"""LoRA-FA: the first values of A stay, and a layer keeps x Aᵀ in place of x."""

import pytest
import torch

from adapters.injection import inject
from bench.worker.probes.memory import SavedTensors
from minbert.kernels.reference import kernels
from minbert.model.classifier import BertClassifier, initialise
from tests.adapters.small import ADAPTED, LAYERS, adapted_model, batch, disturb
from tests.minbert.peers import sizes


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
    layer, of the attention's projection and of the wide layer, and of x and y their sum alone. On
    a GPU, where LoRA keeps an activation too, that is more."""
    if on_gpu:
        monkeypatch.setattr("adapters.low_rank.is_eager_on_gpu", lambda _: True)
    ids = torch.randint(10, 60, (8, 24), generator=torch.Generator().manual_seed(0))
    config, kept = sizes(256, LAYERS, 4, 384, 60, 24), []
    for lora_fa in (False, True):
        model = BertClassifier(config, 3, pooling="mean", dropout=0.0)
        initialise(model, 0)
        inject(model, **{**ADAPTED, "mode": "lora", "rank": 2}, seed=0, lora_fa=lora_fa)
        saved = SavedTensors(model.train())
        with saved.counting():
            model(ids, torch.ones_like(ids)).sum()
        kept.append(saved.mib)
    less = LAYERS * 3 * 256 * ids.numel() * 4 / 2**20
    saving = kept[0] - kept[1]
    assert saving > less if on_gpu else saving == pytest.approx(less, rel=0.03)
