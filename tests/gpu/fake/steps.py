"""Training steps and evaluations on fake tensors of a GPU: of every mode, layer set and AMP."""

from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch._subclasses import fake_tensor

from adapters.methods import LOW_RANK
from adapters.names import LAYER_SETS
from minbert.data.batches import Batch
from minbert.model.classifier import BertClassifier, HeadConfig, place_of
from minbert.training.losses import BINARY, CROSS_ENTROPY, REGRESSION
from minbert.training.optimizer import OPTIMIZERS
from minbert.training.schedules import QUARTERS
from minbert.training.trainer import HALF, GradualUnfreezing, autocast
from tests.gpu.fake import gpu
from tests.gpu.fake.gpu import GPU, Watch, batch_of, faked, model_of, trainer_of

SETTINGS = [("full", None), ("head", None), *product(LOW_RANK, LAYER_SETS)]
POOLED = [("full", None), ("lora", "attn-only"), ("dora", "attn-only")]
"""Others have the mean of all tokens, by convolutions or not, and some no mask."""
AMP = [("off", False), *((amp, held) for amp in HALF for held in (False, True))]
"""Each with whether frozen weights are in half precision."""


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_steps_and_an_evaluation_stay_on_the_gpu(number):
    (mode, layers), (amp, held) = SETTINGS[number], AMP[number % len(AMP)]
    pooling = "pooler" if (mode, layers) in POOLED else "mean"
    head = ("linear", "conv")[number % 3 == 1]
    model = model_of(mode, layers, amp, pooling=pooling, head=head, held=held)
    with faked(model):
        trainer, batch = trainer_of(model, amp), batch_of(masked=number % 4 != 1)
        assert "aten._fused_adamw_.default" in check_step(trainer, batch)
        model.eval()
        with Watch() as watch, torch.inference_mode(), autocast(amp, GPU):
            logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    assert not watch.problems
    assert logits.device == GPU


def check_step(trainer, batch, *, counts=False):
    """Fail unless a step stays on the GPU, and gives what it has to; its operators."""
    with Watch(counts=counts) as watch:
        loss, logits = trainer.step(batch)
    assert not watch.problems
    assert (loss.device, loss.dtype, loss.shape) == (GPU, torch.float32, ())
    assert (logits.device, logits.dtype, len(logits)) == (GPU, torch.float32, len(batch.labels))
    check_gradients(trainer)
    return set(watch.names)


def check_gradients(trainer):
    """Fail unless all that trains has a gradient and state as fused AdamW takes them."""
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(trained.values()) == set(trainer.parameters) == trainer.optimizer.state.keys()
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.dtype == torch.float32, name
        placed = [(t.device, t.dtype, t.stride()) for t in (parameter, parameter.grad)]
        assert placed[0] == placed[1], name
        averages = [trainer.optimizer.state[parameter][of] for of in trainer.optimizer.averages]
        assert {(t.device, t.dtype) for t in averages} == {(GPU, torch.float32)}, name


@pytest.mark.parametrize("optimizer", ["adamax", "radam"])
def test_other_optimizers_do_all_but_count_their_steps_on_the_gpu(optimizer, monkeypatch):
    # a number that is given keeps its value in a fake tensor, and is counted up with it
    monkeypatch.setattr(OPTIMIZERS[optimizer], "_first_step", lambda *_: torch.tensor(0.0))
    model = model_of("head")
    with faked(model):
        names = check_step(trainer_of(model, optimizer=optimizer), batch_of(), counts=True)
    assert "aten._foreach_lerp_.Scalar" in names


@pytest.mark.parametrize("loss", REGRESSION)
def test_regressions_stay_on_the_gpu(loss):
    model = model_of("head", outputs=1)
    with faked(model):
        batch = batch_of()
        check_step(trainer_of(model, loss=loss), replace(batch, labels=batch.labels.float()))


def test_steps_of_several_parts_stay_on_the_gpu():
    amp = "fp16"
    heads = {"sst": HeadConfig(gpu.CLASSES), "quora": HeadConfig(1, pairs=True)}
    model = model_of("lora", "attn-only", amp, model=BertClassifier(
        gpu.CONFIG, heads, encoders=2, head="conv", pooling="pooler", dropout=0.1
    ))  # fmt: skip
    with faked(model):
        trainer, ids = trainer_of(model, amp), batch_of().input_ids
        trainer.losses = {"sst": CROSS_ENTROPY, "quora": BINARY}
        for part, head in heads.items():
            labels = ids[: len(ids) // 2 if head.pairs else len(ids), 0]
            batch = Batch(ids, torch.ones_like(ids), None, labels, ids.numel(), part)
            with Watch() as watch:
                for _ in range(2):
                    trainer.step(batch)
            assert not watch.problems, part


def test_what_unfreezes_stays_on_the_gpu():
    model = model_of("full", amp="fp16")
    with faked(model):
        trainer, batch = trainer_of(model, "fp16"), batch_of()
        unfreezing = GradualUnfreezing(model, {n: place_of(n) for n, _ in model.named_parameters()})
        for epoch in (0, QUARTERS):
            unfreezing.begin(epoch)
            with Watch() as watch:
                trainer.step(batch)
            assert not watch.problems, epoch
        check_gradients(trainer)


def test_what_a_gpu_waits_for_is_seen():
    stopped = fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException
    with fake_tensor.FakeTensorMode():
        x, one = torch.ones(3, device=GPU), torch.ones(())
        with Watch() as watch:
            x.cpu()
            x + one
            x.masked_fill(x > 0, 1.0)
            for wait in (x.sum().item, x.nonzero, lambda: torch.equal(x, x), lambda: x[x > 0]):
                with suppress(*stopped):
                    wait()
    assert [problem.partition(" ")[0] for problem in watch.problems] == [
        "aten._to_copy.default", "aten.add.Tensor", "aten._local_scalar_dense.default",
        "aten.nonzero.default", "aten.equal.default", "aten.index.Tensor",
    ]  # fmt: skip
