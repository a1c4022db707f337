"""A training step against plain torch, which layers train in an epoch, several tasks on one encoder
or two, and losses against torch's and numpy's."""

import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from adapters.injection import inject
from minbert.data.batches import collate
from minbert.data.encoded import Encoded
from minbert.model.classifier import BertClassifier, HeadConfig, initialise, place_of
from minbert.model.config import GEOMETRIES
from minbert.model.heads import pair_features
from minbert.training import trainer as training
from minbert.training.evaluation import predict
from minbert.training.losses import contrastive_loss, correlation, loss_of, mean_loss
from minbert.training.optimizer import OPTIMIZERS, ParameterGroup
from minbert.training.schedules import layers_in, schedule_of
from minbert.training.trainer import GradualUnfreezing, Trainer, logits_of
from tests.minbert.peers import sizes


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
        amp=amp, device=torch.device("cpu"), optimizer=optimizer,
    )  # fmt: skip


def test_rates_rise_over_the_warmup_and_fall_to_zero_or_halve():
    factor = schedule_of("linear", 100, 0.1)
    rates = [factor(step) for step in (0, 9, 10, 55, 100, 101)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0, 0.0])
    assert schedule_of("linear", 1, 0.5)(0) == 1.0
    factor = schedule_of("halving", 100, 0.05, 20)
    assert [factor(step) for step in (0, 4, 5, 19, 20, 59, 99)] == [
        0.2, 1.0, 1.0, 1.0, 0.5, 0.25, 1 / 16,
    ]  # fmt: skip
    assert schedule_of("linear", 100, 0.1, 20)(55) == 0.5
    with pytest.raises(ValueError, match="no schedule is called 'cosine'"):
        schedule_of("cosine", 1, 0.1, 1)


THEIRS = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adamax": (torch.optim.Adamax, {"foreach": False}),
    "radam": (torch.optim.RAdam, {"decoupled_weight_decay": True, "foreach": False}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_torchs_on_the_clipped_gradient_to_the_bit(name):
    ours, plain = Tiny(), Tiny()
    rates = (1e-2, 1e-3)
    groups = []
    for model in (ours, plain):
        model.linear.weight.data.mul_(50)  # makes the gradient's norm exceed 1
        parts = [*model.linear.parameters()], [model.embedding.weight]
        groups.append([*zip(parts, rates, (0.1, 0.0), strict=True)])
    one = trainer(ours, steps=20, optimizer=name, groups=[ParameterGroup(*g) for g in groups[0]])
    kind, options = THEIRS[name]
    keys = ("params", "lr", "weight_decay")
    theirs = kind([dict(zip(keys, group, strict=True)) for group in groups[1]], **options)
    for step in range(20):
        one.step(batch())
        for group, rate in zip(theirs.param_groups, rates, strict=True):
            group["lr"] = rate * schedule_of("linear", 20, 0.0)(step)
        theirs.zero_grad()
        loss_of("cross-entropy", plain(batch().input_ids, None, None), batch().labels).backward()
        in_order = [p for group in theirs.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(in_order, 1.0, foreach=True)
        assert step or norm > 1
        theirs.step()
    for left, right in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(left, right)


def test_bf16_keeps_all_in_fp32_and_fp16_has_a_scaler_and_is_unscaled_before_clipping(monkeypatch):
    model = Tiny()
    one = trainer(model, amp="bf16")
    dtypes, norms, clip = [], [], nn.utils.clip_grad_norm_
    model.linear.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    loss, logits = one.step(batch())
    assert dtypes == [torch.bfloat16]
    assert loss.dtype == logits.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert one.scaler is trainer(Tiny()).scaler is None
    monkeypatch.setattr(
        nn.utils, "clip_grad_norm_", lambda *of, **options: norms.append(clip(*of, **options))
    )
    trainer(Tiny(), amp="fp16").step(batch())
    assert norms[0] < 100, "clipped while still scaled by 65,536"


def copies(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_first_step_that_overflows_under_fp16_leaves_state_and_changes_nothing(optimizer):
    model, other = Tiny(), Tiny()
    one, clean = (trainer(each, amp="fp16", optimizer=optimizer) for each in (model, other))
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copies(model)
    one.step(batch())
    assert not all(p.grad.isfinite().all() for p in model.parameters())
    assert one.scaler.get_scale() == 2.0**39
    state = one.optimizer.state
    assert state.keys() == set(model.parameters()), "what memory by owner is counted from"
    assert not any(value.any() for values in state.values() for value in values.values())
    torch.testing.assert_close(copies(model), before, rtol=0, atol=0)
    for each in (one, clean):
        each.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        each.optimizer.param_groups[0]["lr"] = 1e-2
        each.step(batch())
    assert all(values["step"] == 1 for values in state.values())
    torch.testing.assert_close(copies(model), copies(other), rtol=0, atol=0)
    assert not any(torch.equal(*pair) for pair in zip(copies(model), before, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_groups_have_other_rates_and_decays_for_another_task_and_at_rest_none(optimizer):
    model = Tiny()
    one = trainer(model, optimizer=optimizer)
    one.scale_groups(4.0, 0.5)
    (group,) = one.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(4e-2), 0.05)
    one.step(batch())
    assert group["lr"] == pytest.approx(4e-2 * schedule_of("linear", 10, 0.0)(1))
    one.scale_groups(1.0, 1.0)
    assert group["weight_decay"] == 0.1
    before = copies(model)
    one.rest()
    for _ in range(3):
        one.step(batch())
    torch.testing.assert_close(copies(model), before, rtol=0, atol=0)


def halves(whole, *sizes):
    rows = zip(whole.input_ids.split(sizes), whole.labels.split(sizes), strict=True)
    return [SimpleNamespace(**{**vars(whole), "input_ids": x, "labels": y}) for x, y in rows]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_the_gradient_is_the_mean_over_batches_whatever_their_sizes(amp):
    model = Tiny()
    first, second = halves(batch(), 3, 1)
    outputs = [model(part.input_ids, None, None) for part in (first, second)]
    parts = zip(outputs, (first.labels, second.labels), strict=True)
    mean = sum(loss_of("cross-entropy", *part) / 2 for part in parts)
    expected = torch.autograd.grad(mean, list(model.parameters()))
    taken, marks = trainer(model, amp, steps=1), []
    weight, before = model.linear.weight, model.linear.weight.detach().clone()
    taken.mark = lambda: marks.append((weight.grad is not None, weight.equal(before)))
    loss, logits = taken.step(first, second)
    assert marks == [(False, True), *[(True, True)] * 3], "of each batch, before the optimizer"
    close = {"atol": 1e-6, "rtol": 1e-5} if amp == "off" else {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(loss, mean.detach(), **close)
    torch.testing.assert_close(logits, torch.cat(outputs).detach(), **close)
    clipped = 1 / max(1.0, torch.cat([g.flatten() for g in expected]).norm().item() + 1e-6)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient * clipped, **close)


def test_a_rehearsal_runs_both_passes_of_all_batches_and_changes_nothing():
    model = Tiny()
    made = trainer(model)
    made.step(batch())
    before = copies(model)
    averages = {p: of["exp_avg"].clone() for p, of in made.optimizer.state.items()}
    seen, gradients = [], []
    model.linear.register_forward_pre_hook(lambda *_: seen.append(model.linear.weight.grad is None))
    model.linear.weight.register_hook(gradients.append)
    state = torch.get_rng_state()
    made.rehearse(*halves(batch(), 2, 2))
    assert seen == [True, False], "the gradients of the first are held during the second"
    assert len(gradients) == 2
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(copies(model), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(made.optimizer.state[p]["exp_avg"], a) for p, a in averages.items())


def test_no_step_walks_the_modules_which_an_evaluation_leaves_as_they_were(monkeypatch):
    config, offsets = sizes(8, 1, 2, 16, 20, 8), np.array([0, 3, 6])
    texts = [Encoded(np.arange(6, dtype=np.int32), np.zeros(6, dtype=np.int8), offsets)]
    model = BertClassifier(config, 3, pooling="mean", dropout=0.5)
    initialise(model.eval(), 0)
    made = trainer(model)
    predict(model, texts, batch_size=2, amp="off", device=made.device)
    assert all(module.training for module in model.modules())
    monkeypatch.setattr(nn.Module, "train", lambda *_: pytest.fail("a walk over all modules"))
    given = collate(texts, np.zeros(2, np.int64), np.arange(2), 0, made.device)
    made.step(given)
    made.rehearse(given)


def test_gradients_of_a_cuda_graph_are_kept():
    """Which are in the same memory each time."""
    model, memory = nn.Linear(4, 3, bias=False), torch.empty(3, 4)
    plain = nn.Linear(4, 3, bias=False)
    plain.load_state_dict(model.state_dict())
    inputs = [torch.randn(4, 4, generator=torch.Generator().manual_seed(n)) for n in (0, 1, 2)]
    for x in inputs:
        (loss_of("cross-entropy", plain(x), batch().labels) / 3).backward()
    nn.utils.clip_grad_norm_([plain.weight], training.MAX_GRADIENT_NORM)
    made, left = trainer(model), iter(inputs)
    made._forward = lambda _batch: model(next(left))
    made.device = SimpleNamespace(type="cuda")
    model.weight.register_hook(lambda gradient: memory.copy_(gradient).detach())
    kept: list[int | None] = []
    made.mark = lambda: kept.append(getattr(model.weight.grad, "data_ptr", lambda: None)())
    made.step(batch(), batch(), batch())
    torch.testing.assert_close(model.weight.grad, plain.weight.grad)
    after_backward = kept[1::2]
    assert len(set(after_backward)) == 1, "the first gradient is copied, and the others added to it"
    assert memory.data_ptr() not in after_backward


def test_building_and_training_a_model_import_no_compiler():
    """Normal values on the meta device would import it: 2 s and 60 MiB at each start."""
    code = """if True:
        import sys
        from minbert.model.classifier import BertClassifier, initialise
        from minbert.model.config import GEOMETRIES
        from tests.minbert.training.test_trainer import OPTIMIZERS, batch, trainer
        model = BertClassifier(GEOMETRIES["bert-tiny"], 3, pooling="pooler", dropout=0.1)
        initialise(model, 0)
        for name in OPTIMIZERS:
            trainer(model, "bf16", optimizer=name).step(batch())
        sys.exit("torch._dynamo" in sys.modules)
    """
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def training_in(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_twelve_layers_unfreeze_by_threes_as_in_the_paper():
    assert [layers_in(epoch, 12) for epoch in range(7)] == [0, 3, 6, 9, 12, 12, 12]
    assert [layers_in(epoch, 6) for epoch in range(5)] == [0, 2, 3, 4, 6]
    assert [layers_in(epoch, 3) for epoch in range(5)] == [0, 1, 2, 2, 3]
    assert [layers_in(epoch, 1) for epoch in range(5)] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("layers", "mode", "new_pooler"), [(1, "full", False), (3, "lora", False), (12, "full", True)]
)
def test_layers_unfreeze_from_the_top_and_the_head_trains_from_the_first(layers, mode, new_pooler):
    """As does a new pooler, which has no place."""
    model = BertClassifier(sizes(8, layers, 2, 16, 20, 8), 2, pooling="pooler", dropout=0.0)
    initialise(model, 0)
    adapted, rank = ("all-lin-only", 1) if mode == "lora" else (None, None)
    inject(model, mode=mode, layers=adapted, rank=rank, alpha=1.0, new_pooler=False, seed=0)
    names = dict(model.named_parameters())
    head = {name for name in names if "classifier" in name or (new_pooler and ".pooler." in name)}
    before = training_in(model)
    unfreezing = GradualUnfreezing(model, {n: place_of(n) for n in names if n not in head})
    for epoch in range(6):
        unfreezing.begin(epoch)
        names = training_in(model)
        numbers = {int(name.split(".")[3]) for name in names if ".layer." in name}
        assert numbers == set(range(layers - layers_in(epoch, layers), layers))
        assert head & before <= names <= before
        last = {name for name in names - head if ".embeddings." in name or ".pooler." in name}
        assert bool(last) == (epoch >= 4 and mode == "full")
    assert names == before


HEADS = {
    "sst": HeadConfig(outputs=5),
    "quora": HeadConfig(outputs=1, pairs=True),
    "sts": HeadConfig(outputs=1, pairs=True),
}
CONFIG = sizes(12, 2, 2, 24, 60, 16)


def model_of(encoders=2, head="nonlinear", pooling="mean"):
    made = BertClassifier(CONFIG, HEADS, encoders=encoders, head=head, pooling=pooling, dropout=0.1)
    initialise(made, seed=0)
    return made.eval()


def texts(seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(3, 12, 6))])
    ids = rng.integers(1, 60, offsets[-1], dtype=np.int32)
    return Encoded(ids, np.zeros_like(ids, dtype=np.int8), offsets)


def batch_of(part, indices):
    sides = [texts(1), texts(2)] if HEADS[part].pairs else [texts(1)]
    return collate(sides, np.arange(6) % 2, indices, 0, torch.device("cpu"), part=part)


def test_with_two_encoders_of_bert_base_it_has_about_226_million_parameters():
    """No memory is taken for them."""
    encoder = 109_482_240
    comparison = (4 * 768 + 1 + 1) * 1536 + (1536 + 1) * 768
    heads = 3 * (768 + 1) * 768 + (768 + 1) * (5 + 1 + 1)
    options = {"head": "nonlinear", "pooling": "pooler", "dropout": 0.3}
    for encoders in (1, 2):
        model = BertClassifier(GEOMETRIES["bert-base"], HEADS, encoders=encoders, **options)
        count = sum(parameter.numel() for parameter in model.parameters())
        assert count == encoders * encoder + comparison + heads
    assert count / 1e6 == pytest.approx(226, abs=1)


@pytest.mark.parametrize(("encoders", "head", "pooling"), [
    (1, "linear", "mean"), (2, "nonlinear", "pooler"), (1, "conv", "pooler"), (2, "conv", "mean"),
])  # fmt: skip
def test_each_task_has_its_logits_and_an_example_does_not_see_the_others(encoders, head, pooling):
    of = model_of(encoders, head, pooling)
    for part, expected in HEADS.items():
        together = logits_of(of, batch_of(part, [0, 1, 2, 3, 4, 5]))
        assert together.shape == (6, expected.outputs)
        assert together.dtype == torch.float32
        alone = torch.cat([logits_of(of, batch_of(part, [index])) for index in range(6)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoders", [1, 2])
def test_with_two_encoders_pairs_and_sentences_train_apart_and_one_trains_by_all(encoders):
    of = model_of(encoders)
    assert (of.bert_pairs is None) == (encoders == 1)
    for part, head in HEADS.items():
        of.zero_grad()
        logits_of(of, batch_of(part, [0, 1, 2])).sum().backward()
        trains = defaultdict(set)
        for name, parameter in of.named_parameters():
            owner, task, *_ = name.split(".")
            own = f"{owner}.{task}" if owner == "classifier" else owner
            trains[own].add(parameter.grad is not None)
        expected = {f"classifier.{task}": {task == part} for task in HEADS}
        expected |= {"bert": {encoders == 1 or not head.pairs}, "comparison": {head.pairs}}
        expected |= {"bert_pairs": {head.pairs}} if encoders == 2 else {}
        assert trains == expected


def test_features_are_as_defined():
    a, b = (torch.randn(4, 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    found = pair_features(a, b)
    assert found.shape == (4, 13)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    expected = torch.cat([a, b, (a - b).abs(), a * b, cosine[:, None]], dim=1)
    torch.testing.assert_close(found, expected)


RNG = np.random.default_rng(0)
CLASSES, MANY = (torch.from_numpy(RNG.integers(0, 2, size)) for size in (30, (30, 2)))
NUMBERS, ONE, TWO = (torch.from_numpy(RNG.normal(size=size)) for size in (30, (30, 1), (30, 2)))


def test_the_contrastive_loss_is_that_of_khosla():
    """By its definition, example by example; alone in its class an example doesn't count."""
    x, classes = torch.from_numpy(RNG.normal(size=(7, 5))), [0, 1, 1, 0, 2, 1, 3]
    unit, terms = x / x.norm(dim=1, keepdim=True), []
    for i, own in enumerate(classes):
        others = [j for j in range(7) if j != i]
        whole = sum(torch.exp(unit[i] @ unit[j] / 0.1) for j in others).log()
        logs = [unit[i] @ unit[j] / 0.1 - whole for j in others if classes[j] == own]
        terms += [-sum(logs) / len(logs)] if logs else []
    found = contrastive_loss(x, torch.tensor(classes))
    torch.testing.assert_close(found, sum(terms) / 5)
    for count in (1, 2):
        alone = x[:count].clone().requires_grad_()
        loss = contrastive_loss(alone, torch.arange(count))
        loss.backward()
        assert loss == 0 == alone.grad.abs().sum()


@pytest.mark.parametrize(
    ("smoothing", "weights"), [(0.0, None), (0.1, None), (0.0, (0.3, 2.5)), (0.9, (0.3, 2.5))]
)
def test_weights_and_smoothing_are_those_of_torch(smoothing, weights):
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    reference = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    given = {"class_weights": weight, "label_smoothing": smoothing}
    loss = loss_of("cross-entropy", TWO, CLASSES, **given)
    torch.testing.assert_close(loss, reference(TWO, CLASSES), rtol=0, atol=0)
    both = torch.cat([torch.zeros_like(ONE), ONE], dim=1)
    one = loss_of("binary", ONE, CLASSES, **given)
    torch.testing.assert_close(one, reference(both, CLASSES))
    for name, logits, labels in (("mse", ONE, NUMBERS), ("multi-label", TWO, MANY)):
        expected = loss_of(name, logits, labels)
        assert torch.equal(loss_of(name, logits, labels, **given), expected)


@pytest.mark.parametrize(("loss", "logits", "labels", "expected"), [
    ("cross-entropy", TWO, CLASSES, nn.CrossEntropyLoss()(TWO, CLASSES)),
    ("multi-label", TWO, MANY, nn.BCEWithLogitsLoss()(TWO, MANY * 1.0)),
    ("binary", ONE, CLASSES, nn.BCEWithLogitsLoss()(ONE[:, 0], CLASSES * 1.0)),
    ("mse", ONE, NUMBERS, (ONE[:, 0] - NUMBERS).square().mean()),
    ("pearson", ONE, NUMBERS, 1 - np.corrcoef(ONE[:, 0], NUMBERS)[0, 1]),
    ("pearson", -3 * ONE + 7, NUMBERS, 1 + np.corrcoef(ONE[:, 0], NUMBERS)[0, 1]),
])  # fmt: skip
def test_the_mean_over_a_set_is_torchs_or_numpys(loss, logits, labels, expected):
    found = mean_loss(loss, logits.float().numpy(), labels.numpy())
    assert found == pytest.approx(float(expected), rel=1e-6)


def check_no_correlation(logits, labels):
    x = logits[:, None].clone().requires_grad_()
    loss = loss_of("pearson", x, labels)
    loss.backward()
    assert loss.item() == 1.0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_numbers_that_are_equal_or_differ_by_rounding_alone_have_no_correlation():
    """Whatever their mean is rounded to."""
    for count, value in product((1, 3, 64), (0.1, -2.3, 3.8, 1e4)):
        different, equal = torch.linspace(-1, 1, count), torch.full((count,), value)
        check_no_correlation(different, equal)
        check_no_correlation(equal, different)
        assert mean_loss("pearson", different[:, None].numpy(), np.full(count, value)) == 1.0
    x = torch.full((8,), 0.3)
    x[::3] = torch.nextafter(x[0], torch.ones(1))
    check_no_correlation(x, torch.arange(8.0))
    x = 0.3 + 1e-4 * torch.arange(8.0)[:, None]  # a little more
    assert loss_of("pearson", x, torch.arange(8.0)).item() == pytest.approx(0.0, abs=1e-4)
    for value in (float("nan"), float("inf")):
        x[2] = value
        assert not torch.isfinite(loss_of("pearson", x, torch.arange(8.0)))
    with pytest.raises(ValueError, match="no loss is called 'hinge'; there are cross-entropy"):
        loss_of("hinge", torch.zeros(1, 1), torch.zeros(1))
    x = ONE[:5, 0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: correlation(x, NUMBERS[:5]), (x,))
