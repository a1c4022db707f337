"""Kept weights: the model that they load into predicts what its cell did."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.injection import convert_frozen
from adapters.names import LAYER_SETS
from bench.common.errors import InputError
from bench.common.files import umask
from bench.engines.engine import engine_of
from bench.results.kept import largest_weights
from bench.worker.process import Progress
from bench.worker.run import CellRun
from bench.worker.weights import load_trained
from minbert.data.tasks import load_data
from minbert.model.config import BertConfig
from minbert.model.heads import HEADS
from tests.bench.tiny_cells import PARTS, cell, digest_of, ended, job_of
from tests.cs224n import write_folder

EVERY = [("full", None), ("head", None), *product(("lora", "dora"), LAYER_SETS)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(CellRun, "_replay", lambda run, *_: run.machine)


def job(checkpoint, mode, layers=None, **changes):
    own = {"max_steps": 3, "max_train": 24, "max_dev": 24, "data_digest": digest_of(24, 24)}
    of = cell(checkpoint, mode, layers or "attn", **own | changes)
    return replace(job_of(of, checkpoint), keep=True)


def predictions(run, model):
    own, run.model = run.model, model
    logits = run._predictions(run.dev)
    run.model = own
    return logits


def check(run, tolerance=1e-05):
    """Load the weights that a run kept: their model gives the logits that the run did."""
    expected = dict(run.logits)
    start = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    loaded = load_trained(run.job, run.folder)
    assert not loaded.training
    given = predictions(run, loaded)
    assert given.keys() == expected.keys()
    for part, logits in expected.items():
        np.testing.assert_allclose(given[part], logits, rtol=0, atol=tolerance)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float32
        if start[name].dtype == torch.float32:
            assert torch.equal(parameter, start[name]), name
    return loaded


NAMED, OWN_NAMES = {"learning_rate_base": None}, "query+output.dense"


@pytest.mark.parametrize(("mode", "layers", "changes", "tolerance"), [
    *(
        (*each, {"head": [*HEADS][n % 3], "pooling": ("pooler", "mean")[n % 2]}, 1e-5)
        for n, each in enumerate(EVERY)
    ),
    ("bitfit", None, {"amp": "bf16", "frozen_dtype": "bf16", "pooling": "cls"}, 0.05),
    ("lora", OWN_NAMES, {"pooling": "cls", "amp": "bf16", **NAMED}, 0.05),
    ("dora", OWN_NAMES, {"use_rslora": "on", "lora_dropout": 0.2, **NAMED}, 1e-5),
    ("lora", OWN_NAMES, {"lora_fa": "on", **NAMED}, 1e-5),
    ("lora", OWN_NAMES, {"gradient_checkpointing": "on", "lora_dropout": 0.1, **NAMED}, 1e-5),
])  # fmt: skip
def test_the_model_of_kept_weights_predicts_what_the_cell_did(
    tiny_checkpoint, tmp_path, mode, layers, changes, tolerance
):
    of = job(tiny_checkpoint, mode, layers, **changes)
    run = ended(of, tmp_path / "cell")
    untrained = predictions(run, engine_of(of.cell).build(of))
    assert np.abs(untrained[""] - run.logits[""]).max() > 1e-4
    model, path = check(run, tolerance), tmp_path / "cell" / "weights.safetensors"
    expected = {name for name, p in model.named_parameters() if p.requires_grad}
    assert load_file(path).keys() == expected | model.fixed_tensors().keys()
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask(), "as any new file"
    most = 8192 + largest_weights(of.cell, BertConfig.from_folder(tiny_checkpoint))
    assert path.stat().st_size < most, "names and shapes take a few KiB"


@pytest.mark.parametrize(("mode", "layers", "encoders"), [(*EVERY[0], 2), (*EVERY[-2], 1)])
def test_a_model_of_several_parts(tiny_checkpoint, tmp_path, mode, layers, encoders):
    data = write_folder(tmp_path / "data")
    settings = PARTS | {
        "encoders": encoders, "max_steps": 6, "head": "conv", "max_train": None, "max_dev": None,
        "data_digest": load_data("multitask", data).digest[:16],
    }  # fmt: skip
    of = replace(job(tiny_checkpoint, mode, layers, **settings), data=str(data))
    check(ended(of, tmp_path / "cell"))
    size = (tmp_path / "cell" / "weights.safetensors").stat().st_size
    assert size < 16384 + largest_weights(of.cell, BertConfig.from_folder(tiny_checkpoint))


@pytest.mark.parametrize("mode", ["full", "dora", "bitfit"])
def test_layers_that_have_not_unfrozen_are_kept_as_they_began(deep_checkpoint, tmp_path, mode):
    of = job(deep_checkpoint, mode, "all-lin", unfreeze="iterative", epochs=3, max_steps=9)
    run = ended(of, tmp_path / "cell")
    assert any(not p.requires_grad for name, p in run.model.named_parameters() if "layer.0" in name)
    check(run)


@pytest.mark.parametrize(("mode", "layers"), EVERY[1::7])
def test_frozen_weights_in_half_are_loaded_whole(tiny_checkpoint, tmp_path, mode, layers):
    of = job(tiny_checkpoint, mode, layers, amp="bf16", frozen_dtype="bf16")
    run = ended(of, tmp_path / "cell")
    assert any(p.dtype == torch.bfloat16 for p in run.model.parameters())
    loaded = check(run, tolerance=0.05)
    place = "bert.encoder.layer.0.attention.self"
    query = loaded.get_parameter(f"{place}.qkv.weight").chunk(3)[0]
    first = load_file(tiny_checkpoint / "model.safetensors")
    assert torch.equal(query, first[f"{place}.query.weight"])
    convert_frozen(loaded, torch.bfloat16)
    assert np.array_equal(predictions(run, loaded)[""], run.logits[""])


def test_weights_are_written_last_before_the_result(tiny_checkpoint, tmp_path, monkeypatch):
    """And a worker that is killed as it writes leaves no file of their name."""
    columns = {}
    path = tmp_path / "cell" / "weights.safetensors"

    def cut_off(tensors, place):
        columns.update(run.columns)
        place.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.worker.saving.save_tensors", cut_off)
    path.parent.mkdir()
    run = CellRun(job(tiny_checkpoint, "head"), path.parent, Progress(None))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert columns == run.columns
    assert not path.exists()


def refused(of, folder):
    with pytest.raises(InputError) as raised:
        load_trained(of, folder)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / 'weights.safetensors'}: ")
    return message


def test_missing_or_damaged_weights_and_those_of_another_model(tiny_checkpoint, tmp_path):
    one, path = job(tiny_checkpoint, "lora", "attn-only"), tmp_path / "weights.safetensors"
    assert "the cell kept no weights; run it again with --save-weights" in refused(one, tmp_path)
    path.write_bytes(b"\0")
    assert "is damaged (" in refused(one, tmp_path)
    ended(one, tmp_path)
    for changes, why in [
        ({"rank": 2}, "[3, 4, 32] in float32, and [3, 2, 32] in float32 in the model of lora-r2"),
        ({"head": "nonlinear"}, "'classifier.bias' is [5] in float32, and missing in the model"),
        ({"mode": "dora"}, "magnitude' is missing, and [96] in float32 in the model of dora"),
    ]:
        assert why in refused(replace(one, cell=replace(one.cell, **changes)), tmp_path)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    assert "in bfloat16, and" in refused(one, tmp_path)
