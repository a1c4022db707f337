"""Task multitask by the grid command, end to end, on a tiny encoder and a tiny folder."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.plan.gridfile import Rates
from bench.results.origins import folder_of
from bench.results.overall import overall
from minbert.data.metrics import accuracy, pearson
from minbert.data.tasks.cs224n import PARTS
from tests.bench.conftest import narrow
from tests.bench.grids import GridRuns
from tests.bench.tiny_cells import csv_rows
from tests.cs224n import relabel, write_folder

SETTINGS = (
    "task = 'multitask', encoders = 2, epochs = 2, batch_size = 8, max_length = 32, head = 'conv', "
    "optimizer = 'adamax', schedule = 'halving', task_rates = {sst = 4.0, quora = 5.0, sts = 3.0}, "
    "task_decays = {sst = 9e-3, quora = 1e-5}"
)
FULL = "[[cells]]\nmode = ['full']\n"
LORA = "[[cells]]\nmode = ['lora']\nrank = [2]\nlayers = ['all-lin-only']\namp = ['on']\n"


def run(grid, cells, *extra, parts=PARTS, settings=SETTINGS, code=0):
    """Run a grid of such cells, which must end with this code; its rows and what it wrote."""
    (grid.folder / "mine.toml").write_text(f"settings = {{ {settings} }}\n{cells}")
    data = write_folder(grid.folder / "data", parts)
    done = grid.finish("--data", str(data), *extra, file="mine.toml", code=code)
    return grid.rows(), done.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory, minilm):
    """Where a full and a LoRA cell have run, from large random weights. Not to be changed."""
    folder = tmp_path_factory.mktemp("ran")
    checkpoint = narrow(1, folder / "lively", minilm, spread=0.3)
    made = GridRuns(folder, checkpoint, workers_here=True)
    run(made, FULL + LORA, "--save-weights")
    return made


@pytest.fixture
def grid(tmp_path, ran):
    return GridRuns(tmp_path, ran.model, workers_here=True)


def test_cells_end_ok_with_all_figures(ran):
    rows = ran.rows()
    assert [row["status"] for row in rows] == ["ok", "ok"], [row["message"] for row in rows]
    for row in rows:
        assert (row["task"], row["dev_metric"], row["encoders"]) == ("multitask", "overall", 2)
        assert row["task_rates"] == "quora=5 sst=4 sts=3"
        assert row["task_decays"] == "quora=1e-05 sst=0.009 sts=0.01"
        for name in (
            "ms_per_1k_tokens", "activations_mib", "gradients_mib", "tokens_total", "dev_loss",
            "train_loss", "train_score", "majority_score", "step_gflop", "step_moved_mib",
        ):  # fmt: skip
            assert row[name] is not None, name
        assert row["dev_ci_low"] < row["dev_score"] < row["dev_ci_high"]
        assert row["dev_accuracy"] is None
    full, lora = sorted(rows, key=lambda row: row["mode"])
    assert lora["params_trainable"] < full["params_trainable"] == full["params_total"]
    assert full["optimizer_mib"] == pytest.approx(2 * full["weights_mib"], rel=0.01)
    assert "Overall is the mean of the accuracy on sst" in (ran.reports / "report.md").read_text()


def test_what_is_kept_gives_the_scores_again(ran):
    for row in ran.rows():
        folder = folder_of(ran.csv, row)
        kept = load_file(folder / "predictions.safetensors")
        assert set(kept) == {f"{part}.{name}" for part in PARTS for name in ("logits", "labels")}
        assert kept["sst.logits"].shape == (12, 5)
        scores = {p: accuracy(kept[f"{p}.logits"], kept[f"{p}.labels"]) for p in ("sst", "quora")}
        scores["sts"] = pearson(kept["sts.logits"][:, 0], kept["sts.labels"])
        columns = ("dev_sentiment", "dev_paraphrase", "dev_similarity")
        assert [row[name] for name in columns] == pytest.approx([*scores.values()], abs=1e-6)
        assert row["dev_score"] == pytest.approx(overall(scores), abs=1e-6)
        _, last = csv_rows(folder / "epochs.csv")
        assert float(last["dev_similarity"]) == pytest.approx(scores["sts"], abs=1e-6)
        assert len(csv_rows(folder / "steps.csv")) == 2 * 3 * 3


def test_with_one_part_of_the_files_that_part_is_learned(grid):
    settings = f"{SETTINGS}, regression_loss = 'pearson'"
    ((row,), _) = run(grid, FULL, parts=("sts",), settings=settings)
    found = (row["status"], row["encoders"], row["task_rates"], row["regression_loss"])
    assert found == ("ok", 1, "sts=3", "pearson")
    assert 0 < row["dev_loss"] == pytest.approx(1 - row["dev_similarity"], abs=1e-5)
    assert row["dev_sentiment"] is row["dev_paraphrase"] is None
    assert row["dev_score"] == pytest.approx((1 + row["dev_similarity"]) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("order", "came"), [("sequential", {"sst"}), ("round-robin", {"sst", "quora"})]
)
def test_parts_come_in_the_order_asked_for_and_what_serves_others_need_not_move(grid, order, came):
    """In two steps, of which a part has three in an epoch. The heads' last biases begin at 0."""
    settings = f"{SETTINGS}, task_order = '{order}'"
    ((row,), _) = run(grid, FULL, "--max-steps", "2", "--save-weights", settings=settings)
    assert (row["status"], row["task_order"]) == ("ok", order)
    kept = load_file(folder_of(grid.csv, row) / "weights.safetensors")
    assert {part for part in PARTS if kept[f"classifier.{part}.out.bias"].any()} == came


def test_random_weights_on_one_encoder_measure_cost_alone_and_no_rates_are_searched(grid):
    _, line = run(grid, FULL, "--lr", "auto", code=2)
    assert line.startswith("error: --lr auto: no rates are searched for task multitask")
    settings = SETTINGS.replace("encoders = 2", "encoders = 1").replace("conv", "linear")
    ((row,), _) = run(grid, LORA.replace("lora", "dora"), "--init", "random", settings=settings)
    assert (row["status"], row["encoders"]) == ("ok", 1)
    assert row["dev_metric"] is row["dev_score"] is row["dev_sentiment"] is None
    assert row["step_ms_median"] > 0
    assert row["params_total"] < 2e6, "the second encoder alone would have a million more"


def test_a_step_has_the_rate_and_the_decay_of_its_part(grid):
    """AdamW's first step moves a bias by the rate, and weights without a gradient by the decay."""
    settings = SETTINGS.replace("adamax", "adamw").replace("sst = 9e-3", "sst = 0.5")
    settings += ", task_order = 'sequential'"
    ((row,), _) = run(grid, FULL, "--max-steps", "1", "--save-weights", settings=settings)
    kept = load_file(folder_of(grid.csv, row) / "weights.safetensors")
    rate = 4 * Rates().full / 2  # in small batches
    np.testing.assert_allclose(np.abs(kept["classifier.sst.out.bias"]), rate, rtol=1e-3)
    name = "embeddings.position_embeddings.weight"
    before = load_file(grid.model / "model.safetensors")[f"bert.{name}"][100:]
    np.testing.assert_allclose(kept[f"bert.{name}"][100:] / before, 1 - rate * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(kept[f"bert_pairs.{name}"][100:], before)
    assert not kept["classifier.quora.out.bias"].any()


def test_a_correlation_of_equal_dev_labels_is_told_and_no_score(grid):
    relabel(write_folder(grid.folder / "data", ("sst", "sts")) / "sts-dev.csv", "3.8")
    ((row,), notes) = run(grid, FULL, parts=())
    assert "note: multitask without quora, as quora-train.csv and quora-dev.csv" in notes
    assert "note: sts: all dev labels are 3.8" in notes
    assert "not_learned" in str(row["flags"]).split()
    assert row["dev_score"] is row["dev_similarity"] is row["dev_paraphrase"] is None
    assert row["dev_sentiment"] is not None
