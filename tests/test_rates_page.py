"""What docs/rates.md says of the default learning rates."""

from tests.experiments.rates import (
    MAIN_NAMES,
    PAGE,
    ROWS,
    TASKS,
    at_shared_rates,
    curves,
    default_of,
    mean_regret,
    page,
    regrets,
)

CURVES = curves(ROWS)


def test_the_page_has_the_figures_of_its_rows():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text, CURVES), "python -m tests.experiments.rates --page"


def test_the_defaults_lose_at_most_a_point_on_average_and_ranks_can_share_rates():
    by_name = regrets(CURVES, {name: default_of(name) for name in MAIN_NAMES})
    assert {name: {*own} for name, own in by_name.items()} == {key: {*TASKS} for key in MAIN_NAMES}
    assert mean_regret(by_name).high <= 1
    losses = [loss for own in at_shared_rates(CURVES).values() for loss in own.values()]
    assert len(losses) == 4
    assert sum(losses) / len(losses) <= 0.5
