"""Examples in folds: how they are dealt, and what a fold holds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minbert.data.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from minbert.data.tasks import RACE_FOLDS, TASKS, Folds, for_race, for_search, load_data
from minbert.data.tasks.base import Examples, Sizes, TaskData
from minbert.data.tasks.splitting import stratified
from minbert.errors import InputError
from tests.cs224n import write_folder

RNG = np.random.default_rng(0)
KNOWN = [2, 1, 0, 0, 0, 2, 1, 0, 1, 2, 2, 1]


def dealt(keys, strata, k):
    parts = stratified(keys, np.array(strata, dtype=np.int64), k)
    assert parts.shape == (len(keys),)
    return [int(part) for part in parts]


def table_of(keys, strata, k):
    """How many examples of each stratum each part has."""
    parts, strata = np.array(dealt(keys, strata, k)), np.array(strata)
    return [np.bincount(parts[strata == one], minlength=k).tolist() for one in np.unique(strata)]


def test_large_groups_and_singles_are_spread_by_class():
    documents = [f"document {n // 20}" for n in range(800)]  # each of one class
    classes = [(n // 20) % 4 for n in range(800)]
    assert table_of(documents, classes, 5) == [[40] * 5] * 4
    assert len({*zip(documents, dealt(documents, classes, 5), strict=True)}) == 40
    keys = ["a"] * 3 + ["b"] * 2 + [f"single {n}" for n in range(15)]
    strata = [0] * 3 + [1] * 2 + [0] * 9 + [1] * 6
    assert table_of(keys, strata, 4) == [[3] * 4, [2] * 4], "singles fill up what is uneven"
    texts = [f"text {n}" for n in range(12)]
    assert dealt(texts, [n % 2 for n in range(12)], 3) == KNOWN, "the same for ever"
    assert dealt(texts[::-1], [(n + 1) % 2 for n in range(12)], 3) == KNOWN[::-1]


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


def data_of(task="movies", groups=False):
    def side(name, count):
        texts = tuple(f"{name} text {n}" for n in range(count))
        labels = np.arange(count) % 5 if TASKS[task].classes else np.arange(count) / 7
        authors = tuple(f"author {n // 4}" for n in range(count)) if groups else None
        return Examples(texts, None, labels, authors)

    return TaskData(TASKS[task], side("train", 40), side("dev", 15))


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
    plain, capped = Folds(data_of(), 4), Folds(data_of(), 4, max_train=11, max_dev=5).fold(0)
    assert (len(capped.train), len(capped.dev)) == (11, 5)
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


def test_folds_that_cannot_be_made_are_refused(tmp_path):
    folder = write_folder(tmp_path, count=40)
    pairs = Folds(load_data("sts", folder), 3).fold(2)
    assert len(pairs.dev.text_b or ()) == len(pairs.dev) == 20, "which have both texts"
    with pytest.raises(InputError, match="task multitask has parts"):
        Folds(load_data("multitask", folder), 3)
    with pytest.raises(InputError, match="there is no fold 3 of 3; count from 0"):
        Folds(load_data("sst", folder), 3).fold(3)
    for count, groups, most in ((56, False, "55, the number of te"), (11, True, "10, the")):
        with pytest.raises(InputError, match=f"--folds {count}: give a number from 2 to {most}"):
            Folds(data_of(groups=groups), count)


@pytest.mark.parametrize("task", ["movies", "movies-rating"])
def test_what_a_search_is_scored_on_is_in_no_fold_of_a_race_and_dev_is_not_seen(task):
    texts = tuple(f"Text {n // 2}{'!' * (n % 2)}" for n in range(800))  # in equal pairs
    labels = np.arange(800) // 2 % 3 if task == "movies" else np.arange(800) / 7
    train = Examples(texts, None, labels)
    data = TaskData(TASKS[task], train, Examples(("dev",), None, labels[:1]))
    label_of = dict(zip(texts, labels, strict=True))
    searched = for_search(data)
    aside, fitted = set(searched.dev.text_a), set(searched.train.text_a)
    assert 40 < len(aside) < 120
    assert aside | fitted == set(texts)
    rounds = [for_race(data, fold) for fold in range(RACE_FOLDS)]
    assert {one.digest for one in rounds} == {data.digest}
    assert sorted(text for one in rounds for text in one.dev.text_a) == sorted(fitted)
    for one in rounds:
        for side in (one.train, one.dev):
            assert [label_of[text] for text in side.text_a] == side.labels.tolist()
            assert side.labels.dtype == labels.dtype
        assert set(one.train.text_a) == fitted - set(one.dev.text_a)
        pairs = {text.rstrip("!") for text in one.dev.text_a}
        assert {text.rstrip("!") for text in one.train.text_a}.isdisjoint(pairs)
    fewer = replace(data, train=train.limited(300))
    assert set(for_search(fewer).dev.text_a) <= aside, "whatever the number of examples"
    few = replace(data, train=train.taken([0, 1, 2]))
    with pytest.raises(InputError, match="--race: 3 training examples can't be put into 5 folds"):
        for_race(few, 0)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=80),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_a_key_is_in_one_part_whatever_the_order(numbers, k, random):
    examples = [(f"group {n}", (n * 7 + place) % 3) for place, n in enumerate(numbers)]

    def parts_by_key():
        keys, strata = map(list, zip(*examples, strict=True))
        return {*zip(keys, dealt(keys, strata, k), strict=True)}

    first = parts_by_key()
    assert len(first) == len(set(numbers)), "each in one part"
    assert len({part for _, part in first}) == min(k, len(first)), "none is empty if it need not be"
    random.shuffle(examples)
    assert parts_by_key() == first
