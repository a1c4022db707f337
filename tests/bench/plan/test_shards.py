"""A plan divided into shards, and the flag that names one."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError
from bench.plan.shards import INDEXES, Shard, divide
from bench.report.text import sentences
from tests.bench.synthetic_rows import cell, full_grid
from tests.hostile import examples

SETTINGS = [axes for axes in full_grid() if axes[0] != "dora"]


def grid(seeds=1, folds=(None,), settings=SETTINGS):
    return [cell(*axes, seed, fold=f) for seed in range(seeds) for f in folds for axes in settings]


def cut(cells, costs, count):
    return divide(cells, costs, count, [True] * len(cells))


@examples(30)
@given(st.integers(1, 8), st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_cell_is_in_one_shard_and_loads_are_balanced(count, seeds, noise):
    cells = grid(seeds)
    costs = [noise.randrange(1, 60_000) for _ in SETTINGS] * seeds
    division = cut(cells, costs, count)
    assert Counter(c for part in division.parts for c in part) == Counter(cells)
    cost = dict(zip(cells, costs, strict=True))
    assert [*division.loads] == [sum(cost[c] for c in part) for part in division.parts]
    assert max(division.loads) - min(division.loads) <= max(costs)


def test_settings_of_a_seed_stay_on_one_machine_and_the_digest_is_that_of_the_division():
    cells = grid(seeds=2, folds=(0, 1))
    noise = random.Random(0)  # noqa: S311
    for costs in ([1] * len(cells), [noise.randrange(1, 9) for _ in cells]):
        for part in cut(cells, costs, 2).parts:
            rounds = Counter((c.seed, c.fold) for c in part)
            assert set(rounds.values()) == {len(SETTINGS)}
            assert len(rounds) == 2
    three = cut(cells, [1] * len(cells), 3)
    whole = [n for part in three.parts for n in Counter((c.seed, c.fold) for c in part).values()]
    assert whole.count(len(SETTINGS)) == 3
    assert max(three.loads) - min(three.loads) <= 1
    cells = [replace(c, engine=e) for c in grid() for e in ("minbert", "transformers")]
    for part in cut(cells, [*range(1, len(cells) + 1)], 5).parts:
        assert set(Counter(c.name for c in part).values()) == {2}, "both engines of a setting"
    few = grid(settings=SETTINGS[:4])
    assert [len(part) for part in cut(few, [1] * 4, 4).parts] == [1] * 4
    with pytest.raises(InputError, match=r"--shard: .* 4 shards at most"):
        cut(few, [1] * 4, 5)
    cells = grid()
    ones, on = [1] * len(cells), [c.amp != "off" for c in cells]
    there = [replace(c, amp="fp16", frozen_dtype=None) if c.amp != "off" else c for c in cells]
    assert divide(cells, ones, 3, on).plan == divide(there, ones, 3, on).plan
    divisions = (
        cut(cells, ones, 3), cut(grid(2), ones * 2, 3), cut(cells, ones, 2),
        cut(cells[1:], ones[1:], 3),
    )  # fmt: skip
    assert len({division.plan for division in divisions}) == 4
    shard = Shard.parse("auto/3", {INDEXES[1]: "2"})
    assert f"by {INDEXES[1]} of plan" in sentences("shard", division=divisions[0], shard=shard)[0]


@pytest.mark.parametrize(("text", "environment", "reason"), [
    ("3", {}, "is no I/N"), ("auto", {INDEXES[0]: "1"}, "is no I/N"),
    ("-1/3", {}, "is no I/N"), ("0/0", {}, "is no I/N"), ("1/9999999", {}, "is no I/N"),
    ("1/²", {}, "is no I/N"),
    ("3/3", {}, "there is no shard 3; 3 shards are 0 to 2"),
    ("auto/3", {INDEXES[1]: "3"}, f"{INDEXES[1]} is 3; 3 shards are 0 to 2"),
    ("auto/3", {}, f"neither {INDEXES[0]} nor {INDEXES[1]} is set"),
    ("auto/3", {INDEXES[0]: ""}, "neither"),
    ("auto/3", dict.fromkeys(INDEXES, "1"), f"both {INDEXES[0]} and {INDEXES[1]} are set"),
    ("auto/3", {INDEXES[0]: "one"}, "is 'one', and no index"),
])  # fmt: skip
def test_what_names_no_shard_is_refused(text, environment, reason):
    with pytest.raises(InputError, match=f"^--shard.*{re.escape(reason)}"):
        Shard.parse(text, environment)
