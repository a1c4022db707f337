"""Checks of a data set find what was planted, and count as a search by hand does."""

import random
from collections import defaultdict
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.examples import checks
from bench.examples.checks import check, leaks
from bench.plan.dataset import CONTROL
from minbert.data.tasks import Examples, Task, TaskData
from minbert.data.tasks.splitting import normalised

LONG = "the delivery came two days late and nobody at the shop answered my letters about it"
TEXTS = st.text("aB b.", max_size=7) | st.sampled_from(
    [LONG, LONG.title(), LONG.replace("two", "six"), LONG.replace("letters", "calls"), LONG[:70]]
)
ROWS = st.lists(st.tuples(TEXTS, st.integers(0, 1)), min_size=1, max_size=12)
SENTENCES = ("it’s — well", "Größe", "naïve")
WRONGLY_DECODED = [
    *(text.encode().decode("cp1252") for text in SENTENCES),
    *(text.encode().decode("latin-1") for text in (*SENTENCES, "привет", "so 😀")),
    "ï»¿first",
]


def data(train, dev, classes=("no", "yes")):
    def examples(rows):
        *texts, labels = zip(*rows, strict=True)
        return Examples(texts[0], texts[1] if len(texts) > 1 else None, np.array(labels))

    return TaskData(Task("mine", classes), examples(train), examples(dev))


def counts(finding):
    return finding.train, finding.dev


def test_findings_are_counted_and_shown_by_normalised_texts_of_pairs_by_both():
    train = [("Good film!", 1), ("good  film", 1), ("GOOD FILM.", 0), ("bad film", 0)]
    found = check(data(train, [("…good film", 1), ("fine", 1), ("Fine", 1)]))
    assert counts(found.duplicates) == (2, 1)
    assert found.duplicates.shown == ("3 times in train: Good film!", "2 times in dev: fine")
    assert (counts(found.leaks), found.leaks.shown) == ((3, 1), ("Good film!",))
    assert (counts(found.conflicts), found.conflicts.shown) == ((3, 1), ("no, yes: GOOD FILM.",))
    train = [("a", "b", 0), ("a", "c", 1), ("b", "a", 1), ("A", "B", 0)]
    found = check(data(train, [("a", "b", 1), ("c", "a", 1)]))
    assert (counts(found.leaks), found.leaks.shown) == ((2, 1), ("a / b",))
    assert (counts(found.duplicates), counts(found.conflicts)) == ((1, 0), (2, 1))


@pytest.mark.parametrize(("kind", "text"), [
    ("replacement characters", "caf\ufffd"), ("lone surrogates", "a\udce9"),
    *((CONTROL, text) for text in ("a\x00b", "a\x12s", "it\x92s")),
    *(("UTF-8 read as Latin-1", text) for text in WRONGLY_DECODED),
])  # fmt: skip
def test_text_that_was_decoded_wrongly_or_is_empty(kind, text):
    found = check(data([("fine", 0), (text, 1), (" \t", 0)], [("good", 1), ("", 1), ("\n", 1)]))
    assert counts(found.encoding[kind]) == (1, 0)
    (line,) = found.encoding[kind].shown
    assert line.isprintable()
    found.model_dump_json().encode()
    assert counts(found.empty) == (1, 2)
    assert found.empty.shown[0] == "(empty)"
    assert counts(check(data([("a", " ", 0), ("a", "b", 1)], [("c", "d", 1)])).empty) == (1, 0)


def test_text_in_any_language_is_no_error():
    texts = [
        "café, naïve, Ångström — “quoted” … it’s", "two\nlines\tand a tab", "привет мир", "你好",
        "MANHÃ", "«MANHÃ»", "À LA CARTE", "ÂGE", "Ð and Ñ", "so 😀", "10 °C", "€ 5", "Größe",
        "Ελληνικά", "MAÇÃ… ", "“IRMÔ",
    ]  # fmt: skip
    assert check(data([(text, 0) for text in texts], [("good", 1)])).encoding == {}


def test_at_most_five_examples_are_shown_and_shortened():
    rows = [(f"{number} {'x' * 300}", number % 2) for number in range(9)]
    found = check(data(rows + rows, rows))
    for shown in (found.duplicates.shown, found.leaks.shown):
        assert len(shown) == 5
        assert all(len(line) <= 120 and line.endswith("…") for line in shown)


def is_near(a, b):
    one, other = ({text[at : at + 5] for at in range(max(1, len(text) - 4))} for text in (a, b))
    return a != b and len(one & other) >= 0.8 * len(one | other)


def check_by_hand(task):
    """The counts of all findings, once they agree with those of comparing each with each other."""
    sides = task.train, task.dev
    keys = [[normalised(text).ljust(5) for text in side.text_a] for side in sides]
    labels = defaultdict(set)
    every = np.concatenate([side.labels for side in sides])
    for key, label in zip(chain(*keys), every, strict=True):
        labels[key].add(int(label))
    train, dev = distinct = [set(side) for side in keys]
    near = [
        [{a for a in here if any(is_near(a, b) for b in there)} for there in distinct]
        for here in distinct
    ]
    expected = {
        "duplicates": tuple(len(side) - len(set(side)) for side in keys),
        "leaks": (sum(key in dev for key in keys[0]), sum(key in train for key in keys[1])),
        "conflicts": tuple(sum(len(labels[key]) > 1 for key in side) for side in keys),
        "near_duplicates": (len(near[0][0]), len(near[1][1])),
        "near_leaks": (len(near[0][1]), len(near[1][0])),
    }
    found = check(task)
    assert {name: counts(getattr(found, name)) for name in expected} == expected
    leaked = [at for at, key in enumerate(keys[0]) if key in dev | near[0][1]]
    assert leaks(task).tolist() == leaked
    return expected


@settings(max_examples=60, derandomize=True)
@given(ROWS, ROWS)
def test_counts_are_those_of_a_search_by_hand(train, dev):
    check_by_hand(data(train, dev))


def test_near_duplicates_of_many_texts_are_those_of_a_search_by_hand():
    draw = random.Random(5)  # noqa: S311
    words = [f"w{number}" for number in range(400)]
    texts = [" ".join(draw.choices(words, k=draw.randint(6, 25))) for _ in range(150)]
    for text in texts[:90]:  # with one to three words changed
        changed = text.split()
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed))] = draw.choice(words)
        texts.append(" ".join(changed))
    rows = [(text, 0) for text in draw.sample(texts, len(texts))]
    expected = check_by_hand(data(rows[:140], rows[140:]))
    assert min(expected["near_duplicates"] + expected["near_leaks"]) > 0


def test_of_many_or_equal_texts_near_duplicates_are_searched_on_a_sample(monkeypatch):
    monkeypatch.setattr(checks, "SAMPLE", 40)
    train = [(f"text {number} {number * number}", 0) for number in range(100)]
    found = check(data([*train, (LONG, 0)], [("one", 0), (LONG, 1)]))
    assert found.compared in (39, 40)  # with the text of both sides, or without it
    assert found.distinct == 102
    assert counts(found.leaks) == (1, 1)  # of all
    many = [(f"dev {number} {number * number}", 0) for number in range(50)]
    assert check(data(train, many)).compared == 40
    assert check(data(train[:10], many[:20])).compared == 30
    alike = [(f"{LONG} {number}", 0) for number in range(100)]
    assert counts(check(data(train, alike[:50])).near_duplicates) == (0, 20)
    assert counts(check(data(train[:5], alike[:50])).near_duplicates) == (0, 35)
    monkeypatch.undo()
    monkeypatch.setattr(checks, "_MOST_CANDIDATES", 300)
    found = check(data(alike, [("dev", 0)]))
    assert 20 < found.compared < 40
    assert 15 < found.near_duplicates.train <= found.compared


def test_percentiles_are_lengths_of_examples():
    train = [("ab " * number, 0) for number in range(1, 101)]
    found = check(data(train, [("a b c", 0)]), (np.arange(1, 101), np.array([7])), 32)
    characters, words, tokens = found.lengths
    assert (characters.unit, words.unit, tokens.unit) == ("characters", "words", "tokens")
    assert words.train == {"50": 51, "90": 91, "95": 96, "99": 100, "100": 100}
    assert characters.dev["50"] == 5
    assert tokens.dev["100"] == 7
    assert (words.step, words.counts) == (3, (2, *[3] * 32, 2))
    assert sum(characters.counts) == 100
    assert found.max_length == 32
    assert found.tokens_cut == pytest.approx(sum(range(1, 69)) / 5050)
