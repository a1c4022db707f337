"""Optimizers without torch's Optimizer class: their numbers, and what that spares."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from minbert.training.optimizer import OPTIMIZERS, ParameterGroup

THEIRS = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adamax": (torch.optim.Adamax, {"foreach": False}),
    "radam": (torch.optim.RAdam, {"decoupled_weight_decay": True, "foreach": False}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_torchs_to_the_bit(name):
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


def test_building_and_training_a_model_import_no_compiler():
    """Normal values on the meta device would import it: 2 s and 60 MiB at each start."""
    code = """if True:
        import sys, torch
        from minbert.data.batches import Batch
        from minbert.model.classifier import BertClassifier, initialise
        from minbert.model.config import GEOMETRIES
        from minbert.training.optimizer import OPTIMIZERS
        from minbert.training.optimizer import ParameterGroup
        from minbert.training.trainer import Trainer
        model = BertClassifier(GEOMETRIES["bert-tiny"], 3, pooling="pooler", dropout=0.1)
        initialise(model, 0)
        ids = torch.ones(4, 3, dtype=torch.int64)
        for name in OPTIMIZERS:
            trainer = Trainer(
                model, [ParameterGroup(list(model.parameters()), 1e-3, 0.0)],
                losses={"": "cross-entropy"}, schedule=lambda step: 1.0, amp="bf16",
                device=torch.device("cpu"), optimizer=name,
            )
            trainer.step(Batch(ids, None, None, torch.tensor([0, 1, 2, 0]), 12))
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
