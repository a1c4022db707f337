"""Settings of training, in a worker on a tiny encoder: against torch, scikit-learn and PEFT."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from bench.forecast.costs import Variant
from bench.forecast.fake import count
from bench.worker.process import Progress
from bench.worker.run import CellRun
from bench.worker.setup import Split, class_weights
from bench.worker.weights import EarlyStopping
from minbert.data.tasks import TASKS, Task, load_data
from minbert.kernels.reference import is_reference, kernels
from minbert.training.losses import mean_loss
from tests.bench.tiny_cells import PARTS, cell, csv_rows, ended, job_of
from tests.bench.worker.test_worker import ALL_EXAMPLES, job_on
from tests.bench.workloads import ONE
from tests.cs224n import relabel, write_folder


def test_parts_have_weights_of_their_own_and_a_score(tiny_checkpoint, tmp_path, monkeypatch):
    from sklearn.utils.class_weight import compute_class_weight

    step, trained = CellRun._step, []

    def noted(run, trainer, batch):
        trained.append((*step(run, trainer, batch), batch))
        return trained[-1][:2]

    monkeypatch.setattr(CellRun, "_step", noted)
    settings = PARTS | {
        "class_weights": "balanced", "label_smoothing": 0.1, "held_out": 0.25, "early_stopping": 2,
        "epochs": 3,
    }  # fmt: skip
    job = job_on(tiny_checkpoint, tmp_path, mode="full", **settings)
    run = ended(job, tmp_path / "cell")
    assert len(set(np.bincount(run.train["sst"].labels).tolist())) > 1
    for loss, logits, batch in trained:
        if batch.part == "sts":
            expected = nn.MSELoss()(logits[:, 0], batch.labels)
        else:
            two = torch.cat([torch.zeros_like(logits), logits], dim=1)
            outputs = two if batch.part == "quora" else logits
            labels = run.train[batch.part].labels
            weights = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
            loss_of = nn.CrossEntropyLoss(torch.from_numpy(weights).float(), label_smoothing=0.1)
            expected = loss_of(outputs, batch.labels)
        torch.testing.assert_close(loss, expected)
    curve = csv_rows(tmp_path / "cell" / "epochs.csv")
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    for part, of in load_data("multitask", tmp_path / "data").parts.items():
        labels = of.train.labels[kept[f"{part}.held_indices"]]
        np.testing.assert_array_equal(kept[f"{part}.held_labels"], labels)
    right = [
        ((kept["sst.held_logits"].argmax(axis=1)) == kept["sst.held_labels"]).mean(),
        ((kept["quora.held_logits"][:, 0] > 0) == kept["quora.held_labels"]).mean(),
        (1 + np.corrcoef(kept["sts.held_logits"][:, 0], kept["sts.held_labels"])[0, 1]) / 2,
    ]
    best = curve[int(run.columns["best_epoch"]) - 1]
    assert float(best["held_out_score"]) == pytest.approx(np.mean(right), abs=1e-6)


def test_a_class_without_examples_weighs_nothing(tiny_checkpoint):
    of = cell(tiny_checkpoint, "full", task="sst", class_weights="balanced")
    labels = np.array([0, 0, 0, 2, 4, 4])
    split = Split((), labels, labels, "cross-entropy")
    weights = class_weights({"": split}, TASKS["movies"], of)[""]
    assert weights.tolist() == pytest.approx([2 / 3, 0, 2, 0, 1])
    assert class_weights({"": replace(split, loss="mse")}, TASKS["movies"], of) == {}
    assert class_weights({"": split}, TASKS["movies"], replace(of, class_weights="none")) == {}


@pytest.mark.parametrize(("patience", "results", "ended"), [
    (2, [(1, 0.5), (1, 0.6), (1, 0.6), (1, 0.55), (1, 0.9)], (4, 2, 2)),
    (1, [(1, 0.5), (1, 0.7), (1, 0.6), (1, 0.9)], (3, 2, 2)),
    (2, [(1, 0.5), (0.9, 0.5), (0.95, 0.5), (0.8, 0.5)], (4, 4, 4)),
    (2, [(1, 0.9), (0.1, 0.8), (0.1, 0.8)], (3, 1, 1)),
    (2, [(1, None), (0.9, None), (2, -0.5), (0.1, None)], (4, 3, 3)),
])  # fmt: skip
def test_the_best_score_counts_then_the_lowest_loss_then_the_first(patience, results, ended):
    """The epochs that run, the best one, and the weight restored, which is the epoch's number."""
    weight = nn.Parameter(torch.zeros(1))
    stopping = EarlyStopping([weight], patience)
    for epoch, (loss, score) in enumerate(results, start=1):
        weight.data.fill_(epoch)
        stopping.take(loss, score)
        if stopping.is_over:
            break
    assert stopping.restore() == (stopping.best < epoch)
    assert (epoch, stopping.best, weight.item()) == ended


class Noted(CellRun):
    """Notes weights after each epoch, whose held-out scores are scripted, if given."""

    def __init__(self, job, folder, scores=()):
        super().__init__(job, folder, Progress(None))
        self.scores = scores
        self.weights = []

    def _evaluate(self, loss, fitted):
        epoch = super()._evaluate(loss, fitted)
        self.weights.append({n: p.detach().clone() for n, p in self.model.named_parameters()})
        if self.scores:
            epoch.held_out = epoch.held_out[0], self.scores[len(self.epochs)]
        return epoch


def cell_run(checkpoint, folder, scores=(), **changes):
    rates = dict.fromkeys(("learning_rate", "learning_rate_base", "learning_rate_head"), 1e-2)
    values = {"task": "sst", "mode": "lora", "epochs": 6, "held_out": 0.25, "early_stopping": 2}
    values |= {"schedule": "linear", **rates, **changes}
    ended = Noted(job_on(checkpoint, folder, **values), folder / "cell", scores)
    ended.run()
    return ended


def test_the_weights_of_the_best_epoch_are_scored_and_kept(tiny_checkpoint, tmp_path):
    ended = cell_run(tiny_checkpoint, tmp_path, [0.2, 0.6, 0.5, 0.4, 0.9], mode="dora")
    columns, epochs = ended.columns, ended.epochs
    assert (columns["epochs_run"], columns["best_epoch"]) == (4, 2)
    assert len(csv_rows(tmp_path / "cell" / "steps.csv")) == 4 * ended._steps_per_epoch
    best, last = ended.weights[1], ended.weights[3]
    assert not all(torch.equal(best[name], last[name]) for name in best)
    for name, parameter in ended.model.named_parameters():
        assert torch.equal(parameter, best[name]), name
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    np.testing.assert_array_equal(kept["logits"], ended._predictions(ended.dev)[""])
    np.testing.assert_array_equal(kept["held_logits"], ended._predictions(ended.held_out)[""])
    for name in ("dev_score", "dev_loss", "train_loss", "train_score"):
        assert columns[name] == getattr(epochs[1], name), name
    assert columns["train_loss"] != epochs[3].train_loss


def test_held_out_scores_decide_and_dev_does_not(tiny_checkpoint, tmp_path):
    """Other dev labels change no step and not the best epoch. Evaluation has plain losses."""
    options = {"class_weights": "balanced", "label_smoothing": 0.2}
    one = cell_run(tiny_checkpoint, tmp_path / "one", **options)
    curve = csv_rows(tmp_path / "one" / "cell" / "epochs.csv")
    results = [(float(r["held_out_score"]), -float(r["held_out_loss"])) for r in curve]
    best = one.columns["best_epoch"]
    assert results.index(max(results)) + 1 == best
    kept = load_file(tmp_path / "one" / "cell" / "predictions.safetensors")
    loss = mean_loss("cross-entropy", kept["held_logits"], kept["held_labels"])
    assert results[best - 1][1] == pytest.approx(-loss)
    data = tmp_path / "other" / "data"
    write_folder(data, count=ALL_EXAMPLES)
    for line in range(2, 14):
        relabel(data / "ids-sst-dev.csv", str(line % 2), line)
    digest = load_data("sst", data).digest[:16]
    job = replace(one.job, cell=replace(one.job.cell, data_digest=digest), data=str(data))
    other = ended(job, tmp_path / "other" / "cell")
    assert [e.dev_loss for e in other.epochs] != [e.dev_loss for e in one.epochs]
    assert torch.equal(torch.stack(other.losses), torch.stack(one.losses))
    assert other.columns["best_epoch"] == best


def test_until_it_stops_it_changes_no_step(tiny_checkpoint, tmp_path):
    stopped = cell_run(tiny_checkpoint, tmp_path / "stopped", [0.5, 0.4, 0.3, 0.0])
    whole = cell_run(tiny_checkpoint, tmp_path / "whole", early_stopping=None)
    steps = len(stopped.losses)
    assert steps == 3 * stopped._steps_per_epoch < len(whole.losses)
    assert torch.equal(torch.stack(stopped.losses), torch.stack(whole.losses)[:steps])
    assert whole.columns["epochs_run"] == 6
    assert whole.columns["best_epoch"] is None
    assert csv_rows(tmp_path / "whole" / "cell" / "epochs.csv")[0].keys() == {
        "epoch", "train_loss", "train_score", "dev_loss", "dev_score",
    }  # fmt: skip


def test_checkpointing_keeps_less_and_trains_the_same(tiny_checkpoint, tmp_path):
    job = job_on(tiny_checkpoint, tmp_path, "sst", "full")
    checkpointed = replace(job, cell=replace(job.cell, gradient_checkpointing="on"))
    plain, less = (ended(each, tmp_path) for each in (job, checkpointed))
    assert torch.equal(torch.stack(plain.losses), torch.stack(less.losses))
    np.testing.assert_array_equal(plain.logits[""], less.logits[""])
    kept, again = (each.columns["activations_mib"] for each in (plain, less))
    assert again < 0.6 * kept
    assert less.columns["step_operators"] > plain.columns["step_operators"]


@pytest.mark.parametrize(
    ("mode", "layers", "amp"), [("dora", "all-lin", "off"), ("lora", "attn", "bf16")]
)
def test_a_cell_learns_the_same_on_both(tiny_checkpoint, tmp_path, mode, layers, amp):
    of = cell(tiny_checkpoint, mode, layers, amp=amp, dropout=0.0)
    runs = []
    for name in ("fast", "reference"):
        job = job_of(replace(of, kernels=name), tiny_checkpoint)
        runs.append(ended(job, tmp_path / name))
        assert not is_reference(), "what was entered is left"
    fast, reference = (torch.stack(run.losses) for run in runs)
    near = {"rtol": 1e-4, "atol": 1e-5} if amp == "off" else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(fast, reference, **near)
    assert amp == "off" or not torch.equal(fast, reference)
    kept = [run.columns["activations_mib"] for run in runs]
    assert kept[1] > 1.2 * kept[0], "autograd keeps more than the kernels do"
    with pytest.raises(ValueError, match="'odd'; there are fast, reference"), kernels("odd"):
        pass


def test_costs_of_several_labels_and_of_copied_weights(tiny_checkpoint, monkeypatch):
    topics = Task("topics", classes=("a", "b", "c"), problem_name="multi_label")
    monkeypatch.setitem(TASKS, "topics", topics)
    of = cell(tiny_checkpoint, "full", task="topics")
    cells = [replace(of, early_stopping=patience) for patience in (None, 2)]
    jobs = [(job_of(of, tiny_checkpoint), ONE, Variant.of(of)) for of in cells]
    plain, copied = (count(*each)[""][0] for each in jobs)
    assert plain.step.gflop > 0
    size = plain.optimizer_mib / 2  # everything trains, with two averages of each number
    assert copied.weights_mib - plain.weights_mib == pytest.approx(size, rel=1e-3)
    assert copied.peak_mib - plain.peak_mib == pytest.approx(size, rel=1e-3)


PLAIN = {"batching": "shuffled", "dropout": 0.0, "epochs": 2, "schedule": "linear"}
LARGE = PLAIN | {"batch_size": 16}
SMALL = PLAIN | {"batch_size": 8, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize(("mode", "max_steps"), [("full", None), ("lora", 3)])
def test_two_batches_of_8_are_one_of_16(tiny_checkpoint, tmp_path, mode, max_steps):
    """Of 24 examples, whose second step in an epoch is on 8, which are one batch."""
    runs = []
    assert SMALL["gradient_accumulation_steps"] == 2
    for name, settings in (("large", LARGE), ("small", SMALL)):
        (tmp_path / name).mkdir()
        job = job_on(tiny_checkpoint, tmp_path / name, "sst", mode, **settings, max_steps=max_steps)
        runs.append(ended(job, tmp_path / name))
    large, small = runs
    assert len(large.losses) == len(small.losses) == (max_steps or 4)
    torch.testing.assert_close(small.losses, large.losses, atol=1e-5, rtol=1e-5)
    for (name, p), q in zip(small.model.named_parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=1e-4, msg=name)
    np.testing.assert_allclose(small.logits[""], large.logits[""], atol=1e-4)
    one, other = (csv_rows(tmp_path / name / "steps.csv") for name in ("small", "large"))
    same = ("step", "tokens", "examples")
    assert [[row[n] for n in same] for row in one] == [[row[n] for n in same] for row in other]
    assert small.columns["tokens_total"] == large.columns["tokens_total"]
    replayed = csv_rows(tmp_path / "small" / "panel.csv")
    assert {row["examples"] for row in replayed} == {"16"}
    assert len({row["batch"] for row in replayed}) == 1
    # memory is that of a batch, work that of a step
    assert small.columns["activations_mib"] < 0.8 * large.columns["activations_mib"]
    assert small.columns["step_operators"] > 1.5 * large.columns["step_operators"]
    assert 0.5 < small.columns["step_gflop"] / large.columns["step_gflop"] < 1.1
