"""Losses: against torch's and numpy's, and where there is none."""

import numpy as np
import pytest
import torch
from torch import nn

from minbert.training.losses import correlation, loss_of, mean_loss

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 2, 30)
NUMBERS = RNG.normal(size=30)
ONE = RNG.normal(size=(30, 1))
TWO = RNG.normal(size=(30, 2))
MANY = RNG.integers(0, 2, (30, 2))


def as_torch(array):
    return torch.from_numpy(array)


@pytest.mark.parametrize(
    ("smoothing", "weights"), [(0.0, None), (0.1, None), (0.0, (0.3, 2.5)), (0.9, (0.3, 2.5))]
)
def test_weights_and_smoothing_are_those_of_torch(smoothing, weights):
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    reference = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    given = {"class_weights": weight, "label_smoothing": smoothing}
    loss = loss_of("cross-entropy", as_torch(TWO), as_torch(CLASSES), **given)
    torch.testing.assert_close(loss, reference(as_torch(TWO), as_torch(CLASSES)), rtol=0, atol=0)
    both = np.concatenate([np.zeros_like(ONE), ONE], axis=1)
    one = loss_of("binary", as_torch(ONE), as_torch(CLASSES), **given)
    torch.testing.assert_close(one, reference(as_torch(both), as_torch(CLASSES)))
    for name, logits, labels in (("mse", ONE, NUMBERS), ("multi-label", TWO, MANY)):
        expected = loss_of(name, as_torch(logits), as_torch(labels))
        assert torch.equal(loss_of(name, as_torch(logits), as_torch(labels), **given), expected)


@pytest.mark.parametrize(
    ("loss", "logits", "labels", "expected"),
    [
        ("cross-entropy", TWO, CLASSES, nn.CrossEntropyLoss()(as_torch(TWO), as_torch(CLASSES))),
        ("multi-label", TWO, MANY, nn.BCEWithLogitsLoss()(as_torch(TWO), as_torch(MANY * 1.0))),
        (
            "binary",
            ONE,
            CLASSES,
            nn.BCEWithLogitsLoss()(as_torch(ONE[:, 0]), as_torch(CLASSES * 1.0)),
        ),
        ("mse", ONE, NUMBERS, np.square(ONE[:, 0] - NUMBERS).mean()),
        ("pearson", ONE, NUMBERS, 1 - np.corrcoef(ONE[:, 0], NUMBERS)[0, 1]),
        ("pearson", -3 * ONE + 7, NUMBERS, 1 + np.corrcoef(ONE[:, 0], NUMBERS)[0, 1]),
    ],
)
def test_the_mean_over_a_set_is_torchs_or_numpys(loss, logits, labels, expected):
    found = mean_loss(loss, logits.astype(np.float32), labels)
    assert found == pytest.approx(float(expected), rel=1e-6)


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


@pytest.mark.parametrize("count", [1, 3, 64])
def test_equal_numbers_are_constant_whatever_their_mean_is_rounded_to(count):
    for value in (0.1, -2.3, 3.8, 1e4):
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


def test_another_name_of_a_loss_is_refused():
    with pytest.raises(ValueError, match="no loss is called 'hinge'; there are cross-entropy"):
        loss_of("hinge", torch.zeros(1, 1), torch.zeros(1))
