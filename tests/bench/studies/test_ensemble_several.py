"""Ensembles of several tasks at once, of cells that learned several, and of several files."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.common.errors import InputError
from bench.ensemble import command
from bench.results.overall import overall, overall_interval
from minbert.data.tasks import TASKS
from tests.bench.ensembles import ADAPTER, DEV, ENCODER, PARTS, Place


def test_tasks_with_a_score_in_common_are_taken_together(place, printed):
    for task in PARTS:
        for seed in range(3):
            place.add(seed, task=task, data_digest=task)
    assert place.run("--json") == 0
    result = printed()
    assert [entry["task"] for entry in result["tasks"]] == list(PARTS)
    assert [entry["metric"] for entry in result["tasks"]] == ["accuracy", "accuracy", "pearson"]
    together = result["overall"]
    assert (together["parts"], together["missing"]) == (list(PARTS), [])
    for name, key in (("ensemble", "ensemble"), ("best_members", "best_member")):
        for column in ("held_score", "dev_score"):
            scores = {entry["task"]: entry[key][column] for entry in result["tasks"]}
            assert together[name][column] == pytest.approx(overall(scores))
        ends = overall_interval(scores, dict.fromkeys(PARTS, DEV)).ends()
        assert (together[name]["dev_ci_low"], together[name]["dev_ci_high"]) == pytest.approx(ends)
    gain = together["gain"]
    gap = together["ensemble"]["dev_score"] - together["best_members"]["dev_score"]
    assert gain["value"] == pytest.approx(gap)
    halves = [(of["gain"]["high"] - of["gain"]["low"]) / 2 for of in result["tasks"]]
    halves[PARTS.index("sts")] /= 2  # of (1 + r) / 2
    half = sum(part**2 for part in halves) ** 0.5 / 3
    assert (gain["high"] - gain["low"]) / 2 == pytest.approx(half, rel=0.02)
    assert gain["low"] > 0


def test_a_frozen_encoder_and_a_cell_for_several_tasks_count_once(place, printed):
    for task in PARTS:
        for seed in range(2):
            place.add(seed, task=task)
    assert place.run("--json") == 0
    result = printed()
    members = [member for entry in result["tasks"] for member in entry["members"]]
    assert len({member["cell_id"] for member in members}) == len(members) >= len(PARTS)
    together = result["overall"]
    assert together["ensemble"]["parameters"] == ENCODER + ADAPTER * len(members)
    assert together["best_members"]["parameters"] == ENCODER + ADAPTER * len(PARTS)
    place.rows.clear()
    for seed in range(2):  # models that trained whole share nothing
        place.add_whole(seed, mode="full")
    assert place.run("--json") == 0
    result = printed()
    ids = {member["cell_id"] for entry in result["tasks"] for member in entry["members"]}
    assert result["overall"]["ensemble"]["parameters"] == len(ids) * (ENCODER + ADAPTER)


def test_a_missing_part_has_a_note(place, printed):
    place.add(0, task="sst")
    place.add(0, task="sts")
    assert place.run("--task", "sst, quora,sts,sst", "--json") == 0
    result = printed()
    assert [entry["task"] for entry in result["tasks"]] == ["sst", "sts"]
    together = result["overall"]
    assert (together["parts"], together["missing"]) == (["sst", "sts"], ["quora"])
    scores = {entry["task"]: entry["ensemble"]["dev_score"] for entry in result["tasks"]}
    assert together["ensemble"]["dev_score"] == pytest.approx(overall(scores))
    notes = [f"{task}: {note}" for task in ("sst", "sts") for note in TASKS[task].notes]
    lacking = "no ensemble of quora is in it, so it is no score of all three"
    assert together["notes"] == [lacking, *notes]


@pytest.mark.parametrize(
    ("asked", "lacking"), [("sst,sts", "sts"), ("multitask", "quora, sts"), ("sst", None)]
)
def test_one_part_alone_has_a_note_that_there_is_no_overall_score(place, printed, asked, lacking):
    place.add(0, task="sst")
    assert place.run("--task", asked, "--json") == 0
    notes = [f"no cells of {lacking}, so there is no overall score"] if lacking else []
    assert printed()["notes"] == [*TASKS["sst"].notes, *notes]


def test_which_of_several_tasks_has_to_be_said_and_those_without_a_score_in_common_are_apart(
    place, printed
):
    place.add(0)
    place.add(0, task="sst")
    assert "holds tasks movies, sst; choose with --task" in place.refused()
    assert "no cell of task quora, sts ended ok" in place.refused("--task", "quora,sts")
    assert "names no task" in place.refused("--task", " , ")
    assert place.run("--task", "tweets,movies,sst", "--json") == 0
    result = printed()
    assert [entry["task"] for entry in result["tasks"]] == ["sst", "movies"]
    assert result["overall"] is None
    assert "no cells of tweets" in result["tasks"][0]["notes"]


def test_cells_of_one_task_and_of_all_are_members_together(place, printed):
    for task in PARTS:
        place.add(0, task=task, strength=1.5)
    place.add_whole(1)
    place.add_whole(2, parts=("quora", "sts"))
    assert place.run("--json") == 0
    result = printed()
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


def test_cells_on_other_examples_are_left_out_with_a_note(place, printed):
    place.add(0, task="sts")
    place.add(1, task="sts")
    path = place.add_whole(2, parts=("sst", "sts"))
    without_an_example(path, "sts.")
    assert place.run("--task", "sts", "--json") == 0
    alone = printed()
    assert alone["candidates"] == 2
    assert alone["notes"] == ["1 cell of sts left out: made on other examples than the others"]
    assert place.run("--task", "multitask", "--json") == 0
    sts = printed()["tasks"][1]
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


def test_a_cell_in_several_files_counts_once(tmp_path, printed):
    places = [Place(tmp_path / name) for name in ("one", "other")]
    for place in places:
        place.csv.parent.mkdir()
        path = place.add(0, task="sst")
        if place is places[0]:  # where its predictions are kept, they are taken
            path.unlink()
    with pytest.raises(InputError, match="is gone"):
        places[0].run()
    places[1].add(1, task="sst")
    places[1].add(0, task="sts")
    both = [str(place.csv) for place in places]
    assert command.main(["--runs", *both, "--json"], standalone_mode=False) == 0
    result = printed()
    assert [entry["candidates"] for entry in result["tasks"]] == [2, 1]
    repeated = [word for path in both for word in ("--runs", path)]
    assert command.main([*repeated, "--json"], standalone_mode=False) == 0
    assert printed() == result


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("labels", "sts: the dev labels are all the same; run cells on more of them"),
        ("held_labels", "sts: the labels that were held out are all the same; hold out more"),
        ("logits", "lora-r8-attn-fp32-s0 can't be averaged: its predictions are all the same"),
        ("held_logits", "lora-r8-attn-fp32-s0 can't be averaged: its predictions are all the same"),
    ],
)
def test_a_correlation_of_constants_is_refused(place, name, message):
    path = place.add(0, task="sts")
    kept = load_file(path)
    save_file({**kept, name: np.full_like(kept[name], 0.1)}, path)
    assert message in place.refused()


def test_cells_with_other_classes_are_refused(place):
    place.add(0, task="sst")
    path = place.add(1, task="sst")
    kept = load_file(path)
    fewer = {name: kept[name][:, :4].copy() for name in ("logits", "held_logits")}
    save_file({**kept, **fewer}, path)
    assert "sst: cells predict different numbers of classes" in place.refused()
