"""Encoders that are compared with each other."""

from typing import Any

import numpy as np

from bench.analysis.groups import encoders_of, groups
from bench.analysis.recommendation import recommended_from
from tests.bench.synthetic_rows import cell, result_row

EXAMPLES = 2000
LARGE: dict[str, Any] = {
    "model": "large", "model_digest": "1a" * 6, "engine": "transformers",
    "engine_version": "transformers 5", "attn_implementation": "sdpa", "kernels": None,
    "pooling": "pooler",
}  # fmt: skip
SETTINGS = {("full", None, None): 0.05, ("head", None, None): -0.1, ("lora", 8, "all-lin-only"): 0}
WIDTHS = {"minilm": 0.6, "large": 0.7}


def rows_of(model="minilm", times=1.0, **more):
    """Rows of an encoder: memory and time of a synthetic one's, multiplied."""
    rows = []
    for axes in SETTINGS:
        for seed in range(3):
            row = result_row(cell(*axes, "off", seed, **{"model": model} | more))
            score = float(values_of([row]).mean())
            rows.append(row | {
                "peak_rss_mib": row.peak_rss_mib * times, "train_s": row.train_s * times,
                "ms_per_1k_tokens": row.ms_per_1k_tokens / 2, "dev_score": score,
            })  # fmt: skip
    return rows


def values_of(rows):
    """Outcomes of the examples, which are hard or easy for all encoders."""
    [row] = rows
    share = WIDTHS.get(row.model, 0.6) + SETTINGS[row.mode, row.rank, row.layers]
    hardness = np.random.default_rng(0).random(EXAMPLES)
    number = [*SETTINGS].index((row.mode, row.rank, row.layers))
    noise = np.random.default_rng([number, row.seed, len(row.model)]).normal(0, 0.02, EXAMPLES)
    return (hardness < share + noise).astype(float)


def made(*rows):
    return groups([row for some in rows for row in some], (), values_of)


def test_groups_that_differ_in_the_encoder_and_what_follows_from_it_are_joined():
    """Of several lengths the nearest to the first group's is taken."""
    short, long = (rows_of(**LARGE, max_length=length) for length in (32, 128))
    every = made(rows_of(), short, long)
    encoders = encoders_of(every).encoders
    assert encoders.keys() == {"minilm", "large"}
    assert encoders["large"].shared("max_length") == 128
    assert not any(setting.encoder for group in every for setting in group.settings)
    of_one_name = encoders_of(made(rows_of(), rows_of(**LARGE | {"model": "minilm"})))
    assert set(of_one_name.encoders) == {"minilm@7c1d0f", "minilm@1a1a1a"}
    assert encoders_of([]) is None
    for other in (
        {"data_digest": "0" * 12}, {"epochs": 9}, {"init": "random"}, {"conditions_id": "there"},
    ):  # fmt: skip
        assert encoders_of(made(rows_of(), [row | other for row in rows_of(**LARGE)])) is None
    both = [*rows_of(), *rows_of(**LARGE, times=3)]
    assert recommended_from(both, (), values_of).setting.label == "large with full, fp32"
