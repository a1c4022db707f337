"""From the weights of a cell to the spectra of its updates. Imports torch."""

from collections.abc import MutableMapping

import numpy as np

from bench.common.errors import InputError
from bench.plan.models import Model
from bench.studies.updates.cells import Trained
from bench.studies.updates.kinds import Place
from bench.studies.updates.modules import Module, Update
from bench.studies.updates.spectrum import Floats, Spectrum, random_spectrum, spectrum_of
from bench.studies.updates.weights import pairs

Known = MutableMapping[tuple[str, Place], Spectrum]
"""Spectra of weights before training, by the digest of their checkpoint: cells share them."""


def measure(cell: Trained, base: Model, known: Known) -> Update:
    """The spectra of what a cell's training changed, beside those of what was there before.

    Args:
        base: the checkpoint that it was trained from.
        known: is added to.

    Raises:
        InputError: if the weights can't be read, or are no numbers.
    """
    found: list[Module] = []
    unmoved = 0
    for pair in pairs(cell, base):
        if not pair.update.any():
            unmoved += 1
            continue
        key = (base.digest, pair.place)
        if key not in known:
            known[key] = _spectrum(pair.before, pair.place, str(base.checkpoint))
        update = _spectrum(pair.update, pair.place, str(cell.weights))
        found.append(
            Module(
                place=pair.place,
                update=update,
                before=known[key],
                random=random_spectrum(update.rows, update.columns),
                relative_size=update.norm / float(np.linalg.norm(pair.before)),
            )
        )
    return Update(cell, tuple(found), unmoved)


def _spectrum(matrix: Floats, place: Place, where: str) -> Spectrum:
    try:
        return spectrum_of(matrix)
    except ValueError as error:
        raise InputError(f"{where}: the {place.kind} of layer {place.layer} {error}") from error
