"""Heads: against their definitions, and blind to padding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from minbert.model.heads import HEADS

WIDTH, OUTPUTS = 12, 5


def drawn(name, dropout=0.0):
    """A head with weights, in evaluation."""
    head = HEADS[name](WIDTH, OUTPUTS, dropout).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return head.eval()


def hidden(texts=3, tokens=7):
    return torch.randn(texts, tokens, WIDTH, generator=torch.Generator().manual_seed(2))


def test_nonlinear_is_two_with_gelu_between():
    head, x = drawn("nonlinear"), hidden()[:, 0]
    torch.testing.assert_close(head(x), head.out(F.gelu(head.dense(x))))


def test_convolutions_are_torchs():
    head, x = drawn("conv"), hidden()
    found = []
    for window, linear in zip((2, 3, 4), head.windows, strict=True):
        conv = nn.Conv1d(WIDTH, linear.out_features, window)
        kernel = linear.weight.view(linear.out_features, window, WIDTH).transpose(1, 2)
        conv.load_state_dict({"weight": kernel, "bias": linear.bias})
        channels = conv(F.pad(x.transpose(1, 2), (0, window - 1)))
        found.append(F.relu(channels).amax(dim=2))
    torch.testing.assert_close(head(x), head.out(torch.cat(found, dim=1)), rtol=1e-4, atol=1e-5)


def test_convolutions_do_not_see_padding():
    head, x = drawn("conv"), hidden()
    alone = head(x[:1, :4])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7, [1] * 7])
    torch.testing.assert_close(head(x, mask)[:1], alone)
    noise = x + 100 * (1 - mask[:, :, None])
    torch.testing.assert_close(head(noise, mask), head(x, mask))


@pytest.mark.parametrize("name", HEADS)
def test_dropout_is_for_training_alone_and_every_weight_learns(name):
    head = drawn(name, dropout=0.5)
    x = hidden() if head.reads_tokens else hidden()[:, 0]
    assert torch.equal(head(x), head(x))
    head(x).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())
    head.train()
    assert not torch.equal(head(x), head(x))
