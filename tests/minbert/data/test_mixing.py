"""The order of several tasks' batches in an epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minbert.data.batches import MIXINGS, mix

COUNTS = {"sst": 3, "quora": 5, "sts": 1}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@given(
    st.sampled_from(list(MIXINGS)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 20)),
)
def test_every_batch_comes_once(name: str, counts: dict[str, int]) -> None:
    order = mix(name, counts, rng())
    assert {task: order.count(task) for task in counts} == counts
    assert len(order) == sum(counts.values())


def test_one_after_the_other_or_in_turn() -> None:
    assert mix("sequential", COUNTS, rng()) == ["sst"] * 3 + ["quora"] * 5 + ["sts"]
    assert mix("round-robin", COUNTS, rng()) == [
        "sst", "quora", "sts", "sst", "quora", "sst", "quora", "quora", "quora",
    ]  # fmt: skip


def test_at_random_a_task_is_as_likely_as_it_is_large() -> None:
    order = mix("proportional", {"small": 200, "large": 800}, rng())
    parts = [order[start : start + 200].count("small") for start in range(0, 1000, 200)]
    assert all(20 <= part <= 60 for part in parts)
    assert order == mix("proportional", {"small": 200, "large": 800}, rng())
    assert order != mix("proportional", {"small": 200, "large": 800}, np.random.default_rng(1))


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no order of tasks is called 'random'"):
        mix("random", COUNTS, rng())
