"""Several tasks on one encoder or two, and losses against torch's and numpy's."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from minbert.data.batches import collate
from minbert.data.encoded import Encoded
from minbert.model.classifier import BertClassifier, HeadConfig, initialise
from minbert.model.config import GEOMETRIES
from minbert.model.heads import pair_features
from minbert.training.losses import correlation, loss_of, mean_loss
from minbert.training.trainer import logits_of
from tests.minbert.peers import sizes

HEADS = {
    "sst": HeadConfig(outputs=5),
    "quora": HeadConfig(outputs=1, pairs=True),
    "sts": HeadConfig(outputs=1, pairs=True),
}
CPU = torch.device("cpu")
CONFIG = sizes(12, 2, 2, 24, 60, 16)


def model(encoders=2, head="nonlinear", pooling="mean"):
    found = BertClassifier(
        CONFIG, HEADS, encoders=encoders, head=head, pooling=pooling, dropout=0.1
    )
    initialise(found, seed=0)
    return found.eval()


def texts(count=6, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, count)
    total = int(lengths.sum())
    return Encoded(
        rng.integers(1, 60, total, dtype=np.int32),
        np.zeros(total, dtype=np.int8),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def batch(part, indices):
    sides = [texts(seed=1), texts(seed=2)] if HEADS[part].pairs else [texts(seed=1)]
    return collate(sides, np.arange(6) % 2, indices, 0, CPU, part=part)


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


@pytest.mark.parametrize(
    ("encoders", "head", "pooling"),
    [(1, "linear", "mean"), (2, "nonlinear", "pooler"), (1, "conv", "pooler"), (2, "conv", "mean")],
)
def test_each_task_has_its_logits_and_an_example_does_not_see_the_others(encoders, head, pooling):
    of = model(encoders, head, pooling)
    for part, expected in HEADS.items():
        together = logits_of(of, batch(part, [0, 1, 2, 3, 4, 5]))
        assert together.shape == (6, expected.outputs)
        assert together.dtype == torch.float32
        alone = torch.cat([logits_of(of, batch(part, [index])) for index in range(6)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoders", [1, 2])
def test_with_two_encoders_pairs_and_sentences_train_apart_and_one_trains_by_all(encoders):
    of = model(encoders)
    assert (of.bert_pairs is None) == (encoders == 1)
    for part, head in HEADS.items():
        of.zero_grad()
        logits_of(of, batch(part, [0, 1, 2])).sum().backward()
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


@pytest.mark.parametrize(
    ("loss", "logits", "labels", "expected"),
    [
        ("cross-entropy", TWO, CLASSES, nn.CrossEntropyLoss()(TWO, CLASSES)),
        ("multi-label", TWO, MANY, nn.BCEWithLogitsLoss()(TWO, MANY * 1.0)),
        ("binary", ONE, CLASSES, nn.BCEWithLogitsLoss()(ONE[:, 0], CLASSES * 1.0)),
        ("mse", ONE, NUMBERS, (ONE[:, 0] - NUMBERS).square().mean()),
        ("pearson", ONE, NUMBERS, 1 - np.corrcoef(ONE[:, 0], NUMBERS)[0, 1]),
        ("pearson", -3 * ONE + 7, NUMBERS, 1 + np.corrcoef(ONE[:, 0], NUMBERS)[0, 1]),
    ],
)  # fmt: skip
def test_the_mean_over_a_set_is_torchs_or_numpys(loss, logits, labels, expected):
    found = mean_loss(loss, logits.float().numpy(), labels.numpy())
    assert found == pytest.approx(float(expected), rel=1e-6)


def check_no_correlation(logits, labels):
    """Fail unless the loss is 1 and has no gradient."""
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
