"""`python -m bench.updates` on kept weights whose updates are known, and on matrices whose singular
values are."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.layer import AdaptedLinear
from adapters.names import adapted_layers
from bench.common.errors import InputError
from bench.studies.updates.cells import find
from bench.studies.updates.modules import COLUMNS, FIGURES, KINDS, random_spectrum, spectrum_of
from bench.studies.updates.truncation import parse_ranks
from bench.studies.updates.weights import linear_weights, pairs, position_of
from bench.updates import command
from tests.adapters.small import disturb
from tests.bench import tiny_cells
from tests.bench.browsing import PHONE, WIDE, open_quietly
from tests.bench.updates import Place, adapted_model, base_model, move, moved_model

HIDDEN = 32
"""Of the tiny checkpoint, whose one layer has six linear layers."""


@pytest.fixture
def place(tmp_path, tiny_checkpoint):
    return Place(tmp_path, tiny_checkpoint)


def test_an_update_of_rank_1(place, printed):
    model = base_model(place.checkpoint)
    rng = np.random.default_rng(0)
    update = 0.1 * np.outer(rng.normal(size=HIDDEN), rng.normal(size=HIDDEN))
    before = linear_weights(base_model(place.checkpoint).bert)[0, "key"]
    move(model, "self.key", update)
    place.add(model)
    assert place.run("--json") == 0
    result = printed()
    (row,) = result["rows"]
    assert (row["layer"], row["kind"], row["height"], row["width"]) == (0, "key", HIDDEN, HIDDEN)
    assert row["stable_rank"] == pytest.approx(1, abs=1e-4)
    assert (row["rank_50"], row["rank_90"], row["rank_99"]) == (1, 1, 1)
    assert row["energy_1"] == pytest.approx(1, abs=1e-6)
    size = np.linalg.norm(update) / np.linalg.norm(before.numpy())
    assert row["relative_size"] == pytest.approx(size, rel=1e-4)
    assert row["random_rank_90"] > 10
    assert row["before_rank_90"] > 10
    (cell,) = result["cells"]
    assert (cell["modules"], cell["unmoved"]) == (1, 5)
    assert cell["over_all"]["update"]["rank_90"] == {"mean": 1.0, "low": 1, "high": 1}
    assert list(cell["over_kinds"]) == ["key"]


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_an_adapter_is_what_merging_it_adds(place, printed, mode):
    """LoRA's update has its rank at most; DoRA's magnitudes are bound by none."""
    model = adapted_model(place.checkpoint, mode, "all-lin-only")
    disturb(model)
    place.add(model, mode)
    ((cell,), _) = find([place.csv])
    read = {at: update for at, _, update in pairs(cell, tiny_cells.find(place.checkpoint))}
    assert list(read) == [(0, kind) for kind in KINDS.values()]
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear):
            merged = (layer.adapted_weight() - layer.weight).detach().chunk(len(layer.parts))
            for part, rows in zip(layer.parts, merged, strict=True):
                assert read[position_of(part.name)] == pytest.approx(rows.numpy(), abs=1e-5)
    assert place.run("--json") == 0
    ranks = [row["nonzero"] for row in printed()["rows"]]
    if mode == "lora":
        assert ranks == [4] * 6
    else:
        assert min(ranks) > 4


@pytest.mark.parametrize("layers", ["attn", "attn-only"])
def test_of_what_is_beside_adapters_only_what_trains_is_listed(place, printed, layers):
    model = adapted_model(place.checkpoint, "lora", layers)
    disturb(model)
    place.add(model, "lora", layers)
    assert place.run("--json") == 0
    result = printed()
    ranks = {row["kind"]: row["nonzero"] for row in result["rows"]}
    adapted = [KINDS[name] for name in adapted_layers("attn")]
    others = set(KINDS.values()) - {*adapted} if layers == "attn" else set()
    assert ranks == {**dict.fromkeys(adapted, 4), **dict.fromkeys(others, HIDDEN)}
    assert result["cells"][0]["unmoved"] == len(KINDS) - len(ranks)


def test_cells_that_have_no_update_are_left_out_with_a_note(place, printed):
    model = moved_model(place.checkpoint)
    place.add(model)
    place.add(model, columns={"repeat": 2})
    place.add(base_model(place.checkpoint), seed=1)
    place.add(base_model(place.checkpoint), "head")
    place.add(None, seed=2)
    place.add(None, init="random", seed=3)
    assert place.run("--json") == 0
    result = printed()
    assert [cell["cell"] for cell in result["cells"]] == ["full-fp32-s0"]
    assert sorted(result["notes"][:4]) == [
        "left out: 1 cell that began with random weights",
        "left out: 1 cell that kept no weights; run the grid again with --save-weights --rerun ok",
        "left out: 1 cell whose head alone trained",
        "left out: full-fp32-s1, of which no linear layer trained",
    ]


def test_a_cell_in_two_files_counts_once_and_names_differ(place, tmp_path, printed):
    model = moved_model(place.checkpoint)
    place.add(model)
    place.add(model, learning_rate=1e-4)
    assert place.run("--json", str(place.csv)) == 0
    names = [cell["cell"] for cell in printed()["cells"]]
    assert names == [f"full-fp32-s0 {row.cell_id[:6]}" for row in place.rows]
    place.add(model, model="a\u202eb", model_digest="beef", seed=1)
    assert find([place.csv])[0][2].label == r"full-fp32-s1, a\u202eb"


def test_tables_csv_and_pages(place, tmp_path, capsys):
    for mode in ("full", "lora", "dora"):
        model = moved_model(place.checkpoint)
        if mode != "full":
            disturb(model := adapted_model(place.checkpoint, mode, "all-lin-only"))
        place.add(model, mode)
    reports, table = tmp_path / "reports", tmp_path / "x.csv"
    assert place.run("--csv", str(table), "--reports", str(reports)) == 0
    shown = capsys.readouterr()
    for words in ("of a random matrix in", "A LoRA update has at most", "A DoRA update is not"):
        assert words in shown.out
    assert f"report: {reports / 'updates.html'}" in shown.err
    rows = list(csv.DictReader(table.open(newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 3 * 6
    assert [row["rank"] for row in rows[::6]] == ["", "4", "4"]
    assert sorted(path.name for path in (reports / "updates").iterdir()) == [
        "energy-kinds.svg", "energy.svg", "rank-90-1.svg", "rank-90-2.svg", "rank-90-3.svg",
    ]  # fmt: skip
    assert "(updates/energy.svg)" in (reports / "updates.md").read_text()


def test_the_page_opens_quietly_and_nothing_sticks_out(place, tmp_path, browser):
    place.add(moved_model(place.checkpoint))
    assert place.run("--reports", str(tmp_path)) == 0
    for size in (WIDE, PHONE):
        open_quietly(browser, tmp_path / "updates.html", size).close()


def test_the_page_has_each_flag_and_no_other():
    page = (Path(__file__).parents[3] / "docs" / "updates.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `--")]
    flags = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row.split("|")[1])}
    options = {option for parameter in command.params for option in parameter.opts}
    assert flags == options - {"more"}


def test_cells_that_have_nothing_to_read(place):
    assert "no such file of results" in place.refused()
    model = base_model(place.checkpoint)
    place.add(model, columns={"status": "crashed"})
    assert "no cell ended ok" in place.refused()
    place.add(None, seed=1)
    message = place.refused()
    assert "no weights to read: 1 cell that kept no weights; run the grid again" in message
    assert "--save-weights --rerun ok" in message
    path = place.add(model, seed=2) / "weights.safetensors"
    assert place.refused() == "full-fp32-s2: no linear layer of the encoder trained"
    tensors = {name: of.clone() for name, of in load_file(path).items()}
    tensors["bert.encoder.layer.0.output.dense.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    assert "the output of layer 0 holds numbers that are not finite" in place.refused()


def test_ranks():
    assert parse_ranks("8, 0,full,1,8") == (0, 1, 8)
    assert parse_ranks("full") == ()
    for text in ("-1", "1.5", "1,,2", "1000000"):
        with pytest.raises(InputError, match=r"^--truncate: .* is no rank"):
            parse_ranks(text)


def test_flags_that_go_with_others(place, tmp_path):
    model = adapted_model(place.checkpoint, "lora", "attn-only")
    disturb(model)
    place.add(model, "lora", "attn-only")
    assert "--data: is for --truncate" in place.refused("--data", str(tmp_path))
    place.add(moved_model(place.checkpoint))
    message = place.refused("--truncate", "0", "--data", str(tmp_path))
    assert "no task of these cells is read from a folder" in message


def test_singular_values_4_and_3():
    of = spectrum_of(np.diag([3.0, 4.0, 0.0]))
    figures = of.figures()
    assert figures["nonzero"] == 2
    assert figures["stable_rank"] == pytest.approx(25 / 16)
    shares = (4 / 7, 3 / 7)
    entropy = -sum(p * math.log(p) for p in shares)
    assert figures["effective_rank"] == pytest.approx(math.exp(entropy))
    assert of.shares == pytest.approx([16 / 25, 1, 1])
    assert (of.rank_for(0.5), of.rank_for(0.9)) == (1, 2)
    assert (figures["energy_1"], figures["energy_8"]) == pytest.approx((16 / 25, 1))
    alike = spectrum_of(np.eye(8, 12))
    assert [alike.rank_for(share) for share in (0.5, 0.9, 0.99)] == [4, 8, 8]


def test_scale_and_transpose_change_no_figure():
    matrix = np.random.default_rng(0).normal(size=(7, 5))
    figures = spectrum_of(matrix).figures()
    assert tuple(figures) == FIGURES
    for other in (1e-6 * matrix, matrix.T):
        assert spectrum_of(other).figures() == pytest.approx(figures)


def test_a_random_matrix_is_the_same_in_every_run_and_has_full_rank():
    of = random_spectrum((32, 64))
    assert of.figures()["nonzero"] == 32
    again = np.random.default_rng([0, 32, 64]).standard_normal((32, 64))
    assert np.array_equal(of.values, spectrum_of(again).values)
    assert 8 < of.figures()["stable_rank"] < 32


def test_what_has_no_spectrum():
    with pytest.raises(ValueError, match="is all zero"):
        spectrum_of(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="not finite"):
        spectrum_of(np.array([[1.0, math.nan]]))
