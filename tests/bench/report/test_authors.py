"""The authors' figures, and their comparison with a group's."""

import csv

import pytest

from bench.analysis.groups import groups
from bench.plan import gridfile
from bench.plan.planning import Resolved, expand
from bench.report.authors import authors, authors_section, group_section
from bench.report.render import report
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, synthetic_rows
from tests.components import SHARED, need


def group(**settings):
    (found, *_) = groups(synthetic_rows(68, failures=False, batch_size=64, **settings))
    return found


def published():
    """The authors' rows; empty fields are None."""
    return authors().astype(object).where(authors().notna(), None).to_dict("records")


COLUMNS = {
    "epochs": "Epochs", "dropout": "Dropout Probability", "sst_accuracy": "SST Dev Accuracy",
    "sts_pearson": "STS Dev Correlation", "sst_epoch_s": "SST Time", "sts_epoch_s": "STS Time",
    "sst_peak_gib": "SST Memory", "sts_peak_gib": "STS Memory",
}  # fmt: skip
"""Ours, and what the authors' file calls them."""


def test_they_are_those_of_the_authors_file_value_by_value():
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
        for row in published()
    }
    assert len(given) == len(expected) == len(authors()) == len(found)
    assert found.keys() == expected.keys()
    for key, values in found.items():
        assert values == pytest.approx(expected[key], rel=1e-5), key


def test_each_of_them_is_a_cell_of_the_grid_paper():
    resolved = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
    planned = {
        (c.mode, c.rank, c.layers, c.batch_size, c.learning_rate, c.epochs, c.dropout)
        for c in expand(gridfile.load("paper"), resolved)
    }
    names = ("mode", "rank", "layers", "batch_size", "learning_rate", "epochs", "dropout")
    theirs = {tuple(row[name] for name in names) for row in published()}
    assert len(theirs) == 220
    assert theirs < planned
    for place, name in enumerate(names):
        assert {row[place] for row in theirs} == {row[place] for row in planned}, name


def test_sections_say_what_can_be_compared_and_the_first_explains_it_for_all():
    """Theirs have batches of 64 and 128 for full fine-tuning, and none of 32."""
    rows = synthetic_rows(68, failures=False, batch_size=64)
    flagged = [
        row | {"flags": "not_learned"}
        if row.mode == "lora" and row.layers != "attn-only" and (row.layers == "all-lin-only"
                                                                  or row.rank != 2)
        else row
        for row in rows
    ]  # fmt: skip
    [unlearned] = groups(flagged)
    [alone] = groups([row for row in rows if row.mode != "full"])
    by_size = {size: groups(synthetic_rows(68, failures=False, batch_size=size))[0]
               for size in (64, 32, 128, 256)}  # fmt: skip
    several = [*by_size.values(), by_size[64]]
    check_snapshot("authors", {
        "sst": authors_section([group(task="sst")]),
        "sts, of pairs": authors_section([group(task="sts")]),
        "all-lin-only learned nothing": authors_section([unlearned]),
        "no full fine-tuning": authors_section([alone]),
        "other batches": authors_section([by_size[32]]),
        "the first of five groups": authors_section(several),
        "the first has none": authors_section([by_size[32], by_size[64]]),
        **{f"as group {n}": group_section(of, f"group{n}-", drawn=n < 5)
           for n, of in enumerate(several, start=1) if n > 1},
    })  # fmt: skip
    sts = synthetic_rows(68, failures=False, batch_size=64, task="sts", data_digest="sts")
    facts = report(as_results([*rows, *sts]))
    sections = [facts["sections"], *(other["sections"] for other in facts["others"])]
    anchors = [[part.anchor for part in of if "authors" in part.anchor] for of in sections]
    assert anchors == [["authors"], ["group2-authors"]]
