"""Settings of training, in a worker on a tiny encoder: against torch, scikit-learn and PEFT."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.engines import minbert
from bench.worker.run import CellRun
from bench.worker.setup import Split, class_weights, trained_groups
from minbert.data.tasks import TASKS
from tests.bench.tiny_cells import PARTS, cell, ended, job_of
from tests.bench.worker.test_worker import job_on

LAYERS = 4


class Steps(CellRun):
    def __init__(self, *given):
        super().__init__(*given)
        self.taken = []

    def _step(self, trainer, batch):
        loss, logits = super()._step(trainer, batch)
        self.taken.append((loss, logits, batch))
        return loss, logits

    @property
    def trained(self):
        """The steps of training, without those that are timed after it."""
        return self.taken[: len(self.losses)]


def run(checkpoint, folder, task, mode="full", **changes):
    """A cell on made-up examples after its run; the labels of sst are not equally frequent."""
    return ended(job_on(checkpoint, folder, task, mode, **changes), folder / "cell", Steps)


def reference(labels, smoothing):
    """Torch's loss with the balanced weights of scikit-learn."""
    from sklearn.utils.class_weight import compute_class_weight

    weights = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    return nn.CrossEntropyLoss(torch.from_numpy(weights).float(), label_smoothing=smoothing)


def test_a_step_has_the_loss_of_torch_with_weights_of_what_is_trained_on(tiny_checkpoint, tmp_path):
    settings = {"class_weights": "balanced", "label_smoothing": 0.2}
    ended = run(tiny_checkpoint, tmp_path, "sst", **settings, held_out=0.3, max_steps=2)
    labels = ended.train[""].labels
    assert len(labels) < 24
    assert len(set(np.bincount(labels).tolist())) > 1
    loss_of = reference(labels, 0.2)
    for loss, logits, batch in ended.trained:
        torch.testing.assert_close(loss, loss_of(logits, batch.labels))
    logits, labels = map(torch.from_numpy, (ended.logits[""], ended.dev[""].labels))
    plain = nn.CrossEntropyLoss()(logits.double(), labels)
    assert ended.columns["dev_loss"] == pytest.approx(plain.item())


def test_parts_of_a_task_have_weights_of_their_own_and_numbers_have_none(tiny_checkpoint, tmp_path):
    settings = {**PARTS, "class_weights": "balanced", "label_smoothing": 0.1, "held_out": 0.2}
    ended = run(tiny_checkpoint, tmp_path, **settings)
    for loss, logits, batch in ended.trained:
        if batch.part == "sts":
            expected = nn.MSELoss()(logits[:, 0], batch.labels)
        else:
            two = torch.cat([torch.zeros_like(logits), logits], dim=1)
            outputs = two if batch.part == "quora" else logits
            expected = reference(ended.train[batch.part].labels, 0.1)(outputs, batch.labels)
        torch.testing.assert_close(loss, expected)


def test_a_class_without_examples_weighs_nothing(tiny_checkpoint):
    of = cell(tiny_checkpoint, "full", task="sst", class_weights="balanced")
    labels = np.array([0, 0, 0, 2, 4, 4])
    split = Split((), labels, labels, "cross-entropy")
    weights = class_weights({"": split}, TASKS["movies"], of)[""]
    assert weights.tolist() == pytest.approx([2 / 3, 0, 2, 0, 1])
    assert class_weights({"": replace(split, loss="mse")}, TASKS["movies"], of) == {}
    assert class_weights({"": split}, TASKS["movies"], replace(of, class_weights="none")) == {}


def rates_of(checkpoint, mode, **changes):
    of = cell(checkpoint, mode, "all-lin", learning_rate_head=1e-3, **changes)
    model = minbert.build(job_of(of, checkpoint))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = trained_groups(model, of)
    found = {names[p]: (g.learning_rate, g.weight_decay) for g in groups for p in g.parameters}
    assert len(found) == sum(len(group.parameters) for group in groups)
    assert found.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    return found


@pytest.mark.parametrize("mode", ["full", "lora", "dora"])
def test_rates_fall_layer_by_layer_and_not_above_the_encoder(deep_checkpoint, mode):
    """With a ratio of LoRA+, B's are a multiple of that."""
    ratio = 1.0 if mode == "full" else 16.0
    plain = rates_of(deep_checkpoint, mode)
    decayed = rates_of(deep_checkpoint, mode, layer_decay=0.5, lora_plus_ratio=ratio)
    assert plain.keys() == decayed.keys()
    factors = {"bert.embeddings.": 0.5**LAYERS, "bert.pooler.": 1.0, "classifier.": 1.0}
    factors |= {f"bert.encoder.layer.{n}.": 0.5 ** (LAYERS - 1 - n) for n in range(LAYERS)}
    for name, (rate, decay) in plain.items():
        (factor,) = (factor for prefix, factor in factors.items() if name.startswith(prefix))
        of_b = ratio if name.endswith("lora_B") else 1.0
        assert decayed[name] == (pytest.approx(rate * factor * of_b), decay), name
