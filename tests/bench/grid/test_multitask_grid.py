"""Task multitask by the grid command, end to end, on a tiny encoder and a tiny folder."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.analysis.groups import groups
from bench.analysis.verdicts import compare
from bench.common.errors import InputError
from bench.engines.outputs import heads_of
from bench.plan.job import Job
from bench.plan.rows import Row
from bench.results.overall import overall
from bench.studies.ensemble import members
from bench.studies.ensemble.__main__ import command as ensemble
from bench.worker.setup import losses_of
from bench.worker.trained import load_trained
from minbert.data.metrics import accuracy, pearson
from minbert.data.tasks import TASKS, load_task
from minbert.data.tasks.cs224n import PARTS
from tests.bench.conftest import narrow
from tests.bench.grids import GridRuns
from tests.bench.stored_values import kept_values
from tests.cs224n import relabel, write_folder

SETTINGS = """
[settings]
task = "multitask"
encoders = 2
epochs = 2
batch_size = 8
max_length = 32
head = "conv"
optimizer = "adamax"
schedule = "halving"
task_rates = {sst = 4.0, quora = 5.0, sts = 3.0}
task_decays = {sst = 9e-3, quora = 1e-5}
"""
FULL = "[[cells]]\nmode = ['full']\n"
LORA = """
[[cells]]
mode = ["lora"]
rank = [2]
layers = ["all-lin-only"]
amp = ["on"]
"""
ITERATIVE = LORA.replace("all-lin-only", "all-lin") + 'unfreeze = ["iterative"]\n'
CPU = ("--device", "cpu")


def run(
    grid: GridRuns,
    cells: str,
    *extra: str,
    parts: tuple[str, ...] = PARTS,
    settings: str = SETTINGS,
) -> list[Row]:
    """Run a grid of such cells, which must end ok; their rows."""
    done = command(grid, cells, *extra, parts=parts, settings=settings)
    assert done.returncode == 0, done.stderr
    return grid.rows()


def command(grid, cells, *extra, parts=PARTS, settings=SETTINGS):
    path = grid.folder / "mine.toml"
    path.write_text(settings + cells)
    data = write_folder(grid.folder / "data", parts)
    return grid.run("--data", str(data), *extra, grid=str(path), quick=CPU)


def folder_of(grid: GridRuns, row: Row) -> Path:
    (folder,) = [p for p in (grid.folder / "runs").iterdir() if str(row["cell_id"]) in p.name]
    return folder


@pytest.fixture(scope="module")
def checkpoint(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint whose weights are drawn large, so that what it says of texts differs."""
    return narrow(1, tmp_path_factory.mktemp("checkpoints") / "lively", minilm, spread=0.3)


@pytest.fixture
def grid(tmp_path: Path, checkpoint: Path) -> GridRuns:
    """A fresh place for a grid's results."""
    return GridRuns(tmp_path, checkpoint, workers_here=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> GridRuns:
    """A place where a full and a LoRA cell have run. Not to be changed."""
    made = GridRuns(tmp_path_factory.mktemp("ran") / "place", checkpoint, workers_here=True)
    made.folder.mkdir(parents=True)
    run(made, FULL + LORA, "--save-weights")
    return made


def test_a_worker_says_how_long_keeping_its_weights_took(ran: GridRuns) -> None:
    for row in ran.rows():
        folder = folder_of(ran, row)
        with (folder / "phases.csv").open() as file:
            phases = {line["phase"]: float(line["seconds"]) for line in csv.DictReader(file)}
        saved = json.loads((folder / "result.json").read_text())["save_s"]
        assert saved == pytest.approx(phases["save"], abs=1e-4)
        assert saved > 0


def test_cells_end_ok_with_all_figures(ran: GridRuns) -> None:
    rows = ran.rows()
    assert [row["status"] for row in rows] == ["ok", "ok"], [row["message"] for row in rows]
    for row in rows:
        assert (row["task"], row["dev_metric"], row["encoders"]) == ("multitask", "overall", 2)
        assert row["task_rates"] == "quora=5 sst=4 sts=3"
        assert row["task_decays"] == "quora=1e-05 sst=0.009 sts=0.01"
        for name in (
            *("step_ms_median", "ms_per_1k_tokens", "steps_timed", "startup_s", "train_s"),
            *("eval_s", "peak_rss_mib", "activations_mib", "weights_mib", "optimizer_mib"),
            *("gradients_mib", "params_total", "params_trainable", "tokens_total"),
            *("dev_sentiment", "dev_paraphrase", "dev_similarity", "dev_loss", "train_loss"),
            *("train_score", "majority_score", "step_gflop", "step_operators", "step_moved_mib"),
        ):
            assert row[name] is not None, name
        assert row["dev_ci_low"] < row["dev_score"] < row["dev_ci_high"]
        assert row["dev_accuracy"] is None
    full, lora = sorted(rows, key=lambda row: row["mode"])
    assert lora["params_trainable"] < full["params_trainable"] == full["params_total"]
    assert full["optimizer_mib"] == pytest.approx(2 * full["weights_mib"], rel=0.01)
    assert (ran.reports / "index.html").exists()
    report = (ran.reports / "report.md").read_text()
    assert "Overall is the mean of the accuracy on sst" in report


def test_what_is_kept_gives_the_scores_again(ran: GridRuns) -> None:
    for row in ran.rows():
        folder = folder_of(ran, row)
        kept = load_file(folder / "predictions.safetensors")
        assert set(kept) == {f"{part}.{name}" for part in PARTS for name in ("logits", "labels")}
        assert kept["sst.logits"].shape == (12, 5)
        scores = {
            "sst": accuracy(kept["sst.logits"], kept["sst.labels"]),
            "quora": accuracy(kept["quora.logits"], kept["quora.labels"]),
            "sts": pearson(kept["sts.logits"][:, 0], kept["sts.labels"]),
        }
        columns = {"sst": "dev_sentiment", "quora": "dev_paraphrase", "sts": "dev_similarity"}
        for part, score in scores.items():
            assert row[columns[part]] == pytest.approx(score, abs=1e-6)
        assert row["dev_score"] == pytest.approx(overall(scores), abs=1e-6)
        with (folder / "epochs.csv").open() as file:
            epochs = list(csv.DictReader(file))
        assert len(epochs) == 2
        assert float(epochs[-1]["dev_similarity"]) == pytest.approx(scores["sts"], abs=1e-6)
        steps = (folder / "steps.csv").read_text().splitlines()
        assert len(steps) == 1 + 2 * 3 * 3


def test_kept_weights_are_loaded_again(ran: GridRuns) -> None:
    full, lora = sorted(ran.rows(), key=lambda row: row["mode"])
    folder = folder_of(ran, full)
    kept = load_file(folder / "weights.safetensors")
    model = load_trained(Job.read(folder), folder)
    assert kept.keys() == model.state_dict().keys()
    folder = folder_of(ran, lora)
    kept = load_file(folder / "weights.safetensors")
    model = load_trained(Job.read(folder), folder)
    for name in ("comparison.wide.weight", "classifier.sts.out.weight"):
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), kept[name])
    assert any("bert_pairs.encoder" in name and "lora_B" in name for name in kept)


def test_with_one_part_of_the_files_that_part_is_learned(grid: GridRuns) -> None:
    settings = SETTINGS + 'regression_loss = "pearson"\n'
    done = command(grid, FULL, parts=("sts",), settings=settings)
    assert done.returncode == 0, done.stderr
    assert "note: multitask without sst, as ids-sst-train.csv and ids-sst-dev.csv" in done.stderr
    assert "note: multitask without quora" in done.stderr
    (row,) = grid.rows()
    assert row["status"] == "ok"
    assert (row["encoders"], row["task_rates"]) == (1, "sts=3")
    assert row["regression_loss"] == "pearson"
    assert 0 < row["dev_loss"] == pytest.approx(1 - row["dev_similarity"], abs=1e-5)
    assert row["dev_sentiment"] is row["dev_paraphrase"] is None
    assert row["dev_score"] == pytest.approx((1 + row["dev_similarity"]) / 2, abs=1e-6)


def test_both_encoders_unfreeze_epoch_by_epoch(tmp_path: Path, deep_checkpoint: Path) -> None:
    """Of four layers the top two have trained in three epochs, in both encoders."""
    grid = GridRuns(tmp_path, deep_checkpoint, workers_here=True)
    settings = SETTINGS.replace("epochs = 2", "epochs = 3")
    (row,) = run(grid, ITERATIVE, "--save-weights", settings=settings)
    kept = load_file(folder_of(grid, row) / "weights.safetensors")
    for tower in ("bert", "bert_pairs"):
        begin = f"{tower}.encoder.layer."
        of_tower = {n.removeprefix(begin): of for n, of in kept.items() if n.startswith(begin)}
        updates = {name: of for name, of in of_tower.items() if "lora_B" in name}
        assert {name[0] for name in updates} == set("0123")
        for name, update in updates.items():
            assert update.any() == (name[0] in "23"), f"{tower}, layer {name}"
    assert row["unfreeze"] == "iterative"
    assert row["optimizer_mib"] > 0
    with (folder_of(grid, row) / "epochs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.parametrize(("epochs", "trained"), [(4, {"layer"}), (5, {"layer", "rest"})])
def test_an_encoder_trains_from_the_epoch_in_which_it_unfreezes(
    grid: GridRuns, epochs: int, trained: set[str]
) -> None:
    """Its one layer is the top three quarters, rounded; embeddings come with all of it."""
    settings = SETTINGS.replace("epochs = 2", f"epochs = {epochs}")
    cells = FULL + 'unfreeze = ["iterative"]\n'
    done = command(grid, cells, "--save-weights", settings=settings)
    assert done.returncode == 0, done.stderr
    note = f"note: unfreezing ends in epoch 5, and training in epoch {epochs}: "
    note += f"{len(trained)} of 1 layers train, and no embeddings"
    assert (note in done.stderr) == (epochs < 5)
    (row,) = grid.rows()
    kept = load_file(folder_of(grid, row) / "weights.safetensors")
    before = load_file(grid.model / "model.safetensors")
    names = {"layer": "encoder.layer.0.output.dense.weight",
             "rest": "embeddings.word_embeddings.weight"}  # fmt: skip
    for tower in ("bert", "bert_pairs"):
        moved = {
            what
            for what, name in names.items()
            if not np.array_equal(kept[f"{tower}.{name}"], before[f"bert.{name}"])
        }
        assert moved == trained
    assert kept["classifier.sst.out.bias"].any(), "a head trains from the first epoch"


@pytest.mark.parametrize(
    ("order", "came"), [("sequential", {"sst"}), ("round-robin", {"sst", "quora"})]
)
def test_parts_come_in_the_order_asked_for_and_what_serves_others_need_not_move(
    grid: GridRuns, order: str, came: set[str]
) -> None:
    """In two steps, of which a part has three in an epoch. The heads' last biases begin at 0."""
    settings = SETTINGS + f'task_order = "{order}"\n'
    (row,) = run(grid, FULL, "--max-steps", "2", "--save-weights", settings=settings)
    assert (row["status"], row["task_order"]) == ("ok", order)
    assert row["dev_sentiment"] is not None
    kept = load_file(folder_of(grid, row) / "weights.safetensors")
    assert {part for part in PARTS if kept[f"classifier.{part}.out.bias"].any()} == came


def test_random_weights_on_one_encoder_measure_cost_alone(grid: GridRuns) -> None:
    settings = SETTINGS.replace("encoders = 2", "encoders = 1").replace("conv", "linear")
    (row,) = run(grid, LORA.replace("lora", "dora"), "--init", "random", settings=settings)
    assert (row["status"], row["encoders"]) == ("ok", 1)
    assert row["dev_metric"] is row["dev_score"] is row["dev_sentiment"] is None
    assert row["step_ms_median"] > 0
    assert row["params_total"] < 2e6, "the second encoder alone would have a million more"


def test_a_step_has_the_rate_and_the_decay_of_its_part(grid: GridRuns) -> None:
    """After one step of sst. AdamW's first moves a bias, which begins at 0, by the rate, and where
    there is no gradient, at positions that no text has, decay alone changes a weight."""
    settings = SETTINGS.replace("adamax", "adamw").replace("sst = 9e-3", "sst = 0.5")
    settings += 'task_order = "sequential"\n'
    (row,) = run(grid, FULL, "--max-steps", "1", "--save-weights", settings=settings)
    kept = load_file(folder_of(grid, row) / "weights.safetensors")
    rate = 4 * 1e-4
    np.testing.assert_allclose(np.abs(kept["classifier.sst.out.bias"]), rate, rtol=1e-3)
    name = "embeddings.position_embeddings.weight"
    before = load_file(grid.model / "model.safetensors")[f"bert.{name}"][100:]
    np.testing.assert_allclose(kept[f"bert.{name}"][100:] / before, 1 - rate * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(kept[f"bert_pairs.{name}"][100:], before)
    assert not kept["classifier.quora.out.bias"].any()


def test_the_same_cell_gives_the_same_losses(ran: GridRuns, grid: GridRuns) -> None:
    (again,) = run(grid, FULL)
    (first,) = [row for row in ran.rows() if row["mode"] == "full"]
    losses = []
    for place, row in ((ran, first), (grid, again)):
        with (folder_of(place, row) / "steps.csv").open() as file:
            losses.append([line["loss"] for line in csv.DictReader(file)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("settings", "extra", "message"),
    [
        (SETTINGS, ("--lr", "auto"), "--lr auto: no rates are searched for task multitask"),
        (SETTINGS + "held_out = 0.01\n", (), "of 24 training examples of sst is none"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(
    grid: GridRuns, settings: str, extra: tuple[str, ...], message: str
) -> None:
    done = command(grid, FULL, *extra, settings=settings)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not grid.csv.exists()


def test_each_part_has_its_loss_and_its_outputs() -> None:
    losses = losses_of(TASKS["multitask"], PARTS, None)
    assert losses == {"sst": "cross-entropy", "quora": "binary", "sts": "mse"}
    losses = losses_of(TASKS["multitask"], PARTS, "pearson")
    assert losses == {"sst": "cross-entropy", "quora": "binary", "sts": "pearson"}
    heads = {
        part: (head.outputs, head.pairs)
        for part, head in heads_of(TASKS["multitask"], PARTS).items()
    }
    assert heads == {"sst": (5, False), "quora": (1, True), "sts": (1, True)}


def test_a_task_without_parts_is_one_of_a_single_part() -> None:
    assert losses_of(TASKS["movies"], [""], None) == {"": "cross-entropy"}
    assert losses_of(TASKS["sts"], [""], "pearson") == {"": "pearson"}
    assert (
        heads_of(TASKS["movies"], [""]),
        heads_of(TASKS["quora"], [""]),
        heads_of(TASKS["sts"], [""]),
    ) == (5, 2, 1)


def test_a_correlation_of_equal_dev_labels_is_told_and_no_score(grid: GridRuns) -> None:
    data = write_folder(grid.folder / "data", ("sst", "sts"))
    relabel(data / "sts-dev.csv", "3.8")
    path = grid.folder / "mine.toml"
    path.write_text(SETTINGS + FULL)
    done = grid.run("--data", str(data), grid=str(path), quick=CPU)
    assert done.returncode == 0, done.stderr
    assert "note: multitask without quora, as quora-train.csv and quora-dev.csv" in done.stderr
    assert "note: sts: all dev labels are 3.8" in done.stderr
    (row,) = grid.rows()
    assert row["status"] == "ok"
    assert "not_learned" in str(row["flags"]).split()
    assert row["dev_score"] is row["dev_similarity"] is row["dev_paraphrase"] is None
    assert row["dev_sentiment"] is not None
    with pytest.raises(InputError, match="no cell ended ok with a score; run a grid first"):
        members.find([grid.csv])


def test_other_commands_say_what_they_lack(ran: GridRuns) -> None:
    with pytest.raises(InputError, match="no cell of multitask held training examples out"):
        members.find([ran.csv])


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> GridRuns:
    """A place where a cell of all parts, and one of sts alone, held examples out. Not to be
    changed."""
    made = GridRuns(tmp_path_factory.mktemp("held") / "place", checkpoint, workers_here=True)
    made.folder.mkdir(parents=True)
    run(made, FULL, settings=SETTINGS + "held_out = 0.4\n")
    alone = "[settings]\ntask = 'sts'\nbatch_size = 8\nmax_length = 32\nheld_out = 0.4\n"
    run(made, FULL, settings=alone)
    return made


def test_a_share_of_each_part_is_held_out_and_predicted(held: GridRuns) -> None:
    together, alone = held.rows()
    assert (together["task"], alone["task"]) == ("multitask", "sts")
    folder = folder_of(held, together)
    kept = load_file(folder / "predictions.safetensors")
    for part in PARTS:
        assert kept[f"{part}.held_logits"].shape == (10, 5 if part == "sst" else 1)
        assert kept[f"{part}.held_labels"].shape == (10,)
        indices = kept[f"{part}.held_indices"]
        assert indices.dtype == np.int64
        labels = load_task(part, held.folder / "data").train.labels
        np.testing.assert_array_equal(kept[f"{part}.held_labels"], labels[indices])
    steps = (folder / "steps.csv").read_text().splitlines()
    assert len(steps) == 1 + 2 * 3 * 2, "of 24 examples 14 are left, two batches"
    of_pairs = load_file(folder_of(held, alone) / "predictions.safetensors")
    for name in ("held_labels", "held_indices"):
        np.testing.assert_array_equal(kept[f"sts.{name}"], of_pairs[name])


def test_members_are_chosen_for_each_part(
    held: GridRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensemble.main(["--runs", str(held.csv), "--json"], standalone_mode=False) == 0
    document = json.loads(capsys.readouterr().out)
    assert [task["task"] for task in document["tasks"]] == list(PARTS)
    assert [task["candidates"] for task in document["tasks"]] == [1, 1, 2]
    together, alone = held.rows()
    scores = {task["task"]: task["best_member"]["dev_score"] for task in document["tasks"]}
    assert scores["sst"] == pytest.approx(together["dev_sentiment"], abs=1e-6)
    assert scores["quora"] == pytest.approx(together["dev_paraphrase"], abs=1e-6)
    either = (together["dev_similarity"], alone["dev_score"])
    assert any(scores["sts"] == pytest.approx(score, abs=1e-6) for score in either)
    assert document["overall"]["best_members"]["dev_score"] == pytest.approx(overall(scores))
    once = {row["cell_id"]: row["params_total"] for row in held.rows()}
    used = {member["cell_id"] for task in document["tasks"] for member in task["members"]}
    assert document["overall"]["ensemble"]["parameters"] == sum(once[cell_id] for cell_id in used)


def test_settings_are_compared_example_by_example(ran: GridRuns) -> None:
    (group,) = groups(ran.rows(), (), kept_values(ran.csv))
    one, other = group.settings
    assert len(one.values[0]) == len(other.values[0]) == 3 * 12
    assert one.values[0].mean() == pytest.approx(one.scores[0], abs=1e-6)
    gap = compare(group, "score", one, other)
    scores = [setting.scores[0] for setting in (one, other)]
    assert gap is not None
    assert gap.value == pytest.approx(scores[0] - scores[1], abs=1e-6)
    (group,) = groups(ran.rows())
    assert group.settings[0].values == {}
    assert compare(group, "score", *group.settings).ends() is not None
