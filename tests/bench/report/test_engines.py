"""The report's sections on engines and on the authors' figures."""

import csv
from html import unescape
from itertools import count, pairwise

import pandas as pd
import pytest

from bench.analysis.engines import agreements
from bench.analysis.groups import groups
from bench.plan import gridfile
from bench.plan.planning import Resolved, expand, plan
from bench.report.authors import authors, authors_section, group_section
from bench.report.engines import engine_warnings, engines_section
from bench.report.render import render, report
from bench.results.outcomes import no_values
from bench.results.predictions import kept_losses, no_losses
from bench.results.store import cell_folder
from tests.bench.analysis.test_comparison import FULL, LORA, run
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import HERE, as_results, synthetic_rows
from tests.components import SHARED, need

THEIRS = {
    "engine": "transformers", "engine_version": "transformers 5, peft 1", "kernels": None,
    "attn_implementation": "sdpa",
}  # fmt: skip
RESOLVED = Resolved(
    "minilm", "m", "mean", "d", "bf16", "grid", engine_version="5", attention="sdpa"
)
SHUFFLED, COMPILED = THEIRS | {"batching": "shuffled"}, THEIRS | {"compile": "on"}


def rows(repeats=3, axes=(FULL, LORA)):
    """Cells of both engines in turn: minbert takes half the time, and as long as compiled code."""
    minute, made = count(), []
    for repeat in range(1, repeats + 1):
        for setting in axes:
            for settings, ms in (({}, 40.0), (SHUFFLED, 160.0), (THEIRS, 80.0), (COMPILED, 40.0)):
                made.append(run(
                    setting, repeat=repeat, minute=next(minute), cell_settings=settings,
                    ms_per_1k_tokens=ms, products_ms=20.0,
                    peak_rss_mib=1000.0 if settings else 600.0,
                ))  # fmt: skip
    return made


def exact(loss=1.0, steps=3):
    """A training of each engine without dropout, and their losses."""
    pair = [run(FULL, cell_settings=engine | {"dropout": 0.0}) for engine in ({}, THEIRS)]
    return pair, {"minbert": [1.0] * steps, "transformers": [1.0] * (steps - 1) + [loss]}


def test_losses_are_read_from_the_folders_of_cells(tmp_path):
    (ours, theirs), _ = exact()
    runs = tmp_path / "runs.csv"
    folder = cell_folder(runs, ours.name, *ours.row_key)
    folder.mkdir(parents=True)
    with (folder / "steps.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "ms", "loss"], [1, 5, 1.5], [2, 5, 1.25]])
    losses_of = kept_losses([runs])
    assert losses_of(ours) == [1.5, 1.25]
    assert losses_of(theirs) == ()


def test_the_grid_runs_both_engines_of_a_setting_one_after_the_other():
    cells = expand(gridfile.load("engines"), RESOLVED)
    assert len(cells) == 44
    names = [cell.name for cell in cells]
    assert sum(one != other for one, other in pairwise(names)) == 7
    first = [cell for cell in cells if cell.name == names[0]]
    assert [(cell.engine, cell.batching, cell.compile) for cell in first if cell.dropout] == [
        ("minbert", "by-length", "off"), ("transformers", "shuffled", "off"),
        ("transformers", "by-length", "off"), ("transformers", "by-length", "on"),
    ]  # fmt: skip
    again = [item.cell for item in plan(cells, [], HERE, repeats=2)][44:]
    assert [cell for cell in again if cell.name == names[0]] == first[::-1]
    assert len({(c.mode, c.amp, c.engine) for c in cells if not c.dropout}) == 12


@pytest.mark.parametrize(("loss", "ours", "theirs", "wanted"), [
    (1.00009, 3, 3, (True, 3)), (1.0002, 3, 3, (False, 3)), (float("nan"), 3, 3, (False, 3)),
    (1.1, 51, 51, (True, 50)), (1.0, 2, 3, (False, 2)),
])  # fmt: skip
def test_losses_of_the_first_steps_agree_within_a_limit(loss, ours, theirs, wanted):
    pair, losses = exact(loss, steps=theirs)
    losses["minbert"] = losses["minbert"][:ours]
    (one,) = agreements(pair, lambda row: losses[row.engine])
    assert (one.agrees, one.steps) == wanted


def test_the_section_follows_from_costs_and_losses(tmp_path):
    half = ("full", None, None, "bf16")
    in_half = [run(half, cell_settings=engine | {"dropout": 0.0}) for engine in ({}, THEIRS)]
    alone = [
        run(("lora", 8, "all-lin", "off")),
        run(("head", None, None, "off"), cell_settings=THEIRS),
    ]
    more, losses = exact()
    wrong = {"minbert": [1.0] * 3, "transformers": [1.0, 1.0, 1.1]}
    eager = THEIRS | {"attn_implementation": "eager"}
    others = [
        run(LORA, repeat=n, minute=n, cell_settings=changes, ms_per_1k_tokens=999.0)
        for changes in ({"kernels": "reference"}, {"batching": "shuffled"}, {"compile": "on"})
        for n in (1, 2, 3)
    ]
    others += [
        run(LORA, repeat=n, minute=n, cell_settings=eager, ms_per_1k_tokens=400.0) for n in (1, 2)
    ]
    without_dropout = run(FULL, cell_settings=eager | {"dropout": 0.0})
    every = {
        "minbert as it runs, and two kinds of attention": (
            [*rows(axes=(LORA,)), *others, *more, without_dropout],
            lambda row: losses[row.engine],
        ),
        "without dropout alone": (more, no_losses),
        "losses of other batches": (
            [*rows(), more[0], more[1] | {"batching": "shuffled"}],
            lambda row: losses[row.engine],
        ),
        "the losses agree": ([*rows(), *more], lambda row: losses[row.engine]),
        "they differ": ([*rows(), *more], lambda row: wrong[row.engine]),
        "half precision alone": ([*rows(), *in_half], lambda _: [1.0, 0.9]),
        "losses were not kept, and some have no counterpart": ([*rows(), *alone], no_losses),
        "nothing to compare": (alone, no_losses),
    }
    check_snapshot("engines", {
        title: [*engine_warnings(made, losses_of), *engines_section(made, no_values, losses_of)]
        for title, (made, losses_of) in every.items()
    })  # fmt: skip
    ours = [row for row in rows() if row.engine == "minbert"]
    assert engines_section(ours, no_values, lambda _: [1.0]) == []
    made, losses_of = every["they differ"]
    render(as_results(made, losses_of=losses_of), tmp_path)
    for name in ("index.html", "report.md"):
        text = unescape((tmp_path / name).read_text())
        assert "PEFT as its Trainer makes batches: 0.25 times the time and 0.60 times" in text
        assert "Warning: engines minbert and transformers don't do the same work" in text


def test_they_are_those_of_the_authors_file_value_by_value():
    path = SHARED / "reference" / "authors-benchmark.csv"
    need(path.is_file(), f"the file {path}", component="shared")
    given = pd.read_csv(path)
    is_full = given["LoRA Mode"] == "none"
    given["mode"] = given["DoRA"].map({1: "dora", 0: "lora"}).mask(is_full, "full")
    given["rank"] = given["LoRA R"].mask(is_full)
    given["layers"] = given["LoRA Mode"].mask(is_full)
    given = given.rename(columns={
        "Batch Size": "batch_size", "Learning Rate": "learning_rate", "Epochs": "epochs",
        "Dropout Probability": "dropout", "SST Dev Accuracy": "sst_accuracy",
        "STS Dev Correlation": "sts_pearson", "SST Time": "sst_epoch_s",
        "STS Time": "sts_epoch_s", "SST Memory": "sst_peak_gib", "STS Memory": "sts_peak_gib",
    })  # fmt: skip
    order = ["mode", "rank", "layers", "batch_size", "learning_rate"]
    ours, theirs = (
        of.sort_values(order, ignore_index=True) for of in (authors(), given[[*authors().columns]])
    )
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5, check_dtype=False)


def test_each_of_them_is_a_cell_of_the_grid_paper():
    names = ["mode", "rank", "layers", "batch_size", "learning_rate", "epochs", "dropout"]
    planned = {
        tuple(getattr(cell, name) for name in names)
        for cell in expand(gridfile.load("paper"), RESOLVED)
    }
    rows = authors().astype(object).where(authors().notna(), None)[names]
    theirs = {*rows.itertuples(index=False, name=None)}
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
    sst, sts = (
        synthetic_rows(68, failures=False, batch_size=64, task=task, data_digest=task)
        for task in ("sst", "sts")
    )
    by_size = {size: groups(synthetic_rows(68, failures=False, batch_size=size))[0]
               for size in (64, 32, 128, 256)}  # fmt: skip
    several = [*by_size.values(), by_size[64]]
    check_snapshot("authors", {
        "sst": authors_section(groups(sst)),
        "sts, of pairs": authors_section(groups(sts)),
        "all-lin-only learned nothing": authors_section(groups(flagged)),
        "no full fine-tuning": authors_section(groups(row for row in rows if row.mode != "full")),
        "other batches": authors_section([by_size[32]]),
        "the first of five groups": authors_section(several),
        "the first has none": authors_section([by_size[32], by_size[64]]),
        **{f"as group {n}": group_section(of, f"group{n}-", drawn=n < 5)
           for n, of in enumerate(several, start=1) if n > 1},
    })  # fmt: skip
    facts = report(as_results([*rows, *sts]))
    sections = [facts["sections"], *(other["sections"] for other in facts["others"])]
    anchors = [[part.anchor for part in of if "authors" in part.anchor] for of in sections]
    assert anchors == [["authors"], ["group2-authors"]]
