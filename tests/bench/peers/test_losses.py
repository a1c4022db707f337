"""The baseline does the same work: its losses agree with ours, and those of a wrong one do not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.peers.curves import Agreement, compare
from bench.peers.names import OURS
from minbert.data.metrics import score
from minbert.data.tasks import find_task, load_task
from tests.adapters.small import need_peft
from tests.bench.peer_cells import EXAMPLES, cell, job_of, started

KINDS = [
    ("full", ""), ("lora", "attn-only"), ("lora", "all-lin"), ("dora", "all-lin-only"),
]  # fmt: skip
WRONG = [{"alpha": 32.0}, {"learning_rate": 1e-3}, {"weight_decay": 1.0}, {"seed": 1}]


class Curves:
    """Losses of ours and of the baseline, in this process, from the same initial weights."""

    def __init__(self, checkpoint: Path, folder: Path, pooling: str = "pooler") -> None:
        from bench.worker.setup import examples

        self.checkpoint = checkpoint
        self.cells = {kind: cell(checkpoint, *kind, pooling=pooling) for kind in KINDS}
        self.requests = started(list(self.cells.values()), checkpoint, folder)
        job = job_of(self.cells["full", ""], checkpoint)
        self.train, _ = examples(job)[""]

    def losses(
        self, kind: tuple[str, str], side: str, steps: int = 50, **changes: object
    ) -> list[float]:
        from bench.peers import baseline, measure, ours

        kind_cell = self.cells[kind]
        request = replace(self.requests[kind_cell.name], side=side, loss_steps=steps)
        job = job_of(replace(kind_cell, **changes), self.checkpoint)
        build = ours.build if side == OURS else baseline.build
        return measure.losses(build, request, job, find_task(kind_cell.task), self.train)

    def compare(self, kind: tuple[str, str], steps: int = 50, **changes: object) -> Agreement:
        amp = str(changes.get("amp", "off"))
        own = self.losses(kind, OURS, steps, amp=amp)
        assert own[0] != own[-1]
        return compare(own, self.losses(kind, "default", steps, **changes), amp)


@pytest.fixture(scope="module")
def both(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    need_peft()
    return Curves(tiny_checkpoint, tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_losses_of_50_steps_agree(both: Curves, kind: tuple[str, str]) -> None:
    agreement = both.compare(kind)
    assert agreement.agrees, agreement


def test_losses_agree_with_mean_pooling_and_in_bf16(
    tiny_checkpoint: Path, tmp_path: Path, both: Curves
) -> None:
    mean = Curves(tiny_checkpoint, tmp_path, pooling="mean")
    assert mean.compare(("dora", "all-lin-only"), 12).agrees
    assert both.compare(("lora", "all-lin"), 12, amp="bf16").agrees


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_different_work_is_detected(both: Curves, wrong: dict[str, object]) -> None:
    agreement = both.compare(("lora", "all-lin"), 20, **wrong)
    assert not agreement.agrees, agreement


def test_the_trainer_script_trains_and_scores(both: Curves, tmp_path: Path) -> None:
    from bench.peers import trainer_script

    lora = both.cells["lora", "attn-only"]
    request = replace(both.requests[lora.name], side="trainer")
    job = job_of(replace(lora, max_steps=3, amp="bf16"), both.checkpoint)
    answer = trainer_script.run(job, request, tmp_path)
    assert answer["steps"] == 3
    assert answer["dev_metric"] == "accuracy"
    assert 0 <= answer["dev_score"] <= 1


def test_the_trainer_script_leaves_out_held_out_examples_and_writes_predictions(
    both: Curves, tmp_path: Path
) -> None:
    from bench.peers import trainer_script

    lora = both.cells["lora", "attn-only"]
    request = replace(both.requests[lora.name], side="trainer")
    job = job_of(replace(lora, held_out=0.25), both.checkpoint)
    reported: list[tuple[int, int]] = []
    answer = trainer_script.run(job, request, tmp_path, lambda *step: reported.append(step))
    assert reported == [(step, 9) for step in range(1, 10)], "72 of 96 examples in batches of 8"
    assert answer["steps"] == 9
    predictions = load_file(tmp_path / "predictions.safetensors")
    labels = load_task("movies", **EXAMPLES).dev.labels
    np.testing.assert_array_equal(predictions["labels"], labels)
    assert predictions["logits"].shape == (24, 5)
    assert score("accuracy", predictions["logits"], labels) == pytest.approx(answer["dev_score"])


def test_a_baseline_with_fewer_adapters_is_an_error(
    both: Curves, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.peers import baseline

    monkeypatch.setattr(baseline, "adapted_layers", lambda _layers: ("attention.self.query",))
    with pytest.raises(RuntimeError, match="another adapter than ours"):
        both.losses(("lora", "all-lin"), "default")


def test_curves_agree_within_a_tolerance() -> None:
    assert compare([1.0, 0.5], [1.0, 0.50009], "off").agrees
    assert not compare([1.0, 0.5, 0.4], [1.0, 0.5002, 0.4], "off").agrees
    assert compare([1.0, 0.5, 0.4], [1.0, 0.5002, 0.4], "bf16").agrees
    assert not compare([1.0, float("nan")], [1.0, float("nan")], "off").agrees
    with pytest.raises(ValueError, match="same steps"):
        compare([1.0], [1.0, 2.0], "off")
