"""Training steps through torch.compile: they are plain torch's, one graph a bucket, or one line."""

import copy
import importlib
import subprocess
import sysconfig
from contextlib import suppress
from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn

from adapters.injection import inject
from adapters.layer import Part
from adapters.lora import LoraLinear
from minbert.data.batches import Batch, bucket_of
from minbert.errors import InputError
from minbert.kernels.reference import kernels
from minbert.training import compiled
from minbert.training.compiled import CompiledModel, NoCompilerError, compile_model
from minbert.training.optimizer import ParameterGroup
from minbert.training.trainer import Trainer
from tests.adapters.small import CLASSES, base_model, disturb
from tests.components import need_compiler

with suppress(ImportError):  # torch.compile loads it, which fails once a test imported distutils
    importlib.import_module("setuptools")

CPU = torch.device("cpu")
LONGEST = 20
TEXTS = 4
ONE_BUCKET = [(TEXTS, 5), (2, 7), (TEXTS, 8)]
"""Texts of each batch, and tokens of its longest; the second is as an epoch's last."""
TWO_BUCKETS = [*ONE_BUCKET, (TEXTS, 12), (TEXTS, 16)]


@pytest.fixture(autouse=True)
def counters(monkeypatch, tmp_path):
    """torch's, where nothing that was compiled before is in memory or in a cache."""
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch):
    """Graphs are made, forward and backward, and run by torch's operators, without a compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


class Toy(nn.Module):
    """One adapted layer, which takes a tenth of the time to compile."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(60, 8).requires_grad_(False)
        self.layer = LoraLinear(nn.Linear(8, CLASSES), [Part(name="layer", rank=2, alpha=4.0)])
        self.layer.reset_parameters(0)
        disturb(self)

    def forward(self, ids, mask, _types, part=""):
        return (self.layer(self.table(ids)) * mask[:, :, None]).sum(dim=1)


def batches(sizes=ONE_BUCKET):
    generator = torch.Generator().manual_seed(3)
    found = []
    for texts, longest in sizes:
        ids = torch.randint(1, 60, (texts, bucket_of(longest, LONGEST)), generator=generator)
        lengths = torch.arange(longest, longest - texts, -1)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        labels = torch.arange(texts) % CLASSES
        found.append(Batch(ids * mask, mask, torch.zeros_like(ids), labels, int(lengths.sum())))
    return found


def train(model, forward, amp="off", sizes=ONE_BUCKET):
    """Loss, logits and every gradient of each step, by name."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainer = Trainer(
        model, [ParameterGroup(list(named.values()), 1e-2, 0.01)], losses={"": "cross-entropy"},
        schedule=lambda _step: 1.0, amp=amp, device=CPU, forward=forward,
    )  # fmt: skip
    for batch in batches(sizes):
        loss, logits = trainer.step(batch)
        gradients = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        yield {"loss": loss, "logits": logits, **gradients}


def assert_steps_are_plain(counters, model, sizes=ONE_BUCKET):
    """Train a model compiled, and a copy by plain torch; the cached share of graphs, and steps."""
    other, stats = copy.deepcopy(model), counters["stats"]
    buckets, before = {bucket_of(longest, LONGEST) for _, longest in sizes}, stats["unique_graphs"]
    compiled_model = compile_model(model, texts=TEXTS, lengths=buckets, amp="off")
    made = stats["unique_graphs"]
    with kernels("reference"):
        expected = list(train(other, None, sizes=sizes))
    steps = list(train(model, compiled_model, sizes=sizes))
    torch.testing.assert_close(steps, expected, rtol=1e-3, atol=1e-5)
    after = stats["unique_graphs"]
    assert after == made == before + len(buckets), "a graph each, all of them made beforehand"
    return compiled_model.cached, steps


def test_compiled_steps_are_those_of_plain_torch_cold_and_warm(monkeypatch, counters):
    """The cache has code that computes the same to the last bit, AOTAutograd's part included."""
    from torch._inductor import cpu_vec_isa

    need_compiler()
    # torch finds vector instructions by compiling for each
    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", list)
    model = Toy()
    cached, cold = assert_steps_are_plain(counters, copy.deepcopy(model))
    assert cached == 0
    assert counters["aot_autograd"]["autograd_cache_saved"] == 1
    torch._dynamo.reset()
    cached, warm = assert_steps_are_plain(counters, model)
    assert cached == 1
    assert counters["aot_autograd"]["autograd_cache_hit"] == 1
    torch.testing.assert_close(warm, cold, rtol=0, atol=0)


@pytest.mark.parametrize(("mode", "layers", "pooling", "sizes"), [
    ("full", None, "mean", TWO_BUCKETS), ("lora", "attn", "pooler", ONE_BUCKET),
    ("dora", "all-lin-only", "mean", ONE_BUCKET),
])  # fmt: skip
@pytest.mark.usefixtures("traced")
def test_every_mode_can_be_traced_and_half_precision(counters, mode, layers, pooling, sizes):
    model, rank = base_model(pooling, layers=1), None if layers is None else 4
    inject(model, mode=mode, layers=layers, rank=rank, alpha=16.0, new_pooler=False, seed=0)
    disturb(model)
    half = copy.deepcopy(model)
    _, steps = assert_steps_are_plain(counters, model, sizes)
    if mode == "dora":
        compiled_model = compile_model(half, texts=TEXTS, lengths={8}, amp="bf16")
        steps = steps, train(half, compiled_model, "bf16")
        losses = [[step["loss"] for step in each] for each in steps]
        torch.testing.assert_close(*losses, rtol=0, atol=0.03)
        assert counters["stats"]["unique_graphs"] == 2


@pytest.fixture
def recorder(monkeypatch):
    """Stands for torch.compile: its arguments, the shapes that come, and what it runs, a model."""
    record = mock.Mock(model=Toy(), shapes=[])
    record.run = record.model

    def stand_in(model, *, isolate_recompiles, **options):
        assert isolate_recompiles
        record.options = options
        return run

    def run(ids, *others):
        record.shapes.append(tuple(ids.shape))
        return record.run(ids, *others)

    monkeypatch.setattr(torch, "compile", stand_in)
    return record


def test_all_buckets_are_rehearsed_before_training_in_the_mode_of_the_device(recorder, monkeypatch):
    assert compiled._MODES["cuda"] == "reduce-overhead"
    model = recorder.model
    before = {name: p.clone() for name, p in model.named_parameters()}
    compile_model(model, texts=3, lengths=[16, 8, 16], amp="bf16")
    assert recorder.shapes == [(3, 16), (3, 8)], "the longest first, whose memory serves the others"
    assert recorder.options == {
        "fullgraph": True, "dynamic": False, "mode": "default", "recompile_limit": 2,
    }  # fmt: skip
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert model.training

    recorder.shapes.clear()
    monkeypatch.setitem(compiled._ROUNDS, "cpu", compiled._ROUNDS["cuda"])
    compile_model(model, texts=3, lengths=[16, 8], amp="off")
    assert recorder.shapes == [(3, 16), (3, 8)] * 3, "warmed up, recorded, launched"


def test_what_a_cuda_graph_overwrites_is_copied_and_small_batches_have_none(recorder, monkeypatch):
    model = CompiledModel(recorder.model, TEXTS, [8])
    small, batch = batches([(2, 5), (TEXTS, 5)])
    model(small)
    assert recorder.shapes == []
    kept = torch.zeros(TEXTS, CLASSES)
    recorder.run = lambda *_: kept
    assert model(batch) is kept
    assert recorder.shapes == [(TEXTS, 8)]
    monkeypatch.setattr(model, "_device", torch.device("cuda"))
    assert model(batch) is not kept
    torch.testing.assert_close(model(batch), kept)


def test_a_part_without_a_cuda_graph_is_refused(recorder, counters):
    def skipping(*given):
        counters["inductor"]["cudagraph_skips"] += 1
        return recorder.model(*given)

    counters["inductor"]["cudagraph_skips"] += 1  # another's, before
    compile_model(recorder.model, texts=2, lengths=[8], amp="off")
    recorder.run = skipping
    message = refusal(recorder.model, missing=False)
    assert message.startswith("compile: torch made no CUDA graph of a part of the model (")
    assert message.endswith(" says why); leave compile out")


def refusal(model, *, missing):
    with pytest.raises(InputError) as caught:
        compile_model(model, texts=2, lengths=[8], amp="off")
    assert isinstance(caught.value, NoCompilerError) == missing
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_compiler_an_older_torch_and_code_that_is_not_traced_are_one_line(monkeypatch):
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("/nowhere/g++",)}):
        message = refusal(Toy(), missing=True)
    assert message.startswith("compile: torch can't compile the model (")
    assert "No working C++ compiler" in message
    assert message.endswith("leave compile out")
    monkeypatch.setattr(Toy, "forward", lambda self, ids, *_: print(self.table(ids)))
    assert "compile: torch can't compile the model (" in refusal(Toy(), missing=False)
    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic=None: model)
    assert "is too old for it" in refusal(Toy(), missing=True)


def in_a_worker():
    """As torch has it where triton compiles in another process, and gcc fails there."""
    from torch._inductor.compile_worker.subproc_pool import SubprocException
    from torch._inductor.exc import InductorError

    lines = "Traceback (most recent call last):\n  File x\nRuntimeError: Failed to find C compiler."
    return InductorError(SubprocException(lines, "kernel"), None)


@pytest.mark.parametrize(("error", "reason", "missing"), [
    (lambda: subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c"]),
     "Command '['/usr/bin/gcc', 'main.c']' returned non-zero exit status 1.", "Python.h"),
    (lambda: FileNotFoundError(2, "No such file or directory", "/nowhere/gcc"),
     "[Errno 2] No such file or directory: '/nowhere/gcc'", "CC"),
    (in_a_worker, "RuntimeError: Failed to find C compiler.", "compiler"),
], ids=["fails", "absent", "in a worker"])  # fmt: skip
def test_what_triton_lacks_is_one_line(error, reason, missing, recorder, monkeypatch, tmp_path):
    recorder.run = mock.Mock(side_effect=error())
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    message = refusal(recorder.model, missing=missing == "compiler")
    assert message.startswith(f"compile: torch can't compile the model ({reason}); it needs")
    (tmp_path / "Python.h").unlink()
    assert refusal(recorder.model, missing=missing in ("Python.h", "compiler")) == message
    monkeypatch.setenv("CC", "/nowhere/gcc")
    assert refusal(recorder.model, missing=True) == message


@pytest.mark.parametrize(("error", "while_compiling"), [
    (torch.OutOfMemoryError("CUDA out of memory."), False), (MemoryError(), True),
    (RuntimeError("can't allocate memory"), True),
])  # fmt: skip
def test_a_lack_of_memory_is_no_lack_of_a_compiler(error, while_compiling, recorder):
    from torch._inductor.exc import InductorError

    recorder.run = mock.Mock(side_effect=InductorError(error, None) if while_compiling else error)
    with pytest.raises(type(error)) as caught:
        compile_model(recorder.model, texts=2, lengths=[8], amp="off")
    assert caught.value is error
