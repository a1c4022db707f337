"""The type of frozen weights: one rule for all modes, whether weights are kept or not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from adapters.injection import convert_frozen, layer_class
from adapters.layer import AdaptedLinear, Part
from adapters.names import LAYER_SETS
from bench.engines import minbert
from bench.forecast.costs import Variant
from bench.grid.dryrun import _shown_axes
from bench.plan import gridfile
from bench.plan.cell import MIXED
from bench.plan.planning import Resolved, expand
from bench.results.store import read_rows
from minbert.training.trainer import autocast
from tests.bench.tiny_cells import cell, job_of

ADAPTED = [(mode, layers) for mode in ("lora", "dora") for layers in LAYER_SETS]
MATRICES = (".qkv.weight", ".dense.weight")
RESOLVED = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
GRID = """
cells = [
  {mode = ["full", "head"], amp = ["off", "on"]},
  {mode = ["dora"], rank = [8], layers = ["attn", "attn-only"], amp = ["on"], settings = {TYPE}},
]
""".replace("TYPE", "frozen_dtype = 'amp'")


def job(checkpoint, mode, layers, frozen_dtype, **of):
    values = {"amp": "bf16", "frozen_dtype": frozen_dtype, **of}
    return job_of(cell(checkpoint, mode, layers or "attn", **values), checkpoint)


@pytest.mark.parametrize(("mode", "on_gpu"), [("lora", True), ("dora", False)])
def test_small_updates_reach_the_output_under_amp(tiny_checkpoint, mode, on_gpu, monkeypatch):
    """Of |B| = 1e-4; added to a weight in bf16, a fifth of such an update would be left."""
    model = minbert.build(job(tiny_checkpoint, mode, "attn-only", MIXED))
    adapted = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, AdaptedLinear)}
    half = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert half == {name for name in frozen if name.endswith(MATRICES)} - adapted
    torch.manual_seed(0)
    layer = layer_class(mode)(nn.Linear(384, 384), [Part(name="x", rank=8, alpha=16.0)])
    convert_frozen(nn.Sequential(layer), torch.bfloat16, adapted=False)
    layer.reset_parameters(0)
    if on_gpu:
        monkeypatch.setattr("minbert.kernels.reference.on_cpu", lambda _x: False)
    x = torch.randn(1024, 384)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = layer(x).double()
        layer.lora_B.copy_(1e-4 * torch.randn_like(layer.lora_B).sign())
        change = layer(x).double() - before
    exact = x.double() @ layer.weight_change().detach().double().t()
    assert (change * exact).sum() / exact.square().sum() == pytest.approx(1, abs=0.05)


def logits(model):
    ids = torch.arange(5, 45).view(4, 10)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.no_grad(), autocast("bf16", torch.device("cpu")):
        return model.eval()(ids, mask, torch.zeros_like(ids))


@pytest.mark.parametrize("unfreeze", ["all", "iterative"])
@pytest.mark.parametrize(("mode", "layers"), [("full", None), ("head", None), *ADAPTED])
def test_every_parameter_has_the_type_of_the_rule(tiny_checkpoint, mode, layers, unfreeze):
    """Weights that unfreeze later are fp32. The first step is that of the base model."""
    model = minbert.build(job(tiny_checkpoint, mode, layers, "bf16", unfreeze=unfreeze))
    held = {n for n, p in model.named_parameters() if n.endswith(MATRICES) and not p.requires_grad}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if name in held else torch.float32), name
    layers_held = 4 if layers in (None, "all-lin", "all-lin-only", "attn-only") else 1
    pooler = layers not in ("attn", "all-lin")  # there it trains
    assert len(held) == (0 if mode == "full" else layers_held + pooler)
    if layers is not None:
        base = minbert.build(job(tiny_checkpoint, "head", None, "bf16"))
        assert torch.equal(logits(model), logits(base))
    for name, layer in model.named_modules():
        if hasattr(layer, "magnitude"):
            norms = torch.linalg.vector_norm(layer.weight.detach().float(), dim=1)
            assert torch.equal(layer.magnitude, norms), name


def test_a_grid_says_how_frozen_weights_are_held_and_cells_where_it_matters():
    cells = expand(gridfile.parse(GRID, "x.toml", "x"), RESOLVED)
    found = {(c.mode, c.layers, c.amp): c.frozen_dtype for c in cells}
    assert found == {
        ("full", None, "off"): None, ("full", None, "bf16"): None, ("head", None, "off"): None,
        ("head", None, "bf16"): "fp32",
        ("dora", "attn", "bf16"): "fp32",  # all frozen weights have adapters
        ("dora", "attn-only", "bf16"): MIXED,
    }  # fmt: skip
    assert {c.name for c in cells if c.mode != "full"} == {
        "head-fp32-s0", "head-bf16-s0", "dora-r8-attn-bf16-s0",
        "dora-r8-attn-only-bf16-frozen-mixed-s0",
    }  # fmt: skip
    text = "[settings]\nfrozen_dtype = 'amp'\n[[cells]]\nmode = ['head']\namp = ['on']"
    head = expand(gridfile.parse(text, "x.toml", "x"), RESOLVED)
    assert [c.frozen_dtype for c in head] == ["bf16"]
    assert "frozen_dtype" in _shown_axes(cells)
    assert "frozen_dtype" not in _shown_axes([c for c in cells if c.mode != "dora"])
    of = [replace(cells[-1], frozen_dtype=kind) for kind in ("fp32", "bf16", MIXED, None)]
    assert len({c.cell_id for c in of}) == len({Variant.of(c) for c in of[:3]}) == 3
    assert of[2].cell_id == of[3].cell_id


def test_ids_of_committed_rows_are_those_of_their_settings():
    seen, root = set(), Path(__file__).parents[3]
    names = ("batching", "embedded-members", "learning", "members", "parts", "prediction", "paper")
    for path in (root / "runs.csv", *(root / "docs" / f"{name}.csv" for name in names)):
        for row in read_rows(path):
            assert row.cell.cell_id == row["cell_id"], path
            seen.add(row["frozen_dtype"])
    assert seen >= {None, MIXED}
