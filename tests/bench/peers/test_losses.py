"""The peer does the same work: its losses are ours, and a wrong peer's are not."""

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
    """Losses of ours and of the peer's, in this process, from the same first weights."""

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
        from bench.peers import measure, ours, theirs

        of = self.cells[kind]
        request = replace(self.requests[of.name], side=side, loss_steps=steps)
        job = job_of(replace(of, **changes), self.checkpoint)
        build = ours.build if side == OURS else theirs.build
        return measure.losses(build, request, job, find_task(of.task), self.train)

    def compare(self, kind: tuple[str, str], steps: int = 50, **changes: object) -> Agreement:
        amp = str(changes.get("amp", "off"))
        found = (
            self.losses(kind, OURS, steps, amp=amp),
            self.losses(kind, "default", steps, **changes),
        )
        assert found[0][0] != found[0][-1]
        return compare(*found, amp)


@pytest.fixture(scope="module")
def both(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    need_peft()
    return Curves(tiny_checkpoint, tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_losses_of_50_steps_agree(both: Curves, kind: tuple[str, str]) -> None:
    found = both.compare(kind)
    assert found.agrees, found


def test_losses_agree_with_mean_pooling_and_in_bf16(
    tiny_checkpoint: Path, tmp_path: Path, both: Curves
) -> None:
    mean = Curves(tiny_checkpoint, tmp_path, pooling="mean")
    assert mean.compare(("dora", "all-lin-only"), 12).agrees
    assert both.compare(("lora", "all-lin"), 12, amp="bf16").agrees


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_peer_that_does_other_work_is_found(both: Curves, wrong: dict[str, object]) -> None:
    found = both.compare(("lora", "all-lin"), 20, **wrong)
    assert not found.agrees, found


def test_the_usual_script_trains_and_scores(both: Curves, tmp_path: Path) -> None:
    from bench.peers import usual

    of = both.cells["lora", "attn-only"]
    request = replace(both.requests[of.name], side="trainer")
    job = job_of(replace(of, max_steps=3, amp="bf16"), both.checkpoint)
    found = usual.run(job, request, tmp_path)
    assert found["steps"] == 3
    assert found["dev_metric"] == "accuracy"
    assert 0 <= found["dev_score"] <= 1


def test_the_usual_script_leaves_out_what_is_held_out_and_keeps_its_predictions(
    both: Curves, tmp_path: Path
) -> None:
    from bench.peers import usual

    of = both.cells["lora", "attn-only"]
    request = replace(both.requests[of.name], side="trainer")
    job = job_of(replace(of, held_out=0.25), both.checkpoint)
    told: list[tuple[int, int]] = []
    found = usual.run(job, request, tmp_path, lambda *step: told.append(step))
    assert told == [(step, 9) for step in range(1, 10)], "of 96 examples 72, in batches of 8"
    assert found["steps"] == 9
    kept = load_file(tmp_path / "predictions.safetensors")
    labels = load_task("movies", **EXAMPLES).dev.labels
    np.testing.assert_array_equal(kept["labels"], labels)
    assert kept["logits"].shape == (24, 5)
    assert score("accuracy", kept["logits"], labels) == pytest.approx(found["dev_score"])


def test_a_peer_without_some_of_the_adapters_is_refused(
    both: Curves, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.peers import theirs

    monkeypatch.setattr(theirs, "adapted_layers", lambda _layers: ("attention.self.query",))
    with pytest.raises(RuntimeError, match="another adapter than ours"):
        both.losses(("lora", "all-lin"), "default")


def test_curves_are_alike_up_to_a_tolerance() -> None:
    assert compare([1.0, 0.5], [1.0, 0.50009], "off").agrees
    found = compare([1.0, 0.5, 0.4], [1.0, 0.5002, 0.4], "off")
    assert not found.agrees
    assert found.step == 2
    assert compare([1.0, 0.5, 0.4], [1.0, 0.5002, 0.4], "bf16").agrees
    assert not compare([1.0, float("nan")], [1.0, float("nan")], "off").agrees
    with pytest.raises(ValueError, match="same steps"):
        compare([1.0], [1.0, 2.0], "off")
