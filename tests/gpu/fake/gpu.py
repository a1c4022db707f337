"""A GPU for fake tensors: what a CPU build lacks, what a GPU waits for, and small models."""

from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from adapters.injection import convert_frozen, inject, parameter_groups
from bench.forecast.fake import fill
from minbert.data.batches import Batch
from minbert.model.classifier import BertClassifier
from minbert.model.config import GEOMETRIES
from minbert.training.optimizer import ParameterGroup
from minbert.training.schedules import schedule_of
from minbert.training.trainer import HALF, Trainer

GPU = torch.device("cuda", 0)
CONFIG = replace(GEOMETRIES["bert-tiny"], vocab_size=1000, hidden_size=32, intermediate_size=64)
CLASSES = 3
_ATEN = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_HALF = (torch.float16, torch.bfloat16)
_WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
"""Tags of operators whose result, or its shape, the CPU has to know."""


def stand_in(patch):
    """Let code that this build of torch lacks run on fake tensors."""
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    patch.setattr(F, "scaled_dot_product_attention", _attention)


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, **_):
    """As torch's C++ does it on a GPU, where cuDNN's is off as in cells: without a mask in half
    precision by its kernel flash, else by the one called efficient. That takes a bias in rows of a
    multiple of 8 numbers: a boolean mask becomes one, and one of other rows is padded."""
    if torch.is_autocast_enabled("cuda"):
        half = torch.get_autocast_dtype("cuda")
        q, k, v = q.to(half), k.to(half), v.to(half)
    if attn_mask is None and q.dtype in _HALF:
        return _ATEN._scaled_dot_product_flash_attention(q, k, v, dropout_p)[0]
    bias = None
    if attn_mask is not None:
        bias, length = attn_mask, attn_mask.shape[-1]
        if bias.dtype == torch.bool:
            none = torch.full((), -torch.inf, dtype=q.dtype, device=q.device)
            bias = torch.where(bias, 0.0, none)
        if any(stride % 8 for stride in bias.stride()[:-1]):
            bias = F.pad(bias, (0, 8 - length % 8))[..., :length]
        bias = bias.expand(*q.shape[:3], length)
    differentiated = torch.is_grad_enabled() and q.requires_grad
    efficient = _ATEN._scaled_dot_product_efficient_attention
    return efficient(q, k, v, bias, differentiated, dropout_p)[0]


class Watch(TorchDispatchMode):
    """While it is entered, notes the names of operators, and as `problems` those among them that a
    GPU's step must not have: one that the CPU waits for, and one that reads or makes a tensor on
    the CPU. Numbers [] of the CPU alone are allowed if `counts`: Adamax's and RAdam's steps."""

    def __init__(self, *, counts=False):
        super().__init__()
        self.names = []
        self.problems = {}
        self._counts = counts

    @classmethod
    def _should_skip_dynamo(cls):
        """No: the wrapper that torch asks here takes a tenth of the time."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is _DEVICE:
            return args[0].fake_device  # sooner than by asking
        kwargs = kwargs or {}
        given = list(_tensors([*args, *kwargs.values()]))
        by_mask = func is _ATEN.index.Tensor and any(t.dtype is torch.bool for t in given[1:])
        waits = any(tag in func.tags for tag in _WAITS) and func is not _ATEN.index.Tensor
        if (waits or by_mask) and any(t.device.type != "cpu" for t in given):
            self.problems[f"{func} is waited for"] = None
        out = func(*args, **kwargs)
        if func.namespace == "prim":
            return out
        self.names.append(str(func))
        tensors = [*given, *_tensors([out])]
        if self._counts and all(t.device.type == "cpu" and t.dim() == 0 for t in tensors):
            return out
        if elsewhere := {str(t.device) for t in tensors if t.device != GPU}:
            self.problems[f"{func} with a tensor on {', '.join(elsewhere)}"] = None
        return out


def _tensors(values):
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def model_of(
    mode, layers=None, amp="off", *, model=None, pooling="mean", head="linear", outputs=CLASSES,
    held=False,
):  # fmt: skip
    """A model with its adapters, on the meta device; a classifier unless it is given, of two layers
    if a pooler reads the first token of the last. `held`: frozen weights are in AMP's type."""
    if model is None:
        config = CONFIG if pooling == "pooler" else replace(CONFIG, num_hidden_layers=1)
        model = BertClassifier(config, outputs, pooling=pooling, dropout=0.1, head=head)
    rank = None if layers is None else 4
    inject(model, mode=mode, layers=layers, rank=rank, alpha=1.0, new_pooler=False, seed=0)
    if held:
        convert_frozen(model, HALF[amp])
    return model


@contextmanager
def faked(model):
    """While it is entered, every tensor is fake, and the model's are on the GPU."""
    with FakeTensorMode():
        fill(model, GPU)
        yield model


def trainer_of(model, amp="off", *, optimizer="adamw", loss="cross-entropy", named=None):
    """A trainer of all parameters that a model's mode trains: `named`, if it is not of minbert."""
    named = named or parameter_groups(model)
    groups = [ParameterGroup(tuple(each.values()), 1e-3, 0.01) for each in named.values()]
    return Trainer(
        model, groups, losses={"": loss}, schedule=schedule_of("linear", 3, 0.0), amp=amp,
        device=GPU, optimizer=optimizer,
    )  # fmt: skip


def batch_of(texts=8, longest=21, *, masked=True):
    """A batch; without a mask its texts are of one length."""
    ids = torch.zeros(texts, longest, dtype=torch.int64, device=GPU)
    mask = torch.ones_like(ids) if masked else None
    return Batch(ids, mask, torch.zeros_like(ids), ids[:, 0], ids.numel())
