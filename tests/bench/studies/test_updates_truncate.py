"""Updates cut to rank k, and the dev scores of what is left."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.common.errors import InputError
from bench.machine import conditions
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.results.origins import examples_of
from bench.stats.intervals import Interval
from bench.studies.updates import truncate as module
from bench.studies.updates import weights
from bench.studies.updates.cells import find
from bench.studies.updates.tables import findings
from bench.studies.updates.truncate import truncate
from bench.studies.updates.truncation import Truncated, Truncation
from bench.studies.updates.weights import base_weights, linear_weights, load_model
from bench.updates import command
from minbert.data.tasks import load_task
from tests.bench import tiny_cells
from tests.bench.updates import Place, base_model, moved_model
from tests.cs224n import write_folder

SENTENCES = Path(__file__).with_name("truncations.txt")


@pytest.fixture
def place(tmp_path, tiny_checkpoint):
    return Place(tmp_path, tiny_checkpoint)


def test_the_model_as_kept_scores_as_its_cell_did(grid, tmp_path, capsys):
    """A grid for real: with and without AMP, what was kept predicts what its cell did."""
    done = grid.run("--select", "mode=full", "--save-weights")
    assert done.returncode == 0, done.stderr
    reports = tmp_path / "pages"
    line = ["--runs", str(grid.csv), "--truncate", "0,4,full", "--json", "--reports", str(reports)]
    assert command.main(line, standalone_mode=False) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["problems"] == []
    scores = {str(row["cell_id"]): row["dev_score"] for row in grid.rows()}
    assert {entry["cell"] for entry in result["truncated"]} == {"full-fp32-s0", "full-bf16-s0"}
    for of in result["truncated"]:
        assert of["reproduced"]
        assert [each["rank"] for each in of["scores"]] == [0, 4, "full"]
        assert of["scores"][-1]["dev"]["value"] == pytest.approx(scores[of["cell_id"]], abs=1e-6)
        assert of["scores"][-1]["change"] is None
        for each in of["scores"][:-1]:
            gap = each["dev"]["value"] - of["scores"][-1]["dev"]["value"]
            assert each["change"]["value"] == pytest.approx(gap, abs=1e-9)
            assert each["change"]["low"] <= gap <= each["change"]["high"]
    assert "full-bf16-s0, updates of rank 4" in shown.err
    assert any("movies and sst share" in note for note in result["notes"])
    assert (reports / "updates" / "truncated-accuracy.svg").is_file()
    assert "Dev score with each update cut" in (reports / "updates.md").read_text()


def test_weights_are_cut_and_all_else_stays(place, monkeypatch):
    place.add(moved_model(place.checkpoint))
    ((cell,), _) = find([place.csv])
    base = tiny_cells.find(place.checkpoint)
    before = base_weights(base)
    trained = load_model(cell, base).state_dict()
    seen = []

    def predicted(of, encoded, **_):
        gaps = [rows.numpy() - before[at] for at, rows in linear_weights(of.bert).items()]
        seen.append({int(np.linalg.matrix_rank(gap, tol=1e-5)) for gap in gaps})
        cut = [f"{name}.weight" for name in ("qkv", "output.dense", "intermediate.dense")]
        for name, tensor in of.state_dict().items():
            if not name.endswith(tuple(cut)):
                assert torch.equal(tensor, trained[name]), name
        return np.zeros((len(encoded[0].lengths), 5), dtype=np.float32)

    monkeypatch.setattr(module, "predict", predicted)
    examples = examples_of(cell.row, None)
    truncate(cell, base, (0, 1, 5, 99), examples, None, tiny_cells.conditions(), lambda _: None)
    assert seen == [{32}, {0}, {1}, {5}, {32}]


def test_a_score_that_is_not_the_cells_is_an_error(place, capsys):
    place.add(moved_model(place.checkpoint), columns={"dev_score": 0.123})
    assert place.run("--truncate", "0") == 1
    shown = capsys.readouterr()
    assert "error: full-fp32-s0: as kept it scores" in shown.err
    assert "and its cell has 0.123 (it ran with " in shown.err
    assert "torch_version 2.13.0+cpu, here" in shown.err or "machine" in shown.err
    assert "full-fp32-s0: dev accuracy is" in shown.out


def test_a_correlation(place, tmp_path, printed):
    data = write_folder(tmp_path / "data", count=60)
    digest = load_task("sts", data).digest[:16]
    changes = {"task": "sts", "data_digest": digest, "max_train": None, "max_dev": None}
    place.add(moved_model(place.checkpoint, "sts"), regression_loss="mse", **changes)
    assert "--data DIR" in place.refused("--truncate", "1")
    place.run("--truncate", "0,1", "--data", str(data), "--json")
    (result,) = printed()["truncated"]
    assert (result["metric"], result["examples"]) == ("pearson", 30)
    assert all(-1 <= each["dev"]["value"] <= 1 for each in result["scores"])


def test_spectra_ask_for_no_device_and_cells_of_a_cpu_are_cut_on_one(place, monkeypatch):
    """So that a GPU that can't be used refuses none of it."""
    model = moved_model(place.checkpoint)
    place.add(model)
    cpu, asked = conditions.find_conditions("cpu"), []
    monkeypatch.setattr(conditions, "find_conditions", lambda device: asked.append(device) or cpu)
    assert place.run() == 0
    assert asked == []
    place.run("--truncate", "0")
    assert asked == ["cpu"]
    place.add(model, amp="fp16")
    monkeypatch.setattr(weights, "measure", None)  # nothing is read before
    assert "fp16, which needs a GPU" in place.refused("--truncate", "0")


def test_cells_of_a_gpu_are_cut_on_the_one_that_was_tried(place, monkeypatch):
    model = moved_model(place.checkpoint)
    place.add(model, columns={"device": "cuda:1"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    cpu = conditions.find_conditions("cpu")
    gpu = GpuInfo("NVIDIA A100", "580", (8, 0), "GPU-1")
    here, device = replace(cpu.conditions, device="cuda:1"), Device("cuda:1", gpu)
    found = replace(cpu, conditions=here, device_name=gpu.uuid, device=device)
    asked, used = [], []
    monkeypatch.setattr(conditions, "find_conditions", lambda of: asked.append(of) or found)

    def to(model, device):
        if device.type == "cpu":  # where it is loaded
            return model
        names = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
        used.append((str(device), *map(os.environ.get, names)))
        raise InputError("enough")

    monkeypatch.setattr(torch.nn.Module, "to", to)
    assert place.refused("--truncate", "0") == "enough"
    assert (asked, used) == (["auto"], [("cuda:0", "GPU-1", "PCI_BUS_ID")])


def test_a_cell_without_a_score_is_not_cut(place, printed):
    model = moved_model(place.checkpoint)
    place.add(model, columns={"dev_score": None})
    message = place.refused("--truncate", "0")
    assert "no cell of full fine-tuning has kept its weights and has a dev score" in message
    place.add(model, seed=1)
    place.run("--truncate", "0", "--json")
    result = printed()
    assert [entry["cell"] for entry in result["truncated"]] == ["full-fp32-s1"]
    assert "not cut: full-fp32-s0, which has no dev score" in result["notes"]
    assert len(result["cells"]) == 2


def test_from_which_rank_on_no_loss_is_significant(place):
    place.add(base_model(place.checkpoint))
    ((cell,), _) = find([place.csv])
    changes = (
        {0: None, 1: (-0.3, -0.1), 2: (-0.1, 0.02), 4: (0.01, 0.03)},
        {1: (-0.1, 0.1), 2: (-0.2, -0.1)}, {0: None}, {0: (-0.1, 0.1)},
    )  # fmt: skip
    truncations = [
        Truncation(cell, "accuracy", 10, (
            *(Truncated(rank, ends and Interval(0.4), ends and Interval(sum(ends) / 2, *ends))
              for rank, ends in of.items()),
            Truncated(None, Interval(0.45)),
        ))
        for of in changes
    ]  # fmt: skip
    assert [truncation.worse for truncation in truncations] == [2, 2, 1, 0]
    assert "\n".join([*findings([], truncations), ""]) == SENTENCES.read_text("utf-8")
