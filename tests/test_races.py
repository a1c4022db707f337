"""What docs/racing.md says of simulated races."""

import numpy as np

from tests.experiments.races import PAGE, World, page, read_figures, run, worlds

FIGURES = read_figures()
MOST_WRONG = 0.064
"""Of 1,000 races, where 5% are wrong: 64 in all but 2.5% of cases."""


def test_the_figures_are_of_the_present_scenarios_and_on_the_page():
    assert [one["name"] for one in FIGURES["scenarios"]] == [world.name for world in worlds()]
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text, FIGURES), "python -m tests.experiments.races --page"


def test_what_the_page_promises():
    promised = [one for one in FIGURES["scenarios"] if one["promised"]]
    assert max(one["wrong"] for one in promised) <= MOST_WRONG
    halves = [one["trainings"] for one in promised if one["name"].startswith("half of")]
    assert np.median(halves) <= 0.7
    near = [one["decided"] for one in promised if "0.4 points" in one["name"]]
    assert len(near) == 2
    assert min(near) >= 0.8


def test_a_race_of_the_page_is_the_same_each_time():
    world = World("few", losses=(0.2, 0.02, 0.0), examples=200)
    assert run(world, 3) == run(world, 3)
    assert run(world, 3)["trainings"] < 1


def test_scenarios_vary_as_much_as_the_trainings_of_the_replay():
    world, rng = World("two", losses=(0.0, 0.0), examples=100_000), np.random.default_rng(0)
    one, other = world.rounds(world.truth(rng), rng)[0]
    differ = [figures["disagree"] for figures in FIGURES["replay"].values()]
    assert min(differ) <= np.mean(one != other) <= max(differ)
    between_folds = [figures["other_folds"] for figures in FIGURES["replay"].values()]
    assert np.hypot(*world.by_seed * 2) >= max(between_folds)
