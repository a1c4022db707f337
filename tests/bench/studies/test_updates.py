"""`python -m bench.updates` on kept weights whose updates are known, and these cut to rank k."""

import csv
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.layer import AdaptedLinear
from adapters.names import adapted_layers
from bench.common.errors import InputError
from bench.machine import conditions
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.results.origins import examples_of
from bench.stats.intervals import Interval
from bench.studies.updates import weights
from bench.studies.updates.cells import (
    AXES,
    FIGURES,
    KINDS,
    PREFIXES,
    SIZE,
    Truncated,
    Truncation,
    find,
    parse_ranks,
    random_spectrum,
    spectrum_of,
)
from bench.studies.updates.tables import findings
from bench.studies.updates.weights import (
    base_weights,
    linear_weights,
    load_model,
    pairs,
    position_of,
    truncate,
)
from bench.updates import command
from minbert.data.tasks import load_task
from tests.adapters.small import disturb
from tests.bench import tiny_cells
from tests.bench.browsing import PHONE, WIDE, open_quietly
from tests.bench.updates import Place, adapted_model, base_model, move, moved_model
from tests.cs224n import write_folder

HIDDEN = 32  # of the tiny checkpoint, whose one layer has six linear layers


@pytest.fixture
def place(tmp_path, tiny_checkpoint):
    return Place(tmp_path, tiny_checkpoint)


def test_an_update_of_rank_1(place, answer):
    model = base_model(place.checkpoint)
    rng = np.random.default_rng(0)
    update = 0.1 * np.outer(rng.normal(size=HIDDEN), rng.normal(size=HIDDEN))
    before = linear_weights(base_model(place.checkpoint).bert)[0, "key"]
    move(model, "self.key", update)
    place.add(model)
    result = answer()
    (row,) = result["rows"]
    assert (row["layer"], row["kind"], row["height"], row["width"]) == (0, "key", HIDDEN, HIDDEN)
    assert row["stable_rank"] == pytest.approx(1, abs=1e-4)
    assert (row["rank_50"], row["rank_90"], row["rank_99"]) == (1, 1, 1)
    assert row["energy_1"] == pytest.approx(1, abs=1e-6)
    size = np.linalg.norm(update) / np.linalg.norm(before.numpy())
    assert row["relative_size"] == pytest.approx(size, rel=1e-4)
    assert row["random_rank_90"] > 10
    assert row["before_rank_90"] > 10
    (cell,) = result["cells"]
    assert (cell["modules"], cell["unmoved"]) == (1, 5)
    assert cell["over_all"]["update"]["rank_90"] == {"mean": 1.0, "low": 1, "high": 1}
    assert list(cell["over_kinds"]) == ["key"]


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_an_adapter_is_what_merging_it_adds(place, answer, mode):
    """LoRA's update has its rank at most; DoRA's magnitudes are bound by none."""
    model = adapted_model(place.checkpoint, mode, "all-lin-only")
    disturb(model)
    place.add(model, mode)
    ((cell,), _) = find([place.csv])
    read = {at: update for at, _, update in pairs(cell, tiny_cells.find(place.checkpoint))}
    assert list(read) == [(0, kind) for kind in KINDS.values()]
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear):
            merged = (layer.adapted_weight() - layer.weight).detach().chunk(len(layer.parts))
            for part, rows in zip(layer.parts, merged, strict=True):
                assert read[position_of(part.name)] == pytest.approx(rows.numpy(), abs=1e-5)
    ranks = [row["nonzero"] for row in answer()["rows"]]
    if mode == "lora":
        assert ranks == [4] * 6
    else:
        assert min(ranks) > 4


@pytest.mark.parametrize("layers", ["attn", "attn-only"])
def test_of_what_is_beside_adapters_only_what_trains_is_listed(place, answer, layers):
    model = adapted_model(place.checkpoint, "lora", layers)
    disturb(model)
    place.add(model, "lora", layers)
    result = answer()
    ranks = {row["kind"]: row["nonzero"] for row in result["rows"]}
    adapted = [KINDS[name] for name in adapted_layers("attn")]
    others = set(KINDS.values()) - {*adapted} if layers == "attn" else set()
    assert ranks == {**dict.fromkeys(adapted, 4), **dict.fromkeys(others, HIDDEN)}
    assert result["cells"][0]["unmoved"] == len(KINDS) - len(ranks)


def test_cells_without_an_update_are_left_out_and_one_in_two_files_counts_once(place, answer):
    model = moved_model(place.checkpoint)
    place.add(model)
    place.add(model, columns={"repeat": 2})
    place.add(base_model(place.checkpoint), seed=1)
    place.add(base_model(place.checkpoint), "head")
    place.add(None, seed=2)
    place.add(None, init="random", seed=3)
    result = answer()
    assert [cell["cell"] for cell in result["cells"]] == ["full-fp32-s0"]
    assert sorted(result["notes"][:4]) == [
        "left out: 1 cell that began with random weights",
        "left out: 1 cell that kept no weights; run the grid again with --save-weights --rerun ok",
        "left out: 1 cell whose head alone trained",
        "left out: full-fp32-s1, of which no linear layer trained",
    ]
    place.rows.clear()
    place.add(model, seed=4)
    place.add(model, seed=4, learning_rate=1e-4)
    names = [cell["cell"] for cell in answer(str(place.csv))["cells"]]
    assert names == [f"full-fp32-s4 {row.cell_id[:6]}" for row in place.rows]
    place.add(model, model="a\u202eb", model_digest="beef", seed=1)
    assert find([place.csv])[0][2].label == r"full-fp32-s1, a\u202eb"


def test_tables_csv_and_pages(place, tmp_path, capsys):
    for mode in ("full", "lora", "dora"):
        model = moved_model(place.checkpoint)
        if mode != "full":
            disturb(model := adapted_model(place.checkpoint, mode, "all-lin-only"))
        place.add(model, mode)
    reports, table = tmp_path / "reports", tmp_path / "x.csv"
    assert place.run("--csv", str(table), "--reports", str(reports)) == 0
    shown = capsys.readouterr()
    for words in ("of a random matrix in", "A LoRA update has at most", "A DoRA update is not"):
        assert words in shown.out
    assert f"report: {reports / 'updates.html'}" in shown.err
    rows = list(csv.DictReader(table.open(newline="")))
    figures = (f"{prefix}{figure}" for prefix in PREFIXES.values() for figure in FIGURES)
    assert [*rows[0]] == ["cell", *AXES, "layer", "kind", "height", "width", SIZE, *figures]
    assert len(rows) == 3 * 6
    assert [row["rank"] for row in rows[::6]] == ["", "4", "4"]
    assert sorted(path.name for path in (reports / "updates").iterdir()) == [
        "energy-kinds.svg", "energy.svg", "rank-90-1.svg", "rank-90-2.svg", "rank-90-3.svg",
    ]  # fmt: skip
    assert "(updates/energy.svg)" in (reports / "updates.md").read_text()


def test_the_page_opens_quietly_and_nothing_sticks_out(place, tmp_path, browser):
    place.add(moved_model(place.checkpoint))
    assert place.run("--reports", str(tmp_path)) == 0
    for size in (WIDE, PHONE):
        open_quietly(browser, tmp_path / "updates.html", size).close()


def test_the_page_has_each_flag_and_no_other():
    page = (Path(__file__).parents[3] / "docs" / "updates.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `--")]
    flags = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row.split("|")[1])}
    options = {option for parameter in command.params for option in parameter.opts}
    assert flags == options - {"more"}


def test_cells_that_have_nothing_to_read_and_flags_that_go_with_others(place, tmp_path):
    assert "no such file of results" in place.refused()
    model = base_model(place.checkpoint)
    place.add(model, columns={"status": "crashed"})
    assert "no cell ended ok" in place.refused()
    place.add(None, seed=1)
    message = place.refused()
    assert "no weights to read: 1 cell that kept no weights; run the grid again" in message
    assert "--save-weights --rerun ok" in message
    path = place.add(model, seed=2) / "weights.safetensors"
    assert place.refused() == "full-fp32-s2: no linear layer of the encoder trained"
    tensors = {name: of.clone() for name, of in load_file(path).items()}
    tensors["bert.encoder.layer.0.output.dense.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    assert "the output of layer 0 holds numbers that are not finite" in place.refused()
    assert "--data: is for --truncate" in place.refused("--data", str(tmp_path))
    place.rows.clear()
    place.add(moved_model(place.checkpoint), seed=3)
    message = place.refused("--truncate", "0", "--data", str(tmp_path))
    assert "no task of these cells is read from a folder" in message


def test_ranks():
    assert parse_ranks("8, 0,full,1,8") == (0, 1, 8)
    assert parse_ranks("full") == ()
    for text in ("-1", "1.5", "1,,2", "1000000"):
        with pytest.raises(InputError, match=r"^--truncate: .* is no rank"):
            parse_ranks(text)


def test_singular_values_4_and_3():
    of = spectrum_of(np.diag([3.0, 4.0, 0.0]))
    figures = of.figures()
    assert figures["nonzero"] == 2
    assert figures["stable_rank"] == pytest.approx(25 / 16)
    entropy = -sum(p * math.log(p) for p in (4 / 7, 3 / 7))
    assert figures["effective_rank"] == pytest.approx(math.exp(entropy))
    assert of.shares == pytest.approx([16 / 25, 1, 1])
    assert (of.rank_for(0.5), of.rank_for(0.9)) == (1, 2)
    assert (figures["energy_1"], figures["energy_8"]) == pytest.approx((16 / 25, 1))
    alike = spectrum_of(np.eye(8, 12))
    assert [alike.rank_for(share) for share in (0.5, 0.9, 0.99)] == [4, 8, 8]
    with pytest.raises(ValueError, match="is all zero"):
        spectrum_of(np.zeros((3, 3)))


def test_a_random_matrix_is_the_same_in_every_run_whose_scale_and_transpose_change_no_figure():
    figures = random_spectrum((32, 64)).figures()
    assert tuple(figures) == FIGURES
    assert figures["nonzero"] == 32
    assert 8 < figures["stable_rank"] < 32
    matrix = np.random.default_rng([0, 32, 64]).standard_normal((32, 64))
    for other in (matrix, 1e-6 * matrix, matrix.T):
        assert spectrum_of(other).figures() == pytest.approx(figures)


def test_the_model_as_kept_scores_as_its_cell_did(grid, tmp_path, capsys):
    """With and without AMP, what a grid has kept predicts what its cell did."""
    grid.finish("--select", "mode=full", "--save-weights")
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

    monkeypatch.setattr(weights, "predict", predicted)
    examples = examples_of(cell.row, None)
    truncate(cell, base, (0, 1, 5, 99), examples, None, tiny_cells.conditions(), lambda _: None)
    assert seen == [{32}, {0}, {1}, {5}, {32}]


def test_a_correlation(place, tmp_path, answer):
    data = write_folder(tmp_path / "data", count=60)
    digest = load_task("sts", data).digest[:16]
    changes = {"task": "sts", "data_digest": digest, "max_train": None, "max_dev": None}
    place.add(moved_model(place.checkpoint, "sts"), regression_loss="mse", **changes)
    assert "--data DIR" in place.refused("--truncate", "1")
    (result,) = answer("--truncate", "0,1", "--data", str(data), code=1)["truncated"]
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


def test_a_cell_without_a_score_is_not_cut_and_another_score_is_an_error(place, answer, capsys):
    model = moved_model(place.checkpoint)
    place.add(model, columns={"dev_score": None})
    message = place.refused("--truncate", "0")
    assert "no cell of full fine-tuning has kept its weights and has a dev score" in message
    place.add(model, seed=1)
    result = answer("--truncate", "0", code=1)
    assert [entry["cell"] for entry in result["truncated"]] == ["full-fp32-s1"]
    assert "not cut: full-fp32-s0, which has no dev score" in result["notes"]
    assert len(result["cells"]) == 2
    place.rows.clear()
    place.add(model, seed=2, columns={"dev_score": 0.123})
    assert place.run("--truncate", "0") == 1
    shown = capsys.readouterr()
    assert "error: full-fp32-s2: as kept it scores" in shown.err
    assert "and its cell has 0.123 (it ran with " in shown.err
    assert "torch_version 2.13.0+cpu, here" in shown.err or "machine" in shown.err
    assert "full-fp32-s2: dev accuracy is" in shown.out


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
    text = "\n".join([*findings([], truncations), ""])
    assert text == Path(__file__).with_name("truncations.txt").read_text("utf-8")
