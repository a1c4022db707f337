"""`python -m bench.ensemble` on cells of one task and of several whose predictions are made up."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.results.overall import overall
from bench.studies.ensemble.members import find
from bench.studies.ensemble.result import AVERAGES, as_averaged, averaged, choose
from minbert.data.metrics import score
from minbert.data.tasks import TASKS
from tests.bench.ensembles import (
    ADAPTER,
    DEV,
    ENCODER,
    HELD,
    PARTS,
    Place,
    indices_of,
    keep_indices,
    labels_of,
    predictions,
)


def test_dev_and_the_order_of_rows_choose_nothing(place, answer):
    """Of two cells that are equally right on what was held out, one is right on all of dev."""
    for seed in range(2):
        place.add(seed)
    first, second = sorted(place.rows, key=lambda row: row.cell_id)
    paths = [place.folder(row.cell, row) / "predictions.safetensors" for row in (first, second)]
    logits = 9 * np.eye(3, dtype=np.float32)[labels_of("movies", DEV)]
    held_logits = load_file(paths[0])["held_logits"]
    save_file({**load_file(paths[1]), "held_logits": held_logits, "logits": logits}, paths[1])
    results = []
    for _ in range(2):
        results.append(answer())
        place.rows.reverse()
        place.write()
    for name in ("ensemble", "best_member", "members", "choice"):
        assert results[0][name] == results[1][name]
    assert results[0]["best_member"]["name"] == first.name


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
    place.rows.clear()
    place.add(0, task="sst")
    path = place.add(1, task="sst")
    kept = load_file(path)
    fewer = {name: kept[name][:, :4].copy() for name in ("logits", "held_logits")}
    save_file({**kept, **fewer}, path)
    assert "sst: cells predict different numbers of classes" in place.refused()


@pytest.mark.parametrize("of_before", [0, 1])
def test_files_without_indices_are_compared_by_labels(place, answer, of_before):
    paths = [place.add(seed) for seed in range(3)]
    keep_indices(paths[of_before], None)
    assert answer()["candidates"] == 3
    kept = load_file(paths[of_before])
    save_file({**kept, "held_labels": (kept["held_labels"] + 1) % 3}, paths[of_before])
    assert "was made on other examples" in place.refused()
    save_file(kept, paths[of_before])
    keep_indices(paths[2], indices_of(HELD, first=1))
    assert place.refused().startswith(
        f"{paths[2]}: was made on other examples than those of the other cells; models of another"
    )


@pytest.mark.parametrize(("task", "change", "message"), [
    ("movies", {"held_logits": np.zeros((7, 3))}, "predictions and labels don't fit"),
    ("movies", {"labels": np.zeros((DEV, 1))}, "predictions and labels don't fit"),
    ("movies", {"logits": np.zeros((DEV, 0), np.float32)}, "predictions and labels don't fit"),
    ("movies", {"logits": np.zeros((0, 3)), "labels": np.zeros(0)},
     "holds predictions of no examples"),
    ("movies", {"logits": np.full((DEV, 3), np.nan)}, "holds predictions that are not finite"),
    ("movies", {"held_indices": indices_of(7)}, "predictions and labels don't fit"),
    ("movies", {"held_indices": indices_of(HELD, first=-1)}, "held_indices are no indices"),
    ("movies", {"held_indices": indices_of(HELD) // 20}, "held_indices are no indices"),
    ("movies", {"held_indices": indices_of(HELD).astype(float)}, "held_indices are no indices"),
    ("sts", {"labels": np.full(DEV, 0.1)},
     "sts: the dev labels are all the same; run cells on more of them"),
    ("sts", {"held_labels": np.full(HELD, 0.1)},
     "sts: the labels that were held out are all the same; hold out more"),
    ("sts", {"logits": np.full((DEV, 1), 0.1)}, "lora-r8-attn-fp32-s0 can't be averaged"),
    ("sts", {"held_logits": np.full((HELD, 1), 0.1)},
     "lora-r8-attn-fp32-s0 can't be averaged: its predictions are all the same"),
])  # fmt: skip
def test_damaged_or_constant_predictions_are_one_line(place, task, change, message):
    path = place.add(0, task=task)
    save_file({**load_file(path), **change}, path)
    assert place.refused().startswith(f"{path}: {message}" if task == "movies" else message)


def test_a_frozen_encoder_and_a_cell_for_several_tasks_count_once(place, answer):
    for task in PARTS:
        for seed in range(2):
            place.add(seed, task=task)
    result = answer()
    members = [member for entry in result["tasks"] for member in entry["members"]]
    assert len({member["cell_id"] for member in members}) == len(members) >= len(PARTS)
    together = result["overall"]
    assert together["ensemble"]["parameters"] == ENCODER + ADAPTER * len(members)
    assert together["best_members"]["parameters"] == ENCODER + ADAPTER * len(PARTS)
    place.rows.clear()
    for seed in range(2):  # models that trained whole share nothing
        place.add_whole(seed, mode="full")
    result = answer()
    ids = {member["cell_id"] for entry in result["tasks"] for member in entry["members"]}
    assert result["overall"]["ensemble"]["parameters"] == len(ids) * (ENCODER + ADAPTER)


def test_a_missing_part_has_a_note(place, answer):
    place.add(0, task="sst")
    place.add(0, task="sts")
    result = answer("--task", "sst, quora,sts,sst")
    assert [entry["task"] for entry in result["tasks"]] == ["sst", "sts"]
    together = result["overall"]
    assert (together["parts"], together["missing"]) == (["sst", "sts"], ["quora"])
    scores = {entry["task"]: entry["ensemble"]["dev_score"] for entry in result["tasks"]}
    assert together["ensemble"]["dev_score"] == pytest.approx(overall(scores))
    notes = [f"{task}: {note}" for task in ("sst", "sts") for note in TASKS[task].notes]
    lacking = "no ensemble of quora is in it, so it is no score of all three"
    assert together["notes"] == [lacking, *notes]


def test_which_of_several_tasks_has_to_be_said(place, answer):
    place.add(0)
    place.add(0, task="sst")
    assert "holds tasks movies, sst; choose with --task" in place.refused()
    assert "no cell of task quora, sts ended ok" in place.refused("--task", "quora,sts")
    assert "names no task" in place.refused("--task", " , ")
    for asked, lacking in (("sst,sts", "sts"), ("multitask", "quora, sts"), ("sst", None)):
        notes = [f"no cells of {lacking}, so there is no overall score"] if lacking else []
        assert answer("--task", asked)["notes"] == [*TASKS["sst"].notes, *notes]
    result = answer("--task", "tweets,movies,sst")
    assert [entry["task"] for entry in result["tasks"]] == ["sst", "movies"]
    assert result["overall"] is None
    assert "no cells of tweets" in result["tasks"][0]["notes"]


def test_cells_of_one_task_and_of_all_are_members_together(place, answer):
    for task in PARTS:
        place.add(0, task=task, strength=1.5)
    place.add_whole(1)
    place.add_whole(2, parts=("quora", "sts"))
    result = answer()
    assert [entry["candidates"] for entry in result["tasks"]] == [2, 3, 3]
    # one logit for two classes goes with two
    quora = next(entry for entry in result["tasks"] if entry["task"] == "quora")
    assert {member["task"] for member in quora["members"]} == {"quora", "multitask"}
    assert quora["ensemble"]["dev_score"] > quora["best_member"]["dev_score"] + 0.02


def without_an_example(path, prefix):
    """Take a held-out example of a cell away."""
    kept = load_file(path)
    shorter = {f"{prefix}{name}": kept[f"{prefix}{name}"][1:].copy()
               for name in ("held_logits", "held_labels", "held_indices")}  # fmt: skip
    save_file({**kept, **shorter}, path)


def test_cells_on_other_examples_are_left_out_with_a_note(place, answer):
    place.add(0, task="sts")
    place.add(1, task="sts")
    without_an_example(place.add_whole(2, parts=("sst", "sts")), "sts.")
    alone = answer("--task", "sts")
    assert alone["candidates"] == 2
    assert alone["notes"] == ["1 cell of sts left out: made on other examples than the others"]
    sts = answer("--task", "multitask")["tasks"][1]
    assert (sts["task"], sts["candidates"]) == ("sts", 1)
    assert sts["members"][0]["task"] == "multitask"
    assert sts["notes"] == ["2 cells of sts left out: made on other examples than the others"]


def test_cells_of_all_parts_on_different_examples_are_refused(place):
    place.add_whole(0)
    path = place.add_whole(1)
    whole = load_file(path)
    without_an_example(path, "quora.")
    assert "was made on other examples" in place.refused()
    save_file({name: whole[name] for name in whole if name != "quora.held_logits"}, path)
    assert "has no quora.held_logits" in place.refused()
    place.add_whole(2, data_digest="beef")
    assert "cells of multitask have different examples" in place.refused()


def test_a_cell_in_several_files_counts_once(place, tmp_path, answer):
    """Where its predictions are kept."""
    other = Place(tmp_path / "other")
    other.csv.parent.mkdir()
    other.add(0, task="sst")
    place.add(0, task="sst").unlink()
    assert "is gone" in place.refused()
    other.add(1, task="sst")
    other.add(0, task="sts")
    assert [entry["candidates"] for entry in answer("--runs", str(other.csv))["tasks"]] == [2, 1]


def test_a_choice_has_all_its_stages():
    """Of models whose logits point to the label, more or less, with errors of their own."""
    labels = np.random.default_rng(0).integers(0, 3, 600)
    errors = [np.random.default_rng(seed).normal(size=(600, 3)) for seed in range(4)]
    models = [as_averaged(each + np.eye(3)[labels], "accuracy", "logits") for each in errors]
    choice = choose(models, labels, "accuracy", most=9)
    assert len(choice.additions) == 9
    for size, (_, held_score) in enumerate(choice.additions, start=1):
        members = [index for index, _ in choice.additions[:size]]
        together = tuple((index, members.count(index)) for index in {*members})
        assert score("accuracy", averaged(models, together), labels) == pytest.approx(held_score)
    taken = choice.additions[: sum(weight for _, weight in choice.weights)]
    highest = max(held_score for _, held_score in choice.additions)
    assert taken[-1][1] == choice.held_score == highest
    assert all(held_score < choice.held_score for _, held_score in taken[:-1])
    assert choose(models, labels, "accuracy", most=1).additions == choice.additions[:1]


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
