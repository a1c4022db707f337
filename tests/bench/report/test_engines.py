"""The report's sections on engines and on the authors' figures, and bench.compare by the column
engine."""

import csv
from html import unescape
from itertools import count, pairwise

import pytest

from bench.analysis.engines import agreements, baselines, share_of_limit, unmatched
from bench.analysis.groups import groups
from bench.plan import gridfile
from bench.plan.planning import Resolved, expand, plan
from bench.report.authors import authors, authors_section, group_section
from bench.report.engines import engine_warnings, engines_section
from bench.report.render import render, report
from bench.results.outcomes import no_values
from bench.results.predictions import kept_losses, no_losses
from bench.results.store import cell_folder
from tests.bench.analysis.test_comparison import FULL, LORA, of, run
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import HERE, as_results, synthetic_rows
from tests.components import SHARED, need

THEIRS = {
    "engine": "transformers", "engine_version": "transformers 5, peft 1", "kernels": None,
    "attn_implementation": "sdpa",
}  # fmt: skip
SHUFFLED, COMPILED = THEIRS | {"batching": "shuffled"}, THEIRS | {"compile": "on"}


def rows(repeats=3, axes=(FULL, LORA)):
    """Cells of both engines that alternate: minbert takes half the time of the same batches, a
    quarter of that of shuffled ones, and as long as compiled code."""
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


def ratios_of(compared):
    """Ratios of time by baseline."""
    return {
        one.name: [round(each.interval.value, 3) for _, each in one.compared("ms_per_1k_tokens")]
        for one in compared
    }


def test_each_baseline_is_compared_with_ours():
    compared = baselines(rows(), no_values)
    assert ratios_of(compared) == {
        "as its Trainer makes batches": [0.25, 0.25],
        "on the same batches": [0.5, 0.5],
        "on the same batches, compiled": [1.0, 1.0],
    }
    for baseline in compared:
        assert all(one.gates for _, one in baseline.compared("ms_per_1k_tokens")), "they alternate"
    pair = compared[0].comparison.pairs[0]
    assert (share_of_limit(pair.base), share_of_limit(pair.new)) == (20 / 160, 20 / 40)
    ours = [row for row in rows() if row.engine == "minbert"]
    assert baselines(ours, no_values) == agreements(ours, lambda _: [1.0]) == []


def test_baselines_are_compared_with_minbert_as_it_runs_and_by_their_own_settings():
    eager = THEIRS | {"attn_implementation": "eager"}
    more = [
        row | {"ms_per_1k_tokens": 999.0}
        for changes in ({"kernels": "reference"}, {"batching": "shuffled"}, {"compile": "on"})
        for row in [run(LORA, repeat=n, minute=n, cell_settings=changes) for n in (1, 2, 3)]
    ]
    more += [
        run(LORA, repeat=n, minute=n, cell_settings=eager, ms_per_1k_tokens=400.0) for n in (1, 2)
    ]
    compared = baselines([*rows(axes=(LORA,)), *more], no_values)
    assert ratios_of(compared) == {
        "as its Trainer makes batches, sdpa": [0.25],
        "on the same batches, sdpa": [0.5],
        "on the same batches, eager": [0.1],
        "on the same batches, compiled, sdpa": [1.0],
    }
    assert unmatched(compared) == {}


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
    resolved = Resolved(
        "minilm", "m", "mean", "d", "bf16", "grid", engine_version="5", attention="sdpa"
    )
    cells = expand(gridfile.load("engines"), resolved)
    assert len(cells) == 44
    names = [cell.name for cell in cells]
    assert sum(one != other for one, other in pairwise(names)) == 7
    first = [cell for cell in cells if cell.name == names[0] and cell.dropout]
    assert [(cell.engine, cell.batching, cell.compile) for cell in first] == [
        ("minbert", "by-length", "off"), ("transformers", "shuffled", "off"),
        ("transformers", "by-length", "off"), ("transformers", "by-length", "on"),
    ]  # fmt: skip
    planned = [item.cell for item in plan(cells, [], HERE, repeats=2)]
    again = [cell for cell in planned[44:] if cell.name == names[0]]
    assert again == [cell for cell in cells if cell.name == names[0]][::-1]
    losses = {(c.mode, c.amp, c.engine) for c in cells if not c.dropout}
    assert len(losses) == 12


@pytest.mark.parametrize(
    ("loss", "ours", "theirs", "wanted"),
    [
        (1.00009, 3, 3, (True, 3)), (1.0002, 3, 3, (False, 3)), (float("nan"), 3, 3, (False, 3)),
        (1.1, 51, 51, (True, 50)), (1.0, 2, 3, (False, 2)),
    ],
    ids=["within the limit", "beyond it", "no number", "late", "other lengths"],
)  # fmt: skip
def test_losses_of_the_first_steps_agree_within_a_limit(loss, ours, theirs, wanted):
    pair, losses = exact(loss, steps=theirs)
    losses["minbert"] = losses["minbert"][:ours]
    (one,) = agreements(pair, lambda row: losses[row.engine])
    assert (one.agrees, one.steps) == wanted


def test_losses_are_compared_on_the_same_batches_for_each_attention():
    pair, losses = exact()
    eager = run(FULL, cell_settings=THEIRS | {"attn_implementation": "eager", "dropout": 0.0})
    agreed = agreements([*pair, eager], lambda row: losses[row.engine])
    assert [one.transformers.attn_implementation for one in agreed] == ["sdpa", "eager"]
    other = pair[1] | {"batching": "shuffled"}
    assert agreements([pair[0], other], lambda row: losses[row.engine]) == []
    compared = baselines([*rows(), *pair], no_values)
    assert all(len(one.comparison.pairs) == 2 for one in compared), "others have dropout"
    assert len(baselines(pair, no_values)) == 1


def test_the_section_follows_from_costs_and_losses(tmp_path):
    half = ("full", None, None, "bf16")
    in_half = [run(half, cell_settings=engine | {"dropout": 0.0}) for engine in ({}, THEIRS)]
    alone = [
        run(("lora", 8, "all-lin", "off")),
        run(("head", None, None, "off"), cell_settings=THEIRS),
    ]
    more, losses = exact()
    wrong = {"minbert": [1.0] * 3, "transformers": [1.0, 1.0, 1.1]}
    every = {
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
    made, losses_of = every["they differ"]
    render(as_results(made, losses_of=losses_of), tmp_path)
    for name in ("index.html", "report.md"):
        text = unescape((tmp_path / name).read_text())
        assert "PEFT as its Trainer makes batches: 0.25 times the time and 0.60 times" in text
        assert "Warning: engines minbert and transformers don't do the same work" in text


def test_engines_are_compared_if_named_and_other_versions_of_their_libraries_are_not():
    ours, theirs = ([row for row in rows() if row.engine == engine and row.compile == "off"]
                    for engine in ("minbert", "transformers"))  # fmt: skip
    same = [row for row in theirs if row.batching == "by-length"]
    assert len(of(same, ours, named=("engine", "batching", "compile")).pairs) == 2
    older = [row | {"engine_version": "transformers 4, peft 1"} for row in same]
    assert not of(older, same, named=("engine_version",)).pairs


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
