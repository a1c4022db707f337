"""A worker's imports, steps and epochs, run in this process on tiny encoders and folders; what has
to move in training, and cut texts."""

import json
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
from tests.bench.tiny_cells import PARTS, cell, job_of
from tests.cs224n import relabel, write_folder
from tests.encoders import job

ALL_EXAMPLES = 24
"""Of each part: with batches of so many an epoch is three steps, sst, quora and sts in sequence."""
NO_RATE = 1e-50
"""Nothing in fp32, where an adapter's B begins at 0 and stays there."""


class Watched(CellRun):
    """Notes the parameters before the first step, and the part of each step."""

    def __init__(self, job, folder):
        super().__init__(job, folder, Progress(None))
        self.came = []

    def _step(self, trainer, batch):
        if not self.came:
            self.first = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.came.append(batch.part)
        return super()._step(trainer, batch)


def job_on(checkpoint, folder, task, mode, **changes):
    data = write_folder(folder / "data", count=ALL_EXAMPLES)
    values = {
        "task": task, "data_digest": load_data(task, data).digest[:16], "max_train": None,
        "max_dev": None, "schedule": "halving", **changes,
    }  # fmt: skip
    (folder / "cell").mkdir()
    return replace(job_of(cell(checkpoint, mode, "all-lin", **values), checkpoint), data=str(data))


def watched(checkpoint, folder, mode="lora", **changes):
    """A cell of all parts on two encoders that unfreeze epoch by epoch, not yet run."""
    values = {
        "encoders": 2, "batch_size": ALL_EXAMPLES, "epochs": 5, "unfreeze": "iterative",
        "regression_loss": "mse", "task_order": "sequential", "task_rates": "quora=5 sst=4 sts=3",
        "task_decays": "quora=0.01 sst=0.01 sts=0.01",
    }  # fmt: skip
    job = job_on(checkpoint, folder, "multitask", mode, **values | changes)
    return Watched(job, folder / "cell")


@pytest.mark.parametrize(
    ("order", "seed", "last", "moved"),
    [
        ("sequential", 0, "sst", {"bert": {3}, "bert_pairs": set()}),
        ("proportional", 1, "quora", {"bert": set(), "bert_pairs": {3}}),
    ],
)
def test_layers_that_unfreeze_for_a_batch_that_never_comes_need_not_move(
    deep_checkpoint, tmp_path, order, seed, last, moved
):
    """The fourth step begins the second epoch, which unfreezes the top layer of both encoders."""
    run = watched(deep_checkpoint, tmp_path, max_steps=4, task_order=order, seed=seed)
    run.run()
    assert set(run.came[:3]) == {"sst", "quora", "sts"}
    assert run.came[3] == last
    layers = {"bert": set(), "bert_pairs": set()}
    for name, parameter in run.model.named_parameters():
        of_layer = re.match(r"(\w+)\.encoder\.layer\.(\d+)\.", name)
        if of_layer and not torch.equal(parameter, run.first[name]):
            layers[of_layer[1]].add(int(of_layer[2]))
    assert layers == moved


def test_a_training_of_several_parts_that_moves_nothing_is_invalid(deep_checkpoint, tmp_path):
    run = watched(deep_checkpoint, tmp_path, max_steps=4, learning_rate=NO_RATE)
    with pytest.raises(InvalidError, match=r"^nothing was learned in: .*lora_B"):
        run.run()


def test_a_rate_halves_where_an_epoch_of_all_parts_ends(tiny_checkpoint, tmp_path, monkeypatch):
    """24 examples of each part in batches of 16 are two steps each, six in all."""
    rates, step = [], Optimizer.step

    def noted(of):
        rates.append(*{group["lr"] for group in of.param_groups})
        step(of)

    monkeypatch.setattr(Optimizer, "step", noted)
    values = {"unfreeze": "all", "batch_size": 16, "epochs": 3, "warmup": 0.0}
    run = watched(tiny_checkpoint, tmp_path, "full", **values, learning_rate=1e-3)
    run.run()
    factors = [4, 4, 5, 5, 3, 3]
    expected = [1e-3 * factor / 2**epoch for epoch in range(3) for factor in factors]
    assert rates[: len(run.losses)] == pytest.approx(expected)


LENGTHS = {"sst": 8, "sts": 12, "multitask": 8}
"""A max_length by which some of a task's texts are cut, and some are not."""


class Place:
    """A folder of data, and a cell of one of its tasks that cuts some texts."""

    def __init__(self, folder, checkpoint, task):
        self.folder = write_folder(folder / "data")
        self.checkpoint = checkpoint
        self.data = load_data(task, self.folder)

    def cell(self, **changes):
        values = {
            "task": self.data.task.name, "data_digest": self.data.digest[:16], "max_train": None,
            "max_dev": None, "max_length": LENGTHS[self.data.task.name],
        }  # fmt: skip
        values = (PARTS if self.data.task.parts else {}) | values
        return cell(self.checkpoint, "head", **values | changes)

    def notes(self, **changes):
        made = self.cell(**changes)
        return list(tokens.cut_notes(self.data, made, self.checkpoint, self.folder))


@pytest.fixture
def cache(tmp_path, minilm, monkeypatch):
    """A cache of this test's own; what was fetched is still there."""
    monkeypatch.setenv("MINBERT_ASSETS", str(minilm.parent))
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("task", LENGTHS)
def test_a_worker_counts_what_is_cut(cache, tmp_path, tiny_checkpoint, task, monkeypatch):
    """Of all texts of train and dev, those held out included; mapped or made by itself. And so does
    the note before a run."""
    place, length = Place(tmp_path, tiny_checkpoint, task), LENGTHS[task]
    sides = [side for of in place.data.pieces().values() for side in (of.train, of.dev)]
    pairs = [s.text_a if s.text_b is None else zip(s.text_a, s.text_b, strict=True) for s in sides]
    library = Library.from_file(str(tiny_checkpoint / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    sizes = [len(encoded) for encoded in library.encode_batch([*chain.from_iterable(pairs)])]
    lost = [size - length for size in sizes if size > length]
    assert 0 < len(lost) < len(sizes)
    job = replace(job_of(place.cell(held_out=0.25), tiny_checkpoint), data=str(place.folder))
    for _ in range(2):
        run = CellRun(job, tmp_path, Progress(None))
        run._tokenise()
        assert run.columns["texts_cut"] == len(lost)
        assert run.columns["tokens_cut"] == pytest.approx(sum(lost) / sum(sizes))
    expected = [
        f"max_length {length} cuts {len(lost)} of {len(sizes)} texts, and "
        f"{sum(lost) / sum(sizes):.1%} of all tokens with them"
    ]
    assert place.notes() == expected
    assert list((cache / "tokens").iterdir())
    with monkeypatch.context() as mapped:
        mapped.setattr(tokens, "make", None)
        assert place.notes() == expected, "a second time nothing is tokenised"
    monkeypatch.setenv("MINBERT_CACHE", str(place.folder / "sst-train.csv"))
    assert place.notes() == expected, "without a cache too"


def test_small_shares_nothing_cut_and_nothing_that_can_be_tokenised(
    cache, tmp_path, tiny_checkpoint
):
    place = Place(tmp_path, tiny_checkpoint, "sst")
    assert place.notes(max_length=128) == []
    (tmp_path / "empty").mkdir()
    assert list(tokens.cut_notes(place.data, place.cell(), tmp_path / "empty", place.folder)) == []
    path = place.folder / "ids-sst-train.csv"
    rows = ["\tid\tsentence\tsentiment", *(f"{n}\tid\t{'good ' * 9}{n}\t1" for n in range(200))]
    path.write_text("\n".join([*rows, f"0\tid\t{'good ' * 11}\t1"]) + "\n", encoding="utf-8")
    place.data = load_data("sst", place.folder)
    assert place.notes(max_length=12) == [
        "max_length 12 cuts 1 of 213 texts, and under 0.1% of all tokens with them"
    ]


def test_a_plan_says_what_is_cut_and_left_out(grid, tmp_path):
    place = Place(tmp_path, grid.model, "sst")
    relabel(place.folder / "ids-sst-train.csv", "", line=5)
    path = tmp_path / "mine.toml"
    path.write_text("[settings]\ntask = 'sst'\nmax_length = 8\n[[cells]]\nmode = ['head']\n")
    planned = grid.run("--dry-run", "--data", str(place.folder), grid=str(path), forecast=False)
    assert "note: ids-sst-train.csv, line 5: sentiment is empty; left out\n" in planned.stderr
    assert re.search(r"note: max_length 8 cuts \d+ of 35 texts, and ", planned.stderr)


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


def test_a_frozen_weight_of_odd_width_in_half_is_watched():
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
ended = gc.get_stats()
print(json.dumps({
    "searches": sum(e["collections"] - b["collections"] for b, e in zip(began, ended)),
    "frozen": gc.get_freeze_count(),
    "enabled": gc.isenabled(),
    "heavy": sorted({"tokenizers", "transformers", "scipy", "pandas", "matplotlib", "pydantic",
                     "rich", "torch._dynamo"} & sys.modules.keys()),
    "has": sorted({"torch", "numpy", "bench.worker.run"} & sys.modules.keys()),
}))
"""


def test_a_worker_imports_torch_without_searches_for_garbage_and_nothing_heavier():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120
    )
    imported = json.loads(done.stdout)
    assert imported["searches"] <= 3  # of code that asks for one itself
    assert imported["frozen"] > 100_000
    assert imported["enabled"]
    assert imported["heavy"] == []
    assert imported["has"] == ["bench.worker.run", "numpy", "torch"]
