"""`python -m bench.peers`: output, files and failures with fake processes; a real comparison."""

import csv
import json
import re
import sys
from pathlib import Path

import click
import pytest

from bench.common.errors import InputError
from bench.peers import names
from bench.peers.__main__ import command
from bench.peers.outcome import compare
from bench.peers.rows import STEP_COLUMNS
from bench.peers.session import Comparison
from bench.report.drawing import MARK
from minbert.data.tasks import load_task
from tests.adapters.small import need_peft
from tests.bench.peer_cells import EXAMPLES, cell, conditions, find

FAKE = str(Path(__file__).parents[1].joinpath("fake_peer.py"))


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))


def comparison(checkpoint: Path, behaviour: str, **changes) -> Comparison:
    """A comparison of two cells with fake processes."""
    values = {
        "cells": [cell(checkpoint), cell(checkpoint, "full", amp="bf16")],
        "sides": ("ours", "default", "grouped"), "rounds": 2, "loss_steps": 2, "budget_s": 0.0,
        "whole": False, "model": find(checkpoint), "conditions": conditions(),
        "device_name": "cpu", "data": None, "process": (sys.executable, FAKE, behaviour),
    }  # fmt: skip
    return Comparison(**{**values, **changes})


def run(compared: Comparison, **options) -> int:
    need_peft()  # the output has its version
    return compare(compared, load_task("movies", **EXAMPLES), **options)


def test_sides_take_turns_to_begin(tiny_checkpoint: Path) -> None:
    turns = [
        (number, cell.mode, side)
        for number, cell, side in comparison(tiny_checkpoint, "alike").turns()
    ]
    assert turns[:3] == [(0, "lora", side) for side in ("ours", "default", "grouped")]
    assert turns[3:6] == [(0, "full", side) for side in ("default", "grouped", "ours")]
    assert turns[6:9] == [(1, "lora", side) for side in ("default", "grouped", "ours")]
    assert len(turns) == 12


def test_tables_csv_and_pages(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reports" / "peers").mkdir(parents=True)
    (tmp_path / "reports" / "peers" / "losses-9.svg").write_text(f"{MARK} of an older one")
    compared = comparison(tiny_checkpoint, "alike")
    assert run(compared, csv_file=tmp_path / "x.csv", reports=tmp_path / "reports") == 0
    shown = capsys.readouterr()
    assert "Against each setting's fastest baseline, ours takes 0.50 times the time" in shown.out
    assert "[13/13, 0 min] full-bf16" in shown.err
    rows = list(csv.DictReader((tmp_path / "x.csv").open(newline="")))
    assert tuple(rows[0]) == STEP_COLUMNS
    assert [row["side"] for row in rows] == ["ours", "default", "grouped"] * 2
    assert rows[0]["time_ratio"] == ""
    assert float(rows[1]["time_ratio"]) == pytest.approx(4.05 / 8.05)
    assert float(rows[1]["memory_ratio"]) == 0.5
    assert rows[1]["agrees"] == "True"
    assert 0 < float(rows[0]["limit_share"]) < 1
    pages = tmp_path / "reports"
    assert sorted(path.name for path in (pages / "peers").iterdir()) == [
        "losses-1.svg", "losses-2.svg", "times.svg",
    ]  # fmt: skip
    page, text = (pages / "peers.html").read_text(), (pages / "peers.md").read_text()
    assert "| mm | 1.2 | 4 | 2.4 | 4 | 2.4 | 4 |" in text
    assert "| all others | 0.1 | 5 | 0.2 | 5 | 0.2 | 5 |" in text
    for part in ("Against default", "GFLOP", "shuffled batches", "dropout", "A step of lora-"):
        assert part in page
        assert part in text
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")


def test_different_losses_are_a_failure(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(comparison(tiny_checkpoint, "different"), as_json=True) == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert [row["agrees"] for row in result["rows"]] == [None, False, None, None, True, None]
    assert "fp32, default: the losses differ from ours by up to 0.0002 over 2 steps" in shown.err
    assert result["losses"]["full-bf16"]["default"][-1] == 1.2502


def test_a_crash_of_a_baseline_is_reported_and_the_others_continue(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(comparison(tiny_checkpoint, "crash"), as_json=True) == 1
    shown = capsys.readouterr()
    rows = json.loads(shown.out)["rows"]
    assert [row["status"] for row in rows] == ["ok", "crashed", "crashed"] * 2
    assert rows[1]["message"] == "ValueError: no such thing"
    assert rows[0]["rounds"] == 1, "ours has no further rounds without a baseline"
    assert rows[1]["rounds"] == 0
    assert shown.err.count("default, round") == 2, "a side that failed has no further rounds"


def test_a_baseline_that_is_not_compiled_in_time_is_left_out_without_failure(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = comparison(
        tiny_checkpoint, "slow", sides=("ours", "default", "compiled"), compile_timeout_s=90.0
    )
    assert run(compared) == 0
    shown = capsys.readouterr()
    assert "full-bf16, compiled: not compiled within 90 s." in shown.out
    assert "compiled (not compiled)" in shown.out
    assert shown.err.count("compiled, round") == 2, "and has no further rounds"


@pytest.mark.parametrize("behaviour", ["alike", "silent"])
def test_whole_cells_are_timed_until_their_dev_score(
    tiny_checkpoint: Path, behaviour: str, capsys: pytest.CaptureFixture[str]
) -> None:
    process = (sys.executable, FAKE, behaviour)
    compared = comparison(
        tiny_checkpoint, behaviour, whole=True, sides=("ours", "trainer"), rounds=1,
        cells=[cell(tiny_checkpoint, max_steps=7)], worker=process,
    )  # fmt: skip
    code = run(compared, as_json=True)
    ours, trainer = json.loads(capsys.readouterr().out)["rows"]
    if behaviour == "silent":
        assert code == 1
        assert "dev score" in trainer["message"]
        return
    assert code == 0
    assert (ours["dev_score"], trainer["dev_score"]) == (0.5, 0.25)
    assert 0 < trainer["seconds"] < 60
    assert trainer["time_ratio"] == pytest.approx(ours["seconds"] / trainer["seconds"])
    assert trainer["steps"] == 7


def test_without_initial_weights_there_is_nothing_to_compare(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = comparison(tiny_checkpoint, "", process=(sys.executable, "-c", "import no_such"))
    assert run(compared) == 1
    assert "error: the initial weights can't be made: ModuleNotFound" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--select", "mode=lorra"], "lorra"),
        (["--select", "rank=3"], "none of the settings"),
        (["--peers", "fastest"], "default, grouped, compiled"),
        (["--peers", ""], "no baseline given"),
        (["--vs", "trainer", "--peers", "grouped"], "leave --peers out"),
        (["--vs", "nobody"], "nobody"),
        (["--rounds", "0"], "rounds"),
        (["--task", "sst"], "--data"),
        (["--task", "poems"], "poems"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--device", "cuda:9"], "cuda:9"),
        (["--csv", "/no/such/folder/x.csv"], "--csv"),
        (["--csv", "/"], "is a folder"),
        (["--runs", __file__, "--csv", __file__], "is an input file"),
        (["--runs", "/no/such/folder/x.jsonl"], "--runs"),
        (["--runs", __file__], "not written by bench.peers"),
        (["--compile-timeout", "0"], "compile-timeout"),
        (["--reports", "/proc/x"], "--reports"),
        (["--grid", "no.toml"], "no.toml"),
    ],
)
def test_bad_input_is_one_line(tiny_checkpoint: Path, arguments: list[str], message: str) -> None:
    need_peft()
    model = [] if "--model" in arguments else ["--model", str(tiny_checkpoint)]
    quick = ["--max-train", "96", "--max-dev", "24"]
    with pytest.raises((ValueError, click.ClickException)) as caught:
        command.main([*quick, *model, *arguments], standalone_mode=False)
    error = caught.value
    line = error.format_message() if isinstance(error, click.ClickException) else str(error)
    assert message in line
    assert "\n" not in line


def test_the_docs_list_exactly_the_flags() -> None:
    page = (Path(__file__).parents[3] / "docs" / "peers.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `--")]
    flags = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row.split("|")[1])}
    assert flags == {option for parameter in command.params for option in parameter.opts}


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(
        InputError, match=r"peft can't be imported.*pip install -e '\.\[transformers\]'"
    ):
        names.check_libraries()


def test_a_real_comparison(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One setting, with real processes."""
    need_peft()
    arguments = [
        "--quick", "--rounds", "1", "--peers", "default", "--model", str(tiny_checkpoint),
        "--select", "mode=lora layers=attn-only amp=off", "--max-train", "96", "--max-dev", "24",
        "--device", "cpu", "--json",
    ]  # fmt: skip
    assert command.main(arguments, standalone_mode=False) == 0
    result = json.loads(capsys.readouterr().out)
    ours, baseline = result["rows"]
    assert baseline["agrees"] is True
    assert baseline["loss_difference"] < 1e-5
    assert len(result["losses"]["lora-r8-attn-only-fp32"]["ours"]) == 10
    for side, forward in (("ours", "_linear_pointwise"), ("default", "addmm")):
        operators = result["operators"]["lora-r8-attn-only-fp32"][side]
        assert operators[-1][0] == "outside of operators"
        assert any(forward in name and calls > 1 and ms > 0 for name, calls, ms in operators[:-1])
    assert ours["epoch_tokens"] == baseline["epoch_tokens"]
    assert ours["epoch_padded"] <= baseline["epoch_padded"]
    for row in (ours, baseline):
        assert row["status"] == "ok"
        assert row["ms_per_1k_tokens"] > 0
        assert row["limit_ms_per_1k_tokens"] > 0
        assert row["peak_above_imports_mib"] > 1
        assert 0.1 < row["startup_s"] < 120
        assert row["activations_mib"] > 0.1
    assert baseline["imports_mib"] > ours["imports_mib"]
    assert baseline["time_ratio"] > 0
