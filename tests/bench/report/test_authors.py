"""The authors' figures, and their comparison with a group's."""

import csv
import re
from html import unescape
from pathlib import Path

import pytest

from bench.analysis.groups import groups
from bench.plan import gridfile
from bench.plan.planning import Resolved, expand
from bench.report.authors import authors, authors_section, comparisons, group_section
from bench.report.render import render, report
from bench.results.store import read_rows
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, synthetic_rows
from tests.components import SHARED, need

PAPER = Path(__file__).parents[3] / "docs" / "paper.csv"
HEADING = "Comparison with the authors' figures"
ABOUT = "The authors of the paper published 220 rows"


def group(**settings):
    (found, *_) = groups(synthetic_rows(68, failures=False, batch_size=64, **settings))
    return found


def published():
    """The authors' rows; empty fields are None."""
    return authors().astype(object).where(authors().notna(), None).to_dict("records")


def test_there_are_220_rows_with_known_settings():
    rows = published()
    assert len(rows) == 220
    assert {row["mode"] for row in rows} == {"full", "lora", "dora"}
    assert {row["rank"] for row in rows} == {None, 1.0, 5.0, 10.0}
    assert {row["batch_size"] for row in rows} == {64.0, 128.0, 256.0, 384.0}
    assert not any(row["mode"] == "dora" and "all-lin" in str(row["layers"]) for row in rows)
    assert {row["batch_size"] for row in rows if row["mode"] == "full"} == {64.0, 128.0}
    best = max(row["sst_accuracy"] for row in rows if row["mode"] == "full")
    assert best == pytest.approx(0.475, abs=5e-4)


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


@pytest.mark.parametrize(
    ("mode", "layers", "time", "memory", "score"),
    [
        ("lora", "attn-only", 0.95, 0.64, 0.407),
        ("lora", "all-lin-only", 1.08, 0.75, 0.442),
        ("lora", "all-lin", 1.14, 0.84, 0.518),
        ("dora", "attn-only", 1.05, 0.68, 0.298),
    ],
)
def test_their_ratios_are_those_of_their_rows(mode, layers, time, memory, score):
    row = comparisons(group()).set_index(["mode", "layers"]).loc[(mode, layers)]
    assert row["time_theirs"] == pytest.approx(time, abs=0.006)
    assert row["memory_theirs"] == pytest.approx(memory, abs=0.006)
    assert row["score_theirs"] == pytest.approx(score, abs=6e-4)


def test_ours_are_relative_to_ours_and_what_they_lack_is_empty():
    of = group()
    found = comparisons(of).set_index(["mode", "layers"])
    assert len(found) == 8
    base = of.baseline.estimate("ms_per_1k_tokens").value
    ranks = [
        s.estimate("ms_per_1k_tokens").value
        for s in of.settings
        if (s.mode, s.layers, s.amp) == ("lora", "attn", "off")
    ]
    ratio = found.loc[("lora", "attn"), "time_ours"]
    assert min(ranks) / base <= ratio <= max(ranks) / base
    names = ["memory_theirs", "time_theirs", "score_theirs"]
    assert found.loc[("dora", "all-lin"), names].isna().all()


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


def test_the_page_of_the_committed_rows_has_theirs_for_both_tasks(tmp_path):
    rows = [row for row in read_rows(PAPER) if (row["grid"], row["status"]) == ("paper", "ok")]
    index = render(as_results(rows), tmp_path)
    html = index.read_text("utf-8")
    page = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    facts = report(as_results(rows))
    (later,) = (section for other in facts["others"] for section in other["sections"])
    assert {"authors", later.anchor} <= set(ids)
    assert page.count('id="authors"') == 1
    assert unescape(page).count(f">{HEADING}</h") == 2, "of sts and sst"
    shown = unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))
    assert shown.count(ABOUT) == 1
    for task in ("STS", "SST"):
        assert shown.count(f"theirs on {task}, with batches of 64.") == 1
    for line in later.lines:
        assert line in shown
    for name in ("authors-memory", f"{later.anchor}-memory", f"{later.anchor}-time"):
        assert f"{name}-alt" in ids
