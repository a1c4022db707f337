"""`python -m bench.ensemble` on cells whose predictions are made up, and its averages."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.studies.ensemble.averages import AVERAGES, as_averaged, averaged, choose
from bench.studies.ensemble.members import find
from minbert.data.metrics import score
from tests.bench.ensembles import (
    ADAPTER,
    DEV,
    ENCODER,
    HELD,
    indices_of,
    keep_indices,
    labels_of,
    predictions,
)


def test_several_are_better_than_the_best_alone(place, printed):
    for seed in range(4):
        place.add(seed)
    assert place.run("--json") == 0
    found = printed()
    ensemble, best = found["ensemble"], found["best_member"]
    assert ensemble["dev_score"] > best["dev_score"] + 0.02
    assert ensemble["dev_ci_low"] < ensemble["dev_score"] < ensemble["dev_ci_high"]
    assert found["gain"]["low"] > 0
    assert found["gain"]["value"] == pytest.approx(ensemble["dev_score"] - best["dev_score"])
    assert len(found["members"]) >= 3
    assert ensemble["parameters"] == ENCODER + ADAPTER * len(found["members"])
    assert best["parameters"] == ENCODER + ADAPTER


def test_of_equal_cells_the_order_of_rows_chooses_none(place, printed):
    """Two cells that are equally right on what was held out, and not on dev."""
    paths = [place.add(seed) for seed in range(2)]
    first, second = (load_file(path) for path in paths)
    save_file({**second, "held_logits": first["held_logits"]}, paths[1])
    results = []
    for _ in range(2):
        assert place.run("--json") == 0
        results.append(printed())
        place.rows.reverse()
        place.write()
    for name in ("ensemble", "best_member", "members", "choice"):
        assert results[0][name] == results[1][name]


def test_repeats_and_versions_of_a_cell_are_one_member(place):
    for seed in range(2):
        place.add(seed)
    of, kept = place.rows[0].cell, predictions("movies", 0, 1.0)
    place.keep(of, kept, repeat=2)
    place.keep(of, kept, attempt=2, code_version="newer")
    [candidates] = find([place.csv])
    assert [member.row["seed"] for member in candidates.members] == [0, 1]
    newest = candidates.members[0].row
    assert (newest["repeat"], newest["code_version"]) == (1, "newer")


def test_dev_chooses_nothing(place, printed):
    """The best member is that of held-out examples, even where dev would have another."""
    place.add(0, strength=2.0)
    path = place.add(1, strength=1.0)
    kept = load_file(path)
    save_file({**kept, "logits": 9 * np.eye(3, dtype=np.float32)[labels_of("movies", DEV)]}, path)
    assert place.run("--json", "--most", "1") == 0
    found = printed()
    assert found["best_member"]["name"] == "lora-r8-attn-fp32-s0"


def test_bad_input_is_one_line(place):
    assert "no such file of results" in place.refused()
    place.add(0, held_out=0.0)
    assert "held training examples out" in place.refused()
    assert "no cell of task sst ended ok" in place.refused("--task", "sst")
    path = place.add(1)
    whole = path.read_bytes()
    place.add(2, data_digest="beef")
    assert "have different examples" in place.refused()
    place.rows.pop()
    place.add(3)
    path.unlink()
    assert "predictions.safetensors: is gone" in place.refused()
    path.write_bytes(whole[:-8])
    assert place.refused().startswith(f"{path}: can't be read")
    save_file({"logits": np.zeros((5, 3), dtype=np.float32), "labels": np.zeros(5)}, path)
    assert "has no held_logits" in place.refused()
    path.unlink()
    path.mkdir()
    assert place.refused().startswith(f"{path}: can't be read")


@pytest.mark.parametrize("settings", [{"model_digest": "beef"}, {"max_length": 8}])
def test_other_examples_whose_labels_are_the_same_are_found(place, settings):
    place.add(0)
    path = place.add(1, **settings)
    assert place.run() == 0
    keep_indices(path, indices_of(HELD, first=1))
    assert place.refused().startswith(
        f"{path}: was made on other examples than those of the other cells; models of another"
    )


@pytest.mark.parametrize("of_before", [0, 1])
def test_a_file_without_indices_is_compared_by_labels_and_hides_no_difference_of_the_others(
    place, printed, of_before
):
    paths = [place.add(seed) for seed in range(3)]
    keep_indices(paths[of_before], None)
    assert place.run("--json") == 0
    assert printed()["candidates"] == 3
    kept = load_file(paths[of_before])
    save_file({**kept, "held_labels": (kept["held_labels"] + 1) % 3}, paths[of_before])
    assert "was made on other examples" in place.refused()
    save_file(kept, paths[of_before])
    keep_indices(paths[2], indices_of(HELD, first=1))
    assert place.refused().startswith(f"{paths[2]}: was made on other examples")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_logits": np.zeros((7, 3), np.float32)}, "predictions and labels don't fit"),
        ({"labels": np.zeros((DEV, 1))}, "predictions and labels don't fit"),
        ({"logits": np.zeros((DEV, 0), np.float32)}, "predictions and labels don't fit"),
        ({"logits": np.zeros((0, 3)), "labels": np.zeros(0)}, "holds predictions of no examples"),
        ({"logits": np.full((DEV, 3), np.nan)}, "holds predictions that are not finite"),
        ({"held_indices": indices_of(7)}, "predictions and labels don't fit"),
        ({"held_indices": indices_of(HELD, first=-1)}, "held_indices are no indices"),
        ({"held_indices": indices_of(HELD) // 20}, "held_indices are no indices"),
        ({"held_indices": indices_of(HELD).astype(float)}, "held_indices are no indices"),
    ],
)
def test_damaged_predictions_are_one_line(place, change, message):
    place.add(0)
    path = place.add(1)
    save_file({**load_file(path), **change}, path)
    assert place.refused().startswith(f"{path}: {message}")


LABELS = np.random.default_rng(0).integers(0, 3, 600)


def model(seed):
    """Logits [N, 3] that point to the label, more or less, with errors of their own."""
    noise = np.random.default_rng(seed).normal(size=(len(LABELS), 3))
    return noise + np.eye(3)[LABELS]


def test_a_choice_has_all_its_stages():
    models = [as_averaged(model(seed), "accuracy", "logits") for seed in range(4)]
    choice = choose(models, LABELS, "accuracy", most=9)
    assert len(choice.additions) == 9
    for size, (_, held_score) in enumerate(choice.additions, start=1):
        members = [index for index, _ in choice.additions[:size]]
        together = tuple((index, members.count(index)) for index in {*members})
        reached = score("accuracy", averaged(models, together), LABELS)
        assert reached == pytest.approx(held_score)
    taken = choice.additions[: sum(weight for _, weight in choice.weights)]
    highest = max(held_score for _, held_score in choice.additions)
    assert taken[-1][1] == choice.held_score == highest
    assert all(held_score < choice.held_score for _, held_score in taken[:-1])
    assert choose(models, LABELS, "accuracy", most=1).additions == choice.additions[:1]


@pytest.mark.parametrize("average", AVERAGES)
def test_one_logit_of_two_classes_is_averaged_as_two(average):
    one = np.array([[-3.0], [0.0], [0.5], [800.0]])
    two = np.concatenate([np.zeros_like(one), one], axis=1)
    found, expected = (as_averaged(logits, "accuracy", average) for logits in (one, two))
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected[:, 1] - expected[:, 0])
    assert found.argmax(axis=1).tolist() == [0, 0, 1, 1]
    if average == "probabilities":
        np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_numbers_of_any_scale_are_averaged_alike():
    labels = np.random.default_rng(1).normal(size=500)
    noise = np.random.default_rng(2).normal(size=(2, 500))
    one, other = (labels + noise[0])[:, None], 1000 * (labels + noise[1])[:, None] + 7
    models = [as_averaged(values, "pearson", "logits") for values in (one, other)]
    choice = choose(models, labels, "pearson")
    assert {index for index, _ in choice.weights} == {0, 1}
    alone = [score("pearson", values, labels) for values in models]
    assert choice.held_score > max(alone) + 0.05


@pytest.mark.parametrize("value", [1.0, 0.1, 3.8])
def test_constant_numbers_have_no_correlation(value):
    with pytest.raises(ValueError, match="all the same"):
        as_averaged(np.full((3, 1), value), "pearson", "logits")
