"""Grids become cells, and cells with their rows a plan."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.analysis.groups import groups
from bench.common.errors import InputError
from bench.plan import columns, gridfile
from bench.plan.cell import CANDIDATE
from bench.plan.learning_rates import kind_of
from bench.plan.parts import to_text
from bench.plan.planning import Resolved, check_rerun, expand, plan
from bench.plan.rows import Row
from bench.plan.selection import parse_selection, select
from bench.results.store import cell_folder
from tests.bench import synthetic_rows
from tests.bench.synthetic_rows import new_row

HERE = synthetic_rows.HERE | {"conditions_id": "here", "code_version": "v2"}
OPTIONS = str(Path(__file__).with_name("options.toml"))
RESOLVED = Resolved("minilm", "m" * 16, "mean", "d" * 16, "bf16", "grid")


def cells_of(name, **settings):
    grid = gridfile.load(name)
    changed = grid.settings.model_copy(update=settings)
    return expand(grid.model_copy(update={"settings": changed}), RESOLVED)


def cells_in(text):
    return expand(gridfile.parse(text, "x.toml", "x"), RESOLVED)


def test_unfreezing_is_an_axis_of_what_has_layers_to_unfreeze():
    cells = cells_in(
        '[[cells]]\nmode = ["full", "head"]\nunfreeze = ["all", "iterative"]\n'
        '[[cells]]\nmode = ["lora"]\nrank = [1]\nlayers = ["attn"]\nunfreeze = ["iterative"]\n'
    )
    assert sorted((c.mode, str(c.unfreeze)) for c in cells) == [
        ("full", "all"), ("full", "iterative"), ("head", "None"), ("lora", "iterative"),
    ]  # fmt: skip
    assert {c.name for c in cells} == {
        "full-fp32-s0", "full-iterative-fp32-s0", "head-fp32-s0", "lora-r1-attn-iterative-fp32-s0",
    }  # fmt: skip
    assert len(select(cells, parse_selection("unfreeze=iterative"))) == 2


def test_factors_on_rates_change_no_cell_that_has_no_such_rates():
    plain = {cell.name: cell.cell_id for cell in cells_of("smoke")}
    for setting, without in (
        ({"lora_plus_ratio": 4.0}, {"full", "head"}), ({"layer_decay": 0.9}, {"head"}),
    ):  # fmt: skip
        cells = cells_of("smoke", **setting)
        same = {cell.mode for cell in cells if cell.cell_id == plain[cell.name]}
        assert same == without
        changed = {cell.mode for cell in cells if cell.cell_id != plain[cell.name]}
        assert not changed & same


def test_options_of_lora_change_no_cell_of_vera():
    text = '[settings]\n{}\n[[cells]]\nmode = ["vera", "lora"]\nrank = [4]\nlayers = ["attn"]\n'
    plain = cells_in(text.format(""))
    for setting in ("alpha = 32", "scale = 3", "lora_plus_ratio = 4", "use_rslora = true"):
        changed = cells_in(text.format(setting))
        same = [one.cell_id == other.cell_id for one, other in zip(plain, changed, strict=True)]
        modes = [cell.mode for cell in plain]
        assert dict(zip(modes, same, strict=True)) == {"vera": True, "lora": False}, setting
        assert {cell.scale for cell in changed if cell.mode == "vera"} == {None}
    vera = text.format("").replace(', "lora"', "") + "settings = {lora_plus_ratio = 4}\n"
    with pytest.raises(InputError, match="lora_plus_ratio doesn't apply to mode vera"):
        cells_in(vera)


def test_early_stopping_holds_out_a_share_unless_there_is_one():
    assert {cell.held_out for cell in cells_of("smoke")} == {0.0}
    assert {cell.held_out for cell in cells_of("smoke", early_stopping=3)} == {0.1}
    assert {cell.held_out for cell in cells_of("smoke", early_stopping=3, held_out=0.3)} == {0.3}


def test_a_scale_for_all_ranks_is_as_the_csv_holds_it():
    cells = cells_in(
        "[settings]\nscale = 0.1\n[[cells]]\nmode = ['lora']\nrank = [3]\nlayers = ['attn']\n"
    )
    assert [cell.alpha for cell in cells] == [0.3]


def test_cells_have_the_settings_of_their_table():
    text = """
    [settings]
    task = "multitask"
    [[cells]]
    mode = ["full", "lora"]
    rank = [1]
    layers = ["attn"]
    [[cells]]
    mode = ["full"]
    batch_size = [32]
    settings = { head = "conv", encoders = 2, task_order = "sequential", weight_decay = 0.5 }
    """
    parts = replace(RESOLVED, regression=True, parts=("sst", "quora", "sts"))
    cells = expand(gridfile.parse(text, "mine.toml", "mine"), parts)
    plain = [c for c in cells if c.batch_size == 64]
    (own,) = (c for c in cells if c.batch_size == 32)
    assert {(c.head, c.encoders, c.task_order) for c in plain} == {("linear", 1, "proportional")}
    assert (own.head, own.encoders, own.task_order) == ("conv", 2, "sequential")
    assert own.task_decays == to_text(dict.fromkeys(parts.parts, 0.5))
    assert len({c.cell_id for c in cells}) == 3


def test_lengths_are_an_axis_and_auto_is_resolved():
    axes = "mode = ['lora']\nrank = [1, 2]\nlayers = ['attn']\nmax_length = [32, 'auto']"
    grid = gridfile.parse(f"[[cells]]\n{axes}", "grid.toml", "grid")
    assert grid.has_auto_length
    resolved = replace(RESOLVED, auto_length=72)
    found = expand(grid, resolved)
    assert {(cell.rank, cell.max_length) for cell in found} == {
        (1, 32), (1, 72), (2, 32), (2, 72),
    }  # fmt: skip
    assert len(select(found, parse_selection("max_length=72"))) == 2
    text = "[settings]\nmax_length = {}\n[[cells]]\nmode = ['full']"
    (whole,) = expand(gridfile.parse(text.format("'auto'"), "", ""), resolved)
    (same,) = cells_in(text.format(72))
    assert whole == same
    assert not gridfile.load("full").has_auto_length
    text = "[settings]\nmax_length = 'auto'\n[[cells]]\nmode = ['full']\nmax_length = [16]"
    assert not gridfile.parse(text, "", "").has_auto_length
    assert [cell.max_length for cell in cells_in(text)] == [16]


def test_selection_by_batch_size_and_rate():
    cells = cells_of("paper")
    assert len(select(cells, parse_selection("batch_size=64,128"))) == 200
    assert len(select(cells, parse_selection("learning_rate=1e-4,0.00001"))) == 200
    both = "mode=full,dora batch_size=384 learning_rate=5e-6"
    assert len(select(cells, parse_selection(both))) == 1 + 12
    assert select(cells, parse_selection("unfreeze=iterative")) == []
    heads = cells_in('[[cells]]\nmode = ["head"]\nlearning_rate = [1e-4, 1e-3]\n')
    assert len(select(heads, parse_selection("learning_rate=1e-4"))) == 1
    with pytest.raises(InputError, match="learning_rate can't be '2'; it takes numbers"):
        parse_selection("learning_rate=2")


def test_rates_and_scale_follow_mode_layer_set_and_rank():
    cells = cells_of("full")
    rates = {
        (c.mode, c.layers): (c.learning_rate, c.learning_rate_base, c.learning_rate_head)
        for c in cells
    }
    assert rates["full", None] == (1e-4, None, None)
    assert rates["head", None] == (None, None, 1e-3)
    assert rates["lora", "all-lin-only"] == (1e-3, None, 1e-3)
    assert rates["dora", "attn"] == (1e-3, 1e-4, 1e-3)
    scales = {(c.mode, c.rank): c.scale for c in cells}
    assert (scales["lora", 1], scales["lora", 8], scales["full", None]) == (16.0, 2.0, None)


def test_seeds_are_the_outer_loop_and_the_order_repeats():
    cells = cells_of("smoke", seeds=3)
    assert [c.seed for c in cells] == [0] * 8 + [1] * 8 + [2] * 8
    assert cells == cells_of("smoke", seeds=3)
    rounds = [[replace(c, seed=0).name for c in cells[i : i + 8]] for i in (0, 8, 16)]
    assert sorted(rounds[0]) == sorted(rounds[1])
    assert rounds[0] != rounds[1]
    assert rounds[1] != rounds[2]
    planned = plan(cells, [], HERE, repeats=2)
    assert [(item.repeat, item.cell) for item in planned] == [(n, c) for n in (1, 2) for c in cells]


def test_cell_id_follows_what_determines_a_result_and_not_labels():
    """Nor settings that came later, at the value that older cells had."""
    cell = cells_of("smoke")[0]
    multitask = replace(
        cell, encoders=2, task_order="proportional", task_rates="a", task_decays="b"
    )
    labels = {"model": "other name", "max_train": 10**6, "learning_rate_source": "elsewhere"}
    usual = {"unfreeze": "all", "head": "linear", "schedule": "linear", "regression_loss": "mse",
             "early_stopping": None, "label_smoothing": 0.0, "class_weights": "none",
             "layer_decay": 1.0, "lora_plus_ratio": 1.0}  # fmt: skip
    assert replace(cell, **labels, **usual).cell_id == cell.cell_id
    for change in (
        {"seed": 1}, {"model_digest": "x"}, {"data_digest": "x"}, {"batch_size": 48},
        {"dropout": 0.0}, {"max_steps": 13}, {"early_stopping": 1}, {"label_smoothing": 0.1},
        {"class_weights": "balanced"}, {"layer_decay": 0.9}, {"lora_plus_ratio": 2.0},
        {"unfreeze": "iterative"}, {"head": "conv"}, {"schedule": "halving"},
        {"regression_loss": "pearson"}, {"encoders": 1}, {"task_order": "sequential"},
        {"task_rates": "c"}, {"task_decays": "c"},
    ):  # fmt: skip
        assert replace(multitask, **change).cell_id != multitask.cell_id, change


def test_selection_keeps_cells_whose_axes_match():
    cells = cells_of("full")
    chosen = select(cells, parse_selection("mode=lora,dora rank=1,8 amp=on"))
    assert {(c.mode, c.rank, c.amp) for c in chosen} == {
        (mode, rank, "bf16") for mode in ("lora", "dora") for rank in (1, 8)
    }
    assert len(chosen) == 16
    assert len(select(cells, parse_selection("amp=bf16"))) == 34
    assert select(cells, {}) == cells
    assert {c.mode for c in select(cells, parse_selection("rank=1"))} == {"lora", "dora"}
    options = cells_of(OPTIONS)
    for text, names in (
        ("layers=query+value", {"lora-r4-query+value-fp32-s0"}),
        ("mode=bitfit,full", {"bitfit-fp32-s0", "full-fp32-s0"}),
        ("layers=query+value,all-lin mode=lora", {"lora-r4-query+value-fp32-s0"}),
    ):
        assert {cell.name for cell in select(options, parse_selection(text))} == names


@pytest.mark.parametrize(
    ("text", "named"),
    [("depth=3", "depth=3"), ("mode=lorra", "lorra"), ("rank=one", "one"), ("rank=", "rank="),
     ("layers=all/lin", "all-lin-only")],
)  # fmt: skip
def test_bad_selection_is_one_line(text, named):
    with pytest.raises(InputError, match="--select") as caught:
        parse_selection(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


CELLS = cells_of("smoke")[:4]
OLD, NEW = {"code_version": "v1"}, {"code_version": "v2", "attempt": 2}
VERSIONS = [*((i, "ok", OLD) for i in range(4)), (0, "ok", NEW), (1, "crashed", NEW),
            (2, "interrupted", NEW)]  # fmt: skip
FLAGGED = [(0, "ok", {"flags": "not_learned", "attempt": 4}), (1, "crashed", {})]


def row_of(cell, status, **columns):
    ids = {"conditions_id": "here", "status": status, "attempt": 1}
    return new_row(**(cell.columns() | ids | columns))


def rows_of(items):
    return [row_of(CELLS[index], status, **others) for index, status, others in items]


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([(0, "ok", {}), (1, "interrupted", {}), (2, "skipped", {}), (3, "crashed", {})], {},
         "done run run kept"),
        ([(0, "oom", {}), (1, "timeout", {}), (2, "invalid", {})], {}, "kept kept kept run"),
        ([(0, "ok", {"conditions_id": "there"})], {}, "run run run run"),
        (FLAGGED, {"rerun": "crashed"}, "done run run run"),
        (FLAGGED, {"rerun": "not_learned"}, "run kept run run"),
        *(([(0, "ok", {}), (0, later, {"attempt": 2})], {"rerun": later}, "done run run run")
          for later in ("interrupted", "crashed", "oom", "skipped")),
        ([(0, "ok", {}), (0, "crashed", {"attempt": 2})], {"rerun": "ok"}, "run run run run"),
        (VERSIONS, {}, "done done done done"),
        (VERSIONS, {"fresh": True}, "done kept run run"),
        (VERSIONS, {"fresh": True, "rerun": "crashed"}, "done run run run"),
    ],
)  # fmt: skip
def test_what_runs_follows_from_rows_and_options(rows, options, expected):
    planned = plan(CELLS, rows_of(rows), HERE, **options)
    assert " ".join(item.action for item in planned) == expected


def test_an_attempt_is_one_above_all_rows_of_a_cell():
    assert [item.attempt for item in plan(CELLS, rows_of(FLAGGED), HERE)] == [5, 2, 1, 1]
    fresh = plan(CELLS, rows_of(VERSIONS), HERE, fresh=True)
    assert [item.attempt for item in fresh] == [3, 3, 3, 2]


def test_each_repeat_is_done_fails_and_is_tried_again_by_itself():
    rows = rows_of([
        (0, "ok", {}),  # without a repeat: the first
        (0, "crashed", {"repeat": 2}), (0, "interrupted", {"repeat": 3}),
        (0, "ok", {"flags": "disturbed", "repeat": 4}),
    ])  # fmt: skip

    def planned(**options):
        return [(item.action, item.attempt) for item in plan(CELLS[:1], rows, HERE, **options)]

    assert planned() == [("done", 2)]
    ends = [("done", 2), ("kept", 2), ("run", 2), ("done", 2), ("run", 1)]
    assert planned(repeats=5) == ends
    ends[1] = ("run", 2)
    assert planned(repeats=5, rerun="crashed") == ends
    ends[1], ends[3] = ("kept", 2), ("run", 2)
    assert planned(repeats=5, rerun="disturbed") == ends


def test_tf32_is_of_cells_without_amp_and_older_ids_stay():
    exact, fast = cells_of("smoke"), cells_of("smoke", tf32=True)
    assert {(cell.amp == "off", cell.tf32) for cell in fast} == {(True, "on"), (False, "off")}
    by_name = {cell.name: cell.cell_id for cell in exact}
    for cell in fast:
        assert ("-tf32-" in cell.name) == (cell.amp == "off")
        same = by_name[cell.name.replace("-tf32-", "-fp32-")] == cell.cell_id
        assert same == (cell.amp != "off")
    older = {**vars(row_of(exact[0], "ok", **synthetic_rows.HERE)), "tf32": None}
    assert columns.row_of(older).cell_id == exact[0].cell_id
    assert columns.row_of(older)["tf32"] == "off"


def test_a_setting_in_tf32_is_another_of_the_same_group():
    cells = [cell for cell in cells_of("smoke") if cell.amp == "off"][:1]
    both = [*cells, replace(cells[0], tf32="on")]
    [group] = groups([row_of(cell, "ok", **synthetic_rows.HERE) for cell in both])
    labels = sorted(setting.label for setting in group.settings)
    assert labels[1] == f"{labels[0]}, TF32"


THERE = synthetic_rows.HERE | {
    "conditions_id": "there", "device": "cuda:1", "device_name": "H100", "machine": "other",
    "threads": 64, "torch_version": "2.13", "cuda_version": "12.8",
    "environment": None, "measurement_version": 5, "code_version": "v1", "dev_score": 0.5,
}  # fmt: skip
MINE: Row = {
    **THERE, "conditions_id": "here", "device": "cuda:0", "device_name": "T4", "machine": "mine",
    "threads": 2, "environment": "", "code_version": "v2", "dev_score": None,
}  # fmt: skip
"""Conditions of the same software as those."""


SEEDS = select(cells_of("smoke", seeds=3), parse_selection("mode=lora amp=on"))
OTHERS = [row_of(cell, "ok", **THERE) for cell in SEEDS]
CRASHED = row_of(SEEDS[0], "crashed", **MINE)
OWN = [row_of(cell, "ok", **MINE) for cell in SEEDS[:2]]
SEVENTH = row_of(replace(SEEDS[0], seed=7), "ok", **MINE)


def here_and_elsewhere(rows, cells, **options):
    """Actions of a plan; `else` in place of `done` for a score of another machine."""
    planned = plan(cells, rows, MINE, **options)
    assert all(item.action == "done" for item in planned if item.elsewhere)
    return " ".join("else" if item.elsewhere else item.action for item in planned)


@pytest.mark.parametrize(
    ("rows", "number", "options", "expected"),
    [
        (OTHERS, 3, {}, "run else else"),
        ([OTHERS[0], OTHERS[2]], 3, {}, "else run else"),
        ([OTHERS[1]], 3, {}, "run else run"),
        ([*OTHERS, SEVENTH], 3, {}, "else else else"),
        ([*OTHERS, SEVENTH | {"status": "oom"}], 3, {}, "run else else"),
        ([*OTHERS, row_of(replace(SEEDS[0], rank=64, seed=7), "ok", **MINE)], 3, {},
         "run else else"),
        (OTHERS, 2, {"repeats": 2}, "run else run else"),
        ([*OTHERS, *OWN], 2, {"repeats": 2}, "done done run run"),
        ([*OTHERS, CRASHED], 2, {}, "kept run"),
        ([*OTHERS, CRASHED], 2, {"rerun": "crashed"}, "run else"),
        (OTHERS, 2, {"fresh": True}, "run run"),
        ([row | {"code_version": "v2"} for row in OTHERS], 2, {"fresh": True}, "run else"),
        *(([row | other for row in OTHERS], 2, {}, "run run") for other in (
            {"device": "cpu"}, {"torch_version": "2.12"}, {"cuda_version": "13.0"},
            {"environment": "CUBLAS_WORKSPACE_CONFIG=:0:0"}, {"measurement_version": 4},
            {"dev_score": None}, {"status": "invalid"},
        )),
    ],
)  # fmt: skip
def test_a_score_of_another_machine_will_do_once_costs_are_measured_here(
    rows, number, options, expected
):
    """Of the same software, unless the cell failed here, is asked for or lacks a fresh result."""
    assert here_and_elsewhere(rows, SEEDS[:number], **options) == expected


def test_repeats_run_here_and_tries_of_a_search_need_not():
    cells = [SEEDS[0], replace(SEEDS[1], learning_rate_source=CANDIDATE)]
    others = [row_of(cell, "ok", **THERE) for cell in cells]
    assert here_and_elsewhere(others, cells, repeats=2) == "run else run"
    assert here_and_elsewhere(others, cells[1:]) == "else", "without costs measured here"
    assert plan(cells, others, MINE)[1].reason == "score from another machine"


def test_unknown_rerun_is_refused():
    assert check_rerun("disturbed") == "disturbed"
    with pytest.raises(InputError, match="broken"):
        check_rerun("broken")


def test_cells_that_differ_in_an_option_have_names_of_their_own():
    cells = cells_of(OPTIONS)
    names = {cell.name for cell in cells}
    assert names == {
        "lora-r4-all-lin-only-fp32-s0", "lora-r4-query+value-fp32-s0",
        "lora-r4-all-lin-only-rslora-fp32-s0", "dora-r4-all-lin-only-rslora-fp32-s0",
        "lora-r4-all-lin-only-drop0.1-fp32-s0", "lora-r4-all-lin-only-rslora-drop0.2-fp32-s0",
        "bitfit-fp32-s0", "full-fp32-s0",
    }  # fmt: skip
    assert len({kind_of(cell) for cell in cells}) == len(cells) == len(names)
    folders = [cell_folder(Path("runs.csv"), cell.name, cell.cell_id, "c", 1, 1) for cell in cells]
    assert len({folder.name.partition("-s0")[0] for folder in folders}) == len(cells)
    (pissa,) = {
        replace(cell, init_lora_weights="pissa", adapter="loha 1a2b").name
        for cell in cells
        if cell.name == "lora-r4-all-lin-only-fp32-s0"
    }
    assert pissa == "lora-r4-all-lin-only-loha-1a2b-pissa-fp32-s0"


def test_biases_train_at_the_rate_of_adapters_and_have_no_options():
    (cell,) = (cell for cell in cells_of(OPTIONS) if cell.mode == "bitfit")
    rates = cell.learning_rate, cell.learning_rate_base, cell.learning_rate_head
    assert rates == (1e-3, None, 1e-3)
    assert (cell.rank, cell.layers, cell.alpha, cell.use_rslora) == (None, None, None, "off")
    assert (cell.gradient_accumulation_steps, cell.gradient_checkpointing) == (4, "on")
