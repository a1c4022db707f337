"""Exactly the parameters that a mode and a layer set name train, in every architecture."""

from pathlib import Path

import pytest

from tests.bench.engines.trainable import listing
from tests.encoders import KINDS

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("kind", KINDS)
def test_what_trains_is_what_the_golden_file_says(encoders, kind):
    assert listing(encoders(kind)) == (GOLDEN / f"{kind}.txt").read_text()


def test_the_pooler_that_a_checkpoint_lacks_belongs_to_the_head(encoders):
    bare = encoders("bert", head="MaskedLM")
    assert listing(bare) == (GOLDEN / "bert-without-pooler.txt").read_text()
