"""From a CoNLL file to a report, a recommendation, an export and the entities of a new text."""

import json
import random
import re

import pytest

from bench import recommend
from bench.export import predict
from bench.export.__main__ import command as export
from bench.report.__main__ import main as report
from bench.results.facts import read_facts
from bench.results.predictions import kept_predictions, values_from
from bench.results.scores import score_of
from tests.bench.grids import all_here

GRID = """
cells = [{ mode = ["full", "head"] }]
settings = {epochs = 8, batch_size = 8, dropout = 0.0, max_length = 12, learning_rates.full = 5e-3}
"""
TAGS = {"apple": "fruit", "banana": "fruit", "cloud": "sky"}


def write_conll(path, count, seed=0, documents=False):
    """Sentences whose entities are a word of a type, repeated; with `documents` three are one."""
    rng, lines = random.Random(seed), []  # noqa: S311
    for number in range(count):
        before = ""
        if documents and number % 3 == 0:
            lines += ["-DOCSTART- O", ""]
        for _ in range(rng.randrange(3, 9)):
            word = rng.choice(("apple", "banana", "cloud", "the", "of", f"n{number}"))
            name = TAGS.get(word)
            tag = "O" if name is None else f"{'I' if name == before else 'B'}-{name}"
            lines.append(f"{word}\t{tag}")
            before = name
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def place(grid, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(grid.folder / "cache"))
    (grid.folder / "words.toml").write_text(GRID, encoding="utf-8")
    with all_here():
        yield grid


def test_from_a_conll_file_to_the_entities_of_a_new_text(place, capsys, undrawn):
    data = write_conll(place.folder / "train.conll", 140, documents=True)
    dev = write_conll(place.folder / "dev.conll", 60, seed=1, documents=True)
    test = write_conll(place.folder / "test.conll", 40, seed=2)
    flags = ("--data", str(data), "--validation", str(dev), "--save-weights")
    done = place.finish(*flags, file="words.toml", references=True)
    assert "note: tags: IOB2" in done.stderr
    assert "reference points: entity_f1 of majority" in done.stderr
    full, head = sorted(place.rows(), key=lambda row: row.mode)
    assert {row.dev_metric for row in (full, head)} == {"entity_f1"}
    assert min(full.dev_score, head.dev_score) > 0.3
    assert (full.pooling, full.majority_score) == ("pooler", 0.0)
    facts = read_facts(place.csv)[full.data_digest]
    assert facts.class_counts.keys() == {"fruit", "sky"}
    assert 0 < facts.is_new.mean() < 1
    assert 0 < len(facts.most_new) <= 10
    assert sum(count for *_, count in facts.most_new) <= facts.is_new.sum()
    assert facts.words[1] == sum("\t" in line for line in dev.read_text().splitlines())
    scores = {one.name: one.scores for one in facts.references}
    assert 0.3 < scores["majority"]["entity_f1"][0] < scores["tf-idf"]["entity_f1"][0]
    assert scores["tf-idf"]["word_accuracy"][0] > 0.95
    assert scores["frozen"]["entity_f1"][0] > 0
    page = (place.reports / "index.html").read_text(encoding="utf-8")
    for text in (
        "Training has none of the same words and type for", "whose words and type training has",
        "Types of entities", "entity precision", "word accuracy", "most frequent tag",
        "Most frequent entities that dev has and training has not.", f">{facts.most_new[0][1]}<",
    ):  # fmt: skip
        assert text in page

    values = values_from(kept_predictions(place.csv))([full])
    assert values.mean() == pytest.approx(full.dev_score, abs=1e-6)
    assert len(values) == 20, "one for each document"
    ends = score_of("entity_f1", [values]).ends()
    assert ends == pytest.approx((full.dev_ci_low, full.dev_ci_high), abs=1e-6)

    place_flags = ["--runs", str(place.csv)]
    flags = ["--reports", str(place.reports), "--metric", "entity_recall", "--final"]
    flags += [*place_flags, "--test", str(test)]
    assert report.main(flags, standalone_mode=False) == 0
    assert "by entity recall" in capsys.readouterr().out
    assert recommend.main.main(place_flags, standalone_mode=False) == 1, "one seed decides nothing"
    assert "entity F1 0." in capsys.readouterr().out
    model = place.folder / "model"
    flags = [full.name, "--to", str(model), *place_flags, "--format", "transformers"]
    assert export.main(flags, standalone_mode=False) == 0
    card = (model / "README.md").read_text()
    assert 'pipeline_tag: "token-classification"' in card
    assert "labels(folder, predictor(folder, logits, tokens)(load(folder), [words]))" in card
    capsys.readouterr()
    (place.folder / "new.txt").write_text("the apple banana of cloud\n")
    words = [str(model), str(place.folder / "new.txt"), "--json"]
    assert predict.command.main(words, standalone_mode=False) == 0
    spans = json.loads(capsys.readouterr().out)["entities"]
    entities = [("apple banana", "fruit"), ("cloud", "sky")]
    assert [(one["text"], one["type"]) for one in spans] == entities


def test_few_entities_decide_nothing_and_heads_on_texts_are_refused(place):
    data = write_conll(place.folder / "train.conll", 40)
    dev = write_conll(place.folder / "dev.conll", 10, seed=1)
    flags = ("--data", str(data), "--validation", str(dev), "--select", "mode=full")
    place.finish(*flags, file="words.toml")
    [row] = place.rows()
    assert row.dev_ci_low < row.dev_score < row.dev_ci_high
    page = (place.reports / "index.html").read_text(encoding="utf-8")
    assert "entities; with fewer than 50, or 10 predicted right, intervals are by bootstrap" in page
    assert "Of 1 setting too few entities are right, or the predictions are not kept" in page
    assert "To train again what ran" not in page, "which would not help"
    text = GRID.replace("dropout", 'head = "conv", dropout')
    (place.folder / "words.toml").write_text(text, encoding="utf-8")
    done = place.finish(*flags, file="words.toml", code=2)
    assert "head conv: it is on one vector of a text, and task" in done.stderr


def test_parts_of_speech_beyond_the_length_are_wrong_and_read_in_windows(place):
    """Also where their class is the first."""
    sentences = [f"runs VERB\nword{n % 7} NOUN\nthe DET\n" for n in range(120)]
    data = place.folder / "train.conll"
    data.write_text("\n".join(sentences), encoding="utf-8")
    flags = ("--data", str(data), "--select", "mode=full", "--save-weights", "--epochs", "6",
             "--max-length", "4", "--window-stride")  # fmt: skip
    done = place.finish(*flags, "0", file="words.toml")
    [row] = place.rows()
    dev = read_facts(place.csv)[row.data_digest].words[1]
    line = f"{dev // 3:,} words of dev are cut or without a token, and count as wrong"
    assert line in done.stderr
    assert (row.dev_metric, row.dev_score) == ("word_accuracy", pytest.approx(2 / 3))
    assert row.majority_score == pytest.approx(1 / 3)
    values = values_from(kept_predictions(place.csv))([row])
    assert values.mean() == pytest.approx(row.dev_score, abs=1e-6)
    page = (place.reports / "index.html").read_text(encoding="utf-8")
    for text in ("words of training and", "Classes: with full", "not read"):
        assert text in page
    done = place.finish(*flags, "1", references=True, file="words.toml")
    assert re.search(r"120 texts are read in \d+ windows of max_length 4", done.stderr)
    cut, read = sorted(place.rows(), key=lambda row: row.window_stride)
    assert (cut.cell_id == row.cell_id, read.window_stride) == (True, 1)
    assert read.dev_score > cut.dev_score
    assert read.texts_cut == 0 < cut.texts_cut
    points = read_facts(place.csv)[row.data_digest].references
    found = {one.name: one.scores["word_accuracy"][0] for one in points}
    assert found == pytest.approx({"majority": 2 / 3, "tf-idf": 1.0, "frozen": 1.0}, abs=0.01)


def test_a_race_with_searched_rates(place):
    data = write_conll(place.folder / "train.conll", 80)
    dev = write_conll(place.folder / "dev.conll", 60, seed=1)
    flags = ("--race", "--lr", "auto", "--data", str(data), "--validation", str(dev))
    done = place.finish(*flags, "--epochs", "1", file="words.toml")
    rows = place.rows()
    assert {row.dev_metric for row in rows} == {"entity_f1"}
    assert {row.fold for row in rows if row.race} >= {0, 1, 2}
    assert sum(row.is_candidate for row in rows) >= 6
    assert "a race among 2 settings" in done.stdout.lower()
