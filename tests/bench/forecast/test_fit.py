"""Fits on synthetic measurements of known laws."""

import numpy as np
import pytest

from bench.forecast.fit import NOISE, Fit, Prior, apply, errors, fit
from tests.bench.workloads import variant

PRIOR = Prior((0.0, 1.0, 1.0), (100.0, 0.3, 0.3))
TRUE = (60.0, 1.1, 1.35)


def cells(count, noise=0.0):
    rng = np.random.default_rng(0)
    design = [(1.0, *map(float, rng.uniform((80, 50), (270, 900)))) for _ in range(count)]
    return design, [apply(TRUE, x) * float(rng.normal(1, noise)) for x in design]


def test_enough_measurements_give_the_law():
    design, measured = cells(40)
    coefficients = fit(design, measured, PRIOR)
    for x, y in zip(design, measured, strict=True):
        assert apply(coefficients, x) == pytest.approx(y, rel=0.01)
    prior = Prior((*PRIOR.values, 7.0), (*PRIOR.spread, 1.0))
    coefficients = fit([(*x, 0.0) for x in design], measured, prior)
    assert coefficients[3] == pytest.approx(7.0), "a feature that is never seen"
    assert min(fit(design, [1000 - 0.5 * x[2] for x in design], PRIOR)) >= 0


def test_one_measurement_is_met_halfway_or_more_and_the_rest_follows():
    design, measured = cells(20)
    before = [apply(PRIOR.values, x) / y - 1 for x, y in zip(design, measured, strict=True)]
    coefficients = fit(design[:1], measured[:1], PRIOR)
    after = [apply(coefficients, x) / y - 1 for x, y in zip(design, measured, strict=True)]
    assert abs(after[0]) < abs(before[0]) / 2
    assert np.abs(after).mean() < np.abs(before).mean()


def test_rates_are_scaled_by_the_first_measurement():
    prior = Prior((5.0, 0.01, 0.002), (5.0, 0.01, 0.002), rates=True)
    design, _ = cells(10)
    slow = [4 * apply(prior.values, x) for x in design]
    coefficients = fit(design[:1], slow[:1], prior)
    assert [apply(coefficients, x) for x in design] == pytest.approx(slow, rel=0.01)


def fitted(design, measured):
    """A fit of variants of two kinds in turn."""
    variants = [variant("lora", i, ("attn", "all-lin")[i % 2]) for i in range(1, len(design) + 1)]
    of = Fit(dict(zip(variants, design, strict=True)), PRIOR)
    for which, value in zip(variants, measured, strict=True):
        of.learn(which, value)
    return of


def ways(design, measured):
    checks = fitted(design, measured).checks()
    return {way: list(predicted.values()) for way, predicted in checks.items()}


def test_what_is_left_out_is_not_seen():
    design, measured = cells(12, noise=NOISE)
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


def test_checks_tell_errors_within_a_tenth():
    design, measured = cells(30, noise=NOISE)
    by_way = {way: errors(values, measured) for way, values in ways(design, measured).items()}
    assert by_way["by the prior"]["within_10_percent"] < 0.5
    one = by_way["one left out"]
    assert one["within_10_percent"] >= 0.9
    assert 0 < one["error_median"] < one["error_90"] <= one["error_max"]
    assert errors([89.0], [100.0])["within_10_percent"] == 0


def test_repeats_count_by_their_mean_and_a_new_measurement_changes_predictions():
    design, measured = cells(4)
    of = fitted(design, measured)
    first = next(iter(of.points))
    before = of.predict(first)
    of.learn(first, 3 * measured[0])
    assert of.points[first] == (design[0], 2 * measured[0])
    assert of.predict(first) > before
