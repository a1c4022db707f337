"""Dropout with cheap random numbers.

On a CPU torch draws them one by one from a Mersenne twister, which takes a tenth of a training step
of a small encoder. Here numpy's SFC64 (tested with PractRand) draws them, seeded for each call from
torch's own generator, so that `torch.manual_seed` still determines them all. Each has 16 bits, so
the probability is exact to 1/65536.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.reference import has_values, is_spelled_out

_STEPS: Final = 1 << 16
_DRAWS_IN_WORD: Final = 4


def keep_mask(like: Tensor, p: float) -> Tensor:
    """A uint8 mask in the shape of a tensor: 0 with probability p, exact to 1/65536, else 1."""
    if not has_values(like):
        return torch.empty_like(like, dtype=torch.uint8)
    count = like.numel()
    seed = int(torch.randint(1 << 62, ()).item())
    words = np.random.SFC64(seed).random_raw(-(-count // _DRAWS_IN_WORD))
    kept = words.view(np.uint16)[:count] >= round(p * _STEPS)
    return torch.from_numpy(kept.view(np.uint8)).view(like.shape)


def factor_of(p: float) -> float:
    """The factor on kept elements: 1 / (1 − p), or 0 if p is 1."""
    return 0.0 if p == 1 else 1 / (1 - p)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with each element 0 with probability p, else divided by 1 − p; x itself in evaluation."""
    if not training or p == 0:
        return x
    if is_spelled_out(x):
        return F.dropout(x, p)
    return x * keep_mask(x, p) * factor_of(p)
