"""Ranks and energies of matrices whose singular values are known."""

import math

import numpy as np
import pytest

from bench.studies.updates.modules import FIGURES, random_spectrum, spectrum_of


def test_singular_values_4_and_3():
    of = spectrum_of(np.diag([3.0, 4.0, 0.0]))
    figures = of.figures()
    assert figures["nonzero"] == 2
    assert figures["stable_rank"] == pytest.approx(25 / 16)
    shares = (4 / 7, 3 / 7)
    entropy = -sum(p * math.log(p) for p in shares)
    assert figures["effective_rank"] == pytest.approx(math.exp(entropy))
    assert of.shares == pytest.approx([16 / 25, 1, 1])
    assert (of.rank_for(0.5), of.rank_for(0.9)) == (1, 2)
    assert (figures["energy_1"], figures["energy_8"]) == pytest.approx((16 / 25, 1))
    alike = spectrum_of(np.eye(8, 12))
    assert [alike.rank_for(share) for share in (0.5, 0.9, 0.99)] == [4, 8, 8]


def test_scale_and_transpose_change_no_figure():
    matrix = np.random.default_rng(0).normal(size=(7, 5))
    figures = spectrum_of(matrix).figures()
    assert tuple(figures) == FIGURES
    for other in (1e-6 * matrix, matrix.T):
        assert spectrum_of(other).figures() == pytest.approx(figures)


def test_a_random_matrix_is_the_same_in_every_run_and_has_full_rank():
    of = random_spectrum((32, 64))
    assert of.figures()["nonzero"] == 32
    again = np.random.default_rng([0, 32, 64]).standard_normal((32, 64))
    assert np.array_equal(of.values, spectrum_of(again).values)
    assert 8 < of.figures()["stable_rank"] < 32


def test_what_has_no_spectrum():
    with pytest.raises(ValueError, match="is all zero"):
        spectrum_of(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="not finite"):
        spectrum_of(np.array([[1.0, math.nan]]))
