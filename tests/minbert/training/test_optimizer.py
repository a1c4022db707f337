"""Optimizers without torch's Optimizer class: their numbers, and what that spares."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from minbert.training.optimizer import OPTIMIZERS, AdamW, ParameterGroup

THEIRS = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adamax": (torch.optim.Adamax, {"foreach": False}),
    "radam": (torch.optim.RAdam, {"decoupled_weight_decay": True, "foreach": False}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_torchs_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(5, 3), nn.Linear(5, 3)
    other.load_state_dict(one.state_dict())
    ours = OPTIMIZERS[name](
        [ParameterGroup([one.weight], 1e-2, 0.1), ParameterGroup([one.bias], 1e-3, 0.0)]
    )
    kind, options = THEIRS[name]
    theirs = kind(
        [
            {"params": [other.weight], "lr": 1e-2, "weight_decay": 0.1},
            {"params": [other.bias], "lr": 1e-3, "weight_decay": 0.0},
        ],
        **options,
    )
    for step in range(20):
        x = torch.randn(4, 5)
        for model, optimizer in ((one, ours), (other, theirs)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
            optimizer.step()
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_parameters_without_a_gradient_stay() -> None:
    model = nn.Linear(2, 2)
    before = model.bias.detach().clone()
    optimizer = AdamW([ParameterGroup([model.weight, model.bias], 1.0, 0.5)])
    model.weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(model.bias, before)
    assert model.bias not in optimizer.state


def test_a_rate_of_zero_changes_nothing() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    optimizer = AdamW([ParameterGroup([model.weight], 0.0, 0.5)])
    model.weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_imports_no_compiler(name: str) -> None:
    code = """if True:
        import sys, torch
        from types import SimpleNamespace
        from minbert.training.trainer import ParameterGroup, Trainer
        model = torch.nn.Bilinear(2, 2, 3)
        model.forward = lambda ids, mask, types, part: torch.nn.Bilinear.forward(model, ids, ids)
        trainer = Trainer(
            model, [ParameterGroup(list(model.parameters()), 1e-3, 0.0)],
            losses={"": "cross-entropy"}, schedule=lambda step: 1.0, amp="bf16",
            device=torch.device("cpu"),
            optimizer=sys.argv[1],
        )
        batch = SimpleNamespace(
            input_ids=torch.ones(4, 2), attention_mask=None, token_type_ids=None,
            labels=torch.tensor([0, 1, 2, 0]), part="",
        )
        trainer.step(batch)
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code, name], check=False).returncode == 0
