"""What a recommendation says: the answer, what is missing, and the command that supplies it."""

import json
import math
import random
import shlex
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.costs import parse_where
from bench.analysis.groups import groups
from bench.analysis.power import OF_EXAMPLES, OF_SEEDS, needed_seeds, power_note, shown_size
from bench.analysis.recommendation import candidates_of, recommend
from bench.analysis.verdicts import compare
from bench.plan.metrics import METRICS
from bench.report.recommendation import advice, as_json, form_cost, lines, obstacles
from bench.results.exports import INT8, MERGED, Figures, Form
from bench.results.store import Store
from tests.bench.analysis.test_recommendation import (
    EXAMPLES,
    FULL,
    HEAD,
    LARGE,
    SHARES,
    SMALL,
    group_of,
    values_of,
    with_scores,
)
from tests.bench.synthetic_rows import cell, failed_row, result_row, synthetic_rows
from tests.reference_run import copy_reference

ROOT = Path(__file__).parents[3]


def said(group, prefer="memory", where="", margin=None):
    return advice(recommend(candidates_of(group, margin), prefer, parse_where(where)))


def text(advice):
    return " ".join([advice.heading, *advice.sentences])


def test_a_decision_is_one_sentence_with_what_it_saves():
    made = said(group_of())
    assert made.heading.startswith(
        "Use lora rank 1 on attn-only, fp32: 0.63× the memory and 0.71× the time of full "
        "fine-tuning in fp32, accuracy 0."
    )
    assert made.heading.endswith(" after 2 epochs at default learning rates")
    assert made.commands[-1] == "python -m bench.export recommended --to my-model"
    known = made.recommended.candidates
    loss = made.recommended.loss(made.recommended.pick)
    assert loss == max(-known.comparison.lower[made.recommended.pick, j] for j in (0, 1, 3))
    assert (
        f"With 95% confidence it is at most {ceil(1000 * loss) / 10:.2g} points of accuracy "
        in (made.sentences[0])
    )
    assert "worse than the best of the 4 settings" in made.sentences[0]
    assert (
        "the margin is 2 points of accuracy. It ran with 3 seeds and 2,000 dev examples."
        in (made.sentences[0])
    )
    gap = compare(known.group, "score", made.recommended.setting, known.group.baseline)
    assert f"differs by {gap.value:+.3f} (95% interval ".replace("-", "−") in made.sentences[2]
    assert "1 of 4 is shown to be worse by more than the margin; the other 3" in text(made)
    needs = [row[0] for row in made.table.rows]
    assert needs[0].startswith("recommended, least memory")
    assert "full fine-tuning in fp32" in needs[-1]


@pytest.mark.parametrize(
    ("group", "sentence", "command"),
    [
        (lambda: group_of(seeds=1), "One seed can't show how much of a score is luck.",
         ["--seeds", "3"]),
        (lambda: group_of(seeds=2, examples=20_000),
         "By its bounds lora rank 1 on attn-only, fp32 is within the margin of the best, but it "
         "has only 2 seeds; a recommended setting has at least 3.",
         ["--seeds", "3"]),
        (lambda: group_of({FULL: 0.6, SMALL: 0.6}), "The head alone was not run",
         ["--select", "mode=head"]),
        (lambda: group_of({HEAD: 0.7, SMALL: 0.6, FULL: 0.6}),
         "The head alone scores best, so nothing shows that training the encoder helps; longer "
         "training may.", ["--epochs", "4"]),
        (lambda: group_of({HEAD: 0.6, SMALL: 0.6, FULL: 0.612}),
         "is not shown to score better than the head alone, so nothing shows what the others lose; "
         "longer training or more data may.", ["--epochs", "4"]),
        (lambda: group_of(flags="not_learned"),
         "is not shown to score better than the majority class", ["--epochs", "4"]),
        (lambda: group_of({HEAD: 0.45, SMALL: 0.6, LARGE: 0.6}),
         "What it saves against full fine-tuning in fp32 is not known",
         ["--select", "mode=full amp=off"]),
        (lambda: group_of(kept=False), "The predictions of 4 settings are not kept",
         ["--rerun", "ok"]),
        (lambda: groups([failed_row(cell("full", None, None, "off"), "oom", "no")])[0],
         "No cell ended ok", ["--task", "movies"]),
        (lambda: groups(synthetic_rows(1, init="random"))[0],
         "The weights are random", ["--init", "pretrained"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_with_the_command_that_supplies_it(group, sentence, command):
    made = said(group())
    assert sentence in text(made)
    words = [shlex.split(line) for line in made.commands]
    assert any(tuple(command) in pairwise(line) for line in words)
    if made.recommended.decided:
        assert words.pop()[:4] == ["python", "-m", "bench.export", "recommended"]
    assert all(line[:4] == ["python", "-m", "bench.grid", "--grid"] for line in words)


@pytest.mark.parametrize(
    ("changes", "origin"),
    [({}, "default"), ({"learning_rate": 3e-3}, "given"),
     ({"learning_rate_source": "search"}, "tuned")],
)  # fmt: skip
def test_the_heading_says_how_rates_came_about_and_untuned_ones_are_a_warning(changes, origin):
    made = said(group_of(**changes))
    assert made.heading.endswith(f"after 2 epochs at {origin} learning rates")
    tunes = [line for line in made.commands if line.endswith(" --lr auto")]
    if origin == "tuned":
        assert "Learning rates were tuned for each setting by --lr auto." in made.sentences
        assert tunes == []
    else:
        assert (
            f"Learning rates were not tuned ({origin} for all 4 settings): at rates tuned for each "
            "setting, the order of the settings may change; --lr auto tunes them."
        ) in made.sentences
        assert len(tunes) == 1
    assert as_json(made)["learning_rates"][origin] == 4
    assert as_json(made)["recommended"]["learning_rates"] == origin


def test_some_tuned_rates_are_not_all():
    rows = [replace(row, learning_rate_source="search") for row in group_of().rows[:3]]
    [group] = groups([*rows, *group_of().rows[3:]], (), values_of(SHARES))
    assert "tuned only for 1 of 4 settings (default for 3 settings)" in text(said(group))


def test_length_of_training_has_its_caps():
    made = said(group_of(max_steps=30, early_stopping=2))
    assert made.heading.endswith(
        " after up to 2 epochs, at most 30 steps, at default learning rates"
    )


def measured(**costs):
    """A group of settings in fp32 and bf16 with these costs: memory, and time per token."""
    axes = {"head_off": (*HEAD, "off"), "full_off": (*FULL, "off"), "full_bf16": (*FULL, "bf16"),
            "lora_bf16": (*SMALL, "bf16")}  # fmt: skip
    of, rows = values_of(SHARES), []
    for name, (memory, time) in costs.items():
        for seed in range(3):
            row = result_row(cell(*axes[name], seed), random.Random(0))  # noqa: S311
            rows.append(replace(row, peak_rss_mib=memory, ms_per_1k_tokens=time,
                                dev_score=float(of([row]).mean())))  # fmt: skip
    [group] = groups(rows, (), of)
    return group


COSTS = {"head_off": (500.0, 20.0), "full_off": (1000.0, 100.0), "full_bf16": (900.0, 50.0),
         "lora_bf16": (810.0, 40.0)}  # fmt: skip


def test_a_setting_is_not_credited_with_what_amp_saves():
    made = said(measured(**COSTS))
    assert made.heading.startswith(
        "Use lora rank 1 on attn-only, bf16: 0.90× the memory and 0.80× the time of full "
        "fine-tuning in bf16, accuracy 0."
    )
    assert (
        "AMP itself: full fine-tuning in bf16 needs 0.90× the memory (95% interval 0.90 to 0.90) "
        "and 0.50× the time (95% interval 0.50 to 0.50) of full fine-tuning in fp32."
    ) in made.sentences
    assert (
        "It needs 0.90× the memory (95% interval 0.90 to 0.90) and 0.80× the time (95% interval "
        "0.80 to 0.80) of full fine-tuning in bf16."
    ) in made.sentences
    assert "Against full fine-tuning in bf16 (0." in text(made)
    assert "It trains 74k of 22.7M parameters, and its file has " in text(made)
    data = as_json(made)
    assert data["against_full_in_same_precision"]["memory"][0] == pytest.approx(0.9)
    assert data["amp_itself"]["time"][0] == pytest.approx(0.5)
    needs = [row[0] for row in made.table.rows]
    assert any("full fine-tuning in bf16" in need for need in needs)


@pytest.mark.parametrize(
    ("missing", "sentence", "amp"),
    [
        ("full_bf16", "What it saves against full fine-tuning in bf16 is not known", "bf16"),
        ("full_off", "What AMP itself saves against full fine-tuning in fp32 is not known", "off"),
    ],
)
def test_full_fine_tuning_that_was_not_run_is_missed(missing, sentence, amp):
    made = said(measured(**{name: cost for name, cost in COSTS.items() if name != missing}))
    assert sentence in text(made)
    assert any(f"--select 'mode=full amp={amp}'" in line for line in made.commands)
    if missing == "full_bf16":
        assert ": 810 MiB, " in made.heading
        assert (
            "Against full fine-tuning in fp32 it needs 0.81× the memory (95% interval 0.81 to "
            "0.81) and 0.40× the time (95% interval 0.40 to 0.40), what AMP saves included."
        ) in made.sentences


def test_a_bound_is_the_same_in_sentence_and_table():
    made = said(group_of())
    points = float(made.sentences[0].partition("at most ")[2].partition(" ")[0])
    assert float(made.table.rows[0][7]) == pytest.approx(points / 100)


@pytest.mark.parametrize(("seeds", "percent"), [(3, "63%"), (5, "45%")])
def test_trainings_exclude_a_rate_of_collapses(seeds, percent):
    made = said(group_of(seeds=seeds))
    assert (
        f"Of its {seeds} trainings none collapsed, which excludes, with 95% confidence, that "
        f"{percent} or more of them do; 29 trainings (--confirm 29) would exclude 10%."
    ) in made.sentences
    data = as_json(made)["recommended"]
    assert (data["trainings"], data["collapsed_seeds"]) == (seeds, ())
    assert f"{data['excluded_collapse_rate']:.0%}" == percent


def test_the_command_that_confirms_trains_the_pick_alone():
    [line] = [line for line in said(group_of()).commands if "--confirm" in line]
    assert "--select 'mode=lora rank=1 layers=attn-only unfreeze=all amp=off " in line
    assert line.endswith(" --confirm 29")
    [line] = [line for line in said(group_of(), prefer="time").commands if "--select" in line]
    assert " --seeds 29 " in line
    assert "--confirm" not in line
    more = [r for r in group_of(seeds=29).rows if r.seed > 2 and r.rank == 1]
    confirmed = said(group_of(rows=more))
    assert not [line for line in confirmed.commands if "--confirm" in line]
    assert all("--seeds 3 " in line for line in confirmed.commands if "bench.grid" in line)


def test_a_withdrawn_setting_is_named_with_what_collapsed():
    known = candidates_of(group_of({HEAD: 0.3, SMALL: 0.6}))
    made = advice(recommend(with_scores(known, 1, {0: 0.6, 1: 0.45, 2: 0.6})))
    assert made.heading.startswith("Not decided; the best by score so far is lora rank 1")
    assert (
        "lora rank 1 on attn-only, fp32 is withdrawn: of its 3 trainings, seed 1 scored 0.450. "
        "Their mean score is 0.550, and a training more than 2 points of accuracy below it counts "
        "as collapsed." in made.sentences
    )
    assert as_json(made)["withdrawn"]["collapsed_seeds"] == (1,)


def fallen_group(axes, status="ok"):
    """A group in which the training of a setting by seed 1 diverged, or scored 0.3."""
    of, fallen = values_of(SHARES), np.resize([1.0] * 3 + [0.0] * 7, EXAMPLES)

    def is_it(row):
        return (row.mode, row.rank, row.layers, row.seed) == (*axes, 1)

    rows = [
        row if not is_it(row)
        else replace(row, dev_score=0.3) if status == "ok"
        else failed_row(cell(*axes, "off", 1), status, "nan")
        for row in group_of().rows
    ]  # fmt: skip
    [group] = groups(rows, (), lambda rows: fallen if is_it(rows[0]) else of(rows))
    return group


@pytest.mark.parametrize("axes", [LARGE, SMALL])
def test_a_collapsed_training_that_widens_all_bounds_is_named_with_the_command(axes):
    made = said(fallen_group(axes))
    known = made.recommended.candidates
    [label] = [s.label for s in known.settings if (s.mode, s.rank, s.layers) == axes]
    assert (
        f"Collapsed trainings: {label} (seed 1 scored 0.300). Such a training widens the bounds "
        "of all comparisons; more trainings (--seeds 6) narrow them." in made.sentences
    )
    assert {"not learned", "precision"} & {*made.recommended.obstacles}
    assert "longer training" not in text(made)
    head = next(i for i, s in enumerate(known.settings) if s.mode == "head")
    best = recommend(with_scores(known, head, dict.fromkeys(range(3), 0.9)))
    assert "The head alone scores best, so nothing shows that training the encoder helps." in (
        obstacles(best)
    )
    imprecise = obstacles(replace(made.recommended, obstacles=("precision",)))
    assert "Such a training widens the bounds" in imprecise
    assert "bottleneck" not in imprecise
    assert not [line for line in made.commands if "--epochs 4" in line]
    assert [line for line in made.commands if "--seeds 6" in line]
    assert label not in [row[1] for row in made.table.rows[1:]]


def test_at_most_four_collapsed_settings_are_named():
    known = candidates_of(group_of())
    for i in range(4):
        known = with_scores(known, i, {1: 0.2})
    undecided = replace(recommend(known), withdrawn=None)
    more = replace(undecided, candidates=replace(
        known, settings=known.settings * 2, samples=known.samples * 2))  # fmt: skip
    [sentence] = [one for one in advice(undecided).sentences if "Collapsed trainings" in one]
    assert sentence.count("seed 1 scored 0.200") == 4
    assert "more setting" not in sentence
    assert "; and 4 more settings." in obstacles(more)
    assert obstacles(more).count("seed 1 scored 0.200") == 4


def test_a_setting_that_diverged_is_no_alternative_and_its_score_is_marked():
    """It has the best score, by two seeds."""
    made = said(fallen_group(LARGE, "invalid"), margin=0.05)
    known = made.recommended.candidates
    assert made.recommended.decided
    i = next(i for i, s in enumerate(known.settings) if s.layers == "all-lin")
    assert i in made.recommended.shown or known.within[i].all()
    assert "Collapsed trainings: lora rank 8 on all-lin, fp32 (seed 1 diverged)." in made.sentences
    assert i not in made.recommended.alternatives.values()
    assert replace(made.recommended, reference=i, shown=(i,)).alternatives == {}
    best = replace(made.recommended, reference=i)
    assert "although a training collapsed" in text(advice(best))
    assert not [line for line in made.commands if "--rerun invalid" in line]


def test_trainings_that_diverged_run_again_where_seeds_are_missing():
    made = said(group_of({FULL: 0.6, SMALL: 0.6, HEAD: 0.3}, seeds=2, examples=20_000, rows=[
        failed_row(cell(*axes, "off", 2), "invalid", "nan") for axes in (FULL, SMALL, HEAD)
    ]))  # fmt: skip
    assert made.recommended.obstacles == ("few seeds",)
    assert made.commands[0].endswith(" --rerun invalid")
    assert " --seeds 3 " in made.commands[0]
    nothing = said(group_of(seeds=1, rows=[failed_row(cell("full", None, None, "bf16"), "invalid",
                                                      "nan")]))  # fmt: skip
    assert "full, bf16 (no score: diverged)" in text(nothing)


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_rates_are_tuned_with_as_many_seeds_as_a_recommendation_needs(seeds):
    [line] = [one for one in said(group_of(seeds=seeds)).commands if one.endswith(" --lr auto")]
    assert f" --seeds {max(3, seeds)} " in line


def test_where_the_pick_is_withdrawn_the_next_cheapest_is_named():
    known = candidates_of(group_of({HEAD: 0.3, SMALL: 0.6, LARGE: 0.6, FULL: 0.6}))
    pick = recommend(known).pick
    made = advice(recommend(with_scores(known, pick, {1: 0.45})))
    assert made.recommended.withdrawn == pick
    others = [i for i in made.recommended.shown if i != pick]
    label = known.settings[known.cheapest(others, "memory")].label
    assert f"had no collapse is {label}." in text(made)


def test_of_several_files_no_command_confirms_and_none_is_named():
    made = advice(recommend(candidates_of(group_of())), sources=["a.csv", "b.csv"])
    assert "--confirm" not in " ".join([*made.sentences, *made.commands])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"of_seed": 3e-2, "of_examples": 2e-5},
         "The bottleneck is the number of seeds: with more than 30 seeds or with about 200,000 dev "
         "examples it would be shown"),
        ({"of_seed": 3e-3, "of_examples": 2e-4}, "No number of seeds would show it; with about "),
        ({"of_seed": 3e-5, "of_examples": 1e-4}, "is the number of dev examples: with about 2,"),
        ({"margin": 1e-4},
         "The dev examples are far too few: it would take more than 1,000 times as many to show"),
        ({"margin": 0.011, "difference": 0.0109}, "The bottleneck is the margin: the measured"),
    ],
)  # fmt: skip
def test_what_is_too_few_is_said_without_contradiction(values, sentence):
    undecided = fixed(**values)
    if "difference" in values:
        undecided = replace(undecided, could_be=(0,))
    assert sentence in text(advice(undecided))


@pytest.mark.parametrize(("of_examples", "is_said"), [(1.27e-5, False), (1.5e-5, True)])
def test_the_finest_difference_is_not_said_where_it_rounds_to_a_point(of_examples, is_said):
    made = advice(fixed(of_examples=of_examples))
    assert made.recommended.finest[0] > 0.01
    assert ("no number of seeds shows a difference of 1 point" in text(made)) is is_said


@pytest.mark.parametrize(
    ("where", "margin", "caption"),
    [
        ("", None, "By need: settings that are shown to be within the margin of the best; below, "
                   "full fine-tuning for comparison."),
        ("memory<=800MiB size<=5MB", None, "within the margin of the best and meet the limits; "),
        ("", 0.001, "By need: settings that could be within the margin of the best"),
    ],
)  # fmt: skip
def test_the_caption_says_which_rows_are_for_comparison(where, margin, caption):
    made = said(group_of(), where=where, margin=margin)
    assert caption in made.table.caption
    names = [row[0] for row in made.table.rows]
    assert ("below, full" in made.table.caption) is any(n.startswith("full fine") for n in names)


def test_one_setting_and_one_that_is_best_are_in_the_right_number():
    best = said(group_of({HEAD: 0.3, FULL: 0.6}))
    assert best.heading.startswith("Use full, fp32: full fine-tuning in fp32, accuracy 0.")
    assert best.sentences[0].startswith("With 95% confidence none of the 2 settings is better; ")
    assert "1 of 2 is shown to be worse by more than the margin." in best.sentences
    single = said(group_of({FULL: 0.6}, kept=False))
    assert ": full fine-tuning in fp32, accuracy" in single.heading
    assert "(default for 1 setting)" in text(single)
    assert "The predictions of 1 setting are not kept" in text(single)


def test_costs_of_one_process_have_no_interval():
    rows = [row for row in measured(**COSTS).rows
            if row.seed == 0 or (row.mode, row.amp) != ("full", "bf16")]  # fmt: skip
    [group] = groups(rows, (), values_of(SHARES))
    assert "× the memory (one process gives no interval) and 0.80" in text(said(group, margin=0.05))


def test_limits_that_nothing_meets_say_which_setting_is_nearest():
    made = said(group_of(), where="memory<=600MiB score>=0.58")
    assert made.heading == "Nothing to recommend yet"
    assert "No setting meets memory<=600MiB score>=0.58. The nearest is lora rank 1" in text(made)
    assert "with memory 639 MiB" in text(made)
    assert made.table is None


def test_the_bottleneck_is_named():
    made = said(group_of(kept=False, examples=1000))
    assert made.heading.startswith("Not decided; the best by score so far is ")
    assert "No setting is shown to be within 2 points of accuracy of the best" in text(made)
    assert "The bottleneck is the number of dev examples: with about " in text(made)
    assert "four times out of five" in text(made)


def fixed(of_seed=3e-4, of_examples=2e-5, difference=0.0, seeds=3, quantile=2.0, margin=0.02):
    """Candidates whose pairs all have these differences and variances, on 1,000 examples."""
    known = candidates_of(group_of(examples=1000))
    shape = (4, 4)
    signs = np.sign(np.subtract.outer(np.arange(4), np.arange(4)))
    compared = replace(
        known.comparison, difference=difference * signs, seeds=np.full(shape, seeds),
        of_seed=np.full(shape, of_seed), of_examples=np.full(shape, of_examples),
    )  # fmt: skip
    compared.__dict__["quantiles"] = np.full(shape, quantile)
    found = replace(known, comparison=compared, margin=margin)
    found.__dict__["obstacles"] = ()
    return recommend(found)


def test_what_would_decide_is_calculated_from_the_variances():
    """By hand: an error of 0.01095 shows 0.02 four times out of five at 2 + 0.84 errors."""
    undecided = fixed()
    allowed = (0.02 / 2.84162) ** 2
    found = undecided.resolution
    assert undecided.loss(0) == pytest.approx(2 * 1.2e-4**0.5)
    assert found.margin == pytest.approx(2 * 1.2e-4**0.5)
    assert found.factor == pytest.approx(1.2e-4 / allowed, rel=1e-4)
    assert found.seeds == math.ceil(3e-4 / (allowed - 2e-5)) == 11
    assert found.bottleneck == "seeds"
    assert undecided.finest == (
        pytest.approx(2.84162 * 2e-5**0.5, rel=1e-4), math.ceil(1000 * (284.162 * 2e-5**0.5) ** 2)
    )  # fmt: skip
    made = advice(undecided)
    assert "which is at most 2.2 points of accuracy worse" in text(made)
    assert "with 11 seeds or with about 2,400 dev examples it would be shown" in text(made)
    assert "the smallest is about 1.3 points, and 1 point takes at least 1,600 dev" in text(made)
    assert "None is shown to be worse by more than the margin: all 4 could be" in text(made)
    assert [line for line in made.commands if "--seeds 11" in line]
    assert "no number of seeds" not in text(advice(fixed(of_examples=1e-6)))


def test_only_settings_that_it_is_not_shown_against_are_rivals():
    """The head is half a point of the whole scale worse, and known badly."""
    undecided = fixed(difference=0.0)
    compared = undecided.candidates.comparison
    for matrix, there, back in (
        (compared.difference, 0.5, -0.5), (compared.of_examples, 1e-2, 1e-2),
    ):  # fmt: skip
        matrix[1:, 0], matrix[0, 1:] = there, back
    again = replace(
        undecided, candidates=replace(undecided.candidates, comparison=replace(compared))
    )
    quantiles = np.full((4, 4), 2.0)
    again.candidates.comparison.__dict__["quantiles"] = quantiles
    assert again.candidates.shown[1:, 0].all()
    assert again.resolution.factor == pytest.approx(1.2e-4 / (0.02 / 2.84162) ** 2, rel=1e-4)


def test_examples_may_be_the_bottleneck_and_seeds_no_help():
    found = fixed(of_seed=3e-5, of_examples=1e-4).resolution
    assert (found.bottleneck, found.seeds) == ("examples", None)
    assert found.factor == pytest.approx(1.1e-4 / (0.02 / 2.84162) ** 2, rel=1e-4)


def test_a_measured_difference_takes_room_of_the_margin():
    """The last of four settings is 0.005 above each other one."""
    best = fixed(difference=0.005, margin=0.015)
    assert best.resolution.closest == 3
    assert best.resolution.factor == pytest.approx(1.2e-4 / (0.015 / 2.84162) ** 2, rel=1e-4)
    first = replace(best, could_be=(0,))
    assert first.resolution.factor == pytest.approx(1.2e-4 / (0.01 / 2.84162) ** 2, rel=1e-4)
    far = replace(fixed(difference=0.02, margin=0.001), could_be=(0,))
    assert (far.resolution.bottleneck, far.resolution.factor) == ("margin", None)
    assert "The bottleneck is the margin" in text(advice(far))


def test_pairs_of_one_seed_say_nothing_of_more_seeds():
    assert fixed(seeds=1).finest is None
    assert fixed(seeds=1).resolution.seeds is None


def test_one_point_can_not_be_shown_on_few_examples():
    """Settings that are right on different examples."""
    group = group_of({HEAD: 0.3, FULL: 0.6, SMALL: 0.595}, examples=300)
    made = said(group, margin=0.01)
    assert "On 300 dev examples no number of seeds shows a difference of 1 point" in text(made)


def test_the_data_are_json_without_nan():
    made = said(group_of(peak_rss_mib=None))
    data = json.loads(json.dumps(as_json(made), allow_nan=False))
    assert data["decided"]
    assert data["recommended"]["memory_mib"] is None
    assert data["recommended"]["label"] == "lora rank 1 on attn-only, fp32"
    assert data["recommended"]["score"] == pytest.approx(0.6, abs=0.02)
    assert set(data["alternatives"]) == {"time", "size", "parameters", "score"}
    assert data["sentences"] == list(made.sentences)
    settings = made.recommended.candidates.settings
    assert data["best"]["label"] == settings[made.recommended.reference].label
    assert data["best"]["label"] != data["recommended"]["label"]


def test_the_lines_have_the_answer_and_the_alternatives():
    printed = lines(said(group_of()))
    assert printed[0].startswith("Use lora rank 1 on attn-only, fp32")
    assert any(line.startswith("best score") or ", best score" in line for line in printed)


@pytest.mark.parametrize(
    ("need", "value", "shown"),
    [("memory", 1645.2, "1,645 MiB"), ("time", 61.2, "61 s"), ("time", 754.0, "12.6 min"),
     ("parameters", 22.7e6, "22.7M"), ("parameters", 1925.0, "1.93k"), ("size", 1.42, "1.42 MB")],
)  # fmt: skip
def test_costs_have_units(need, value, shown):
    assert form_cost(need, value) == shown


def recommend_command(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "bench.recommend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_command_decides_from_the_committed_run_and_readme_quotes_it(tmp_path):
    done = recommend_command("--runs", copy_reference(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    heading = done.stdout.splitlines()[0]
    assert heading in readme.replace("> ", "")


def test_the_command_ends_with_1_undecided_and_2_for_bad_input(tmp_path):
    path = tmp_path / "runs.csv"
    store = Store(path)
    for row in synthetic_rows(68, failures=False):
        store.append(row)
    done = recommend_command("--runs", path, "--json")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert (data["decided"], data["obstacles"]) == (False, ["one seed"])
    for arguments, message in [
        (["--runs", tmp_path / "none.csv"], "no such file"),
        (["--where", "memory<=6"], "memory needs a unit"),
        (["--margin", "2points"], "is not a positive margin"),
        (["--prefer", "speed"], "'speed' is not one of"),
    ]:
        done = recommend_command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_file_without_rows_is_bad_input(tmp_path):
    path = tmp_path / "runs.csv"
    Store(path).append(synthetic_rows(1)[0])
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    done = recommend_command("--runs", path)
    assert done.returncode == 2
    assert "no results; run python -m bench.grid" in done.stderr


def test_the_expected_size_is_that_of_the_variances():
    """77 settings: Bonferroni's 3.2125 and 0.8416 errors of sqrt((0.016 + 0.062 / 3) / 1064)."""
    assert shown_size(1064, 3, 77) == pytest.approx(4.0541 * (0.036667 / 1064) ** 0.5, rel=1e-3)
    cells = [cell(*axes, "off", seed, folds=5, fold=fold)
             for axes in SHARES for seed in range(3) for fold in range(5)]  # fmt: skip
    [note] = power_note(cells, 1000, METRICS["accuracy"])
    assert f"{100 * shown_size(1000, 3, 4):.2g} points" in note
    [single] = power_note([c for c in cells if c.seed == 0], 1000, METRICS["accuracy"])
    assert f"{100 * shown_size(1000, 3, 4):.2g} points" in single


def test_the_power_is_told_beforehand():
    cells = [cell(*axes, "off", seed) for axes in SHARES for seed in range(3)]
    [note] = power_note(cells, 1000, METRICS["accuracy"])
    assert note.startswith("3 seeds and 1,000 dev examples are expected to show a difference of ")
    [single] = power_note(cells[::3], 1000, METRICS["accuracy"])
    assert (
        "a recommended setting has 3 seeds: --seeds 3 is expected to show differences of " in single
    )
    assert power_note(cells, 1000, METRICS["pearson"]) == []
    enough = 1.5 * (1000 * (shown_size(1000, 3, 4) / 0.02) ** 2)
    assert 0.01 < shown_size(round(enough), 3, 4) < 0.02
    [good] = power_note(cells, round(enough), METRICS["accuracy"])
    assert good.endswith("four times out of five")
    [poor] = power_note(cells, 200, METRICS["accuracy"])
    assert "--seeds" in poor or "no number of seeds" in poor


def test_needed_seeds_show_the_size():
    for settings in (4, 80):
        needed = needed_seeds(0.02, 1064, settings)
        assert needed is not None
        assert shown_size(1064, needed, settings) <= 0.02
        assert needed == 1 or shown_size(1064, needed - 1, settings) > 0.02
    assert needed_seeds(0.001, 1064, 80) is None
    assert OF_EXAMPLES < OF_SEEDS


def exported(metric="accuracy", score=0.58, missing=""):
    measured = {} if missing else {"size_mb": 23.0, "one_ms": 2.5, "batch_ms": 40.0}
    forms = (
        Form(name=MERGED, format="transformers", size_mb=91.0, one_ms=4.25, batch_ms=60.0),
        Form(name=INT8, format="onnx", missing=missing, score=None if missing else score,
             **measured),
    )  # fmt: skip
    return Figures(
        forms=forms, metric=metric, examples=9, machine="Xeon", threads=2, at="2026-11-27"
    )


def test_settings_that_were_exported_have_columns_of_what_that_costs():
    made = recommend(candidates_of(group_of()))
    plain = advice(made)
    assert not [head for head in plain.table.heads if head.key.startswith("use_")]
    assert "Exported" not in " ".join(lines(plain))
    seed = made.setting.ok[1].cell_id
    known = advice(made, exports={seed: exported()})
    heads = [head.text for head in known.table.heads[len(plain.table.heads) :]]
    assert heads == ["merged", "ONNX int8", "accuracy in int8"]  # nothing of ONNX, so no column
    fields = [row[len(plain.table.heads) :] for row in known.table.rows]
    assert fields[0] == ["4.25 ms, 91.0 MB", "2.50 ms, 23.0 MB", "0.580"]
    assert all(row == ["–", "–", "–"] for row in fields[1:])
    assert "Exported, merged 4.25 ms, 91.0 MB, ONNX int8 2.50 ms, 23.0 MB" in " ".join(lines(known))
    data = as_json(known)
    assert data["recommended"]["exported"]["forms"][1]["one_ms"] == 2.5
    assert data["baseline"]["exported"] is None
    json.dumps(data)


def test_scores_by_another_metric_and_forms_that_were_not_measured_are_not_shown():
    made = recommend(candidates_of(group_of()))
    cell_id = made.setting.ok[0].cell_id
    other = advice(made, exports={cell_id: exported(metric="macro_f1")})
    assert [head.key for head in other.table.heads][-1] == "use_onnx-int8"
    missing = advice(made, exports={cell_id: exported(missing="no onnxruntime")})
    assert [head.key for head in missing.table.heads][-1] == "use_merged"
    unknown = advice(made, exports={"another": exported()})
    assert unknown.table == advice(made).table
