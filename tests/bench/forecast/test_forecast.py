"""Predictions from synthetic counts and rows."""

import pytest

from bench.analysis.groups import Group
from bench.forecast import forecast as forecasting
from bench.forecast.costs import Variant, totals_of
from bench.forecast.forecast import (
    Forecast,
    peak_features,
    replayed_steps,
    rows_like,
    rows_of_model,
    time_features,
)
from bench.stats.steptimes import STEPS_ENOUGH
from bench.worker.probes import replay
from tests.bench.synthetic_rows import cell, failed_row, full_grid, planned_row, synthetic_rows
from tests.bench.workloads import ONE, SHAPES, counts

IMPORTS = 250.0
CELLS = [cell(*axes) for axes in full_grid()]
BATCH_SIZE = CELLS[0].batch_size
VARIANTS = [Variant.of(planned) for planned in CELLS]
COUNTS = {
    variant: counts(
        train_peak_mib=300.0 + 40.0 * i, step={"gflop": 50.0 + i, "moved_mib": 5000.0 + 90.0 * i}
    )
    for i, variant in enumerate(VARIANTS)
}
TOTALS = {
    variant: totals_of(ONE, {"": [counted]})._replace(imports_mib=IMPORTS)
    for variant, counted in COUNTS.items()
}


def peak(variant):
    totals = TOTALS[variant]
    values = peak_features(variant, totals.lasting_mib, totals.passing_mib)
    return IMPORTS + 40 + 15 * values[1] + 1.02 * values[2] + 1.2 * sum(values[3:])


def wall(variant):
    return 9 + 0.003 * sum(time_features(variant, TOTALS[variant])[2:])


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


def test_the_steps_that_time_a_cell_are_those_that_a_worker_takes():
    assert forecasting.REPLAYED_STEPS == replay.BATCHES * (replay.TIMED_PASSES + 1)
    assert forecasting.MOST_REPLAYED_STEPS == replay.BATCHES * (replay.MOST_PASSES + 1)
    assert forecasting.REPLAYED_SHARE == replay.REPLAY_SHARE


def test_steps_are_timed_after_a_short_training_and_after_one_that_unfreezes():
    plain = VARIANTS[0]
    unfreezes = plain._replace(unfreeze="iterative")
    fewest, most = forecasting.REPLAYED_STEPS, forecasting.MOST_REPLAYED_STEPS
    lengths = (3, STEPS_ENOUGH - 1, STEPS_ENOUGH, 10**6)
    assert [replayed_steps(plain, steps) for steps in lengths] == [fewest, fewest, 0, 0]
    between = [replayed_steps(unfreezes, steps) for steps in (3, 200, 10**6)]
    assert between == [fewest, 200 * forecasting.REPLAYED_SHARE, most]


def test_time_is_that_of_all_stages_and_of_timing_the_last():
    variant = VARIANTS[0]._replace(unfreeze="iterative")
    stages = [counts(step={"gflop": gflop}, evaluation={"gflop": 0.0}) for gflop in (1.0, 2.0, 6.0)]
    values = time_features(variant, totals_of(ONE, {"": stages}))
    batches = SHAPES.train_tokens / (SHAPES.train[0] * SHAPES.train[1])
    assert values[2] == pytest.approx(
        batches * (3.0 + 6.0 * forecasting.REPLAYED_STEPS / SHAPES.steps)
    )


def test_without_rows_memory_is_imports_and_tensors_and_somewhat_more():
    """On a GPU that of its tensors."""
    column = Group((planned_row(CELLS[0]) | {"device": "cuda:0"},), ()).memory_column
    assert column == "peak_cuda_allocated_mib"
    prior, on_gpu = forecast(), Forecast(TOTALS, "cuda:0", 2, column)
    for variant, counted in COUNTS.items():
        prediction = prior.predict(variant)
        assert prediction.wall_s > 0
        assert 1 < (prediction.peak_mib - IMPORTS) / counted.train_peak_mib < 2.2
        assert on_gpu.predict(variant).peak_mib == pytest.approx(counted.train_peak_mib, rel=0.01)


def test_a_training_that_stopped_early_teaches_memory_and_no_time():
    stopping = [row | {"early_stopping": 2, "epochs": 3, "epochs_run": 2} for row in rows()]
    learned = forecast(stopping)
    assert (learned.seen, len(learned.memory.points)) == (0, len(stopping))
    assert forecast([row | {"epochs_run": 3} for row in stopping]).seen == len(stopping)
    capped = [row | {"epochs": 9, "epochs_run": 3, "max_steps": 12} for row in stopping]
    assert forecast(capped).seen == len(stopping), "max_steps ended it"


def test_rows_teach_it_and_cells_that_it_has_not_seen_are_predicted():
    known, unseen = rows()[::3], rows()[1::3]
    learned = forecast(known)
    assert learned.seen == len(known)
    for row in unseen:
        prediction = learned.predict(Variant.of(row))
        assert prediction.peak_mib == pytest.approx(row["peak_rss_mib"], rel=0.03)
        assert prediction.wall_s == pytest.approx(row["wall_s"], rel=0.1)


def test_other_runs_on_the_machine_tell_its_speed_until_there_is_better():
    others = [row | {"ms_per_1k_tokens": 120.0, "startup_s": 4.0} for row in rows()]
    learned = forecast()
    assert learned.basis is None
    learned.hint(others)
    assert learned.basis == "from the speed of other runs here"
    times = [learned.predict(variant).wall_s for variant in COUNTS]
    steps = 1 + forecasting.REPLAYED_STEPS / SHAPES.steps
    training = steps * 0.12 * SHAPES.real_tokens / 1000
    assert 4.0 + training < sum(times) / len(times) < 4.0 + 2 * training
    learned.learn(rows()[:1])
    assert learned.basis == "fitted on 1 setting that ran here"
    assert learned.predict(VARIANTS[0]).wall_s == pytest.approx(wall(VARIANTS[0]), rel=0.1)
    of_other_lengths = forecast()
    of_other_lengths.hint([row | {"max_length": 16} for row in others])
    assert [of_other_lengths.predict(variant).wall_s for variant in COUNTS] == times


def test_what_failed_or_was_disturbed_teaches_no_time():
    learned = forecast([failed_row(CELLS[0], "oom", "", peak_rss_mib=9e9, wall_s=9e9)])
    assert (learned.seen, len(learned.memory.points)) == (0, 0)
    for changes in ({"flags": "not_learned disturbed"}, {"wall_s": None}):
        learned.learn([rows()[0] | changes])
        assert (learned.seen, len(learned.memory.points)) == (0, 1)
    learned.learn([rows()[0] | {"flags": "not_learned"}])
    assert learned.seen == 1


def test_flops_are_for_each_real_token():
    variant = VARIANTS[0]
    steps = SHAPES.train_tokens / (SHAPES.train[0] * SHAPES.train[1])
    expected = COUNTS[variant].step.gflop * 1e9 * steps / SHAPES.real_tokens
    assert forecast().predict(variant).flops_per_token == pytest.approx(expected)


def test_only_rows_that_may_be_compared_count():
    mine = synthetic_rows(6, failures=False)
    others = [
        *synthetic_rows(2, failures=False, epochs=9),
        *synthetic_rows(2, failures=False, dropout=0.3),
        *(row | {"conditions_id": "other"} for row in mine[:2]),
    ]
    like = planned_row(cell(*full_grid()[0], seed=5))
    assert rows_like([*others, *mine], [like]) == mine
    larger = synthetic_rows(2, failures=False, batch_size=64)
    assert rows_like([*larger, *mine], [like]) == mine
    both = [like, like | {"batch_size": 64}]
    assert rows_like([*larger, *others, *mine], both) == [*larger, *mine]
    assert rows_of_model([*larger, *mine[:2]], like) == [*larger, *mine[:2]]
