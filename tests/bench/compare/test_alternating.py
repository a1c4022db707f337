"""Two sides measured in alternation, with real processes whose `bench.grid` is a stand-in."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.analysis.comparison import MEASURES, Compared, Limits, Pair, Verdict
from bench.common.errors import InputError, StoppedError
from bench.common.grouping import grouped
from bench.compare import alternating
from bench.compare import sides as places
from bench.compare.__main__ import command
from bench.compare.alternating import Alternation, cell_pairs, is_undecided, several_slots
from bench.machine.conditions import find_conditions
from bench.results.rowfile import read_rows
from tests.bench.fake_grid import LOG, make_side
from tests.bench.synthetic_rows import cell
from tests.experiments.faults.setups import slots_of

LORA = cell("lora", 8, "attn-only", "off")
FULL = cell("full", None, None, "off")
HEAD = cell("head", None, None, "off")
TIME, UNDECIDED = "ms_per_1k_tokens", Verdict.UNDECIDED
STEADY = [10.0, 10.1, 9.9, 10.05, 9.95, 10.1, 9.9, 10.0]
SLOWER = [1.5 * ms for ms in STEADY]
WILD = [10.0, 17.0, 6.0, 15.0, 8.0, 12.0, 20.0, 7.0]


def alternation(folder, **other):
    base_and_new = (folder / "BASE", folder / "NEW")
    values = {"places": base_and_new, "grid": "some", "folder": folder / "runs", "rounds": 2}
    return Alternation(**values | other)


def log(folder):
    """Side, cell and repeat of each run."""
    path = folder / LOG
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def sides(folder, base=((FULL, WILD),), new=((FULL, STEADY),), **behaviour):
    make_side(folder / "BASE", base)
    make_side(folder / "NEW", new, **behaviour)


def test_sides_take_turns_in_an_order_that_rounds_permute(tmp_path):
    cells = (LORA, FULL, HEAD)
    sides(tmp_path, [(each, WILD) for each in cells], [(each, WILD[::-1]) for each in cells])
    alternation(tmp_path, rounds=3).measure()
    runs = log(tmp_path)
    orders = []
    for number, first in ((1, "BASE"), (2, "NEW"), (3, "BASE")):
        of_round = [run for run in runs if run[2] == str(number)]
        pairs = list(zip(of_round[::2], of_round[1::2], strict=True))
        assert all(one[0] == first and other[0] != first for one, other in pairs)
        assert all(one[1] == other[1] for one, other in pairs)
        orders.append([one[1] for one, _ in pairs])
    assert runs == sorted(runs, key=lambda run: run[2])
    assert all(sorted(order) == sorted(orders[0]) and len(order) == 3 for order in orders)
    assert len(set(map(tuple, orders))) > 1


def test_what_is_decided_is_measured_no_further(tmp_path):
    base = [(LORA, STEADY), (FULL, STEADY), (HEAD, STEADY)]
    sides(tmp_path, base, [(LORA, SLOWER), (FULL, WILD), (HEAD, STEADY, "crashed")])
    (_, new_file), _, looks = alternation(tmp_path, rounds=5).measure()
    done = grouped(read_rows(new_file), lambda row: row.mode)
    assert [row.repeat for row in done["full"]] == [1, 2, 3, 4, 5]
    assert [row.repeat for row in done["lora"]] in ([1, 2], [1, 2, 3, 4])
    assert [row.repeat for row in done["head"]] == [1]
    assert looks == 3


def test_the_same_command_goes_on_unless_the_code_is_other(tmp_path):
    sides(tmp_path)
    first = alternation(tmp_path).measure()
    assert len(log(tmp_path)) == 4
    assert alternation(tmp_path).measure() == first
    assert len(log(tmp_path)) == 4
    assert alternation(tmp_path, rounds=3).measure()[0] == first[0]
    assert [run[2] for run in log(tmp_path)[4:]] == ["3", "3"]
    (tmp_path / "NEW" / "bench" / "__init__.py").write_text("CHANGED = True\n")
    second, *_ = alternation(tmp_path).measure()
    assert second[0] != first[0][0]
    assert len(log(tmp_path)) == 10
    assert [len(read_rows(path)) for path in second] == [2, 2]


def test_code_that_changes_meanwhile_and_a_grid_that_can_not_go_on_are_errors(
    tmp_path, monkeypatch
):
    for behaviour, message in (
        ({"refuses": "--grid: no grid 'some'"}, r"NEW: --grid: no grid 'some'$"),
        ({"silent": True}, "NEW: bench.grid ended with 1 and without a result: stopped: no space"),
    ):
        sides(tmp_path, **behaviour)
        with pytest.raises(InputError, match=message):
            alternation(tmp_path).measure()

    before = places.Location.grid

    def change(self, *arguments):
        if "--repeats" in arguments[0]:
            (tmp_path / "NEW" / "bench" / "__init__.py").write_text("CHANGED = True\n")
        return before(self, *arguments)

    sides(tmp_path)
    monkeypatch.setattr(places.Location, "grid", change)
    with pytest.raises(InputError, match="NEW: the code has changed"):
        alternation(tmp_path).measure()


def test_ctrl_c_ends_the_cell_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", "--run", "a", "b", "--grid", "some one"])
    sides(tmp_path, slow=True)

    def interrupt():
        while len(log(tmp_path)) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(StoppedError):
        alternation(tmp_path).measure()
    thread.join()
    err = capsys.readouterr().err
    assert "to go on: python -m bench.compare --run a b --grid 'some one'" in err
    [new] = (tmp_path / "runs").glob("*/new.csv")
    assert [row.status for row in read_rows(new)] == ["interrupted"]
    make_side(tmp_path / "NEW", [(FULL, STEADY)])
    alternation(tmp_path).measure()
    assert [run[0] for run in log(tmp_path)] == ["BASE", "NEW", "NEW", "NEW", "BASE"]


def test_cells_of_one_side_are_left_out_and_terms_make_sides_of_one_checkout(
    tmp_path, capsys, monkeypatch
):
    sides(tmp_path, [(FULL, WILD), (HEAD, WILD)], [(FULL, WILD), (LORA, WILD)])
    alternation(tmp_path, rounds=1).measure()
    err = capsys.readouterr().err
    assert f"only in BASE: {HEAD.name}\n" in err
    assert f"only in NEW: {LORA.name}\n" in err
    assert {run[1] for run in log(tmp_path)} == {FULL.name}

    cells = [(cell("full", None, None, amp), STEADY) for amp in ("off", "bf16")]
    monkeypatch.setattr(places, "_ROOT", make_side(tmp_path / "HERE", cells))
    terms = ("amp=off", "amp=bf16")
    (base, new), named, _ = alternation(tmp_path, places=(), terms=terms, rounds=1).measure()
    assert [row.amp for row in read_rows(base)] == ["off"]
    assert [row.amp for row in read_rows(new)] == ["bf16"]
    assert named == {"amp"}


def test_a_virtual_environment_runs_its_own_code(tmp_path):
    make_side(tmp_path / "BASE", [(FULL, STEADY)])
    env = tmp_path / "NEW"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    with pytest.raises(InputError, match="this project is not installed"):
        alternation(tmp_path, rounds=1).measure()
    [packages] = env.glob("lib/python*/site-packages")
    make_side(packages, [(FULL, SLOWER)])
    (packages / "minbert_bench-0.1.0.dist-info").mkdir()
    (packages / "minbert_bench-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: minbert-bench\nVersion: 0.1.0\n"
    )
    (_, new), *_ = alternation(tmp_path, rounds=1).measure()
    assert [row.ms_per_1k_tokens for row in read_rows(new)] == SLOWER[:1]


@pytest.mark.parametrize(("change", "message"), [
    ({"places": (Path("BASE"),)}, "takes two places"),
    ({"terms": ("amp=off", "amp=bf16")}, "takes two places"),
    ({"places": (), "terms": ("amp=off", "")}, "both --base and --new"),
    ({"places": (), "terms": ("amp=off", "epochs=2")}, "--new: 'epochs=2' is not AXIS"),
    ({"places": (), "terms": ("amp=off", "amp=bf16"), "selection": "amp=off"}, "amp is named"),
    ({"options": ["--runs=other.csv"]}, "--runs=other.csv can't be passed on"),
    ({"options": ["--executor", "slurm"]}, "--run: cells that take turns need one node"),
    ({"selection": "mode=lora"}, "no cell in common"),
    ({"places": (Path("BASE"), Path("nowhere"))}, "NEW: nowhere is neither a checkout"),
])  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    sides(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        alternation(tmp_path, **change).measure()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_the_command_passes_its_options_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Alternation, "measure", lambda self: asked.append(self) or sys.exit(3))
    words = "--run a b --grid some --select mode=full --max-work 9% --rounds 4 -- --max-steps 3"
    with pytest.raises(SystemExit):
        command(words.split(), standalone_mode=False)
    places, limits = (Path("a"), Path("b")), Limits(work=0.09)
    values = {"grid": "some", "selection": "mode=full", "rounds": 4, "limits": limits}
    more = {"folder": Path("runs/compare"), "options": ["--max-steps", "3"]}
    assert asked == [Alternation(places=places, **values, **more)]
    for words, message in (
        ("--run a b", "--run needs --grid"), ("a.csv b.csv -- --max-steps 3", "-- needs --run"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            command(words.split(), standalone_mode=False)


def pairs_of(base, new, *axes):
    plans = ([{**each.columns(), "name": each.name} for each in cells] for cells in (base, new))
    return cell_pairs(dict(zip(("BASE", "NEW"), plans, strict=True)), axes, axes)


def test_cells_are_paired_by_the_axes_that_both_sides_have():
    both = [cell("lora", rank, "attn-only", "off") for rank in (1, 8)]
    [pair] = pairs_of([FULL], both, "mode")
    assert pair.runs["BASE"] == {"mode=full": {FULL.cell_id}}
    assert set(pair.runs["NEW"]) == {"mode=lora rank=1", "mode=lora rank=8"}
    assert pair.ids == {FULL.cell_id, *(each.cell_id for each in both)}
    alike = [FULL, cell("full", None, None, "off", weight_decay=0.1)]
    [pair] = pairs_of(alike, alike)
    assert pair.runs["BASE"] == {"": {each.cell_id for each in alike}}, "they differ in no axis"
    rates = {"learning_rate": None, "learning_rate_base": None}
    heads = [cell("head", None, None, "off", learning_rate_head=n, **rates) for n in (1e-3, 1e-5)]
    texts = [[*pair.runs["NEW"]] for pair in pairs_of(heads, heads)]
    assert texts == [["learning_rate=0.001"], ["learning_rate=1e-05"]]


def two_slots(monkeypatch, device):
    """Two GPUs, or two workers on the CPU, each with a core, as far as there are two."""
    slots = slots_of(find_conditions("cpu").conditions, 2, gpus=device == "all")
    monkeypatch.setattr(alternating, "find_slots", lambda *_: slots)
    return slots


@pytest.mark.parametrize("options", [["--device", "all"], ["--jobs", "2", "--device=cpu"]])
def test_each_setting_stays_on_a_slot_where_sides_take_turns(tmp_path, monkeypatch, options):
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))
    slots = two_slots(monkeypatch, "all" if "all" in options else "cpu")
    cells = [LORA, *(cell("full", None, None, "off", seed=seed) for seed in range(2))]
    sides(tmp_path, [(each, WILD) for each in cells], [(each, WILD[::-1]) for each in cells])
    (_, new), *_ = alternation(tmp_path, options=[*options, "--max-steps", "3"]).measure()
    runs = log(tmp_path)
    assert len(runs) == 2 * 2 * 3
    places = {}
    for _, name, _, device, cores in runs:
        places.setdefault(name.rpartition("-s")[0], set()).add((device, cores))
    assert all(len(own) == 1 for own in places.values()), "of all rounds, sides and seeds"
    expected = {(slot.conditions.device, ",".join(map(str, slot.cores))) for slot in slots}
    assert set.union(*places.values()) == expected
    for name in {run[1] for run in runs}:
        own = [(run[0], run[2]) for run in runs if run[1] == name]
        assert own == [("BASE", "1"), ("NEW", "1"), ("NEW", "2"), ("BASE", "2")]
    assert {row.sharing for row in read_rows(new)} == {"2 workers"}


def test_options_for_one_device_are_bench_grids_own_and_others_need_a_record(tmp_path, monkeypatch):
    for options in (["--device"], ["--jobs=1"], ["--jobs", "many"]):
        assert several_slots(options) == ((), options)
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))
    two_slots(monkeypatch, "cpu")
    sides(tmp_path, older=True)
    with pytest.raises(InputError, match=r"NEW: its version of bench.grid does not record that 2"):
        alternation(tmp_path, options=["--jobs", "2"]).measure()
    monkeypatch.setattr(alternating, "find_slots", lambda *names: names)
    expected = ("all", 1), ["--seeds", "3"]
    assert several_slots(["--device=all", "--seeds", "3"]) == expected, "one GPU may be all"


@pytest.mark.parametrize(("column", "verdict", "changes", "failing", "at_look", "otherwise"), [
    (TIME, UNDECIDED, {}, "", True, True),
    (TIME, UNDECIDED, {"may_be_worse": False}, "", False, True),
    (TIME, UNDECIDED, {"gates": False}, "", False, False),
    (TIME, Verdict.REGRESSION, {}, "", False, True),
    (TIME, UNDECIDED, {}, "ok, then crashed in 1 of 2", False, False),
    ("step_gflop", Verdict.REGRESSION, {}, "", False, False),
    ("dev_score", UNDECIDED, {}, "", False, False),
])  # fmt: skip
def test_more_rounds_are_for_what_they_can_decide(
    column, verdict, changes, failing, at_look, otherwise
):
    [measure] = [one for one in MEASURES if one.column == column]
    one = Compared(measure, None, verdict, **{"gates": True, **changes})
    pair = Pair("", None, None, "", (one,), failing=failing)
    assert is_undecided(pair, is_look=True) == at_look
    assert is_undecided(pair, is_look=False) == otherwise
