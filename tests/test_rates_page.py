"""What docs/rates.md says of the default learning rates."""

from tests.experiments import rates

CURVES = rates.curves(rates.ROWS)


def test_the_page_has_the_figures_of_its_rows():
    text = rates.PAGE.read_text(encoding="utf-8")
    assert text == rates.page(text, CURVES), "python -m tests.experiments.rates --page"


def test_the_defaults_lose_at_most_a_point_on_average_and_ranks_can_share_rates():
    main = [curve for curve in CURVES if curve.name in rates.MAIN_NAMES]
    by_name = rates.regrets(main, lambda curve: rates.default_of(curve.name))
    assert {name: {*own} for name, own in by_name.items()} == {
        key: {*rates.TASKS} for key in rates.MAIN_NAMES
    }
    assert rates.mean_regret(by_name).high <= 1
    losses = [loss for own in rates.at_shared_rates(CURVES).values() for loss in own.values()]
    assert len(losses) == 4
    assert sum(losses) / len(losses) <= 0.5
