"""A worker's imports, steps and epochs, run in this process on tiny encoders and folders; what has
to move in training, cut texts, and what it sends without being blocked."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import chain

import pytest
import torch
from tokenizers import Tokenizer as Library
from torch import nn

from bench.engines import minbert
from bench.examples import tokens
from bench.worker.process import Progress
from bench.worker.run import CellRun, InvalidError
from bench.worker.weights import Movement
from minbert.data.tasks import load_data
from minbert.training.optimizer import Optimizer
from tests.adapters.small import adapted_layers_of, adapted_model, disturb
from tests.bench.tiny_cells import PARTS, cell, ended, job_of
from tests.cs224n import write_folder
from tests.encoders import job

ALL_EXAMPLES = 24
"""Of each part: with batches of so many an epoch is three steps, sst, quora and sts in sequence."""
NO_RATE = 1e-50
"""Nothing in fp32, where an adapter's B begins at 0 and stays there."""


def job_on(checkpoint, folder, task, mode, **changes):
    data = write_folder(folder / "data", count=ALL_EXAMPLES)
    values = {
        "task": task, "data_digest": load_data(task, data).digest[:16], "max_train": None,
        "max_dev": None, "schedule": "halving", **changes,
    }  # fmt: skip
    (folder / "cell").mkdir()
    return replace(job_of(cell(checkpoint, mode, "all-lin", **values), checkpoint), data=str(data))


def parts_job(checkpoint, folder, mode="lora", **changes):
    """A cell of all parts on two encoders that unfreeze epoch by epoch."""
    values = {
        "encoders": 2, "batch_size": ALL_EXAMPLES, "epochs": 5, "unfreeze": "iterative",
        "regression_loss": "mse", "task_order": "sequential", "task_rates": "quora=5 sst=4 sts=3",
        "task_decays": "quora=0.01 sst=0.01 sts=0.01",
    }  # fmt: skip
    return job_on(checkpoint, folder, "multitask", mode, **values | changes)


@pytest.mark.parametrize(("order", "seed", "last", "moved"), [
    ("sequential", 0, "sst", {"bert": {3}, "bert_pairs": set()}),
    ("proportional", 1, "quora", {"bert": set(), "bert_pairs": {3}}),
])  # fmt: skip
def test_layers_without_a_batch_need_not_move(deep_checkpoint, tmp_path, order, seed, last, moved):
    """The fourth step begins the second epoch, which unfreezes the top layer of both encoders."""
    of = parts_job(deep_checkpoint, tmp_path, max_steps=4, task_order=order, seed=seed)
    run = ended(of, tmp_path / "cell")
    came = [part for epoch in (0, 1) for ((part, _),) in run._order(epoch)]
    assert ({*came[:3]}, came[3]) == ({"sst", "quora", "sts"}, last)
    first = dict(minbert.build(of).named_parameters())
    layers = {"bert": set(), "bert_pairs": set()}
    for name, parameter in run.model.named_parameters():
        of_layer = re.match(r"(\w+)\.encoder\.layer\.(\d+)\.", name)
        if of_layer and not torch.equal(parameter, first[name]):
            layers[of_layer[1]].add(int(of_layer[2]))
    assert layers == moved


def test_a_training_of_several_parts_that_moves_nothing_is_invalid(deep_checkpoint, tmp_path):
    of = parts_job(deep_checkpoint, tmp_path, max_steps=4, learning_rate=NO_RATE)
    with pytest.raises(InvalidError, match=r"^nothing was learned in: .*lora_B"):
        ended(of, tmp_path / "cell")


def test_a_rate_halves_where_an_epoch_of_all_parts_ends(tiny_checkpoint, tmp_path, monkeypatch):
    """24 examples of each part in batches of 16 are two steps each, six in all."""
    rates, step = [], Optimizer.step

    def noted(of):
        rates.append(*{group["lr"] for group in of.param_groups})
        step(of)

    monkeypatch.setattr(Optimizer, "step", noted)
    values = {"unfreeze": "all", "batch_size": 16, "epochs": 3, "warmup": 0.0}
    of = parts_job(tiny_checkpoint, tmp_path, "full", **values, learning_rate=1e-3)
    run = ended(of, tmp_path / "cell")
    factors = [4, 4, 5, 5, 3, 3]
    expected = [1e-3 * factor / 2**epoch for epoch in range(3) for factor in factors]
    assert rates[: len(run.losses)] == pytest.approx(expected)


LENGTHS = {"sst": 8, "sts": 12, "multitask": 8}
"""A max_length by which some of a task's texts are cut, and some are not."""


def cutting(checkpoint, data, **changes):
    """A cell of a task that cuts some of its texts."""
    values = {
        "task": data.task.name, "data_digest": data.digest[:16], "max_train": None,
        "max_dev": None, "max_length": LENGTHS[data.task.name],
    }  # fmt: skip
    return cell(checkpoint, "head", **(PARTS if data.task.parts else {}) | values | changes)


@pytest.mark.parametrize("task", LENGTHS)
def test_a_worker_counts_what_is_cut(cache, tmp_path, tiny_checkpoint, task, monkeypatch):
    """Of all texts, those held out included, as the note before a run; mapped or made by itself."""
    folder, length = write_folder(tmp_path / "data"), LENGTHS[task]
    data = load_data(task, folder)
    sides = [side for of in data.pieces().values() for side in (of.train, of.dev)]
    pairs = [s.text_a if s.text_b is None else zip(s.text_a, s.text_b, strict=True) for s in sides]
    library = Library.from_file(str(tiny_checkpoint / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    sizes = [len(encoded) for encoded in library.encode_batch([*chain.from_iterable(pairs)])]
    lost = [size - length for size in sizes if size > length]
    assert 0 < len(lost) < len(sizes)
    of = cutting(tiny_checkpoint, data, held_out=0.25)
    job = replace(job_of(of, tiny_checkpoint), data=str(folder))
    for _ in range(2):
        run = CellRun(job, tmp_path, Progress(None))
        run._tokenise()
        assert run.columns["texts_cut"] == len(lost)
        assert run.columns["tokens_cut"] == pytest.approx(sum(lost) / sum(sizes))
    share = f"{sum(lost) / sum(sizes):.1%} of all tokens with them"
    expected = [f"max_length {length} cuts {len(lost)} of {len(sizes)} texts, and {share}"]

    def notes():
        return [*tokens.cut_notes(data, of, tiny_checkpoint, folder)]

    assert notes() == expected
    assert list((cache / "tokens").iterdir())
    with monkeypatch.context() as mapped:
        mapped.setattr(tokens, "make", None)
        assert notes() == expected, "a second time nothing is tokenised"
    monkeypatch.setenv("MINBERT_CACHE", str(folder / "sst-train.csv"))
    assert notes() == expected, "without a cache too"


@pytest.mark.usefixtures("cache")
def test_small_shares_nothing_cut_and_nothing_that_can_be_tokenised(tmp_path, tiny_checkpoint):
    folder = write_folder(tmp_path / "data")
    path = folder / "ids-sst-train.csv"
    rows = ["\tid\tsentence\tsentiment", *(f"{n}\tid\t{'good ' * 9}{n}\t1" for n in range(200))]
    path.write_text("\n".join([*rows, f"0\tid\t{'good ' * 11}\t1"]) + "\n", encoding="utf-8")
    data = load_data("sst", folder)
    of = cutting(tiny_checkpoint, data, max_length=12)
    assert [*tokens.cut_notes(data, of, tiny_checkpoint, folder)] == [
        "max_length 12 cuts 1 of 213 texts, and under 0.1% of all tokens with them"
    ]
    whole = replace(of, max_length=128)
    assert [*tokens.cut_notes(data, whole, tiny_checkpoint, folder)] == []
    (tmp_path / "empty").mkdir()
    assert [*tokens.cut_notes(data, of, tmp_path / "empty", folder)] == []


@pytest.mark.parametrize(("mode", "layers"), [("dora", "all-lin"), ("full", None), ("head", None)])
def test_a_model_is_in_order_once_it_has_trained(mode, layers):
    """And each tensor of the head has moved, or one where some may rest."""
    model = adapted_model(mode=mode, layers=layers, rank=2 if layers else None)
    movement = Movement(model, minbert)
    stuck = "nothing was learned in: classifier.bias"
    for every in (True, False):
        assert movement.problem(every=every) == f"{stuck}, classifier.weight"
    with torch.no_grad():
        model.classifier.weight.add_(1)
        assert movement.problem() == stuck
        rest = "the encoder was to train and did not move" if mode == "full" else None
        assert layers or movement.problem(every=False) == rest
    disturb(model)
    assert movement.problem() is None


def test_an_adapter_that_did_not_move_and_a_frozen_tensor_that_did_are_named():
    model = adapted_model(mode="lora", layers="attn-only")
    movement = Movement(model, minbert)
    name, layer = list(adapted_layers_of(model).items())[1]
    before = layer.lora_B.detach().clone()
    disturb(model)
    with torch.no_grad():
        layer.lora_B.copy_(before)
        assert movement.problem() == f"nothing was learned in: {name}.lora_B"
        frozen = next((n, p) for n, p in model.named_parameters() if not p.requires_grad)
        frozen[1].view(-1)[0] += 1e-6
    assert movement.problem() == f"frozen tensors moved: {frozen[0]}"
    # also one of odd width in half precision
    model = nn.Linear(21, 15, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    movement = Movement(model, minbert)
    with torch.no_grad():
        model.weight[0, 0] *= 1.01
    assert movement.problem() == "frozen tensors moved: weight"


def test_an_adapter_of_any_method_must_have_moved(encoders):
    from bench.engines import transformers

    config = {"peft_type": "LOHA", "r": 2, "target_modules": ["query"]}
    model = transformers.build(job(encoders("bert"), "peft", adapter_config=json.dumps(config)))
    movement = Movement(model, transformers)
    groups = transformers.parameter_groups(model)
    with torch.no_grad():
        for parameter in groups["head"].values():
            parameter.add_(0.1)
        assert "nothing was learned in: " in str(movement.problem())
        next(iter(groups["adapter"].values())).add_(0.1)
    assert movement.problem() is None


CODE = """
import gc, json, sys
from bench.worker.process import import_all
began = gc.get_stats()
import_all()
searches = sum(e["collections"] - b["collections"] for b, e in zip(began, gc.get_stats()))
print(json.dumps([searches, gc.get_freeze_count(), gc.isenabled(), [*sys.modules]]))
"""


def test_a_worker_imports_torch_without_searches_for_garbage_and_nothing_heavier():
    argv = [sys.executable, "-c", CODE]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    searches, frozen, is_enabled, modules = json.loads(done.stdout)
    assert searches <= 3  # of code that asks for one itself
    assert frozen > 100_000
    assert is_enabled
    assert {"torch", "numpy", "bench.worker.run"} <= {*modules}
    heavy = {"tokenizers", "transformers", "scipy", "pandas", "matplotlib", "pydantic", "rich"}
    assert not {*heavy, "torch._dynamo"} & {*modules}


@pytest.fixture
def pipe():
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    os.close(write)


def received(read):
    return [json.loads(line) for line in os.read(read, 2**20).splitlines()]


def test_steps_come_at_most_twice_a_second_and_a_full_or_closed_pipe_blocks_nobody(
    pipe, monkeypatch
):
    read, write = pipe
    now = 0.0
    progress = Progress(write, lambda: now)
    asked = []

    def loss():
        asked.append(now)
        return 0.25

    progress.phase("train")
    for step in range(1, 101):
        progress.step(step, 100, loss)
        now += 0.0625
    progress.phase("evaluate")
    first, *steps, last = received(read)
    assert (first, last) == ({"phase": "train"}, {"phase": "evaluate"})
    assert steps == [{"step": n, "steps": 100, "loss": 0.25} for n in range(1, 101, 8)]
    assert len(asked) == 13  # a loss is only read when it is sent
    Progress(write).step(1, 2)
    assert received(read) == [{"step": 1, "steps": 2}]
    with pytest.raises(ZeroDivisionError):
        Progress(write).step(1, 2, lambda: 1 / 0)
    read, write = pipe
    progress = Progress(write)
    for _ in range(20_000):
        progress.phase("train")
    assert all(message == {"phase": "train"} for message in received(read))
    os.dup2(os.open(os.devnull, os.O_RDONLY), read)  # which closes the end that is read
    progress.phase("train")
    progress.step(1, 2, 0.5)
    monkeypatch.delenv("BENCH_PROGRESS_FD", raising=False)
    Progress.from_environment().step(1, 2, lambda: 1 / 0)  # without a runner nothing is sent
