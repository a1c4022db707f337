"""Grids become cells, of one model or several, and cells with their rows a plan."""

import shutil
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest

from bench.analysis.groups import groups
from bench.common.errors import InputError
from bench.plan import columns, gridfile
from bench.plan.cell import CANDIDATE
from bench.plan.columns import format_parts
from bench.plan.examples import examples_of
from bench.plan.gridfile import USUAL
from bench.plan.learning_rates import kind_of
from bench.plan.models import check_models, find_models
from bench.plan.planning import Resolved, check_rerun, expand, plan
from bench.plan.pruning import dominating
from bench.plan.rows import Row
from bench.plan.selection import parse_selection, select
from minbert.data.tasks import for_race, load_data
from tests.bench import synthetic_rows
from tests.bench.synthetic_rows import new_row
from tests.cs224n import write_folder

HERE = synthetic_rows.HERE | {"conditions_id": "here", "code_version": "v2"}
OPTIONS = str(Path(__file__).with_name("options.toml"))
RESOLVED = Resolved("minilm", "m" * 16, "mean", "d" * 16, "bf16", "grid")

SMALL = replace(RESOLVED, model="small", model_digest="a" * 16, auto_length=40)
LARGE = replace(SMALL, model="large", model_digest="b" * 16, pooling="cls", auto_length=56)


def cells_of(name, **settings):
    return expand(gridfile.with_settings(gridfile.load(name), settings), RESOLVED)


def cells_in(text):
    return expand(gridfile.parse(text, "x.toml", "x"), RESOLVED)


def test_a_cell_of_a_race_has_the_examples_of_its_round(tmp_path):
    folder = write_folder(tmp_path, ["sst"], 48)
    one = replace(synthetic_rows.cell("full", None, None, "off"), task="sst", race="on", fold=2)
    expected = for_race(load_data("sst", folder), 2)
    assert examples_of(one, folder).dev.text_a == expected.dev.text_a


def test_options_change_no_cell_to_which_they_do_not_apply():
    text = """[settings]\n{}\n[[cells]]\nmode = ["full", "head"]
    [[cells]]\nmode = ["vera", "lora"]\nrank = [4]\nlayers = ["attn"]\n"""
    plain = {cell.mode: cell.cell_id for cell in cells_in(text.format(""))}
    others = {"full", "head", "vera"}
    for setting, same in (
        ("alpha = 32", others), ("scale = 3", others), ("lora_plus_ratio = 4", others),
        ("use_rslora = true", others), ("layer_decay = 0.9", {"head"}),
    ):  # fmt: skip
        changed = cells_in(text.format(setting))
        assert {c.mode for c in changed if c.cell_id == plain[c.mode]} == same, setting
        assert [c.scale for c in changed if c.mode == "vera"] == [None]
    lora = "[[cells]]\nmode = ['lora']\nrank = [3]\nlayers = ['attn']\n"
    [cell] = cells_in(f"[settings]\nscale = 0.1\n{lora}")
    assert cell.alpha == 0.3, "as the CSV has it"
    with pytest.raises(InputError, match="lora_plus_ratio doesn't apply to mode vera"):
        cells_in(f"{lora.replace('lora', 'vera')}settings = {{lora_plus_ratio = 4}}\n")


def test_cells_have_the_settings_of_their_table():
    text = """
    settings = { task = "multitask", early_stopping = 3, dropout = 0.2 }
    [[cells]]
    mode = ["full", "lora"]
    rank = [1]
    layers = ["attn"]
    [[cells]]
    mode = ["full"]
    batch_size = [32]
    settings = { head = "conv", encoders = 2, task_rates = { sst = 2.0 }, weight_decay = 0.5 }
    [[cells]]
    mode = ["head"]
    """
    grid = gridfile.with_settings(gridfile.parse(text, "mine.toml", "mine"), {"epochs": 7})
    parts = replace(RESOLVED, regression=True, parts=("sst", "quora", "sts"))
    cells = expand(grid, parts)
    of = {(c.batch_size, c.head, c.encoders, c.task_rates): c for c in cells}
    assert of.keys() == {
        (64, "linear", 1, "quora=1 sst=1 sts=1"), (32, "conv", 2, "quora=1 sst=2 sts=1"),
    }  # fmt: skip
    own = of[32, "conv", 2, "quora=1 sst=2 sts=1"]
    assert own.task_decays == format_parts(dict.fromkeys(parts.parts, 0.5))
    assert {(c.held_out, c.dropout, c.epochs) for c in cells} == {(0.1, 0.2, 7)}
    assert len({c.cell_id for c in cells}) == 4
    assert grid.variants == [grid.settings, grid.settings_of(grid.cells[1])]
    varied = gridfile.Varied.model_fields.keys()
    assert not {"model", "init", "task", "seeds", "max_train"} & varied, "neither data nor model"
    assert varied < gridfile.Settings.model_fields.keys()


def test_lengths_are_an_axis_and_auto_is_resolved():
    text = "{}\n[[cells]]\nmode = ['lora']\nrank = [1, 2]\nlayers = ['attn']\n{}"
    grid = gridfile.parse(text.format("", "max_length = [32, 'auto']"), "grid.toml", "grid")
    assert grid.has_auto_length
    lengths = [(c.rank, c.max_length) for c in expand(grid, replace(RESOLVED, auto_length=72))]
    assert sorted(lengths) == [(1, 32), (1, 72), (2, 32), (2, 72)]
    own = text.format("[settings]\nmax_length = 'auto'", "max_length = [16]")
    assert not gridfile.parse(own, "", "").has_auto_length


def test_batch_auto_and_default_rates_follow_the_number_of_examples():
    grid = gridfile.parse('[settings]\nbatch_size = "auto"\n[[cells]]\nmode = ["head"]\n', "", "")
    for batch, rate in {4: 5e-3, 16: 5e-3, 64: 1e-2, 128: 0.0141, 256: 2e-2, 1024: 2e-2}.items():
        (cell,) = expand(grid, replace(RESOLVED, auto=USUAL | {"batch_size": batch}))
        assert (cell.batch_size, cell.learning_rate_head) == (batch, rate)


def test_seeds_are_the_outer_loop_and_neighbours_are_of_no_one_model():
    cells = cells_of("smoke", seeds=3)
    assert [c.seed for c in cells] == [0] * 8 + [1] * 8 + [2] * 8
    assert cells == cells_of("smoke", seeds=3)
    rounds = [[replace(c, seed=0).name for c in cells[i : i + 8]] for i in (0, 8, 16)]
    assert sorted(rounds[0]) == sorted(rounds[1])
    assert rounds[0] != rounds[1] != rounds[2]
    planned = plan(cells, [], HERE, repeats=2)
    assert [(item.repeat, item.cell) for item in planned] == [(n, c) for n in (1, 2) for c in cells]
    grid = gridfile.load("full")
    cells = expand(grid, SMALL, LARGE)
    alone = [expand(grid, one) for one in (SMALL, LARGE)]
    assert {c.cell_id for c in cells} == {c.cell_id for each in alone for c in each}
    assert len(cells) == 2 * 68
    changes = sum(a.model != b.model for a, b in pairwise(cells))
    assert 40 < changes < 95, "as if shuffled"
    assert sum(a.name == b.name for a, b in pairwise(cells)) < 5
    assert cells == expand(grid, SMALL, LARGE)
    assert {(c.model, c.pooling) for c in cells} == {("small", "mean"), ("large", "cls")}
    text = '[settings]\nmax_length = "auto"\n[[cells]]\nmode = ["head"]\n'
    lengths = expand(gridfile.parse(text, "x.toml", "x"), SMALL, LARGE)
    assert {cell.model: cell.max_length for cell in lengths} == {"small": 40, "large": 56}


def test_cell_id_follows_what_determines_a_result_and_not_labels():
    """Nor settings that came later, at the value that older cells had."""
    cell = cells_of("smoke")[0]
    parts = replace(cell, encoders=2, task_order="proportional", task_rates="a", task_decays="b")
    labels = {"model": "other name", "max_train": 10**6, "learning_rate_source": "elsewhere"}
    usual = {"unfreeze": "all", "head": "linear", "schedule": "linear", "regression_loss": "mse",
             "early_stopping": None, "label_smoothing": 0.0, "class_weights": "none",
             "layer_decay": 1.0, "lora_plus_ratio": 1.0, "contrastive": 0.0}  # fmt: skip
    assert replace(cell, **labels, **usual).cell_id == cell.cell_id
    for change in (
        {"seed": 1}, {"model_digest": "x"}, {"data_digest": "x"}, {"batch_size": 48},
        {"dropout": 0.0}, {"max_steps": 13}, {"early_stopping": 1}, {"label_smoothing": 0.1},
        {"class_weights": "balanced"}, {"layer_decay": 0.9}, {"lora_plus_ratio": 2.0},
        {"unfreeze": "iterative"}, {"head": "conv"}, {"schedule": "halving"}, {"contrastive": 0.5},
        {"regression_loss": "pearson"}, {"encoders": 1}, {"task_order": "sequential"},
        {"task_rates": "c"}, {"task_decays": "c"}, {"window_stride": 8}, {"folds": 3, "fold": 0},
    ):  # fmt: skip
        assert replace(parts, **change).cell_id != parts.cell_id, change


@pytest.mark.parametrize(("changes", "share"), [
    ({}, 0.5), ({"mode": "head"}, 0), ({"head": "conv"}, 0), ({"one_class": False}, 0),
    ({"engine": "transformers"}, 0.5), ({"engine": "transformers", "pooling": "pooler"}, 0),
])  # fmt: skip
def test_the_contrastive_loss_is_of_one_class_and_of_vectors_that_train(changes, share):
    known = {"pooling": "mean", "engine": "minbert", "one_class": True} | changes
    head, mode = known.pop("head", "linear"), known.pop("mode", "full")
    text = f'[settings]\ncontrastive = 0.5\nhead = "{head}"\n[[cells]]\nmode = ["{mode}"]\n'
    (found,) = expand(gridfile.parse(text, "x.toml", "x"), replace(RESOLVED, **known))
    assert found.contrastive == share


def test_selection_keeps_cells_whose_axes_match():
    cells = cells_of("full")
    chosen = select(cells, parse_selection("mode=lora,dora rank=1,8 amp=on"))
    axes = {*product(("lora", "dora"), (1, 8), ["bf16"])}
    assert {(c.mode, c.rank, c.amp) for c in chosen} == axes
    assert len(chosen) == 16
    assert len(select(cells, parse_selection("amp=bf16 model=minilm engine=minbert"))) == 34
    assert {c.mode for c in select(cells, parse_selection("rank=1"))} == {"lora", "dora"}
    (own,) = select(cells_of(OPTIONS), parse_selection("layers=query+value,all-lin mode=lora"))
    assert own.name == "lora-r4-query+value-fp32-s0"
    paper = cells_of("paper")
    assert len(select(paper, parse_selection("learning_rate=1e-4,0.00001"))) == 200
    both = "mode=full,dora batch_size=384 learning_rate=5e-6"
    assert len(select(paper, parse_selection(both))) == 1 + 12
    assert select(paper, parse_selection("unfreeze=iterative")) == []
    heads = cells_in('[[cells]]\nmode = ["head"]\nlearning_rate = [1e-4, 1e-3]\n')
    assert len(select(heads, parse_selection("learning_rate=1e-4"))) == 1


@pytest.mark.parametrize(("text", "named"), [
    ("depth=3", "depth=3"), ("mode=lorra", "lorra"), ("rank=one", "one"), ("rank=", "rank="),
    ("layers=all/lin", "all-lin-only"), ("learning_rate=2", "it takes numbers"),
])  # fmt: skip
def test_bad_selection_or_rerun_is_one_line(text, named):
    with pytest.raises(InputError, match="--select") as caught:
        parse_selection(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=text):
        check_rerun(text)
    assert check_rerun("disturbed") == "disturbed"


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


@pytest.mark.parametrize(("rows", "options", "expected"), [
    ([(0, "ok", {}), (1, "interrupted", {}), (2, "skipped", {}), (3, "crashed", {})], {},
     "done run run kept"),
    ([(0, "oom", {}), (1, "timeout", {}), (2, "invalid", {}), (3, "busy", {})], {},
     "kept kept kept run"),
    ([(0, "ok", {"conditions_id": "there"})], {}, "run run run run"),
    (FLAGGED, {"rerun": "crashed"}, "done run run run"),
    (FLAGGED, {"rerun": "not_learned"}, "run kept run run"),
    ([(0, "ok", {}), (0, "oom", {"attempt": 2})], {"rerun": "oom"}, "done run run run"),
    ([(0, "ok", {}), (0, "crashed", {"attempt": 2})], {"rerun": "ok"}, "run run run run"),
    (VERSIONS, {}, "done done done done"),
    (VERSIONS, {"fresh": True}, "done kept run run"),
    (VERSIONS, {"fresh": True, "rerun": "crashed"}, "done run run run"),
])  # fmt: skip
def test_what_runs_follows_from_rows_and_options(rows, options, expected):
    planned = plan(CELLS, rows_of(rows), HERE, **options)
    assert " ".join(item.action for item in planned) == expected
    highest = [max((row.attempt for row in rows_of(rows) if row.cell_id == cell.cell_id
                    and row.conditions_id == "here"), default=0) for cell in CELLS]  # fmt: skip
    assert [item.attempt for item in planned] == [attempt + 1 for attempt in highest]


def test_tf32_is_of_cells_without_amp_and_older_ids_stay():
    exact, fast = cells_of("smoke"), cells_of("smoke", tf32=True)
    assert {(cell.amp == "off", cell.tf32) for cell in fast} == {(True, "on"), (False, "off")}
    by_name = {cell.name: cell for cell in exact}
    for cell in fast:
        same = by_name[cell.name.replace("-tf32-", "-fp32-")].cell_id == cell.cell_id
        assert ("-tf32-" in cell.name) == (cell.amp == "off") == (not same)
    plain = by_name["full-fp32-s0"]
    older = {**vars(row_of(plain, "ok", **synthetic_rows.HERE)), "tf32": None}
    assert columns.row_of(older).cell_id == plain.cell_id
    assert columns.row_of(older)["tf32"] == "off"
    both = [row_of(replace(plain, tf32=on), "ok", **synthetic_rows.HERE) for on in ("off", "on")]
    first, second = sorted(setting.label for setting in groups(both)[0].settings)
    assert second == f"{first}, TF32"


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

TRIED = [SEEDS[0], replace(SEEDS[1], learning_rate_source=CANDIDATE)]
OF_TRIED = [row_of(cell, "ok", **THERE) for cell in TRIED]


@pytest.mark.parametrize(("rows", "cells", "options", "expected"), [
    (OTHERS, SEEDS, {}, "run else else"),
    ([OTHERS[0], OTHERS[2]], SEEDS, {}, "else run else"),
    ([OTHERS[1]], SEEDS, {}, "run else run"),
    ([*OTHERS, SEVENTH], SEEDS, {}, "else else else"),
    ([*OTHERS, SEVENTH | {"status": "oom"}], SEEDS, {}, "run else else"),
    ([*OTHERS, row_of(replace(SEEDS[0], rank=64, seed=7), "ok", **MINE)], SEEDS, {},
     "run else else"),
    (OTHERS, SEEDS[:2], {"repeats": 2}, "run else run else"),
    ([*OTHERS, *OWN], SEEDS[:2], {"repeats": 2}, "done done run run"),
    ([*OTHERS, CRASHED], SEEDS[:2], {}, "kept run"),
    ([*OTHERS, CRASHED], SEEDS[:2], {"rerun": "crashed"}, "run else"),
    (OTHERS, SEEDS[:2], {"fresh": True}, "run run"),
    (OF_TRIED, TRIED, {"repeats": 2}, "run else run"),
    (OF_TRIED, TRIED[1:], {}, "else"),  # without costs measured here
    ([row | {"code_version": "v2"} for row in OTHERS], SEEDS[:2], {"fresh": True}, "run else"),
    *(([row | other for row in OTHERS], SEEDS[:2], {}, "run run") for other in (
        {"device": "cpu"}, {"torch_version": "2.12"}, {"cuda_version": "13.0"},
        {"environment": "CUBLAS_WORKSPACE_CONFIG=:0:0"}, {"measurement_version": 4},
        {"dev_score": None}, {"status": "invalid"},
    )),
])  # fmt: skip
def test_a_score_from_elsewhere_will_do_once_costs_are_measured(rows, cells, options, expected):
    """Of the same software, unless the cell failed here, is asked for or lacks a fresh result."""
    planned = plan(cells, rows, MINE, **options)
    for item in planned:
        assert not item.elsewhere or item.action == "done"
        assert item.elsewhere == (item.reason == "score from another machine")
    assert " ".join("else" if item.elsewhere else item.action for item in planned) == expected


def test_cells_that_differ_in_an_option_have_names_of_their_own():
    cells = cells_of(OPTIONS)
    names = {cell.name for cell in cells}
    assert names == {
        "lora-r4-all-lin-only-fp32-s0", "lora-r4-query+value-fp32-s0",
        "lora-r4-all-lin-only-rslora-fp32-s0", "dora-r4-all-lin-only-rslora-fp32-s0",
        "lora-r4-all-lin-only-drop0.1-fp32-s0", "lora-r4-all-lin-only-rslora-drop0.2-fp32-s0",
        "bitfit-fp32-s0", "full-fp32-s0", "full-iterative-fp32-s0", "head-fp32-s0",
    }  # fmt: skip
    assert {cell.unfreeze for cell in cells if cell.mode == "head"} == {None}, "one cell of it"
    assert len({kind_of(cell) for cell in cells}) == len(cells) == len(names)
    (lora,) = (cell for cell in cells if cell.name == "lora-r4-all-lin-only-fp32-s0")
    pissa = replace(lora, init_lora_weights="pissa", adapter="loha 1a2b")
    assert pissa.name == "lora-r4-all-lin-only-loha-1a2b-pissa-fp32-s0"
    (bitfit,) = (cell for cell in cells if cell.mode == "bitfit")
    rates = bitfit.learning_rate, bitfit.learning_rate_base, bitfit.learning_rate_head
    assert rates == (4e-3, None, 2e-2), "for steps on 256 examples"
    assert (bitfit.rank, bitfit.layers, bitfit.alpha, bitfit.use_rslora) == (None,) * 3 + ("off",)
    assert (bitfit.gradient_accumulation_steps, bitfit.gradient_checkpointing) == (4, "on")


def test_what_ran_out_of_memory_skips_the_same_only_bigger():
    small = synthetic_rows.cell("lora", 1, "attn", "off", folds=5, fold=1)
    failed = row_of(small, "oom")
    assert dominating(replace(small, rank=8), "here", [row_of(small, "busy")]) is None

    def smaller(**changes):
        return dominating(replace(small, **changes), "here", [failed])

    for bigger in ({"rank": 8}, {"batch_size": 128}, {"max_length": 256, "seed": 7}):
        assert smaller(**bigger) is failed, bigger
    assert smaller(seed=7) is smaller(batch_size=16) is None
    for other in (
        {"fold": 2}, {"amp": "bf16"}, {"dropout": 0.0}, {"max_steps": 1}, {"epochs": 1},
        {"model_digest": "x"},
    ):  # fmt: skip
        assert smaller(rank=8, **other) is None, other


def test_names_in_a_plan_and_of_models_have_what_distinguishes_them(
    tiny_checkpoint, deep_checkpoint, tmp_path, monkeypatch
):
    grid = gridfile.load("smoke")
    both, one = (plan(expand(grid, *of), [], HERE) for of in ((SMALL, LARGE), (SMALL,)))
    assert len(both) == 2 * len(one)
    assert {i.name for i in both} == {f"{m} {i.name}" for i in one for m in ("small", "large")}
    ours = [item.cell for item in one]
    theirs = [replace(cell, engine="transformers", engine_version="5") for cell in ours]
    names = {item.name for item in plan([*ours, *theirs], [], HERE)}
    assert {name.split()[0] for name in names} == {"minbert", "transformers"}
    text = '[settings]\nmodel = {}\n[[cells]]\nmode = ["head"]\n'
    for names, models in (('"a"', ["a"]), ('["a", "b"]', ["a", "b"])):
        assert gridfile.parse(text.format(names), "x.toml", "x").settings.models == models
    for wrong in ("[]", '["a", 7]', '[""]'):
        with pytest.raises(InputError, match=r"model: should be the name or folder of a model"):
            gridfile.parse(text.format(wrong), "x.toml", "x")
    copies = [tmp_path / parent / "copy" for parent in ("a", "b")]
    models = find_models([str(tiny_checkpoint), str(deep_checkpoint)], "pretrained", "auto")
    assert set(models) == {tiny_checkpoint.name, deep_checkpoint.name}
    assert all(model.name == name for name, model in models.items())
    cells = expand(gridfile.load("smoke"), replace(RESOLVED, model=tiny_checkpoint.name))
    with pytest.raises(InputError, match=f"positions of {tiny_checkpoint.name}"):
        check_models([replace(c, max_length=1024) for c in cells], models, pairs=False)
    for copy, checkpoint in zip(copies, (tiny_checkpoint, deep_checkpoint), strict=True):
        shutil.copytree(checkpoint, copy)
    alike = find_models(list(map(str, copies)), "pretrained", "auto")
    assert set(alike) == {f"copy@{model.digest[:6]}" for model in models.values()}
    with pytest.raises(InputError, match="are the same model"):
        find_models([str(tiny_checkpoint), str(copies[0])], "pretrained", "auto")
    monkeypatch.setattr("minbert.assets.hub.fetch_from_hub", {"user/t@v1": tiny_checkpoint}.get)
    [model] = find_models(["user/t@v1"], "pretrained", "auto").values()
    assert (model.name, model.checkpoint) == ("user/t@v1", tiny_checkpoint), "a name on the hub"
