"""The authors' figures: what they say, and what stands beside them."""

import csv

import pytest

from bench import gridfile
from bench.groups import groups
from bench.plan import Resolved, expand
from bench.report.authors import authors, authors_section, beside
from tests.bench.synthetic_rows import synthetic_rows
from tests.components import SHARED, need


def group(**settings):
    (found, *_) = groups(synthetic_rows(68, failures=False, batch_size=64, **settings))
    return found


def theirs(of, mode: str, layers: str):
    return next(one.theirs for one in of if (one.mode, one.layers) == (mode, layers))


def test_there_are_220_rows_with_known_settings() -> None:
    rows = authors()
    assert len(rows) == 220
    assert {row["mode"] for row in rows} == {"full", "lora", "dora"}
    assert {row["rank"] for row in rows} == {None, 1.0, 5.0, 10.0}
    assert {row["batch_size"] for row in rows} == {64.0, 128.0, 256.0, 384.0}
    assert not any(row["mode"] == "dora" and "all-lin" in str(row["layers"]) for row in rows)
    best = max(row["sst_accuracy"] for row in rows if row["mode"] == "full")
    assert best == pytest.approx(0.475, abs=5e-4)


COLUMNS = {
    "epochs": "Epochs", "dropout": "Dropout Probability", "sst_accuracy": "SST Dev Accuracy",
    "sts_pearson": "STS Dev Correlation", "sst_epoch_s": "SST Time", "sts_epoch_s": "STS Time",
    "sst_peak_gib": "SST Memory", "sts_peak_gib": "STS Memory",
}  # fmt: skip
"""Ours, and what the authors' file calls them."""


def test_they_are_those_of_the_authors_file_value_by_value() -> None:
    path = SHARED / "reference" / "authors-benchmark.csv"
    need(path.is_file(), f"the file {path}", component="shared")
    with path.open(newline="", encoding="utf-8") as file:
        given = list(csv.DictReader(file))
    expected = {}
    for row in given:
        adapted = row["LoRA Mode"] != "none"
        mode = ("dora" if row["DoRA"] == "1" else "lora") if adapted else "full"
        rank, layers = (float(row["LoRA R"]), row["LoRA Mode"]) if adapted else (None, None)
        size, rate = float(row["Batch Size"]), float(row["Learning Rate"])
        expected[mode, rank, layers, size, rate] = [float(row[name]) for name in COLUMNS.values()]
    found = {
        tuple(row[name] for name in ("mode", "rank", "layers", "batch_size", "learning_rate")): [
            row[name] for name in COLUMNS
        ]
        for row in authors()
    }
    assert len(given) == len(expected) == len(authors()) == len(found)
    assert found.keys() == expected.keys()
    for key, values in found.items():
        assert values == pytest.approx(expected[key], rel=1e-5), key


def test_each_of_them_is_a_cell_of_the_grid_paper() -> None:
    resolved = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
    planned = {
        (c.mode, c.rank, c.layers, c.batch_size, c.learning_rate, c.epochs, c.dropout)
        for c in expand(gridfile.load("paper"), resolved)
    }
    names = ("mode", "rank", "layers", "batch_size", "learning_rate", "epochs", "dropout")
    theirs = {tuple(row[name] for name in names) for row in authors()}
    assert len(theirs) == 220
    assert theirs < planned
    for place, name in enumerate(names):
        assert {row[place] for row in theirs} == {row[place] for row in planned}, name


@pytest.mark.parametrize(
    ("mode", "layers", "time", "memory", "score"),
    [
        ("lora", "attn-only", 0.95, 0.64, 0.407),
        ("lora", "all-lin-only", 1.08, 0.75, 0.442),
        ("lora", "all-lin", 1.14, 0.84, 0.518),
        ("dora", "attn-only", 1.05, 0.68, 0.298),
    ],
)
def test_their_ratios_are_those_of_their_rows(mode, layers, time, memory, score) -> None:
    found = theirs(beside(group()), mode, layers)
    assert found["time"] == pytest.approx(time, abs=0.006)
    assert found["memory"] == pytest.approx(memory, abs=0.006)
    assert found["score"] == pytest.approx(score, abs=6e-4)


def test_ours_are_relative_to_ours_and_what_they_lack_is_empty() -> None:
    of = group()
    found = {(one.mode, one.layers): one for one in beside(of)}
    assert len(found) == 8
    base = of.baseline.estimate("ms_per_1k_tokens").value
    ranks = [
        s.estimate("ms_per_1k_tokens").value
        for s in of.settings
        if (s.mode, s.layers, s.amp) == ("lora", "attn", "off")
    ]
    ratio = found["lora", "attn"].ours["time"]
    assert min(ranks) / base <= ratio <= max(ranks) / base
    assert set(found["dora", "all-lin"].theirs.values()) == {None}


def test_the_section_says_what_can_and_what_cannot_be_compared() -> None:
    (section,) = authors_section(group())
    said = " ".join(section.said)
    for part in (
        "220 rows", "180 are missing", "Absolute times, GiB and scores can't",
        "Time: below full fine-tuning in 1 of 6 in their rows",
        "theirs all-lin, attn, all-lin-only, attn-only",
    ):  # fmt: skip
        assert part in said
    assert [drawing.stem for drawing in section.drawings] == ["authors-memory", "authors-time"]
    assert [len(row) for row in section.tables[0].rows] == [8] * 8


def test_without_their_batch_size_or_full_fine_tuning_there_is_nothing_beside() -> None:
    (other, *_) = groups(synthetic_rows(68, failures=False, batch_size=32))
    assert authors_section(other) == []
    rows = synthetic_rows(68, failures=False, batch_size=64)
    (alone, *_) = groups([row for row in rows if row["mode"] != "full"])
    assert authors_section(alone) == []
