"""Losses: against torch's and numpy's, and where there is none."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from minbert.training.losses import LOSSES, correlation, loss_name, loss_of, mean_loss

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 2, 30)
NUMBERS = RNG.normal(size=30)
ONE = RNG.normal(size=(30, 1))
TWO = RNG.normal(size=(30, 2))
MANY = RNG.integers(0, 2, (30, 2))


def as_torch(array):
    return torch.from_numpy(array)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, (0.3, 2.5)])
def test_weights_and_smoothing_are_those_of_torch(smoothing, weights):
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    reference = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    given = {"class_weights": weight, "label_smoothing": smoothing}
    two = as_torch(TWO).requires_grad_()
    loss = loss_of("cross-entropy", two, as_torch(CLASSES), **given)
    torch.testing.assert_close(loss, reference(two, as_torch(CLASSES)), rtol=0, atol=0)
    both = np.concatenate([np.zeros_like(ONE), ONE], axis=1)
    one = loss_of("binary", as_torch(ONE), as_torch(CLASSES), **given)
    torch.testing.assert_close(one, reference(as_torch(both), as_torch(CLASSES)))


def test_several_labels_have_the_mean_over_examples_and_classes():
    expected = nn.BCEWithLogitsLoss()(as_torch(TWO), as_torch(MANY.astype(np.float64)))
    assert loss_of("multi-label", as_torch(TWO), as_torch(MANY)).item() == expected.item()
    by_class = [mean_loss("binary", TWO[:, [n]], MANY[:, n]) for n in range(2)]
    assert mean_loss("multi-label", TWO, MANY) == pytest.approx(np.mean(by_class))


def test_weights_and_smoothing_leave_other_losses_alone():
    given = {"class_weights": torch.tensor([0.3, 2.5]), "label_smoothing": 0.5}
    for loss, logits, labels in (("mse", ONE, NUMBERS), ("multi-label", TWO, MANY)):
        expected = loss_of(loss, as_torch(logits), as_torch(labels))
        assert torch.equal(loss_of(loss, as_torch(logits), as_torch(labels), **given), expected)


def test_pearson_is_one_less_numpys():
    expected = 1 - np.corrcoef(ONE[:, 0], NUMBERS)[0, 1]
    assert mean_loss("pearson", ONE, NUMBERS) == pytest.approx(expected)
    assert mean_loss("pearson", -3 * ONE + 7, NUMBERS) == pytest.approx(2 - expected)


def test_the_gradient_of_pearson_is_right():
    x = as_torch(ONE[:5, 0].copy()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: correlation(x, as_torch(NUMBERS[:5])), (x,))


def check_no_correlation(logits, labels):
    """Fail unless the loss is 1 and has no gradient."""
    x = logits[:, None].clone().requires_grad_()
    loss = loss_of("pearson", x, labels)
    loss.backward()
    assert loss.item() == 1.0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 64])
def test_equal_numbers_are_constant_whatever_their_mean_is_rounded_to(count):
    for value in (0.1, 0.3, 0.7, 1.1, -2.3, 3.8, 1e4):
        different, equal = torch.linspace(-1, 1, count), torch.full((count,), value)
        check_no_correlation(different, equal)
        check_no_correlation(equal, different)
        assert mean_loss("pearson", different[:, None].numpy(), np.full(count, value)) == 1.0


def test_numbers_that_differ_by_rounding_alone_have_no_correlation():
    x = torch.full((8,), 0.3)
    x[::3] = torch.nextafter(x[0], torch.ones(1))
    check_no_correlation(x, torch.arange(8.0))
    x = 0.3 + 1e-4 * torch.arange(8.0)[:, None]  # a little more
    assert loss_of("pearson", x, torch.arange(8.0)).item() == pytest.approx(0.0, abs=1e-4)
    for value in (float("nan"), float("inf")):
        x[2] = value
        assert not torch.isfinite(loss_of("pearson", x, torch.arange(8.0)))


def test_a_mean_of_large_numbers_is_torchs():
    logits = RNG.normal(size=(50, 5)).astype(np.float32) * 30
    labels = RNG.integers(0, 5, 50)
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    assert mean_loss("cross-entropy", logits, labels) == pytest.approx(expected, rel=1e-5)


def test_a_task_has_its_loss_and_another_name_is_refused():
    with pytest.raises(ValueError, match="no loss is called 'hinge'; there are cross-entropy"):
        loss_of("hinge", torch.zeros(1, 1), torch.zeros(1))
    assert loss_name("classification") == loss_name("classification", "pearson") == "cross-entropy"
    assert loss_name("multi_label") == "multi-label"
    assert loss_name("regression") == "mse"
    assert loss_name("regression", "pearson") == "pearson"


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_over_a_set_is_that_of_a_batch(loss):
    logits = TWO if loss in ("cross-entropy", "multi-label") else ONE
    labels = NUMBERS if loss in ("mse", "pearson") else MANY if loss == "multi-label" else CLASSES
    expected = float(loss_of(loss, as_torch(logits), as_torch(labels)))
    assert mean_loss(loss, logits.astype(np.float32), labels) == pytest.approx(expected, rel=1e-6)
