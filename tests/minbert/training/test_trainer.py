"""A training step: schedule, clipping, AMP and its scaler, against plain torch; and optimizers
without torch's Optimizer class."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from minbert.training import trainer as training
from minbert.training.losses import loss_of
from minbert.training.optimizer import OPTIMIZERS, ParameterGroup
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer

CPU = torch.device("cpu")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 4)
        self.linear = nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask, token_type_ids, part=""):
        return self.linear(self.embedding(input_ids).mean(dim=1))


def batch():
    ids = torch.arange(20).reshape(4, 5) % 11
    labels = torch.tensor([0, 1, 2, 1])
    return SimpleNamespace(
        input_ids=ids, attention_mask=None, token_type_ids=None, labels=labels, part=""
    )


def trainer(model, amp="off", steps=10, optimizer="adamw", groups=()):
    groups = groups or [ParameterGroup(list(model.parameters()), 1e-2, 0.1)]
    return Trainer(
        model, groups, losses={"": "cross-entropy"}, schedule=schedule_of("linear", steps, 0.0),
        amp=amp, device=CPU, optimizer=optimizer,
    )  # fmt: skip


def test_rates_rise_over_the_warmup_and_fall_to_zero_or_halve():
    factor = schedule_of("linear", 100, 0.1)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == 1.0
    assert factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == 0.0
    assert factor(101) == 0.0
    assert schedule_of("linear", 1, 0.5)(0) == 1.0
    factor = schedule_of("halving", 100, 0.05, 20)
    assert [factor(step) for step in (0, 4, 5, 19, 20, 59, 99)] == [
        0.2, 1.0, 1.0, 1.0, 0.5, 0.25, 1 / 16,
    ]  # fmt: skip
    assert schedule_of("linear", 100, 0.1, 20)(55) == 0.5
    with pytest.raises(ValueError, match="no schedule is called 'cosine'"):
        schedule_of("cosine", 1, 0.1, 1)


def test_a_step_is_adamw_on_the_clipped_gradient():
    ours, plain = Tiny(), Tiny()
    with torch.no_grad():
        ours.linear.weight.mul_(50)  # makes the gradient's norm exceed 1
        plain.linear.weight.mul_(50)
    steps = 5
    one = trainer(ours, steps=steps)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        one.step(batch())
        optimizer.param_groups[0]["lr"] = 1e-2 * schedule_of("linear", steps, 0.0)(step)
        optimizer.zero_grad()
        loss = loss_of("cross-entropy", plain(batch().input_ids, None, None), batch().labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        if step == 0:
            assert norm > 1
        optimizer.step()
    for left, right in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_the_parts_of_a_step_are_marked():
    model, seen = Tiny(), []
    one = trainer(model, amp="fp16")
    weight = model.linear.weight.detach().clone()

    def mark():
        seen.append((model.linear.weight.grad is not None, model.linear.weight.equal(weight)))

    one.mark = mark
    one.step(batch())
    assert seen == [(False, True), (True, True)], "before and after backward, before the optimizer"


def test_bf16_keeps_weights_gradients_and_state_in_fp32():
    model = Tiny()
    one = trainer(model, amp="bf16")
    seen: list[torch.dtype] = []
    model.linear.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    loss, logits = one.step(batch())
    assert seen == [torch.bfloat16]
    assert loss.dtype == logits.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert one.scaler is None


def test_trap_09_scaler_for_fp16_only_and_unscaled_before_clipping(monkeypatch):
    assert trainer(Tiny()).scaler is trainer(Tiny(), amp="bf16").scaler is None
    norms, clip = [], nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        training.nn.utils, "clip_grad_norm_",
        lambda *given, **options: norms.append(clip(*given, **options)),
    )  # fmt: skip
    trainer(Tiny(), amp="fp16").step(batch())
    assert norms[0] < 100, "clipped while still scaled by 65,536"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_first_step_that_overflows_under_fp16_leaves_state_and_changes_nothing(optimizer):
    model = Tiny()
    one = trainer(model, amp="fp16", optimizer=optimizer)
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.clone() for p in model.parameters()]
    one.step(batch())
    assert not all(p.grad.isfinite().all() for p in model.parameters())
    assert one.scaler.get_scale() == 2.0**39
    state = one.optimizer.state
    assert state.keys() == set(model.parameters()), "what memory by owner is counted from"
    assert all(not value.any() for values in state.values() for value in values.values())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    clean = trainer(Tiny(), amp="fp16", optimizer=optimizer)
    for each in (one, clean):
        each.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        each.optimizer.param_groups[0]["lr"] = 1e-2
        each.step(batch())
    assert all(values["step"] == 1 for values in state.values())
    for after, without, first in zip(one.parameters, clean.parameters, before, strict=True):
        assert torch.equal(after, without)
        assert not torch.equal(after, first)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_at_rest_a_step_changes_nothing(optimizer):
    model = Tiny()
    one = trainer(model, optimizer=optimizer)
    one.step(batch())
    before = [parameter.clone() for parameter in model.parameters()]
    one.rest()
    for _ in range(3):
        one.step(batch())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_groups_have_other_rates_and_decays_for_another_task():
    model = Tiny()
    one = trainer(model, steps=10)
    one.scale_groups(4.0, 0.5)
    (group,) = one.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(4e-2), 0.05)
    one.step(batch())
    assert group["lr"] == pytest.approx(4e-2 * schedule_of("linear", 10, 0.0)(1))
    one.scale_groups(1.0, 1.0)
    assert group["weight_decay"] == 0.1


def halves(whole, *sizes):
    """A batch in parts of some sizes."""
    rows = zip(whole.input_ids.split(sizes), whole.labels.split(sizes), strict=True)
    return [
        SimpleNamespace(**vars(whole) | {"input_ids": ids, "labels": labels})
        for ids, labels in rows
    ]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_the_gradient_is_the_mean_over_batches_whatever_their_sizes(amp):
    model = Tiny()
    first, second = halves(batch(), 3, 1)
    outputs = [model(part.input_ids, None, None) for part in (first, second)]
    mean = sum(
        loss_of("cross-entropy", logits, part.labels) / 2
        for logits, part in zip(outputs, (first, second), strict=True)
    )
    expected = torch.autograd.grad(mean, list(model.parameters()))
    taken, marks = trainer(model, amp, steps=1), []
    taken.mark = lambda: marks.append(1)
    loss, logits = taken.step(first, second)
    assert len(marks) == 2 * 2, "of each batch both passes"
    close = {"atol": 1e-6, "rtol": 1e-5} if amp == "off" else {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(loss, mean.detach(), **close)
    torch.testing.assert_close(logits, torch.cat(outputs).detach(), **close)
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in expected]))
    clipped = 1 / max(1.0, norm.item() + 1e-6)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient * clipped, **close)


def test_a_rehearsal_runs_both_passes_of_all_batches_and_changes_nothing():
    model = Tiny()
    made = trainer(model)
    made.step(batch())
    before = [p.clone() for p in model.parameters()]
    averages = {p: of["exp_avg"].clone() for p, of in made.optimizer.state.items()}
    seen, gradients = [], []
    model.linear.register_forward_pre_hook(lambda *_: seen.append(model.linear.weight.grad is None))
    model.linear.weight.register_hook(gradients.append)
    state = torch.get_rng_state()
    made.rehearse(*halves(batch(), 2, 2))
    assert seen == [True, False], "the gradients of the first are held during the second"
    assert len(gradients) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(made.optimizer.state[p]["exp_avg"], a) for p, a in averages.items())


class Graph(torch.autograd.Function):
    """A product whose gradient, as that of a CUDA graph, is in the same memory each time."""

    @staticmethod
    def forward(ctx, weight, x, memory):
        ctx.save_for_backward(x)
        ctx.memory = memory
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return ctx.memory.copy_(gradient.T @ x).detach(), None, None


def test_gradients_of_a_cuda_graph_are_kept():
    model, memory = nn.Linear(4, 3, bias=False), torch.empty(3, 4)
    plain = nn.Linear(4, 3, bias=False)
    plain.load_state_dict(model.state_dict())
    inputs = [torch.randn(4, 4, generator=torch.Generator().manual_seed(n)) for n in (0, 1, 2)]
    for x in inputs:
        (loss_of("cross-entropy", plain(x), batch().labels) / 3).backward()
    nn.utils.clip_grad_norm_([plain.weight], training.MAX_GRADIENT_NORM)
    made, left = trainer(model), iter(inputs)
    made._forward = lambda _batch: Graph.apply(model.weight, next(left), memory)
    made.device = SimpleNamespace(type="cuda")
    kept: list[int | None] = []
    made.mark = lambda: kept.append(getattr(model.weight.grad, "data_ptr", lambda: None)())
    made.step(batch(), batch(), batch())
    torch.testing.assert_close(model.weight.grad, plain.weight.grad)
    after_backward = kept[1::2]
    assert len(set(after_backward)) == 1, "the first gradient is copied, and the others added to it"
    assert memory.data_ptr() not in after_backward


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
