"""The report's section on engines, and bench.compare by the column engine."""

import csv
import json
import re
from itertools import count, pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.analysis.engines import Baseline, agreements, baselines, share_of_limit, unmatched
from bench.common.errors import InputError
from bench.compare.__main__ import command
from bench.plan import gridfile
from bench.plan.columns import NAMES
from bench.plan.planning import Resolved, expand, plan
from bench.plan.rows import Row
from bench.report.render import render
from bench.results.losses import kept_losses
from bench.results.outcomes import no_values
from bench.results.rowfile import encode, record
from bench.results.store import cell_folder
from tests.bench.analysis.test_comparison import FULL, LORA, run
from tests.bench.synthetic_rows import HERE, as_results

THEIRS = {
    "engine": "transformers", "engine_version": "transformers 5, peft 1", "kernels": None,
    "attn_implementation": "sdpa",
}  # fmt: skip
SHUFFLED, COMPILED = THEIRS | {"batching": "shuffled"}, THEIRS | {"compile": "on"}


def rows(repeats: int = 3, axes: tuple = (FULL, LORA)) -> list[Row]:
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


def exact(loss: float = 1.0, steps: int = 3) -> tuple[list[Row], dict[str, list[float]]]:
    """A training of each engine without dropout, and their losses."""
    pair = [run(FULL, cell_settings=engine | {"dropout": 0.0}) for engine in ({}, THEIRS)]
    return pair, {"minbert": [1.0] * steps, "transformers": [1.0] * (steps - 1) + [loss]}


def ratios_of(compared: list[Baseline]) -> dict[str, list[float]]:
    """Ratios of time by baseline."""
    return {
        one.name: [round(each.interval.value, 3) for _, each in one.compared("ms_per_1k_tokens")]
        for one in compared
    }


def test_each_baseline_is_compared_with_ours() -> None:
    compared = baselines(rows(), no_values)
    assert ratios_of(compared) == {
        "as its Trainer makes batches": [0.25, 0.25],
        "on the same batches": [0.5, 0.5],
        "on the same batches, compiled": [1.0, 1.0],
    }
    for baseline in compared:
        assert all(one.gates for _, one in baseline.compared("ms_per_1k_tokens")), "they alternate"


def test_baselines_are_compared_with_minbert_as_it_runs_and_by_their_own_settings() -> None:
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


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    alone = [
        run(("lora", 8, "all-lin", "off")),
        run(("head", None, None, "off"), cell_settings=THEIRS),
    ]
    render(as_results([*rows(), *alone]), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Of engine transformers without a counterpart: head, fp32 on the same batches." in text
    assert "Of engine minbert without a counterpart: lora rank 8 on all-lin, fp32." in text
    render(as_results(alone), tmp_path)
    assert "## Engines: nothing to compare" in (tmp_path / "report.md").read_text()


def test_the_share_of_the_limit_is_that_of_each_engine() -> None:
    pair = baselines(rows(), no_values)[0].comparison.pairs[0]
    assert (share_of_limit(pair.base), share_of_limit(pair.new)) == (20 / 160, 20 / 40)


def test_cells_without_dropout_are_for_losses_where_others_have_dropout() -> None:
    more, _ = exact()
    assert all(
        len(baseline.comparison.pairs) == 2 for baseline in baselines([*rows(), *more], no_values)
    )
    assert len(baselines(more, no_values)) == 1


def test_one_engine_has_nothing_to_compare() -> None:
    ours = [row for row in rows() if row.engine == "minbert"]
    assert baselines(ours, no_values) == []
    assert agreements(ours, lambda _: [1.0]) == []


@pytest.mark.parametrize(
    ("loss", "agrees"), [(1.00009, True), (1.0002, False), (float("nan"), False)]
)
def test_losses_agree_within_a_limit(loss: float, agrees: bool) -> None:
    pair, losses = exact(loss)
    (one,) = agreements(pair, lambda row: losses[row.engine])
    assert (one.agrees, one.steps) == (agrees, 3)


def test_the_first_steps_decide_whether_losses_agree() -> None:
    pair, losses = exact(1.1, steps=51)
    (one,) = agreements(pair, lambda row: losses[row.engine])
    assert (one.agrees, one.steps) == (True, 50)


def test_attention_of_each_kind_is_compared_with_the_same_losses() -> None:
    pair, losses = exact()
    eager = run(FULL, cell_settings=THEIRS | {"attn_implementation": "eager", "dropout": 0.0})
    agreed = agreements([*pair, eager], lambda row: losses[row.engine])
    assert [one.transformers.attn_implementation for one in agreed] == ["sdpa", "eager"]


def test_half_precision_alone_says_what_it_does_not_show(tmp_path: Path) -> None:
    half = ("full", None, None, "bf16")
    more = [run(half, cell_settings=engine | {"dropout": 0.0}) for engine in ({}, THEIRS)]
    render(as_results([*rows(), *more], losses_of=lambda _: [1.0, 0.9]), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "All are in half precision, where losses may differ by 0.02: that shows gross" in text


def test_trainings_of_other_lengths_do_not_agree() -> None:
    pair, losses = exact()
    (one,) = agreements(pair, lambda row: losses[row.engine][: 2 if row.engine == "minbert" else 3])
    assert not one.agrees


def test_losses_of_other_batches_are_not_compared() -> None:
    (ours, theirs), losses = exact()
    other = theirs | {"batching": "shuffled"}
    assert agreements([ours, other], lambda row: losses[row.engine]) == []


def test_pages_have_the_section(tmp_path: Path) -> None:
    more, losses = exact()
    render(as_results([*rows(), *more], losses_of=lambda row: losses[row.engine]), tmp_path)
    page, short = ((tmp_path / name).read_text() for name in ("index.html", "report.md"))
    for text in (page, short):
        assert "PEFT as its Trainer makes batches: 0.25 times the time and 0.60 times" in text
        assert "without dropout the losses of 3 steps differ by at most 0.0e+00 in 1 train" in text
        assert "Warning: engines" not in text
    assert re.search(r"\| full, fp32 \| on the same batches \| 80.0 \| 40.0 \| 0.50 ", short)
    assert 'id="engines"' in page
    assert (tmp_path / "figures" / "engines-1.svg").exists()


def test_differing_losses_are_a_warning(tmp_path: Path) -> None:
    more, losses = exact(1.1)
    render(as_results([*rows(), *more], losses_of=lambda row: losses[row.engine]), tmp_path)
    for name in ("index.html", "report.md"):
        text = (tmp_path / name).read_text().replace("&#39;", "'")
        assert "engines minbert and transformers don't do the same work" in text
        assert "Losses differ in 1 of 1 training: the engines don't do the same." in text


def test_without_folders_the_losses_are_not_checked(tmp_path: Path) -> None:
    render(as_results(rows()), tmp_path)
    assert "was not checked" in (tmp_path / "report.md").read_text()


def test_losses_are_read_from_the_folders_of_cells(tmp_path: Path) -> None:
    (ours, theirs), _ = exact()
    runs = tmp_path / "runs.csv"
    folder = cell_folder(runs, ours.name, *ours.row_key)
    folder.mkdir(parents=True)
    with (folder / "steps.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "ms", "loss"], [1, 5, 1.5], [2, 5, 1.25]])
    losses_of = kept_losses([runs])
    assert losses_of(ours) == [1.5, 1.25]
    assert losses_of(theirs) == ()


def test_compare_takes_engines_as_sides(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    runs.write_bytes(record(NAMES) + b"".join(map(encode, rows())))
    arguments = [
        str(runs), "--base", "engine=transformers batching=by-length compile=off",
        "--new", "engine=minbert", "--reports", str(tmp_path), "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert result.return_value == 0, result.output
    settings = json.loads(result.stdout)["settings"]
    assert len(settings) == 2


def test_other_versions_of_the_libraries_are_not_compared_among_themselves(tmp_path: Path) -> None:
    made = [row | {"engine_version": "transformers 4, peft 1"} for row in rows()]
    theirs = [row for row in made if row.batching == "shuffled"]
    runs = tmp_path / "runs.csv"
    runs.write_bytes(record(NAMES) + b"".join(map(encode, [*theirs, *rows()])))
    arguments = [
        str(runs), "--base", "engine_version='transformers 4, peft 1'",
        "--new", "engine_version='transformers 5, peft 1' batching=shuffled",
        "--reports", str(tmp_path),
    ]  # fmt: skip
    with pytest.raises(InputError, match="nothing to compare"):
        command.main(arguments, standalone_mode=False)


def test_the_grid_runs_both_engines_of_a_setting_one_after_the_other() -> None:
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
