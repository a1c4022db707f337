"""Examples in folds: how they are dealt, and what a fold holds."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minbert.data.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from minbert.data.tasks import (
    RACE_FOLDS,
    TASKS,
    Examples,
    Folds,
    Sizes,
    TaskData,
    for_race,
    for_search,
    load_data,
)
from minbert.data.tasks.splitting import stratified
from minbert.errors import InputError
from tests.cs224n import write_folder

DEALT = settings(max_examples=60, deadline=None)
KEYS = st.lists(st.integers(0, 30), min_size=1, max_size=80)
RNG = np.random.default_rng(0)
KNOWN = [2, 1, 0, 0, 0, 2, 1, 0, 1, 2, 2, 1]


def dealt(keys, strata, k):
    parts = stratified(keys, np.array(strata, dtype=np.int64), k)
    assert parts.shape == (len(keys),)
    return [int(part) for part in parts]


@DEALT
@given(st.lists(st.integers(0, 4), min_size=1, max_size=90), st.integers(1, 7))
def test_parts_of_texts_that_differ_are_level_in_all_and_in_each_stratum(strata, k):
    parts = np.array(dealt([f"text {n}" for n in range(len(strata))], strata, k))
    for stratum in [None, *set(strata)]:
        of = parts if stratum is None else parts[np.array(strata) == stratum]
        counts = np.bincount(of, minlength=k)
        assert len(counts) == k
        assert counts.max() - counts.min() <= 1


@DEALT
@given(KEYS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_key_is_in_one_part_whatever_the_order(numbers, k, random):
    examples = [(f"group {n}", (n * 7 + place) % 3) for place, n in enumerate(numbers)]
    parts = dealt(*map(list, zip(*examples, strict=True)), k)
    of_key = defaultdict(set)
    for (key, _), part in zip(examples, parts, strict=True):
        of_key[key].add(part)
    assert all(len(found) == 1 for found in of_key.values())
    assert len(set(parts)) == min(k, len(of_key)), "no part is empty if there are k keys"
    random.shuffle(examples)
    again = dealt(*map(list, zip(*examples, strict=True)), k)
    assert {key: {part} for (key, _), part in zip(examples, again, strict=True)} == of_key


def test_large_groups_and_singles_are_spread_by_class():
    keys = [f"document {n // 20}" for n in range(800)]
    strata = [(n // 20) % 4 for n in range(800)]  # a document is of one class
    parts = np.array(dealt(keys, strata, 5))
    table = [np.bincount(parts[np.array(strata) == one], minlength=5).tolist() for one in range(4)]
    assert table == [[40] * 5] * 4
    keys = ["a"] * 3 + ["b"] * 2 + [f"single {n}" for n in range(15)]
    strata = [0] * 3 + [1] * 2 + [0] * 9 + [1] * 6
    parts = np.array(dealt(keys, strata, 4))
    table = [np.bincount(parts[np.array(strata) == one], minlength=4).tolist() for one in range(2)]
    assert table == [[3] * 4, [2] * 4], "singles fill up what groups leave uneven"


def test_the_parts_of_known_texts_stay_what_they_are():
    texts = [f"text {n}" for n in range(12)]
    assert dealt(texts, [n % 2 for n in range(12)], 3) == KNOWN


def test_strata_are_classes_tenths_or_combinations():
    assert SINGLE_LABEL.strata(np.array([2, 0, 2])).tolist() == [2, 0, 2]
    numbers = RNG.permutation(100) / 7
    strata = REGRESSION.strata(numbers)
    assert np.bincount(strata).tolist() == [10] * 10
    assert (strata[np.argsort(numbers)] == np.sort(strata)).all()
    assert len(set(REGRESSION.strata(np.ones(50)).tolist())) == 1
    common = np.repeat(np.array([[0, 0, 1], [1, 0, 1]], dtype=np.int8), 20, axis=0)
    rare = np.array([[1, 1, 1], [0, 1, 0]], dtype=np.int8)
    found = MULTI_LABEL.strata(np.concatenate([common, rare]))
    assert [len(set(found[at].tolist())) for at in (slice(0, 20), slice(20, 40))] == [1, 1]
    assert len(set(found.tolist())) == 3, "those of fewer than ten examples are one stratum"
    assert found[40] == found[41]


def examples_of(task, side, count, groups=False):
    texts = tuple(f"{side} text {n}" for n in range(count))
    labels = np.arange(count) % 5 if TASKS[task].classes else np.arange(count) / 7
    names = tuple(f"author {n // 4}" for n in range(count)) if groups else None
    return Examples(texts, None, labels, names)


def data_of(task="movies", groups=False):
    return TaskData(
        TASKS[task], examples_of(task, "train", 40, groups), examples_of(task, "dev", 15, groups)
    )


@pytest.mark.parametrize("task", ["movies", "movies-rating"])
def test_every_example_is_dev_in_one_fold_and_trained_on_in_the_others(task):
    folds = Folds(data_of(task), 4)
    seen = []
    everything = {*data_of(task).train.text_a, *data_of(task).dev.text_a}
    known = dict(zip(folds.examples.text_a, folds.examples.labels, strict=True))
    for index in range(4):
        data = folds.fold(index)
        assert {*data.train.text_a} | {*data.dev.text_a} == everything
        assert not {*data.train.text_a} & {*data.dev.text_a}
        for side in (data.train, data.dev):
            assert [known[text] for text in side.text_a] == side.labels.tolist()
            assert side.labels.dtype == data_of(task).train.labels.dtype
        seen += data.dev.text_a
        capped = Folds(data_of(task), 4, max_train=11, max_dev=5).fold(index)
        assert (len(capped.train), len(capped.dev)) == (11, 5)
    assert sorted(seen) == sorted(everything)


def test_authors_and_equal_texts_stay_together():
    data = data_of(groups=True)
    shared = Examples(
        ("Same text!", "same  text", "another"), None, np.array([0, 1, 2]), ("x", "y", "author 0")
    )
    folds = Folds(TaskData(data.task, data.train, shared), 3)
    linked = {"x": "x or y", "y": "x or y"}
    for index in range(3):
        fold = folds.fold(index)
        train, dev = ({linked.get(g, g) for g in s.groups or ()} for s in (fold.train, fold.dev))
        assert train
        assert dev
        assert not train & dev


def test_all_folds_share_a_digest_that_says_what_is_in_them():
    plain = Folds(data_of(), 4)
    assert {plain.fold(index).digest for index in range(4)} == {plain.digest}
    assert plain.most == Sizes(42, 14)
    others = [
        data_of(), Folds(data_of(), 5), Folds(data_of("movies-rating"), 4),
        Folds(data_of(groups=True), 4), Folds(data_of(), 4, max_train=20),
        Folds(data_of(), 4, max_dev=13),
    ]  # fmt: skip
    assert len({plain.digest, *(other.digest for other in others)}) == 1 + len(others)
    for cap in (42, 43, 1000):
        assert Folds(data_of(), 4, max_train=cap, max_dev=cap).digest == plain.digest


def test_a_fold_of_pairs_has_both_texts(tmp_path):
    pairs = Folds(load_data("sts", write_folder(tmp_path, count=40)), 3).fold(2)
    assert len(pairs.dev.text_b or ()) == len(pairs.dev) == 20


def test_folds_that_cannot_be_made_are_refused(tmp_path):
    folder = write_folder(tmp_path)
    with pytest.raises(InputError, match="task multitask has parts"):
        Folds(load_data("multitask", folder), 3)
    with pytest.raises(InputError, match="there is no fold 3 of 3; count from 0"):
        Folds(load_data("sst", folder), 3).fold(3)
    for count, groups, why in (
        (56, False, "2 to 55, the number of te"),
        (11, True, "2 to 10, the"),
    ):
        with pytest.raises(InputError, match=f"--folds {count}: give a number from {why}"):
            Folds(data_of(groups=groups), count)


def test_what_a_search_is_scored_on_is_in_no_fold_of_a_race_and_dev_is_not_seen():
    texts = tuple(f"Text {n // 2}{'!' * (n % 2)}" for n in range(800))  # in equal pairs
    train = Examples(texts, None, np.arange(800) // 2 % 3)
    data = TaskData(TASKS["movies"], train, Examples(("dev",), None, np.array([0])))
    searched = for_search(data)
    aside, fitted = set(searched.dev.text_a), set(searched.train.text_a)
    assert 40 < len(aside) < 120
    assert aside | fitted == set(texts)
    rounds = [for_race(data, fold) for fold in range(RACE_FOLDS)]
    assert {one.digest for one in rounds} == {data.digest}
    assert sorted(text for one in rounds for text in one.dev.text_a) == sorted(fitted)
    for one in rounds:
        assert set(one.train.text_a) == fitted - set(one.dev.text_a)
        pairs = {text.rstrip("!") for text in one.dev.text_a}
        assert {text.rstrip("!") for text in one.train.text_a}.isdisjoint(pairs)
    fewer = replace(data, train=train.limited(300))
    assert set(for_search(fewer).dev.text_a) <= aside, "whatever the number of examples"


def test_too_few_examples_make_no_race():
    data = TaskData(
        TASKS["movies"],
        Examples(("a", "b", "c"), None, np.arange(3)),
        Examples((), None, np.arange(0)),
    )
    with pytest.raises(InputError, match="--race: 3 training examples can't be put into 5 folds"):
        for_race(data, 0)
