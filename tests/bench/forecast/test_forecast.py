"""Predictions from synthetic counts and rows, and fits on measurements of known laws."""

import numpy as np
import pytest

from bench.analysis.groups import Group
from bench.forecast import forecast as forecasting
from bench.forecast.costs import Variant, totals_of
from bench.forecast.forecast import NOISE, Fit, Forecast, Prior, apply, errors, fit
from bench.stats.steptimes import STEPS_ENOUGH
from bench.worker.probes import replay
from tests.bench.synthetic_rows import cell, failed_row, full_grid, planned_row, synthetic_rows
from tests.bench.workloads import ONE, SHAPES, counts, variant

IMPORTS = 250.0
CELLS = [cell(*axes) for axes in full_grid()]
BATCH_SIZE = CELLS[0].batch_size
VARIANTS = [Variant.of(planned) for planned in CELLS]
STEPS = ({"gflop": 50.0 + i, "moved_mib": 5000.0 + 90.0 * i} for i in range(len(VARIANTS)))
COUNTS = {
    variant: counts(train_peak_mib=300.0 + 40.0 * i, step=step)
    for i, (variant, step) in enumerate(zip(VARIANTS, STEPS, strict=True))
}
TOTALS = {
    variant: totals_of(ONE, {"": [counted]})._replace(imports_mib=IMPORTS)
    for variant, counted in COUNTS.items()
}


def peak(variant):
    totals = TOTALS[variant]
    values = forecasting.peak_features(variant, totals.lasting_mib, totals.passing_mib)
    return IMPORTS + 40 + 15 * values[1] + 1.02 * values[2] + 1.2 * sum(values[3:])


def wall(variant):
    return 9 + 0.003 * sum(forecasting.time_features(variant, TOTALS[variant])[2:])


def rows():
    return [
        planned_row(planned)
        | {"status": "ok", "device": "cpu", "peak_rss_mib": peak(variant), "wall_s": wall(variant)}
        for planned, variant in zip(CELLS, VARIANTS, strict=True)
    ]


def forecast(known=()):
    made = Forecast(TOTALS, "cpu", 2, "peak_rss_mib")
    made.learn(known)
    return made


def test_steps_are_timed_after_a_short_training_and_the_last_of_one_that_unfreezes():
    plain = VARIANTS[0]
    unfreezes = plain._replace(unfreeze="iterative")
    fewest, most = forecasting.REPLAYED_STEPS, forecasting.MOST_REPLAYED_STEPS
    passes = (replay.TIMED_PASSES + 1, replay.MOST_PASSES + 1)
    assert (fewest, most) == tuple(replay.BATCHES * number for number in passes)
    assert forecasting.REPLAYED_SHARE == replay.REPLAY_SHARE
    lengths = (3, STEPS_ENOUGH - 1, STEPS_ENOUGH, 10**6)
    assert [forecasting.replayed_steps(plain, steps) for steps in lengths] == [fewest, fewest, 0, 0]
    between = [forecasting.replayed_steps(unfreezes, steps) for steps in (3, 200, 10**6)]
    assert between == [fewest, 200 * forecasting.REPLAYED_SHARE, most]
    stages = [counts(step={"gflop": gflop}, evaluation={"gflop": 0.0}) for gflop in (1.0, 2.0, 6.0)]
    values = forecasting.time_features(unfreezes, totals_of(ONE, {"": stages}))
    batches = SHAPES.train_tokens / (SHAPES.train[0] * SHAPES.train[1])
    gflop = 3.0 + 6.0 * forecasting.REPLAYED_STEPS / SHAPES.steps
    assert values[2] == pytest.approx(batches * gflop)


def test_rows_and_other_runs_teach_it_and_before_memory_is_that_of_tensors():
    column = Group((planned_row(CELLS[0]) | {"device": "cuda:0"},), ()).memory_column
    assert column == "peak_cuda_allocated_mib"
    prior, on_gpu = forecast(), Forecast(TOTALS, "cuda:0", 2, column)
    for which, counted in COUNTS.items():
        prediction = prior.predict(which)
        assert prediction.predicted_s > 0
        assert 1 < (prediction.predicted_peak_mib - IMPORTS) / counted.train_peak_mib < 2.2
        tensors_mib = on_gpu.predict(which).predicted_peak_mib
        assert tensors_mib == pytest.approx(counted.train_peak_mib, rel=0.01)

    known, unseen = rows()[::3], rows()[1::3]
    learned = forecast(known)
    assert learned.seen == len(known)
    for row in unseen:
        prediction = learned.predict(Variant.of(row))
        assert prediction.predicted_peak_mib == pytest.approx(row["peak_rss_mib"], rel=0.03)
        assert prediction.predicted_s == pytest.approx(row["wall_s"], rel=0.1)
    others = [row | {"ms_per_1k_tokens": 120.0, "startup_s": 4.0} for row in rows()]
    learned = forecast()
    assert learned.basis is None
    learned.hint(others)
    assert learned.basis == "from the speed of other runs here"
    times = [learned.predict(variant).predicted_s for variant in COUNTS]
    steps = 1 + forecasting.REPLAYED_STEPS / SHAPES.steps
    training = steps * 0.12 * SHAPES.real_tokens / 1000
    assert 4.0 + training < sum(times) / len(times) < 4.0 + 2 * training
    learned.learn(rows()[:1])
    assert learned.basis == "fitted on 1 setting that ran here"
    assert learned.predict(VARIANTS[0]).predicted_s == pytest.approx(wall(VARIANTS[0]), rel=0.1)
    of_other_lengths = forecast()
    of_other_lengths.hint([row | {"max_length": 16} for row in others])
    assert [of_other_lengths.predict(variant).predicted_s for variant in COUNTS] == times


@pytest.mark.parametrize(("changes", "times"), [
    ({"flags": "not_learned disturbed"}, 0),
    ({"flags": "not_learned"}, 1),
    ({"wall_s": None}, 0),
    ({"early_stopping": 2, "epochs": 3, "epochs_run": 2}, 0),
    ({"early_stopping": 2, "epochs": 3, "epochs_run": 3}, 1),
    ({"early_stopping": 2, "epochs": 9, "epochs_run": 3, "max_steps": 12}, 1),  # which ended it
])  # fmt: skip
def test_what_was_disturbed_or_stopped_early_teaches_memory_and_no_time(changes, times):
    learned = forecast([rows()[0] | changes])
    assert (learned.seen, len(learned.memory.points)) == (times, 1)
    learned = forecast([failed_row(CELLS[0], "oom", "", peak_rss_mib=9e9, wall_s=9e9)])
    assert (learned.seen, len(learned.memory.points)) == (0, 0)


def test_flops_are_for_each_real_token():
    variant = VARIANTS[0]
    steps = SHAPES.train_tokens / (SHAPES.train[0] * SHAPES.train[1])
    expected = COUNTS[variant].step.gflop * 1e9 * steps / SHAPES.real_tokens
    assert forecast().predict(variant).flops_per_token == pytest.approx(expected)


def test_only_rows_that_may_be_compared_count():
    mine = synthetic_rows(6, failures=False)
    others = [row | {"conditions_id": "other"} for row in mine[:2]]
    for changes in ({"epochs": 9}, {"dropout": 0.3}):
        others += synthetic_rows(2, failures=False, **changes)
    like = planned_row(cell(*full_grid()[0], seed=5))
    assert forecasting.rows_like([*others, *mine], [like]) == mine
    larger = synthetic_rows(2, failures=False, batch_size=64)
    assert forecasting.rows_like([*larger, *mine], [like]) == mine
    both = [like, like | {"batch_size": 64}]
    assert forecasting.rows_like([*larger, *others, *mine], both) == [*larger, *mine]
    assert forecasting.rows_of_model([*larger, *mine[:2]], like) == [*larger, *mine[:2]]


PRIOR = Prior((0.0, 1.0, 1.0), (100.0, 0.3, 0.3))
TRUE = (60.0, 1.1, 1.35)


def measurements(count, noise=0.0):
    rng = np.random.default_rng(0)
    design = [(1.0, *map(float, rng.uniform((80, 50), (270, 900)))) for _ in range(count)]
    return design, [apply(TRUE, x) * float(rng.normal(1, noise)) for x in design]


def test_measurements_move_the_prior_to_their_law_and_what_is_left_out_is_not_seen():
    design, measured = measurements(40)
    coefficients = fit(design, measured, PRIOR)
    assert [apply(coefficients, x) for x in design] == pytest.approx(measured, rel=0.01)
    prior = Prior((*PRIOR.values, 7.0), (*PRIOR.spread, 1.0))
    coefficients = fit([(*x, 0.0) for x in design], measured, prior)
    assert coefficients[3] == pytest.approx(7.0), "a feature that is never seen"
    assert min(fit(design, [1000 - 0.5 * x[2] for x in design], PRIOR)) >= 0

    before, after = (
        [apply(values, x) / y - 1 for x, y in zip(design, measured, strict=True)]
        for values in (PRIOR.values, fit(design[:1], measured[:1], PRIOR))
    )
    assert abs(after[0]) < abs(before[0]) / 2, "met halfway or more"
    assert np.abs(after).mean() < np.abs(before).mean(), "and the rest follows"
    prior = Prior((5.0, 0.01, 0.002), (5.0, 0.01, 0.002), rates=True)
    slow = [4 * apply(prior.values, x) for x in design]
    coefficients = fit(design[:1], slow[:1], prior)
    assert [apply(coefficients, x) for x in design] == pytest.approx(slow, rel=0.01)

    design, measured = measurements(12, noise=NOISE)
    before = ways(design, measured)
    for i in range(0, 12, 2):
        measured[i] *= 3
    after = ways(design, measured)
    kind = "kind left out"
    assert after[kind][::2] == before[kind][::2]
    assert after[kind][1] != before[kind][1]
    measured[1] *= 3
    again = ways(design, measured)
    assert again["one left out"][1] == after["one left out"][1]
    assert again["one left out"][0] != after["one left out"][0]
    assert again["as they ran"][0] == apply(PRIOR.values, design[0])
    assert again["as they ran"][5] == apply(fit(design[:5], measured[:5], PRIOR), design[5])
    found = errors([89.0, 109.0, 100.0, 104.0, 102.0], [100.0] * 5)
    names = ("within_10_percent", "error_median", "error_90", "error_max")
    assert [found[name] for name in names] == pytest.approx([0.8, 0.04, 0.102, 0.11])
    design, measured = measurements(4)
    of = fitted(design, measured)
    first = next(iter(of.points))
    before = of.predict(first)
    of.learn(first, 3 * measured[0])
    assert of.points[first] == (design[0], 2 * measured[0])
    assert of.predict(first) > before


def fitted(design, measured):
    variants = [variant("lora", i, ("attn", "all-lin")[i % 2]) for i in range(1, len(design) + 1)]
    of = Fit(dict(zip(variants, design, strict=True)), PRIOR)
    for which, value in zip(variants, measured, strict=True):
        of.learn(which, value)
    return of


def ways(design, measured):
    checks = fitted(design, measured).checks()
    return {way: list(predicted.values()) for way, predicted in checks.items()}
