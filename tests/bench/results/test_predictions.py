"""Kept predictions as a number for each example, whose mean is the score."""

import random

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.analysis.groups import groups
from bench.analysis.verdicts import compare, score_spread
from bench.results.predictions import (
    first_of,
    kept_predictions,
    mean_of_parts,
    no_predictions,
    outcome_of,
    values_for,
)
from bench.results.store import cell_folder
from tests.bench.stored_values import kept_values
from tests.bench.synthetic_rows import cell, result_row

RNG = np.random.default_rng(0)


def test_of_a_correlation_the_mean_is_exact_and_the_spread_that_of_fisher():
    x = RNG.normal(size=4000)
    y = 0.6 * x + 0.8 * RNG.normal(size=4000)
    values = values_for("pearson", x[:, None], y)
    correlation = np.corrcoef(x, y)[0, 1]
    assert values.mean() == pytest.approx(correlation, abs=1e-12)
    error = values.std() / np.sqrt(len(values))
    assert error == pytest.approx((1 - correlation**2) / np.sqrt(len(values)), rel=0.1)


def test_of_a_mean_over_parts_mean_and_variance_are_exact():
    parts = [RNG.random(30), (RNG.random(400) < 0.3).astype(float), RNG.normal(2.0, 1.0, 90)]
    values = mean_of_parts(parts)
    assert len(values) == 520
    assert values.mean() == pytest.approx(np.mean([part.mean() for part in parts]))
    expected = sum(part.var() / len(part) for part in parts) / 9
    assert values.var() / len(values) == pytest.approx(expected)
    others = [part + RNG.normal(0.1, 0.1, len(part)) for part in parts]
    gap = mean_of_parts(others) - values
    gaps = [other - part for other, part in zip(others, parts, strict=True)]
    np.testing.assert_allclose(gap, mean_of_parts(gaps), rtol=1e-9, atol=1e-12)
    assert mean_of_parts(parts[:1]) == pytest.approx(parts[0])
    with pytest.raises(ValueError, match="no part"):
        mean_of_parts([])


def keep(runs, of, right):
    row = result_row(of, random.Random(0))  # noqa: S311
    row |= {"dev_metric": "accuracy", "dev_score": float(right.mean())}
    folder = cell_folder(runs, of.name, *row.row_key)
    folder.mkdir(parents=True)
    tensors = {"logits": np.stack([1.0 - right, right], axis=1), "labels": np.ones(len(right), int)}
    save_file(tensors, folder / "predictions.safetensors")
    return row


def test_settings_are_compared_example_by_example(tmp_path):
    runs = tmp_path / "runs.csv"
    base = (RNG.random(1000) < 0.6).astype(np.float64)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:30]] = 1.0
    full, lora = cell("full", None, None, "off"), cell("lora", 8, "attn", "off")
    rows = [keep(runs, full, base), keep(runs, lora, better)]
    (plain,) = groups(rows)
    (paired,) = groups(rows, (), kept_values(runs))
    lora, full = (next(s for s in paired.settings if s.mode == m) for m in ("lora", "full"))
    gap = compare(paired, "score", lora, full)
    assert gap.value == pytest.approx(0.03)
    assert 0.019 < gap.low < gap.high < 0.041
    loose = compare(plain, "score", *(plain.settings[::-1]))
    assert loose.low < 0 < loose.high
    assert score_spread(lora, full).of_seeds is None


def test_folds_of_several_files_are_joined(tmp_path):
    files = [tmp_path / name for name in ("a.csv", "b.csv")]
    rights = [np.ones(4), np.zeros(5), np.ones(6)]
    rows = [
        keep(files[fold % 2], cell("full", None, None, "off", folds=3, fold=fold), right)
        for fold, right in enumerate(rights)
    ]
    found = first_of([kept_predictions(path) for path in files])(rows)
    assert found[""].predicted.tolist() == np.concatenate(rights).tolist()
    assert first_of([kept_predictions(files[0])])(rows) is None


def test_what_is_missing_or_broken_is_unknown(tmp_path):
    runs = tmp_path / "runs.csv"
    row = keep(runs, cell("full", None, None, "off"), np.ones(5))
    (file,) = (tmp_path / "runs").glob("*/predictions.safetensors")
    values_of = kept_values(runs)
    file.write_bytes(b"no tensors")
    assert values_of([row]) is None
    assert kept_predictions(tmp_path / "other.csv") is no_predictions
    assert kept_values(runs)([row | {"cell_id": "../../etc"}]) is None
    known = {"": outcome_of(np.ones((2, 1)), np.ones(2, dtype=np.int64), None)}
    assert first_of([no_predictions, lambda rows, logits=False: known])([row]) == known
